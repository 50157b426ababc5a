"""How is attention computed without ever holding all its scores? Review reference 11.

FlashAttention-2 (Dao 2023): algorithm 1, the tiled forward pass with the online softmax, and algorithm 2, the tiled
backward pass, which recomputes probabilities from the log-sum-exp; and the merging of attentions over disjoint keys.
As in that paper the rows of a matrix are positions, and scores are not scaled: give Q / sqrt(d) where they shall be. A
query that may attend to nothing gets O_i = 0 and L_i = -inf.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float64


def flash_attention_2_forward(
    Q: Float64[np.ndarray, "N d"],
    K: Float64[np.ndarray, "M d"],
    V: Float64[np.ndarray, "M d_v"],
    Mask: Bool[np.ndarray, "N M"],
    B_r: int,
    B_c: int,
) -> tuple[Float64[np.ndarray, "N d_v"], Float64[np.ndarray, " N"]]:
    """Algorithm 1: for each block of queries, go over the blocks of keys once, keeping a running maximum and sum.

    Input: Q in R^{N x d}; K in R^{M x d}, V in R^{M x d_v}. Mask[i, j] says whether query i may attend to key j.
    Output: O = softmax(Q K^T) V in R^{N x d_v}; L in R^N, the log-sum-exp of each row of scores.
    Parameters: B_r, queries of a block; B_c, keys of a block. Only B_r x B_c scores exist at a time.
    """
    O = np.zeros((len(Q), V.shape[1]))
    L = np.full(len(Q), -np.inf)
    for i in blocks(len(Q), B_r):
        O_i = np.zeros((len(Q[i]), V.shape[1]))
        l_i = np.zeros(len(Q[i]))
        m_i = np.full(len(Q[i]), -np.inf)
        for j in blocks(len(K), B_c):
            S_ij = np.where(Mask[i, j], Q[i] @ K[j].T, -np.inf)
            m_new = np.maximum(m_i, S_ij.max(axis=1))
            P_ij = exp_above(S_ij, m_new)
            correction = exp_above(m_i[:, None], m_new)  # what was summed so far stood under the old maximum
            l_i = correction[:, 0] * l_i + P_ij.sum(axis=1)
            O_i = correction * O_i + P_ij @ V[j]
            m_i = m_new
        attends = l_i > 0
        O[i][attends] = O_i[attends] / l_i[attends, None]
        L[i][attends] = m_i[attends] + np.log(l_i[attends])
    return O, L


def flash_attention_2_backward(
    Q: Float64[np.ndarray, "N d"],
    K: Float64[np.ndarray, "M d"],
    V: Float64[np.ndarray, "M d_v"],
    O: Float64[np.ndarray, "N d_v"],
    dO: Float64[np.ndarray, "N d_v"],
    L: Float64[np.ndarray, " N"],
    Mask: Bool[np.ndarray, "N M"],
    B_r: int,
    B_c: int,
) -> tuple[Float64[np.ndarray, "N d"], Float64[np.ndarray, "M d"], Float64[np.ndarray, "M d_v"]]:
    """Algorithm 2: for each block of keys, go over the blocks of queries and recompute P = exp(S - L).

    Input: Q, K, V, Mask as in the forward pass, its O and L; dO in R^{N x d_v}, the gradient with respect to O.
    Output: dQ, dK, dV, the gradients with respect to Q, K and V.
    Parameters: B_r, queries of a block; B_c, keys of a block.
    """
    dQ, dK, dV = np.zeros_like(Q), np.zeros_like(K), np.zeros_like(V)
    D = (dO * O).sum(axis=1)
    for j in blocks(len(K), B_c):
        for i in blocks(len(Q), B_r):
            S_ij = np.where(Mask[i, j], Q[i] @ K[j].T, -np.inf)
            P_ij = exp_above(S_ij, L[i])
            dV[j] += P_ij.T @ dO[i]
            dP_ij = dO[i] @ V[j].T
            dS_ij = P_ij * (dP_ij - D[i][:, None])
            dQ[i] += dS_ij @ K[j]
            dK[j] += dS_ij.T @ Q[i]
    return dQ, dK, dV


def merge(
    parts: Sequence[tuple[Float64[np.ndarray, "N d_v"], Float64[np.ndarray, " N"]]],
) -> tuple[Float64[np.ndarray, "N d_v"], Float64[np.ndarray, " N"]]:
    """Attentions over disjoint keys, each with its log-sum-exp, as one attention over all of these keys.

    L = log sum_p exp(L_p) and O = sum_p exp(L_p - L) O_p: the online softmax's own step, whatever the order.
    """
    L_p = np.stack([L for _, L in parts], axis=1)
    m = L_p.max(axis=1)
    l = exp_above(L_p, m).sum(axis=1)
    attends = l > 0
    L = np.full(len(m), -np.inf)
    L[attends] = m[attends] + np.log(l[attends])
    weights = exp_above(L_p, L)
    O = sum((weights[:, p, None] * O_p for p, (O_p, _) in enumerate(parts)), np.zeros_like(parts[0][0]))
    return O, L


def blocks(length: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def exp_above(S: Float64[np.ndarray, "n k"], m: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, "n k"]:
    """exp(S - m) row by row; zero throughout a row whose m is -inf, since all its scores are."""
    return np.asarray(np.exp(S - np.where(np.isneginf(m), 0.0, m)[:, None]))
