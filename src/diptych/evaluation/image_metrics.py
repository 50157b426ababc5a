"""How far apart are two samples of points, and how sure is the answer?

Distances of distributions in some features, and shares of one sample that lie where the other does, each with an
interval of about 95 percent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.evaluation.intervals import Z, wilson

Points = NDArray[np.float64]
"""A sample (n, d)."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and the interval in which it lies with a probability of about 95 percent."""

    value: float
    low: float
    high: float


def share(successes: int, count: int) -> Estimate:
    """A share and its interval (Wilson 1927)."""
    low, high = wilson(successes, count)
    return Estimate(value=successes / count, low=low, high=high)


def frechet_distance(first: Points, second: Points) -> float:
    """Squared Frechet (2-Wasserstein) distance of the normal distributions fitted to two samples (Dowson and Landau
    1982): |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1^1/2 C_2 C_1^1/2)^1/2).

    It is biased upwards by an amount that falls with the number of points: compare values of equal numbers only.
    """
    difference = first.mean(0) - second.mean(0)
    cov_1, cov_2 = np.atleast_2d(np.cov(first, rowvar=False)), np.atleast_2d(np.cov(second, rowvar=False))
    values, vectors = np.linalg.eigh(cov_1)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ cov_2 @ root), 0.0)).sum()
    return float(difference @ difference + np.trace(cov_1) + np.trace(cov_2) - 2.0 * cross)


def frechet(first: Points, second: Points, generator: np.random.Generator, resamples: int = 100) -> Estimate:
    """The Frechet distance and twice its standard error by the bootstrap.

    The error's width is taken and not the quantiles: samples drawn again have fewer different points, so that their
    distance is biased further than the value. Between samples of nearly one distribution the interval is too wide:
    about twice for 350 points of 64 numbers.
    """

    def again() -> float:
        rows_1, rows_2 = (generator.integers(len(x), size=len(x)) for x in (first, second))
        return frechet_distance(first[rows_1], second[rows_2])

    value = frechet_distance(first, second)
    error = float(np.std([again() for _ in range(resamples)], ddof=1))
    return Estimate(value=value, low=max(0.0, value - 2 * error), high=value + 2 * error)


def squared_mmd(first: Points, second: Points) -> float:
    """Unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012, equation 3) with the kernel
    (x . y / d + 1)^3 of the kernel inception distance (Binkowski et al. 2018); about 0 for equal distributions, and as
    often below as above."""

    def kernel(a: Points, b: Points) -> Points:
        products: Points = (a @ b.T / a.shape[1] + 1.0) ** 3
        return products

    def within(x: Points) -> float:
        matrix = kernel(x, x)
        return float((matrix.sum() - np.trace(matrix)) / (len(x) * (len(x) - 1)))

    return within(first) + within(second) - 2.0 * float(kernel(first, second).mean())


def mmd(first: Points, second: Points, generator: np.random.Generator) -> Estimate:
    """The squared discrepancy of the whole samples, and twice its standard error over subsets that share no point.

    The value of the whole is the mean over all ways to cut into such subsets, so that its error is at most theirs.
    """
    count = min(len(first), len(second))
    subsets = max(2, min(10, count // 20))
    cuts = [np.array_split(generator.permutation(len(x)), subsets) for x in (first, second)]
    values = [squared_mmd(first[a], second[b]) for a, b in zip(*cuts, strict=True)]
    error = float(np.std(values, ddof=1)) / math.sqrt(subsets)
    value = squared_mmd(first, second)
    return Estimate(value=value, low=value - 2 * error, high=value + 2 * error)


def squared_distances(first: Points, second: Points) -> Points:
    """Squared Euclidean distances of all pairs (n, m)."""
    squares: Points = (first**2).sum(1)[:, None] + (second**2).sum(1)[None] - 2.0 * first @ second.T
    return squares.clip(0.0)


def _radii(points: Points, neighbours: int) -> NDArray[np.float64]:
    """Squared distance of each point to its `neighbours`-th nearest other one (n)."""
    distances = squared_distances(points, points)
    np.fill_diagonal(distances, 0.0)  # of itself: exactly nothing, and so the first of the sorted
    radii: NDArray[np.float64] = np.partition(distances, neighbours, axis=1)[:, neighbours]
    return radii


def precision_recall(real: Points, made: Points, neighbours: int = 3) -> tuple[Estimate, Estimate]:
    """Improved precision and recall (Kynkaanniemi et al. 2019): the share of made points that lie within the balls of
    real ones, and the reverse. A point's ball reaches to its `neighbours`-th neighbour.

    Intervals are over the points counted, given the balls. Raises ValueError for fewer points than a ball needs.
    """
    _enough(real, made, neighbours)
    distances = squared_distances(real, made)
    precise = (distances <= _radii(real, neighbours)[:, None]).any(0)
    recalled = (distances <= _radii(made, neighbours)[None]).any(1)
    return share(int(precise.sum()), len(made)), share(int(recalled.sum()), len(real))


def density_coverage(real: Points, made: Points, neighbours: int = 5) -> tuple[Estimate, Estimate]:
    """Density and coverage (Naeem et al. 2020): in how many balls of real points a made one lies, in units of
    `neighbours`, and the share of real balls that hold a made point.

    Intervals are over the points counted, given the balls. Raises ValueError for fewer points than a ball needs.
    """
    _enough(real, made, neighbours)
    inside = squared_distances(real, made) <= _radii(real, neighbours)[:, None]
    counts = inside.sum(0) / neighbours
    error = Z * float(counts.std(ddof=1)) / math.sqrt(len(made))
    density = float(counts.mean())
    return (
        Estimate(value=density, low=max(0.0, density - error), high=density + error),
        share(int(inside.any(1).sum()), len(real)),
    )


def _enough(real: Points, made: Points, neighbours: int) -> None:
    if min(len(real), len(made)) <= neighbours:
        raise ValueError(
            f"a ball of {neighbours} neighbours needs at least {neighbours + 1} points on each side, not {len(real)} "
            f"and {len(made)}; make more images, or hold more out"
        )


def resampled(
    values: NDArray[np.float64],
    statistic: Callable[..., NDArray[np.float64]],
    generator: np.random.Generator,
    resamples: int = 500,
) -> Estimate:
    """A statistic of numbers (n), which takes an `axis`, and its interval by the percentile bootstrap."""
    again = values[generator.integers(len(values), size=(resamples, len(values)))]
    low, high = np.quantile(statistic(again, axis=1), [0.025, 0.975])
    return Estimate(value=float(statistic(values, axis=0)), low=float(low), high=float(high))
