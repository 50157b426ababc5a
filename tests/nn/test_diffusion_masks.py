"""Masks of block diffusion: their definitions, exact bounds, and every form they are lowered to."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from diptych.core.types import Mask
from diptych.nn.attention import attention
from diptych.nn.block_sparse import spans
from diptych.nn.lowering import Scope, in_form, lower
from diptych.nn.masks import Causal, Span
from diptych.nn.patterns import BlockCausal, BlockDiffusion


def _pairs(mask: Mask, n: int) -> torch.Tensor:
    return mask.allowed(torch.arange(n)[None, :, None], torch.arange(n)[None, None, :])[0]


def _block(position: int, block: int) -> int:
    """Position 0 alone, then `block` at a time."""
    return 0 if position == 0 else 1 + (position - 1) // block


@pytest.mark.parametrize(("length", "block"), [*product((1, 2, 5, 8), (1, 2, 3, 8, 9))])
def test_masks_equal_their_definitions(length: int, block: int) -> None:
    """Arriola et al. 2025, section 3.2: M_BD, M_OBC and M_BC, of rows whose first token is a block."""
    where = [(True, i + 1) for i in range(length)] + [(False, i) for i in range(length + 1)]
    both, clean = (
        _pairs(BlockDiffusion(block, length, given=1), 2 * length + 1),
        _pairs(BlockCausal(block, given=1), length + 1),
    )
    for (q, (noisy_q, at_q)), (k, (noisy_k, at_k)) in product(enumerate(where), enumerate(where)):
        of_q, of_k = _block(at_q, block), _block(at_k, block)
        if noisy_q:
            expected = of_k == of_q if noisy_k else of_k < of_q
        else:
            expected = not noisy_k and of_k <= of_q
            assert noisy_k or bool(clean[at_q, at_k]) == expected
        assert bool(both[q, k]) == expected, (q, k)


@pytest.mark.parametrize("length", range(1, 9))
def test_bounds_are_exact(length: int) -> None:
    for block, wide, high in product((1, 2, 3, 8), range(1, 7), range(1, 7)):
        for mask, n in (
            (BlockDiffusion(block, length, given=1), 2 * length + 1),
            (BlockCausal(block, given=1), length + 1),
        ):
            query, key = spans(n, high, 0), spans(n, wide, 0)
            found = mask.bounds(query, Span(*(position.transpose(1, 2) for position in key)))
            allowed = _pairs(mask, n)
            for i, j in product(range(query.first.shape[1]), range(key.first.shape[1])):
                part = allowed[i * high : (i + 1) * high, j * wide : (j + 1) * wide]
                assert bool(found.some[0, i, j]) == bool(part.any())
                assert bool(found.every[0, i, j]) == bool(part.all())


@pytest.mark.parametrize(
    "mask",
    [
        BlockDiffusion(16, 300, given=1),
        BlockDiffusion(7, 300, given=1),
        BlockDiffusion(300, 300, given=1),
        BlockCausal(64, given=1),
    ],
)
def test_pieces_equal_the_dense_mask_forward_and_backward(mask: Mask) -> None:
    n = 601
    scope = Scope(n, n)
    inputs = [torch.randn(1, 2, n, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    weight = torch.randn(1, 2, n, 8, dtype=torch.float64)
    results = []
    for form in ("pieces", "dense"):
        out = attention(*inputs, in_form(form, mask, scope))
        results.append((out, *torch.autograd.grad((out * weight).sum(), inputs)))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_what_is_lowered_to_what() -> None:
    assert lower(BlockDiffusion(16, 256, given=1), queries=513, keys=513, offset=0).form == "pieces"
    assert lower(BlockDiffusion(16, 64, given=1), queries=129, keys=129, offset=0).form == "dense"
    assert lower(BlockCausal(16, given=1), queries=16, keys=33, offset=17).form == "none", (
        "a block to draw sees all that is kept"
    )
    assert torch.equal(_pairs(BlockCausal(1, given=1), 9), _pairs(Causal(), 9))
