"""Which power of the length does a cost follow, and how surely?

ln cost = a + b ln n by least squares: b is the exponent. Its interval is Student's, from the deviations of the
measurements from that line.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """cost = factor n^exponent, as fitted to the costs at `lengths`."""

    exponent: float
    factor: float
    half_width: float | None
    """Half of the exponent's 95 % interval; None for two lengths, through which every line goes."""
    lengths: tuple[int, ...]

    @property
    def text(self) -> str:
        """Such as `1.97 ± 0.05`."""
        return f"{self.exponent:.2f}" + ("" if self.half_width is None else f" ± {self.half_width:.2f}")


def fit_power_law(lengths: Sequence[int], costs: Sequence[float]) -> PowerLaw:
    """The least-squares line through (ln n, ln cost). Raises ValueError for fewer than two lengths, or costs that are
    not positive."""
    if len(set(lengths)) < 2:
        raise ValueError("an exponent takes costs at two lengths or more")
    if min(costs) <= 0 or min(lengths) <= 0:
        raise ValueError("lengths and costs must be positive")
    x, y = [math.log(n) for n in lengths], [math.log(cost) for cost in costs]
    slope, intercept = statistics.linear_regression(x, y)
    half, freedom = None, len(x) - 2
    if freedom:
        mean = statistics.fmean(x)
        spread = sum((each - mean) ** 2 for each in x)
        residual = sum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
        half = student_quantile(freedom) * math.sqrt(residual / freedom / spread)
    return PowerLaw(exponent=slope, factor=math.exp(intercept), half_width=half, lengths=tuple(lengths))


def student_quantile(freedom: int, confidence: float = CONFIDENCE) -> float:
    """t with P(|T| <= t) = confidence for Student's distribution of `freedom` degrees of freedom, at least 1."""
    low, high = 0.0, 1.0
    while student_within(high, freedom) < confidence:
        low, high = high, 2 * high
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if student_within(middle, freedom) < confidence else (low, middle)
    return high


def student_within(t: float, freedom: int) -> float:
    """P(|T| <= t), in closed form for whole degrees of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):  # the powers of the cosine rise by two up to freedom - 2
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    series = math.sin(angle) * total
    return 2 / math.pi * (angle + series) if odd else series
