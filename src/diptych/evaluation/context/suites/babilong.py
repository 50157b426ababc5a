"""What does BABILong ask, and how good is good by its own rule? (Kuratov et al. 2024, arXiv 2406.10149)

Its first five tasks, one form of prompt for all models, and its comparison of answers. Other than there: stories are
told anew, the text around them is not from books, and lengths include the instructions and what is generated.
"""

from __future__ import annotations

from random import Random
from typing import Any, Final, NamedTuple, final

from diptych.core.random import derive_seed
from diptych.evaluation.context.suites.babi import GIVERS, ROOMS, STORIES, THINGS
from diptych.evaluation.context.suites.draft import Draft, fitted
from diptych.evaluation.context.suites.sample import Count, Sample, Table, check_task, count_alone
from diptych.evaluation.context.suites.text import Essay, repeated, spread

TOKENS_TO_GENERATE = 15
"""Fewest; as many as the longest answer in the form that is asked for takes, where a tokenizer needs more for it."""

SATISFACTORY = 0.85
FAILURE = 0.3
"""Mean scores above and below which BABILong calls a model's result so."""

TEMPLATE = "{instruction}\n{examples}\n{form}\n<context>\n{context}\n</context>\nQuestion: {question}"

LABELS: Final = {**dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), ROOMS), "qa5": (*GIVERS, *THINGS)}
"""The words that answer a task's questions."""


class Prompt(NamedTuple):
    """What is said around a task's context: instruction, examples (story and question, answer), the answer's form, and
    the longest answer of this form."""

    instruction: str
    examples: tuple[tuple[str, str], ...]
    form: str
    longest: str


_ITEMS = (
    "I will give you context with the facts about locations and actions of different persons hidden in some random "
    "text and a question. You need to answer the question based only on the information from the facts. If a person "
    "got an item in the first location and travelled to the second location the item is also in the second location. "
    "If a person dropped an item in the first location and moved to the second location the item remains in the first "
    "location."
)

_FACTS = (
    "I will give you context with the facts about {what} hidden in some random text and a question. You need to answer "
    "the question based only on the information from the facts."
)

_WORD = "Your answer should contain only one word{kind}. Do not write anything else after that."

PROMPTS: Final = {
    "qa1": Prompt(
        _FACTS.format(what="positions of different persons")
        + " If a person was in different locations, use the latest location to answer the question.",
        (
            (
                "Paul moved to the cellar. Nina went to the attic. Where is Paul?",
                "The most recent location of Paul is cellar.",
            ),
            (
                "Nina travelled to the porch. Paul went to the attic. Nina moved to the cellar. Where is Nina?",
                "The most recent location of Nina is cellar.",
            ),
        ),
        "Always return your answer in the following format: The most recent location of 'person' is 'location'. Do not "
        "write anything else after that.",
        "The most recent location of Sandra is bathroom.",
    ),
    "qa2": Prompt(
        _ITEMS,
        (
            (
                "Paul went to the attic. Paul got a lamp. Paul moved to the porch. Where is the lamp?",
                "The lamp is in the porch.",
            ),
            (
                "Nina moved to the cellar. Nina took the rope. Nina dropped the rope. Nina went to the attic. Where is "
                "the rope?",
                "The rope is in the cellar.",
            ),
        ),
        "Always return your answer in the following format: The 'item' is in the 'location'. Do not write anything "
        "else after that.",
        "The football is in the bathroom.",
    ),
    "qa3": Prompt(
        _ITEMS,
        (
            (
                "Paul went to the attic. Nina grabbed the lamp. Nina moved to the porch. Nina travelled to the cellar. "
                "Where was the lamp before the cellar?",
                "Before the cellar the lamp was in the porch.",
            ),
            (
                "Paul went to the porch. Paul took the rope. Paul went to the attic. Paul dropped the rope. Paul went "
                "to the cellar. Where was the rope before the attic?",
                "Before the attic the rope was in the porch.",
            ),
        ),
        "Always return your answer in the following format: Before the 'location_1' the 'item' was in the "
        "'location_2'. Do not write anything else after that.",
        "Before the bathroom the football was in the hallway.",
    ),
    "qa4": Prompt(
        _FACTS.format(what="locations and their relations"),
        (
            (
                "The attic is south of the porch. The cellar is north of the porch. What is the porch south of?",
                "cellar",
            ),
            ("The porch is west of the attic. The attic is west of the cellar. What is west of the attic?", "porch"),
        ),
        _WORD.format(kind=" - location"),
        "bathroom",
    ),
    "qa5": Prompt(
        _FACTS.format(what="different persons and their actions"),
        (
            ("Nina took the lamp there. Nina gave the lamp to Paul. Who did Nina give the lamp to?", "Paul"),
            ("Paul got the rope. Paul handed the rope to Nina. Nina went to the attic. Who gave the rope?", "Paul"),
            ("Nina picked up the lamp. Nina passed the lamp to Paul. What did Nina give to Paul?", "lamp"),
        ),
        _WORD.format(kind=""),
        "football",
    ),
}


