"""How far back does a mask look, and at what?

What follows from a mask without asking it about pairs: how much of the past a cache must keep, and whether the mask
repeats itself from place to place or from call to call.
"""

from __future__ import annotations

from dataclasses import dataclass

from diptych.core.types import Mask
from diptych.nn.masks import Both, Causal, Documents, Either, Except, Full, Global, Keys, Sinks, Window, Within
from diptych.nn.patterns import Blocks, Strided


def conditions(mask: Mask) -> list[Mask]:
    """Masks all of which must allow, none of them a `Both`."""
    return [*conditions(mask.first), *conditions(mask.second)] if isinstance(mask, Both) else [mask]


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
