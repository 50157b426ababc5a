"""What is measured when runs of both paradigms stand side by side, and how?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from diptych.core.recipe import differences
from diptych.evaluation.compare_curves import AXES, Curve, Overtaking, overtaking
from diptych.evaluation.compare_generation import GenerationScore, Unmask
from diptych.evaluation.compare_likelihood import HeldoutScore, RowScores, heldout_score
from diptych.evaluation.compare_runs import (
    Contender,
    paradigm_of,
    reservations,
    same_rows,
)
from diptych.models.cost import parameters_by_part
from diptych.training.prepare import MAY_CHANGE
from diptych.training.work import flops_per_target, positions_read

_SEEDS: Final = {"train.seed", *MAY_CHANGE} - {"train.steps"}
"""Keys in which runs of one recipe may differ; another number of steps is another schedule."""


@dataclass(frozen=True, kw_only=True)
class ComparisonConfig:
    """What is measured of which runs."""

    runs: tuple[str, ...]
    """Run folders."""
    judge: str | None = None
    """Who judges texts; None: the first autoregressive run."""
    rows: int | None = 128
    """Held-out rows to score; None: all."""
    draws: int = 8
    """Evaluations of a network for a row's bound."""
    batch_size: int = 16
    """Rows in a forward pass."""
    tokens_per_step: tuple[int, ...] = (1, 2, 4, 8)
    """Tokens that diffusion reveals in a step."""
    unmask: Unmask = "random"
    """Which tokens masked diffusion reveals: any, or the surest."""
    samples: int = 8
    """Texts that every run writes at every number of tokens a step."""
    length: int | None = None
    """Tokens of a text; None: the shortest of the runs' training lengths."""
    rounds: int = 3
    """Timings of each, taken in turns."""
    seed: int = 0
    """Seed of bounds, texts and resamples."""

    def __post_init__(self) -> None:
        if len(self.runs) < 2 or len(set(self.runs)) < len(self.runs):
            raise ValueError("name at least two different runs, as in: diptych compare runs/tiny runs/masked-diffusion")
        if min(self.batch_size, self.rounds, self.rows or 1, self.length or 1) < 1:
            raise ValueError("rows, batch_size, length and rounds must be at least 1")
        if self.samples < 2 or (self.rows or 2) < 2:
            raise ValueError("rows and samples must be at least 2: one alone tells no error")
        if self.draws < 4 or self.draws % 4:
            raise ValueError(f"draws={self.draws} must be a multiple of 4")
        rates = self.tokens_per_step
        if not rates or min(rates) < 1 or list(rates) != sorted(set(rates)):
            raise ValueError("tokens_per_step must be numbers from 1 on that rise")


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """What a run is, and what its training took."""

    run: str
    path: str
    paradigm: str
    parameters: int
    steps: int
    kept_step: int
    """Whose weights are measured: those of the best held-out score."""
    tokens: int
    """Targets seen."""
    epochs: float
    positions: int
    """That the network reads of a row."""
    row_targets: int
    flops_per_target: float
    flops: float
    """Of the whole training."""


@dataclass(frozen=True, kw_only=True)
class Reservation:
    """In what a run differs from the first one besides the paradigm."""

    run: str
    text: str


@dataclass(frozen=True, kw_only=True)
class TextOf:
    """What a run wrote at some number of tokens a step."""

    run: str
    tokens_per_step: int
    texts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ComparisonResult:
    """Runs side by side."""

    config: ComparisonConfig
    machine: str
    trained: tuple[TrainedRun, ...]
    reservations: tuple[Reservation, ...]
    reference: str | None
    """The first autoregressive run, to which differences are taken."""
    heldout: tuple[HeldoutScore, ...]
    curves: tuple[Curve, ...]
    overtakings: tuple[Overtaking, ...]
    judge: str
    judge_contends: bool
    """Whether the judge is one of the runs."""
    length: int
    """Tokens of a text."""
    generation: tuple[GenerationScore, ...]
    texts: tuple[TextOf, ...]


def trained_run(contender: Contender, name: str, *, steps: int, kept_step: int, tokens: int) -> TrainedRun:
    """What a run's training took. tokens: targets that it has seen."""
    config = contender.model.config
    each = flops_per_target(contender.run, config)
    return TrainedRun(
        run=name,
        path=str(contender.path),
        paradigm=paradigm_of(contender.run),
        parameters=sum(parameters_by_part(config).values()),
        steps=steps,
        kept_step=kept_step,
        tokens=tokens,
        epochs=tokens / epoch_tokens(contender),
        positions=positions_read(contender.run, config),
        row_targets=contender.length,
        flops_per_target=each,
        flops=each * tokens,
    )


def epoch_tokens(contender: Contender) -> int:
    """Targets in all rows of the training text."""
    return (contender.train.n_tokens - 1) // contender.length * contender.length


def all_reservations(contenders: list[Contender], trained: tuple[TrainedRun, ...]) -> tuple[Reservation, ...]:
    """In what each run differs from the first one, and what holds of a run by itself."""
    first, found = contenders[0], list[Reservation]()
    for contender, of in zip(contenders, trained, strict=True):
        if contender is not first:
            lines = reservations(first, contender, (trained[0].flops, of.flops))
            found += [Reservation(run=of.run, text=f"{line} (beside {trained[0].run})") for line in lines]
        if contender.run.data.document_mask:
            text = "never sees more than one document at once, in training and here (data.document_mask = true)"
            found.append(Reservation(run=of.run, text=text))
    return tuple(found)


def heldout_scores(
    contenders: list[Contender], names: list[str], rows: list[RowScores], reference: Contender | None
) -> tuple[HeldoutScore, ...]:
    """Scores of all runs, paired with those of the reference where their rows are the same text."""
    scores = []
    for contender, name, own in zip(contenders, names, rows, strict=True):
        pairs = reference is not None and contender is not reference and same_rows(reference, contender)
        beside = rows[contenders.index(reference)] if pairs and reference is not None else None
        scores.append(heldout_score(name, own, beside))
    return tuple(scores)


def all_overtakings(contenders: list[Contender], curves: tuple[Curve, ...], seed: int) -> tuple[Overtaking, ...]:
    """Of every recipe of diffusion over every recipe of autoregression, the seeds of a recipe together."""
    groups = list[tuple[Contender, list[Curve]]]()
    for contender, curve in zip(contenders, curves, strict=True):
        for first, members in groups:
            if set(differences(first.run, contender.run)) <= _SEEDS:
                members.append(curve)
                break
        else:
            groups.append((contender, [curve]))
    return tuple(
        overtaking(ours, theirs, axis, seed=seed)
        for first, ours in groups
        if not first.is_autoregressive
        for second, theirs in groups
        if second.is_autoregressive
        for axis in AXES
    )
