"""Which answer does a chat model write to questions about a context?

The context and a question make one message; its answer is written by always taking the most likely token, and the
first of the candidates to appear in it is what the model answers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import final

import torch

from diptych.core.random import Rng
from diptych.evaluation.context.local import fork, read, rights
from diptych.evaluation.context.types import Answers, Context
from diptych.models.cache import KeyValueCache
from diptych.models.language_model import LanguageModel
from diptych.nn.positions import check_reach
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest
from diptych.samplers.text import Generation, generate_text
from diptych.tokenizers.base import Tokenizer, end_of
from diptych.tokenizers.chat import ChatTemplate, conversation_ids
from diptych.tokenizers.streaming import StreamDecoder

ENDING = "\n\nAnswer with the missing word alone."
"""What a question to a chat model ends with: it stops where an answer begins, which is no message of its own."""


@final
class GenerationScorer:
    """A `Scorer`: 0 for the candidate that is named first in a generated answer, -inf for the others, for all where
    none is named.

    stop_ids: tokens besides the end of a document that end an answer. What the prompts of a context have in common is
    read once.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        *,
        stop_ids: tuple[int, ...] = (),
        max_new_tokens: int = 16,
    ) -> None:
        self.model, self.tokenizer, self.template = model, tokenizer, template
        self.stop_ids, self.max_new_tokens = stop_ids, max_new_tokens

    @property
    def overhead(self) -> int:
        """Tokens that the template, the ending and the answer add to a context and its question."""
        return len(self._prompt("")) + self.max_new_tokens

    @torch.inference_mode()
    def ask(self, context: Context) -> Answers:
        """Ask all probes of a context, each in a conversation of its own.

        Raises ValueError where prompt and answer are longer than the network's table of positions, or for a template
        that refuses the conversation.
        """
        prompts = [self._prompt(context.text + probe.question) for probe in context.probes]
        needed = max(map(len, prompts), default=0) + self.max_new_tokens
        check_reach(self.model.config, needed)
        shared = _common(prompts)
        cache = read(self.model, prompts[0][:shared], needed) if shared else self.model.new_cache(1, needed)
        tokens, scores = shared, []
        for prompt, probe in zip(prompts, context.probes, strict=True):
            answer = likeliest(
                self.model,
                self.tokenizer,
                prompt,
                self.max_new_tokens,
                stop_ids=self.stop_ids,
                cache=fork(cache),
            )
            tokens += len(prompt) - shared + len(answer.ids) - 1  # the last one written is not read
            scores.append(named_first(answer.text, probe.candidates))
        return Answers(scores=tuple(scores), right=rights(scores, context.probes), tokens=tokens)

    def _prompt(self, text: str) -> list[int]:
        return message(self.tokenizer, self.template, text + ENDING)


def message(tokenizer: Tokenizer, template: ChatTemplate, text: str) -> list[int]:
    """The prompt of a conversation of one message, up to where its answer begins. ValueError as the template's."""
    messages = [{"role": "user", "content": text}]
    prompt: list[int] = conversation_ids(tokenizer, template, messages, add_generation_prompt=True).tolist()
    return prompt


def likeliest(
    model: LanguageModel,
    tokenizer: Tokenizer,
    prompt: list[int],
    max_new_tokens: int,
    *,
    stop_ids: tuple[int, ...] = (),
    cache: KeyValueCache | None = None,
) -> Generation:
    """What follows a prompt where each token is the most likely one, up to the end of the document or a token of
    `stop_ids`. cache: holds what of the prompt has been read."""
    request = GenerationRequest(
        prompts=[prompt], max_new_tokens=max_new_tokens, eos_id=end_of(tokenizer), stop_ids=stop_ids
    )
    sampler = AutoregressiveSampler(temperature=0.0)
    (answer,) = generate_text(
        model, sampler, request, Rng(0), new_decoder=lambda: StreamDecoder(tokenizer), cache=cache
    )
    return answer


def named_first(text: str, candidates: Sequence[str]) -> tuple[float, ...]:
    """0 for the candidate that appears first in a text as a whole word, whatever its case; -inf for the others."""
    words = [candidate.strip() for candidate in candidates]
    by_length = sorted(words, key=len, reverse=True)  # "blue-green" is not "blue"
    any_word = "|".join(re.escape(word) for word in by_length)
    found = re.search(rf"(?<!\w)(?:{any_word})(?!\w)", text, re.IGNORECASE)
    named = None if found is None else found[0].casefold()
    return tuple(0.0 if word.casefold() == named else float("-inf") for word in words)


def _common(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens with which all prompts begin, at most all but the last of the shortest."""
    if not prompts:
        return 0
    most = min(map(len, prompts)) - 1
    columns = zip(*(prompt[:most] for prompt in prompts), strict=True)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
