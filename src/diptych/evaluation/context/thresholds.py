"""What do the answers that were asked for with one threshold in mind say about others?

The tests of a mean may be read whenever one likes, whatever rule ended the asking; to look at another threshold is such
a rule. So nothing more is asked. Where another threshold would have asked more, its two ends lie farther apart, but
neither is wrong more often.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from diptych.evaluation.context.ladder import LadderConfig, Trial
from diptych.evaluation.context.result import AtThreshold
from diptych.evaluation.context.types import Observation

TAUS: Final = (0.5, 0.7, 0.85, 0.95)
"""Scores at which a depth passes."""


def at_thresholds(
    observations: Iterable[Observation], config: LadderConfig, n_depths: int, n_candidates: int
) -> tuple[AtThreshold, ...]:
    """What a ladder's observations say at each of `TAUS` but its own.

    config: of the ladder, whose tau chose what was asked; n_depths, n_candidates: of the task. The bounds of `Ladder`
    hold of each threshold for itself, not of the one that turns out best.
    """
    seen = tuple(observations)
    return tuple(
        at_threshold(seen, replace(config, tau=tau), n_depths, n_candidates) for tau in TAUS if tau != config.tau
    )


def at_threshold(
    observations: Iterable[Observation], config: LadderConfig, n_depths: int, n_candidates: int
) -> AtThreshold:
    """What observations say at config.tau, whichever ladder over the same lengths asked for them, in its order.

    Decisions and their error probabilities are those of `Ladder`. Which lengths in between were asked about was decided
    by other lengths' answers, so that there, too, a test sees answers that did not choose it. What has been shown both
    above and below has failed, and nothing longer is certified.
    """
    asked: dict[int, list[Observation]] = {}
    for observation in observations:
        asked.setdefault(observation.length, []).append(observation)
    threshold, coarse = config.threshold(n_candidates), config.coarse
    passed, is_certain = None, True
    for length, answers in sorted(asked.items()):
        levels = config.levels(length, n_depths, is_certain=is_certain)
        trial = Trial(length, n_depths, threshold, levels, config.max_rounds)
        for observation in answers:
            trial.take(observation)
        if trial.decision == "failed":
            return AtThreshold(tau=config.tau, passed=passed, failed=length)
        if trial.decision == "passed":
            passed = length
        elif length in coarse:
            is_certain = False
    return AtThreshold(tau=config.tau, passed=passed, failed=None)
