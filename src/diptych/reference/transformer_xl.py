"""How does attention reach beyond its segment? Transformer-XL (Dai et al. 2019), sections 3.2 and 3.3.

Segments are read one after another; each also attends to a memory of what the layer was given before it, into which no
gradient flows. In torch, float64, because the stop-gradient is half of the matter. Columns are positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class XLHead:
    """Parameters of one head: projections of queries, of content-based keys, of location-based keys and of values; u
    and v, which take the query's place where it does not matter which position asks."""

    W_q: Float64[Tensor, "d_attn d"]
    W_kE: Float64[Tensor, "d_attn d"]
    W_kR: Float64[Tensor, "d_attn d"]
    W_v: Float64[Tensor, "d_mid d"]
    u: Float64[Tensor, " d_attn"]
    v: Float64[Tensor, " d_attn"]


def relative_encoding(distance: int, d: int) -> Float64[Tensor, " d"]:
    """R_{i-j}: the sinusoids of Vaswani et al. 2017, section 3.5, of a distance in place of a position."""
    R = [distance / 10_000 ** (2 * (k // 2) / d) for k in range(d)]
    return torch.tensor([math.cos(a) if k % 2 else math.sin(a) for k, a in enumerate(R)], dtype=torch.float64)


def xl_attention(H: Float64[Tensor, "d L"], M: Float64[Tensor, "d m"], W: XLHead) -> Float64[Tensor, "d_mid L"]:
    """One head over one segment and its memory (section 3.3).

    Input: H in R^{d x L}, the segment; M in R^{d x m}, the memory just before it.
    Output: each position's mean of the values of the positions up to it, weighted by softmax(A / sqrt(d_attn)).
    """
    H_tilde = torch.cat((M.detach(), H), dim=1)  # [SG(m) o h]
    Q, K, V = W.W_q @ H, W.W_kE @ H_tilde, W.W_v @ H_tilde
    m, d_attn = M.shape[1], len(W.u)
    columns = []
    for i in range(H.shape[1]):
        A = []
        for j in range(m + i + 1):
            R = W.W_kR @ relative_encoding(m + i - j, len(H))
            content, position = Q[:, i] @ K[:, j], Q[:, i] @ R  # terms (a) and (b)
            A.append(content + position + W.u @ K[:, j] + W.v @ R)  # with (c) and (d)
        alpha = torch.softmax(torch.stack(A) / math.sqrt(d_attn), dim=0)
        columns.append(V[:, : m + i + 1] @ alpha)
    return torch.stack(columns, dim=1)


def transformer_xl(
    X: Float64[Tensor, "d l"], heads: Sequence[XLHead], W_o: Float64[Tensor, "d_out h_d_mid"], L: int, M: int
) -> Float64[Tensor, "d_out l"]:
    """The attention of one layer over a whole sequence, segment after segment (section 3.2).

    Input: X in R^{d x l}, what the layer is given.
    Output: in R^{d_out x l}.
    Parameters: the heads and W_o, which joins them; L, positions of a segment; M, positions of the memory.
    """
    memory = X[:, :0]
    out = []
    for start in range(0, X.shape[1], L):
        H = X[:, start : start + L]
        out.append(W_o @ torch.cat([xl_attention(H, memory, W) for W in heads], dim=0))
        both = torch.cat((memory, H), dim=1)
        memory = both[:, both.shape[1] - min(M, both.shape[1]) :]
    return torch.cat(out, dim=1)
