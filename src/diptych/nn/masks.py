"""Who may attend to whom?

A mask is a value: a rule on positions that composes with `&` and `|`. Review section 2.2 (attention masks) and its
figure 2. Besides the rule itself, every mask bounds what it says about whole blocks of queries and keys, from which
`diptych.nn.lowering` finds the work that need not be done. Patterns of published sparse attention are in
`diptych.nn.patterns`; `diptych.nn.mask_text` reads and writes masks as text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

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


class Composable:
    """Gives a mask its `&` (both allow) and `|` (either allows), and the text that it is read from."""

    def __and__(self: Mask, other: Mask) -> Both:
        return Both(self, other)

    def __or__(self: Mask, other: Mask) -> Either:
        return Either(self, other)


@final
@dataclass(frozen=True)
class Full(Composable):
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
class Causal(Composable):
    """No position attends to a later one: autoregression."""

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where key <= query."""
        return key <= query

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the nearest and the farthest pair."""
        return Bounds(key.first <= query.last, key.last <= query.first)


@final
@dataclass(frozen=True)
class Prefix(Composable):
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
class Window(Composable):
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
class Sinks(Composable):
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
class Global(Composable):
    """The first `count` positions attend to all, and all attend to them (Longformer, Beltagy et al. 2020)."""

    count: int

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where either is among the first."""
        return (key < self.count) | (query < self.count)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the first and the last of both."""
        return Bounds(self.allowed(query.first, key.first), self.allowed(query.last, key.last))


@final
@dataclass(frozen=True, eq=False)
class Documents(Composable):
    """Positions attend only within their own document; `ids` (b, t) numbers the documents packed into each row."""

    ids: Int[Tensor, "b t"]

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "b q k"]:
        """True where both positions carry the same document number."""
        return of_queries(self.ids, query) == of_keys(self.ids, key)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the first and the last document of both, where the numbers never fall; else open."""
        if bool((self.ids.diff(dim=1) < 0).any()):
            return Bounds(*(torch.full_like(self.allowed(query.first, key.first), x) for x in (True, False)))
        return same(*(of_queries(self.ids, q) for q in query), *(of_keys(self.ids, k) for k in key))


def of_queries(numbers: Int[Tensor, "b t"], query: Int[Tensor, "#b q 1"]) -> Int[Tensor, "b q 1"]:
    """Each row's number at every query."""
    return numbers.gather(1, query[..., 0].expand(numbers.shape[0], -1))[:, :, None]


def of_keys(numbers: Int[Tensor, "b t"], key: Int[Tensor, "#b 1 k"]) -> Int[Tensor, "b 1 k"]:
    """Each row's number at every key."""
    return numbers.gather(1, key[:, 0].expand(numbers.shape[0], -1))[:, None, :]


@final
@dataclass(frozen=True, eq=False)
class Within(Composable):
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
class Keys(Composable):
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
class Both(Composable):
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
class Either(Composable):
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
class Except(Composable):
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


def same(first_query: Tensor, last_query: Tensor, first_key: Tensor, last_key: Tensor) -> Bounds:
    """Bounds of a mask that allows pairs of equal numbers, where numbers never fall from one position to the next."""
    some = (first_key <= last_query) & (last_key >= first_query)
    return Bounds(some, some & (first_query == last_query) & (first_key == last_key))
