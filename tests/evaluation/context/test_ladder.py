"""The ladder against models whose effective length is known, and how often it is wrong at the boundary."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any

import pytest
from tests.evaluation.context.oracles import (
    GUESSER,
    PERFECT,
    THRESHOLD,
    M,
    UniformTask,
    blind_middle,
    climb,
    depth_of,
    distances,
    effective_length,
    most_by_chance,
    simulate,
    within,
)

from diptych.evaluation.context.ladder import SEARCH, Ladder, LadderConfig, Verdict, coarse_lengths, inner_lengths
from diptych.evaluation.context.types import N_DEPTHS, Observation

CONFIG = LadderConfig(shortest=16, longest=8192)


def always(value: float) -> Callable[[int, int], float]:
    return lambda length, depth: value


def verdict_of(accuracy: Callable[[int, int], float], config: LadderConfig, n_depths: int = N_DEPTHS) -> Verdict:
    ladder = Ladder(config, n_depths, M)
    simulate(ladder, accuracy, seed=0)
    return ladder.verdict()


def test_the_grid_doubles_and_ends_where_it_should() -> None:
    assert coarse_lengths(128, 1024) == (128, 256, 512, 1024)
    assert coarse_lengths(100, 1000) == (100, 200, 400, 800, 1000)
    assert coarse_lengths(100, 101) == (100, 101) and coarse_lengths(7, 7) == (7,)
    for shortest in range(1, 40):
        for longest in range(shortest, 700):
            grid = coarse_lengths(shortest, longest)
            assert grid[0] == shortest and grid[-1] == longest and len(set(grid)) == len(grid)
            assert all(a < b <= 2 * a for a, b in pairwise(grid))


def test_between_two_lengths_three_are_searched() -> None:
    assert inner_lengths(1024, 2048) == (1218, 1448, 1722)
    assert inner_lengths(800, 1000) == () and inner_lengths(1000, 1500) == (1225,)
    for shortest in range(1, 200):
        for longest in range(shortest + 1, 2 * shortest + 1):
            inner = inner_lengths(shortest, longest)
            ends = (shortest, *inner, longest)
            assert len(inner) <= 3 and ends == tuple(sorted(set(ends)))
            # A step is at most half of 2^(1/4) more than that in the logarithm, and the rounding to whole tokens.
            assert all(b <= a * 2 ** (1.5 / 4) + 1 for a, b in pairwise(ends))


def test_fifths_of_the_simulated_task_are_a_partition() -> None:
    for length in (5, 16, 37, 1000):
        parts = [list(distances(depth, length)) for depth in range(N_DEPTHS)]
        assert sorted(d for part in parts for d in part) == list(range(1, length + 1))
        assert all(depth_of(d, length) == depth for depth, part in enumerate(parts) for d in part)


WINDOWS = [round(30 * (4000 / 30) ** (k / 49)) for k in range(50)]


def test_the_effective_length_of_a_window_is_little_more_than_the_window() -> None:
    """0.85 of the farthest fifth of L tokens is seen by whoever sees 0.8 L + 0.85 x 0.2 L = 0.97 L."""
    for window in WINDOWS:
        length = effective_length(window)
        assert window <= length <= 1.04 * window and abs(length - window / 0.97) <= 4


def test_the_bracket_of_a_window_holds_its_effective_length() -> None:
    certified = 0
    for window in WINDOWS:
        verdict = climb(within(window), UniformTask(seed=window, probes_per_depth=4), CONFIG).verdict()
        length = effective_length(window)
        assert verdict.passed is not None and verdict.confidence == 0.95
        failed = math.inf if verdict.failed is None else verdict.failed
        assert verdict.passed <= length < failed, window
        assert verdict.passed <= 1.04 * window and window < failed
        certified += verdict.state == "certified"
        if verdict.state == "certified":
            assert failed <= verdict.passed * 2**0.25 + 1
        else:
            # 120 contexts of 4 answers do not tell scores apart that are nearer than this.
            (doubted,) = (rung.length for rung in verdict.rungs if rung.decision == "undecided")
            seen = sum(d <= window for d in distances(0, doubted)) / len(distances(0, doubted))
            assert verdict.state == "undecided" and abs(seen - 0.85) <= 0.1
            assert verdict.passed < doubted < failed and doubted <= 2 * verdict.passed
    assert certified >= 0.75 * len(WINDOWS)


def test_most_windows_are_certified_within_few_contexts() -> None:
    ladders = [climb(within(window), UniformTask(seed=1, probes_per_depth=4), CONFIG) for window in WINDOWS[::5]]
    assert sum(ladder.verdict().state == "certified" for ladder in ladders) >= 7
    rungs = [rung for ladder in ladders for rung in ladder.verdict().rungs if rung.decision == "passed"]
    assert sorted(rung.contexts for rung in rungs)[len(rungs) // 2] == 31


@pytest.mark.parametrize("seed", range(5))
def test_a_guesser_has_none(seed: int) -> None:
    verdict = climb(replace(GUESSER, seed=seed), UniformTask(seed=seed), CONFIG).verdict()
    assert (verdict.state, verdict.passed, verdict.failed) == ("none", None, 16)
    assert verdict.all_depths is None and verdict.relative is None
    assert [rung.length for rung in verdict.rungs] == [16] and verdict.rungs[0].contexts <= 10


def test_what_knows_all_is_censored_at_the_longest() -> None:
    verdict = climb(PERFECT, UniformTask(), replace(CONFIG, longest=1000)).verdict()
    assert (verdict.state, verdict.passed, verdict.failed) == ("at_least", 1000, None)
    assert verdict.all_depths == verdict.relative == 1000
    assert [(rung.length, rung.contexts) for rung in verdict.rungs] == [
        (length, 31) for length in (16, 32, 64, 128, 256, 512, 1000)
    ]


@pytest.mark.parametrize("hole", [16, 300, 500, 8192])
def test_a_blind_middle_fails_though_both_ends_pass(hole: int) -> None:
    verdict = climb(blind_middle(hole), UniformTask(seed=hole), CONFIG).verdict()
    assert verdict.failed is not None and verdict.failed >= hole
    if hole == 16:
        assert verdict.state == "none"
    else:
        assert verdict.state == "certified" and verdict.passed is not None
        assert verdict.passed < hole <= verdict.failed <= verdict.passed * 2**0.25 + 1
    scores = [cell.score for cell in verdict.cells if cell.length == verdict.failed]
    assert scores[0] == scores[1] == scores[3] == scores[4] == 1 and scores[2] < 0.5


COVERED = LadderConfig(shortest=64, longest=256, max_rounds=60)
BOUNDARIES: dict[str, Callable[[int, int], float]] = {
    "the shortest, at one depth of two": lambda length, depth: THRESHOLD if depth else 1.0,
    "the second, at one depth": lambda length, depth: 1.0 if length < 128 or depth else THRESHOLD,
    "between, then guesses": lambda length, depth: (
        1.0 if length <= 64 or depth else THRESHOLD if length < 128 else 1 / M
    ),
    "below it everywhere": lambda length, depth: THRESHOLD - 0.02,
}


@pytest.mark.parametrize("name", BOUNDARIES)
def test_a_length_above_the_effective_one_is_seldom_certified(name: str) -> None:
    """The true effective length is the longest whose accuracy is above the threshold: 64, or none."""
    true = 64 if "second" in name or "between" in name else 0
    wrong = 0
    for seed in range(1000):
        ladder = Ladder(COVERED, 2, M)
        simulate(ladder, BOUNDARIES[name], seed)
        wrong += (ladder.passed or 0) > true
    assert wrong <= most_by_chance(1000, COVERED.alpha)
    # Each boundary that is exactly met is spent a part of alpha on, or the test above would show nothing.
    assert wrong > 0 or name == "below it everywhere"


def test_a_length_that_passes_is_seldom_declared_failed() -> None:
    """Accuracy is at the threshold, which passes, at both depths of all lengths."""
    wrong = 0
    for seed in range(1000):
        ladder = Ladder(replace(COVERED, alpha=0.2), 2, M)
        simulate(ladder, always(THRESHOLD), seed)
        wrong += ladder.failed is not None
    assert 0 < wrong <= most_by_chance(1000, 0.2)


def test_error_is_shared_as_stated() -> None:
    """Coarse lengths at alpha / 2, those in between at alpha / 4 each; failure over all lengths and depths."""
    ladder = Ladder(LadderConfig(shortest=64, longest=256, alpha=0.04), N_DEPTHS, M)
    simulate(ladder, lambda length, depth: float(length < 150), seed=0)
    assert {length: trial.certify for length, trial in ladder.trials.items()} == {
        64: 0.02, 128: 0.02, 256: 0.02, 181: 0.01, 152: 0.01,
    }  # fmt: skip
    assert {trial.fail for trial in ladder.trials.values()} == {0.04 / (N_DEPTHS * (3 + 2))}
    assert ladder.verdict().passed == 128 and ladder.verdict().failed == 152


def test_one_failing_depth_is_enough_and_all_must_pass() -> None:
    def accuracy(length: int, depth: int) -> float:
        return 1.0 if length < 128 or depth != 3 else 1 / M

    verdict = verdict_of(accuracy, LadderConfig(shortest=64, longest=128))
    assert verdict.passed == 108 and verdict.failed == 128 and verdict.state == "certified"
    failed = verdict.rungs[-1]
    assert (
        failed.decision == "failed" and failed.below[3] <= 0.05 / (5 * 4) and min(failed.above) < 1 == failed.above[3]
    )


def test_a_length_at_the_threshold_stays_undecided_and_ends_certifying() -> None:
    """14 of 16 right is 0.875, just above the threshold: contexts without noise, which decide nothing."""
    config = LadderConfig(shortest=64, longest=256, max_rounds=50)
    ladder = Ladder(config, 1, M)
    while (wanted := ladder.next()) is not None:
        accuracy = 1.0 if wanted[0] == 64 else 0.875
        ladder.take(Observation(length=wanted[0], number=wanted[1], accuracy={0: accuracy}))
    verdict = ladder.verdict()
    assert (verdict.state, verdict.passed, verdict.failed) == ("undecided", 64, None)
    assert [(rung.length, rung.contexts, rung.decision) for rung in verdict.rungs] == [
        (64, 31, "passed"),
        (128, 50, "undecided"),
        (256, SEARCH, "undecided"),
    ]


def test_above_an_undecided_length_a_failure_is_found_and_nothing_certified() -> None:
    """Perfect answers at 256 do not certify it after 128 was left open; guesses at 512 are an upper end."""
    ladder = Ladder(LadderConfig(shortest=64, longest=1024, max_rounds=50), 1, M)
    accuracy = {64: 1.0, 128: 0.875, 256: 1.0, 512: 1 / M}
    while (wanted := ladder.next()) is not None:
        ladder.take(Observation(length=wanted[0], number=wanted[1], accuracy={0: accuracy[wanted[0]]}))
    verdict = ladder.verdict()
    assert (verdict.state, verdict.passed, verdict.failed) == ("undecided", 64, 512)
    assert [rung.decision for rung in verdict.rungs] == ["passed", "undecided", "undecided", "failed"]


def test_an_undecided_length_in_between_sends_the_search_below_and_leaves_the_bracket_wide() -> None:
    ladder = Ladder(LadderConfig(shortest=1024, longest=2048, max_rounds=50), 1, M)
    scores = {1024: 1.0, 2048: 0.0, 1448: 0.875, 1218: 1.0}
    while (wanted := ladder.next()) is not None:
        ladder.take(Observation(length=wanted[0], number=wanted[1], accuracy={0: scores[wanted[0]]}))
    verdict = ladder.verdict()
    assert (verdict.state, verdict.passed, verdict.failed) == ("undecided", 1218, 2048)


def test_stopped_at_any_moment_it_says_what_holds() -> None:
    ladder, true = Ladder(CONFIG, N_DEPTHS, M), 700
    seen = simulate(Ladder(CONFIG, N_DEPTHS, M), lambda length, depth: float(length <= true), seed=0)
    verdicts = [ladder.verdict()]
    assert (verdicts[0].state, verdicts[0].passed, verdicts[0].failed, verdicts[0].rungs) == (
        "undecided", None, None, (),
    )  # fmt: skip
    for taken in seen:
        ladder.take(taken)
        verdicts.append(ladder.verdict())
    for now, later in pairwise(verdicts):
        assert (now.passed or 0) <= true < (now.failed or math.inf)
        assert (later.passed or 0) >= (now.passed or 0) and (later.failed or math.inf) <= (now.failed or math.inf)
        assert later.state == ("certified" if later is verdicts[-1] else "undecided")
    assert verdicts[-1].passed == 609 and verdicts[-1].failed == 724


def test_killed_and_resumed_it_goes_on_as_if_nothing_had_been() -> None:
    task, scorer, config = UniformTask(seed=5, probes_per_depth=2), within(100), replace(CONFIG, longest=300)
    whole = climb(scorer, task, config)
    observations = simulate(Ladder(config, N_DEPTHS, M), lambda length, depth: 0.99 if length < 100 else 0.4, seed=2)
    uninterrupted = Ladder(config, N_DEPTHS, M)
    for taken in observations:
        uninterrupted.take(taken)
    for cut in (0, 1, 30, 31, 100, len(observations) - 1, len(observations)):
        resumed = Ladder(config, N_DEPTHS, M)
        for taken in observations[:cut]:
            resumed.take(json_again(taken))
        assert cut == len(observations) or resumed.next() == (observations[cut].length, observations[cut].number)
        for taken in observations[cut:]:
            resumed.take(taken)
        assert resumed.next() is None and resumed.verdict() == uninterrupted.verdict()
    assert climb(scorer, task, config).verdict() == whole.verdict()


def json_again(taken: Observation) -> Observation:
    kept: dict[str, Any] = json.loads(json.dumps(asdict(taken)))
    return Observation(**{**kept, "accuracy": {int(depth): value for depth, value in kept["accuracy"].items()}})


def test_a_verdict_is_json() -> None:
    verdict = climb(within(50), UniformTask(), replace(CONFIG, longest=128)).verdict()
    kept = json.loads(json.dumps(asdict(verdict), allow_nan=False))
    assert kept["passed"] == verdict.passed and kept["rungs"][0]["above"] == list(verdict.rungs[0].above)
    assert asdict(Ladder(CONFIG, N_DEPTHS, M).verdict())["rungs"] == ()


def test_contexts_that_ask_about_one_depth_each_are_each_depth_s_own() -> None:
    """The fewest contexts are five times those that ask about all depths, and a depth's test sees only its own."""
    ladder = Ladder(replace(CONFIG, longest=32, max_rounds=40), N_DEPTHS, M)
    while (wanted := ladder.next()) is not None:
        length, number = wanted
        depth = number % N_DEPTHS
        blind = length == 32 and depth == 1
        ladder.take(Observation(length=length, number=number, accuracy={depth: 0.0 if blind else 1.0}))
    verdict = ladder.verdict()
    assert [rung.contexts for rung in verdict.rungs if rung.length == 16] == [31 * N_DEPTHS]
    assert verdict.failed == 32 and [cell.n for cell in verdict.cells if cell.length == 32] == [4, 4, 3, 3, 3]
    assert verdict.all_depths == 27 and verdict.state == "certified"


