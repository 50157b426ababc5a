"""Which mask does a text describe, and which text a mask? `diptych.core.mask_text` holds the grammar."""

from __future__ import annotations

from dataclasses import fields
from functools import lru_cache

from diptych.core.mask_text import Joined, Term, parse_terms
from diptych.core.types import Mask
from diptych.nn.masks import Both, Causal, Documents, Either, Full, Global, Keys, Prefix, Sinks, Window, Within
from diptych.nn.patterns import BigBird, BlockCausal, BlockDiffusion, Blocks, Cuts, Fixed, Strided

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
