"""Which pairs do the published sparse forms of attention leave?

Masks by strides, blocks and chance (Sparse Transformer, BigBird), of block diffusion, and of documents by their
lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diptych.nn.masks import Bounds, Composable, Span, same


@final
@dataclass(frozen=True)
class Strided(Composable):
    """Only keys whole strides away; joined to a window by `|`, the strided pattern of Child et al. 2019."""

    stride: int

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where query - key is a multiple of the stride."""
        return (query - key) % self.stride == 0

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By whether a multiple lies between the smallest and the largest distance."""
        least, most = query.first - key.last, query.last - key.first
        some = most.div(self.stride, rounding_mode="floor") * self.stride >= least
        return Bounds(some, some & ((least == most) | (self.stride == 1)))


@final
@dataclass(frozen=True)
class Blocks(Composable):
    """Only positions of the same block of `length`."""

    length: int

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where both lie in one block."""
        return query // self.length == key // self.length

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the first and the last block of both."""
        return same(*(position // self.length for position in (*query, *key)))


@final
@dataclass(frozen=True)
class Fixed(Composable):
    """The same block of `length`, and the last `count` keys of every block, which sum it up: the fixed pattern of Child
    et al. 2019."""

    length: int
    count: int

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where both lie in one block, or the key at the end of any."""
        return (query // self.length == key // self.length) | (key % self.length >= self.length - self.count)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the blocks, and by how many summing keys lie in a span."""
        own = Blocks(self.length).bounds(query, key)
        summing = self._summing(key.last) - self._summing(key.first - 1)
        return Bounds(own.some | (summing > 0), own.every | (summing == key.last - key.first + 1))

    def _summing(self, key: Tensor) -> Tensor:
        """How many summing keys there are up to this one."""
        whole, rest = (key + 1) // self.length, (key + 1) % self.length
        return whole * min(self.count, self.length) + (rest - self.length + self.count).clamp(min=0)


@final
@dataclass(frozen=True)
class BigBird(Composable):
    """By blocks of positions: `near` neighbours on each side, `wide` first blocks that see all and are seen by all, and
    `random` others (Zaheer et al. 2020; with 1, 2 and 3 of 64 positions as published).

    A block draws its random ones among those before it, and is seen by them: drawn among all, they would change as a
    text grows.
    """

    block: int
    near: int = 1
    wide: int = 2
    random: int = 3
    seed: int = 0

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where the two blocks see each other."""
        return self._see(query // self.block, key // self.block)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By all pairs of blocks that the spans touch."""
        touched = [position // self.block for position in (*query, *key)]
        first_query, last_query, first_key, last_key = touched
        some = every = None
        for down in range(int((last_query - first_query).max()) + 1):
            for right in range(int((last_key - first_key).max()) + 1):
                see = self._see((first_query + down).minimum(last_query), (first_key + right).minimum(last_key))
                some = see if some is None else some | see
                every = see if every is None else every & see
        assert some is not None and every is not None
        return Bounds(some, every)

    def _see(self, query: Tensor, key: Tensor) -> Tensor:
        least, most = torch.minimum(query, key), torch.maximum(query, key)
        see = (most - least <= self.near) | (least < self.wide)
        for draw in range(self.random):
            see = see | (least == _scrambled(most, self.seed, draw) % most.clamp(min=1))
        return see


def _scrambled(number: Tensor, seed: int, draw: int) -> Tensor:
    """A number below 2^31 that looks random, the same on every machine (the multipliers are of splitmix's kind)."""
    mixed = number * 0x9E3779B1 + seed * 0x85EBCA77 + draw * 0xC2B2AE3D
    for _ in range(2):
        mixed = mixed & 0xFFFFFFFF
        mixed = ((mixed >> 15) ^ mixed) * 0x2C1B3C6D
    return (mixed & 0xFFFFFFFF) >> 1


@final
@dataclass(frozen=True)
class BlockCausal(Composable):
    """The blocks before, and the whole of the own one: how block diffusion reads clean text and draws (Arriola et al.
    2025). The first `given` positions, at most a block's, are a block of their own before the others."""

    block: int
    given: int = 0

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where the key's block is no later one."""
        return (key - self.given) // self.block <= (query - self.given) // self.block

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the first and the last block of both."""
        return Bounds(self.allowed(query.last, key.first), self.allowed(query.first, key.last))


@final
@dataclass(frozen=True)
class BlockDiffusion(Composable):
    """`length` noisy positions, then the `given` + `length` of the clean row: how block diffusion learns all blocks in
    one pass.

    Index i < `length` is the noisy copy of position `given` + i. A noisy block sees itself and the clean blocks before
    it, clean positions see each other as in `BlockCausal`, and nothing noisy (Arriola et al. 2025, section 3.2 and
    figure 3).
    """

    block: int
    length: int
    given: int = 0

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
        return torch.where(index >= self.length, index - self.length - self.given, index) // self.block

    def _noisy(self, span: Span) -> Span:
        """Blocks of the noisy part of a span."""
        return Span(*(self._block(index.clamp(max=self.length - 1)) for index in span))

    def _clean(self, span: Span) -> Span:
        """Blocks of the clean part of a span."""
        return Span(*(self._block(index.clamp(min=self.length)) for index in span))


@final
@dataclass(frozen=True)
class Cuts(Composable):
    """Only positions of the same document; documents of these `lengths` follow one another, and the last has no end."""

    lengths: tuple[int, ...]

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where no document ends between the two."""
        return self._document(query) == self._document(key)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the first and the last document of both."""
        return same(*(self._document(position) for position in (*query, *key)))

    def _document(self, position: Tensor) -> Tensor:
        number = torch.zeros_like(position)
        for end in accumulate(self.lengths[:-1]):
            number = number + (position >= end)
        return number
