"""How is a translator trained, and how is its best translation found?

Label smoothing and the warm-up of Vaswani et al. 2017 (sections 5.3 and 5.4), and beam search with the length penalty
of Wu et al. 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
from jaxtyping import Float64

from diptych.reference.generation import Model, chain_rule

Ranked = list[tuple[tuple[int, ...], float]]
"""Sequences and their scores, best first."""


def smoothed_cross_entropy(p: Float64[np.ndarray, " N_V"], v: int, epsilon: float) -> float:
    """-sum_i q[i] ln p[i] for q = (1 - epsilon) onehot(v) + epsilon / N_V (Szegedy et al. 2016, section 7).

    Input: p in Delta(V), the prediction; v in V, the token that came; epsilon, the share spread over all tokens.
    """
    q = np.full(len(p), epsilon / len(p))
    q[v] += 1 - epsilon
    return float(-(q * np.log(p)).sum())


def warm_up(step: int, d_model: int, warmup_steps: int) -> float:
    """lrate = d_model^-0.5 min(step^-0.5, step warmup_steps^-1.5), step from 1 (Vaswani et al. 2017, equation 3)."""
    return float(d_model**-0.5 * min(step**-0.5, step * warmup_steps**-1.5))


def length_penalty(length: int, alpha: float) -> float:
    """lp = (5 + length)^alpha / (5 + 1)^alpha (Wu et al. 2016, equation 14)."""
    return float((5 + length) ** alpha / (5 + 1) ** alpha)


def best_of_all(P: Model, eos: int, N_V: int, l_max: int, lp: Callable[[int], float]) -> Ranked:
    """Every sequence that ends with eos or has l_max tokens, by ln P(x) / lp(|x|): N_V^l_max of them."""
    found: dict[tuple[int, ...], float] = {}
    for x in product(range(N_V), repeat=l_max):
        end = x.index(eos) + 1 if eos in x else l_max
        found[x[:end]] = math.log(chain_rule(x[:end], P)) / lp(end)
    return sorted(found.items(), key=lambda item: -item[1])


def beam_search(P: Model, eos: int, l_max: int, k: int, lp: Callable[[int], float]) -> Ranked:
    """The k best sequences among those that grow out of the k likeliest beginnings at every length.

    Input: P, a model; l_max, the length at which to stop; k, the number of beams; lp, by what ln P(x) is divided.
    Output: at most k sequences and their scores. The search stops where no beginning scores above the k-th of them.
    """
    live: Ranked = [((), 0.0)]
    finished: Ranked = []
    for length in range(1, l_max + 1):
        grown = [((*x, v), score + math.log(p)) for x, score in live for v, p in enumerate(P(x))]
        grown.sort(key=lambda item: -item[1])
        ended = [(x, score) for x, score in grown[:k] if x[-1] == eos or length == l_max]
        finished += [(x, score / lp(length)) for x, score in ended]
        finished = sorted(finished, key=lambda item: -item[1])[:k]
        live = [(x, score) for x, score in grown if x[-1] != eos][:k]
        if len(finished) == k and finished[-1][1] >= live[0][1] / lp(length):
            break
    return finished
