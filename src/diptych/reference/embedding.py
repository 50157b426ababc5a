"""How do tokens become vectors, and vectors distributions over tokens?

Review tables 1 and 2 (*Formal Algorithms*, algorithms 1 and 7).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64


def token_embedding(v: int, W_e: Float64[np.ndarray, "d_e N_V"]) -> Float64[np.ndarray, " d_e"]:
    """Table 1: the column of the embedding matrix that stands for the token.

    Input: v in V, a token.
    Output: e in R^{d_e}, its vector.
    Parameters: W_e in R^{d_e x N_V}, the token embedding matrix.
    """
    return np.asarray(W_e[:, v])


def unembedding(e: Float64[np.ndarray, " d_e"], W_u: Float64[np.ndarray, "N_V d_e"]) -> Float64[np.ndarray, " N_V"]:
    """Table 2: score every token against the vector, and normalize.

    Input: e in R^{d_e}, the vector of a position.
    Output: p in Delta(V), a distribution over the vocabulary.
    Parameters: W_u in R^{N_V x d_e}, the un-embedding matrix; W_e^T where the two are tied.
    """
    return softmax(W_u @ e)


def softmax(S: Float64[np.ndarray, "n ..."]) -> Float64[np.ndarray, "n ..."]:
    """exp(S[i, j]) / sum_i exp(S[i, j]): down each column, so that columns sum to one.

    A score of -inf gets probability zero; a column of nothing but -inf is no distribution and raises ValueError.
    """
    largest = S.max(axis=0, keepdims=True)
    if np.isneginf(largest).any():
        raise ValueError("a column of scores is -inf throughout: no position may be attended to")
    weights = np.exp(S - largest)  # the shift cancels, and keeps exp from overflowing
    return np.asarray(weights / weights.sum(axis=0, keepdims=True))
