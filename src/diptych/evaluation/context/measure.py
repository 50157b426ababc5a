"""How is the effective context length of one model measured, task by task?

The ladder says which context it wants; what the journal holds already is taken from there; the rest is asked and kept.
Whoever stops it, for whatever reason, has the bracket that the answers until then allow.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, final

from diptych.core.events import Handler, Progressed, ignore
from diptych.evaluation.context.distance import effective_distance
from diptych.evaluation.context.journal import Journal, Place, Record, record_of
from diptych.evaluation.context.ladder import Ladder, LadderConfig
from diptych.evaluation.context.result import TaskResult, binned
from diptych.evaluation.context.statistics import measure_reuse
from diptych.evaluation.context.thresholds import at_thresholds
from diptych.evaluation.context.types import Observation, Scorer, Task, observation

PILOT: Final = 8
"""Contexts that choose between wordings, of the first length that all have; the measurement never sees them."""

ROOM: Final = 2
"""The first length is at least so many times what the needles take: where they stand as densely as they can, a short
context is harder than a longer one."""

PILOT_SHARE: Final = 0.25
"""Of what may be spent at most; the pilot then has fewer contexts."""

PILOT_NUMBERS: Final = 1_000_000
"""Their numbers begin here."""

Ended = Literal["budget", "interrupted"]


@final
class Meter:
    """What may still be spent. tokens, seconds: of the whole measurement, that of earlier calls included; None: any."""

    def __init__(self, tokens: int | None = None, seconds: float | None = None) -> None:
        self.tokens, self.seconds = tokens, seconds
        self.spent_tokens, self.spent_seconds = 0, 0.0
        self.dearest = 0.0

    def add(self, record: Record) -> None:
        """A context was asked about."""
        self.spent_tokens += record.tokens
        self.spent_seconds += record.seconds
        self.dearest = record.seconds / max(1, record.tokens)

    def allows(self, length: int, share: float = 1.0) -> bool:
        """Whether so many tokens can be afforded from this share of the whole, at the price of the last ones."""
        if self.tokens is not None and self.spent_tokens + length > share * self.tokens:
            return False
        return self.seconds is None or self.spent_seconds + self.dearest * length <= share * self.seconds


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One task's result, and why it ended before it was decided; None: it was decided, as far as it can be."""

    result: TaskResult
    ended: Ended | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """Who is asked, where answers are kept, and what may be spent. seed: of intervals' resamples. overhead: tokens that
    the scorer adds to a context."""

    scorer: Scorer
    journal: Journal
    meter: Meter
    seed: int = 0
    overhead: int = 0
    on_event: Handler = ignore

    def ask(self, task: Task, place: Place) -> Record:
        """The answers about one context, kept or new."""
        if (kept := self.journal.kept.get(place)) is not None:
            self.meter.add(kept)
            return kept
        start = time.perf_counter()
        context = task.context(place[1] - self.overhead, place[2])
        record = record_of(place, context, self.scorer.ask(context), time.perf_counter() - start)
        self.journal.add(record)
        self.meter.add(record)
        return record


def measure_task(task: Task, style: str, config: LadderConfig, bench: Bench) -> Measured:
    """Climb the lengths of one task until it is decided, the budget is spent, or Ctrl-C.

    Raises ValueError where the longest length cannot hold a context of the task.
    """
    least = task.shortest + bench.overhead
    if config.longest < least:
        raise ValueError(
            f"{task.name} in {style} needs {least} tokens, more than the longest length of {config.longest}; "
            "set a longer --longest, or choose another task or style"
        )
    config = replace(config, shortest=min(config.longest, max(config.shortest, first_length(task, bench.overhead))))
    ladder, used, ended = Ladder(config, task.n_depths, task.n_candidates), list[Record](), None
    try:
        while (wanted := ladder.next()) is not None:
            length, number = wanted
            if not bench.meter.allows(length):
                ended = _BUDGET
                break
            record = bench.ask(task, (f"{task.name} {style}", length, number))
            used.append(record)
            ladder.take(_observed(record))
            _report(task, ladder, length, bench.on_event)
    except KeyboardInterrupt:
        ended = _INTERRUPTED
    return Measured(result=_result((task, style), ladder, used, bench.seed), ended=ended)


