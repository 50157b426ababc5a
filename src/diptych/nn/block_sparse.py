"""How is attention computed only where a mask allows it?

A mask's bounds on blocks say which keys a group of queries can need at all. The work is cut into pieces, each some rows
and the keys they need; a piece is a call of the tiled kernel on views of the whole, and where the keys of a row lie in
several pieces their results are merged by the log-sum-exp, as FlashAttention-2 merges its tiles (Dao 2023, algorithms 1
and 2). What is outside all pieces costs nothing, neither forward nor backward.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from diptych.core.types import Mask
from diptych.nn.masks import Both, Bounds, Either, Except, Span
from diptych.nn.patterns import Strided
from diptych.nn.positions import alibi_bias
from diptych.nn.reach import conditions, is_relative
from diptych.nn.tiled import with_lse_column

BLOCK = 64
"""Queries of a group and keys of a block: few queries waste little, and the kernel takes them at full speed."""

MOST_ROWS = 512
"""Neighbouring groups that need the same keys become one piece of at most so many rows."""

PIECE_COST = 8192
"""What a piece costs besides its scores, in scores."""

MASK_COST = 1 / 16
"""What reading a mask costs, as a share of the scores under it: blocks that are allowed whole become a piece of their
own, without a mask, where that saves more than the piece costs. So no mask is kept whose memory would grow with n^2."""

MOST_DECIDED = 1 << 27
"""Pairs at most for which a mask is asked when the work is cut; beyond, every piece asks when it is computed."""

KEPT_KEYS = 0.75
"""Of neighbouring keys, those that no row of a piece needs are taken out where less than this share is left."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Some rows, and the keys of which they may need any; both as places, of which the first row and key are 0."""

    rows: slice
    keys: slice | Int[Tensor, " k"]
    mask: Mask | None
    """What decides within the piece; None: every pair is allowed."""
    allowed: Bool[Tensor, "#b q k"] | None = None
    """What the mask decides, where it is kept."""

    @property
    def n_rows(self) -> int:
        """Number of queries."""
        return _count(self.rows)

    @property
    def n_keys(self) -> int:
        """Number of keys."""
        return len(self.keys) if isinstance(self.keys, Tensor) else _count(self.keys)


def _count(places: slice) -> int:
    return len(range(places.start, places.stop, places.step or 1))


@final
@dataclass(frozen=True, eq=False)
class Pieces:
    """The work of attention from queries at `offset`, `offset` + 1, ... to keys at 0, 1, ...: every allowed pair lies
    in exactly one piece.

    slopes: ALiBi's, by which the distance lowers the scores. once: every row lies in one piece only.
    """

    pieces: tuple[Piece, ...]
    mask: Mask
    queries: int
    keys: int
    offset: int
    once: bool
    slopes: Float[Tensor, " h"] | None = None

    @property
    def cost(self) -> int:
        """Scores that are computed, and what the pieces cost besides."""
        return sum(piece.n_rows * piece.n_keys + PIECE_COST for piece in self.pieces)

    def dense(self) -> Tensor:
        """The same as one mask of all queries and keys, (b or 1, h or 1, q, k): boolean, or added to the scores."""
        whole = Piece(slice(0, self.queries), slice(0, self.keys), self.mask)
        allowed = _decide(whole, self.offset)[:, None]
        return allowed if self.slopes is None else self._bias(whole, allowed, self.slopes.dtype)

    def biases(self, like: Tensor) -> Iterator[tuple[Piece, Tensor | None, Tensor | None]]:
        """Each piece, what is added to its scores, and which of its rows (b or 1, q) have a key in it; None: nothing,
        all."""
        known: dict[int, tuple[Tensor | None, Tensor | None]] = {}
        for piece in self.pieces:
            if piece.mask is None and self.slopes is None:
                yield piece, None, None
            elif piece.allowed is None or self.slopes is not None:
                yield piece, *self._made(piece, like)
            else:
                # Pieces alike share one tensor of what is allowed, so they share what follows from it.
                if id(piece.allowed) not in known:
                    known[id(piece.allowed)] = self._made(piece, like)
                yield piece, *known[id(piece.allowed)]

    def _made(self, piece: Piece, like: Tensor) -> tuple[Tensor, Tensor | None]:
        allowed = _decide(piece, self.offset)
        return self._bias(piece, allowed[:, None], like.dtype), None if self.once else allowed.any(-1)

    def _bias(self, piece: Piece, allowed: Tensor, dtype: torch.dtype) -> Tensor:
        if self.slopes is None:
            return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, -torch.inf)
        query, key = _positions(piece, self.offset)
        return alibi_bias(self.slopes, query, key, allowed).to(dtype)


