"""How do the tables make a network? The whole forward pass, from tokens to next-token distributions.

The decoder-only transformer (*Formal Algorithms*, algorithms 2, 10 and its feed-forward layer; positions and
normalization after each sum as in Vaswani et al. 2017, normalization before each sublayer as in Radford et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64

from diptych.reference.attention import Heads, causal_mask, mh_attention
from diptych.reference.embedding import token_embedding
from diptych.reference.normalization import layer_norm
from diptych.reference.unembedding import unembedding

Activation = Callable[[Float64[np.ndarray, "d_f l_x"]], Float64[np.ndarray, "d_f l_x"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Norm:
    """Parameters of one layer normalization."""

    gamma: Float64[np.ndarray, " d_e"]
    beta: Float64[np.ndarray, " d_e"]
    epsilon: float = 1e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class Mlp:
    """Parameters of one feed-forward layer, W_1 in R^{d_f x d_e} and W_2 in R^{d_e x d_f}, and its activation."""

    W_1: Float64[np.ndarray, "d_f d_e"]
    b_1: Float64[np.ndarray, " d_f"]
    W_2: Float64[np.ndarray, "d_e d_f"]
    b_2: Float64[np.ndarray, " d_e"]
    activation: Activation


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """Parameters of one block."""

    attention: Heads
    attention_norm: Norm
    mlp: Mlp
    mlp_norm: Norm


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoder:
    """Parameters of the whole network; `final_norm` is None where blocks normalize after each sum."""

    W_e: Float64[np.ndarray, "d_e N_V"]
    W_p: Float64[np.ndarray, "d_e l_max"]
    layers: tuple[Layer, ...]
    final_norm: Norm | None
    W_u: Float64[np.ndarray, "N_V d_e"]
    placement: Literal["pre", "post"]


def sinusoids(d_e: int, l_max: int) -> Float64[np.ndarray, "d_e l_max"]:
    """W_p[2i, t] = sin(t / 10000^(2i/d_e)), W_p[2i+1, t] = cos of the same, t from 0 (Vaswani et al. 2017)."""
    W_p = np.empty((d_e, l_max))
    for t in range(l_max):
        for j in range(d_e):
            angle = t / 10_000 ** (2 * (j // 2) / d_e)
            W_p[j, t] = math.cos(angle) if j % 2 else math.sin(angle)
    return W_p


def relu(X: Float64[np.ndarray, "d_f l_x"]) -> Float64[np.ndarray, "d_f l_x"]:
    """max(0, x)."""
    return np.maximum(X, 0.0)


def gelu(X: Float64[np.ndarray, "d_f l_x"]) -> Float64[np.ndarray, "d_f l_x"]:
    """x Phi(x), Phi the distribution function of the standard normal (Hendrycks and Gimpel 2016)."""
    Phi = np.vectorize(lambda x: 0.5 * (1.0 + math.erf(x / math.sqrt(2.0))), otypes=[np.float64])
    return np.asarray(X * Phi(X))


def gelu_tanh(X: Float64[np.ndarray, "d_f l_x"]) -> Float64[np.ndarray, "d_f l_x"]:
    """GELU's approximation by tanh, which GPT-2 was trained with."""
    return np.asarray(0.5 * X * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (X + 0.044715 * X**3))))


def feed_forward(X: Float64[np.ndarray, "d_e l_x"], W: Mlp) -> Float64[np.ndarray, "d_e l_x"]:
    """W_2 activation(W_1 X + b_1) + b_2, each position by itself (Vaswani et al. 2017, section 3.3)."""
    return np.asarray(W.W_2 @ W.activation(W.W_1 @ X + W.b_1[:, None]) + W.b_2[:, None])


def normalize(X: Float64[np.ndarray, "d_e l_x"], W: Norm) -> Float64[np.ndarray, "d_e l_x"]:
    """Layer normalization of every position."""
    return np.stack([layer_norm(e, W.gamma, W.beta, W.epsilon) for e in X.T], axis=1)


def pre_norm_block(
    X: Float64[np.ndarray, "d_e l_x"], W: Layer, Mask: Bool[np.ndarray, "l_x l_x"]
) -> Float64[np.ndarray, "d_e l_x"]:
    """Normalize before each sublayer; the residual stream itself is never normalized."""
    X_hat = normalize(X, W.attention_norm)
    X = X + mh_attention(X_hat, X_hat, W.attention, Mask)
    return X + feed_forward(normalize(X, W.mlp_norm), W.mlp)


def post_norm_block(
    X: Float64[np.ndarray, "d_e l_x"], W: Layer, Mask: Bool[np.ndarray, "l_x l_x"]
) -> Float64[np.ndarray, "d_e l_x"]:
    """Normalize after each residual sum."""
    X = normalize(X + mh_attention(X, X, W.attention, Mask), W.attention_norm)
    return normalize(X + feed_forward(X, W.mlp), W.mlp_norm)


def decoder_transformer(x: Sequence[int], W: Decoder) -> Float64[np.ndarray, "N_V l_x"]:
    """P[:, t] = P(. | x[0], ..., x[t]) for every t at once.

    Input: x in V*, the tokens.
    Output: P in (0, 1)^{N_V x l_x}, whose columns sum to one.
    Parameters: W, the network's.
    """
    X = np.stack([token_embedding(v, W.W_e) + W.W_p[:, t] for t, v in enumerate(x)], axis=1)
    Mask = causal_mask(len(x))
    block = pre_norm_block if W.placement == "pre" else post_norm_block
    for layer in W.layers:
        X = block(X, layer, Mask)
    if W.final_norm is not None:
        X = normalize(X, W.final_norm)
    return np.stack([unembedding(e, W.W_u) for e in X.T], axis=1)
