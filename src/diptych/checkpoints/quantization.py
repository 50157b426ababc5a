"""Which numbers do GGML's types of tensors hold?

Plain numbers, or blocks of small whole numbers that share a scale and perhaps a smallest value, themselves scaled by
the block of blocks in the K types (GGML's `ggml-common.h` and `ggml-quants.c`). Every product and sum is taken in
float32, in the order of GGML's own library, so that the numbers are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from diptych.core.gguf import BLOCKS

F32, F16, Q4_0, Q4_1, Q8_0, Q4_K, Q6_K, BF16 = 0, 1, 2, 3, 8, 12, 14, 30
"""GGML's numbers of the types that are read."""

NAMES = {
    F32: "F32",
    F16: "F16",
    BF16: "BF16",
    Q8_0: "Q8_0",
    Q4_0: "Q4_0",
    Q4_1: "Q4_1",
    Q4_K: "Q4_K",
    Q6_K: "Q6_K",
}

PLAIN = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}
"""The types of plain numbers."""

_ROWS = 1 << 15
"""Blocks that are quantized at a time."""

Blocks = UInt8[Tensor, "n bytes"]
Numbers = Float[Tensor, "n block"]


def dequantize(data: UInt8[Tensor, " bytes"], ggml_type: int, out: Float[Tensor, " n"]) -> None:
    """Put the numbers of whole blocks into `out`, float32; to round them to another type is the caller's to do.

    Raises ValueError for a type that is not in `NAMES`.
    """
    if ggml_type in PLAIN:
        out.copy_(data.view(PLAIN[ggml_type]))
        return
    if ggml_type not in _READERS:
        raise ValueError(
            f"tensors of GGML's type {ggml_type} are not read; those that are: {', '.join(NAMES.values())}"
        )
    elements, size = BLOCKS[ggml_type]
    _READERS[ggml_type](data.view(-1, size), out.view(-1, elements))


def quantize(values: Float[Tensor, " n"], ggml_type: int) -> UInt8[Tensor, " bytes"]:
    """Blocks of one of the types Q8_0, Q4_0 and Q4_1, rounded as GGML's own library rounds.

    Raises ValueError for another type and for a count of numbers that is no multiple of the block.
    """
    if ggml_type not in _WRITERS:
        known = ", ".join(NAMES[kind] for kind in _WRITERS)
        raise ValueError(f"{NAMES.get(ggml_type, ggml_type)} is not written; those that are: {known}")
    block = BLOCKS[ggml_type][0]
    if values.numel() % block:
        raise ValueError(f"{values.numel()} numbers are no multiple of {NAMES[ggml_type]}'s block of {block}")
    return torch.cat([_WRITERS[ggml_type](part) for part in values.float().reshape(-1, block).split(_ROWS)]).flatten()


def _to_q8_0(blocks: Float[Tensor, "n 32"]) -> UInt8[Tensor, "n 34"]:
    """The largest magnitude becomes 127."""
    scale = blocks.abs().amax(1, keepdim=True) / 127
    scaled = blocks * _inverse(scale)
    magnitude = scaled.abs()
    whole = magnitude.floor()
    whole += (2 * (magnitude - whole)).floor()  # halves go away from zero
    numbers = (scaled.sign() * whole).to(torch.int8)
    return torch.cat((_words(scale), numbers.view(torch.uint8)), 1)


def _to_q4_0(blocks: Float[Tensor, "n 32"]) -> UInt8[Tensor, "n 18"]:
    """The number of the largest magnitude, whatever its sign, becomes -8."""
    scale = blocks.gather(1, blocks.abs().argmax(1, keepdim=True)) / -8
    return torch.cat((_words(scale), _packed(blocks * _inverse(scale) + 8.5)), 1)


def _to_q4_1(blocks: Float[Tensor, "n 32"]) -> UInt8[Tensor, "n 20"]:
    """The smallest number becomes 0, the largest 15."""
    least = blocks.amin(1, keepdim=True)
    scale = (blocks.amax(1, keepdim=True) - least) / 15
    return torch.cat((_words(scale), _words(least), _packed((blocks - least) * _inverse(scale) + 0.5)), 1)


