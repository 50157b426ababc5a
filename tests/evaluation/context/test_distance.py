"""The fit of accuracy against distance, against scipy's maximum, known curves and known windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize

from diptych.evaluation.context.distance import effective_distance
from diptych.evaluation.context.result import Distance

M, TAU = 8, 0.85
Contexts = list[list[tuple[int, bool]]]


def curve(middle: float, steepness: float, lapse: float) -> Callable[[float], float]:
    return lambda d: 1 / M + (1 - 1 / M) * (1 - lapse) / (1 + (d / middle) ** steepness)


def asked(accuracy: Callable[[float], float], seed: int = 0, contexts: int = 60, probes: int = 20) -> Contexts:
    """Answers to questions whose distances, 16 to 4095, are uniform in their logarithm."""
    rng = np.random.default_rng(seed)
    drawn = np.exp(rng.uniform(np.log(16), np.log(4096), (contexts, probes))).astype(int)
    return [[(int(d), bool(rng.random() < accuracy(d))) for d in of] for of in drawn]


def measure(contexts: Contexts, resamples: int = 100, tau: float = TAU) -> Distance:
    found = effective_distance(contexts, n_candidates=M, tau=tau, seed=0, resamples=resamples)
    assert found is not None
    return found


@pytest.mark.parametrize(("middle", "steepness", "lapse"), [(500, 3, 0.03), (200, 1.5, 0.0), (900, 6, 0.1)])
def test_the_fit_is_where_scipy_finds_the_greatest_likelihood(middle: float, steepness: float, lapse: float) -> None:
    """Over all answers one by one, by another method, from several beginnings; 120 distances, so none share a bin."""
    grid = np.unique(np.geomspace(16, 4096, 120).astype(int))
    rng, accuracy = np.random.default_rng(1), curve(middle, steepness, lapse)
    contexts = [[(int(d), bool(rng.random() < accuracy(d))) for d in rng.choice(grid, 20)] for _ in range(150)]
    d, right = (np.array(column, dtype=float) for column in zip(*(a for of in contexts for a in of), strict=True))

    def loss(p: np.ndarray) -> float:
        q = 1 / M + (1 - 1 / M) * (1 - p[2]) / (1 + (d / np.exp(p[0])) ** np.exp(p[1]))
        return float(-np.where(right == 1, np.log(q), np.log1p(-q)).sum())

    bounds = [(np.log(16), np.log(4096)), (np.log(0.1), np.log(100)), (1e-6, 0.5)]
    starts = [(np.log(m), s, l) for m in (100, 400, 1500) for s in (0.0, 1.5) for l in (0.01, 0.1)]
    best = min((minimize(loss, start, bounds=bounds, method="L-BFGS-B") for start in starts), key=lambda fit: fit.fun).x
    expected = np.exp(best[0]) * ((1 - best[2]) / TAU - 1) ** (1 / np.exp(best[1]))
    assert measure(contexts, 2).value == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize(("middle", "steepness", "lapse"), [(500, 3, 0.03), (900, 6, 0.05)])
def test_the_interval_holds_the_true_distance_about_as_often_as_it_says(
    middle: float, steepness: float, lapse: float
) -> None:
    true = middle * ((1 - lapse) / TAU - 1) ** (1 / steepness)
    accuracy, runs, inside = curve(middle, steepness, lapse), 30, 0
    for seed in range(runs):
        found = measure(asked(accuracy, seed, contexts=40), 60)
        inside += (found.low or 0) <= true <= (found.high or np.inf)
    # Fewer than 24 of 30 would happen once in 3,000 times at a coverage of 95 %.
    assert inside >= 24


def test_a_hard_window_is_found_within_the_gaps_between_distances() -> None:
    for window in (60, 500, 2000):
        found = measure(asked(lambda d, w=window: 1.0 if d <= w else 1 / M, contexts=150))
        assert found.value == pytest.approx(window, rel=0.04) and found.beyond is None
        assert found.low is not None and found.high is not None
        assert found.low <= found.value <= found.high and found.high / found.low < 1.1


def test_what_never_falls_is_beyond_and_what_never_rises_below() -> None:
    assert measure(asked(lambda d: 1.0)) == Distance(value=None, low=None, high=None, beyond=True)
    lapsing = measure(asked(lambda d: 0.95))
    assert (lapsing.value, lapsing.high, lapsing.beyond) == (None, None, True) and (lapsing.low or 4096) > 3000
    for below in (lambda d: 1 / M, curve(500, 3, 0.3)):
        assert measure(asked(below)) == Distance(value=None, low=None, high=None, beyond=False)


def test_an_end_of_the_interval_outside_of_what_was_asked_is_not_a_number() -> None:
    """The fall begins just before the farthest distance, so some resamples do not show it."""
    found = measure(asked(curve(5000, 4, 0.0), contexts=40))
    assert found.value is not None and found.value < 4096 and found.low is not None and found.high is None


def test_contexts_are_resampled_not_probes() -> None:
    """Answers about one context that are all alike widen the interval as so many fewer contexts would."""
    single = asked(curve(500, 2, 0.0), contexts=300, probes=1)
    repeated = [of * 10 for of in single]
    shuffled = [[answer] for of in repeated for answer in of]

    def width(contexts: Contexts) -> float:
        found = measure(contexts, 200)
        assert found.low is not None and found.high is not None
        return float(np.log(found.high / found.low))

    assert width(repeated) == pytest.approx(width(single), rel=1e-2)
    assert width(shuffled) < 0.5 * width(single)


def test_the_same_seed_gives_the_same_numbers_and_too_little_gives_none() -> None:
    contexts = asked(curve(500, 3, 0.03))
    assert measure(contexts) == measure(contexts)
    for little in ([], [[(16, True), (32, False)]], [[(16, True)], [(16, False)]], [[], []]):
        assert effective_distance(little, n_candidates=M, tau=TAU, seed=0) is None
