"""How do attentions over disjoint keys become one?

Each part gives what it gathered and the log-sum-exp of its scores, by which the parts are weighted (the online softmax,
Milakov and Gimelshein 2018; FlashAttention-2, Dao 2023, algorithm 1). A part may have its own queries, keys and
positions: near and far passes of one attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from diptych.nn.attention import WRITTEN_OUT
from diptych.nn.block_sparse import block_sparse_with_lse
from diptych.nn.lowering import Lowered
from diptych.nn.precision import matmul_dtype, wide
from diptych.nn.tiled import Given, Part, Tiled


def attention_with_lse(
    query: Float[Tensor, "b h q d"],
    key: Float[Tensor, "b g k d"],
    value: Float[Tensor, "b g k d"],
    mask: Lowered,
    *,
    scale: float | None = None,
) -> Part:
    """softmax(scale Q K^T + mask) V, and log(sum(exp(scale Q K^T + mask))); `h` is a multiple of `g`.

    A query that may attend to nothing gathers zero, with log-sum-exp -inf. Memory grows with q + k on a processor and
    on CUDA, where there is a tiled kernel, besides that of a dense mask. Both results have their gradients. The
    log-sum-exp is float32, or float64 where the query is. scale: None is 1 / sqrt(d).
    """
    dtype = matmul_dtype(query)
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if key.shape[2] == 0:
        return torch.zeros_like(query), query.new_full(query.shape[:3], -torch.inf, dtype=wide(dtype))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if mask.pieces is not None:
        part: Part = block_sparse_with_lse(query, key, value, mask.pieces, scale=scale)
        return part
    if mask.flex is not None:
        from diptych.nn.flex import attention_by_blocks_with_lse

        return attention_by_blocks_with_lse(query, key, value, mask.flex, scale=scale)
    given = _given(mask, dtype, scale)
    short = torch.compiler.is_compiling() and key.shape[2] <= WRITTEN_OUT
    if query.device.type == "cpu" and not short:
        return Tiled.of(query, key, value, given)
    if query.device.type == "cuda" and dtype != torch.float64:
        return _on_cuda(query, key, value, given)
    return _written_out(query, key, value, given)


def merge(parts: Sequence[Part]) -> Part:
    """Attentions of the same queries over disjoint keys as one attention over all of these keys.

    lse = log(sum_p exp(lse_p)), out = sum_p exp(lse_p - lse) out_p. A part in which a query attends to nothing
    (lse_p = -inf) has weight zero.
    """
    lse = torch.stack([lse for _, lse in parts])
    largest = lse.detach().amax(0)
    largest = largest.masked_fill(largest == -torch.inf, 0.0)
    weights = torch.exp(lse - largest)
    total = weights.sum(0)
    nothing = total == 0.0
    total = total.masked_fill(nothing, 1.0)
    weights = (weights / total)[..., None]
    out = sum((weight * part for weight, (part, _) in zip(weights, parts, strict=True)), torch.zeros_like(weights[0]))
    return out.to(parts[0][0].dtype), (largest + torch.log(total)).masked_fill(nothing, -torch.inf)


def _given(mask: Lowered, dtype: torch.dtype, scale: float) -> Given:
    if mask.dense is None:
        return Given(None, None, mask.causal, scale)
    if mask.dense.dtype != torch.bool:
        return Given(mask.dense.to(dtype), (mask.dense > -torch.inf).any(-1), mask.causal, scale)
    bias = torch.zeros(mask.dense.shape, dtype=dtype, device=mask.dense.device).masked_fill(~mask.dense, -torch.inf)
    return Given(bias, mask.dense.any(-1), mask.causal, scale)


def _written_out(query: Tensor, key: Tensor, value: Tensor, given: Given) -> Part:
    """The formula itself; all scores exist at once."""
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    scores = (query @ key.transpose(-1, -2)).to(wide(query.dtype)) * given.scale
    if given.bias is not None:
        scores = scores + given.bias
    if given.causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    if given.present is not None:
        scores = scores.masked_fill(~given.present[..., None], 0.0)  # -inf throughout would have no derivative
    lse = torch.logsumexp(scores, dim=-1)
    out = torch.exp(scores - lse[..., None]).to(value.dtype) @ value
    if given.present is not None:
        out, lse = out.masked_fill(~given.present[..., None], 0.0), lse.masked_fill(~given.present, -torch.inf)
    return out, lse


def _on_cuda(query: Tensor, key: Tensor, value: Tensor, given: Given) -> Part:
    """As the memory-efficient kernel wants it: as many key heads as query heads, widths of 16 bytes, whole masks whose
    rows begin at multiples of 16 numbers."""
    d, share = query.shape[-1], query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    query, key, value = (F.pad(x, (0, -d % 8)) for x in (query, key, value))
    if given.bias is not None:
        k = given.bias.shape[-1]
        given = replace(given, bias=F.pad(given.bias, (0, -k % 16))[..., :k].expand(*query.shape[:3], k))
    out, lse = Tiled.of(query, key, value, given)
    return out[..., :d], lse
