"""A suite's prompts are as long as they should be for whoever is asked, and he gets them as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.evaluation.context.http_oracle import Oracle
from tests.evaluation.context.test_ruler import solve

from diptych.core.config import TransformerConfig
from diptych.core.random import Rng
from diptych.evaluation.context.server import Server
from diptych.evaluation.context.stand_in import StandInTokenizer
from diptych.evaluation.context.suites.asking import Asking, ask_model, ask_server
from diptych.evaluation.context.suites.babilong import Babilong
from diptych.evaluation.context.suites.ruler import TOKENS_TO_GENERATE, Ruler
from diptych.evaluation.context.suites.run import Scored, run
from diptych.evaluation.context.suites.sample import Count
from diptych.evaluation.context.suites.text import essay
from diptych.models.language_model import LanguageModel
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest
from diptych.samplers.text import generate_text
from diptych.tokenizers.chat import ChatTemplate
from diptych.tokenizers.simple import ByteTokenizer
from diptych.tokenizers.streaming import StreamDecoder

SOLVABLE = tuple(task for task in Ruler.tasks if not task.startswith("qa"))
CHAT = ChatTemplate(source="Be kind. " * 40 + "<{{ messages[0]['content'] | trim }}>")


def ruler(count: Count) -> Ruler:
    return Ruler(count, essay())


def babilong(count: Count) -> Babilong:
    return Babilong(count, essay())


def pieces(text: str) -> int:
    """Tokens: words in parts of four letters, each digit, each sign."""
    return len(re.findall(r" ?[a-zA-Z]{1,4}|\d|[^\w\s]|\s", text))


class Solver(Oracle):
    """Knows RULER's answers, on the one path or on both."""

    def __init__(self, chat_alone: bool) -> None:
        super().__init__()
        self.chat_alone = chat_alone

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        if self.chat_alone and path == "/completions":
            return 404, "no such path"
        prompt = body["messages"][0]["content"] if "messages" in body else body["prompt"]
        text = "?"
        if body["max_tokens"] > 1:
            starts = {"special magic": "niah", "Memorize and track": "vt", "numbered": "cwe", "coded": "fwe"}
            task = next((task for start, task in starts.items() if start in prompt), "qa")
            text = "?" if task == "qa" else " " + ", ".join(solve(task, prompt))
        choice = {"message": {"content": text}} if "messages" in body else {"text": text}
        usage = {"prompt_tokens": 5 + pieces(prompt), "completion_tokens": 1}
        return 200, json.dumps({"choices": [choice], "usage": usage})


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Solver]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    servers: list[Solver] = []

    def start(chat_alone: bool = False) -> Solver:
        servers.append(Solver(chat_alone))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("chat_alone", [False, True])
def test_a_server_that_answers_right_has_every_point(
    serve: Callable[..., Solver], chat_alone: bool, tmp_path: Path
) -> None:
    server = serve(chat_alone)
    asking = ask_server(ruler, Server(server.url, "m"))
    n_before = len(server.bodies)
    options: dict[str, Any] = {"tasks": SOLVABLE, "lengths": (2048,), "samples": 1, "settings": asking.settings}
    table = run(asking.suite, asking.generate, tmp_path / "kept", **options)
    assert [cell.mean for cell in table.cells] == [1.0] * len(SOLVABLE)
    for task, body in zip(SOLVABLE, server.bodies[n_before:], strict=True):
        prompt = asking.suite.sample(task, 2048, 0).prompt
        shown = {"messages": [{"role": "user", "content": prompt}]} if chat_alone else {"prompt": prompt}
        assert body == {"model": "m", "temperature": 0, "max_tokens": TOKENS_TO_GENERATE[task], **shown}
    n_asked = len(server.bodies)
    assert run(asking.suite, asking.generate, tmp_path / "kept", **options) == table and len(server.bodies) == n_asked


def test_lengths_are_the_servers_within_some_per_cent_whatever_a_task_is_made_of(serve: Callable[..., Solver]) -> None:
    server = serve()
    asking = ask_server(ruler, Server(server.url, "m"))
    assert max(len(body["prompt"]) for body in server.bodies) <= 4001
    plain = asking.suite.count
    off = {}
    for task in Ruler.tasks:
        for length in (4096, 8192):
            sample = asking.suite.sample(task, length, 1)
            room = length - sample.tokens_to_generate
            off[task] = pieces(sample.prompt) / plain(sample.prompt)
            # A unit of haystack, such as a document of a question, need not fit.
            assert 0.88 * room < pieces(sample.prompt) < 1.06 * room, (task, length)
    assert max(off.values()) > 1.5 * min(off.values())  # one ratio for all would not do


