"""What do the parts of a measurement of the effective context length say to each other?

A `Task` makes contexts of a length, each with questions about what stands in it. A `Scorer` puts the questions to a
model. The ladder (`diptych.evaluation.context.ladder`) decides from the answers which length comes next and what is
known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

N_DEPTHS = 5
"""Depths are told apart by fifths of the context, 0 the first fifth, farthest from the question."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One question about a context, asked after it, and the answers that are ranked.

    question: text that follows the context, up to where an answer begins; `question_ids` its tokens. candidates: the
    answers, all of which stand in the context equally far back, so that one who sees none of them guesses; their first
    tokens, `candidate_ids`, are pairwise different and are what is ranked. answer: which of them is right. depth: the
    fifth in which what is asked for stands; 0 where a task has no depths. distance: tokens from the needle's last token
    to the last token of the question; None where the answer stands nowhere in particular.
    """

    question: str
    question_ids: tuple[int, ...]
    candidates: tuple[str, ...]
    candidate_ids: tuple[int, ...]
    answer: int
    depth: int = 0
    distance: int | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """A text of a task, and the questions about it. With the longest question it is at most as long as was asked for.

    ids: tokens, the one that opens a document first where a model expects one; `text` says the same without it.
    """

    ids: tuple[int, ...]
    text: str
    probes: tuple[Probe, ...]


class Task(Protocol):
    """Makes contexts: pure functions of the task's seed, a length in tokens and a number."""

    @property
    def name(self) -> str:
        """A word for it."""
        ...

    @property
    def n_depths(self) -> int:
        """How many depths it tells apart: `N_DEPTHS`, or 1 where an answer stands nowhere in particular."""
        ...

    @property
    def n_candidates(self) -> int:
        """Answers to a question; a guess is right once in so many times."""
        ...

    @property
    def shortest(self) -> int:
        """The fewest tokens, question included, that hold a context."""
        ...

    def context(self, length: int, number: int) -> Context:
        """The context of this number at this length. Raises ValueError for a length below `shortest`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model answered to each probe of a context.

    scores: log-probabilities of each probe's candidates (natural logarithm; -inf where a server did not tell). right:
    whether the right one has the highest. tokens: that were read for it, forward.
    """

    scores: tuple[tuple[float, ...], ...]
    right: tuple[bool, ...]
    tokens: int


class Scorer(Protocol):
    """Puts questions to a model."""

    def ask(self, context: Context) -> Answers:
        """Ask all probes of a context, each as if it alone followed the context."""
        ...


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One context's accuracy at each depth that it asked about: means over its probes, in [0, 1]."""

    length: int
    number: int
    accuracy: Mapping[int, float]


class Placed(Protocol):
    """Something asked about at some depth."""

    @property
    def depth(self) -> int:
        """The fifth."""
        ...


def observation(length: int, number: int, probes: Sequence[Placed], right: Sequence[bool]) -> Observation:
    """Means of the answers by depth."""
    depths: dict[int, list[bool]] = {}
    for probe, is_right in zip(probes, right, strict=True):
        depths.setdefault(probe.depth, []).append(is_right)
    return Observation(
        length=length, number=number, accuracy={depth: sum(of) / len(of) for depth, of in sorted(depths.items())}
    )
