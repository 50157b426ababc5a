"""What stands around the needles, and where among it do they stand?

Needles keep their order; every set of places among the filler is as likely as any other. A text is woven to the token:
filler is chosen so that its lengths sum to just what is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import Protocol, final

from diptych.core.random import derive_seed
from diptych.evaluation.context.pieces import Piece, Writer
from diptych.evaluation.context.types import Task
from diptych.evaluation.context.words import SENTENCES, SHORT_SENTENCES


class Filler(Protocol):
    """Makes what stands around needles."""

    @property
    def slack(self) -> int:
        """From how many tokens on it fills any number of them."""
        ...

    def gaps(self, rng: Random, position: int, needles: Sequence[Piece], tokens: int) -> list[list[Piece]]:
        """What stands before, between and behind the needles: lists, one more than needles, of `tokens` tokens in all.
        `position` is the place of the first token."""
        ...


@dataclass(frozen=True, kw_only=True)
class Section:
    """A stretch of a text, up to the token `end`, and the needles that stand in it, in this order."""

    end: int
    needles: tuple[Piece, ...] = ()


def context_random(task: Task, seed: int, length: int, number: int) -> Random:
    """What a context of this length and number is drawn with. Raises ValueError for a length below `shortest`."""
    if length < task.shortest:
        raise ValueError(f"a context of the task {task.name} has at least {task.shortest} tokens, not {length}")
    return Random(derive_seed(seed, "context", task.name, length, number))


def weave(
    filler: Filler, rng: Random, start: int, sections: Sequence[Section]
) -> tuple[list[Piece], list[tuple[int, ...]]]:
    """The pieces of a text from token `start` to the last section's end, and where each section's needles begin.

    Raises ValueError for a section that is too short for its needles.
    """
    pieces, starts = list[Piece](), list[tuple[int, ...]]()
    phase = rng.randrange(2**16)
    for section in sections:
        tokens = section.end - start - sum(len(needle.ids) for needle in section.needles)
        if tokens < filler.slack:
            raise ValueError(f"{section.end - start} tokens are too few for {len(section.needles)} needles")
        first, *others = filler.gaps(rng, phase + start, section.needles, tokens)
        pieces += first
        begins, position = list[int](), start + _tokens(first)
        for needle, gap in zip(section.needles, others, strict=True):
            begins.append(position)
            pieces += needle, *gap
            position += len(needle.ids) + _tokens(gap)
        starts.append(tuple(begins))
        start = section.end
    return pieces, starts


def _tokens(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.ids) for piece in pieces)


def _bounds(rng: Random, units: int, n_needles: int) -> list[int]:
    """How many of the units stand before the end of each of the gaps."""
    places = sorted(rng.sample(range(units + n_needles), n_needles))
    return [place - before for before, place in enumerate(places)] + [units]


@final
class Haystack:
    """Words of one token each, again and again, which the needles overwrite, as in `diptych.data.recall`."""

    slack = 0

    def __init__(self, words: Sequence[Piece]) -> None:
        self.words = tuple(words)

    def gaps(self, rng: Random, position: int, needles: Sequence[Piece], tokens: int) -> list[list[Piece]]:
        """See `Filler`."""
        out, done = [], 0
        for bound, needle in zip(_bounds(rng, tokens, len(needles)), (*needles, None), strict=True):
            out.append([self.words[(position + i) % len(self.words)] for i in range(bound - done)])
            position += bound - done + (len(needle.ids) if needle else 0)
            done = bound
        return out


@final
class Sentences:
    """Neutral sentences in a random order. Raises ValueError for a tokenizer of which they cannot fill any length."""

    def __init__(self, writer: Writer) -> None:
        self._long = [writer.literal(text) for text in SENTENCES]
        self._all = [writer.literal(text) for text in (*SHORT_SENTENCES, *SENTENCES)]
        sizes = {len(piece.ids) for piece in self._all}
        self._longest = max(sizes)
        # A run of as many lengths as the longest sentence has tokens goes on for ever.
        reached = [True]
        for length in range(1, 4 * self._longest):
            reached.append(any(size <= length and reached[length - size] for size in sizes))
        self.slack = len(reached) - reached[::-1].index(False) if False in reached else 0
        if self.slack > 2 * self._longest:
            raise ValueError("with this tokenizer no choice of sentences fills a context to its last token")
        self._reached = reached

    def gaps(self, rng: Random, position: int, needles: Sequence[Piece], tokens: int) -> list[list[Piece]]:
        """See `Filler`."""
        del position  # sentences stand anywhere
        units = self._choose(rng, tokens)
        bounds = _bounds(rng, len(units), len(needles))
        return [units[start:end] for start, end in pairwise([0, *bounds])]

    def _choose(self, rng: Random, tokens: int) -> list[Piece]:
        out = []
        while tokens >= self.slack + self._longest:
            out.append(rng.choice(self._long))
            tokens -= len(out[-1].ids)
        while tokens:
            fitting = [p for p in self._all if len(p.ids) <= tokens and self._reached[tokens - len(p.ids)]]
            out.append(rng.choice(fitting))
            tokens -= len(out[-1].ids)
        rng.shuffle(out)
        return out