@pytest.mark.parametrize("at_once", range(1, N_DEPTHS + 1))
def test_each_depth_has_as_many_contexts_however_few_a_context_asks_about(at_once: int) -> None:
    """Depths in turn: at 14 of 16, just above the threshold, no test decides, so that all that may be asked is."""
    ladder = Ladder(LadderConfig(shortest=64, longest=128, max_rounds=40), N_DEPTHS, M)
    while (wanted := ladder.next()) is not None:
        depths = {(wanted[1] * at_once + i) % N_DEPTHS for i in range(at_once)}
        ladder.take(Observation(length=wanted[0], number=wanted[1], accuracy=dict.fromkeys(depths, 0.875)))
    climbed, searched = ladder.verdict().rungs
    for rung, rounds in ((climbed, 40), (searched, SEARCH)):
        asked = [cell.n for cell in rung.cells]
        assert rung.decision == "undecided" and rung.contexts == math.ceil(rounds * N_DEPTHS / at_once)
        assert len(asked) == N_DEPTHS and min(asked) == rounds and max(asked) <= rounds + 1


def test_a_depth_that_was_not_asked_about_has_no_cell_and_certifies_nothing() -> None:
    ladder = Ladder(replace(CONFIG, max_rounds=60), N_DEPTHS, M)
    while (wanted := ladder.next()) is not None:
        ladder.take(Observation(length=wanted[0], number=wanted[1], accuracy=dict.fromkeys((0, 1, 2, 4), 1.0)))
    verdict = ladder.verdict()
    assert (verdict.state, verdict.passed, len(verdict.rungs)) == ("undecided", None, len(ladder.coarse))
    assert [cell.depth for cell in verdict.rungs[0].cells] == [0, 1, 2, 4] and verdict.rungs[0].above[3] == 1
    assert verdict.all_depths is None and verdict.relative is None


