"""Other thresholds, from answers that were asked for with one in mind."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.evaluation.context.oracles import M, most_by_chance, simulate

from diptych.evaluation.context.ladder import Ladder, LadderConfig, coarse_lengths
from diptych.evaluation.context.result import AtThreshold
from diptych.evaluation.context.statistics import BETS
from diptych.evaluation.context.thresholds import TAUS, at_threshold, at_thresholds
from diptych.evaluation.context.types import N_DEPTHS, Observation

CHANCES = (1 / M, 0.5, 0.7, 0.85, 0.87, 0.9, 0.95, 1.0, 1.0)


def asked_at_random(seed: int) -> tuple[Ladder, list[Observation]]:
    """A ladder over answers of random difficulty, whether or not they become harder with the length."""
    rng = Random(seed)
    config = LadderConfig(
        shortest=rng.choice((16, 48)),
        longest=rng.choice((16, 100, 256, 700)) + 32,
        tau=rng.choice((0.5, 0.6, 0.85, 0.95)),
        alpha=rng.choice((0.05, 0.3, 0.8)),
        max_rounds=rng.choice((20, 60)),
    )
    ladder = Ladder(config, rng.choice((1, 2, N_DEPTHS)), M)
    falls, worst = rng.random() < 0.5, rng.choice(CHANCES)
    limit = rng.choice((40, 50, 90, 300))

    def accuracy(length: int, depth: int) -> float:
        if falls:
            return worst if length > limit and depth == 0 else 0.98
        return Random(length * N_DEPTHS + depth + seed).choice(CHANCES)

    return ladder, simulate(ladder, accuracy, seed, answers=rng.choice((1, 1, 4)))


def test_at_its_own_threshold_it_says_what_the_ladder_says_at_every_moment() -> None:
    states = set()
    for seed in range(150):
        whole, seen = asked_at_random(seed)
        ladder, cuts = Ladder(whole.config, whole.n_depths, M), set(Random(seed).choices(range(len(seen) + 1), k=3))
        for count in range(len(seen) + 1):
            if count in cuts or count == len(seen):
                found = at_threshold(seen[:count], ladder.config, ladder.n_depths, M)
                assert (found.passed, found.failed) == (ladder.passed, ladder.failed), (seed, count)
            if count < len(seen):
                ladder.take(seen[count])
        found = at_threshold(seen, whole.config, whole.n_depths, M)
        states.add((whole.verdict().state, found.passed in whole.coarse, found.failed in whole.coarse))
    # All there is to agree about came up: every state, and ends on lengths that double and in between.
    assert {state for state, _, _ in states} == {"certified", "undecided", "none", "at_least"}
    assert {("certified", False, False), ("certified", True, False), ("certified", False, True)} <= states


def first_time(answers: NDArray[np.float64], mean: float, sign: int, alpha: float) -> float:
    """Contexts until the capital of Waudby-Smith and Ramdas's bets reaches 1 / alpha; infinite where it does not."""
    largest = 1 / mean if sign > 0 else 1 / (1 - mean)
    capital = sum(
        weight * np.cumprod(1 + share * largest * sign * (answers - mean), dtype=np.float64) for share, weight in BETS
    )
    reached = np.flatnonzero(np.asarray(capital) * alpha >= 1)
    return float(reached[0] + 1) if reached.size else math.inf


def by_definition(seen: list[Observation], config: LadderConfig, n_depths: int) -> AtThreshold:
    """All coarse lengths at alpha / 2, in between alpha / 4; failures at alpha over depths and lengths."""
    mean = 1 / M + config.tau * (1 - 1 / M)
    coarse = coarse_lengths(config.shortest, config.longest)
    passed, certain = None, True
    for length in sorted({observation.length for observation in seen}):
        of = [observation.accuracy for observation in seen if observation.length == length]
        depths = [np.array([accuracy[depth] for accuracy in of]) for depth in range(n_depths)]
        fails = min(first_time(x, mean, -1, config.alpha / (n_depths * (len(coarse) + 2))) for x in depths)
        passes = max(first_time(x, mean, 1, config.alpha / (2 if length in coarse else 4)) for x in depths)
        if fails < math.inf:
            return AtThreshold(tau=config.tau, passed=passed, failed=length)
        if certain and passes < math.inf:
            passed = length
        elif length in coarse:
            certain = False
    return AtThreshold(tau=config.tau, passed=passed, failed=None)


