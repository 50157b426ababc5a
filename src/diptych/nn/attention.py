"""How does each position gather what it needs from the others?

Masked multi-head attention, self and cross (Vaswani et al. 2017, section 3.2; *Formal Algorithms*, algorithms 4 and 5;
the review's table 4, with its slips mended: see docs/review.md). Key-value heads may be fewer than query heads
(grouped-query attention, Ainslie et al. 2023).
"""

from __future__ import annotations

from typing import Protocol, final, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diptych.core.config import TransformerConfig
from diptych.nn.block_sparse import block_sparse_attention
from diptych.nn.linear import Linear, linear
from diptych.nn.lowering import Lowered
from diptych.nn.near_far import NearFar
from diptych.nn.normalization import RMSNorm
from diptych.nn.positions import Rotation, rotate
from diptych.nn.precision import wide

KeysAndValues = tuple[Float[Tensor, "#b g k d_head"], Float[Tensor, "#b g k d_head"]]
"""A context as a layer attends to it."""


@runtime_checkable
class LayerCache(Protocol):
    """Remembers the keys and values of one layer."""

    def append(self, key: Float[Tensor, "b g t d"], value: Float[Tensor, "b g t d"]) -> tuple[Tensor, Tensor]:
        """Store the new positions and return all keys and values so far, (b, g, n, d) each."""
        ...


WRITTEN_OUT = 1024
"""Up to this many keys the written-out formula, compiled for the processor, beats the tiled kernel."""


FEWEST_ROWS, MOST_BLOCKS = 64, 8
"""Under a causal mask the written-out formula goes by blocks: of at least so many queries, at most so many blocks."""


def attention(
    query: Float[Tensor, "b h q d"],
    key: Float[Tensor, "b g k d"],
    value: Float[Tensor, "b g k d"],
    mask: Lowered,
    *,
    dropout: float = 0.0,
) -> Float[Tensor, "b h q d"]:
    """softmax(Q K^T / sqrt(d) + mask) V, the softmax over keys; `h` is a multiple of `g`.

    A single query row needs no repeated keys: the query heads that share a key-value head become its query rows.
    """
    if mask.flex is not None:
        from diptych.nn.flex import attention_by_blocks

        return attention_by_blocks(query, key, value, mask.flex)
    if mask.pieces is not None:
        if not dropout:
            out: Tensor = block_sparse_attention(query, key, value, mask.pieces)
            return out
        mask = Lowered(dense=mask.pieces.dense())  # the kernel of pieces drops nothing
    b, h, q, d = query.shape
    g = key.shape[1]
    if torch.compiler.is_compiling() and query.device.type == "cpu" and key.shape[2] <= WRITTEN_OUT:
        return _written_out(query, key, value, mask, dropout)
    if mask.causal and query.dtype == torch.bfloat16 and query.device.type == "cpu" and not torch.is_grad_enabled():
        return _in_blocks(query, key, value)
    if q == 1 and h != g and (mask.dense is None or mask.dense.shape[1] == 1):
        rows = query.reshape(b, g, h // g, d)
        return F.scaled_dot_product_attention(rows, key, value, attn_mask=mask.dense, dropout_p=dropout).reshape(
            b, h, 1, d
        )
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask.dense, is_causal=mask.causal, dropout_p=dropout, enable_gqa=h != g
    )


BLOCK = 64
"""Queries of a block when a processor reads a text in bfloat16: few, so that their scores stay in its caches."""


