"""What is known of a model's effective context length after a measurement, finished or stopped?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

RESULT = "context.json"

State = Literal["certified", "undecided", "none", "at_least"]
"""Between two lengths; nothing more could be decided; fails at the shortest; passes at the longest that was asked."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Answers at one length and depth: `n` contexts, their mean accuracy in [0, 1], and that corrected for chance."""

    length: int
    depth: int
    n: int
    accuracy: float
    score: float


@dataclass(frozen=True, kw_only=True)
class DistanceBin:
    """Answers whose needle lies `first` to `last` tokens back: `right` of `count`."""

    first: int
    last: int
    right: int
    count: int


@dataclass(frozen=True, kw_only=True)
class Distance:
    """The distance in tokens at which the fitted accuracy, corrected for chance, falls to tau.

    low, high: 95 % interval over contexts. None where it lies outside of what was asked, which `beyond` says: the fit
    is above tau as far as it was asked (True) or below it (False).
    """

    value: float | None
    low: float | None
    high: float | None
    beyond: bool | None


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """What asking several questions of one context brings. rho: correlation of two answers about one context at one
    depth; design_effect: by how much the variance of a mean over its k answers is larger than of k independent ones."""

    rho: float
    answers_per_context: float
    design_effect: float


@dataclass(frozen=True, kw_only=True)
class AtThreshold:
    """What the same answers say at another threshold tau: the effective length there lies in [passed, failed), each end
    as in `TaskResult`, with the same confidence, which holds of each threshold and each end for itself."""

    tau: float
    passed: int | None
    failed: int | None


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What is known of one task. The effective length lies in [passed, failed): `passed` is None where nothing is
    certified yet, `failed` where nothing has failed. confidence: of each end for itself. all_depths, relative: the
    longest length at which, by point estimates alone, the mean over depths passes, and at which every depth reaches tau
    times the score at the shortest length. thresholds: none in results from before they were read."""

    task: str
    style: str
    n_candidates: int
    state: State
    passed: int | None
    failed: int | None
    confidence: float
    cells: tuple[Cell, ...]
    all_depths: int | None
    relative: int | None
    distances: tuple[DistanceBin, ...]
    distance: Distance | None
    reuse: Reuse | None
    contexts: int
    tokens: int
    seconds: float
    thresholds: tuple[AtThreshold, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gain:
    """What reading back `length` tokens in place of half as many saves, in nats a token, with its 95 % interval over
    documents."""

    length: int
    gain: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Saturation:
    """Loss by context. saturation: the longest length whose gain is surely above `epsilon` nats; None: none is. losses:
    mean loss in nats after so many tokens of context, beside each length. censored: the gain is still above at the
    longest."""

    epsilon: float
    n_documents: int
    lengths: tuple[int, ...]
    losses: tuple[float, ...]
    gains: tuple[Gain, ...]
    saturation: int | None
    censored: bool


@dataclass(frozen=True, kw_only=True)
class Positions:
    """How often training showed each distance, as a share of distance 1: review table 5, right."""

    distances: tuple[int, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class ContextResult:
    """One model, as it is or with an extension. claimed: the length in tokens that it says it was trained for."""

    model: str
    extension: str | None
    claimed: int
    tau: float
    seed: int
    tasks: tuple[TaskResult, ...]
    saturation: Saturation | None = None
    positions: Positions | None = None
    stopped: str | None = None
    """Why the measurement ended before it was done; None: it was done."""

    @property
    def name(self) -> str:
        """Model and extension."""
        return self.model if self.extension is None else f"{self.model} + {self.extension}"


def sentence(result: ContextResult, task: TaskResult) -> str:
    """The answer in one sentence. Where both ends are given, the confidence holds of each for itself."""
    sure = f"{task.confidence:.0%} confidence"
    what = f"{result.name}, {task.task.replace('_', ' ')}: effective context length"
    claim = f"claimed {result.claimed:,}"
    if task.state == "none":
        return f"{what} none ({sure}): it fails at {task.failed:,} tokens already; {claim}."
    if task.state == "at_least" and task.passed is not None:
        ratio = task.passed / result.claimed
        return (
            f"{what} at least {task.passed:,} tokens ({sure}), the longest that was asked; {claim}, "
            f"ratio {ratio:.2f} or more."
        )
    if task.passed is None:
        end = "" if task.failed is None else f", it is below {task.failed:,} tokens"
        return f"{what} undecided: nothing is certified yet{end}; {claim}."
    low = task.passed / result.claimed
    if task.failed is None:
        return f"{what} at least {task.passed:,} tokens ({sure}), undecided beyond; {claim}, ratio {low:.2f} or more."
    high = task.failed / result.claimed
    undecided = "" if task.state == "certified" else ", undecided in between"
    return (
        f"{what} {task.passed:,} to {task.failed:,} tokens ({sure} in each end{undecided}); {claim}, "
        f"ratio {low:.2f} to {high:.2f}."
    )


def threshold_words(task: TaskResult) -> str:
    """What the same answers say at other thresholds, in one line; nothing where they were not read."""
    if not task.thresholds:
        return ""
    return "at other thresholds: " + "; ".join(f"tau {at.tau:g} {_ends(at)}" for at in task.thresholds)


def _ends(at: AtThreshold) -> str:
    ends = [] if at.passed is None else [f"certified to {at.passed:,}"]
    ends += [] if at.failed is None else [f"fails at {at.failed:,}"]
    return ", ".join(ends) or "undecided"


def load_result(folder: Path) -> ContextResult:
    """The result kept in a folder. Raises FileNotFoundError, or ValueError for a damaged one."""
    path = folder / RESULT
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no {RESULT}; measure a model with diptych context MODEL --out {folder}"
        )
    try:
        result: ContextResult = _ADAPTER.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{path} is damaged: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return result


_ADAPTER: Any = TypeAdapter(ContextResult)


def binned(answers: Iterable[tuple[int, bool]], most: int = 16) -> tuple[DistanceBin, ...]:
    """Answers (distance, right) in at most `most` ranges whose ends grow by equal factors."""
    known = sorted(answers)
    if not known:
        return ()
    first, last = known[0][0], known[-1][0]
    step = max(math.log(last / first) / most, 1e-9) if last > first else 1.0
    bins: dict[int, list[tuple[int, bool]]] = {}
    for distance, right in known:
        bins.setdefault(min(most - 1, int(math.log(distance / first) / step)), []).append((distance, right))
    return tuple(
        DistanceBin(first=of[0][0], last=of[-1][0], right=sum(right for _, right in of), count=len(of))
        for _, of in sorted(bins.items())
    )
