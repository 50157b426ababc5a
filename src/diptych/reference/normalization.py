"""How is a vector brought to one scale?

Review table 3 (Ba et al. 2016; *Formal Algorithms*, algorithm 6), and its root-mean-square form (Zhang and Sennrich
2019).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def layer_norm(
    e: Float64[np.ndarray, " d_e"],
    gamma: Float64[np.ndarray, " d_e"],
    beta: Float64[np.ndarray, " d_e"],
    epsilon: float = 1e-5,
) -> Float64[np.ndarray, " d_e"]:
    """Table 3: mean zero and variance one, then scaled and shifted, elementwise.

    Input: e in R^{d_e}, the vector of a position.
    Output: e_hat in R^{d_e}.
    Parameters: gamma, beta in R^{d_e}, scale and offset; epsilon > 0 keeps a constant vector from dividing by zero.
    """
    d_e = len(e)
    m = sum(e[i] for i in range(d_e)) / d_e
    v = sum((e[i] - m) ** 2 for i in range(d_e)) / d_e
    e_hat = (e - m) / np.sqrt(v + epsilon) * gamma + beta
    return np.asarray(e_hat)


def rms_norm(
    e: Float64[np.ndarray, " d_e"], gamma: Float64[np.ndarray, " d_e"], epsilon: float = 1e-5
) -> Float64[np.ndarray, " d_e"]:
    """Mean square one, then scaled: layer normalization without the mean (Zhang and Sennrich 2019, equation 4)."""
    d_e = len(e)
    v = sum(e[i] ** 2 for i in range(d_e)) / d_e
    return np.asarray(e / np.sqrt(v + epsilon) * gamma)
