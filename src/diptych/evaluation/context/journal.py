"""How is every answer kept, so that a measurement that was stopped loses none and goes on?

A file of JSON lines: first the settings that the answers depend on, then one line a context. A context is a pure
function of the settings, its task, length and number, so its text is not kept.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal, final

from pydantic import TypeAdapter, ValidationError

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


_RECORD: TypeAdapter[Record] = TypeAdapter(Record)


@final
class Journal:
    """The answers kept in the folder `out`, and those that are added.

    settings: what the answers depend on, as JSON values. Raises ValueError where the folder holds answers of other
    settings, is a file, or holds a line in the middle that is damaged. A last line that was cut off in writing is
    written anew.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file; name a folder with --out")
        self.path = out / JOURNAL
        self.records: dict[Place, Record] = {}
        wanted = json.loads(json.dumps(settings))
        end = self._read(wanted) if self.path.is_file() else 0
        out.mkdir(parents=True, exist_ok=True)
        self.file: IO[str] = self.path.open("r+" if self.path.is_file() else "w", encoding="utf-8")
        self.file.seek(end)
        self.file.truncate()
        if end == 0:
            self._write({"kind": "settings", **wanted})

    def _read(self, wanted: dict[str, Any]) -> int:
        """Take in what is there; returns where new lines are written."""
        data, end = self.path.read_bytes(), 0
        for number, line in enumerate(data.splitlines(keepends=True)):
            if not line.endswith(b"\n"):
                break
            if number == 0:
                self._check(line, wanted)
            else:
                try:
                    record = _RECORD.validate_json(line)
                except ValidationError:
                    raise ValueError(
                        f"{self.path} is damaged in line {number + 1}; delete that line and all after it to go on from "
                        "there, or choose another --out"
                    ) from None
                self.records[record.task, record.length, record.number] = record
            end += len(line)
        return end

    def _check(self, line: bytes, wanted: dict[str, Any]) -> None:
        try:
            kept = json.loads(line)
            kept.pop("kind")
        except (ValueError, KeyError, AttributeError):
            raise ValueError(f"{self.path} holds no answers of diptych context; choose another --out") from None
        changed = sorted(key for key in {*kept, *wanted} if kept.get(key) != wanted.get(key))
        if changed:
            raise ValueError(
                f"{self.path.parent} holds a measurement of other settings (it differs in {', '.join(changed)}); "
                "choose another --out, delete the folder, or give the same settings to go on"
            )

    def add(self, record: Record) -> None:
        """Keep a record, on the disk before anything else is asked."""
        self.records[record.task, record.length, record.number] = record
        self._write(asdict(record))

    def of(self, task: str) -> Iterator[Record]:
        """The records of one task, in the order in which they were asked."""
        return (record for (name, _, _), record in self.records.items() if name == task)

    def _write(self, values: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(values) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Close the file."""
        self.file.close()