def test_the_settings_tell_servers_models_and_paths_apart(serve: Callable[..., Solver]) -> None:
    one, other = serve(), serve(chat_alone=True)
    found = [ask_server(babilong, Server(of.url, name)).settings for of in (one, other) for name in ("a", "b")]
    assert [settings["path"] for settings in found] == ["completions"] * 2 + ["chat/completions"] * 2
    assert len({(settings["server"], settings["model"]) for settings in found}) == 4
    assert found[0] == ask_server(babilong, Server(one.url, "a")).settings
    assert set(found[0]["tokens_per_byte"]) == set(Babilong.tasks)


def test_refused_a_prompt_that_is_too_long_for_the_server(serve: Callable[..., Solver]) -> None:
    server = serve()
    asking = ask_server(ruler, Server(server.url, "m"))
    server.before = lambda path, body: (400, "longer than\n2048 tokens")
    with pytest.raises(ValueError, match=r"does not answer m: HTTP 400, longer than 2048 tokens") as error:
        asking.generate("a prompt", 5)
    assert "\n" not in str(error.value)


def tiny() -> LanguageModel:
    config = TransformerConfig(vocab_size=257, d_model=16, n_layers=1, n_heads=2, max_length=4096, tied_embedding=False)
    model = LanguageModel(config).requires_grad_(False)
    for number, parameter in enumerate(model.parameters()):
        parameter.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(number))
    return model.eval()


def local(make: Callable[[Count], Any], template: ChatTemplate | None, opens: bool = False) -> Asking:
    return ask_model(make, tiny(), ByteTokenizer(), opens=opens, template=template)


@pytest.mark.parametrize(("template", "opens"), [(None, False), (None, True), (CHAT, True)])
def test_a_network_is_given_its_prompt_as_it_was_trained(template: ChatTemplate | None, opens: bool) -> None:
    prompt = " Where is Mary? "
    opening = [256] if opens and template is None else []
    shown = prompt if template is None else f"{'Be kind. ' * 40}<Where is Mary?>"
    ids = [*opening, *shown.encode()]
    request = GenerationRequest(prompts=[ids], max_new_tokens=12, eos_id=256)
    sampler = AutoregressiveSampler(temperature=0.0)
    expected = generate_text(tiny(), sampler, request, Rng(0), new_decoder=lambda: StreamDecoder(ByteTokenizer()))[
        0
    ].text
    asking = local(ruler, template, opens)
    assert asking.generate(prompt, 12) == expected != ""
    assert asking.suite.count(prompt) == len(ids)


@pytest.mark.parametrize("task", ["niah_single_2", "niah_multikey_3", "vt", "fwe", "qa_1"])
def test_a_conversation_and_its_answer_fill_the_length(task: str) -> None:
    length, around = 4096, 9 * 40 + 2
    sample = local(ruler, CHAT).suite.sample(task, length, 0)
    raw = local(ruler, None).suite.sample(task, length, 0)
    assert sample.tokens == len(sample.prompt.strip().encode()) + around
    assert sample.tokens_to_generate == raw.tokens_to_generate
    unit = 700 if task == "qa_1" else 130
    assert length - unit <= sample.tokens + sample.tokens_to_generate <= length
    assert len(sample.prompt) < len(raw.prompt)


def test_what_stands_around_a_prompt_is_no_part_of_an_answer(tmp_path: Path) -> None:
    asking, raw = local(babilong, ChatTemplate(source="Be kind. <{{ messages[0]['content'] }}>")), local(babilong, None)
    sample = asking.suite.sample("qa1", 3000, 0)
    assert sample.tokens_to_generate == raw.suite.sample("qa1", 3000, 0).tokens_to_generate
    out = tmp_path / "kept"
    run(asking.suite, lambda *_: "office", out, tasks=["qa1"], lengths=[3000], samples=1, settings=asking.settings)
    kept = json.loads(out.read_text().splitlines()[1])
    assert Scored(**kept).tokens == sample.tokens + len("office")


def test_a_tokenizer_need_have_no_opening_token() -> None:
    asking = ask_model(ruler, tiny(), StandInTokenizer(0.25), opens=False)
    assert asking.suite.count("Where is Mary?") == 4


def test_the_settings_tell_templates_apart() -> None:
    other = ChatTemplate(source="{{ messages[0]['content'] }}")
    assert local(ruler, None).settings == {}
    found = [local(ruler, template).settings["chat_template"] for template in (CHAT, CHAT, other)]
    assert found[0] == found[1] != found[2]
