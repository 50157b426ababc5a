"""Bets against closed forms, their errors by simulation at the boundary, and likeness of answers against its models."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest
from scipy import stats
from tests.evaluation.context.oracles import THRESHOLD, M, most_by_chance

from diptych.evaluation.context.statistics import BETS, MeanTest, Side, measure_reuse


@pytest.mark.parametrize("observation", [0.0, 0.3, 0.875, 1.0])
@pytest.mark.parametrize("side", ["above", "below"])
def test_the_capital_of_a_constant_sequence_is_a_sum_of_powers(side: Side, observation: float) -> None:
    test, mean, n = MeanTest(0.6, side), 0.6, 17
    for _ in range(n):
        test.add(observation)
    gain = (observation - mean) / mean if side == "above" else (mean - observation) / (1 - mean)
    capital = sum(weight * (1 + share * gain) ** n for share, weight in BETS)
    assert test.capital == pytest.approx(capital, rel=1e-11)
    assert test.p_value == pytest.approx(min(1, 1 / capital), rel=1e-11)


def test_no_bet_can_ruin_and_the_first_capital_is_one() -> None:
    assert sum(weight for _, weight in BETS) == pytest.approx(1, abs=1e-15)
    assert all(0 < share < 1 and weight > 0 for share, weight in BETS)


def first_shown(side: Side, observations: list[float], alpha: float) -> int | None:
    test = MeanTest(THRESHOLD, side)
    for n, observation in enumerate(observations, 1):
        test.add(observation)
        if test.shown(alpha):
            return n
    return None


def test_few_observations_decide() -> None:
    assert first_shown("above", [1.0] * 50, 0.025) == 31
    assert first_shown("above", [1.0] * 50, 0.0125) == 36
    assert first_shown("below", [0.0] * 50, 0.05 / 65) == 4
    rng = Random(1)
    guesses = [first_shown("below", [float(rng.random() < 1 / M) for _ in range(100)], 0.05 / 65) for _ in range(400)]
    assert np.median([n or 101 for n in guesses]) <= 5 and np.quantile([n or 101 for n in guesses], 0.95) <= 14


@pytest.mark.parametrize("answers", [1, 4])
@pytest.mark.parametrize("side", ["above", "below"])
def test_looking_after_every_observation_errs_no_oftener_than_alpha(side: Side, answers: int) -> None:
    alpha, seeds, rng = 0.1, 1000, np.random.default_rng(3)
    observations = rng.binomial(answers, THRESHOLD, (seeds, 200)) / answers
    wrong = sum(first_shown(side, row, alpha) is not None for row in observations.tolist())
    assert wrong <= most_by_chance(seeds, alpha)
    # A test that never speaks would pass too; at the boundary, this one's errors are near what it may make.
    assert wrong >= 0.2 * alpha * seeds


def test_what_looks_at_the_mean_after_every_observation_would_err_much_oftener() -> None:
    """The simulation above can fail: a binomial test at the same level, read each time, does."""
    alpha, seeds, rng = 0.1, 1000, np.random.default_rng(3)
    hits = rng.binomial(1, THRESHOLD, (seeds, 200)).cumsum(1)
    p_values = stats.binom.sf(hits - 1, np.arange(1, 201), THRESHOLD)
    assert (p_values <= alpha).any(1).sum() > most_by_chance(seeds, alpha)


def test_what_was_shown_stays_shown_and_the_same_observations_give_the_same_numbers() -> None:
    once, again = MeanTest(0.5, "above"), MeanTest(0.5, "above")
    for observation in [1.0] * 20 + [0.0] * 20:
        once.add(observation)
        again.add(observation)
    assert once.capital < 1 < once.highest and once.shown(0.01)
    assert (once.stakes, once.highest, once.p_value) == (again.stakes, again.highest, again.p_value)


def test_a_capital_beyond_all_numbers_shows_what_it_should() -> None:
    test = MeanTest(0.999, "below")
    for observation in [0.0] * 1000 + [1.0] * 1000:
        test.add(observation)
    assert math.isinf(test.highest) and test.p_value == 0 and test.shown(1e-300)


def test_means_and_observations_out_of_range_are_refused() -> None:
    for mean in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="in \\(0, 1\\)"):
            MeanTest(mean, "above")
    for observation in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="in \\[0, 1\\]"):
            MeanTest(0.5, "above").add(observation)


def test_the_binomial_tolerance_is_scipys_quantile() -> None:
    for probability in (0.02, 0.05, 0.1):
        assert most_by_chance(1000, probability) == stats.binom.ppf(1 - 1e-4, 1000, probability)


def test_likeness_of_answers_by_hand() -> None:
    both = measure_reuse([("a", (True, True)), ("a", (False, False))])
    assert both is not None and (both.rho, both.design_effect, both.answers_per_context) == (1, 2, 2)
    split = measure_reuse([("a", (True, False, True, False))] * 3)
    assert (
        split is not None and split.rho == pytest.approx(-1 / 3) and split.design_effect == pytest.approx(0, abs=1e-12)
    )
    # Strata of different difficulty, whose contexts are not alike within them.
    apart = measure_reuse([("a", (True, True))] * 4 + [("b", (True, False))] * 4)
    assert apart is not None and apart.rho == pytest.approx(-1)


def test_likeness_is_not_defined_without_variance_or_freedom() -> None:
    assert measure_reuse([]) is None
    assert measure_reuse([("a", (True,)), ("a", (False,))]) is None
    assert measure_reuse([("a", (True, False)), ("b", (True, False))]) is None
    assert measure_reuse([("a", (True, True))] * 5) is None
    assert measure_reuse([("a", ()), ("a", (True, False))]) is None


@pytest.mark.parametrize("rho", [0.05, 0.2, 0.5])
def test_likeness_of_a_beta_binomial_is_found(rho: float) -> None:
    """Contexts whose accuracy is Beta(a, b) give answers that correlate by 1 / (a + b + 1); two strata, sizes 3-8."""
    rng, groups = np.random.default_rng(4), []
    for stratum, mean in (("short", 0.9), ("long", 0.4)):
        spread = 1 / rho - 1
        for accuracy in rng.beta(mean * spread, (1 - mean) * spread, 4000):
            size = int(rng.integers(3, 9))
            groups.append((stratum, (rng.random(size) < accuracy).tolist()))
    found = measure_reuse(groups)
    assert found is not None and found.rho == pytest.approx(rho, abs=0.02)
    assert found.answers_per_context == pytest.approx(5.5, abs=0.1)


def test_the_design_effect_is_how_much_more_a_mean_varies() -> None:
    rng, k, rho = np.random.default_rng(5), 8, 0.2
    spread = 1 / rho - 1
    means = []
    for _ in range(4000):
        accuracies = rng.beta(0.7 * spread, 0.3 * spread, 10)
        means.append(np.mean(rng.binomial(k, accuracies) / k))
    groups = [("a", (rng.random(k) < a).tolist()) for a in rng.beta(0.7 * spread, 0.3 * spread, 4000)]
    found = measure_reuse(groups)
    assert found is not None
    assert found.design_effect == pytest.approx(np.var(means) / (0.7 * 0.3 / (10 * k)), rel=0.1)
