"""How does attention become a recurrence over a memory of fixed size?

Kernel attention, by its weights and by its sums (Katharopoulos et al. 2020, sections 3.2 and 3.3), and the gated delta
rule (Yang et al. 2025, equation 10; without the gate, Schlag et al. 2021).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64


def phi(x: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """elu(x) + 1: x + 1 above zero, exp(x) below; Katharopoulos et al. 2020, equation 7."""
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def kernel_attention(
    Q: Float64[np.ndarray, "d l"],
    K: Float64[np.ndarray, "d l_z"],
    V: Float64[np.ndarray, "m l_z"],
    Mask: Bool[np.ndarray, "l_z l"],
) -> Float64[np.ndarray, "m l"]:
    """Equation 4 with the similarity phi(q) . phi(k): each position takes the mean of the values, weighted by it.

    Input: Q in R^{d x l}, queries; K in R^{d x l_z} and V in R^{m x l_z}, keys and values.
    Output: V_tilde in R^{m x l}. Mask[j, i] says whether position i may attend to position j.
    """
    S = phi(K).T @ phi(Q) * Mask
    return np.asarray(V @ (S / S.sum(axis=0)))


def rotated_kernel_attention(
    Q: Float64[np.ndarray, "d l"],
    K: Float64[np.ndarray, "d l"],
    V: Float64[np.ndarray, "m l"],
    R: Float64[np.ndarray, "l d d"],
    Mask: Bool[np.ndarray, "l l"],
) -> Float64[np.ndarray, "m l"]:
    """The same where R[i] in R^{d x d} turns the features of i in the numerator only; Su et al. 2021, equation 19."""
    turned_Q = np.stack([R[i] @ phi(Q[:, i]) for i in range(Q.shape[1])], axis=1)
    turned_K = np.stack([R[j] @ phi(K[:, j]) for j in range(K.shape[1])], axis=1)
    numerator = V @ (turned_K.T @ turned_Q * Mask)
    return np.asarray(numerator / (phi(K).T @ phi(Q) * Mask).sum(axis=0))


def recurrent_kernel_attention(
    Q: Float64[np.ndarray, "d l"], K: Float64[np.ndarray, "d l"], V: Float64[np.ndarray, "m l"]
) -> Float64[np.ndarray, "m l"]:
    """Causal kernel attention, one position after the other; equations 16 to 20.

    s_i = s_{i-1} + phi(k_i) v_i^T, z_i = z_{i-1} + phi(k_i), and the output phi(q_i)^T s_i / (phi(q_i)^T z_i).
    """
    s = np.zeros((len(K), len(V)))
    z = np.zeros(len(K))
    V_tilde = np.empty((len(V), Q.shape[1]))
    for i in range(Q.shape[1]):
        s += np.outer(phi(K[:, i]), V[:, i])
        z += phi(K[:, i])
        V_tilde[:, i] = phi(Q[:, i]) @ s / (phi(Q[:, i]) @ z)
    return V_tilde


def gated_delta_rule(
    Q: Float64[np.ndarray, "d l"],
    K: Float64[np.ndarray, "d l"],
    V: Float64[np.ndarray, "m l"],
    alpha: Float64[np.ndarray, " l"],
    beta: Float64[np.ndarray, " l"],
    S: Float64[np.ndarray, "m d"],
) -> tuple[Float64[np.ndarray, "m l"], Float64[np.ndarray, "m d"]]:
    """S_t = S_{t-1} (alpha_t (I - beta_t k_t k_t^T)) + beta_t v_t k_t^T, o_t = S_t q_t; Yang et al. 2025, equation 10.

    Input: queries and keys in R^{d x l}, values in R^{m x l}; alpha_t in [0, 1], what remains of the memory; beta_t in
    [0, 1], how much of its answer to k_t is replaced; S in R^{m x d}, the memory before the first position.
    Output: O in R^{m x l} and the memory after the last position.
    """
    O = np.empty((len(V), Q.shape[1]))
    I = np.eye(len(K))
    for t in range(Q.shape[1]):
        k, v = K[:, t], V[:, t]
        S = S @ (alpha[t] * (I - beta[t] * np.outer(k, k))) + beta[t] * np.outer(v, k)
        O[:, t] = S @ Q[:, t]
    return O, S
