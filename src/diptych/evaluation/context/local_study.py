"""How does a model on the disk become a study?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from diptych.evaluation.context.generation import GenerationScorer
from diptych.evaluation.context.local import LocalScorer
from diptych.evaluation.context.result import Positions, Saturation
from diptych.evaluation.context.study import Study
from diptych.evaluation.context.subject import Subject
from diptych.evaluation.context.types import Scorer
from diptych.models.language_model import LanguageModel
from diptych.tokenizers.chat import template_of

AnswersBy = Literal["likelihood", "written"]
"""How a model answers: its answers are ranked by their likelihood, or read from what it writes."""


def local_study(
    subject: Subject,
    model: LanguageModel,
    extension: str | None,
    *,
    answers: AnswersBy = "likelihood",
    readings: Callable[[], tuple[Saturation | None, Positions | None]],
) -> Study:
    """A subject ready to be asked.

    model: its network as it is, or with the extension that `extension` names. readings: see `Study`. Raises ValueError
    where answers are to be written by a model without a chat template.
    """
    scorer: Scorer = LocalScorer(model)
    overhead = 0
    if answers == "written":
        if subject.chat_template is None:
            raise ValueError(f"{subject.path} has no chat template; leave out --answers written")
        template = template_of(subject.tokenizer, subject.chat_template)
        scorer = writer = GenerationScorer(model, subject.tokenizer, template, stop_ids=subject.stop_ids)
        overhead = writer.overhead
    return Study(
        name=subject.name,
        extension=extension,
        claimed=subject.claimed,
        reach=model.config.max_length,
        tokenizer=subject.tokenizer,
        opens=subject.opens and not overhead,
        scorer=scorer,
        fingerprint=f"{subject.fingerprint} {answers} {model.unembedding.dtype}",
        overhead=overhead,
        readings=readings,
    )
