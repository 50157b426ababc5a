"""Where does one paradigm overtake the other, over compute or over epochs?

Held-out loss was measured at some steps of each run. Between them it is taken to be linear in the logarithm of compute
or of epochs, over the range that both runs have gone through. Runs that differ in their seed alone are averaged, and
drawn again with replacement for an interval (Efron 1979). With one run of a kind only the noise of its scores is drawn
again: in training a bound is estimated from one draw a row, the same draw at every step, so that all scores of a run
are off by about the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from diptych.core.random import derive_seed

Axis = Literal["flops", "epochs"]
AXES: Final[tuple[Axis, ...]] = ("flops", "epochs")

RESAMPLES: Final = 2000

Outcome = Literal["overtakes", "never", "throughout", "apart"]
"""The second run has the lower loss: from some place on, not at the end, everywhere, or they share no range."""


@dataclass(frozen=True, kw_only=True)
class HeldoutAt:
    """A held-out score taken in training."""

    step: int
    flops: float
    epochs: float
    bits_per_byte: float


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The held-out scores of a run."""

    run: str
    points: tuple[HeldoutAt, ...]
    noise: float = 0.0
    """Standard deviation of such a score in bits per byte over the draws of its estimate; 0 where it is exact."""

    def along(self, axis: Axis) -> list[tuple[float, float]]:
        """(place, bits per byte), by rising place; what was scored before the first step has no place."""
        return sorted((getattr(p, axis), p.bits_per_byte) for p in self.points if getattr(p, axis) > 0)


@dataclass(frozen=True, kw_only=True)
class Overtaking:
    """Whether a denoiser comes to predict better than an autoregressive run, and where."""

    run: str
    other: str
    """The autoregressive run."""
    axis: Axis
    outcome: Outcome
    at: float | None = None
    """From where on it is the better one, to the end of what both have gone through."""
    resampled: Literal["seeds", "noise"] | None = None
    """What is drawn again: the runs of both recipes, or the noise of the scores; None: nothing, as there is none."""
    interval: tuple[float, float] | None = None
    """Between which the middle 95 % of the resamples that have such a place have it; None: none has."""
    ahead: float | None = None
    """Share of the resamples in which it is the better one at the end."""


def overtaking(
    runs: Sequence[Curve], others: Sequence[Curve], axis: Axis, *, seed: int = 0, resamples: int = RESAMPLES
) -> Overtaking:
    """Where the mean curve of `runs` falls below that of `others` and stays there; each are one recipe's seeds."""
    found = Overtaking(
        run=", ".join(c.run for c in runs), other=", ".join(c.run for c in others), axis=axis, outcome="apart"
    )
    curves = [curve.along(axis) for curve in (*runs, *others)]
    grid = common_grid(curves)
    if grid is None:
        return found
    values = np.array([np.interp(grid, np.log([x for x, _ in c]), [y for _, y in c]) for c in curves])
    ours, theirs = values[: len(runs)], values[len(runs) :]
    outcome, at = last_descent(grid, ours.mean(0) - theirs.mean(0))
    found = replace(found, outcome=outcome, at=None if at is None else math.exp(at))
    noise = math.hypot(*(c.noise / len(runs) for c in runs), *(c.noise / len(others) for c in others))
    over: Literal["seeds", "noise"] = "seeds" if min(len(runs), len(others)) > 1 else "noise"
    if over == "noise" and not noise:
        return found
    generator = np.random.Generator(np.random.PCG64(derive_seed(seed, "overtaking", axis)))
    places, ahead = [], 0
    for _ in range(resamples):
        if over == "seeds":
            difference = _redrawn(ours, generator) - _redrawn(theirs, generator)
        else:
            difference = ours.mean(0) - theirs.mean(0) + noise * generator.standard_normal()
        ahead += difference[-1] < 0
        if (place := last_descent(grid, difference)[1]) is not None:
            places.append(place)
    interval = None
    if places:
        low, high = np.quantile(np.exp(places), (0.025, 0.975))
        interval = float(low), float(high)
    return replace(found, resampled=over, interval=interval, ahead=float(ahead / resamples))


def _redrawn(values: NDArray[np.float64], generator: np.random.Generator) -> NDArray[np.float64]:
    """The mean of as many curves, drawn with replacement."""
    mean: NDArray[np.float64] = values[generator.integers(len(values), size=len(values))].mean(0)
    return mean


def common_grid(curves: Sequence[Sequence[tuple[float, float]]]) -> NDArray[np.float64] | None:
    """The logarithms of all places within the range that all curves have, its ends among them; None: there is none."""
    if not all(curves):
        return None
    places = [np.log([x for x, _ in curve]) for curve in curves]
    low, high = max(p[0] for p in places), min(p[-1] for p in places)
    if low >= high:
        return None
    inside = np.unique(np.concatenate(places))
    return np.unique(np.concatenate(([low], inside[(inside > low) & (inside < high)], [high])))


def last_descent(grid: NDArray[np.float64], difference: NDArray[np.float64]) -> tuple[Outcome, float | None]:
    """Where a function that is linear between the places of a grid last falls below 0, if it is below 0 at the end."""
    if difference[-1] >= 0:
        return "never", None
    above = np.flatnonzero(difference >= 0)
    if not len(above):
        return "throughout", None
    i = int(above[-1])
    share = difference[i] / (difference[i] - difference[i + 1])
    return "overtakes", float(grid[i] + share * (grid[i + 1] - grid[i]))
