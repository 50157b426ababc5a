"""How does an encoder read a text from both sides, and how is it taught?

The encoder-only transformer (*Formal Algorithms*, algorithm 9, ETransformer) and the hiding of tokens in its training
(algorithm 12, ETraining; Devlin et al. 2019, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from diptych.reference.decoder import Activation, Layer, gelu, post_norm_block
from diptych.reference.embedding import softmax, token_embedding
from diptych.reference.normalization import layer_norm


@dataclass(frozen=True, eq=False)
class Ends:
    """What BERT has before its layers and after them.

    W_p in R^{d_e x l_max}, learned positions; gamma_e and beta_e, which normalize the embeddings; W_f, b_f, gamma and
    beta, a dense layer and its normalization; W_u in R^{N_V x d_e} and b_u, the un-embedding.
    """

    W_p: Float64[np.ndarray, "d_e l_max"]
    gamma_e: Float64[np.ndarray, " d_e"]
    beta_e: Float64[np.ndarray, " d_e"]
    W_f: Float64[np.ndarray, "d_e d_e"]
    b_f: Float64[np.ndarray, " d_e"]
    gamma: Float64[np.ndarray, " d_e"]
    beta: Float64[np.ndarray, " d_e"]
    W_u: Float64[np.ndarray, "N_V d_e"]
    b_u: Float64[np.ndarray, " N_V"]
    activation: Activation = gelu


def encoder_transformer(
    x: Sequence[int], W_e: Float64[np.ndarray, "d_e N_V"], layers: Sequence[Layer], ends: Ends
) -> Float64[np.ndarray, "N_V l_x"]:
    """P[:, t] = P(x[t] | the whole sequence as it stands) for every t at once.

    Input: x in V*, the tokens, some of them hidden.
    Output: P in (0, 1)^{N_V x l_x}, whose columns sum to one.
    Parameters: W_e, the layers, the ends. No position is hidden from another: the mask is all ones.
    """
    X = np.stack([token_embedding(v, W_e) + ends.W_p[:, t] for t, v in enumerate(x)], axis=1)
    X = np.stack([layer_norm(e, ends.gamma_e, ends.beta_e) for e in X.T], axis=1)
    for W in layers:
        X = post_norm_block(X, W, np.ones((len(x), len(x)), dtype=bool))
    X = np.stack([layer_norm(ends.activation(ends.W_f @ e + ends.b_f), ends.gamma, ends.beta) for e in X.T], axis=1)
    return np.stack([softmax(ends.W_u @ e + ends.b_u) for e in X.T], axis=1)


def hide_tokens(
    x: Sequence[int],
    chosen: Sequence[float],
    kind: Sequence[float],
    drawn: Sequence[int],
    mask_token: int,
    special: Sequence[int],
    p_mask: float = 0.15,
) -> tuple[list[int], list[int]]:
    """BERT's masking: the tokens as the network sees them, and the positions that it must predict.

    Input: x in V*; for each position two numbers from (0, 1) and a token, all drawn evenly.
    A token that is not special is chosen with probability p_mask; of the chosen, 80 % become the mask token, 10 % the
    token drawn, and 10 % stay.
    """
    x_tilde, positions = list(x), []
    for t, v in enumerate(x):
        if v in special or chosen[t] >= p_mask:
            continue
        positions.append(t)
        if kind[t] < 0.8:
            x_tilde[t] = mask_token
        elif kind[t] < 0.9:
            x_tilde[t] = drawn[t]
    return x_tilde, positions


def masked_loss(x: Sequence[int], positions: Sequence[int], P: Float64[np.ndarray, "N_V l_x"]) -> float:
    """- sum over the chosen positions t of log P[x[t], t]."""
    return -sum(math.log(P[x[t], t]) for t in positions)
