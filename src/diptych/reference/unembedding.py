"""How does a vector become a distribution over tokens? Review table 2 (*Formal Algorithms*, algorithm 7)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from diptych.reference.softmax import softmax


def unembedding(e: Float64[np.ndarray, " d_e"], W_u: Float64[np.ndarray, "N_V d_e"]) -> Float64[np.ndarray, " N_V"]:
    """Score every token against the vector, and normalize.

    Input: e in R^{d_e}, the vector of a position.
    Output: p in Delta(V), a distribution over the vocabulary.
    Parameters: W_u in R^{N_V x d_e}, the un-embedding matrix; W_e^T where the two are tied.
    """
    p = softmax(W_u @ e)
    return p
