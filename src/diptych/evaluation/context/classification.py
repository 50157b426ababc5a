"""Does a model learn classes from examples that stand long ago? (Li et al. 2024, "LongICLBench")

A class has words of its own. Its demonstrations, as many as there is room for, show two of them and the class's name;
the example that is asked about shows two that never stood together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from random import Random
from typing import final

from diptych.evaluation.context.fifths import Asked, Fifth
from diptych.evaluation.context.lexicon import N_CANDIDATES
from diptych.evaluation.context.pieces import Piece, Writer
from diptych.evaluation.context.types import N_DEPTHS
from diptych.evaluation.context.wording import Wording

N_OWN = 3
"""Words of a class. Demonstrations show the middle one and one of the outer ones, questions both outer ones."""

LEAST_SHOWN = 2
"""Fewest demonstrations of a class: those that show all of its words."""


@final
@dataclass(frozen=True)
class Classification:
    """Demonstrations of the classes of a fifth, of each as many."""

    writer: Writer
    wording: Wording

    n_keys = N_OWN * N_CANDIDATES
    at_once = N_DEPTHS

    def least(self, key: Piece, value: Piece) -> tuple[int, int]:
        """See `Form`."""
        shown = self.writer.fill(self.wording.demonstration, first=key, second=key, value=value)
        question = self.writer.fill(self.wording.ask_class, first=key, second=key)
        return LEAST_SHOWN * N_CANDIDATES * len(shown.ids), len(question.ids)

    def fifth(self, rng: Random, keys: Sequence[Piece], values: Sequence[Piece], room: int) -> Fifth:
        """See `Form`. What shows an answer is its class's last demonstration, the nearest."""
        classes = [keys[i * N_OWN : (i + 1) * N_OWN] for i in range(N_CANDIDATES)]
        # Both orders of each pair that is shown.
        shown = [
            [
                [
                    self.writer.fill(self.wording.demonstration, first=first, second=second, value=value)
                    for first, second in ((outer, middle), (middle, outer))
                ]
                for outer in (left, right)
            ]
            for (left, middle, right), value in zip(classes, values, strict=True)
        ]
        demonstrations = list[tuple[int, Piece]]()
        for pair in cycle(range(2)):
            new = [(i, rng.choice(of[pair])) for i, of in enumerate(shown)]
            room -= sum(len(piece.ids) for _, piece in new)
            if room < 0:
                break
            demonstrations += new
        rng.shuffle(demonstrations)
        last = {i: place for place, (i, _) in enumerate(demonstrations)}
        asked = []
        for i, (left, _, right) in enumerate(classes):
            first, second = rng.sample((left, right), 2)
            question = self.writer.fill(self.wording.ask_class, first=first, second=second)
            asked.append(Asked(question=question, answer=i, statement=last[i]))
        return Fifth(statements=tuple(piece for _, piece in demonstrations), asked=tuple(asked))
