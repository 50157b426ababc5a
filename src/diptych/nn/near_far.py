"""How does rotary attention look farther than it was trained to?

Near keys keep their distances, and far ones are told nearer (STRING, ReRoPE, Self-Extend, dual chunk attention), or
most of them are dropped (StreamingLLM). Every such scheme is a few parts of one attention: a mask, and the positions by
which its queries and its keys are rotated. The parts share no pair, and are merged by the log-sum-exp of their scores.

A key is cached at the position by which the far part reads it, so that what is far, which grows with the text, is
rotated once. Where the near part reads it by another (ReRoPE, Self-Extend), that part rotates the keys of its window
further, since rotations add up: R(a) R(b) = R(a + b) (Su et al. 2021, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diptych.core.config import PositionScheme
from diptych.core.types import Mask
from diptych.nn.block_sparse import BLOCK, bounds_of_blocks
from diptych.nn.lowering import FEWEST_QUERIES, Lowered, lower
from diptych.nn.masks import Both, Bounds, Causal, Composable, Documents, Except, Sinks, Span, Window, Within
from diptych.nn.positions import Rotation, rotate
from diptych.nn.reach import Reach, conditions

Turn = Callable[[Tensor], Rotation]
"""The rotation of positions (b, t)."""

Rule = Callable[[Tensor], Tensor]
"""The position by which what stands at one is rotated."""


@final
@dataclass(frozen=True)
class Chunks(Composable):
    """Only keys whose chunk of `length` positions is at least `least` and at most `most` chunks before the query's;
    None: any before."""

    length: int
    least: int
    most: int | None = None

    def allowed(self, query: Int[Tensor, "#b q 1"], key: Int[Tensor, "#b 1 k"]) -> Bool[Tensor, "#b q k"]:
        """True where least <= chunk of the query - chunk of the key <= most."""
        back = query // self.length - key // self.length
        return back >= self.least if self.most is None else (back >= self.least) & (back <= self.most)

    def bounds(self, query: Span, key: Span) -> Bounds:
        """By the nearest and the farthest chunks."""
        nearest = query.first // self.length - key.last // self.length
        farthest = query.last // self.length - key.first // self.length
        some, every = farthest >= self.least, nearest >= self.least
        if self.most is not None:
            some, every = some & (nearest <= self.most), every & (farthest <= self.most)
        return Bounds(some, every)


@final
@dataclass(frozen=True, eq=False)
class Part:
    """The pairs that a mask allows besides being causal, and the positions by which their query and key are rotated."""

    mask: Mask
    query: Rule
    key: Rule


@lru_cache(16)
def parts_of(scheme: PositionScheme) -> tuple[Part, ...]:
    """The parts of a scheme, the farthest last; m and n are the positions of query and key, m - n >= 0 their distance.

    `string`: m - n below the shift S, else m - n - S + W (An et al. 2025, section 4). `rerope`: min(m - n, w) (Su
    2023). `self_extend`: m - n below w, else m // G - n // G + w - w // G (Jin et al. 2024). `dca`: keys at
    n mod s; queries at m mod s for keys of their chunk, at s + m mod s for the chunk before where m mod s < w, else and
    for all chunks before at c - 1 (An et al. 2024, section 3). `streaming`: m - n below w, else only the first k keys,
    as if they stood right before the window (Xiao et al. 2024).
    """
    window = scheme.window
    match scheme.kind:
        case "string":
            shift = scheme.shift
            return _near(shift), Part(_beyond(shift), lambda m: m - shift + window, _itself)
        case "rerope":
            return _near(window), Part(_beyond(window), lambda m: torch.full_like(m, window), torch.zeros_like)
        case "self_extend":
            group = scheme.group
            ahead = window - window // group
            return _near(window), Part(_beyond(window), lambda m: m // group + ahead, lambda n: n // group)
        case "dca":
            chunk, last = scheme.chunk, scheme.length - 1

            def within(position: Tensor) -> Tensor:
                return position % chunk

            def after(m: Tensor) -> Tensor:
                return torch.where(m % chunk < window, chunk + m % chunk, last)

            return (
                Part(Chunks(chunk, 0, 0), within, within),
                Part(Chunks(chunk, 1, 1), after, within),
                Part(Chunks(chunk, 2), lambda m: torch.full_like(m, last), within),
            )
        case "streaming":
            sinks = scheme.sinks
            first = Part(Except(Sinks(sinks), Window(window)), lambda m: m.clamp(max=sinks + window - 1), _itself)
            return _near(window), first


def _itself(position: Tensor) -> Tensor:
    return position


def _near(width: int) -> Part:
    """Distances below the width, as they are."""
    return Part(Window(width), _itself, _itself)


def _beyond(width: int) -> Mask:
    """Distances from the width on."""
    return Except(Causal(), Window(width))


def reach_of_scheme(scheme: PositionScheme | None) -> Reach | None:
    """What of the past a scheme lets a query attend to; None: all of it."""
    if scheme is None or scheme.kind != "streaming":
        return None
    return Reach(scheme.sinks, scheme.window)


@final
@dataclass(frozen=True, eq=False)
class LoweredPart:
    """A part as it is computed: its mask over a stretch of the keys, the rotation of all queries, and that of these
    keys from where they are kept; None: they are kept where the part reads them."""

    mask: Lowered
    keys: slice
    query_turn: Rotation
    key_turn: tuple[Float[Tensor, "#b k 1 d_head"], Float[Tensor, "#b k 1 d_head"]] | None


@final
@dataclass(frozen=True, eq=False)
class NearFar:
    """A mask as attention with a `PositionScheme` takes it. Queries come to it unrotated, keys as `kept` gives them,
    those of this passage by `kept_turn`."""

    parts: tuple[LoweredPart, ...]
    kept_turn: Rotation

    def kept(self, key: Float[Tensor, "b g q d"]) -> Float[Tensor, "b g q d"]:
        """The keys of this passage as a cache keeps them: rotated by the position by which the farthest part reads
        them."""
        return _rotated(key, self.kept_turn)

    def attend(
        self,
        query: Float[Tensor, "b h q d"],
        key: Float[Tensor, "b g k d"],
        value: Float[Tensor, "b g k d"],
        *,
        dropout: float = 0.0,
    ) -> Float[Tensor, "b h q d"]:
        """One softmax over the scores of all parts. Raises ValueError for dropout, which no part knows."""
        from diptych.nn.merging import attention_with_lse, merge  # which themselves build upon attention

        if dropout:
            raise ValueError("attention with a position_scheme drops nothing; set model.dropout = 0.0")
        found = [
            attention_with_lse(turned_query, turned_key, value[:, :, part.keys], part.mask)
            for part, turned_query, turned_key in self.turned(query, key)
        ]
        out: Tensor = merge(found)[0] if len(found) > 1 else found[0][0]
        return out

    def turned(self, query: Tensor, key: Tensor) -> Iterator[tuple[LoweredPart, Tensor, Tensor]]:
        """Each part with its rotated queries and keys."""
        for part in self.parts:
            read = key[:, :, part.keys]
            yield (
                part,
                _rotated(query, part.query_turn),
                read if part.key_turn is None else _rotated(read, part.key_turn),
            )


def _rotated(x: Tensor, by: Rotation) -> Tensor:
    return rotate(x.transpose(1, 2), by).transpose(1, 2)


def near_far(
    mask: Mask,
    scheme: PositionScheme,
    turn: Turn,
    *,
    queries: int,
    keys: int,
    offset: Int[Tensor, " b"] | int,
    key_positions: Int[Tensor, "b k"] | None = None,
    positions: Int[Tensor, "#b q"] | None = None,
    device: torch.device | str = "cpu",
) -> NearFar:
    """The parts of a scheme under `mask`, for `queries` queries, the first at `offset`, over `keys` keys.

    `offset` and `key_positions` are those of `diptych.nn.lowering.lower`. positions: where the queries stand, and their
    keys with them, as branches of one text do; the parts go by these, `mask` by the places in the row. turn: the
    rotation of positions. Raises ValueError for a mask that is not causal, or of documents that share a row.
    """
    _check(mask, scheme)
    if positions is not None and key_positions is not None:
        raise ValueError("branches of a text cannot be read at once where a layer forgets; read them one by one")
    first = offset[:, None] if isinstance(offset, Tensor) else torch.tensor([[offset]], device=device)
    place = first + torch.arange(queries, device=device)
    key = torch.arange(keys, device=device)[None] if key_positions is None else key_positions
    allowed, query = None, place
    if positions is not None:
        allowed, query = mask.allowed(place[:, :, None], key[:, None]), positions
        rows = max(len(place), len(positions))
        key = key.repeat(rows, 1).scatter(1, place.expand(rows, -1), positions.expand(rows, -1))
    parts, lowered = parts_of(scheme), []
    kept = parts[-1].key
    for part in parts:
        stretch, joined = slice(0, key.shape[1]), Both(mask, part.mask)
        if not isinstance(offset, Tensor) and key_positions is None and positions is None:
            stretch = _stretch(part.mask, queries, keys, offset)
        if stretch.stop == stretch.start:
            continue
        if allowed is not None:
            low = Lowered(dense=(allowed & part.mask.allowed(query[:, :, None], key[:, None]))[:, None])
        elif queries < FEWEST_QUERIES or key_positions is not None:
            here = key[:, stretch].expand(max(len(key), len(place)), -1)
            low = lower(joined, queries=queries, keys=0, offset=offset, key_positions=here, device=device)
        else:
            stretch = slice(0, keys)
            low = lower(joined, queries=queries, keys=keys, offset=offset, device=device)
        further = None
        if part.key is not kept:
            read = key[:, stretch].clamp(min=0)
            further = _unscaled(turn, part.key(read) - kept(read))
        lowered.append(LoweredPart(low, stretch, turn(part.query(query)), further))
    return NearFar(tuple(lowered), turn(kept(query)))


def _unscaled(turn: Turn, positions: Tensor) -> Rotation:
    """The rotation without YaRN's scale, which kept keys have already and which is the cosine of position 0."""
    cos, sin = turn(positions)
    scale, _ = turn(torch.zeros_like(positions[:1, :1]))
    return cos / scale, sin / scale


def _stretch(mask: Mask, queries: int, keys: int, offset: int) -> slice:
    """The keys, in whole blocks, that any of the queries may attend to."""
    found = bounds_of_blocks(Both(Causal(), mask), queries, keys, offset, size=BLOCK).some[0].any(0).nonzero()
    if not len(found):
        return slice(0, 0)
    return slice(int(found[0]) * BLOCK, min((int(found[-1]) + 1) * BLOCK, keys))


def _check(mask: Mask, scheme: PositionScheme) -> None:
    parts = conditions(mask)
    if any(isinstance(part, Documents | Within) for part in parts):
        refuse_positions(scheme)
    if not any(isinstance(part, Causal) for part in parts):
        raise ValueError(
            f"the positions of {scheme.kind} are told from left to right, under a causal mask; leave "
            "model.position_scheme out for a network that looks ahead"
        )


def refuse_positions(scheme: PositionScheme) -> None:
    """Raises ValueError: several documents share a row."""
    raise ValueError(
        f"the positions of {scheme.kind} count one text from its beginning, not documents that share a row; set "
        "data.document_mask = false, or leave model.position_scheme out"
    )
