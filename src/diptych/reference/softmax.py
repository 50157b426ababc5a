"""How do scores become a distribution?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def softmax(S: Float64[np.ndarray, "n ..."]) -> Float64[np.ndarray, "n ..."]:
    """exp(S[i, j]) / sum_i exp(S[i, j]): down each column, so that columns sum to one.

    A score of -inf gets probability zero; a column of nothing but -inf is no distribution and raises ValueError.
    """
    largest = S.max(axis=0, keepdims=True)
    if np.isneginf(largest).any():
        raise ValueError("a column of scores is -inf throughout: no position may be attended to")
    weights = np.exp(S - largest)  # the shift cancels, and keeps exp from overflowing
    return np.asarray(weights / weights.sum(axis=0, keepdims=True))
