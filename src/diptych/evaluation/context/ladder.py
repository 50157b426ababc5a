"""Which length is asked about next, and what is known of the effective context length so far?

The effective length is the longest at which the accuracy at every depth, corrected for chance, is at least tau, all
shorter ones passing. The ladder climbs lengths that double until one fails, then asks in between. A length passes when
each depth has shown, by a test that may be read at any time, that it lies above the threshold, and fails when one has
shown that it lies below. Who stops early, for whatever reason, knows less, but nothing wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, final

from diptych.evaluation.context.result import Cell, State
from diptych.evaluation.context.statistics import MeanTest
from diptych.evaluation.context.types import Observation

STEPS: Final = 4
"""Steps that a doubling of the length is divided into: the final bracket is 2^(1/4) = 1.19 wide."""
BETWEEN: Final = 2
"""Lengths asked about between two neighbours of the coarse grid at most: a search among three."""
SEARCH: Final = 32
"""Contexts a depth of a length above one that stayed undecided, by which a clear failure shows."""

Decision = Literal["passed", "failed", "undecided", "open"]
"""What is known of a length; open: it may still be asked about."""


@dataclass(frozen=True, kw_only=True)
class LadderConfig:
    """What is asked. shortest, longest: lengths in tokens. tau: score at which a depth passes, in (0, 1). alpha: bound
    on the probability that a length above the effective one is certified, and on the probability that one at or below
    it is declared failed. max_rounds: contexts of one length at most that ask about a depth; on average over
    depths, where a context asks about some of them only.

    Raises ValueError for what cannot be asked.
    """

    shortest: int
    longest: int
    tau: float = 0.85
    alpha: float = 0.05
    max_rounds: int = 120

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(
                f"lengths from {self.shortest} to {self.longest} tokens: the shortest must be at least 1, and the "
                "longest no shorter than it"
            )
        if not 0 < self.tau < 1:
            raise ValueError(f"tau is a score strictly between 0 and 1, not {self.tau}")
        if not 0 < self.alpha < 1:
            raise ValueError(f"alpha is a probability strictly between 0 and 1, not {self.alpha}")
        if self.max_rounds < 1:
            raise ValueError(f"a length is asked about with at least one context, not {self.max_rounds}")

    @property
    def coarse(self) -> tuple[int, ...]:
        """Lengths that are climbed."""
        return coarse_lengths(self.shortest, self.longest)

    def threshold(self, n_candidates: int) -> float:
        """The accuracy in [0, 1] whose score, corrected for chance, is tau."""
        return 1 / n_candidates + self.tau * (1 - 1 / n_candidates)

    def levels(self, length: int, n_depths: int, *, is_certain: bool) -> tuple[float, float]:
        """Error probabilities at which a depth of a length is certified, and is declared failed; see `Ladder`.

        is_certain: whether all climbed lengths below have passed; else nothing is certified.
        """
        coarse = self.coarse
        certify = self.alpha / (2 if length in coarse else 2 * BETWEEN)
        return certify if is_certain else 0.0, self.alpha / (n_depths * (len(coarse) + BETWEEN))


@dataclass(frozen=True, kw_only=True)
class Rung:
    """What is known of one length from `contexts` contexts. cells: the depths that were asked about. above, below: by
    depth, the smallest error probability at which the accuracy has been shown to lie above, or below, the threshold, in
    [0, 1]; 1 says nothing."""

    length: int
    contexts: int
    decision: Decision
    cells: tuple[Cell, ...]
    above: tuple[float, ...]
    below: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is known. The effective length lies in [passed, failed): `passed` is None where nothing is certified yet,
    `failed` where nothing has failed.

    confidence: 1 - alpha, of either end for itself. threshold: accuracy at which a depth passes. rungs: by length.
    all_depths, relative: see `diptych.evaluation.context.result.TaskResult`; point estimates from the lengths that were
    asked, without a guarantee; `relative` is None where the shortest length is not certified.
    """

    state: State
    passed: int | None
    failed: int | None
    confidence: float
    threshold: float
    rungs: tuple[Rung, ...]
    all_depths: int | None
    relative: int | None

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of all lengths."""
        return tuple(cell for rung in self.rungs for cell in rung.cells)


def coarse_lengths(shortest: int, longest: int) -> tuple[int, ...]:
    """Lengths that double from the shortest, and the longest."""
    doublings = math.ceil(math.log2(longest / shortest))
    return (*(shortest << step for step in range(doublings) if shortest << step < longest), longest)


def inner_lengths(passed: int, failed: int) -> tuple[int, ...]:
    """Lengths between two that are at most a doubling apart: at most three, in equal ratios of about 2^(1/4)."""
    parts = max(1, round(STEPS * math.log2(failed / passed)))
    between = {round(passed * (failed / passed) ** (part / parts)) for part in range(1, parts)}
    return tuple(sorted(between - {passed, failed}))


@final
class Trial:
    """The contexts of one length, and what they decide. levels: see `LadderConfig.levels`. rounds: as
    `LadderConfig.max_rounds`."""

    def __init__(self, length: int, n_depths: int, threshold: float, levels: tuple[float, float], rounds: int) -> None:
        self.length, self.rounds = length, rounds
        self.certify, self.fail = levels
        self.contexts = 0
        self.counts, self.sums = [0] * n_depths, [0.0] * n_depths
        self.above = [MeanTest(threshold, "above") for _ in range(n_depths)]
        self.below = [MeanTest(threshold, "below") for _ in range(n_depths)]
        self.decision: Decision = "open"

    def take(self, observation: Observation) -> None:
        """Take in the answers about one more context."""
        self.contexts += 1
        for depth, accuracy in observation.accuracy.items():
            self.counts[depth] += 1
            self.sums[depth] += accuracy
            self.above[depth].add(accuracy)
            self.below[depth].add(accuracy)
        if any(test.shown(self.fail) for test in self.below):
            self.decision = "failed"
        elif all(test.shown(self.certify) for test in self.above):
            self.decision = "passed"
        elif sum(self.counts) >= self.rounds * len(self.counts):
            self.decision = "undecided"

    def rung(self, chance: float) -> Rung:
        """What is known; chance: accuracy of a guess."""
        means = [(depth, n, self.sums[depth] / n) for depth, n in enumerate(self.counts) if n]
        return Rung(
            length=self.length,
            contexts=self.contexts,
            decision=self.decision,
            cells=tuple(
                Cell(length=self.length, depth=depth, n=n, accuracy=mean, score=(mean - chance) / (1 - chance))
                for depth, n, mean in means
            ),
            above=tuple(test.p_value for test in self.above),
            below=tuple(test.p_value for test in self.below),
        )


@final
class Ladder:
    """Asks for contexts one by one, and says at any moment what is known. A pure function of the observations: taking
    the same ones again, in the same order, gives the same state.

    n_depths, n_candidates: of the task. Error of certification: the coarse lengths are tested in fixed order at alpha /
    2, each only after all before it passed, so that the first true failure bounds the error; a length passes only if
    every depth does (intersection-union), so depths cost nothing. The at most two lengths in between have alpha / 4
    each (Bonferroni); between neighbours of the coarse grid scores are taken to fall with the length. Above a length
    that stays undecided nothing is certified, but a failure is still looked for. Error of failure: alpha, over all
    lengths and depths (Bonferroni). Raises ValueError for a task without depths, or without a choice.
    """

    def __init__(self, config: LadderConfig, n_depths: int, n_candidates: int) -> None:
        if n_depths < 1 or n_candidates < 2:
            raise ValueError(f"a task has at least one depth and two candidates, not {n_depths} and {n_candidates}")
        self.config, self.n_depths = config, n_depths
        self.chance = 1 / n_candidates
        self.threshold = config.threshold(n_candidates)
        self.coarse = config.coarse
        self.trials: dict[int, Trial] = {}
        self.passed: int | None = None
        self.failed: int | None = None
        self.inner: tuple[int, ...] | None = None
        """Lengths in between that are still candidates; None while climbing."""
        self.is_certain = True
        """Whether all lengths so far passed; above one that did not, only failures are looked for."""
        self.trial: Trial | None = None
        self._begin(self.coarse[0])

    def next(self) -> tuple[int, int] | None:
        """Length and number of the context that is wanted; None: no more is needed."""
        return None if self.trial is None else (self.trial.length, self.trial.contexts)

    def take(self, observation: Observation) -> None:
        """Take in the answers about the context that was wanted. Raises ValueError for another one, or for what is no
        accuracy of a depth of this task."""
        if self.trial is None or (observation.length, observation.number) != self.next():
            raise ValueError(
                f"the ladder waits for (length, number) {self.next()}, not for "
                f"{(observation.length, observation.number)}; give it the observations in the order it asks for them"
            )
        if not observation.accuracy or not all(
            depth in range(self.n_depths) and 0 <= accuracy <= 1 for depth, accuracy in observation.accuracy.items()
        ):
            raise ValueError(
                f"an observation is an accuracy in [0, 1] at some of the depths 0 to {self.n_depths - 1}, not "
                f"{dict(observation.accuracy)}"
            )
        self.trial.take(observation)
        if self.trial.decision != "open":
            self._climb(self.trial)

    def _begin(self, length: int) -> None:
        rounds = self.config.max_rounds if self.is_certain else min(SEARCH, self.config.max_rounds)
        levels = self.config.levels(length, self.n_depths, is_certain=self.is_certain)
        self.trial = self.trials[length] = Trial(length, self.n_depths, self.threshold, levels, rounds)

    def _climb(self, done: Trial) -> None:
        """Choose the next length after a decision."""
        if done.decision == "passed":
            self.passed = done.length
        elif done.decision == "failed":
            self.failed = done.length
        self.trial = None
        if self.inner is None:
            self.is_certain &= done.decision != "undecided"
            if done.decision != "failed" and done.length != self.coarse[-1]:
                self._begin(self.coarse[self.coarse.index(done.length) + 1])
            if done.decision != "failed" or self.passed is None or not self.is_certain:
                return
            self.inner = inner_lengths(self.passed, done.length)
        else:
            # An undecided length bounds the search from above, though not the bracket: what is longer is still harder.
            index = self.inner.index(done.length)
            self.inner = self.inner[index + 1 :] if done.decision == "passed" else self.inner[:index]
        if self.inner:
            self._begin(self.inner[len(self.inner) // 2])

    def verdict(self) -> Verdict:
        """What is known now, whether or not all has been asked."""
        asked = [trial for _, trial in sorted(self.trials.items()) if trial.contexts]
        rungs = tuple(trial.rung(self.chance) for trial in asked)
        scores = {
            rung.length: [cell.score for cell in rung.cells] for rung in rungs if len(rung.cells) == self.n_depths
        }
        means = {length: sum(of) / len(of) for length, of in scores.items()}
        worst = {length: min(of) for length, of in scores.items()}
        first = self.coarse[0]
        return Verdict(
            state=self._state(),
            passed=self.passed,
            failed=self.failed,
            confidence=1 - self.config.alpha,
            threshold=self.threshold,
            rungs=rungs,
            all_depths=_longest(means, self.config.tau),
            relative=None if self.passed is None else _longest(worst, self.config.tau * means[first]),
        )

    def _state(self) -> State:
        if self.passed == self.coarse[-1]:
            return "at_least"
        if self.failed == self.coarse[0]:
            return "none"
        decided = all(trial.decision in {"passed", "failed"} for trial in self.trials.values())
        return "certified" if decided else "undecided"


def _longest(scores: dict[int, float], least: float) -> int | None:
    """The longest length that has at least this score, as all shorter ones have."""
    longest = None
    for length, score in sorted(scores.items()):
        if score < least:
            break
        longest = length
    return longest
