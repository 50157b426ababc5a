"""How does a network read one sequence and write another? The whole forward pass, from source and target to
distributions.

The encoder-decoder transformer (*Formal Algorithms*, algorithm 8, EDTransformer; Vaswani et al. 2017, section 3:
sinusoids, embeddings times sqrt(d_e), one embedding for both sequences, normalization after each sum).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from diptych.reference.attention import Head, causal_mask, mh_attention
from diptych.reference.decoder import Layer, feed_forward, post_norm_block, sinusoid
from diptych.reference.embedding import token_embedding, unembedding
from diptych.reference.normalization import layer_norm


@dataclass(frozen=True, eq=False)
class CrossLayer:
    """Parameters of one block of the decoder: those of a block, and of its attention to the source in between."""

    block: Layer
    heads: Sequence[Head]
    W_o: Float64[np.ndarray, "d_e h_d_mid"]
    b_o: Float64[np.ndarray, " d_e"]
    gamma: Float64[np.ndarray, " d_e"]
    beta: Float64[np.ndarray, " d_e"]


def embedded(x: Sequence[int], W_e: Float64[np.ndarray, "d_e N_V"]) -> Float64[np.ndarray, "d_e l_x"]:
    """sqrt(d_e) W_e[:, x[t]] + PE(t) for every t (Vaswani et al. 2017, sections 3.4 and 3.5)."""
    d_e = len(W_e)
    return np.stack([math.sqrt(d_e) * token_embedding(v, W_e) + sinusoid(t, d_e) for t, v in enumerate(x)], axis=1)


def encoder(
    z: Sequence[int], W_e: Float64[np.ndarray, "d_e N_V"], layers: Sequence[Layer]
) -> Float64[np.ndarray, "d_e l_z"]:
    """Algorithm 8, lines 1 to 11: every position of the source attends to all of it."""
    Z = embedded(z, W_e)
    Mask = np.ones((len(z), len(z)), bool)
    for W in layers:
        Z = post_norm_block(Z, W, Mask)
    return Z


def cross_block(
    X: Float64[np.ndarray, "d_e l_x"], Z: Float64[np.ndarray, "d_e l_z"], W: CrossLayer
) -> Float64[np.ndarray, "d_e l_x"]:
    """Algorithm 8, lines 14 to 22: attend to what is written, then to what was read, then each position by itself."""
    l_x, l_z, B = X.shape[1], Z.shape[1], W.block
    X = X + mh_attention(X, X, B.heads, B.W_o, B.b_o, causal_mask(l_x, l_x))
    X = np.stack([layer_norm(e, B.gamma_1, B.beta_1) for e in X.T], axis=1)
    X = X + mh_attention(X, Z, W.heads, W.W_o, W.b_o, np.ones((l_z, l_x), bool))
    X = np.stack([layer_norm(e, W.gamma, W.beta) for e in X.T], axis=1)
    return np.stack([layer_norm(e + feed_forward(e, B), B.gamma_2, B.beta_2) for e in X.T], axis=1)


def encoder_decoder_transformer(
    z: Sequence[int],
    x: Sequence[int],
    W_e: Float64[np.ndarray, "d_e N_V"],
    encoder_layers: Sequence[Layer],
    decoder_layers: Sequence[CrossLayer],
    W_u: Float64[np.ndarray, "N_V d_e"],
) -> Float64[np.ndarray, "N_V l_x"]:
    """P[:, t] = P(. | x[0], ..., x[t], z) for every t at once.

    Input: z in V*, the source; x in V*, the target so far.
    Output: P in (0, 1)^{N_V x l_x}, whose columns sum to one.
    Parameters: W_e, the layers of encoder and decoder, W_u.
    """
    Z = encoder(z, W_e, encoder_layers)
    X = embedded(x, W_e)
    for W in decoder_layers:
        X = cross_block(X, Z, W)
    return np.stack([unembedding(e, W_u) for e in X.T], axis=1)
