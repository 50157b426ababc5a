"""Does a model follow what refers to what? (variable tracking; Hsieh et al. 2024, "RULER")

The first key of a chain has a value, every further one that of the key before it. Chains of one fifth stand side by
side, and the value of each one's last key is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import final

from diptych.evaluation.context.fifths import Asked, Fifth
from diptych.evaluation.context.lexicon import N_CANDIDATES
from diptych.evaluation.context.pieces import Piece, Writer
from diptych.evaluation.context.types import N_DEPTHS
from diptych.evaluation.context.wording import Wording

N_LINKS = 2
"""Keys of a chain: as many statements must be read to answer."""


@final
@dataclass(frozen=True)
class Chain:
    """Chains, their statements mixed, each one's in its order."""

    writer: Writer
    wording: Wording

    n_keys = N_LINKS * N_CANDIDATES
    at_once = N_DEPTHS

    def least(self, key: Piece, value: Piece) -> tuple[int, int]:
        """See `Form`."""
        chain = self._statements([key] * N_LINKS, value)
        question = self.writer.fill(self.wording.ask_value, key=key)
        return N_CANDIDATES * sum(len(statement.ids) for statement in chain), len(question.ids)

    def fifth(self, rng: Random, keys: Sequence[Piece], values: Sequence[Piece], room: int) -> Fifth:
        """See `Form`. What shows an answer is the first statement of its chain, the farthest."""
        del room  # chains are as many in a long context as in a short one
        names = [keys[i * N_LINKS : (i + 1) * N_LINKS] for i in range(N_CANDIDATES)]
        rest = [iter(self._statements(own, value)) for own, value in zip(names, values, strict=True)]
        order = [i for i in range(N_CANDIDATES) for _ in range(N_LINKS)]
        rng.shuffle(order)
        return Fifth(
            statements=tuple(next(rest[i]) for i in order),
            asked=tuple(
                Asked(
                    question=self.writer.fill(self.wording.ask_value, key=own[-1]),
                    answer=i,
                    statement=order.index(i),
                )
                for i, own in enumerate(names)
            ),
        )

    def _statements(self, keys: Sequence[Piece], value: Piece) -> list[Piece]:
        links = [self.writer.fill(self.wording.link, key=key, other=before) for before, key in pairwise(keys)]
        return [self.writer.fill(self.wording.pair, key=keys[0], value=value), *links]
