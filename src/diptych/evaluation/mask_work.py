"""How much of the work of attention does a mask leave?"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from diptych.core.types import Mask
from diptych.nn.block_sparse import cut
from diptych.nn.lowering import Form, Scope, choose
from diptych.nn.mask_text import parse_mask

ROWS = 256
"""Queries whose pairs are counted in one go."""


@dataclass(frozen=True, kw_only=True)
class MaskWork:
    """A mask over so many positions: of all pairs, the share that is allowed and the share whose score is computed."""

    text: str
    length: int
    allowed: float
    computed: float
    form: Form


REVIEWED = (
    "causal",
    "causal & window(512)",
    "causal & (window(512) | sinks(4))",
    "causal & (window(64) | global(64))",
    "causal & (window(64) | strided(64))",
    "causal & fixed(64, 4)",
    "bigbird(64)",
)
"""Masks whose work the living review counts."""


def mask_work(text: str, length: int) -> MaskWork:
    """What a mask allows, and what a processor computes for it. Raises ValueError for a text that is no mask."""
    mask = parse_mask(text)
    form = choose(mask, Scope(length, length))
    match form:
        case "pieces":
            pieces = cut(mask, queries=length, keys=length, offset=0).pieces
            computed = sum(piece.n_rows * piece.n_keys for piece in pieces) / length**2
        case "causal":
            computed = (length + 1) / (2 * length)
        case _:
            computed = 1.0
    allowed = int(sum(_allowed(mask, start, length) for start in range(0, length, ROWS))) / length**2
    return MaskWork(text=text, length=length, allowed=allowed, computed=computed, form=form)


def _allowed(mask: Mask, start: int, length: int) -> int:
    query = torch.arange(start, min(start + ROWS, length))[None, :, None]
    pairs = mask.allowed(query, torch.arange(length)[None, None, :])
    return int(pairs.expand(1, query.shape[1], length).sum())
