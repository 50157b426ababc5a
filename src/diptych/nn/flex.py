"""How does a GPU skip what a mask hides?

By FlexAttention (PyTorch), which compiles a mask's rule into the tiled kernel and visits only the blocks of a block
mask. The blocks come from the mask's own bounds, without looking at every pair. On a processor it reads forward only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from diptych.core.types import Mask
from diptych.nn.block_sparse import bounds_of_blocks
from diptych.nn.masks import Both, Documents, Either, Except, Keys, Within

SIZE = 128
"""Positions of a block: FlexAttention's own default."""

Rule = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""FlexAttention's mask: row of the batch, head, query, key, each a number, to whether it may attend."""


def block_mask(mask: Mask, queries: int, keys: int, offset: int, device: torch.device | str) -> BlockMask:
    """The blocks that a mask leaves something of, and its rule for those it does not leave whole."""
    found = bounds_of_blocks(mask, queries, keys, offset, size=SIZE, device=device)
    shape = (len(found.some), 1, -(-queries // SIZE), -(-keys // SIZE))
    some, every = found.some[:, None].expand(shape), found.every[:, None].expand(shape)
    part, whole = _listed(some & ~every), _listed(some & every)
    rule = _rule(mask)

    def moved(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return rule(b, h, q + offset, k)

    return BlockMask.from_kv_blocks(
        *part, *whole, BLOCK_SIZE=SIZE, mask_mod=moved if offset else rule, seq_lengths=(queries, keys)
    )


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many key blocks each query block has, and which, those first."""
    order = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
    return blocks.sum(-1, dtype=torch.int32), order.int().contiguous()


def _rule(mask: Mask) -> Rule:
    """A mask's rule on single numbers. Those of several rows look at the row of the batch, the others do not."""

    def alone(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        del b, h
        return mask.allowed(q, k)

    def documents(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        del h
        assert isinstance(mask, Documents)
        return mask.ids[b, q] == mask.ids[b, k]

    def lengths(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        del h, q
        assert isinstance(mask, Keys)
        return k < mask.lengths[b]

    def within(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        assert isinstance(mask, Within)
        return inner(b, h, mask.positions[b, q], mask.positions[b, k])

    def joined(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        one, other = (rule(b, h, q, k) for rule in parts)
        return one & other if isinstance(mask, Both) else one | other if isinstance(mask, Either) else one & ~other

    match mask:
        case Both(first, second) | Either(first, second) | Except(first, second):
            parts = _rule(first), _rule(second)
            return joined
        case Documents():
            return documents
        case Within(of):
            inner = _rule(of)
            return within
        case Keys():
            return lengths
    return alone


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)


def attention_by_blocks(
    query: Float[Tensor, "b h q d"], key: Float[Tensor, "b g k d"], value: Float[Tensor, "b g k d"], blocks: BlockMask
) -> Float[Tensor, "b h q d"]:
    """softmax(Q K^T / sqrt(d) + mask) V, over the blocks of a mask only; `h` is a multiple of `g`."""
    run = _compiled()
    out: Tensor = run(query, key, value, block_mask=blocks, enable_gqa=query.shape[1] != key.shape[1])
    return out


def attention_by_blocks_with_lse(
    query: Float[Tensor, "b h q d"],
    key: Float[Tensor, "b g k d"],
    value: Float[Tensor, "b g k d"],
    blocks: BlockMask,
    *,
    scale: float,
) -> tuple[Float[Tensor, "b h q d"], Float[Tensor, "b h q"]]:
    """softmax(scale Q K^T + mask) V as above, and the log-sum-exp of its scores, -inf in a row that may attend to
    nothing."""
    grouped = query.shape[1] != key.shape[1]
    run = _compiled()
    wanted = AuxRequest(lse=True)
    out, besides = run(query, key, value, block_mask=blocks, scale=scale, enable_gqa=grouped, return_aux=wanted)
    return out, besides.lse
