"""How does a block take one new position at the speed of memory?

When tokens are generated one by one, a block multiplies a single row by each of its matrices, and a library's many
small calls cost as much as reading the weights. Here a whole block is one call of a compiled loop, which reads every
weight once and keeps what lies between in float32. It serves the blocks of the Llama family: normalized before each
sublayer by root mean square, gated by SwiGLU, with rotary or no positions. All others go the general way through
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from diptych.nn.attention import LayerCache
from diptych.nn.linear import Linear
from diptych.nn.masks import Lowered
from diptych.nn.normalization import RMSNorm
from diptych.nn.positions import Rotation

if TYPE_CHECKING:
    from diptych.nn.block import Block


@dataclass(frozen=True, eq=False)
class Weights:
    """A block's parameters as the loop takes them, and where they lay when they were taken."""

    places: tuple[int, ...]
    arrays: tuple[Any, ...] | None
    """They share the parameters' memory; None where the loop does not serve the block."""


def next_row(
    block: Block, x: Float[Tensor, "b t d"], mask: Lowered, rotation: Rotation | None, cache: LayerCache
) -> Float[Tensor, "1 1 d"] | None:
    """What the block makes of the next position of a single row; None where the general way must be taken."""
    if x.numel() != x.shape[-1] or mask.dense is not None or mask.causal:
        return None
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return None
    if torch.compiler.is_compiling() or (kernel := _kernel(x.dtype)) is None:
        return None
    weights = _weights(block, x.dtype)
    place = None if weights is None else cache.next_place()
    if weights is None or place is None:
        return None
    keys, values, position = place
    row = x.detach().float().reshape(-1).clone()
    turn = (_NOTHING, _NOTHING) if rotation is None else tuple(part.float().reshape(-1).numpy() for part in rotation)
    kernel(row.numpy(), *turn, *weights, _array(keys), _array(values), position, block.attention_norm.eps)
    return row.to(x.dtype).view(x.shape)


_NOTHING = torch.zeros(0).numpy()


@cache
def _kernel(dtype: torch.dtype) -> Callable[..., None] | None:
    if dtype not in (torch.float32, torch.bfloat16):
        return None
    from diptych.nn import kernels

    return kernels.block_of_one_row if kernels.worth_using(torch.get_num_threads()) else None


def _weights(block: Block, dtype: torch.dtype) -> tuple[Any, ...] | None:
    """The block's parameters, taken once, and again where they have moved."""
    kept: Weights | None = block.__dict__.get("_one_row")
    places = tuple(parameter.data_ptr() for parameter in block.parameters())
    if kept is None or kept.places != places:
        kept = Weights(places, _take(block, dtype))
        block.__dict__["_one_row"] = kept
    return kept.arrays


def _take(block: Block, dtype: torch.dtype) -> tuple[Any, ...] | None:
    attention, inner = block.attention, block.feed_forward
    first, second = block.attention_norm, block.feed_forward_norm
    if not block.pre or not isinstance(first, RMSNorm) or not isinstance(second, RMSNorm) or first.eps != second.eps:
        return None
    if block.cross_norm is not None or attention.query_norm is not None or inner.activation != "swiglu":
        return None
    layers = (attention.input, attention.output, inner.input, inner.output)
    if not all(isinstance(layer, Linear) for layer in layers) or any(layer.bias is not None for layer in layers[1:]):
        return None
    if any(p.dtype != dtype or not p.is_contiguous() for p in block.parameters()):
        return None
    bias = attention.input.bias
    return (
        _array(first.weight),
        _array(attention.input.weight),
        _array(torch.zeros(0, dtype=dtype) if bias is None else bias),
        _array(attention.output.weight),
        _array(second.weight),
        _array(inner.input.weight),
        _array(inner.output.weight),
    )


def _array(tensor: Tensor) -> Any:
    """The tensor's memory for numba, which has no bfloat16 and gets its 16-bit words."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