@final
class Babilong:
    """BABILong's tasks in an essay. A task's stories are the same at every length."""

    name = "BABILong"
    tasks = tuple(STORIES)

    def __init__(self, count: Count, essay: Essay, *, seed: int = 42) -> None:
        self.count = count
        self.essay = essay
        self.seed = seed

    @property
    def settings(self) -> dict[str, Any]:
        """See `Suite`."""
        return {"suite": self.name, "seed": self.seed, "essay": self.essay.name}

    def sample(self, task: str, length: int, index: int) -> Sample:
        """See `Suite`. Facts keep their order; each gap between sentences is as likely to hold one."""
        check_task(self.name, self.tasks, task)
        rng = Random(derive_seed(self.seed, task, index))
        story, prompt = STORIES[task](rng), PROMPTS[task]
        shares = sorted(rng.random() for _ in story.facts)
        start = rng.randrange(len(self.essay.sentences))
        examples = "\n\n".join(f"<example>\n{asked}\nAnswer: {answer}\n</example>" for asked, answer in prompt.examples)

        def build(n: int) -> str:
            around = repeated(self.essay.sentences, n, start)
            return TEMPLATE.format(
                instruction=prompt.instruction,
                examples=examples,
                form=prompt.form,
                context=" ".join(spread(story.facts, around, [int((n + 1) * share) for share in shares])),
                question=story.question,
            )

        draft = Draft(build=build, low=0, high=length, question=story.question, answers=(story.answer,), kind="label")
        tokens = max(TOKENS_TO_GENERATE, count_alone(self.count, f"\nAnswer: {prompt.longest}"))
        return fitted(draft, self.count, tokens, task=task, length=length, index=index)

    def score(self, sample: Sample, generated: str) -> float:
        """1 where the answer stands in the first sentence and no other label of the task does, those of the question
        apart; in whichever case."""
        first = generated.lower().split(".")[0].split("<context>")[0].split("<example>")[0]
        question = sample.question.lower()
        labels = {label.lower() for label in LABELS[sample.task]}
        found = {label for label in labels if label in first and label not in question}
        return float(found == {sample.answers[0].lower()})

    def verdict(self, table: Table) -> tuple[str, ...]:
        """How each length is by BABILong's thresholds."""
        return tuple(
            f"{mean.length:,} tokens: {mean.mean:.0%}, {grade(mean.mean)} (BABILong's thresholds: above "
            f"{SATISFACTORY:.0%} satisfactory, below {FAILURE:.0%} failure)"
            for mean in table.means
        )


def grade(score: float) -> str:
    """BABILong's word for a mean score in [0, 1]."""
    if score > SATISFACTORY:
        return "satisfactory"
    return "failure" if score < FAILURE else "neither satisfactory nor failure"
