"""How much of its context does a review's own model use? The command's measure and its other readings, in a minute."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from diptych.core.events import Handler, Message
from diptych.evaluation.context.local import LocalScorer
from diptych.evaluation.context.measure import Meter
from diptych.evaluation.context.readings import other_readings
from diptych.evaluation.context.result import ContextResult
from diptych.evaluation.context.study import Study, StudyConfig
from diptych.evaluation.context.subject import open_subject
from diptych.report.context_drawings import loss_curves
from diptych.report.results import ReviewResults

DOCUMENTS = 32
"""Held-out documents for the loss by context."""


def context_study(run: Path, seed: int, on_event: Handler) -> Study | None:
    """The model of a run folder, ready to be asked; None where its context cannot hold what is asked, which is said."""
    subject = open_subject(run)
    study = Study(
        name="The review's model",
        extension=None,
        claimed=subject.claimed,
        reach=subject.claimed,
        tokenizer=subject.tokenizer,
        opens=subject.opens,
        scorer=LocalScorer(subject.model),
        fingerprint=subject.fingerprint,
        readings=lambda: other_readings(
            subject, subject.model, longest=subject.claimed, most=DOCUMENTS, seed=seed, on_event=on_event
        ),
    )
    try:
        study.example(_asked(seed))
    except ValueError as error:
        on_event(Message(text=f"the effective context length is left out: {error}"))
        return None
    return study


def measure_effective_context(study: Study, out: Path, seed: int, on_event: Handler) -> ContextResult:
    """Ask it, keeping its answers in `out`. Raises KeyboardInterrupt where that ends."""
    result = study.run(_asked(seed), out, Meter(), on_event=on_event)
    if result.stopped is not None:
        raise KeyboardInterrupt
    return result


def _asked(seed: int) -> StudyConfig:
    return StudyConfig(style="pairs", seed=seed)


def review_drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """Loss by context of a review's model."""
    assert results.effective_context is not None
    return loss_curves(results.effective_context, narrow=narrow)
