"""Does `diptych chat` answer as the model does, turn after turn, and refuse in one line?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from diptych.checkpoints.open import OpenedModel
from diptych.cli import chat
from diptych.cli.main import main
from diptych.core.config import TransformerConfig
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.nn.masks import Causal
from diptych.tokenizers.chat import DEFAULT_SPECIAL_TOKENS, DEFAULT_TEMPLATE, conversation_ids, template_of
from diptych.tokenizers.simple import ByteTokenizer

TOKENIZER = ByteTokenizer(DEFAULT_SPECIAL_TOKENS)
STARTS, ENDS = (TOKENIZER.special_tokens[name] for name in DEFAULT_SPECIAL_TOKENS)
OTHER = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "


@pytest.fixture(scope="module")
def opened() -> OpenedModel:
    config = TransformerConfig(vocab_size=259, d_model=32, n_layers=2, n_heads=2, d_ff=48, max_length=400)
    model = LanguageModel(config)
    generator = torch.Generator().manual_seed(1)
    initialize(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.eval().requires_grad_(False)
    return OpenedModel(model=model, tokenizer=TOKENIZER, chat_template=DEFAULT_TEMPLATE, stop_ids=(ENDS,))


@pytest.fixture
def opens(opened: OpenedModel, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets the command open the model, perhaps a changed one."""

    def change(**changes: object) -> None:
        changed = dataclasses.replace(opened, **changes)  # type: ignore[arg-type]
        monkeypatch.setattr(chat, "open_language_model", lambda path, options: changed)

    change()
    return change


def greedy(model: LanguageModel, ids: list[int], count: int, ends: set[int]) -> list[int]:
    """Tokens one by one, all of the text read anew for each."""
    found: list[int] = []
    while len(found) < count and not (found and found[-1] in ends):
        x = torch.tensor([[*ids, *found]])
        found.append(int(model(x, mask=Causal())[0, -1].argmax()))
    return found


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("source", [DEFAULT_TEMPLATE, OTHER])
def test_every_answer_is_the_models_though_only_what_is_new_is_read(
    source: str, system: str | None, opened: OpenedModel, opens: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    opens(chat_template=source)
    said = ["hi", "é?", "so"]
    arguments = [part for message in said for part in ("--message", message)]
    arguments += [] if system is None else ["--system", system]
    assert main(["chat", "m", "--temperature", "0", "--max-new-tokens", "6", "--json", *arguments]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    messages = [] if system is None else [{"role": "system", "content": system}]
    for message, answer in zip(said, answers, strict=True):
        assert answer["message"] == message
        messages.append({"role": "user", "content": message})
        ids = conversation_ids(TOKENIZER, template_of(TOKENIZER, source), messages, True).tolist()
        expected = greedy(opened.model, ids, 6, {ENDS, TOKENIZER.eos_id})
        assert answer["ids"] == expected
        ended = expected[-1] in (ENDS, TOKENIZER.eos_id)
        assert answer["reason"] == ("eos" if ended else "length")
        assert answer["answer"] == TOKENIZER.decode(expected[:-1] if ended else expected)
        messages.append({"role": "assistant", "content": answer["answer"]})


def test_a_turn_reads_only_what_is_new(opened: OpenedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    options = chat.Options(model="m", temperature=0, max_new_tokens=10)
    conversation = chat.Conversation(options, opened)
    read: list[int] = []
    states = LanguageModel.states

    def counting(self: LanguageModel, x: torch.Tensor, **others: Any) -> torch.Tensor:
        read.append(x.shape[1])
        return states(self, x, **others)

    monkeypatch.setattr(LanguageModel, "states", counting)
    conversation.answer("hi " * 30, lambda text: None)
    first, read[:] = read[0], []
    conversation.answer("hi", lambda text: None)
    assert first > 90
    assert read[0] < 60


def test_draws_are_seeded(opens: Any, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for seed in ("1", "1", "2"):
        assert main(["chat", "m", "--message", "hi", "--seed", seed, "--max-new-tokens", "12"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_a_conversation_at_the_prompt(opens: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    lines: Iterator[Any] = iter(["hi", "  ", KeyboardInterrupt, "/reset", "hi", "x" * 400, "/exit", "never"])

    def read(prompt: str) -> str:
        assert prompt == "> "
        line = next(lines)
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        return str(line)

    monkeypatch.setattr("builtins.input", read)
    assert main(["chat", "m", "--temperature", "0", "--max-new-tokens", "5"]) == 0
    output = capsys.readouterr()
    first, second = output.out.splitlines()[:2]
    assert first == second  # after /reset the same again
    assert "and the model's context 400" in output.err
    assert "Traceback" not in output.err
    assert next(lines) == "never"


def test_the_end_of_the_input_leaves(opens: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", read)
    assert main(["chat", "m"]) == 0


def test_an_interrupted_answer_stays_in_the_conversation(opened: OpenedModel) -> None:
    options = chat.Options(model="m", temperature=0, max_new_tokens=6)
    conversation = chat.Conversation(options, opened)
    shown: list[str] = []

    def stop(text: str) -> None:
        shown.append(text)
        if len(shown) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        conversation.answer("hi", stop)
    assert conversation.messages == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "".join(shown)},
    ]
    answer = conversation.answer("go on", lambda text: None)
    ids = conversation_ids(TOKENIZER, conversation.template, conversation.messages[:-1], True).tolist()
    assert answer.ids == greedy(opened.model, ids, 6, {ENDS, TOKENIZER.eos_id})


def test_without_a_template_it_is_asked_in_chatml_and_says_so(opens: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["chat", "m", "--message", "hi", "--temperature", "0", "--max-new-tokens", "9", "--json"]
    assert main(arguments) == 0
    expected = capsys.readouterr()
    assert expected.err == ""
    opens(chat_template=None, stop_ids=())
    assert main(arguments) == 0
    output = capsys.readouterr()
    assert output.out == expected.out
    assert output.err == "the model has no chat template; it is asked in ChatML\n"


def test_what_cannot_be_is_refused_in_one_line(opens: Any, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {
        ("--json",): "--json needs --message",
        ("--message", "hi", "--max-new-tokens", "0"): "--max-new-tokens must be at least 1",
        ("--message", "x" * 400): "begin another (/reset), or say less",
        ("--message", "x", "--temperature", "-1"): "must not be negative",
    }
    for arguments, reason in wrong.items():
        assert main(["chat", "m", *arguments]) == 2
        error = capsys.readouterr().err
        assert reason in error
        assert len(error.splitlines()) == 1
    opens(chat_template="{{ raise_exception('Roles must alternate') }}")
    assert main(["chat", "m", "--message", "hi"]) == 2
    assert "refuses this conversation: Roles must alternate" in capsys.readouterr().err
