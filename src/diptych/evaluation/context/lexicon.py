"""Which words of a tokenizer serve as keys and values?

What ranks answers sees their first tokens, so that those of a probe's candidates must differ. A word of one token is
best. Where every word begins with the same token, the space, as among bytes, the space ends the question instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from diptych.data.recall import HAYSTACK
from diptych.evaluation.context.pieces import NOTHING, Piece, Writer
from diptych.evaluation.context.words import NAMES, NOUNS
from diptych.tokenizers.simple import WordTokenizer

N_CANDIDATES = 8
"""Answers to a question, in every task."""

N_FILLERS = 12
"""Words of a vocabulary of words that stand around the needles: the first ones, which are the most frequent."""


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Keys and values, all different, those of fewest tokens first.

    lead: with what values begin that belongs to the question: a space, or nothing. filler: words that stand around the
    needles, each one token, in this order again and again; None where there are no such words.
    """

    lead: Piece
    keys: tuple[Piece, ...]
    values: tuple[Piece, ...]
    filler: tuple[Piece, ...] | None

    def answer(self, value: Piece) -> tuple[str, int]:
        """A value as the answer that follows a question, and its first token."""
        return value.text[len(self.lead.text) :], value.ids[len(self.lead.ids)]

    def first(self, value: Piece) -> int:
        """The first token of the answer."""
        return value.ids[len(self.lead.ids)]


def lexicon_of(writer: Writer, avoided: Collection[str] = ()) -> Lexicon:
    """The words of its vocabulary where the tokenizer has words, such as that of the recall task; plain English else.

    avoided: words that questions are made of. Raises ValueError as `Writer.piece`.
    """
    haystack = tuple(writer.piece(word) for word in HAYSTACK)
    filler = haystack if all(len(word.ids) == 1 for word in haystack) else None
    if isinstance(writer.tokenizer, WordTokenizer):
        words = [word for word in writer.tokenizer.words if word[:1] == " " and word[1:].isalpha()]
        return _own_words(writer, [word for word in words if word[1:] not in avoided], filler)
    keys, values = (_sorted(writer.piece(f" {word}") for word in words) for words in (NAMES, NOUNS))
    lead, values = _led(writer, values)
    return Lexicon(lead=lead, keys=keys, values=values, filler=filler)


def _own_words(writer: Writer, words: Sequence[str], haystack: tuple[Piece, ...] | None) -> Lexicon:
    """Words of a vocabulary: keys are those with a capital, as in the recall task, or every other one."""
    filler = haystack or tuple(writer.piece(word) for word in words[:N_FILLERS])
    around = {word.text for word in filler}
    others = [word for word in words if word not in around]
    keys = [word for word in others if word[1:].istitle()]
    values = [word for word in others if word[1:].islower()]
    if len(keys) < N_CANDIDATES <= len(values):
        keys, values = values[::2], values[1::2]
    return Lexicon(
        lead=NOTHING, keys=tuple(map(writer.piece, keys)), values=tuple(map(writer.piece, values)), filler=filler
    )


def _sorted(words: Iterable[Piece]) -> tuple[Piece, ...]:
    return tuple(sorted(words, key=lambda word: len(word.ids)))


def _led(writer: Writer, values: tuple[Piece, ...]) -> tuple[Piece, tuple[Piece, ...]]:
    """Nothing, and all values, if their first tokens tell enough of them apart; else the space that they begin with."""
    if len({value.ids[0] for value in values}) >= N_CANDIDATES:
        return NOTHING, values
    (token, _), *_ = Counter(value.ids[0] for value in values).most_common()
    if writer.tokenizer.token_bytes(token) != b" ":
        return NOTHING, values
    return Piece(" ", (token,)), tuple(value for value in values if value.ids[0] == token and len(value.ids) > 1)


def fewest_tokens(words: Sequence[Piece], suffices: Callable[[Sequence[Piece]], bool]) -> tuple[Piece, ...]:
    """Of words sorted by their number of tokens those of at most so many tokens that they suffice; all if none do."""
    for most in sorted({len(word.ids) for word in words}):
        some = tuple(word for word in words if len(word.ids) <= most)
        if suffices(some):
            return some
    return tuple(words)


def hands(values: Sequence[Piece], first: Callable[[Piece], int], most: int) -> int:
    """How many hands `deal` can deal, at most `most`."""
    sizes = Counter(map(first, values)).values()
    # n hands take at most n words of one first token.
    return max(n for n in range(most + 1) if sum(min(size, n) for size in sizes) >= n * N_CANDIDATES)


def deal(rng: Random, values: Sequence[Piece], first: Callable[[Piece], int], n_hands: int) -> list[tuple[Piece, ...]]:
    """Hands of `N_CANDIDATES` values each, all different, whose first tokens differ within a hand; in random order."""
    taken: dict[int, list[Piece]] = {}
    count = 0
    for value in rng.sample(values, len(values)):
        group = taken.setdefault(first(value), [])
        if count < n_hands * N_CANDIDATES and len(group) < n_hands:
            group.append(value)
            count += 1
    # A group has no more words than there are hands, so that dealt in a row they all go to different ones.
    row = [value for group in taken.values() for value in group]
    dealt = [row[hand::n_hands] for hand in range(n_hands)]
    rng.shuffle(dealt)
    return [tuple(rng.sample(hand, len(hand))) for hand in dealt]