def _in_blocks(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention in bfloat16 by blocks of queries, whose three steps are each one call that a processor is tuned
    for.

    The query heads that share a key-value head become rows of one product. Scores are rounded to bfloat16.
    """
    b, h, n, d = query.shape
    g = key.shape[1]
    rows = (query * d**-0.5).reshape(b * g, h // g, n, d)
    keys, values = key.reshape(b * g, n, d), value.reshape(b * g, n, d)
    future = torch.full((BLOCK, BLOCK), float("-inf"), dtype=query.dtype).triu(1)
    out = torch.empty_like(rows)
    for start in range(0, n, BLOCK):
        end = min(start + BLOCK, n)
        block = rows[:, :, start:end].reshape(b * g, -1, d)
        scores = torch.bmm(block, keys[:, :end].contiguous().transpose(1, 2)).view(b * g, h // g, end - start, end)
        scores[..., start:] += future[: end - start, : end - start]
        weights = torch.softmax(scores, dim=-1).view(b * g, -1, end)
        out[:, :, start:end] = torch.bmm(weights, values[:, :end].contiguous()).view(b * g, h // g, end - start, d)
    return out.view(b, h, n, d)


def _written_out(query: Tensor, key: Tensor, value: Tensor, mask: Lowered, dropout: float) -> Tensor:
    """The formula itself, whose scale, mask and softmax the compiler fuses into one pass over the scores."""
    h, g, q = query.shape[1], key.shape[1], query.shape[2]
    if h != g:
        key, value = key.repeat_interleave(h // g, 1), value.repeat_interleave(h // g, 1)
    if not mask.causal:
        return _rows(query, key, value, mask.dense, dropout)
    # A block of queries needs no keys beyond its own end: of the masked half of the scores, most are never computed.
    size = max(FEWEST_ROWS, -(-q // MOST_BLOCKS))
    triangle = torch.ones(q, q, dtype=torch.bool, device=query.device).tril()
    blocks = []
    for start in range(0, q, size):
        end = min(start + size, q)
        part = query[:, :, start:end], key[:, :, :end], value[:, :, :end]
        blocks.append(_rows(*part, triangle[start:end, :end], dropout))
    return torch.cat(blocks, dim=2)


def _rows(query: Tensor, key: Tensor, value: Tensor, dense: Tensor | None, dropout: float) -> Tensor:
    return F.dropout(_weights(query, key, dense).to(query.dtype), dropout) @ value


def _weights(query: Tensor, key: Tensor, dense: Tensor | None) -> Tensor:
    scores = query @ key.transpose(-1, -2)
    scores = (scores if scores.dtype == torch.float64 else scores.float()) * query.shape[-1] ** -0.5
    if dense is not None:
        scores = scores.masked_fill(~dense, float("-inf")) if dense.dtype == torch.bool else scores + dense
    return torch.softmax(scores, dim=-1)


def _near_far_weights(query: Tensor, key: Tensor, mask: NearFar, x: Tensor) -> Tensor:
    """The softmax over the scores of all parts, each with its own positions."""
    each = query.shape[1] // key.shape[1]
    scores = torch.full((*query.shape[:3], key.shape[2]), float("-inf"), dtype=wide(query.dtype), device=query.device)
    for part, turned_query, turned_key in mask.turned(query, key):
        found = (turned_query @ turned_key.repeat_interleave(each, 1).mT).to(scores.dtype) * query.shape[-1] ** -0.5
        allowed = _dense(part.mask, x)
        here = scores[..., part.keys]
        scores[..., part.keys] = found if allowed is None else torch.where(allowed, found, here)
    return torch.softmax(scores, dim=-1)


def _dense(mask: Lowered, x: Float[Tensor, "b t m"]) -> Tensor | None:
    """A mask of self-attention on `x` as one tensor; None: all may attend to all."""
    if mask.causal:
        return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
    if mask.flex is not None:
        from torch.nn.attention.flex_attention import create_mask

        return create_mask(mask.flex.mask_mod, None, None, x.shape[1], x.shape[1], device=str(x.device))
    return mask.dense if mask.pieces is None else mask.pieces.dense().to(x.device)


@final
class MultiHeadAttention(nn.Module):
    """Project to queries, keys and values, attend in every head, project back; review table 4.

    `input` stacks W_q, W_k and W_v in its rows, so that self-attention takes one matrix product. With `context`, keys
    and values come from it (the review's Z) and queries from `x`: cross-attention. A context that many calls attend to
    may be given as what `project` made of it.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.kv_heads, config.head_width
        self.dropout = config.dropout
        heads = self.n_heads + 2 * self.n_kv_heads
        self.input = Linear(config.d_model, heads * self.d_head, bias=config.bias or config.qkv_bias)
        self.query_norm = RMSNorm(self.d_head, eps=config.norm_eps) if config.qk_norm else None
        self.key_norm = RMSNorm(self.d_head, eps=config.norm_eps) if config.qk_norm else None
        self.output = Linear(self.n_heads * self.d_head, config.d_model, bias=config.bias)

    def forward(
        self,
        x: Float[Tensor, "b t m"],
        mask: Lowered | NearFar,
        rotation: Rotation | None = None,
        context: Float[Tensor, "#b k m"] | KeysAndValues | None = None,
        cache: LayerCache | None = None,
    ) -> Float[Tensor, "b t m"]:
        if context is None:
            query, key, value = self._project_self(x, rotation)
            key = mask.kept(key) if isinstance(mask, NearFar) else key
        else:
            query = self._project_query(x)
            key, value = self.project(context) if isinstance(context, Tensor) else context
        if cache is not None:
            key, value = cache.append(key, value)
        dropout = self.dropout if self.training else 0.0
        if isinstance(mask, NearFar):
            mixed = mask.attend(query, key, value, dropout=dropout)
        else:
            mixed = attention(query, key, value, mask, dropout=dropout)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out

    def written_out(
        self, x: Float[Tensor, "b t m"], mask: Lowered | NearFar, rotation: Rotation | None = None
    ) -> tuple[Float[Tensor, "b t m"], Float[Tensor, "b h t t"]]:
        """Self-attention by the formula itself, with all scores at once: what `forward` gives, and the weights
        softmax(Q K^T / sqrt(d) + mask) of every head, for pictures and comparisons."""
        query, key, value = self._project_self(x, rotation)
        each = self.n_heads // self.n_kv_heads
        weights = (
            _near_far_weights(query, mask.kept(key), mask, x)
            if isinstance(mask, NearFar)
            else _weights(query, key.repeat_interleave(each, 1), _dense(mask, x))
        )
        mixed = weights.to(value.dtype) @ value.repeat_interleave(each, 1)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out, weights

    def _project_self(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        heads = self.input(x).unflatten(-1, (-1, self.d_head))
        h, g = self.n_heads, self.n_kv_heads
        if self.query_norm is not None and self.key_norm is not None:
            query, key, value = heads.split((h, g, g), dim=2)
            both = torch.cat((self.query_norm(query), self.key_norm(key)), dim=2)
        else:
            both, value = heads.split((h + g, g), dim=2)
        if rotation is not None:
            both = rotate(both, rotation)  # queries and keys turn by the same angles, so they turn together
        query, key = both.split((h, g), dim=2)
        return query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)

    def _project_query(self, x: Tensor) -> Tensor:
        rows, bias = self.n_heads * self.d_head, self.input.bias
        query = linear(x, self.input.weight[:rows], None if bias is None else bias[:rows])
        query = query.unflatten(-1, (-1, self.d_head))
        if self.query_norm is not None:
            query = self.query_norm(query)
        heads_first: Tensor = query.transpose(1, 2)
        return heads_first

    def project(self, context: Float[Tensor, "b k m"]) -> KeysAndValues:
        """The keys and values of a context for cross-attention."""
        rows, bias = self.n_heads * self.d_head, self.input.bias
        pair = linear(context, self.input.weight[rows:], None if bias is None else bias[rows:])
        key, value = pair.unflatten(-1, (-1, self.d_head)).chunk(2, dim=2)
        key = key if self.key_norm is None else self.key_norm(key)
        return key.transpose(1, 2), value.transpose(1, 2)

    def weights(self, x: Float[Tensor, "b t m"], context: Float[Tensor, "b k m"]) -> Float[Tensor, "b h t k"]:
        """How much each position of x attends to each of a context: softmax(Q K^T / sqrt(d)), for pictures."""
        query, (key, _) = self._project_query(x), self.project(context)
        key = key.repeat_interleave(self.n_heads // self.n_kv_heads, 1)
        return torch.softmax((query @ key.transpose(-1, -2)) * self.d_head**-0.5, dim=-1)
