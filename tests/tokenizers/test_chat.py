"""Are chat templates rendered as transformers renders them, hostile ones bounded, and answers told from the rest?"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.tokenizers import chat
from diptych.tokenizers.bounded import bounded
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.chat import (
    DEFAULT_SPECIAL_TOKENS,
    DEFAULT_TEMPLATE,
    ChatTemplate,
    answer_mask,
    conversation_ids,
    template_of,
)
from diptych.tokenizers.hugging_face_folder import save_hugging_face
from diptych.tokenizers.simple import ByteTokenizer
from diptych.tokenizers.splitting import Split

from .conftest import TEXTS

LLAMA3 = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today: " + (strftime_now("%Y") if strftime_now is defined else "26") + "\\n\\n" }}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

QWEN3 = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == "user" or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate user/assistant') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- else %}
        {{- " " + message["content"] + eos_token }}
    {%- endif %}
{%- endfor %}"""

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n'"
    " + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n' }}{% endif %}"
)

OTHERS = {
    "tojson": "{% for m in messages %}\n  {{ m | tojson }}\n{% endfor %}\n{{ messages | tojson(indent=2) }}",
    "loop controls": "{% for m in messages %}{% if loop.index > 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "generation": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|\n{% endfor %}  x\n",
    "white space": "  {% if true %}\n a\n  {% endif %}\n\n{# none #}\n b {{ eos_token }}{{ nothing }}\n",
}

TEMPLATES = {"llama3": LLAMA3, "qwen3": QWEN3, "mistral": MISTRAL, "smollm2": SMOLLM2, **OTHERS}
SPECIAL = ["<|begin|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|im_start|>", "<|im_end|>"]

ASKED = [{"role": "user", "content": "the then é <b> 'quoted' \"twice\"\n"}]
ANSWERED = [*ASKED, {"role": "assistant", "content": "hen 日本語\n\nthese"}]
LONGER = [*ANSWERED, {"role": "user", "content": "naïve"}]
LONGEST = [*LONGER, {"role": "assistant", "content": "the x=foo(bar)"}]
SYSTEM = [{"role": "system", "content": "Be brief. "}]
CONVERSATIONS = [ASKED, ANSWERED, LONGER, LONGEST, [*SYSTEM, *ASKED], [*SYSTEM, *LONGEST]]


@pytest.fixture(scope="module")
def tokenizer() -> BytePairTokenizer:
    learnt = train_bpe(TEXTS, 420, special_tokens=SPECIAL, split=Split.named("llama3"))
    return BytePairTokenizer(
        learnt.pieces, learnt.merges, learnt.split, learnt.special_tokens, bos="<|begin|>", eos="<|eot_id|>"
    )


