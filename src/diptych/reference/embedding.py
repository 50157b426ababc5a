"""How does a token become a vector? Review table 1 (*Formal Algorithms*, algorithm 1)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def token_embedding(v: int, W_e: Float64[np.ndarray, "d_e N_V"]) -> Float64[np.ndarray, " d_e"]:
    """The column of the token embedding matrix that belongs to the token.

    Input: v in V, a token.
    Output: e in R^{d_e}, its vector.
    Parameters: W_e in R^{d_e x N_V}, the token embedding matrix.
    """
    e = W_e[:, v]
    return np.asarray(e)