def test_cells_and_point_readings_by_hand() -> None:
    """Depth 1 falls to 0.8 at 128: the mean over both depths passes there, but not 0.85 of the first score, 0.829."""
    ladder = Ladder(LadderConfig(shortest=64, longest=128, max_rounds=200), 2, 2)
    scores = {64: (1.0, 0.95), 128: (1.0, 0.8)}
    while (wanted := ladder.next()) is not None and wanted[0] in scores:
        length, number = wanted
        accuracy = {depth: 0.5 + score / 2 for depth, score in enumerate(scores[length])}
        ladder.take(Observation(length=length, number=number, accuracy=accuracy))
    verdict = ladder.verdict()
    assert verdict.threshold == 0.925 and verdict.passed == 64
    by_place = {(cell.length, cell.depth): cell for cell in verdict.cells}
    for (length, depth), cell in by_place.items():
        assert cell.score == pytest.approx(scores[length][depth], abs=1e-12)
        assert cell.accuracy == pytest.approx(0.5 + scores[length][depth] / 2, abs=1e-12)
    assert verdict.all_depths == 128 and verdict.relative == 64


def test_what_is_no_ladder_is_refused() -> None:
    for wrong, message in (
        ({"shortest": 0}, "shortest"),
        ({"longest": 8}, "longest"),
        ({"tau": 1.0}, "tau"),
        ({"alpha": 0.0}, "alpha"),
        ({"max_rounds": 0}, "context"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(CONFIG, **wrong)  # type: ignore[arg-type]
    for n_depths, n_candidates in ((0, 8), (5, 1)):
        with pytest.raises(ValueError, match="depth"):
            Ladder(CONFIG, n_depths, n_candidates)


def test_what_was_not_asked_for_is_refused() -> None:
    ladder = Ladder(replace(CONFIG, longest=16, max_rounds=1), N_DEPTHS, M)
    for length, number in ((32, 0), (16, 1)):
        with pytest.raises(ValueError, match=r"waits for \(length, number\) \(16, 0\)"):
            ladder.take(Observation(length=length, number=number, accuracy={0: 1.0}))
    for accuracy in ({}, {5: 1.0}, {0: 1.5}, {0: float("nan")}):
        with pytest.raises(ValueError, match="depths 0 to 4"):
            ladder.take(Observation(length=16, number=0, accuracy=accuracy))
    assert ladder.verdict().rungs == ()
    ladder.take(Observation(length=16, number=0, accuracy=dict.fromkeys(range(N_DEPTHS), 1.0)))
    with pytest.raises(ValueError, match="waits for"):
        ladder.take(Observation(length=16, number=1, accuracy={0: 1.0}))
