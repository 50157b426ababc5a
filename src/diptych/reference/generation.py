"""How probable is a sequence, and how is one drawn, token by token?

Review equations 1 and 2 and figure 1 (*Formal Algorithms*, section 3 and algorithm 14). A model is here any function
P from the tokens so far to the distribution of the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

Model = Callable[[Sequence[int]], Float64[np.ndarray, " N_V"]]
"""P(. | x): the distribution over the vocabulary of the token that follows x."""


def chain_rule(x: Sequence[int], P: Model) -> float:
    """Equation 1: P(x) = prod_t P(x[t] | x[1:t-1]).

    Input: x in V*, a sequence; P, a model.
    Output: the probability of x.
    """
    p = 1.0
    for t in range(len(x)):
        p *= float(P(x[:t])[x[t]])
    return p


def draw(p: Float64[np.ndarray, " N_V"], u: float) -> int:
    """The token at which the cumulative distribution reaches u in (0, 1): distributed as p where u is uniform."""
    F = np.cumsum(p)
    return int(np.searchsorted(F, u * F[-1]))


def greedy(p: Float64[np.ndarray, " N_V"]) -> int:
    """The most probable token."""
    return int(np.argmax(p))


def generate(x: Sequence[int], P: Model, eos: int, l_max: int, u: Iterable[float]) -> list[int]:
    """Equation 2: x[t] ~ P(. | x[1:t-1]) for t = l+1, l+2, ... until x[t] = eos.

    Input: x in V*, the prompt of l tokens; P, a model; l_max, the length at which to stop in any case; u, a uniform
    number for every token that may be drawn.
    Output: the prompt and the new tokens, the end of sequence included.
    """
    x = list(x)
    for _, u_t in zip(range(l_max - len(x)), u, strict=False):
        x.append(draw(P(x), u_t))
        if x[-1] == eos:
            break
    return x


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step of figure 1: the tokens so far, the k likeliest next ones with their probabilities, and the one drawn."""

    x: tuple[int, ...]
    candidates: tuple[int, ...]
    probabilities: tuple[float, ...]
    chosen: int


def next_token_steps(x: Sequence[int], P: Model, eos: int, l_max: int, u: Iterable[float], k: int) -> list[Step]:
    """Figure 1: how a text grows, and between what the model chose.

    Input: as for `generate`; k, the number of candidates to show at every step, likeliest first.
    Output: a step for every new token.
    """
    steps = []
    whole = generate(x, P, eos, l_max, u)
    for t in range(len(x), len(whole)):
        p = P(whole[:t])
        likeliest = tuple(np.argsort(-p, kind="stable").tolist()[:k])
        probabilities = tuple(float(p[v]) for v in likeliest)
        steps.append(Step(x=tuple(whole[:t]), candidates=likeliest, probabilities=probabilities, chosen=whole[t]))
    return steps
