"""Who may attend to whom?

A mask is a value: a rule on positions that composes with `&` and `|` and is lowered to what
`scaled_dot_product_attention` takes in one place, `lower`. Review section 2.2 (attention masks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diptych.core.types import Mask


class _Composable:
    """Gives a mask its `&` (both allow) and `|` (either allows)."""

    def __and__(self: Mask, other: Mask) -> Both:
        return Both(self, other)

    def __or__(self: Mask, other: Mask) -> Either:
        return Either(self, other)


@final
@dataclass(frozen=True)
class Full(_Composable):
    """Every position attends to every position: encoders and denoisers."""

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """All true."""
        return torch.ones((), dtype=torch.bool, device=key.device).expand(
            torch.broadcast_shapes(query.shape, key.shape)
        )


@final
@dataclass(frozen=True)
class Causal(_Composable):
    """No position attends to a later one: autoregression."""

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where key <= query."""
        return key <= query


@final
@dataclass(frozen=True)
class Window(_Composable):
    """No key lies `width` or more positions before its query: the query itself and the `width` - 1 before it are
    left."""

    width: int

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where query - key < width."""
        return query - key < self.width


@final
@dataclass(frozen=True, eq=False)
class Documents(_Composable):
    """Positions attend only within their own document; `ids` (b, t) numbers the documents packed into each row."""

    ids: Int[Tensor, "b t"]

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "b q k"]:
        """True where both positions carry the same document number."""
        rows = self.ids.shape[0]
        of_query = self.ids.gather(1, query[..., 0].expand(rows, -1))
        of_key = self.ids.gather(1, key[:, 0].expand(rows, -1))
        return of_query[:, :, None] == of_key[:, None, :]


@final
@dataclass(frozen=True, eq=False)
class Keys(_Composable):
    """Only the first `lengths[i]` positions of row i may be attended to: padding stays unseen."""

    lengths: Int[Tensor, " b"]

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "b q k"]:
        """True where the key lies before its row's length."""
        return (key < self.lengths[:, None, None]).expand(-1, query.shape[1], -1)


@final
@dataclass(frozen=True, eq=False)
class Both(_Composable):
    """What both masks allow."""

    first: Mask
    second: Mask

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """Conjunction."""
        return self.first.allowed(query, key) & self.second.allowed(query, key)


@final
@dataclass(frozen=True, eq=False)
class Either(_Composable):
    """What either mask allows."""

    first: Mask
    second: Mask

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """Disjunction."""
        return self.first.allowed(query, key) | self.second.allowed(query, key)


@final
@dataclass(frozen=True, eq=False)
class Lowered:
    """A mask as `scaled_dot_product_attention` takes it: the causal flag, or a dense tensor, or neither (all allowed).

    `dense` is boolean (True: may attend) or added to the scores, of shape (b or 1, h or 1, q, k).
    """

    causal: bool = False
    dense: Tensor | None = None


def lower(
    mask: Mask,
    *,
    queries: int,
    keys: int,
    offset: Int[Tensor, " b"] | int,
    slopes: Float[Tensor, " h"] | None = None,
    device: torch.device | str = "cpu",
) -> Lowered:
    """Choose the fastest form of `mask` for `queries` queries, the first at position `offset`, over `keys` keys.

    `slopes` are ALiBi's; they turn the mask into an additive bias. `offset` is one number for all rows, or one a row
    where a batch holds sequences of different lengths. A dense form is made on `device`.
    """
    if slopes is None and not isinstance(offset, Tensor):
        if isinstance(mask, Full):
            return Lowered()
        if isinstance(mask, Causal) and queries == 1 and keys == offset + 1:
            return Lowered()
        if isinstance(mask, Causal) and offset == 0 and queries == keys:
            return Lowered(causal=True)
    first = offset[:, None] if isinstance(offset, Tensor) else torch.tensor([[offset]], device=device)
    query = (first + torch.arange(queries, device=device))[:, :, None]
    key = torch.arange(keys, device=device)[None, None, :]
    allowed = mask.allowed(query, key)[:, None]
    if slopes is None:
        return Lowered(dense=allowed)
    bias = -slopes[:, None, None] * (query - key).abs()[:, None]
    return Lowered(dense=bias.masked_fill(~allowed, float("-inf")))
