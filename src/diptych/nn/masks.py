"""Who may attend to whom?

A mask is a value: a rule on positions that composes with `&` and `|`. Review section 2.2 (attention masks) and its
figure 2. Besides the rule itself, every mask bounds what it says about whole blocks of queries and keys, from which
`diptych.nn.lowering` finds the work that need not be done, and some say how far back they reach, from which follows how
much a cache must keep.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from diptych.core.mask_text import Joined, Term, parse_terms
from diptych.core.types import Mask


class Span(NamedTuple):
    """Blocks of positions, each from `first` to `last`: of queries (#b, q, 1), of keys (#b, 1, k)."""

    first: Int[Tensor, "..."]
    last: Int[Tensor, "..."]


class Bounds(NamedTuple):
    """What a mask says of every pair of a block of queries and one of keys.

    Where `some` is false, no pair of positions is allowed; where `every` is true, all are. In between anything may
    hold.
    """

    some: Bool[Tensor, "#b q k"]
    every: Bool[Tensor, "#b q k"]


class _Composable:
    """Gives a mask its `&` (both allow) and `|` (either allows), and the text that it is read from."""

    def __and__(self: Mask, other: Mask) -> Both:
        return Both(self, other)

    def __or__(self: Mask, other: Mask) -> Either:
        return Either(self, other)


@final
@dataclass(frozen=True)
class Full(_Composable):
    """Every position attends to every position: encoders and denoisers."""

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """All true; written by what holds of all positions, so that it takes every form that a rule takes."""
        return (query >= 0) & (key >= 0)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """All true."""
        everything = self.allowed(query.first, key.first)
        return Bounds(everything, everything)


@final
@dataclass(frozen=True)
class Causal(_Composable):
    """No position attends to a later one: autoregression."""

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where key <= query."""
        return key <= query

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the nearest and the farthest pair."""
        return Bounds(key.first <= query.last, key.last <= query.first)


@final
@dataclass(frozen=True)
class Prefix(_Composable):
    """The first `length` positions see one another, the rest is causal: a prefix language model (Raffel et al.
    2020)."""

    length: int

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where key <= query or key < length."""
        return (key <= query) | (key < self.length)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """As of both parts."""
        return (Causal() | Sinks(self.length)).bounds(query, key)


@final
@dataclass(frozen=True)
class Window(_Composable):
    """No key lies `width` or more positions before its query: the query itself and the `width` - 1 before it are
    left; and none lies more than `ahead` positions after it, where that is given."""

    width: int
    ahead: int | None = None

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where -ahead <= query - key < width."""
        near = query - key < self.width
        return near if self.ahead is None else near & (key - query <= self.ahead)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the nearest and the farthest pair."""
        least, most = query.first - key.last, query.last - key.first
        some, every = least < self.width, most < self.width
        if self.ahead is not None:
            some, every = some & (most >= -self.ahead), every & (least >= -self.ahead)
        return Bounds(some, every)


@final
@dataclass(frozen=True)
class Sinks(_Composable):
    """Only the first `count` keys: joined to a window by `|`, the attention sinks of StreamingLLM (Xiao et al.
    2024)."""

    count: int

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where key < count."""
        return (query >= 0) & (key < self.count)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the first and the last key."""
        return Bounds(self.allowed(query.first, key.first), self.allowed(query.first, key.last))


@final
@dataclass(frozen=True)
class Global(_Composable):
    """The first `count` positions attend to all, and all attend to them (Longformer, Beltagy et al. 2020)."""

    count: int

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where either is among the first."""
        return (key < self.count) | (query < self.count)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the first and the last of both."""
        return Bounds(self.allowed(query.first, key.first), self.allowed(query.last, key.last))


@final
@dataclass(frozen=True)
class Strided(_Composable):
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
class Blocks(_Composable):
    """Only positions of the same block of `length`."""

    length: int

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where both lie in one block."""
        return query // self.length == key // self.length

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the first and the last block of both."""
        return _same(*(position // self.length for position in (*query, *key)))


@final
@dataclass(frozen=True)
class Fixed(_Composable):
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
class BigBird(_Composable):
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
class BlockCausal(_Composable):
    """The blocks before, and the whole of the own one: how block diffusion draws (Arriola et al. 2025)."""

    block: int

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where the key's block is no later one."""
        return key // self.block <= query // self.block

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the first and the last block of both."""
        return Bounds(self.allowed(query.last, key.first), self.allowed(query.first, key.last))


@final
@dataclass(frozen=True)
class BlockDiffusion(_Composable):
    """`length` noisy positions, then the same ones clean: how block diffusion trains all blocks in one pass.

    A noisy block sees itself and the clean blocks before it, a clean one itself and those before it (Arriola et al.
    2025, section 3.2 and figure 3).
    """

    block: int
    length: int

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True by the three parts: block-diagonal, block-causal moved by one, block-causal."""
        clean_query, clean_key = query >= self.length, key >= self.length
        query_block, key_block = self._block(query), self._block(key)
        noisy = torch.where(clean_key, key_block < query_block, key_block == query_block)
        return torch.where(clean_query, clean_key & (key_block <= query_block), noisy)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """Exact where a span is all noisy or all clean, else open."""
        mixed = (self._clean(query.first) != self._clean(query.last)) | (
            self._clean(key.first) != self._clean(key.last)
        )
        first_query, last_query = self._block(query.first), self._block(query.last)
        first_key, last_key = self._block(key.first), self._block(key.last)
        same = _same(first_query, last_query, first_key, last_key)
        before = Bounds(first_key < last_query, last_key < first_query)
        up_to = Bounds(first_key <= last_query, last_key <= first_query)
        clean_query, clean_key = self._clean(query.first), self._clean(key.first)
        some = torch.where(clean_query, clean_key & up_to.some, torch.where(clean_key, before.some, same.some))
        every = torch.where(clean_query, clean_key & up_to.every, torch.where(clean_key, before.every, same.every))
        return Bounds(some | mixed, every & ~mixed)

    def _clean(self, position: Tensor) -> Tensor:
        return position >= self.length

    def _block(self, position: Tensor) -> Tensor:
        return torch.where(position >= self.length, position - self.length, position) // self.block


@final
@dataclass(frozen=True)
class Cuts(_Composable):
    """Only positions of the same document; documents of these `lengths` follow one another, and the last has no end."""

    lengths: tuple[int, ...]

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where no document ends between the two."""
        return self._document(query) == self._document(key)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the first and the last document of both."""
        return _same(*(self._document(position) for position in (*query, *key)))

    def _document(self, position: Tensor) -> Tensor:
        number = torch.zeros_like(position)
        for end in accumulate(self.lengths[:-1]):
            number = number + (position >= end)
        return number


@final
@dataclass(frozen=True, eq=False)
class Documents(_Composable):
    """Positions attend only within their own document; `ids` (b, t) numbers the documents packed into each row."""

    ids: Int[Tensor, "b t"]

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "b q k"]:
        """True where both positions carry the same document number."""
        return of_queries(self.ids, query) == of_keys(self.ids, key)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the first and the last document of both, where the numbers never fall; else open."""
        if bool((self.ids.diff(dim=1) < 0).any()):
            return Bounds(*(torch.full_like(self.allowed(query.first, key.first), x) for x in (True, False)))
        return _same(*(of_queries(self.ids, q) for q in query), *(of_keys(self.ids, k) for k in key))


def of_queries(numbers: Int[Tensor, "b t"], query: Int[Tensor, "#b q 1"]) -> Int[Tensor, "b q 1"]:
    """Each row's number at every query."""
    return numbers.gather(1, query[..., 0].expand(numbers.shape[0], -1))[:, :, None]


