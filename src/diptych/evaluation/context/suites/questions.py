"""How is a question hidden among documents? (RULER's qa_1 and qa_2)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from diptych.data.sources import json_records
from diptych.evaluation.context.suites.draft import Draft
from diptych.evaluation.context.suites.paragraphs import PAIRS
from diptych.evaluation.context.suites.text import Essay, repeated

PIECE = 60
"""Words of running text that make a further document, where a set has no more."""

FEWEST_TOKENS = 8
"""What a document takes at least."""

TEMPLATE = (
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
    "The following are given documents.\n\n{context}\n\n"
    "Answer the question based on the given documents. Only give me the answer and do not output any other words.\n\n"
    "Question: {question} Answer:"
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question, the documents that answer it, and the ways in which the answer may be worded."""

    question: str
    answers: tuple[str, ...]
    documents: tuple[str, ...]


SINGLE = tuple(
    chain.from_iterable(
        (
            Question(question=pair.ask_first, answers=(pair.answer_first,), documents=(pair.first,)),
            Question(question=pair.ask_second, answers=(pair.answer_second,), documents=(pair.second,)),
        )
        for pair in PAIRS
    )
)
"""Questions that one document answers."""

TWO_HOP = tuple(
    Question(question=pair.ask_both, answers=(pair.answer_both,), documents=(pair.first, pair.second)) for pair in PAIRS
)
"""Questions that need two documents."""


def read_questions(path: Path) -> tuple[Question, ...]:
    """JSON lines {"question": text, "answers": [text, ...], "context": text or [text, ...]}.

    Raises OSError for a missing file and ValueError naming a line that is none of these.
    """
    questions = tuple(_question(record, f"{path}, line {number}") for number, record in json_records(path))
    if not questions:
        raise ValueError(f"{path} holds no questions; give JSON lines with question, answers and context")
    return questions


def _question(record: Any, place: str) -> Question:
    fields = record if isinstance(record, dict) else {}
    question, answers, context = (_texts(fields.get(name)) for name in ("question", "answers", "context"))
    if len(question) != 1 or not answers or not context:
        raise ValueError(f"{place}: expected question (a text), answers and context (texts or lists of texts)")
    return Question(question=question[0], answers=answers, documents=context)


def _texts(value: Any) -> tuple[str, ...]:
    """A text or texts; nothing where it is neither, or any is empty."""
    texts = value if isinstance(value, list) else [value]
    return tuple(texts) if all(isinstance(text, str) and text.strip() for text in texts) else ()


def ask(rng: Random, length: int, question: Question, questions: Sequence[Question], essay: Essay) -> Draft:
    """n documents: those of the question, then those of other questions, then pieces of running text, shuffled."""
    others = sorted({document for one in questions for document in one.documents} - set(question.documents))
    rng.shuffle(others)
    start, order = rng.randrange(len(essay.words)), rng.randrange(2**32)
    most = len(question.documents) + length // FEWEST_TOKENS

    def build(n: int) -> str:
        documents = [*question.documents, *others][:n]
        words = repeated(essay.words, PIECE * (n - len(documents)), start)
        documents += [" ".join(words[at : at + PIECE]) for at in range(0, len(words), PIECE)]
        Random(order).shuffle(documents)
        context = "\n\n".join(f"Document {i}:\n{document}" for i, document in enumerate(documents, 1))
        return TEMPLATE.format(context=context, question=question.question)

    return Draft(
        build=build,
        low=len(question.documents),
        high=most,
        question=question.question,
        answers=question.answers,
        kind="any",
    )
