"""What else is told of a model's context besides its effective length, and never merged with it?"""

from __future__ import annotations

from collections.abc import Sequence

from diptych.core.events import Handler, Message, ignore
from diptych.evaluation.context.result import Positions, Saturation
from diptych.evaluation.context.saturation import TARGETS, loss_saturation
from diptych.evaluation.context.subject import Subject, held_out_texts, positions_in_training
from diptych.models.language_model import LanguageModel

SHORTEST = 32
"""Tokens of context below which no loss by context is told."""


def other_readings(
    subject: Subject,
    model: LanguageModel,
    sources: Sequence[str] = (),
    *,
    longest: int,
    most: int,
    seed: int,
    on_event: Handler = ignore,
) -> tuple[Saturation | None, Positions | None]:
    """The loss of at most `most` documents after up to `longest` tokens, and how often training showed each distance.

    model: the subject's network, or that with an extension. sources: see `held_out_texts`. Each is None where there is
    nothing to tell it from; of the loss an event says why.
    """
    positions = positions_in_training(subject, on_event)
    longest = min(longest, model.config.max_length - TARGETS)
    recalls = subject.recipe is not None and subject.recipe.data.format == "recall"
    if longest < SHORTEST or (recalls and not sources):
        return None, positions
    texts = held_out_texts(subject, sources, longest + TARGETS, most, on_event)
    opening = subject.tokenizer.opening_id if subject.opens else None
    try:
        loss = loss_saturation(model, texts, longest=longest, opening=opening, seed=seed, on_event=on_event)
    except ValueError as error:
        on_event(Message(text=f"the loss by context is left out: {error}"))
        return None, positions
    return loss, positions