def of_keys(numbers: Int[Tensor, "b t"], key: Int[Tensor, "#b 1 k"]) -> Int[Tensor, "b 1 k"]:
    """Each row's number at every key."""
    return numbers.gather(1, key[:, 0].expand(numbers.shape[0], -1))[:, None, :]


@final
@dataclass(frozen=True, eq=False)
class Within(_Composable):
    """A mask that counts places from each document's first one: `positions` (b, t) of the documents packed into each
    row. It holds within a document; `Documents` keeps them apart."""

    mask: Mask
    positions: Int[Tensor, "b t"]

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "b q k"]:
        """What the mask says of the places in the documents."""
        return self.mask.allowed(of_queries(self.positions, query), of_keys(self.positions, key))

    def bounds(self, query: Span, key: Span) -> Bounds:
        """Those of the mask where no document begins within a span, else open."""
        queries = Span(*(of_queries(self.positions, q) for q in query))
        keys = Span(*(of_keys(self.positions, k) for k in key))
        whole = (queries.last - queries.first == query.last - query.first) & (
            keys.last - keys.first == key.last - key.first
        )
        # A span may also end as far from its last beginning as its first position stands from an earlier one.
        begins = (self.positions == 0).cumsum(1)
        whole = whole & (of_queries(begins, query.first) == of_queries(begins, query.last))
        whole = whole & (of_keys(begins, key.first) == of_keys(begins, key.last))
        found = self.mask.bounds(queries, keys)
        return Bounds(found.some | ~whole, found.every & whole)


