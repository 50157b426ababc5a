"""How probable is a sequence, and how is one drawn, token by token?

Review equations 1 and 2 and figure 1 (*Formal Algorithms*, section 3 and algorithm 14). A model is here any function
P from the tokens so far to the distribution of the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from jaxtyping import Float64

Model = Callable[[Sequence[int]], Float64[np.ndarray, " N_V"]]
"""P(. | x): the distribution over the vocabulary of the token that follows x."""


def chain_rule(P: Model, x: Sequence[int], prompt: Sequence[int] = ()) -> float:
    """P(x) = prod_t P(x[t] | x[1:t-1]), equation 1; given what comes before x, if there is a prompt.

    Input: P, a model; x in V*, a sequence.
    Output: the probability of x.
    """
    p = 1.0
    for t in range(len(x)):
        p *= float(P([*prompt, *x[:t]])[x[t]])
    return p


def draw(p: Float64[np.ndarray, " N_V"], u: float) -> int:
    """The token at which the cumulative distribution reaches u in (0, 1): distributed as p where u is uniform."""
    F = np.cumsum(p)
    return int(np.searchsorted(F, u * F[-1]))


def greedy(p: Float64[np.ndarray, " N_V"]) -> int:
    """The most probable token."""
    return int(np.argmax(p))


def generate(P: Model, x: Sequence[int], eos: int, u: Iterable[float]) -> Iterator[int]:
    """x[t] ~ P(. | x[1:t-1]) for t = l+1, l+2, ... until x[t] = eos, equation 2.

    Input: P, a model; x in V*, the prompt of l tokens; u, a uniform number for every token that may be drawn.
    Output: the new tokens, the end of sequence included; fewer where the numbers run out.
    """
    x = list(x)
    for u_t in u:
        x_t = draw(P(x), u_t)
        yield x_t
        if x_t == eos:
            return
        x.append(x_t)


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of figure 1: the tokens so far, the k likeliest next ones, their probabilities, and the one drawn."""

    x: tuple[int, ...]
    candidates: tuple[int, ...]
    p: tuple[float, ...]
    choice: int


def next_token_steps(P: Model, x: Sequence[int], eos: int, u: Iterable[float], k: int) -> Iterator[Step]:
    """Figure 1: how a text grows, and between what the model chose.

    Input: as for `generate`; k, the number of candidates to show at every step, likeliest first.
    Output: a step for every new token.
    """
    so_far = list(x)
    for x_t in generate(P, x, eos, u):
        p = P(so_far)
        candidates = tuple(islice(np.argsort(-p, kind="stable").tolist(), k))
        yield Step(x=tuple(so_far), candidates=candidates, p=tuple(float(p[v]) for v in candidates), choice=x_t)
        so_far.append(x_t)