@pytest.fixture(scope="module")
def theirs(tokenizer: BytePairTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("folder")
    save_hugging_face(tokenizer, folder, max_length=99)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("name", [*TEMPLATES, "default"])
@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_texts_and_ids_are_those_of_transformers(
    name: str, add_generation_prompt: bool, tokenizer: BytePairTokenizer, theirs: Any
) -> None:
    source = TEMPLATES.get(name)
    template = template_of(tokenizer, source)
    assert (template.bos, template.eos) == ("<|begin|>", "<|eot_id|>")
    for messages in CONVERSATIONS:
        options = {"chat_template": source or DEFAULT_TEMPLATE, "add_generation_prompt": add_generation_prompt}
        expected = theirs.apply_chat_template(messages, tokenize=False, **options)
        assert template.render(messages, add_generation_prompt) == expected
        ids = theirs.apply_chat_template(messages, tokenize=True, return_dict=True, **options)["input_ids"]
        assert conversation_ids(tokenizer, template, messages, add_generation_prompt).tolist() == ids


def counted_texts(tokenizer: Any, template: ChatTemplate, messages: list[dict[str, str]]) -> list[str]:
    """The texts of the runs of counted tokens."""
    ids, counted = answer_mask(tokenizer, template, messages)
    assert ids.tolist() == conversation_ids(tokenizer, template, messages).tolist()
    runs = np.flatnonzero(np.diff(np.concatenate(([False], counted, [False])).astype(int))).reshape(-1, 2)
    return [tokenizer.decode(ids[first:last]) for first, last in runs]


@pytest.mark.parametrize(
    ("name", "end", "before"),
    [
        ("default", "<|im_end|>", ""),
        ("smollm2", "<|im_end|>", ""),
        ("llama3", "<|eot_id|>", ""),
        ("mistral", "<|eot_id|>", " "),
    ],
)
def test_what_counts_are_the_answers_and_their_ends(
    name: str, end: str, before: str, tokenizer: BytePairTokenizer
) -> None:
    template = template_of(tokenizer, TEMPLATES.get(name))
    answers = [f"{before}hen 日本語\n\nthese{end}", f"{before}the x=foo(bar){end}"]
    assert counted_texts(tokenizer, template, ANSWERED) == answers[:1]
    assert counted_texts(tokenizer, template, LONGEST) == answers
    assert counted_texts(tokenizer, template, ASKED) == []
    if name != "mistral":
        assert counted_texts(tokenizer, template, [*SYSTEM, *LONGEST]) == answers
        # The same answer twice, and one that the question holds already.
        twice = [{"role": role, "content": "the"} for role in ("user", "assistant", "user", "assistant")]
        assert counted_texts(tokenizer, template, twice) == [f"the{end}"] * 2


def test_the_last_answer_counts_with_what_the_model_writes_before_it(tokenizer: BytePairTokenizer) -> None:
    template = template_of(tokenizer, QWEN3)
    empty = "<think>\n\n</think>\n\n"
    expected = ["hen 日本語\n\nthese<|im_end|>", f"{empty}the x=foo(bar)<|im_end|>"]
    assert counted_texts(tokenizer, template, LONGEST) == expected


def test_templates_that_write_earlier_turns_differently_are_refused(tokenizer: BytePairTokenizer) -> None:
    with pytest.raises(ValueError, match="message 3 differently within the whole conversation"):
        answer_mask(tokenizer, template_of(tokenizer, MISTRAL), [*SYSTEM, *LONGEST])
    thinking = [*ASKED, {"role": "assistant", "content": "<think>hm</think>the"}, *LONGEST]
    with pytest.raises(ValueError, match="message 2 differently"):
        answer_mask(tokenizer, template_of(tokenizer, QWEN3), thinking)


def test_without_tokens_for_its_marks_a_template_is_written_in_ordinary_text() -> None:
    tokenizer = ByteTokenizer()
    template = template_of(tokenizer, None)
    assert counted_texts(tokenizer, template, ANSWERED) == ["hen 日本語\n\nthese<|im_end|>\n"]
    marked = ByteTokenizer(DEFAULT_SPECIAL_TOKENS)
    assert counted_texts(marked, template, ANSWERED) == ["hen 日本語\n\nthese<|im_end|>"]
    assert conversation_ids(marked, template, ASKED)[0] == marked.special_tokens["<|im_start|>"]


HOSTILE = {
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "longer than 1 seconds",
    "{% for i in range(99999) %}{{ 'x' * 1000000 }}{% endfor %}": "(longer than 1 seconds|more than memory)",
    "{{ 'x' * 10**10 }}": "more than memory",
    "{{ messages[0].content * 10**10 }}": "more than memory",
    "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}": "memory|longer",
    "{% set ns = namespace(n=3) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}": "more than memory",
    "{{ 3 ** (3 ** 30) }}": "(more than memory|too large)",
    "{{ 'x' | center(10**11) }}": "more than memory",
    "{{ ('x' * 10**6) | replace('x', 'y' * 10**6) }}": "more than memory",
    "{{ '%0999999999999d' % 3 }}": "more than memory",
    "{{ 'x' * 10000001 }}": "10,000,001 characters",
    "{% for i in range(10**7) %}x{% endfor %}": "more than memory",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "RecursionError",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}": "no Jinja",
    "{% if %}": "no Jinja",
    "{% include '/etc/passwd' %}": "fails",
    "{{ raise_exception('No\nthanks') }}": "refuses this conversation: No thanks",
    "{{ messages.__class__.__mro__ }}": "unsafe",
    "{{ cycler.__init__.__globals__ }}": "unsafe",
    "{{ messages.append(3) }}": "unsafe",
    "{{ messages[7].content }}": "has no element 7",
    "{{ 1 / 0 }}": "ZeroDivisionError",
}


@pytest.mark.parametrize("source", HOSTILE)
def test_hostile_templates_end_in_one_line(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "SECONDS", 1.0)
    with pytest.raises(ValueError, match=HOSTILE[source]) as caught:
        ChatTemplate(source=source).render(ASKED)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_bound_of_time_holds_in_any_thread_and_leaves_nothing_behind() -> None:
    outcomes = []

    def work() -> None:
        try:
            with bounded(0.2, 1 << 30):
                while True:
                    pass
        except TimeoutError:
            outcomes.append("stopped")
        with bounded(0.2, 1 << 30):
            outcomes.append("going on")
        time.sleep(0.5)
        outcomes.append("alive")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert outcomes == ["stopped", "going on", "alive"]


def test_the_bound_of_memory_is_lifted_afterwards(tmp_path: Path) -> None:
    with pytest.raises(MemoryError), bounded(10.0, 1 << 20):
        bytearray(1 << 28)
    assert len(bytearray(1 << 28)) == 1 << 28
