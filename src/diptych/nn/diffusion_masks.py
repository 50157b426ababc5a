"""Who may attend to whom where a row is denoised block by block?

The first token of a row is given: it is a block of its own, and the blocks of `block` positions begin after it. Masks
of block diffusion (Arriola et al. 2025, section 3.2 and figure 3) over such rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diptych.nn.masks import Bounds, Composable, Span, same


@final
@dataclass(frozen=True)
class Blocks(Composable):
    """The blocks before, and the whole of the own one: how clean text is read and how blocks are drawn."""

    block: int

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where the key's block is no later one."""
        return block_of(key, self.block) <= block_of(query, self.block)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the first and the last block of both."""
        return Bounds(self.allowed(query.last, key.first), self.allowed(query.first, key.last))


def block_of(position: Int[Tensor, "..."], block: int) -> Int[Tensor, "..."]:
    """Number of the block that a position of a row lies in: 0 of the first position, 1 of the `block` after it."""
    return (position + block - 1) // block


@final
@dataclass(frozen=True)
class NoisyAndClean(Composable):
    """`length` noisy positions, then the `length` + 1 of the clean row: how all blocks are learnt in one pass.

    Index i < `length` is the noisy copy of position i + 1, index `length` + i the clean position i. A noisy block sees
    itself, both ways, and the clean blocks before it; clean positions see each other as in `Blocks`, and nothing noisy.
    """

    length: int
    block: int

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True by the three parts: block-diagonal, earlier blocks, block-causal."""
        clean_query, clean_key = query >= self.length, key >= self.length
        query_block, key_block = self._block(query), self._block(key)
        noisy = torch.where(clean_key, key_block < query_block, key_block == query_block)
        return torch.where(clean_query, clean_key & (key_block <= query_block), noisy)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """Exact: those of the noisy and of the clean parts of both spans."""
        noisy_query, clean_query = query.first < self.length, query.last >= self.length
        noisy_key, clean_key = key.first < self.length, key.last >= self.length
        # A part that a span lacks is turned over, but is not looked at.
        q_noisy, q_clean = self._noisy(query), self._clean(query)
        k_noisy, k_clean = self._noisy(key), self._clean(key)
        own = same(*q_noisy, *k_noisy)
        before = Bounds(k_clean.first < q_noisy.last, k_clean.last < q_noisy.first)
        up_to = Bounds(k_clean.first <= q_clean.last, k_clean.last <= q_clean.first)
        in_own, in_before, in_clean = noisy_query & noisy_key, noisy_query & clean_key, clean_query & clean_key
        some = (in_own & own.some) | (in_before & before.some) | (in_clean & up_to.some)
        every = (own.every | ~in_own) & (before.every | ~in_before) & (up_to.every | ~in_clean)
        return Bounds(some, every & ~(clean_query & noisy_key))

    def _block(self, index: Tensor) -> Tensor:
        return block_of(torch.where(index >= self.length, index - self.length, index + 1), self.block)

    def _noisy(self, span: Span) -> Span:
        """Blocks of the noisy part of a span."""
        return Span(*(block_of(index.clamp(max=self.length - 1) + 1, self.block) for index in span))

    def _clean(self, span: Span) -> Span:
        """Blocks of the clean part of a span."""
        return Span(*(block_of(index.clamp(min=self.length) - self.length, self.block) for index in span))
