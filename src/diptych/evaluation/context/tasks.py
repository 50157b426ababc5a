"""Which tasks measure the effective context length?"""

from __future__ import annotations

from typing import Literal, get_args

from diptych.evaluation.context.chain import Chain
from diptych.evaluation.context.classification import Classification
from diptych.evaluation.context.fifths import FifthsTask, Form
from diptych.evaluation.context.filler import Filler, Haystack, Sentences
from diptych.evaluation.context.frequency import FrequencyTask
from diptych.evaluation.context.lexicon import Lexicon, lexicon_of
from diptych.evaluation.context.pieces import Writer
from diptych.evaluation.context.retrieval import MultiKey, SingleKey
from diptych.evaluation.context.types import Task
from diptych.evaluation.context.wording import Style, wording_of, words_of
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.simple import WordTokenizer

TaskName = Literal["single_key", "multi_key", "chain", "frequency", "classification"]

TASKS: tuple[TaskName, ...] = get_args(TaskName)
"""`single_key`: one needle in each fifth. `multi_key`: eight in each, all asked for. `chain`: what refers to what.
`frequency`: what stood most often. `classification`: classes learnt from demonstrations in the context."""


def build_task(
    name: TaskName, tokenizer: Tokenizer, style: Style = "sentences", seed: int = 0, opens: bool = False
) -> Task:
    """The task, its contexts written for this tokenizer. opens: begin with the token that opens a document.

    Raises ValueError for a name or style that there is not, a tokenizer that cannot express enough different words or
    does not give texts back as they were, and where `opens` asks for a token that it does not have.
    """
    writer, wording = Writer(tokenizer), wording_of(style)
    lexicon = lexicon_of(writer, words_of(wording))
    filler = _filler(writer, lexicon, style)
    opening = tokenizer.opening_id if opens else None

    def in_fifths(form: Form) -> Task:
        return FifthsTask(
            name=name, form=form, writer=writer, lexicon=lexicon, filler=filler, seed=seed, opening=opening
        )

    task: Task
    match name:
        case "single_key":
            task = in_fifths(SingleKey(writer, wording))
        case "multi_key":
            task = in_fifths(MultiKey(writer, wording))
        case "chain":
            task = in_fifths(Chain(writer, wording))
        case "classification":
            task = in_fifths(Classification(writer, wording))
        case "frequency":
            task = FrequencyTask(
                name=name,
                writer=writer,
                wording=wording,
                lexicon=lexicon,
                filler=filler,
                seed=seed,
                opening=opening,
            )
        case _:
            raise ValueError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
    _check_joined(task, tokenizer, opens)
    return task


def _filler(writer: Writer, lexicon: Lexicon, style: Style) -> Filler:
    """The vocabulary's words, or the haystack that small models are trained on; whole sentences else."""
    bare = style == "pairs" or isinstance(writer.tokenizer, WordTokenizer)
    return Haystack(lexicon.filler) if bare and lexicon.filler else Sentences(writer)


def _check_joined(task: Task, tokenizer: Tokenizer, opens: bool) -> None:
    """Tokenizers that decode a token by its neighbours need not give back what they gave back in parts."""
    context = task.context(task.shortest, 0)
    probe = context.probes[0]
    if tokenizer.decode([*context.ids[opens:], *probe.question_ids]) != context.text + probe.question:
        raise ValueError("the tokenizer does not give texts back as they were; the tasks need one that loses nothing")