def test_other_thresholds_are_what_the_definition_gives_by_products() -> None:
    said = set()
    for seed in range(150):
        ladder, seen = asked_at_random(seed)
        found = at_thresholds(seen, ladder.config, ladder.n_depths, M)
        assert [at.tau for at in found] == [tau for tau in TAUS if tau != ladder.config.tau]
        for at in found:
            assert at == by_definition(seen, replace(ladder.config, tau=at.tau), ladder.n_depths), seed
            said.add((at.passed is None, at.failed is None))
    assert len(said) == 4


def test_a_higher_threshold_never_reaches_farther() -> None:
    """Bets above a mean m multiply by 1 - s + s x / m, which falls with m; those below by 1 - s + s (1 - x) / (1 - m),
    which rises with it."""
    moved = 0
    for seed in range(100):
        ladder, seen = asked_at_random(seed)
        found = [
            at_threshold(seen, replace(ladder.config, tau=tau / 20), ladder.n_depths, M) for tau in range(1, 20, 2)
        ]
        for lower, higher in itertools.pairwise(found):
            assert (higher.passed or 0) <= (lower.passed or 0), seed
            assert (higher.failed or math.inf) <= (lower.failed or math.inf), seed
        assert all((at.passed or 0) < (at.failed or math.inf) for at in found)
        moved += (found[0].passed, found[0].failed) != (found[-1].passed, found[-1].failed)
    assert moved > 50


def test_what_lies_close_to_one_threshold_is_decided_at_others_by_hand() -> None:
    """14 of 16 right, just above 0.869, decides nothing there within 50 contexts.

    Above 0.5625 the boldest bet multiplies by 1.55, above 0.7375 by 1.18, so that 27 contexts certify; below 0.95625 by
    2.8. 31 perfect contexts multiply by 1.045 each at 0.95625, too few for 40.
    """
    ladder = Ladder(LadderConfig(shortest=64, longest=256, max_rounds=50), 1, M)
    seen = []
    while (wanted := ladder.next()) is not None:
        length, number = wanted
        seen.append(Observation(length=length, number=number, accuracy={0: 1.0 if length == 64 else 0.875}))
        ladder.take(seen[-1])
    assert (ladder.passed, ladder.failed) == (64, None)
    assert at_thresholds(seen, ladder.config, 1, M) == (
        AtThreshold(tau=0.5, passed=256, failed=None),
        AtThreshold(tau=0.7, passed=256, failed=None),
        AtThreshold(tau=0.95, passed=None, failed=128),
    )
    assert {(at.passed, at.failed) for at in at_thresholds([], ladder.config, 1, M)} == {(None, None)}


def test_what_was_shown_to_lie_above_and_then_below_has_failed() -> None:
    """A ladder at 0.85 would have ended after 31 right answers; one at 0.95 asked on, and then all were wrong."""
    config = LadderConfig(shortest=64, longest=64, tau=0.95)
    seen = [Observation(length=64, number=n, accuracy={0: float(n < 35)}) for n in range(120)]
    assert at_threshold(seen[:35], replace(config, tau=0.85), 1, M) == AtThreshold(tau=0.85, passed=64, failed=None)
    assert at_threshold(seen, replace(config, tau=0.85), 1, M) == AtThreshold(tau=0.85, passed=None, failed=64)


def accuracy_at(tau: float) -> float:
    return 1 / M + tau * (1 - 1 / M)


@pytest.mark.parametrize(("own", "other"), [(0.9, 0.85), (0.8, 0.85)])
def test_another_threshold_is_seldom_wrongly_certified_or_failed(own: float, other: float) -> None:
    """Depth 0 is always right, depth 1 lies at the other threshold at all lengths: on the border of both hypotheses, so
    that neither end may be found more often than alpha. A ladder asks longest where its own threshold lies above."""
    config = LadderConfig(shortest=64, longest=256, tau=own, alpha=0.2, max_rounds=60)
    certified = failed = 0
    for seed in range(1000):
        seen = simulate(Ladder(config, 2, M), lambda length, depth: accuracy_at(other) if depth else 1.0, seed)
        at = at_threshold(seen, replace(config, tau=other), 2, M)
        certified += at.passed is not None
        failed += at.failed is not None
    assert max(certified, failed) <= most_by_chance(1000, config.alpha)
    # The error is spent where there are answers to spend it on, or the line above would show nothing.
    assert certified > 20 if own > other else failed > 10
