"""Is the mean of observations between 0 and 1 above a number, or below it, whenever we choose to look?

A gambler starts with 1 and bets before each observation that it will lie on one side of the number; if the mean does
not lie there, the chance that the capital ever reaches 1 / alpha is at most alpha (Ville's inequality). So one may stop
at any time, for any reason.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Final, Literal, final

from diptych.evaluation.context.result import Reuse

Side = Literal["above", "below"]
"""Where the gambler expects the mean."""

BETS: Final = ((0.99, 0.5), (0.5, 0.3), (0.2, 0.2))
"""Shares of the largest bet that cannot ruin, and of the first capital laid on each. The boldest has half of it: 31
observations of 1 show a mean above 0.869 at alpha = 0.025. At 1, one failure would ruin it."""


@final
class MeanTest:
    """An anytime-valid test that the mean of independent observations in [0, 1] lies on one side of a number.

    The capital is a mixture over fixed bets l of prod(1 + l (x - mean)), for "below" of prod(1 + l (mean - x))
    (Waudby-Smith and Ramdas 2024). Raises ValueError for a mean outside of (0, 1).
    """

    def __init__(self, mean: float, side: Side) -> None:
        if not 0 < mean < 1:
            raise ValueError(f"a mean of observations in [0, 1] is compared with a number in (0, 1), not {mean}")
        self.mean = mean
        sign = 1 if side == "above" else -1
        largest = 1 / mean if side == "above" else 1 / (1 - mean)
        self.bets = tuple(share * largest * sign for share, _ in BETS)
        self.stakes = [weight for _, weight in BETS]
        self.capital = 1.0
        self.highest = 1.0
        """Largest capital so far: what once has been shown stays shown."""

    def add(self, observation: float) -> None:
        """Settle the bets on one more observation. Raises ValueError for one outside of [0, 1]."""
        if not 0 <= observation <= 1:
            raise ValueError(f"the tests of a mean take observations in [0, 1], not {observation}")
        gap = observation - self.mean
        self.stakes = [stake * (1 + bet * gap) for stake, bet in zip(self.stakes, self.bets, strict=True)]
        self.capital = sum(self.stakes)
        self.highest = max(self.highest, self.capital)

    @property
    def p_value(self) -> float:
        """The smallest alpha at which the mean has been shown to lie on this side, in [0, 1]; 1 before anything is."""
        return 1 / self.highest

    def shown(self, alpha: float) -> bool:
        """Whether the mean lies on this side; wrongly said with a probability of at most alpha."""
        return self.highest * alpha >= 1


def measure_reuse(answers: Iterable[tuple[Hashable, Sequence[bool]]]) -> Reuse | None:
    """How much alike are the answers about one context?

    answers: for each context its answers, and the stratum that it is compared within, such as (length, depth); contexts
    of different strata may differ in difficulty. rho is the intraclass correlation of a one-way analysis of variance
    (Donner 1986), pooled over strata, in [-1 / (k - 1), 1]; the design effect is 1 + (k - 1) rho, with k = sum k^2 /
    sum k for contexts of unequal size. None where it is not defined: no stratum with two contexts, no context with two
    answers, or all answers alike.
    """
    strata: dict[Hashable, list[tuple[int, int]]] = {}
    for stratum, given in answers:
        if given:
            strata.setdefault(stratum, []).append((sum(given), len(given)))
    groups = [group for of in strata.values() for group in of]
    count, squares = sum(k for _, k in groups), sum(k * k for _, k in groups)
    between_freedom, within_freedom = len(groups) - len(strata), count - len(groups)
    if not between_freedom or not within_freedom:
        return None
    within = sum(right * (k - right) / k for right, k in groups) / within_freedom
    between = size = 0.0
    for of in strata.values():
        right, total = (sum(column) for column in zip(*of, strict=True))
        between += sum(r * r / k for r, k in of) - right * right / total
        size += total - sum(k * k for _, k in of) / total
    between, size = between / between_freedom, size / between_freedom
    spread = between + (size - 1) * within
    if spread <= 0:
        return None
    rho = (between - within) / spread
    return Reuse(rho=rho, answers_per_context=count / len(groups), design_effect=1 + (squares / count - 1) * rho)
