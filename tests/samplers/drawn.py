"""The distribution of what a parallel sampler draws, by going through everything that can happen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from scipy import stats

Marginals = dict[int, np.ndarray]
Rule = Callable[[Marginals, int], Sequence[tuple[float, tuple[int, ...]]]]
"""From the distributions at the positions left and the number of the step: sets and how probable it is to take each."""


@dataclass(frozen=True)
class Path:
    """One way to a text: how probable its sets are by the rule's own chance, and its tokens given the sets."""

    text: tuple[int, ...]
    chance: float
    q: float


def paths(p: np.ndarray, rule: Rule, blocks: Sequence[Sequence[int]] | None = None) -> list[Path]:
    """All ways to all texts of a table p; block after block where blocks are given, each with its steps from 0."""
    blocks = [range(p.ndim)] if blocks is None else blocks
    found: list[Path] = []

    def go(known: dict[int, int], chance: float, q: float, block: int, step: int) -> None:
        left = [i for i in blocks[block] if i not in known]
        if not left and block + 1 < len(blocks):
            go(known, chance, q, block + 1, 0)
            return
        if not left:
            found.append(Path(tuple(known[i] for i in range(p.ndim)), chance, q))
            return
        table = p[tuple(slice(known[i], known[i] + 1) if i in known else slice(None) for i in range(p.ndim))]
        table = table / table.sum()
        marginals = {i: table.sum(tuple(j for j in range(p.ndim) if j != i)) for i in left}
        for share, chosen in rule(marginals, step):
            for tokens in product(range(p.shape[0]), repeat=len(chosen)):
                drawn = math.prod(marginals[i][token] for i, token in zip(chosen, tokens, strict=True))
                if drawn > 0:
                    go(known | dict(zip(chosen, tokens, strict=True)), chance * share, q * drawn, block, step + 1)

    go({}, 1.0, 1.0, 0, 0)
    return found


def distribution(p: np.ndarray, found: Sequence[Path]) -> np.ndarray:
    """q(x), over all paths."""
    q = np.zeros_like(p)
    for path in found:
        q[path.text] += path.chance * path.q
    return q


def in_random_order(*sizes: int) -> Rule:
    """Every set of the step's size is as probable."""

    def rule(marginals: Marginals, step: int) -> list[tuple[float, tuple[int, ...]]]:
        sets = list(combinations(marginals, sizes[step]))
        return [(1 / len(sets), some) for some in sets]

    return rule


def surest_first(*sizes: int) -> Rule:
    """The positions of the largest probabilities."""
    return lambda marginals, step: [(1.0, tuple(sorted(marginals, key=lambda i: -marginals[i].max())[: sizes[step]]))]


def all_above(threshold: float) -> Rule:
    """The positions whose largest probability reaches a threshold, or the one that comes nearest."""

    def rule(marginals: Marginals, step: int) -> list[tuple[float, tuple[int, ...]]]:
        sure = tuple(i for i in marginals if marginals[i].max() >= threshold)
        return [(1.0, sure or (max(marginals, key=lambda i: marginals[i].max()),))]

    return rule


def all_within(bound: float) -> Rule:
    """The largest set of which the entropies without the largest one stay within a bound; of several the lowest."""

    def rule(marginals: Marginals, step: int) -> list[tuple[float, tuple[int, ...]]]:
        h = {i: float(stats.entropy(marginals[i])) for i in marginals}
        sets = [some for size in range(1, len(h) + 1) for some in combinations(h, size)]
        fitting = [s for s in sets if len(s) == 1 or sum(h[i] for i in s) - max(h[i] for i in s) <= bound]
        return [(1.0, min(fitting, key=lambda s: (-len(s), sum(h[i] for i in s))))]

    return rule