_BUDGET: Final[Ended] = "budget"
_INTERRUPTED: Final[Ended] = "interrupted"


def first_length(task: Task, overhead: int = 0) -> int:
    """Where a ladder begins: a power of two, so that models meet at the same lengths."""
    return 1 << (ROOM * task.shortest + overhead - 1).bit_length()


def choose_style(tasks: Sequence[tuple[str, Task]], longest: int, bench: Bench) -> str:
    """The wording that a model answers best at the first length of all wordings; the first of equals.

    tasks: one task in several wordings, with the name of each. These contexts are asked apart from the measurement, so
    that the choice does not flatter it, and as long as they take no more than `PILOT_SHARE` of what may be spent.
    """
    length = min(longest, max(first_length(task, bench.overhead) for _, task in tasks))
    right: dict[str, list[bool]] = {style: [] for style, _ in tasks}
    for number in range(PILOT_NUMBERS, PILOT_NUMBERS + PILOT):
        if not bench.meter.allows(len(tasks) * length, PILOT_SHARE):
            break
        for style, task in tasks:
            place = f"pilot {task.name} {style}", length, number
            right[style] += (probe.right for probe in bench.ask(task, place).probes)
        done = number - PILOT_NUMBERS + 1
        bench.on_event(Progressed(what="choosing a wording", done=done, total=PILOT, unit="contexts of each"))
    return max(right, key=lambda style: sum(right[style]) / max(1, len(right[style])))


def _observed(record: Record) -> Observation:
    return observation(record.length, record.number, record.probes, [probe.right for probe in record.probes])


def _report(task: Task, ladder: Ladder, length: int, on_event: Handler) -> None:
    rung = ladder.trials[length].rung(ladder.chance)
    weakest = min(rung.cells, key=lambda cell: cell.score)
    known = (
        f"; {rung.decision}"
        if rung.decision != "open"
        else f"; p above {max(rung.above):.2g}, below {min(rung.below):.2g}"
    )
    on_event(
        Progressed(
            what=f"{task.name.replace('_', ' ')}, {length:,} tokens",
            done=rung.contexts,
            total=rung.contexts if rung.decision != "open" else None,
            unit=f"contexts; depth {weakest.depth + 1} of {ladder.n_depths} weakest, score {weakest.score:.2f}{known}",
        )
    )


def _result(asked: tuple[Task, str], ladder: Ladder, records: Sequence[Record], seed: int) -> TaskResult:
    (task, style), config, verdict = asked, ladder.config, ladder.verdict()
    contexts = [[(p.distance, p.right) for p in r.probes if p.distance is not None] for r in records]
    by_depth = (
        ((record.length, depth), [p.right for p in record.probes if p.depth == depth])
        for record in records
        for depth in {p.depth for p in record.probes}
    )
    return TaskResult(
        task=task.name,
        style=style,
        n_candidates=task.n_candidates,
        state=verdict.state,
        passed=verdict.passed,
        failed=verdict.failed,
        confidence=verdict.confidence,
        cells=verdict.cells,
        all_depths=verdict.all_depths,
        relative=verdict.relative,
        distances=binned(answer for of in contexts for answer in of),
        distance=effective_distance(contexts, n_candidates=task.n_candidates, tau=config.tau, seed=seed),
        reuse=measure_reuse(by_depth),
        contexts=len(records),
        tokens=sum(record.tokens for record in records),
        seconds=sum(record.seconds for record in records),
        thresholds=at_thresholds([_observed(record) for record in records], config, task.n_depths, task.n_candidates),
    )
