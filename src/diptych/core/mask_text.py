"""How is a mask written in a recipe or on the command line?

As names with whole numbers, `window(512)`, joined by `&` (both allow) and `|` (either allows); `&` binds closer, and
parentheses group. This module only reads the text, without torch, so that recipes are checked at once;
`diptych.nn.masks` makes masks of it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Kind:
    """A mask's name: its arguments, the least number each may be, which may be left out, and what it says."""

    arguments: tuple[str, ...]
    least: tuple[int, ...]
    optional: int
    about: str
    repeats: bool = False

    def usage(self, name: str) -> str:
        """How it is written."""
        if not self.arguments:
            return name
        firm = len(self.arguments) - self.optional
        names = [a if i < firm else f"[{a}]" for i, a in enumerate(self.arguments)]
        return f"{name}({', '.join(names)}{', ...' if self.repeats else ''})"


KINDS: dict[str, Kind] = {
    "full": Kind((), (), 0, "everything: encoders and denoisers"),
    "causal": Kind((), (), 0, "nothing later: autoregression"),
    "prefix": Kind(("length",), (1,), 0, "the first positions see one another, the rest is causal (prefix LM)"),
    "window": Kind(("width", "ahead"), (1, 0), 1, "the position and the width - 1 before it; at most `ahead` after it"),
    "sinks": Kind(("count",), (1,), 0, "the first keys, for everybody (StreamingLLM)"),
    "global": Kind(("count",), (1,), 0, "the first positions see all and are seen by all (Longformer)"),
    "strided": Kind(("stride",), (1,), 0, "keys whole strides away (Sparse Transformer)"),
    "blocks": Kind(("length",), (1,), 0, "positions of the same block"),
    "fixed": Kind(
        ("length", "count"), (1, 1), 0, "the same block, and the last keys of every block (Sparse Transformer)"
    ),
    "bigbird": Kind(
        ("block", "near", "wide", "random", "seed"),
        (1, 0, 0, 0, 0),
        4,
        "by blocks: `near` neighbours on each side, `wide` global ones, `random` ones (BigBird)",
    ),
    "documents": Kind(("length",), (1,), 0, "only positions of the same document, of these lengths in turn", True),
    "block_causal": Kind(
        ("block", "given"), (1, 0), 1, "blocks before, and the whole of the own one (block diffusion, drawing)"
    ),
    "block_diffusion": Kind(
        ("block", "length", "given"),
        (1, 1, 0),
        1,
        "`length` noisy positions, then the clean ones after `given` more (block diffusion, training)",
    ),
}
"""All masks that have a text form."""


MOST = 2**31
"""The largest number in a mask's text."""


LONGEST = 500
"""Words of a mask's text at most."""


@dataclass(frozen=True)
class Term:
    """One mask by its name."""

    name: str
    arguments: tuple[int, ...]


@dataclass(frozen=True)
class Joined:
    """Two masks, both or either of which must allow."""

    operator: Literal["&", "|"]
    first: Term | Joined
    second: Term | Joined


def parse_terms(text: str) -> Term | Joined:
    """Read a mask's text. Raises ValueError that says what is wrong with it, and names the nearest valid name."""
    words = _WORD.findall(text)
    if len(words) > LONGEST:
        raise ValueError(f"a mask of {len(words)} words is longer than any that makes sense; write at most {LONGEST}")
    if "".join(words) != "".join(text.split()):
        raise ValueError(f"{_unreadable(text)}; it may hold names, whole numbers, commas, parentheses, & and |")
    part, rest = _either(words, text)
    if rest:
        raise ValueError(f"{_unreadable(text)} from '{' '.join(rest)}' on")
    return part


_WORD = re.compile(r"[A-Za-z_]\w*|\d+|[^\w\s]")


def _unreadable(text: str) -> str:
    return f"the mask '{text}' cannot be read"


def _either(words: list[str], text: str) -> tuple[Term | Joined, list[str]]:
    part, words = _both(words, text)
    while words[:1] == ["|"]:
        other, words = _both(words[1:], text)
        part = Joined("|", part, other)
    return part, words


def _both(words: list[str], text: str) -> tuple[Term | Joined, list[str]]:
    part, words = _one(words, text)
    while words[:1] == ["&"]:
        other, words = _one(words[1:], text)
        part = Joined("&", part, other)
    return part, words


def _one(words: list[str], text: str) -> tuple[Term | Joined, list[str]]:
    if not words or not (words[0] == "(" or words[0].isidentifier()):
        place = f"at '{words[0]}'" if words else "at its end"
        raise ValueError(f"{_unreadable(text)}: {place} a mask is missing; one is written as in window(512) | sinks(4)")
    if words[0] == "(":
        part, rest = _either(words[1:], text)
        if rest[:1] != [")"]:
            raise ValueError(f"{_unreadable(text)}: a parenthesis is not closed")
        return part, rest[1:]
    name, rest = words[0], words[1:]
    if rest[:1] != ["("]:
        return _term(name, [], text), rest
    if ")" not in rest:
        raise ValueError(f"{_unreadable(text)}: a parenthesis is not closed")
    end = rest.index(")")
    inside = rest[1:end]
    if inside[1::2] != [","] * (len(inside) // 2) or (inside and len(inside) % 2 == 0):
        raise ValueError(f"{_unreadable(text)}: {name} takes whole numbers with commas between")
    return _term(name, inside[::2], text), rest[end + 1 :]


def _term(name: str, values: list[str], text: str) -> Term:
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"masks are {', '.join(KINDS)}"
        raise ValueError(f"unknown mask {name}; {hint}")
    kind = KINDS[name]
    most = len(values) if kind.repeats else len(kind.arguments)
    if not len(kind.arguments) - kind.optional <= len(values) <= most:
        raise ValueError(f"the mask '{text}' gives {name} {len(values)} numbers; it is written {kind.usage(name)}")
    arguments: list[int] = []
    for index, value in enumerate(values):
        place = min(index, len(kind.arguments) - 1)
        if not value.isdecimal() or not kind.least[place] <= int(value) <= MOST:
            raise ValueError(
                f"the mask '{text}': {kind.arguments[place]} of {name} must be a whole number from "
                f"{kind.least[place]} to {MOST}"
            )
        arguments.append(int(value))
    return Term(name, tuple(arguments))
