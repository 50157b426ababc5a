"""What is kept of every context that was asked about?

A context is a pure function of the settings, its task, length and number, so its text is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diptych.evaluation.context.kept_lines import KeptLines
from diptych.evaluation.context.types import Answers, Context

JOURNAL = "answers.jsonl"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One probe and what was answered to it."""

    depth: int
    distance: int | None
    question: str
    candidates: tuple[str, ...]
    answer: int
    scores: tuple[float | None, ...]
    """Log-probabilities; None where a server told none."""
    right: bool


@dataclass(frozen=True, kw_only=True)
class Record:
    """One context and what was answered to all its probes. tokens: read for it; seconds: that this took."""

    kind: Literal["context"] = "context"
    task: str
    length: int
    number: int
    tokens: int
    seconds: float
    probes: tuple[Asked, ...]


Place = tuple[str, int, int]
"""A task's name, a length and the number of a context."""


def record_of(place: Place, context: Context, answers: Answers, seconds: float) -> Record:
    """The record of a context's answers."""
    return Record(
        task=place[0],
        length=place[1],
        number=place[2],
        tokens=answers.tokens,
        seconds=seconds,
        probes=tuple(
            Asked(
                depth=probe.depth,
                distance=probe.distance,
                question=probe.question,
                candidates=probe.candidates,
                answer=probe.answer,
                scores=tuple(score if score > float("-inf") else None for score in scores),
                right=right,
            )
            for probe, scores, right in zip(context.probes, answers.scores, answers.right, strict=True)
        ),
    )


Journal = KeptLines[Record]


def open_journal(out: Path, settings: Mapping[str, Any]) -> Journal:
    """The answers kept in the folder `out`. Raises ValueError where it is a file, and as `KeptLines` does."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder with --out")
    return KeptLines(
        out / JOURNAL, Record, lambda record: (record.task, record.length, record.number), settings=settings
    )
