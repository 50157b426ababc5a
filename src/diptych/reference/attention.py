"""How does each position gather what it needs from others? Review table 4.

Masked attention of one head and of many, self and cross (Vaswani et al. 2017, section 3.2; *Formal Algorithms*,
algorithms 4 and 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from diptych.reference.embedding import softmax


@dataclass(frozen=True, eq=False)
class Head:
    """Parameters of one head: W_q, W_k in R^{d_attn x d}, W_v in R^{d_mid x d}, and their biases."""

    W_q: Float64[np.ndarray, "d_attn d_x"]
    b_q: Float64[np.ndarray, " d_attn"]
    W_k: Float64[np.ndarray, "d_attn d_z"]
    b_k: Float64[np.ndarray, " d_attn"]
    W_v: Float64[np.ndarray, "d_mid d_z"]
    b_v: Float64[np.ndarray, " d_mid"]


def causal_mask(l_z: int, l_x: int) -> Bool[np.ndarray, "l_z l_x"]:
    """Mask[t_z, t_x] = [t_z <= t_x]: no position attends to a later one."""
    return np.triu(np.ones((l_z, l_x), dtype=bool))


def attention(
    X: Float64[np.ndarray, "d_x l_x"],
    Z: Float64[np.ndarray, "d_z l_z"],
    W: Head,
    Mask: Bool[np.ndarray, "l_z l_x"],
) -> Float64[np.ndarray, "d_mid l_x"]:
    """Each position of X takes the mean of the values of Z, weighted by how its query meets their keys.

    Input: X in R^{d_x x l_x}, the primary sequence; Z in R^{d_z x l_z}, the context; self-attention where Z = X.
    Output: V_tilde in R^{d_mid x l_x}.
    Parameters: W, a head. Mask[t_z, t_x] says whether position t_x of X may attend to position t_z of Z.
    """
    Q = W.W_q @ X + W.b_q[:, None]
    K = W.W_k @ Z + W.b_k[:, None]
    V = W.W_v @ Z + W.b_v[:, None]
    d_attn = len(W.b_q)
    S = K.T @ Q / np.sqrt(d_attn)
    S = np.where(Mask, S, -np.inf)
    V_tilde = V @ softmax(S)
    return np.asarray(V_tilde)


def mh_attention(
    X: Float64[np.ndarray, "d_x l_x"],
    Z: Float64[np.ndarray, "d_z l_z"],
    heads: Sequence[Head],
    W_o: Float64[np.ndarray, "d_out h_d_mid"],
    b_o: Float64[np.ndarray, " d_out"],
    Mask: Bool[np.ndarray, "l_z l_x"],
) -> Float64[np.ndarray, "d_out l_x"]:
    """Table 4: attend in every head, stack what they gathered, and map it back.

    Input: X in R^{d_x x l_x}, the primary sequence; Z in R^{d_z x l_z}, the context.
    Output: V_tilde in R^{d_out x l_x}.
    Parameters: the heads; W_o in R^{d_out x H d_mid} and b_o, which join them. Mask as for `attention`.
    """
    Y = [attention(X, Z, head, Mask) for head in heads]
    V_tilde = W_o @ np.concatenate(Y, axis=0) + b_o[:, None]
    return np.asarray(V_tilde)
