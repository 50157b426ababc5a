"""Who goes on with a suite's prompts, and how long are they for him?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from diptych.core.random import derive_seed
from diptych.evaluation.context.generation import likeliest, message
from diptych.evaluation.context.server import Server
from diptych.evaluation.context.stand_in import StandInTokenizer
from diptych.evaluation.context.suites.run import Generate
from diptych.evaluation.context.suites.sample import Count, Sample, Suite, Table
from diptych.evaluation.context.words import SENTENCES
from diptych.models.language_model import LanguageModel
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.chat import ChatTemplate

Make = Callable[[Count], Suite]
"""A suite whose prompts are counted so."""

SHOWN: Final = 2000
"""Characters of a task's text by which a server's tokens are measured: sent twice, no more than any model reads."""

LONG_ENOUGH: Final = 4096
"""Tokens that hold a prompt of every task."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """A suite, and who goes on with its prompts. settings: what his texts depend on beside the weights, as JSON
    values."""

    suite: Suite
    generate: Generate
    settings: Mapping[str, Any]


def ask_model(
    make: Make,
    model: LanguageModel,
    tokenizer: Tokenizer,
    *,
    opens: bool,
    template: ChatTemplate | None = None,
    stop_ids: tuple[int, ...] = (),
) -> Asking:
    """A network here. opens: whether its texts begin with the tokenizer's opening token.

    template: makes a prompt the message of a conversation, to be answered; without one it is a text to go on with. The
    tokens of a prompt include those that either puts around it.
    """

    def ids(prompt: str) -> list[int]:
        if template is not None:
            return message(tokenizer, template, prompt)
        text = tokenizer.encode_list(prompt)
        return [tokenizer.opening_id, *text] if opens else text

    return Asking(
        suite=make(lambda prompt: len(ids(prompt))),
        generate=lambda prompt, most: likeliest(model, tokenizer, ids(prompt), most, stop_ids=stop_ids).text,
        settings={} if template is None else {"chat_template": derive_seed(template.source)},
    )


def ask_server(make: Make, server: Server) -> Asking:
    """A model behind a URL, which is asked at once how many tokens a byte the text of each task has.

    It goes on with a prompt as it is; where the server knows conversations alone, the prompt is a message of one. What
    is put around it there is not counted. Raises ValueError as `Server` does.
    """
    plain = _counting(server.calibrate([" ".join(SENTENCES)]))
    suite = make(plain)
    ratios = {task: server.calibrate([_middle(suite.sample(task, LONG_ENOUGH, 0).prompt)]) for task in suite.tasks}
    return Asking(
        suite=_ByTask({task: make(_counting(ratio)) for task, ratio in ratios.items()}, suite),
        generate=lambda prompt, most: server.reply(prompt, most).text,
        settings={"server": server.url, "model": server.model, "path": server.way.path, "tokens_per_byte": ratios},
    )


def _counting(tokens_per_byte: float) -> Count:
    tokenizer = StandInTokenizer(tokens_per_byte)
    return lambda text: len(tokenizer.encode_list(text))


def _middle(prompt: str) -> str:
    """Of the haystack, which is most of a long prompt."""
    start = max(0, (len(prompt) - SHOWN) // 2)
    return prompt[start : start + SHOWN]


@final
class _ByTask:
    """A suite each of whose tasks counts in its own way: codes have more tokens a byte than words. The rest is as in
    `other`."""

    def __init__(self, of: Mapping[str, Suite], other: Suite) -> None:
        self.of, self.other = of, other
        self.name, self.tasks, self.count, self.settings = other.name, other.tasks, other.count, other.settings

    def sample(self, task: str, length: int, index: int) -> Sample:
        """See `Suite`."""
        return self.of[task].sample(task, length, index)

    def score(self, sample: Sample, generated: str) -> float:
        """See `Suite`."""
        return self.other.score(sample, generated)

    def verdict(self, table: Table) -> tuple[str, ...]:
        """See `Suite`."""
        return self.other.verdict(table)
