"""How is a context made whose needles stand in its fifths, to be asked for one by one?

A form says which needles a fifth has and what is asked about them. Words, places and filler are the same business for
all of them. A tokenizer with few words fills fewer than five fifths of a context; the next context fills the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Protocol, final

from diptych.evaluation.context.filler import Filler, Section, context_random, weave
from diptych.evaluation.context.lexicon import N_CANDIDATES, Lexicon, deal, fewest_tokens, hands
from diptych.evaluation.context.pieces import Piece, Writer, opened
from diptych.evaluation.context.types import N_DEPTHS, Context, Probe


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, which of the fifth's values answers it, and which of its statements shows that."""

    question: Piece
    answer: int
    statement: int


@dataclass(frozen=True, kw_only=True)
class Fifth:
    """Statements of a fifth, in the order in which they stand, and what is asked about them."""

    statements: tuple[Piece, ...]
    asked: tuple[Asked, ...]


class Form(Protocol):
    """What stands in a fifth and is asked about it."""

    @property
    def n_keys(self) -> int:
        """Keys of a fifth."""
        ...

    @property
    def at_once(self) -> int:
        """Fifths of a context that it fills at most."""
        ...

    def least(self, key: Piece, value: Piece) -> tuple[int, int]:
        """Tokens of the fewest statements, and of a question, were all words as long as these."""
        ...

    def fifth(self, rng: Random, keys: Sequence[Piece], values: Sequence[Piece], room: int) -> Fifth:
        """A fifth of `n_keys` keys and `N_CANDIDATES` values, its statements of at most `room` tokens."""
        ...


@final
@dataclass(frozen=True, kw_only=True)
class FifthsTask:
    """A task of needles in fifths; see `diptych.evaluation.context.types.Task`.

    opening: the token that opens a document, where a model expects one. Raises ValueError for a tokenizer without
    enough words.
    """

    name: str
    form: Form
    writer: Writer
    lexicon: Lexicon
    filler: Filler
    seed: int
    opening: int | None

    n_depths = N_DEPTHS
    n_candidates = N_CANDIDATES

    def __post_init__(self) -> None:
        if not self.n_filled:
            raise ValueError(
                f"the task {self.name} needs {self.form.n_keys} keys and {N_CANDIDATES} values whose first tokens "
                f"differ, more than this tokenizer can express ({len(self.lexicon.keys)} keys and "
                f"{len({self.lexicon.first(value) for value in self.lexicon.values})} such values)"
            )

    @cached_property
    def n_filled(self) -> int:
        """Fifths of a context that have needles."""
        words = self.lexicon
        most = min(self.form.at_once, len(words.keys) // self.form.n_keys)
        return hands(words.values, words.first, most)

    @cached_property
    def keys(self) -> tuple[Piece, ...]:
        """Words that keys are chosen from."""
        return fewest_tokens(self.lexicon.keys, lambda keys: len(keys) >= self.n_filled * self.form.n_keys)

    @cached_property
    def values(self) -> tuple[Piece, ...]:
        """Words that values are chosen from."""
        first, n = self.lexicon.first, self.n_filled
        return fewest_tokens(self.lexicon.values, lambda values: hands(values, first, n) == n)

    @cached_property
    def _least(self) -> tuple[int, int]:
        """Most tokens that the fewest statements of a fifth may have, and a question."""
        key, value = (max(words, key=lambda word: len(word.ids)) for words in (self.keys, self.values))
        statements, question = self.form.least(key, value)
        return statements, question + len(self.lexicon.lead.ids)

    @property
    def shortest(self) -> int:
        """The fewest tokens, question included, that hold a context."""
        statements, _ = self._least
        return N_DEPTHS * (statements + self._lost)

    @property
    def _lost(self) -> int:
        """Tokens of a fifth that statements cannot have: those of the question or the opening, and for the filler."""
        _, question = self._least
        return max(question, len(opened(self.opening))) + self.filler.slack

    def context(self, length: int, number: int) -> Context:
        """The context of this number at this length; with its longest question it is just as long.

        Raises ValueError for a length below `shortest`.
        """
        rng = context_random(self, self.seed, length, number)
        n_keys, n_filled = self.form.n_keys, self.n_filled
        keys = rng.sample(self.keys, n_filled * n_keys)
        fifths, values = dict[int, Fifth](), dict[int, tuple[Piece, ...]]()
        for i, hand in enumerate(deal(rng, self.values, self.lexicon.first, n_filled)):
            depth = (number * n_filled + i) % N_DEPTHS
            values[depth] = hand
            own = keys[i * n_keys : (i + 1) * n_keys]
            fifths[depth] = self.form.fifth(rng, own, hand, length // N_DEPTHS - self._lost)
        lead = self.lexicon.lead
        longest = max(len((asked.question + lead).ids) for fifth in fifths.values() for asked in fifth.asked)
        sections = [
            # Place p lies in fifth p * 5 // length.
            Section(
                end=min(-(-(depth + 1) * length // N_DEPTHS), length - longest),
                needles=fifths[depth].statements if depth in fifths else (),
            )
            for depth in range(N_DEPTHS)
        ]
        pieces, starts = weave(self.filler, rng, len(opened(self.opening)), sections)
        end = length - longest
        probes = []
        for depth, fifth in sorted(fifths.items()):
            answers = [self.lexicon.answer(value) for value in values[depth]]
            for asked in fifth.asked:
                question = asked.question + lead
                needle = starts[depth][asked.statement] + len(fifth.statements[asked.statement].ids) - 1
                probe = Probe(
                    question=question.text,
                    question_ids=question.ids,
                    candidates=tuple(text for text, _ in answers),
                    candidate_ids=tuple(token for _, token in answers),
                    answer=asked.answer,
                    depth=depth,
                    distance=end + len(question.ids) - 1 - needle,
                )
                probes.append(probe)
        return Context(ids=opened(self.opening, pieces), text=self.writer.text(pieces), probes=tuple(probes))
