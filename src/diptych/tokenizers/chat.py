"""How does a conversation become a prompt? By a template that the model was trained with.

A template is Jinja source that comes with a checkpoint, so it is foreign code: it runs in Jinja's sandbox, for a
bounded time and with bounded memory, and what it raises becomes one line. Functions, filters and white space are those
of Hugging Face's chat templates, so that the text is the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, NoReturn, final

import numpy as np
from numpy.typing import NDArray

from diptych.tokenizers.base import Ids, Tokenizer
from diptych.tokenizers.bounded import bounded
from diptych.tokenizers.vocabulary import any_of

DEFAULT_TEMPLATE = """{% for message in messages %}\
<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}\
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""ChatML, for a model that has learnt no other."""

DEFAULT_SPECIAL_TOKENS = ("<|im_start|>", "<|im_end|>")
"""What ChatML is written in, for a tokenizer that is yet to be learnt."""

LONGEST, SECONDS, MEMORY = 10_000_000, 10.0, 1 << 30
"""Characters of a prompt; the time and the bytes that a template may take for it."""

_MOST_BITS = 1 << 14

Message = Mapping[str, Any]
"""A message: its `role` (system, user, assistant) and its `content`."""


@final
@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """Jinja source that writes conversations. bos, eos: the text of the tokens that it may name."""

    source: str
    bos: str | None = None
    eos: str | None = None

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """The text of a conversation, with the beginning of an answer where `add_generation_prompt` says so.

        Raises ValueError in one line for a template that is no Jinja, refuses the conversation, or takes too much.
        """
        import jinja2

        names = {"bos_token": self.bos, "eos_token": self.eos}
        compiled = self._compiled
        try:
            with bounded(SECONDS, MEMORY):
                text: str = compiled.render(
                    messages=[dict(message) for message in messages],
                    add_generation_prompt=add_generation_prompt,
                    tools=None,
                    documents=None,
                    **{name: text for name, text in names.items() if text is not None},
                )
        except TimeoutError:
            raise ValueError(f"the chat template takes longer than {SECONDS:.0f} seconds") from None
        except (MemoryError, OverflowError):
            raise ValueError("the chat template builds more than memory may hold") from None
        except jinja2.TemplateError as error:
            raise ValueError(f"the chat template refuses this conversation: {_brief(error)}") from None
        except (Exception, RecursionError) as error:  # whatever the template's own code runs into
            raise ValueError(f"the chat template fails: {type(error).__name__}, {_brief(error)}") from None
        if len(text) > LONGEST:
            raise ValueError(f"the chat template writes {len(text):,} characters, more than {LONGEST:,}")
        return text

    @cached_property
    def _compiled(self) -> Any:
        import jinja2

        try:
            with bounded(SECONDS, MEMORY):  # constants are computed here
                return _environment().from_string(self.source)
        except (jinja2.TemplateError, RecursionError, SyntaxError, ArithmeticError, ValueError, MemoryError) as error:
            raise ValueError(f"the chat template is no Jinja that is understood: {_brief(error)}") from None


def template_of(tokenizer: Tokenizer, source: str | None) -> ChatTemplate:
    """The template of a model; None: ChatML. The tokenizer's opening and end tokens are what it may name."""
    opening = getattr(tokenizer, "bos", None) or getattr(tokenizer, "eos", None)
    return ChatTemplate(source=source or DEFAULT_TEMPLATE, bos=opening, eos=getattr(tokenizer, "eos", None))


def conversation_ids(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], add_generation_prompt: bool = False
) -> Ids:
    """Ids of a conversation, int32. Special tokens in it are the tokens; whether one opens it the template decides."""
    return tokenizer.encode(template.render(messages, add_generation_prompt), allowed_special="all")


def answer_mask(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message]
) -> tuple[Ids, NDArray[np.bool_]]:
    """(ids (t,), counted (t,)) of a conversation: `counted` marks the tokens that the assistant writes.

    These are the tokens of its answers and of what ends each of them; of the text that the template writes around them
    only what a model must write itself. An answer begins where the prompt of the conversation before it ends; a token
    that reaches from the one into the other counts. Raises ValueError for a template that writes earlier turns
    differently in a longer conversation, or does not write answers as they are.
    """
    whole = template.render(messages)
    ids = tokenizer.encode(whole, allowed_special="all")
    counted = np.zeros(len(ids), np.bool_)
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            start, end = _answer(tokenizer, template, messages, number, whole)
            first, last = (_common(tokenizer, whole[:place], ids) for place in (start, end))
            counted[first:last] = True
    return ids, counted


def _answer(
    tokenizer: Tokenizer, template: ChatTemplate, messages: Sequence[Message], number: int, whole: str
) -> tuple[int, int]:
    """Where in the text the answer of a message begins, and where what ends it does."""
    prompt = template.render(messages[:number], add_generation_prompt=True)
    content = str(message_text(messages[number])).strip()
    at = whole.find(content, len(prompt)) if whole.startswith(prompt) else -1
    if at < 0:
        raise ValueError(
            f"the chat template writes message {number + 1} differently within the whole conversation, so that its "
            "answers cannot be told from the rest; train with another template, or on conversations of one answer"
        )
    at += len(content)
    special = tokenizer.special_tokens
    if special and (found := any_of(special.keys()).search(whole, at)):
        return len(prompt), found.end()
    through = template.render(messages[: number + 1])
    return len(prompt), len(through) if whole.startswith(through) else at


def message_text(message: Message) -> str:
    """What a message says. Raises ValueError for one whose content is no text."""
    content = message.get("content")
    if not isinstance(content, str):
        raise ValueError(f"a message's content must be text, not {type(content).__name__}")
    return content


def _common(tokenizer: Tokenizer, beginning: str, ids: Ids) -> int:
    """How many tokens a beginning of the text and the whole text have in common."""
    part = tokenizer.encode(beginning, allowed_special="all")[: len(ids)]
    differing = np.flatnonzero(part != ids[: len(part)])
    return int(differing[0]) if differing.size else len(part)


def _environment() -> Any:
    """Jinja as transformers sets it up for chat templates."""
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """{% generation %} marks an answer; the text within stands as it is."""

        tags = {"generation"}  # noqa: RUF012  # Jinja's own way

        def parse(self, parser: Any) -> Any:
            """The statements up to the end of the block."""
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body).set_lineno(line)

    class Environment(ImmutableSandboxedEnvironment):
        """A sandbox in which no number grows so large that one operation on it does not end."""

        intercepted_binops = frozenset(["*", "**"])

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            """The product or power. Raises OverflowError for whole numbers of thousands of digits."""
            if isinstance(left, int) and isinstance(right, int):
                factor = right if operator == "**" else 1
                if left.bit_length() * max(1, factor) + right.bit_length() > _MOST_BITS:
                    raise OverflowError("a number is too large")
            return super().call_binop(context, operator, left, right)

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: object) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(str(message))


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
