"""Does a model know what stood most often? (aggregation; the common words of Hsieh et al. 2024, "RULER")

Occurrences are spread evenly over the whole context, as few in a long one as in a short one, so that a model that sees
a part of it counts too few of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import final

from diptych.evaluation.context.filler import Filler, Section, context_random, weave
from diptych.evaluation.context.lexicon import N_CANDIDATES, Lexicon, deal, fewest_tokens, hands
from diptych.evaluation.context.pieces import Piece, Writer, opened
from diptych.evaluation.context.types import Context, Probe
from diptych.evaluation.context.wording import Wording

COUNTS = (8, 4, 3, 2, 2, 1, 1, 1)
"""How often each of the values stands. One more, of any of them, is the last: what stood last says nothing."""


@final
@dataclass(frozen=True, kw_only=True)
class FrequencyTask:
    """Which value stood most often; see `diptych.evaluation.context.types.Task`. One question a context, of no depth.

    opening: the token that opens a document, where a model expects one. Raises ValueError for a tokenizer without
    enough words.
    """

    name: str
    writer: Writer
    wording: Wording
    lexicon: Lexicon
    filler: Filler
    seed: int
    opening: int | None

    n_depths = 1
    n_candidates = N_CANDIDATES

    def __post_init__(self) -> None:
        if not self.lexicon.keys or not hands(self.lexicon.values, self.lexicon.first, 1):
            raise ValueError(
                f"the task {self.name} needs a key and {N_CANDIDATES} values whose first tokens differ, more than this "
                f"tokenizer can express ({len(self.lexicon.keys)} keys and "
                f"{len({self.lexicon.first(value) for value in self.lexicon.values})} such values)"
            )

    @cached_property
    def keys(self) -> tuple[Piece, ...]:
        """Words that the key is chosen from."""
        return fewest_tokens(self.lexicon.keys, lambda keys: len(keys) > 0)

    @cached_property
    def values(self) -> tuple[Piece, ...]:
        """Words that values are chosen from."""
        first = self.lexicon.first
        return fewest_tokens(self.lexicon.values, lambda values: hands(values, first, 1) == 1)

    @cached_property
    def shortest(self) -> int:
        """The fewest tokens, question included, that hold a context."""
        key, value = (max(words, key=lambda word: len(word.ids)) for words in (self.keys, self.values))
        occurrence = self.writer.fill(self.wording.vote, key=key, value=value)
        question = self.writer.fill(self.wording.ask_vote, key=key) + self.lexicon.lead
        n = sum(COUNTS) + 1
        return n * (len(occurrence.ids) + self.filler.slack) + len(question.ids) + len(opened(self.opening))

    def context(self, length: int, number: int) -> Context:
        """The context of this number at this length; with its question it is just as long.

        Raises ValueError for a length below `shortest`.
        """
        rng = context_random(self, self.seed, length, number)
        key = rng.choice(self.keys)
        (values,) = deal(rng, self.values, self.lexicon.first, 1)
        ranked = rng.sample(range(N_CANDIDATES), N_CANDIDATES)
        # The i-th of n occurrences lies somewhere in the i-th of n equal parts.
        spread = sorted(
            ((i + rng.random()) / n, which) for which, n in zip(ranked, COUNTS, strict=True) for i in range(n)
        )
        order = [which for _, which in spread] + [rng.randrange(N_CANDIDATES)]
        question = self.writer.fill(self.wording.ask_vote, key=key) + self.lexicon.lead
        start, end = len(opened(self.opening)), length - len(question.ids)
        sections = [
            Section(
                end=start + (end - start) * (i + 1) // len(order),
                needles=(self.writer.fill(self.wording.vote, key=key, value=values[which]),),
            )
            for i, which in enumerate(order)
        ]
        pieces, _ = weave(self.filler, rng, start, sections)
        answers = [self.lexicon.answer(value) for value in values]
        probe = Probe(
            question=question.text,
            question_ids=question.ids,
            candidates=tuple(text for text, _ in answers),
            candidate_ids=tuple(token for _, token in answers),
            answer=ranked[0],
        )
        return Context(ids=opened(self.opening, pieces), text=self.writer.text(pieces), probes=(probe,))