def _inverse(scale: Float[Tensor, "n 1"]) -> Float[Tensor, "n 1"]:
    return torch.where(scale == 0, 0.0, 1 / scale)


def _words(scale: Float[Tensor, "n 1"]) -> UInt8[Tensor, "n 2"]:
    return scale.half().view(torch.uint8)


def _packed(numbers: Float[Tensor, "n 32"]) -> UInt8[Tensor, "n 16"]:
    """Two numbers in each byte, cut to whole ones from 0 to 15: the first half of the block in the lower bits."""
    low, high = numbers.trunc().clamp(0, 15).to(torch.uint8).chunk(2, dim=1)
    return low | (high << 4)


def _q8_0(blocks: Blocks, out: Numbers) -> None:
    out.copy_(blocks[:, 2:].view(torch.int8)).mul_(_halves(blocks[:, :2]))


def _q4_0(blocks: Blocks, out: Numbers) -> None:
    _nibbles(blocks[:, 2:], out.view(-1, 2, 16))
    out.sub_(8).mul_(_halves(blocks[:, :2]))


def _q4_1(blocks: Blocks, out: Numbers) -> None:
    _nibbles(blocks[:, 4:], out.view(-1, 2, 16))
    scales = _halves(blocks[:, :4])
    out.mul_(scales[:, :1]).add_(scales[:, 1:])


def _q4_k(blocks: Blocks, out: Numbers) -> None:
    """Eight groups of 32; twelve bytes hold their scales and smallest values of six bits each."""
    scales = _halves(blocks[:, :4])
    low, high, rest = blocks[:, 4:16].view(-1, 3, 4).unbind(1)
    scale = torch.cat((low & 0x3F, (rest & 0x0F) | ((low >> 2) & 0x30)), 1).float().mul_(scales[:, :1])
    least = torch.cat((high & 0x3F, (rest >> 4) | ((high >> 2) & 0x30)), 1).float().mul_(scales[:, 1:])
    _nibbles(blocks[:, 16:].view(-1, 4, 32), out.view(-1, 4, 2, 32))
    out.view(-1, 8, 32).mul_(scale[:, :, None]).sub_(least[:, :, None])


def _q6_k(blocks: Blocks, out: Numbers) -> None:
    """Sixteen groups of 16, each with a scale of eight bits; numbers of four low bits and two high ones, less 32."""
    low = torch.empty(len(blocks), 2, 2, 64, dtype=torch.uint8)
    _nibbles(blocks[:, :128].view(-1, 2, 64), low)
    high = blocks[:, 128:192].view(-1, 2, 1, 32) >> torch.tensor([0, 2, 4, 6], dtype=torch.uint8)[:, None]
    low.view(-1, 2, 4, 32).bitwise_or_((high & 3) << 4)
    scale = _halves(blocks[:, 208:]) * blocks[:, 192:208].view(torch.int8).float()
    out.copy_(low.view(-1, 256)).sub_(32).view(-1, 16, 16).mul_(scale[:, :, None])


def _nibbles(data: UInt8[Tensor, "*n bytes"], out: Float[Tensor, "*n 2 bytes"]) -> None:
    """The lower halves of bytes, then the upper ones."""
    out.select(-2, 0).copy_(data & 0x0F)
    out.select(-2, 1).copy_(data >> 4)


def _halves(data: UInt8[Tensor, "n bytes"]) -> Float[Tensor, "n half_bytes"]:
    return data.contiguous().view(torch.float16).float()


_READERS: dict[int, Callable[[Blocks, Numbers], None]] = {
    Q8_0: _q8_0,
    Q4_0: _q4_0,
    Q4_1: _q4_1,
    Q4_K: _q4_k,
    Q6_K: _q6_k,
}

_WRITERS: dict[int, Callable[[Tensor], Tensor]] = {Q8_0: _to_q8_0, Q4_0: _to_q4_0, Q4_1: _to_q4_1}
