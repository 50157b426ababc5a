"""How much of their context do a review's own model and a pretrained one use? The measure of `diptych context`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from diptych.core.events import Handler, Message
from diptych.evaluation.context.local_study import local_study
from diptych.evaluation.context.measure import Meter
from diptych.evaluation.context.readings import other_readings
from diptych.evaluation.context.result import ContextResult
from diptych.evaluation.context.study import STOPPED, Study, StudyConfig
from diptych.evaluation.context.subject import open_subject, positions_in_training
from diptych.report.context_curves import distance_curve, loss_curves
from diptych.report.context_map import depth_map
from diptych.report.results import ReviewResults
from diptych.training.distributed import choose_device

DOCUMENTS = 32
"""Held-out documents for the loss by context."""

PRETRAINED_SECONDS: Final = 600.0
"""How long a pretrained model may be asked; what is known then is the result."""


def context_study(run: Path, seed: int, on_event: Handler) -> Study | None:
    """The model of a run folder, ready to be asked; None where its context cannot hold what is asked, which is said."""
    subject = replace(open_subject(run), name="The review's model")
    study = local_study(
        subject,
        subject.model,
        None,
        readings=lambda: other_readings(
            subject, subject.model, longest=subject.claimed, most=DOCUMENTS, seed=seed, on_event=on_event
        ),
    )
    try:
        study.example(_in_pairs(seed))
    except ValueError as error:
        on_event(Message(text=f"the effective context length is left out: {error}"))
        return None
    return study


def measure_effective_context(study: Study, out: Path, seed: int, on_event: Handler) -> ContextResult:
    """Ask the review's own model, keeping its answers in `out`. Raises KeyboardInterrupt where that ends."""
    return _asked(study, _in_pairs(seed), out, Meter(), on_event)


def pretrained_study(path: Path, seed: int, on_event: Handler) -> Study:
    """A run folder, Hugging Face folder or GGUF file, ready to be asked.

    Raises ValueError where what is asked does not fit its context or its tokenizer, and as `open_subject` does.
    """
    subject = open_subject(path, device=choose_device("auto"))
    study = local_study(subject, subject.model, None, readings=lambda: (None, positions_in_training(subject, on_event)))
    try:
        study.example(StudyConfig(seed=seed))
    except ValueError as error:
        raise ValueError(
            f"{path} claims {study.claimed:,} tokens, and what is asked does not fit them or its tokenizer; give "
            "another model with --pretrained, or none"
        ) from error
    return study


def measure_pretrained_context(study: Study, out: Path, seed: int, on_event: Handler) -> ContextResult:
    """Ask a pretrained model for `PRETRAINED_SECONDS`, keeping its answers in `out`, in the wording that it answers
    best. Raises KeyboardInterrupt where that ends."""
    minutes = PRETRAINED_SECONDS / 60
    on_event(Message(text=f"asking {study.name} how much context it uses, for {minutes:.0f} minutes at most"))
    return _asked(study, StudyConfig(seed=seed), out, Meter(seconds=PRETRAINED_SECONDS), on_event)


def _asked(study: Study, config: StudyConfig, out: Path, meter: Meter, on_event: Handler) -> ContextResult:
    result = study.run(config, out, meter, on_event=on_event)
    if result.stopped == STOPPED["interrupted"]:
        raise KeyboardInterrupt
    return result


def _in_pairs(seed: int) -> StudyConfig:
    return StudyConfig(style="pairs", seed=seed)


def loss_drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """Loss by context of a review's model."""
    assert results.effective_context is not None
    return loss_curves(results.effective_context, narrow=narrow)


def training_drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """How often training showed the review's model each distance, over its accuracy by distance: table 5, right."""
    assert results.effective_context is not None
    return distance_curve(results.effective_context, results.effective_context.tasks[0], narrow=narrow)


def pretrained_map(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """Score of the pretrained model by depth and length."""
    assert results.pretrained_context is not None
    return depth_map(results.pretrained_context, results.pretrained_context.tasks[0], narrow=narrow)


def pretrained_distances(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """Accuracy of the pretrained model by distance."""
    assert results.pretrained_context is not None
    return distance_curve(results.pretrained_context, results.pretrained_context.tasks[0], narrow=narrow)