def _decide(piece: Piece, offset: int) -> Bool[Tensor, "#b q k"]:
    """Which pairs of a piece may attend."""
    if piece.allowed is not None:
        return piece.allowed
    if piece.mask is None:
        return torch.ones(1, piece.n_rows, piece.n_keys, dtype=torch.bool)
    return piece.mask.allowed(*_positions(piece, offset))


def _positions(piece: Piece, offset: int) -> tuple[Int[Tensor, "1 q 1"], Int[Tensor, "1 1 k"]]:
    rows, keys = (
        x if isinstance(x, Tensor) else torch.arange(x.start, x.stop, x.step or 1) for x in (piece.rows, piece.keys)
    )
    return (rows + offset)[None, :, None], keys[None, None, :]


def cut(mask: Mask, *, queries: int, keys: int, offset: int) -> Pieces:
    """The cheapest pieces that are known for a mask.

    In the order of positions; or, where a part of the mask looks whole strides away, that part with the positions of
    one remainder together, and the rest in the order of positions (O(n^2 / stride) and the rest, instead of O(n^2)).
    """
    plans = [_in_order(mask, queries, keys, offset)]
    for others, strided in _strided_parts(mask):
        rest = () if others is None else _in_order(others, queries, keys, offset)
        plans.append((*rest, *_by_remainder(strided, others, queries, keys, offset)))
    found = [Pieces(pieces, mask, queries, keys, offset, _once(pieces, queries)) for pieces in plans]
    best = min(found, key=lambda plan: plan.cost)
    return replace(best, pieces=_trimmed(best.pieces, offset))


def _once(pieces: tuple[Piece, ...], queries: int) -> bool:
    """Whether no row lies in two pieces."""
    times = np.zeros(queries, dtype=np.int64)
    for piece in pieces:
        times[piece.rows] += 1
    return bool((times <= 1).all())


def _trimmed(pieces: tuple[Piece, ...], offset: int) -> tuple[Piece, ...]:
    """The pieces without keys that none of their rows may attend to, and with what is allowed in them at hand, where
    that takes little memory."""
    if sum(piece.n_rows * piece.n_keys for piece in pieces if piece.mask is not None) > MOST_DECIDED:
        return pieces
    known: dict[object, Piece] = {}
    return tuple(_trim(piece, offset, known) for piece in pieces)


def _trim(piece: Piece, offset: int, known: dict[object, Piece]) -> Piece:
    if piece.mask is None:
        return piece
    place = _relative_place(piece)
    if place is not None and place in known:
        return replace(piece, mask=known[place].mask, allowed=known[place].allowed)
    allowed = _decide(piece, offset)
    needed = allowed.any(0).any(0)
    gathered = isinstance(piece.keys, Tensor)  # then a key less costs nothing
    if place is None and int(needed.sum()) < (1.0 if gathered else KEPT_KEYS) * len(needed):
        keys = piece.keys if isinstance(piece.keys, Tensor) else torch.arange(piece.keys.start, piece.keys.stop)
        piece, allowed = replace(piece, keys=keys[needed]), allowed[:, :, needed]
    same: object = (tuple(allowed.shape), np.packbits(allowed.numpy()).tobytes())
    if same not in known:
        known[same] = replace(piece, mask=None if allowed.all() else piece.mask, allowed=allowed.contiguous())
    if place is not None:
        known[place] = known[same]
    return replace(piece, mask=known[same].mask, allowed=known[same].allowed)


def _relative_place(piece: Piece) -> object:
    """What tells a piece from others of a mask that looks only at distances; None: the mask looks at more."""
    if isinstance(piece.keys, Tensor) or piece.mask is None or not is_relative(piece.mask):
        return None
    return piece.mask, piece.rows.start - piece.keys.start, piece.n_rows, piece.n_keys, piece.rows.step, piece.keys.step


@lru_cache(16)
def cut_and_kept(mask: Mask, queries: int, keys: int, offset: int) -> Pieces:
    """`cut` for a mask whose equal is asked for again and again."""
    return cut(mask, queries=queries, keys=keys, offset=offset)


def _in_order(mask: Mask, queries: int, keys: int, offset: int) -> tuple[Piece, ...]:
    some, every = _bounds(mask, queries, keys, offset)
    pieces: list[Piece] = []
    start = 0
    while start < len(some):
        stop = start + 1
        most = start + MOST_ROWS // BLOCK
        while stop < min(len(some), most) and (some[stop] == some[start]).all():
            stop += 1
        needed = np.flatnonzero(some[start])
        if len(needed):
            rows = slice(start * BLOCK, min(stop * BLOCK, queries))
            whole = every[start:stop, needed].all(0)
            if whole.all() or MASK_COST * int(whole.sum()) * BLOCK * _count(rows) > PIECE_COST:
                pieces.append(Piece(rows, _places(needed[whole], keys), None))
                needed = needed[~whole]
            if len(needed):
                pieces.append(Piece(rows, _places(needed, keys), mask))
        start = stop
    return tuple(pieces)


