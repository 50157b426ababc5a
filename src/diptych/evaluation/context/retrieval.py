"""Does a model find what stands once in a text? (needles in a haystack; Hsieh et al. 2024, "RULER")"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import final

from diptych.evaluation.context.fifths import Asked, Fifth
from diptych.evaluation.context.lexicon import N_CANDIDATES
from diptych.evaluation.context.pieces import Piece, Writer
from diptych.evaluation.context.types import N_DEPTHS
from diptych.evaluation.context.wording import Wording


@final
@dataclass(frozen=True)
class SingleKey:
    """One needle in every fifth. The other answers stand around it, belonging to no key."""

    writer: Writer
    wording: Wording

    n_keys = 1
    at_once = N_DEPTHS

    def least(self, key: Piece, value: Piece) -> tuple[int, int]:
        """See `Form`."""
        needle = self.writer.fill(self.wording.pair, key=key, value=value)
        loose = self.writer.fill(self.wording.loose, value=value)
        question = self.writer.fill(self.wording.ask_value, key=key)
        return len(needle.ids) + (N_CANDIDATES - 1) * len(loose.ids), len(question.ids)

    def fifth(self, rng: Random, keys: Sequence[Piece], values: Sequence[Piece], room: int) -> Fifth:
        """See `Form`."""
        del room  # there is one needle however long the context
        (key,), answer = keys, rng.randrange(len(values))
        statements = [
            self.writer.fill(self.wording.pair if i == answer else self.wording.loose, key=key, value=value)
            for i, value in enumerate(values)
        ]
        order = rng.sample(range(len(values)), len(values))
        question = self.writer.fill(self.wording.ask_value, key=key)
        return Fifth(
            statements=tuple(statements[i] for i in order),
            asked=(Asked(question=question, answer=answer, statement=order.index(answer)),),
        )


@final
@dataclass(frozen=True)
class MultiKey:
    """Needles in every fifth, each of which is asked for. The other answers are the values of its fifth's others."""

    writer: Writer
    wording: Wording

    n_keys = N_CANDIDATES
    at_once = N_DEPTHS

    def least(self, key: Piece, value: Piece) -> tuple[int, int]:
        """See `Form`."""
        needle = self.writer.fill(self.wording.pair, key=key, value=value)
        return N_CANDIDATES * len(needle.ids), len(self.writer.fill(self.wording.ask_value, key=key).ids)

    def fifth(self, rng: Random, keys: Sequence[Piece], values: Sequence[Piece], room: int) -> Fifth:
        """See `Form`."""
        del room  # there are as many needles in a long context as in a short one
        needles = [
            self.writer.fill(self.wording.pair, key=key, value=value) for key, value in zip(keys, values, strict=True)
        ]
        order = rng.sample(range(len(needles)), len(needles))
        return Fifth(
            statements=tuple(needles[i] for i in order),
            asked=tuple(
                Asked(question=self.writer.fill(self.wording.ask_value, key=key), answer=i, statement=order.index(i))
                for i, key in enumerate(keys)
            ),
        )
