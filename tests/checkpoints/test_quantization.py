"""Are blocks of every type the numbers that GGML's own library makes of them, bit for bit?"""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from diptych.checkpoints.quantization import BF16, F16, NAMES, Q4_0, Q4_1, Q4_K, Q8_0, dequantize, quantize
from diptych.core.gguf import BLOCKS


def test_blocks_have_the_sizes_of_the_library() -> None:
    theirs = {int(kind): (int(block), int(size)) for kind, (block, size) in gguf.GGML_QUANT_SIZES.items()}
    assert {kind: BLOCKS[kind] for kind in theirs if kind in BLOCKS} == {k: v for k, v in theirs.items() if k in BLOCKS}
    assert set(NAMES) <= theirs.keys()
    assert {gguf.GGMLQuantizationType(kind).name for kind in NAMES} == set(NAMES.values())


def both(raw: np.ndarray, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """The bits of the numbers of some blocks, ours and the library's, where they are numbers at all."""
    block, size = BLOCKS[kind]
    ours = torch.full((raw.size // size * block,), 7.0)
    dequantize(torch.from_numpy(raw.copy()), kind, ours)
    with np.errstate(all="ignore"):
        theirs = gguf.dequantize(raw.reshape(-1, size) if block > 1 else raw, gguf.GGMLQuantizationType(kind)).ravel()
    assert np.array_equal(np.isnan(ours.numpy()), np.isnan(theirs))
    there = ~np.isnan(theirs)
    return ours.numpy()[there].view(np.uint32), theirs[there].view(np.uint32)


@pytest.mark.parametrize("kind", NAMES, ids=NAMES.values())
def test_random_bytes_are_the_same_numbers(kind: int) -> None:
    block, size = BLOCKS[kind]
    raw = np.random.default_rng(kind).integers(0, 256, (1 << 17) // block * size, np.uint8)
    ours, theirs = both(raw, kind)
    assert ours.size > 100_000
    assert np.array_equal(ours, theirs)


ODD_SCALES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7C01, 0x7E00, 0xFE00, 0x3C00]
"""Zeros, subnormal numbers, the smallest and largest, infinities and NaNs, as float16."""


@pytest.mark.parametrize("kind", [kind for kind in NAMES if BLOCKS[kind][0] > 1], ids=lambda kind: NAMES[kind])
def test_odd_scales(kind: int) -> None:
    size = BLOCKS[kind][1]
    raw = np.random.default_rng(1).integers(0, 256, (len(ODD_SCALES) ** 2, size), np.uint8)
    first, second = np.meshgrid(np.array(ODD_SCALES, np.uint16), np.array(ODD_SCALES, np.uint16))
    if kind in (Q4_1, Q4_K):
        raw[:, :4] = np.stack((first.ravel(), second.ravel()), 1).view(np.uint8)
    else:
        place = slice(None, 2) if kind in (Q8_0, Q4_0) else slice(-2, None)
        raw[:, place] = first.reshape(-1, 1).view(np.uint8)
    ours, theirs = both(raw.ravel(), kind)
    assert ours.size > 1000
    assert np.array_equal(ours, theirs)


def test_every_float16_and_bfloat16() -> None:
    words = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    for kind in (F16, BF16):
        ours, theirs = both(words, kind)
        assert ours.size > 60_000
        assert np.array_equal(ours, theirs)


def test_unknown_types_are_refused() -> None:
    for kind in (6, 13, 99):
        with pytest.raises(ValueError, match=rf"type {kind} are not read; those that are: F32, F16, BF16, Q8_0"):
            dequantize(torch.zeros(0, dtype=torch.uint8), kind, torch.zeros(0))


def some_numbers() -> np.ndarray:
    """Of many sizes; whole blocks of zeros, of one number, and with two largest magnitudes."""
    generator = np.random.default_rng(5)
    numbers = generator.standard_normal((5000, 32)) * 10.0 ** generator.integers(-9, 4, (5000, 1))
    numbers[0], numbers[1], numbers[2, :], numbers[3] = 0, -0.5, np.arange(32) - 16, 1e-30
    numbers[4] = (np.arange(32) - 15.5) * 2
    return numbers.astype(np.float32)


@pytest.mark.parametrize("kind", [Q8_0, Q4_0, Q4_1], ids=lambda kind: NAMES[kind])
def test_quantized_blocks_are_the_same_bytes(kind: int) -> None:
    numbers = some_numbers()
    with np.errstate(all="ignore"):
        theirs = gguf.quantize(numbers, gguf.GGMLQuantizationType(kind)).ravel()
    ours = quantize(torch.from_numpy(numbers).view(-1), kind).numpy()
    assert np.array_equal(ours.reshape(5000, -1), theirs.reshape(5000, -1))


def test_a_dequantized_number_is_near_the_one_that_was_quantized() -> None:
    numbers = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    out = torch.empty(64 * 32)
    dequantize(quantize(numbers.view(-1), Q8_0), Q8_0, out)
    largest = numbers.abs().amax(1, keepdim=True)
    # Half a step of the scale, and what float16 takes from the scale itself.
    assert ((out.view(64, 32) - numbers).abs() <= largest * (0.5 / 127 + 2**-11)).all()


def test_what_cannot_be_quantized_is_refused() -> None:
    with pytest.raises(ValueError, match="33 numbers are no multiple of Q8_0's block of 32"):
        quantize(torch.zeros(33), Q8_0)
    with pytest.raises(ValueError, match="Q4_K is not written; those that are: Q8_0, Q4_0, Q4_1"):
        quantize(torch.zeros(256), Q4_K)
