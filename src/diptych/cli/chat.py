"""`diptych chat MODEL`: talk with a model that has learnt to."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from diptych.cli.common import ModelOptions, language_model, open_language_model, parse

if TYPE_CHECKING:
    from diptych.checkpoints.open import OpenedModel
    from diptych.samplers.text import Generation

DESCRIPTION = """Talk with a model. Its own chat template makes the prompt; a model without one is asked in ChatML.

At the prompt, Ctrl-C ends an answer and keeps the conversation, /reset begins another, and Ctrl-D or /exit leaves.

examples:
  diptych chat SmolLM2-135M-Instruct.gguf
  diptych chat my/folder --system "You answer in one sentence." --temperature 0
  diptych chat model.gguf --message "What is a sine?" --message "And a cosine?" --json
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych chat`."""

    model: tyro.conf.Positional[str]
    """A run folder, a Hugging Face folder, or a GGUF file."""
    system: str | None = None
    """What the model is told before the conversation."""
    message: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Answer this and exit; given several times, each in turn."""
    max_new_tokens: int = 512
    """Longest answer in tokens."""
    temperature: float = 0.7
    """0 takes the most likely token; 1 draws from the model's own distribution."""
    top_k: int | None = None
    """Draw among the k most likely tokens."""
    top_p: float | None = 0.95
    """Draw among the most likely tokens that together reach this probability."""
    repetition_penalty: float = 1.0
    """Above 1, tokens that have occurred become less likely."""
    seed: int = 0
    """Seed of the draws."""
    json: bool = False
    """One JSON object an answer: message, answer, ids, reason of its end; needs --message."""
    options: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)


def main(arguments: list[str]) -> int:
    """Parse, open, answer."""
    options = parse(Options, arguments, "chat", DESCRIPTION)
    if options.json and not options.message:
        raise ValueError("--json needs --message: an interactive conversation is not written as JSON")
    if options.max_new_tokens < 1:
        raise ValueError("--max-new-tokens must be at least 1")
    opened = open_language_model(options.model, options.options)
    if opened.chat_template is None:
        print("the model has no chat template; it is asked in ChatML", file=sys.stderr)
    conversation = Conversation(options, opened)
    return _answer_all(options, conversation) if options.message else _talk(conversation)


class Conversation:
    """What was said, and the keys and values of it that the model has read."""

    def __init__(self, options: Options, opened: OpenedModel) -> None:
        from diptych.tokenizers.base import end_of
        from diptych.tokenizers.chat import DEFAULT_SPECIAL_TOKENS, template_of

        self.options, self.opened, self.model = options, opened, language_model(opened)
        self.tokenizer, self.eos_id = opened.tokenizer, end_of(opened.tokenizer)
        self.template = template_of(opened.tokenizer, opened.chat_template)
        self.stop_ids, self.stops = opened.stop_ids, tuple[str, ...]()
        if opened.chat_template is None:
            end = DEFAULT_SPECIAL_TOKENS[1]
            token = opened.tokenizer.special_tokens.get(end)
            self.stop_ids += () if token is None else (token,)
            self.stops = () if token is not None else (end,)
        self.turn = 0
        self.reset()

    def reset(self) -> None:
        """Forget all that was said but the system's word."""
        system = self.options.system
        self.messages: list[dict[str, str]] = [] if system is None else [{"role": "system", "content": system}]
        self.known: list[int] = []
        self.cache: Any = None

    def answer(self, text: str, on_text: Callable[[str], None]) -> Generation:
        """Ask; `on_text` gets the answer as it comes, and what was said becomes part of the conversation.

        Raises ValueError where the conversation does not fit into the model's context, and leaves it as it was.
        """
        from diptych.core.random import Rng
        from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest
        from diptych.samplers.text import generate_text
        from diptych.tokenizers.chat import conversation_ids
        from diptych.tokenizers.streaming import StreamDecoder

        options = self.options
        asked = [*self.messages, {"role": "user", "content": text}]
        prompt = conversation_ids(self.tokenizer, self.template, asked, add_generation_prompt=True).tolist()
        room = self._room(prompt)
        sampler = AutoregressiveSampler(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            repetition_penalty=options.repetition_penalty,
        )
        request = GenerationRequest(prompts=[prompt], max_new_tokens=room, eos_id=self.eos_id, stop_ids=self.stop_ids)
        self._make_room(prompt, room)
        shown: list[str] = []

        def show(row: int, part: str) -> None:
            del row
            shown.append(part)
            on_text(part)

        try:
            (generation,) = generate_text(
                self.model,
                sampler,
                request,
                Rng(options.seed).fold("turn", self.turn),
                new_decoder=lambda: StreamDecoder(self.tokenizer),
                stops=self.stops,
                on_text=show,
                cache=self.cache,
            )
        except BaseException:
            self.known, self.cache = [], None  # an answer that was cut off: what the cache holds is not certain
            self._say(asked, "".join(shown))
            raise
        self.known = [*prompt, *generation.ids][: self.cache.longest]
        self._say(asked, generation.text)
        return generation

    def _say(self, asked: list[dict[str, str]], answer: str) -> None:
        self.messages = [*asked, {"role": "assistant", "content": answer}]
        self.turn += 1

    def _room(self, prompt: list[int]) -> int:
        """How many tokens an answer may have. Raises ValueError where there is room for none."""
        context = self.model.config.max_length
        room = min(self.options.max_new_tokens, context - len(prompt))
        if room < 1:
            raise ValueError(
                f"the conversation has {len(prompt):,} tokens, and the model's context {context:,}; "
                "begin another (/reset), or say less"
            )
        return room

    def _make_room(self, prompt: list[int], room: int) -> None:
        """A cache that holds what of the prompt was read before, and has room for the rest and the answer."""
        import torch

        common = 0
        while common < min(len(self.known), len(prompt) - 1) and self.known[common] == prompt[common]:
            common += 1
        needed = len(prompt) + room
        if self.cache is not None and not self.cache.is_whole and common < self.cache.longest:
            self.cache, common = None, 0  # what it holds cannot be cut
        if self.cache is None or self.cache.max_length < needed:
            kept = self.cache if common else None
            self.cache = self.model.new_cache(1, min(2 * needed, max(needed, self.model.config.max_length)))
            if kept is not None:
                self.cache.keys[..., :common, :] = kept.keys[..., :common, :]
                self.cache.values[..., :common, :] = kept.values[..., :common, :]
        self.cache.set_lengths(torch.tensor([common]))


def _answer_all(options: Options, conversation: Conversation) -> int:
    """Each message in turn. Answers stream; as JSON each is one line."""
    for message in options.message:
        generation = conversation.answer(message, _ignore if options.json else _write)
        if options.json:
            record = {"message": message, "answer": generation.text, "ids": generation.ids, "reason": generation.reason}
            print(json.dumps(record, ensure_ascii=False), flush=True)
        else:
            print()
    return 0


def _talk(conversation: Conversation) -> int:
    """Read, answer, again."""
    with contextlib.suppress(ModuleNotFoundError):
        import readline  # noqa: F401  # lines can be edited and called back
    while True:
        try:
            text = input("> ").strip()
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print("\n(Ctrl-D or /exit leaves)", file=sys.stderr)
            continue
        if text == "/exit":
            return 0
        if text == "/reset":
            conversation.reset()
        elif text:
            _answer_one(conversation, text)


def _answer_one(conversation: Conversation, text: str) -> None:
    try:
        conversation.answer(text, _write)
        print()
    except KeyboardInterrupt:
        print(" (stopped)")
    except ValueError as error:
        print(f"diptych: {error}", file=sys.stderr)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _ignore(text: str) -> None:
    del text
