"""What does a published measure of long contexts ask, and what comes of it?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Count = Callable[[str], int]
"""Tokens of a prompt of this text, with whatever a model reads before and after it."""


def count_alone(count: Count, text: str) -> int:
    """Tokens of a text that is no prompt of its own."""
    return count(text) - count("")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One prompt and what is to follow it.

    answers: what is looked for in the generated text. kind: the score is the share of the answers that are found
    ("all"), 1 where any is ("any"), or 1 where of a task's labels the answer alone is ("label"). question: the
    question's own words. tokens: of the prompt; with those to generate they are at most `length`.
    """

    task: str
    length: int
    index: int
    prompt: str
    tokens: int
    question: str
    answers: tuple[str, ...]
    kind: Literal["all", "any", "label"]
    tokens_to_generate: int


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Scores of one task, or of all tasks together, at one length: their number, and their mean in [0, 1] with its 95 %
    interval."""

    task: str
    length: int
    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Table:
    """Scores by task and length. means: of all tasks, each counted alike. tokens: that went forward, read and
    generated."""

    suite: str
    tasks: tuple[str, ...]
    lengths: tuple[int, ...]
    cells: tuple[Cell, ...]
    means: tuple[Cell, ...]
    tokens: int


class Suite(Protocol):
    """A published measure."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def tasks(self) -> tuple[str, ...]:
        """All its tasks."""
        ...

    @property
    def count(self) -> Count:
        """How it counts the tokens of its prompts."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its samples depend on beside task, length and index, as JSON values."""
        ...

    def sample(self, task: str, length: int, index: int) -> Sample:
        """A pure function. Raises ValueError for a length that is too short for the task."""
        ...

    def score(self, sample: Sample, generated: str) -> float:
        """Of a generated text, in [0, 1]."""
        ...

    def verdict(self, table: Table) -> tuple[str, ...]:
        """Sentences that the measure's own rule gives."""
        ...


def check_task(name: str, tasks: Sequence[str], task: str) -> None:
    """Raises ValueError for what is no task."""
    if task not in tasks:
        raise ValueError(f"{name} has no task {task}; choose from {', '.join(tasks)}")
