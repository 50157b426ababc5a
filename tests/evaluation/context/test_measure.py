"""One task measured: what is asked, what is kept, and what the same answers say at other thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.evaluation.context.oracles import PERFECT, M, Oracle, UniformTask, within

from diptych.evaluation.context.journal import open_journal
from diptych.evaluation.context.ladder import LadderConfig
from diptych.evaluation.context.measure import PILOT, Bench, Measured, Meter, choose_style, measure_task
from diptych.evaluation.context.result import AtThreshold
from diptych.evaluation.context.types import N_DEPTHS, Answers, Context, Probe, Scorer, Task


@dataclass(frozen=True)
class SomeDepths:
    """`at_once` neighbouring fifths a context, in turn."""

    at_once: int
    made: list[tuple[int, int]] = field(default_factory=list)
    name: str = "some"
    n_depths: int = N_DEPTHS
    n_candidates: int = M
    shortest: int = N_DEPTHS

    def context(self, length: int, number: int) -> Context:
        self.made.append((length, number))
        whole = UniformTask(probes_per_depth=4).context(length, number)
        depths = {(number * self.at_once + i) % N_DEPTHS for i in range(self.at_once)}
        return replace(whole, probes=tuple(probe for probe in whole.probes if probe.depth in depths))


def measured(task: Task, scorer: Scorer, config: LadderConfig, out: Path, meter: Meter | None = None) -> Measured:
    journal = open_journal(out, {})
    try:
        return measure_task(task, "plain", config, Bench(scorer=scorer, journal=journal, meter=meter or Meter()))
    finally:
        journal.close()


def piloted(scorer: Scorer, out: Path, meter: Meter) -> tuple[str, int]:
    """The chosen wording, and how many contexts that took."""
    journal = open_journal(out, {})
    tasks = [("first", replace(SomeDepths(5), name="first")), ("second", replace(SomeDepths(5), name="second"))]
    bench = Bench(scorer=Named(scorer), journal=journal, meter=meter)
    try:
        return choose_style(tasks, 64, bench), len(journal.kept)
    finally:
        journal.close()


@dataclass(frozen=True)
class Named:
    """Finds what is told in the second wording only, whose contexts are the odd ones asked."""

    scorer: Scorer
    asked: list[Context] = field(default_factory=list)

    def ask(self, context: Context) -> Answers:
        self.asked.append(context)
        return (self.scorer if len(self.asked) % 2 == 0 else Oracle(lambda *_: False)).ask(context)


def test_a_pilot_takes_the_wording_that_is_answered_best(tmp_path: Path) -> None:
    assert piloted(PERFECT, tmp_path, Meter()) == ("second", 2 * PILOT)


@pytest.mark.parametrize(("tokens", "rounds"), [(100, 0), (4 * 2 * 16, 1), (10**6, PILOT)])
def test_a_pilot_spends_a_quarter_of_what_there_is(tmp_path: Path, tokens: int, rounds: int) -> None:
    """Of contexts of 16 tokens in two wordings."""
    chosen, contexts = piloted(PERFECT, tmp_path, Meter(tokens=tokens))
    assert (chosen, contexts) == ("second" if rounds else "first", 2 * rounds)


def seven_of_eight(length: int, probe: Probe) -> bool:
    """0.877 right: just above 0.869."""
    assert probe.distance is not None
    return probe.distance % 50 < 43


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_all_that_is_made_is_asked_and_every_depth_as_often(tmp_path: Path, at_once: int) -> None:
    task, config = SomeDepths(at_once), LadderConfig(shortest=1000, longest=1000, max_rounds=20)
    result = measured(task, Oracle(seven_of_eight), config, tmp_path).result
    assert task.made == [(1000, number) for number in range(math.ceil(20 * N_DEPTHS / at_once))]
    assert (result.state, result.contexts) == ("undecided", len(task.made))
    assert [cell.n for cell in result.cells] == [20] * N_DEPTHS


def test_a_task_whose_contexts_ask_about_some_depths_is_certified(tmp_path: Path) -> None:
    result = measured(SomeDepths(2), PERFECT, LadderConfig(shortest=16, longest=32), tmp_path).result
    assert (result.state, result.passed) == ("at_least", 32)
    assert result.contexts == 2 * math.ceil(31 * N_DEPTHS / 2)


def test_other_thresholds_come_with_a_result_and_ask_nothing(tmp_path: Path) -> None:
    """Who sees 100 tokens scores 5 (100 - 0.8 L) / L in the farthest fifth: 0.5 at L = 111, 0.7 at 106, 0.95 at 101."""
    task, config = UniformTask(), LadderConfig(shortest=16, longest=256)
    result = measured(task, within(100), config, tmp_path).result
    assert [at.tau for at in result.thresholds] == [0.5, 0.7, 0.95]
    for at, limit in zip(result.thresholds, (111, 106, 101), strict=True):
        assert (at.passed or 0) <= limit < (at.failed or math.inf)
    assert (result.passed, result.failed) == (91, 108)
    assert result.thresholds == (
        AtThreshold(tau=0.5, passed=91, failed=None),
        AtThreshold(tau=0.7, passed=91, failed=None),
        AtThreshold(tau=0.95, passed=None, failed=108),
    )


def test_stopped_and_begun_again_it_ends_the_same(tmp_path: Path) -> None:
    task, config = SomeDepths(2), LadderConfig(shortest=16, longest=32, max_rounds=34)
    whole = measured(task, within(25), config, tmp_path / "whole")
    part = measured(task, within(25), config, tmp_path / "part", Meter(tokens=1000))
    assert part.ended == "budget" and part.result.contexts < whole.result.contexts and part.result.thresholds
    made = len(task.made)
    rest = measured(task, within(25), config, tmp_path / "part")
    assert len(task.made) - made == whole.result.contexts - part.result.contexts
    assert replace(rest.result, seconds=0.0) == replace(whole.result, seconds=0.0)
