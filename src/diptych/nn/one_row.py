"""How does a network take one new position at the speed of memory?

When tokens are generated one by one, a block multiplies a single row by each of its matrices, and a library's many
small calls cost as much as reading the weights. Here a whole block is one call of a compiled loop, which reads every
weight once and keeps what lies between in float32. It serves the blocks of the Llama family: normalized before each
sublayer by root mean square, gated by SwiGLU, with rotary or no positions. All others go the general way through
torch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diptych.nn.attention import MultiHeadAttention
from diptych.nn.block import Block
from diptych.nn.linear import Linear
from diptych.nn.lowering import Lowered
from diptych.nn.normalization import RMSNorm
from diptych.nn.positions import Rotation


@dataclass(frozen=True, eq=False)
class Weights:
    """A block's parameters as the loop takes them, and where they lay when they were taken."""

    places: tuple[int, ...]
    arrays: tuple[Any, ...]
    """They share the parameters' memory."""
    eps: float


def next_row(
    blocks: nn.ModuleList,
    x: Float[Tensor, "b t m"],
    mask: Lowered,
    rotation: Rotation | None,
    room: tuple[Float[Tensor, "l g n d"], Float[Tensor, "l g n d"], int],
) -> Float[Tensor, "1 1 m"] | None:
    """What all blocks make of the next position of a single row; None where the general way must be taken.

    room: keys and values of all layers, and the position in them that is written.
    """
    if x.numel() != x.shape[-1] or mask.dense is not None or mask.causal or x.device.type != "cpu":
        return None
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return None
    if (kernel := _kernel(x.dtype)) is None:
        return None
    weights = [_weights(block, x.dtype) for block in blocks]
    if None in weights:
        return None
    row = x.detach().float().reshape(-1).clone()
    turn = (_NOTHING, _NOTHING) if rotation is None else tuple(part.float().reshape(-1).numpy() for part in rotation)
    keys, values, position = _array(room[0]), _array(room[1]), room[2]
    array = row.numpy()
    for layer, taken in enumerate(weights):
        assert taken is not None
        kernel(array, *turn, *taken.arrays, keys[layer], values[layer], position, taken.eps)
    return row.to(x.dtype).view(x.shape)


_NOTHING = torch.zeros(0).numpy()


SILENT_SECONDS = 2.0
"""What takes longer is a compilation, not the reading of an earlier one, and is told."""


@cache
def _kernel(dtype: torch.dtype) -> Callable[..., None] | None:
    """The loop for this type of weights, compiled; None where there is none."""
    if dtype not in (torch.float32, torch.bfloat16):
        return None
    from diptych.nn import kernels

    if not kernels.worth_using(torch.get_num_threads()):
        return None
    loop: Callable[..., None] = kernels.block_of_one_row
    timer = threading.Timer(SILENT_SECONDS, logging.getLogger("diptych").warning, (_COMPILING,))
    timer.daemon = True
    timer.start()
    try:
        _try(loop, dtype)
    finally:
        timer.cancel()
    return loop


_COMPILING = "compiling the loop that takes a token through a block; once on this machine, for about 15 seconds"


def _try(kernel: Callable[..., None], dtype: torch.dtype) -> None:
    """Call the loop on next to nothing: a block of one head of two dimensions."""
    shapes = ((2,), (6, 2), (0,), (2, 2), (2,), (2, 2), (2, 1), (1, 1, 2), (1, 1, 2))
    arrays = [_array(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    kernel(torch.ones(2).numpy(), _NOTHING, _NOTHING, *arrays, 0, 1e-5)


def _weights(block: nn.Module, dtype: torch.dtype) -> Weights | None:
    """The block's parameters, taken once, and again where they have moved; None where the loop does not serve it."""
    assert isinstance(block, Block)
    attention, inner = block.attention, block.feed_forward
    if not isinstance(attention, MultiHeadAttention):
        return None
    layers = (attention.input, attention.output, inner.input, inner.output)
    first, second = block.attention_norm, block.feed_forward_norm
    if not isinstance(first, RMSNorm) or not isinstance(second, RMSNorm):
        return None
    if any(type(layer) is not Linear for layer in layers):  # an adapted layer stands in its place
        return None
    bias = attention.input.bias
    places = (
        *(layer.weight.data_ptr() for layer in layers),
        first.weight.data_ptr(),
        second.weight.data_ptr(),
        0 if bias is None else bias.data_ptr(),
    )
    kept: Weights | None = block.__dict__.get("_one_row")
    if kept is None or kept.places != places:
        if not _serves(block, dtype):
            return None
        kept = block.__dict__["_one_row"] = _take(block, places, dtype)
    return kept


def _serves(block: Block, dtype: torch.dtype) -> bool:
    """Whether a block of linear layers and root mean squares is otherwise one that the loop knows."""
    attention, inner = block.attention, block.feed_forward
    assert isinstance(attention, MultiHeadAttention)
    if not block.pre or block.cross_norm is not None or attention.query_norm is not None:
        return False
    if inner.activation != "swiglu" or any(p.dtype != dtype or not p.is_contiguous() for p in block.parameters()):
        return False
    return all(layer.bias is None for layer in (attention.output, inner.input, inner.output))


def _take(block: Block, places: tuple[int, ...], dtype: torch.dtype) -> Weights:
    attention, inner = block.attention, block.feed_forward
    first, second = block.attention_norm, block.feed_forward_norm
    assert isinstance(attention, MultiHeadAttention)
    assert isinstance(first, RMSNorm) and isinstance(second, RMSNorm)
    bias = attention.input.bias
    arrays = (
        _array(first.weight),
        _array(attention.input.weight),
        _array(torch.zeros(0, dtype=dtype) if bias is None else bias),
        _array(attention.output.weight),
        _array(second.weight),
        _array(inner.input.weight),
        _array(inner.output.weight),
    )
    return Weights(places, arrays, first.eps)


def _array(tensor: Tensor) -> Any:
    """The tensor's memory for numba, which has no bfloat16 and gets its 16-bit words."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
