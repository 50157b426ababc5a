"""How is a model put through a published measure of long contexts, and what is its table of scores?

Every sample's score is a line of a file, written at once: what was stopped goes on where it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.events import Handler, Progressed, ignore
from diptych.evaluation.context.kept_lines import KeptLines
from diptych.evaluation.context.suites.sample import Cell, Suite, Table, check_task, count_alone
from diptych.evaluation.intervals import wilson

Generate = Callable[[str, int], str]
"""Continues a prompt by at most so many tokens, those of highest probability; returns what it adds."""

ALL = "all"
"""Name of the cell of all tasks together."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One sample and what became of it. tokens: read and generated; seconds: that this took."""

    task: str
    length: int
    index: int
    question: str
    answers: tuple[str, ...]
    generated: str
    score: float
    tokens: int
    seconds: float


def run(
    suite: Suite,
    generate: Generate,
    out: Path,
    *,
    tasks: Sequence[str],
    lengths: Sequence[int],
    samples: int,
    settings: Mapping[str, Any],
    on_event: Handler = ignore,
) -> Table:
    """Ask so many samples of each task at each length, the short ones first, but those that `out` holds already.

    out: a file of JSON lines. settings: what the generated texts depend on, such as the model, as JSON values. Raises
    ValueError for what is no task, a length too short for one, or a file of other settings or damaged.
    """
    if samples < 1 or not tasks or not lengths:
        raise ValueError("there is nothing to ask; give at least one task, one length and one sample")
    tasks, lengths = tuple(dict.fromkeys(tasks)), tuple(sorted(set(lengths)))
    for task in tasks:
        check_task(suite.name, suite.tasks, task)
        suite.sample(task, lengths[0], 0)  # what is too short is said before anything is asked
    scores = KeptLines(
        out, Scored, lambda one: (one.task, one.length, one.index), settings={**suite.settings, **settings}
    )
    try:
        for length in lengths:
            for number, (task, index) in enumerate((task, index) for task in tasks for index in range(samples)):
                if (task, length, index) not in scores.kept:
                    scores.add(_ask(suite, generate, task, length, index))
                what = f"{suite.name} at {length:,} tokens"
                on_event(Progressed(what=what, done=number + 1, total=len(tasks) * samples, unit="samples"))
    finally:
        scores.close()
    asked = (kept for kept in scores.kept.values() if kept.index < samples)
    return tabulate(suite.name, asked, tasks, lengths)


def _ask(suite: Suite, generate: Generate, task: str, length: int, index: int) -> Scored:
    start = time.perf_counter()
    sample = suite.sample(task, length, index)
    generated = generate(sample.prompt, sample.tokens_to_generate)
    return Scored(
        task=task,
        length=length,
        index=index,
        question=sample.question,
        answers=sample.answers,
        generated=generated,
        score=suite.score(sample, generated),
        tokens=sample.tokens + count_alone(suite.count, generated),
        seconds=time.perf_counter() - start,
    )


def tabulate(suite: str, scored: Iterable[Scored], tasks: Sequence[str], lengths: Sequence[int]) -> Table:
    """Means by task and length, and over the tasks where all of them were asked."""
    of: dict[tuple[str, int], list[float]] = {(task, length): [] for length in lengths for task in tasks}
    tokens = 0
    for one in scored:
        if (one.task, one.length) in of:
            of[one.task, one.length].append(one.score)
            tokens += one.tokens
    cells = tuple(_cell(task, length, scores) for (task, length), scores in of.items() if scores)
    by_length = ([cell for cell in cells if cell.length == length] for length in lengths)
    return Table(
        suite=suite,
        tasks=tuple(tasks),
        lengths=tuple(lengths),
        cells=cells,
        means=tuple(_mean(some) for some in by_length if len(some) == len(tasks)),
        tokens=tokens,
    )


def _cell(task: str, length: int, scores: Sequence[float]) -> Cell:
    """Wilson's interval, its ends those of the whole numbers of successes around the sum: scores between 0 and 1 vary
    less than successes of the same mean, so that it is wide enough for them too."""
    total = round(math.fsum(scores), 9)
    low, high = wilson(math.floor(total), len(scores))[0], wilson(math.ceil(total), len(scores))[1]
    return Cell(task=task, length=length, n=len(scores), mean=total / len(scores), low=low, high=high)


def _mean(cells: Sequence[Cell]) -> Cell:
    """The mean of independent cells; its distances to the ends of its interval are those of the cells, added in squares
    (Zou and Donner 2008)."""
    mean = math.fsum(cell.mean for cell in cells) / len(cells)
    down = math.hypot(*(cell.mean - cell.low for cell in cells)) / len(cells)
    up = math.hypot(*(cell.high - cell.mean for cell in cells)) / len(cells)
    n = sum(cell.n for cell in cells)
    return Cell(task=ALL, length=cells[0].length, n=n, mean=mean, low=mean - down, high=mean + up)
