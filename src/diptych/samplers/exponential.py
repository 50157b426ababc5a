"""How is a step taken whose only unknown is the path of D within it?

Over the time u = -ln sigma, x(u + h) = e^-h x(u) + int_0^h e^(tau - h) D(u + tau) d tau. A polynomial through known
values of D is integrated exactly, so the step is a sum of them with weights that depend on the noise levels alone
(exponential Adams methods: Hochbruck and Ostermann 2010, section 2.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import final

from torch import Tensor


@final
class Past:
    """The last `length` values of D with their times u = -ln sigma, oldest first."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.times: list[float] = []
        self.values: list[Tensor] = []

    def __len__(self) -> int:
        return len(self.times)

    def add(self, sigma: float, denoised: Tensor) -> Tensor:
        """Remember D at a noise level, which is returned, and forget what is older than `length` values."""
        self.remember(-math.log(sigma), denoised)
        return denoised

    def remember(self, time: float, value: Tensor) -> None:
        """Remember a value of whatever time, and forget what is older than `length` values."""
        self.times = [*self.times, time][-self.length :]
        self.values = [*self.values, value][-self.length :]

    def last(self, count: int) -> Past:
        """The last `count` of them."""
        newest = Past(count)
        newest.times, newest.values = self.times[-count:], self.values[-count:]
        return newest


def mix(scale: float, x: Tensor, *terms: tuple[float, Tensor]) -> Tensor:
    """scale x + sum of weight term, in a new tensor, of which nothing else is allocated."""
    total = x * scale
    for weight, term in terms:
        total.add_(term, alpha=weight)
    return total


def extrapolate(x: Tensor, past: Past, after: float, *, start: int = 0) -> Tensor:
    """The step from x to the noise level `after` > 0, with the polynomial through all values of D.

    x stands at the newest value's time; or `start` values before it, and then the polynomial looks ahead.
    """
    now = past.times[-1 - start]
    h = -math.log(after) - now
    nodes = [(time - now) / h for time in past.times]
    return mix(math.exp(-h), x, *zip(adams_weights(nodes, h), past.values, strict=True))


def straight(x: Tensor, past: Past, after: float, *, start: int = 0) -> Tensor:
    """x + int f of the polynomial f through all values, from x's time to `after`; `start`: see `extrapolate`."""
    now = past.times[-1 - start]
    h = after - now
    nodes = [(time - now) / h for time in past.times]
    weights = lagrange_weights(nodes, [h / (k + 1) for k in range(len(nodes))])
    return mix(1.0, x, *zip(weights, past.values, strict=True))


def midpoint(x: Tensor, past: Past, after: float, *, start: int = 0, decay: float = 1.0) -> Tensor:
    """The step from x to the noise level `after` > 0, with D held at what the last two values say of the step's middle.

    decay: 2 for the mean of the stochastic equation's step, where x fades by e^-2h. Fewer than two values: D is held.
    """
    now = past.times[-1 - start]
    h = -math.log(after) - now
    whole = -math.expm1(-decay * h)
    if len(past) < 2:
        return mix(math.exp(-decay * h), x, (whole, past.values[-1]))
    older, newer = past.times[-2:]
    share = (now + 0.5 * h - older) / (newer - older)
    return mix(math.exp(-decay * h), x, (whole * share, past.values[-1]), (whole * (1.0 - share), past.values[-2]))


def adams_weights(nodes: Sequence[float], h: float) -> list[float]:
    """int_0^h e^(tau - h) l_j(tau / h) d tau of each Lagrange polynomial l_j of the nodes, which are in units of h."""
    return lagrange_weights(nodes, exponential_moments(h, len(nodes)))


def lagrange_weights(nodes: Sequence[float], moments: Sequence[float]) -> list[float]:
    """A linear functional of each Lagrange polynomial of the nodes, from what it gives for 1, tau, tau^2, ..."""
    weights = []
    for j, node in enumerate(nodes):
        polynomial = [1.0]
        for other in (*nodes[:j], *nodes[j + 1 :]):
            raised, same = [0.0, *polynomial], [*polynomial, 0.0]
            polynomial = [(a - other * b) / (node - other) for a, b in zip(raised, same, strict=True)]
        weights.append(sum(a * b for a, b in zip(polynomial, moments, strict=True)))
    return weights


def exponential_moments(h: float, count: int) -> list[float]:
    """int_0^h e^(tau - h) (tau / h)^k d tau for k < count: h k! phi_(k+1)(-h) of the literature.

    By parts each follows from the next; down from a series where h is small, up where that loses no digits.
    """
    if h > 1.0:
        moments = [-math.expm1(-h)]
        for k in range(1, count):
            moments.append(1.0 - k / h * moments[-1])
        return moments
    term = total = h / count  # the series of the last one, sum over j of (-h)^j h (count - 1)! / (count + j)!
    for j in range(1, 20):
        term *= -h / (count + j)
        total += term
    moments = [total]
    for k in range(count - 1, 0, -1):
        moments.append((1.0 - moments[-1]) * h / k)
    return moments[::-1]
