"""How far back does a needle stand when it is no longer found?

The share of right answers against the distance d to the needle is fitted by a psychometric curve (Wichmann and Hill
2001), logistic in ln d: chance + (1 - chance) (1 - lapse) / (1 + (d / middle)^steepness). Answers of contexts of all
lengths are pooled: what the length itself does to answers at the same distance is averaged over. Where accuracy rises
again, as for a model that finds what stands first, the fit says less than the accuracies by depth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diptych.core.random import derive_seed
from diptych.evaluation.context.result import Distance

MOST_BINS: Final = 256
"""Ranges of distance, of equal ratios, within which answers are fitted as if their distance were the range's mean."""
MOST_LAPSE: Final = 0.5
STEEPNESS: Final = (0.1, 100.0)
"""Bounds of the curve's slope against ln distance at its middle; at the upper one it falls within 5 %."""
ITERATIONS: Final = 25
"""Of the fit, after which the log-likelihood is within 0.01 of its maximum."""

Array = NDArray[np.float64]


def effective_distance(
    contexts: Sequence[Sequence[tuple[int, bool]]], *, n_candidates: int, tau: float, seed: int, resamples: int = 400
) -> Distance | None:
    """The distance at which the fitted accuracy, corrected for chance, falls to tau, and its 95 % interval.

    contexts: of each its answers (distance in tokens, right). The interval is the percentile bootstrap's over contexts,
    since answers about one context are not independent. None for less than two contexts or two distances.
    """
    given = [answers for answers in contexts if answers]
    right, count, x = _table(given)
    if len(given) < 2 or len(x) < 2:
        return None
    generator = np.random.default_rng(derive_seed(seed, "context", "distance"))
    weights = generator.multinomial(len(given), np.full(len(given), 1 / len(given)), size=resamples)
    weights = np.concatenate([np.ones((1, len(given)), dtype=np.int64), weights])
    crossings = _crossings(_fit(weights @ right, weights @ count, x, 1 / n_candidates), tau)
    first, last = (math.log(end([distance for answers in given for distance, _ in answers])) for end in (min, max))
    low, high = np.quantile(crossings[1:], [0.025, 0.975], method="nearest")
    value = float(crossings[0])

    def within(log_distance: float) -> float | None:
        return math.exp(log_distance) if first <= log_distance <= last else None

    return Distance(
        value=within(value),
        low=within(float(low)),
        high=within(float(high)),
        beyond=None if first <= value <= last else value > last,
    )


def _table(contexts: Sequence[Sequence[tuple[int, bool]]]) -> tuple[Array, Array, Array]:
    """Right answers and all (contexts, bins), and the mean ln distance of each bin (bins)."""
    owner = np.repeat(np.arange(len(contexts)), [len(answers) for answers in contexts])
    distances = np.array([distance for answers in contexts for distance, _ in answers], dtype=np.float64)
    hits = np.array([is_right for answers in contexts for _, is_right in answers], dtype=np.float64)
    if not len(distances):
        return np.zeros((len(contexts), 0)), np.zeros((len(contexts), 0)), np.zeros(0)
    x = np.log(distances)
    labels = x if len(np.unique(x)) <= MOST_BINS else np.floor((x - x.min()) / (np.ptp(x) / MOST_BINS))
    _, bins = np.unique(labels, return_inverse=True)
    shape = (len(contexts), int(bins.max()) + 1)
    right, count = np.zeros(shape), np.zeros(shape)
    np.add.at(right, (owner, bins), hits)
    np.add.at(count, (owner, bins), 1)
    return right, count, np.bincount(bins, x) / np.bincount(bins)


def _accuracy(parameters: Array, x: Array, chance: float) -> tuple[Array, Array]:
    """Accuracies (..., bins) of curves (..., 3): ln middle, ln steepness, lapse; and the logistic part of them."""
    middle, steepness, lapse = (parameters[..., [k]] for k in range(3))
    fall = 1 / (1 + np.exp(np.clip(np.exp(steepness) * (x - middle), -500, 500)))
    accuracy = chance + (1 - chance) * (1 - lapse) * fall
    return np.clip(accuracy, 1e-9, 1 - 1e-9), fall


def _likelihood(parameters: Array, right: Array, count: Array, x: Array, chance: float) -> Array:
    """Log-likelihoods (...) of curves (..., 3) for answers (..., bins)."""
    accuracy, _ = _accuracy(parameters, x, chance)
    likelihood: Array = (right * np.log(accuracy) + (count - right) * np.log1p(-accuracy)).sum(-1)
    return likelihood


def _fit(right: Array, count: Array, x: Array, chance: float) -> Array:
    """The likeliest curves (tables, 3) for tables of answers (tables, bins).

    Fisher's scoring with Levenberg's damping, within bounds, from the best of a grid: the likelihood of a steep fall
    has more than one maximum.
    """
    low = np.array([x.min() - 1, math.log(STEEPNESS[0]), 0.0])
    high = np.array([x.max() + 1, math.log(STEEPNESS[1]), MOST_LAPSE])
    axes = [np.linspace(a, b, n) for a, b, n in zip(low, high, (40, 8, 5), strict=True)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    accuracy, _ = _accuracy(grid, x, chance)
    best: Array = grid[(right @ np.log(accuracy).T + (count - right) @ np.log1p(-accuracy).T).argmax(-1)]
    likelihood, damping = _likelihood(best, right, count, x, chance), np.full(len(best), 1e-3)
    for _ in range(ITERATIONS):
        accuracy, fall = _accuracy(best, x, chance)
        slope = (1 - chance) * (1 - best[:, [2]]) * fall * (1 - fall) * np.exp(best[:, [1]])
        gradient = np.stack([slope, -slope * (x - best[:, [0]]), -(1 - chance) * fall], -1)
        spread = accuracy * (1 - accuracy)
        score = (gradient * ((right - count * accuracy) / spread)[..., None]).sum(1)
        information = np.einsum("tbi,tb,tbj->tij", gradient, count / spread, gradient)
        diagonal = np.einsum("tii->ti", information)
        # A parameter at a bound that its score pushes against stays there; the others move as if it were known.
        stuck = ((best <= low) & (score < 0)) | ((best >= high) & (score > 0))
        information = np.where(stuck[:, :, None] | stuck[:, None, :], 0, information)
        information += np.eye(3) * (damping[:, None] * diagonal + stuck + 1e-9)[:, None, :]
        step = np.linalg.solve(information, np.where(stuck, 0, score)[..., None])[..., 0]
        tried = np.clip(best + step, low, high)
        reached = _likelihood(tried, right, count, x, chance)
        better = reached >= likelihood
        best, likelihood = np.where(better[:, None], tried, best), np.where(better, reached, likelihood)
        damping = np.clip(np.where(better, damping / 10, damping * 10), 1e-9, 1e9)
    return best


def _crossings(parameters: Array, tau: float) -> Array:
    """ln distances (...) at which curves (..., 3) corrected for chance fall to tau; -inf where they never reach it."""
    middle, steepness, lapse = np.moveaxis(parameters, -1, 0)
    odds = (1 - lapse) / tau - 1
    crossings: Array = np.where(odds > 0, middle + np.log(np.where(odds > 0, odds, 1)) / np.exp(steepness), -np.inf)
    return crossings
