"""What does RULER ask, and which effective length does its own rule give? (Hsieh et al. 2024, arXiv 2404.06654)

The 13 tasks with their published prompts and parameters. Other than there: essays are not Paul Graham's, and the
questions of qa_1 and qa_2 are not those of SQuAD and HotpotQA unless these are given; keys of needles differ from one
another; what is asked has one right answer; how an answer begins ends the message of a conversation, and does not open
the model's turn; and a length too short for a task is refused, not tried for ever.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final, final

from diptych.core.random import derive_seed
from diptych.evaluation.context.suites.aggregation import common_words, frequent_words, track
from diptych.evaluation.context.suites.draft import Draft, fitted
from diptych.evaluation.context.suites.needles import NEEDLES, hide
from diptych.evaluation.context.suites.questions import SINGLE, TWO_HOP, Question, ask
from diptych.evaluation.context.suites.sample import Count, Sample, Table, check_task
from diptych.evaluation.context.suites.text import Essay

TOKENS_TO_GENERATE: Final = {
    **dict.fromkeys(NEEDLES, 128),
    "vt": 30,
    "cwe": 120,
    "fwe": 50,
    "qa_1": 32,
    "qa_2": 32,
}
"""Of each task, counted into the length."""

THRESHOLD = 0.856
"""Score of Llama-2-7B-chat at 4K, which the mean over tasks has to reach at an effective length."""


@final
class Ruler:
    """RULER's tasks over an essay. single, two_hop: what qa_1 and qa_2 ask. Lengths are in tokens that `count` counts
    and include those to generate."""

    name = "RULER"
    tasks = tuple(TOKENS_TO_GENERATE)

    def __init__(
        self,
        count: Count,
        essay: Essay,
        *,
        single: Sequence[Question] = SINGLE,
        two_hop: Sequence[Question] = TWO_HOP,
        seed: int = 42,
    ) -> None:
        self.count = count
        self.essay = essay
        self.questions = {"qa_1": tuple(single), "qa_2": tuple(two_hop)}
        self.seed = seed

    @property
    def settings(self) -> dict[str, Any]:
        """See `Suite`."""
        digests = {task: derive_seed(repr(questions)) for task, questions in self.questions.items()}
        return {"suite": self.name, "seed": self.seed, "essay": self.essay.name, **digests}

    def sample(self, task: str, length: int, index: int) -> Sample:
        """See `Suite`. A question whose own documents are too long for the length is passed over for the next."""
        check_task(self.name, self.tasks, task)
        rng, tokens = Random(derive_seed(self.seed, task, length, index)), TOKENS_TO_GENERATE[task]
        if task in NEEDLES:
            draft = hide(rng, length, NEEDLES[task], self.essay)
        elif task == "vt":
            draft = track(rng, length - tokens, self.count)
        elif task == "cwe":
            draft = common_words(rng, length, tokens, self.count)
        elif task == "fwe":
            draft = frequent_words(rng, length, tokens)
        else:
            draft = self._ask(rng, task, length - tokens, index)
        return fitted(draft, self.count, tokens, task=task, length=length, index=index)

    def _ask(self, rng: Random, task: str, limit: int, index: int) -> Draft:
        questions = self.questions[task]
        order = Random(derive_seed(self.seed, task)).sample(questions, len(questions))
        for step in range(len(order)):
            draft = ask(rng, limit, order[(index + step) % len(order)], questions, self.essay)
            if self.count(draft.build(draft.low)) <= limit:
                break
        return draft

    def score(self, sample: Sample, generated: str) -> float:
        """The share of the answers that stand in the text, in whichever case; of qa_1 and qa_2 1 if any does."""
        text = generated.lower()
        found = [answer.lower() in text for answer in sample.answers]
        return float(any(found)) if sample.kind == "any" else sum(found) / len(found)

    def verdict(self, table: Table) -> tuple[str, ...]:
        """RULER's effective length in a sentence."""
        if set(table.tasks) != set(self.tasks):
            return (
                f"RULER gives no effective length: its mean is over {len(self.tasks)} tasks, not {len(table.tasks)}.",
            )
        rule = f"the longest length with a mean over 13 tasks of at least {THRESHOLD:.1%}, by RULER's own rule"
        length = effective_length(table)
        if length is None:
            return (f"RULER's effective length: below {min(table.lengths):,} tokens ({rule}).",)
        more = " or more" if length == max(table.lengths) else ""
        return (f"RULER's effective length: {length:,} tokens{more} ({rule}).",)


def effective_length(table: Table) -> int | None:
    """The longest length whose mean reaches `THRESHOLD`, whatever the shorter ones do; None where none does."""
    return max((mean.length for mean in table.means if mean.mean >= THRESHOLD), default=None)
