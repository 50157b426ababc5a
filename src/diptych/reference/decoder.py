"""How do the tables make a network? The whole forward pass, from tokens to next-token distributions.

The decoder-only transformer (*Formal Algorithms*, algorithms 2, 10 and its feed-forward layer; positions and
normalization after each sum as in Vaswani et al. 2017, normalization before each sublayer as in Radford et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from diptych.reference.attention import Head, causal_mask, mh_attention
from diptych.reference.embedding import token_embedding, unembedding
from diptych.reference.normalization import layer_norm

Activation = Callable[[Float64[np.ndarray, " d_f"]], Float64[np.ndarray, " d_f"]]


def relu(e: Float64[np.ndarray, " d_f"]) -> Float64[np.ndarray, " d_f"]:
    """max(0, x)."""
    return np.asarray(np.maximum(e, 0.0))


def gelu(e: Float64[np.ndarray, " d_f"]) -> Float64[np.ndarray, " d_f"]:
    """x Phi(x), Phi the distribution function of the standard normal (Hendrycks and Gimpel 2016)."""
    Phi = np.vectorize(lambda x: 0.5 * (1.0 + math.erf(x / math.sqrt(2.0))), otypes=[np.float64])
    return np.asarray(e * Phi(e))


def gelu_tanh(e: Float64[np.ndarray, " d_f"]) -> Float64[np.ndarray, " d_f"]:
    """GELU's approximation by tanh, which GPT-2 was trained with."""
    return np.asarray(0.5 * e * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (e + 0.044715 * e**3))))


@dataclass(frozen=True, eq=False)
class Layer:
    """Parameters of one block: attention, feed-forward, and the two normalizations, in the order of their use."""

    heads: Sequence[Head]
    W_o: Float64[np.ndarray, "d_e h_d_mid"]
    b_o: Float64[np.ndarray, " d_e"]
    W_1: Float64[np.ndarray, "d_f d_e"]
    b_1: Float64[np.ndarray, " d_f"]
    W_2: Float64[np.ndarray, "d_e d_f"]
    b_2: Float64[np.ndarray, " d_e"]
    gamma_1: Float64[np.ndarray, " d_e"]
    beta_1: Float64[np.ndarray, " d_e"]
    gamma_2: Float64[np.ndarray, " d_e"]
    beta_2: Float64[np.ndarray, " d_e"]
    activation: Activation = relu


@dataclass(frozen=True, eq=False)
class PreNorm:
    """What a network that normalizes before each sublayer has besides: the last normalization, and learned positions.

    W_p in R^{d_e x l_max}.
    """

    gamma: Float64[np.ndarray, " d_e"]
    beta: Float64[np.ndarray, " d_e"]
    W_p: Float64[np.ndarray, "d_e l_max"]


def sinusoid(t: int, d_e: int) -> Float64[np.ndarray, " d_e"]:
    """e[2i] = sin(t / 10000^(2i/d_e)), e[2i+1] = cos of the same, t from 0 (Vaswani et al. 2017, section 3.5)."""
    e = np.empty(d_e)
    for j in range(d_e):
        angle = t / 10_000 ** (2 * (j // 2) / d_e)
        e[j] = math.cos(angle) if j % 2 else math.sin(angle)
    return e


def feed_forward(e: Float64[np.ndarray, " d_e"], W: Layer) -> Float64[np.ndarray, " d_e"]:
    """W_2 activation(W_1 e + b_1) + b_2, each position by itself (Vaswani et al. 2017, section 3.3)."""
    return np.asarray(W.W_2 @ W.activation(W.W_1 @ e + W.b_1) + W.b_2)


def pre_norm_block(
    X: Float64[np.ndarray, "d_e l_x"], W: Layer, Mask: Bool[np.ndarray, "l_x l_x"]
) -> Float64[np.ndarray, "d_e l_x"]:
    """Normalize before each sublayer; the residual stream itself is never normalized."""
    X_hat = np.stack([layer_norm(e, W.gamma_1, W.beta_1) for e in X.T], axis=1)
    X = X + mh_attention(X_hat, X_hat, W.heads, W.W_o, W.b_o, Mask)
    return np.stack([e + feed_forward(layer_norm(e, W.gamma_2, W.beta_2), W) for e in X.T], axis=1)


def post_norm_block(
    X: Float64[np.ndarray, "d_e l_x"], W: Layer, Mask: Bool[np.ndarray, "l_x l_x"]
) -> Float64[np.ndarray, "d_e l_x"]:
    """Normalize after each residual sum."""
    X = X + mh_attention(X, X, W.heads, W.W_o, W.b_o, Mask)
    X = np.stack([layer_norm(e, W.gamma_1, W.beta_1) for e in X.T], axis=1)
    return np.stack([layer_norm(e + feed_forward(e, W), W.gamma_2, W.beta_2) for e in X.T], axis=1)


def decoder_transformer(
    x: Sequence[int],
    W_e: Float64[np.ndarray, "d_e N_V"],
    layers: Sequence[Layer],
    W_u: Float64[np.ndarray, "N_V d_e"],
    pre: PreNorm | None = None,
) -> Float64[np.ndarray, "N_V l_x"]:
    """P[:, t] = P(. | x[0], ..., x[t]) for every t at once.

    Input: x in V*, the tokens.
    Output: P in (0, 1)^{N_V x l_x}, whose columns sum to one.
    Parameters: W_e, the layers, W_u. Positions are sinusoids and normalization follows each sum, as in Vaswani et al.;
    with `pre` positions are learned and normalization comes before each sublayer and at the end, as in GPT-2.
    """
    W_p = np.stack([sinusoid(t, len(W_e)) for t in range(len(x))], axis=1) if pre is None else pre.W_p
    X = np.stack([token_embedding(v, W_e) + W_p[:, t] for t, v in enumerate(x)], axis=1)
    Mask = causal_mask(len(x), len(x))
    for W in layers:
        X = post_norm_block(X, W, Mask) if pre is None else pre_norm_block(X, W, Mask)
    if pre is not None:
        X = np.stack([layer_norm(e, pre.gamma, pre.beta) for e in X.T], axis=1)
    return np.stack([unembedding(e, W_u) for e in X.T], axis=1)
