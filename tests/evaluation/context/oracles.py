"""Models whose effective context length is known without measuring it, and a task whose needles stand anywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from diptych.core.random import derive_seed
from diptych.evaluation.context.ladder import Ladder, LadderConfig
from diptych.evaluation.context.types import N_DEPTHS, Answers, Context, Observation, Probe, Scorer, Task, observation

M = 8
"""Candidates of the oracles' task."""
THRESHOLD = 1 / M + 0.85 * (1 - 1 / M)


def depth_of(distance: int, length: int) -> int:
    """The fifth of a needle this many tokens, 1 to `length`, before the end; 0 the farthest."""
    return N_DEPTHS - 1 - (distance - 1) * N_DEPTHS // length


def distances(depth: int, length: int) -> range:
    """The distances of a fifth."""
    nearest = N_DEPTHS - 1 - depth
    return range(-(-nearest * length // N_DEPTHS) + 1, -(-(nearest + 1) * length // N_DEPTHS) + 1)


@dataclass(frozen=True)
class UniformTask:
    """Needles at distances that are uniform over each fifth; nothing but the probes is real."""

    seed: int = 0
    probes_per_depth: int = 8
    name: str = "uniform"
    n_depths: int = N_DEPTHS
    n_candidates: int = M
    shortest: int = N_DEPTHS

    def context(self, length: int, number: int) -> Context:
        rng = Random(derive_seed(self.seed, self.name, length, number))
        probes = tuple(
            Probe(
                question="",
                question_ids=(),
                candidates=("",) * M,
                candidate_ids=tuple(range(M)),
                answer=int(rng.random() * M),
                depth=depth,
                distance=places[int(rng.random() * len(places))],
            )
            for depth in range(N_DEPTHS)
            for places in [distances(depth, length)]
            for _ in range(self.probes_per_depth)
        )
        return Context(ids=(number,) * length, text=str(number), probes=probes)


@dataclass(frozen=True)
class Oracle:
    """Knows what `knows(length, probe)` says it does, and guesses else."""

    knows: Callable[[int, Probe], bool]
    seed: int = 0

    def ask(self, context: Context) -> Answers:
        rng = Random(derive_seed(self.seed, "guess", len(context.ids), context.text))
        said = [
            probe.answer if self.knows(len(context.ids), probe) else int(rng.random() * M) for probe in context.probes
        ]
        return Answers(
            scores=tuple(tuple(0.0 if k == answer else -1.0 for k in range(M)) for answer in said),
            right=tuple(answer == probe.answer for answer, probe in zip(said, context.probes, strict=True)),
            tokens=len(context.ids),
        )


def within(window: int, seed: int = 0) -> Oracle:
    """Sees the last `window` tokens."""
    return Oracle(lambda length, probe: probe.distance <= window, seed)


def effective_length(window: int) -> int:
    """The longest length at which the worst fifth, corrected for chance, is right 0.85 of the time or more for whoever
    sees `window` tokens, by counting the needles that it sees."""
    length = window
    while all(
        sum(d <= window for d in distances(depth, length)) >= 0.85 * len(distances(depth, length))
        for depth in range(N_DEPTHS)
    ):
        length += 1
    return length - 1


PERFECT = Oracle(lambda length, probe: True)
GUESSER = Oracle(lambda length, probe: False)


def blind_middle(hole: int) -> Oracle:
    """Sees all but the middle fifth of what is `hole` tokens long, or longer."""
    return Oracle(lambda length, probe: length < hole or probe.depth != N_DEPTHS // 2)


def climb(scorer: Scorer, task: Task, config: LadderConfig) -> Ladder:
    """A ladder climbed to its end."""
    ladder = Ladder(config, task.n_depths, task.n_candidates)
    while (wanted := ladder.next()) is not None:
        context = task.context(*wanted)
        ladder.take(observation(*wanted, context.probes, scorer.ask(context).right))
    return ladder


def simulate(ladder: Ladder, accuracy: Callable[[int, int], float], seed: int, answers: int = 1) -> list[Observation]:
    """Climb with `answers` independent answers a depth, right with the probability accuracy(length, depth); returns
    what was observed."""
    rng, seen = Random(derive_seed(seed, "simulate")), []
    while (wanted := ladder.next()) is not None:
        length, number = wanted
        chances = [accuracy(length, depth) for depth in range(ladder.n_depths)]
        means = {d: sum(rng.random() < p for _ in range(answers)) / answers for d, p in enumerate(chances)}
        seen.append(Observation(length=length, number=number, accuracy=means))
        ladder.take(seen[-1])
    return seen


def most_by_chance(trials: int, probability: float, tail: float = 1e-4) -> int:
    """How often an event of this probability may happen in so many trials before it happens too often: the smallest
    number that a binomial variable exceeds with a probability below `tail`."""
    log_odds = math.log(probability / (1 - probability))
    log_mass, total = trials * math.log1p(-probability), 0.0
    for count in range(trials + 1):
        total += math.exp(log_mass)
        if 1 - total < tail:
            return count
        log_mass += math.log((trials - count) / (count + 1)) + log_odds
    return trials
