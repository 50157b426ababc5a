"""In which form is a mask fastest?

The one place that decides. A mask is lowered to nothing or to the causal flag where it is that; to a dense tensor where
the work is small or nearly all pairs are allowed; to the pieces of `diptych.nn.block_sparse` on a processor, and to
FlexAttention's block mask on a GPU, where much can be skipped. `benchmarks/masks.py` times every form against the one
chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diptych.core.types import Mask
from diptych.nn.block_sparse import BLOCK, Pieces, bounds_of_blocks, cut, cut_and_kept
from diptych.nn.masks import Both, Causal, Full, Span
from diptych.nn.positions import alibi_bias
from diptych.nn.reach import is_static

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

Form = Literal["none", "causal", "dense", "pieces", "flex"]
"""Nothing is hidden; the causal flag; a tensor of all pairs; pieces of the work; FlexAttention's block mask."""

FEWEST_QUERIES = 512
"""Below so many queries a dense mask is small, and one call of the kernel is faster than several."""

SPARSE = 0.8
"""Pieces that cost less than this share of all scores beat a dense mask, which the kernel reads besides its scores."""


@final
@dataclass(frozen=True, eq=False)
class Lowered:
    """A mask as attention takes it: the causal flag, a dense tensor, pieces, a block mask, or none of them (all
    allowed).

    `dense` is boolean (True: may attend) or added to the scores, of shape (b or 1, h or 1, q, k).
    """

    causal: bool = False
    dense: Tensor | None = None
    pieces: Pieces | None = None
    flex: BlockMask | None = None

    @property
    def form(self) -> Form:
        """Which of them it is."""
        if self.causal:
            return "causal"
        if self.dense is not None:
            return "dense"
        return "pieces" if self.pieces is not None else "flex" if self.flex is not None else "none"

    def in_precision(self, dtype: torch.dtype) -> Lowered:
        """The same, what is added to the scores in `dtype`."""
        if self.dense is None or not self.dense.is_floating_point():
            return self
        return replace(self, dense=self.dense.to(dtype))


@dataclass(frozen=True, eq=False)
class Scope:
    """For what a mask is lowered: queries at `offset`, `offset` + 1, ..., keys at 0, 1, ..., ALiBi's slopes if any."""

    queries: int
    keys: int
    offset: int = 0
    slopes: Float[Tensor, " h"] | None = None
    device: torch.device | str = "cpu"


def lower(
    mask: Mask,
    *,
    queries: int,
    keys: int,
    offset: Int[Tensor, " b"] | int,
    slopes: Float[Tensor, " h"] | None = None,
    key_positions: Int[Tensor, "b k"] | None = None,
    device: torch.device | str = "cpu",
) -> Lowered:
    """The fastest form of `mask` for `queries` queries, the first at position `offset`, over `keys` keys.

    `slopes` are ALiBi's; they turn the mask into an additive bias. `offset` is one number for all rows, or one a row
    where a batch holds sequences of different lengths. Keys stand at 0, 1, ..., or at `key_positions`, where a negative
    one stands for no key. A dense form is made on `device`.
    """
    if key_positions is None and not isinstance(offset, Tensor):
        if not isinstance(mask, Full | Causal):
            asking, asked = Span(*map(_place, (offset, offset + queries - 1))), Span(*map(_place, (0, keys - 1)))
            mask = _what_hides(mask, asking, asked)
        scope = Scope(queries, keys, offset, slopes, device)
        return in_form(choose(mask, scope), mask, scope)
    first = offset[:, None] if isinstance(offset, Tensor) else torch.tensor([[offset]], device=device)
    query = (first + torch.arange(queries, device=device))[:, :, None]
    key = torch.arange(keys, device=device)[None, None, :] if key_positions is None else key_positions[:, None, :]
    return Lowered(dense=_dense(mask, query, key, slopes))


def _what_hides(mask: Mask, query: Span, key: Span) -> Mask:
    """A mask without those of its conditions that hide nothing of these queries and keys."""
    if isinstance(mask, Both):
        first, second = _what_hides(mask.first, query, key), _what_hides(mask.second, query, key)
        if isinstance(first, Full) or isinstance(second, Full):
            return second if isinstance(first, Full) else first
        return mask if first is mask.first and second is mask.second else Both(first, second)
    if not is_static(mask):
        return mask
    return Full() if bool(mask.bounds(query, key).every.all()) else mask


def _place(position: int) -> Tensor:
    return torch.tensor([[[position]]])


def choose(mask: Mask, scope: Scope) -> Form:
    """The form that is fastest for a mask at this length on this device."""
    queries, keys, offset = scope.queries, scope.keys, scope.offset
    form: Form = "dense"
    is_last = isinstance(mask, Causal) and queries == 1 and keys == offset + 1
    if scope.slopes is None and (isinstance(mask, Full) or is_last):
        form = "none"
    elif scope.slopes is None and isinstance(mask, Causal) and offset == 0 and queries == keys:
        form = "causal"
    elif queries >= FEWEST_QUERIES:
        match torch.device(scope.device).type:
            case "cpu" if scope.slopes is not None or _cut(mask, scope).cost < SPARSE * queries * keys:
                form = "pieces"
            case "cuda" if scope.slopes is None and _share(mask, scope) < SPARSE:
                form = "flex"
    return form


def in_form(form: Form, mask: Mask, scope: Scope) -> Lowered:
    """A mask in a given form, which must be one that can express it."""
    match form:
        case "none":
            return Lowered()
        case "causal":
            return Lowered(causal=True)
        case "pieces":
            return Lowered(pieces=replace(_cut(mask, scope), slopes=scope.slopes))
        case "flex":
            from diptych.nn.flex import block_mask

            return Lowered(flex=block_mask(mask, scope.queries, scope.keys, scope.offset, scope.device))
        case "dense":
            query = torch.arange(scope.offset, scope.offset + scope.queries, device=scope.device)[None, :, None]
            key = torch.arange(scope.keys, device=scope.device)[None, None, :]
            return Lowered(dense=_dense(mask, query, key, scope.slopes))


def _cut(mask: Mask, scope: Scope) -> Pieces:
    make: Callable[..., Pieces] = cut_and_kept if is_static(mask) else cut
    return make(mask, queries=scope.queries, keys=scope.keys, offset=scope.offset)


def _share(mask: Mask, scope: Scope) -> float:
    """The share of blocks of queries and keys in which anything may be allowed."""
    device = "cpu" if is_static(mask) else scope.device  # where the tensors lie that the mask holds
    found = bounds_of_blocks(mask, scope.queries, scope.keys, scope.offset, size=BLOCK, device=device)
    return float(found.some.float().mean())


def _dense(mask: Mask, query: Tensor, key: Tensor, slopes: Tensor | None) -> Tensor:
    allowed = mask.allowed(query, key.clamp(min=0)) & (key >= 0)
    if slopes is None:
        return allowed[:, None]
    return alibi_bias(slopes, query, key, allowed[:, None])