def _places(blocks: NDArray[np.int64], keys: int) -> slice | Tensor:
    """The keys of some blocks: a slice where they follow one another, else all their places."""
    first, last = int(blocks[0]), int(blocks[-1])
    if last - first + 1 == len(blocks):
        return slice(first * BLOCK, min((last + 1) * BLOCK, keys))
    places = (torch.from_numpy(blocks)[:, None] * BLOCK + torch.arange(BLOCK)).flatten()
    return places[places < keys]


def _bounds(mask: Mask, queries: int, keys: int, offset: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which blocks hold anything, and which hold everything, over all rows of a batch."""
    shape = (-(-queries // BLOCK), -(-keys // BLOCK))
    found = bounds_of_blocks(mask, queries, keys, offset, size=BLOCK)
    some, every = found.some.any(0).cpu().expand(shape), found.every.all(0).cpu().expand(shape)
    return some.numpy(), every.numpy()


def bounds_of_blocks(
    mask: Mask, queries: int, keys: int, offset: int, *, size: int, device: torch.device | str = "cpu"
) -> Bounds:
    """What a mask says of every pair of a block of queries, the first at `offset`, and one of keys."""
    query, key = spans(queries, size, offset), spans(keys, size, 0)
    asking, asked = (Span(*(position.to(device) for position in span)) for span in (query, key))
    found: Bounds = mask.bounds(asking, Span(*(position.transpose(1, 2) for position in asked)))
    return found


def spans(count: int, size: int, offset: int) -> Span:
    """The blocks of `size` of `count` positions from `offset`, (1, blocks, 1); the last may be shorter."""
    first = torch.arange(0, count, size)
    last = (first + size - 1).clamp(max=count - 1)
    return Span((first + offset)[None, :, None], (last + offset)[None, :, None])


def _strided_parts(mask: Mask) -> Iterator[tuple[Mask | None, tuple[Strided, Mask]]]:
    """Ways to part a mask into one that looks whole strides away, with its stride, and what others allow."""
    alternatives = _alternatives(mask)
    for index, part in enumerate(alternatives):
        stride = next((one for one in conditions(part) if isinstance(one, Strided) and one.stride > 1), None)
        if stride is not None:
            rest = [other for place, other in enumerate(alternatives) if place != index]
            others = rest[0] if rest else None
            for other in rest[1:]:
                assert others is not None
                others = Either(others, other)
            yield others, (stride, part)


def _alternatives(mask: Mask) -> list[Mask]:
    """Masks either of which must allow: `a & (b | c)` as `a & b`, `a & c`."""
    if isinstance(mask, Either):
        return [*_alternatives(mask.first), *_alternatives(mask.second)]
    if isinstance(mask, Both):
        return [Both(a, b) for a in _alternatives(mask.first) for b in _alternatives(mask.second)]
    return [mask]


def _by_remainder(
    strided: tuple[Strided, Mask], others: Mask | None, queries: int, keys: int, offset: int
) -> tuple[Piece, ...]:
    """Pieces of the positions that have one remainder by the stride, without what the other masks allow already."""
    stride, mask = strided[0].stride, strided[1]
    if others is not None:
        mask = Except(mask, others)
    pieces = []
    for remainder in range(min(stride, queries)):
        first_key = (offset + remainder) % stride
        if first_key < keys:
            pieces.append(Piece(slice(remainder, queries, stride), slice(first_key, keys, stride), mask))
    return tuple(pieces)


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiler would unroll the loop over the pieces
def block_sparse_attention(
    query: Float[Tensor, "b h q d"], key: Float[Tensor, "b g k d"], value: Float[Tensor, "b g k d"], pieces: Pieces
) -> Float[Tensor, "b h q d"]:
    """softmax(Q K^T / sqrt(d) + mask) V on a processor, over the pieces of a mask only; `h` is a multiple of `g`.

    Rows that may attend to nothing are zero.
    """
    return _attention(query, key, value, pieces)[0]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def block_sparse_with_lse(
    query: Float[Tensor, "b h q d"],
    key: Float[Tensor, "b g k d"],
    value: Float[Tensor, "b g k d"],
    pieces: Pieces,
    *,
    scale: float,
) -> tuple[Float[Tensor, "b h q d"], Float[Tensor, "b h q"]]:
    """softmax(scale Q K^T + mask) V as `block_sparse_attention`, and the log-sum-exp of its scores, -inf in a row that
    may attend to nothing. Both have their gradients."""
    query = query * (scale * query.shape[-1] ** 0.5)
    # What lies in one piece only is merged all the same: that tells the rows without a key.
    return _attention(query, key, value, replace(pieces, once=False))


def _attention(query: Tensor, key: Tensor, value: Tensor, pieces: Pieces) -> tuple[Tensor, Tensor]:
    b, h, q, d = query.shape
    g = key.shape[1]
    # The query heads that share a key-value head stand beside it, so that no key is repeated.
    rows = query.reshape(b * g, h // g, q, d)
    shared = [x.reshape(b * g, 1, x.shape[2], d).expand(-1, h // g, -1, -1) for x in (key, value)]
    out, lse = _Attention.apply(rows, *shared, pieces, (b, g))  # type: ignore[no-untyped-call]
    return out.view(b, h, q, d), lse.view(b, h, q)


class _Attention(torch.autograd.Function):
    """Pieces forward, merged; pieces backward with the log-sum-exp of the whole, from which each finds its own
    probabilities again."""

    @staticmethod
    def forward(  # noqa: PLR0917  # autograd gives everything by its place
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, pieces: Pieces, heads: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        out = torch.zeros_like(query, memory_format=torch.contiguous_format)
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        total = torch.full(query.shape[:3], 0.0 if pieces.once else -torch.inf, dtype=wide)
        for piece, bias, present in pieces.biases(query):
            part, lse = _kernel(query, key, value, piece, _by_head(bias, heads, query.shape[1]))
            if pieces.once:
                out[:, :, piece.rows], total[:, :, piece.rows] = part, lse
            else:
                _merge(out[:, :, piece.rows], total[:, :, piece.rows], part, lse, _by_row(present, heads))
        ctx.save_for_backward(query, key, value, out, total.masked_fill(total == -torch.inf, 0.0))
        ctx.pieces, ctx.heads = pieces, heads
        ctx.set_materialize_grads(False)
        return out, total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, d_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        query, key, value, out, total = ctx.saved_tensors
        d = query.shape[-1]
        gradient = torch.zeros_like(out) if gradient is None else gradient
        if d_lse is not None:
            (query, key, value), out, gradient = with_lse_column((query, key, value), out, gradient, d_lse)
        gradients = [torch.zeros(x.shape, dtype=x.dtype) for x in (query, key, value)]
        for piece, bias, _ in ctx.pieces.biases(query):
            rows, keys = piece.rows, piece.keys
            parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                gradient[:, :, rows],
                query[:, :, rows],
                key[:, :, keys],
                value[:, :, keys],
                out[:, :, rows],
                total[:, :, rows].contiguous(),
                0.0,
                False,
                attn_mask=_by_head(bias, ctx.heads, query.shape[1]),
                scale=d**-0.5,
            )
            for whole, place, part in zip(gradients, (rows, keys, keys), parts, strict=True):
                whole[:, :, place] += part
        return (*(gradient[..., :d] for gradient in gradients), None, None)


def _kernel(query: Tensor, key: Tensor, value: Tensor, piece: Piece, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    part, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query[:, :, piece.rows], key[:, :, piece.keys], value[:, :, piece.keys], attn_mask=bias
    )
    return part, lse


def _merge(out: Tensor, total: Tensor, part: Tensor, lse: Tensor, present: Tensor | None) -> None:
    """Join one more piece to rows of the result, in place. The kernel gives rows without a key 0 for their
    log-sum-exp."""
    if present is not None:
        lse = lse.masked_fill(~present, -torch.inf)
    joined = torch.logaddexp(total, lse)
    base = joined.masked_fill(joined == -torch.inf, 0.0)
    weights = torch.exp(total - base)[..., None], torch.exp(lse - base)[..., None]
    out.copy_(out * weights[0] + part * weights[1])
    total.copy_(joined)


def _by_head(bias: Tensor | None, heads: tuple[int, int], shared: int) -> Tensor | None:
    """A bias (b or 1, h or 1, q, k) as rows of batch and key-value head, (b g or 1, shared or 1, q, k)."""
    if bias is None or bias.shape[:2] == (1, 1):
        return bias
    b, g = heads
    bias = bias.expand(b, shared * g, -1, -1) if bias.shape[1] > 1 else bias.expand(b, g, -1, -1)
    return bias.reshape(b * g, -1, *bias.shape[2:])


def _by_row(present: Tensor | None, heads: tuple[int, int]) -> Tensor | None:
    """Which rows have a key, (b or 1, q), for every key-value head: (b g or 1, 1, q)."""
    if present is None or len(present) == 1:
        return None if present is None else present[:, None]
    return present[:, None].expand(-1, heads[1], -1).reshape(len(present) * heads[1], 1, -1)