@final
@dataclass(frozen=True, eq=False)
class Keys(_Composable):
    """Only the first `lengths[i]` positions of row i may be attended to: padding stays unseen."""

    lengths: Int[Tensor, " b"]

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "b q k"]:
        """True where the key lies before its row's length."""
        return (key < self.lengths[:, None, None]).expand(-1, query.shape[1], -1)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the first and the last key."""
        return Bounds(self.allowed(query.first, key.first), self.allowed(query.first, key.last))


@final
@dataclass(frozen=True)
class Both(_Composable):
    """What both masks allow."""

    first: Mask
    second: Mask

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """Conjunction."""
        return self.first.allowed(query, key) & self.second.allowed(query, key)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """Nothing where either says nothing, all where both say all."""
        one, other = self.first.bounds(query, key), self.second.bounds(query, key)
        return Bounds(one.some & other.some, one.every & other.every)


@final
@dataclass(frozen=True)
class Either(_Composable):
    """What either mask allows."""

    first: Mask
    second: Mask

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """Disjunction."""
        return self.first.allowed(query, key) | self.second.allowed(query, key)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """Nothing where both say nothing, all where either says all."""
        one, other = self.first.bounds(query, key), self.second.bounds(query, key)
        return Bounds(one.some | other.some, one.every | other.every)


@final
@dataclass(frozen=True)
class Except(_Composable):
    """What the first mask allows and the second does not."""

    first: Mask
    second: Mask

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """Difference."""
        return self.first.allowed(query, key) & ~self.second.allowed(query, key)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """Nothing where the second says all, all where it says nothing and the first all."""
        one, other = self.first.bounds(query, key), self.second.bounds(query, key)
        return Bounds(one.some & ~other.every, one.every & ~other.some)


def _same(first_query: Tensor, last_query: Tensor, first_key: Tensor, last_key: Tensor) -> Bounds:
    """Bounds of a mask that allows pairs of equal numbers, where numbers never fall from one position to the next."""
    some = (first_key <= last_query) & (last_key >= first_query)
    return Bounds(some, some & (first_query == last_query) & (first_key == last_key))


@dataclass(frozen=True)
class Reach:
    """How far back queries look: to the first `first` positions, and to themselves and the `recent` - 1 before them."""

    first: int
    recent: int


def reach_of(mask: Mask) -> Reach | None:
    """What of the past a query may attend to where it attends to nothing later; None: anything.

    A bound: a mask may allow less. A cache need keep no more than that.
    """
    found: Reach | None = None
    match mask:
        case Window(width):
            found = Reach(0, width)
        case Sinks(count) | Global(count):
            found = Reach(count, 0)
        case Blocks(length):
            found = Reach(0, length)
        case Both(first, second):
            bounded = [reach for reach in (reach_of(first), reach_of(second)) if reach is not None]
            found = min(bounded, key=lambda reach: reach.first + reach.recent, default=None)
        case Either(first, second):
            one, other = reach_of(first), reach_of(second)
            if one is not None and other is not None:
                found = Reach(max(one.first, other.first), max(one.recent, other.recent))
    return found


def is_relative(mask: Mask) -> bool:
    """Whether a mask looks only at the distance between query and key."""
    if isinstance(mask, Both | Either | Except):
        return is_relative(mask.first) and is_relative(mask.second)
    return isinstance(mask, Full | Causal | Window | Strided)


def is_static(mask: Mask) -> bool:
    """Whether a mask is told by its numbers alone, so that equal ones allow the same."""
    if isinstance(mask, Both | Either | Except):
        return is_static(mask.first) and is_static(mask.second)
    return not isinstance(mask, Documents | Within | Keys)


_BY_NAME: dict[str, type[Mask]] = {
    "full": Full,
    "causal": Causal,
    "prefix": Prefix,
    "window": Window,
    "sinks": Sinks,
    "global": Global,
    "strided": Strided,
    "blocks": Blocks,
    "fixed": Fixed,
    "bigbird": BigBird,
    "block_causal": BlockCausal,
    "block_diffusion": BlockDiffusion,
}


@lru_cache(256)
def parse_mask(text: str) -> Mask:
    """The mask that a text describes. Raises ValueError that says what is wrong with it."""
    return _build(parse_terms(text))


def _build(part: Term | Joined) -> Mask:
    if isinstance(part, Joined):
        first, second = _build(part.first), _build(part.second)
        return Both(first, second) if part.operator == "&" else Either(first, second)
    if part.name == "documents":
        return Cuts(part.arguments)
    return _BY_NAME[part.name](*part.arguments)


def mask_text(mask: Mask) -> str:
    """The text of a mask, from which `parse_mask` makes it again; of one that holds tensors, its name."""
    match mask:
        case Both(first, second):
            return f"{_grouped(first)} & {_grouped(second)}"
        case Either(first, second):
            return f"{mask_text(first)} | {mask_text(second)}"
        case Cuts(lengths):
            return f"documents({', '.join(map(str, lengths))})"
        case Within(inner):
            return mask_text(inner)
        case Documents() | Keys():
            return type(mask).__name__.lower()
    name = next(name for name, kind in _BY_NAME.items() if isinstance(mask, kind))
    numbers = [getattr(mask, field.name) for field in fields(mask)]  # type: ignore[arg-type]
    given = [str(number) for number in numbers if number is not None]
    return f"{name}({', '.join(given)})" if given else name


def _grouped(mask: Mask) -> str:
    return f"({mask_text(mask)})" if isinstance(mask, Either) else mask_text(mask)
