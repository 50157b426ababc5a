"""`diptych context --suite` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diptych.checkpoints.run_folder import save_chat_format, save_weights
from diptych.cli.main import main
from diptych.core.context_extension import parse_extension
from diptych.evaluation.context.generation import likeliest
from diptych.evaluation.context.suites.babilong import Babilong
from diptych.evaluation.context.suites.text import essay
from diptych.models.extension import extend
from diptych.tokenizers.simple import ByteTokenizer
from tests.evaluation.context.http_oracle import Oracle
from tests.evaluation.context.test_asking import tiny

LENGTH = 2500
COMMON = ["--suite", "babilong", "--samples", "1", "--lengths", str(LENGTH)]
CPU = ["--device", "cpu"]


@pytest.fixture(autouse=True)
def one_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each takes a while."""
    monkeypatch.setattr(Babilong, "tasks", ("qa1",))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt nothing."""
    return saved(tmp_path_factory.mktemp("runs"))


def saved(folder: Path, chat_template: str | None = None) -> Path:
    network = tiny()
    save_weights(dict(network.named_parameters()), network.config, folder)
    ByteTokenizer().save(folder / "tokenizer.json")
    save_chat_format(folder, chat_template, ())
    return folder


class Shrugging(Oracle):
    """Always says the same."""

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        usage = {"prompt_tokens": len(body["prompt"]) // 4, "completion_tokens": 1}
        return 200, json.dumps({"choices": [{"text": " It is in the kitchen."}], "usage": usage})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Shrugging]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    oracle = Shrugging()
    yield oracle
    oracle.close()


def kept(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_extension_has_a_table_and_a_file_of_its_own(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extensions = ("yarn:factor=2", "interpolation:factor=8")
    arguments = ["context", str(model), *COMMON, "--out", str(tmp_path), *CPU, "--extend", *extensions]
    assert main([*arguments, "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    assert [table["extension"] for table in tables] == [None, *extensions]
    assert [mean["n"] for table in tables for mean in table["means"]] == [1, 1, 1]
    files = ("babilong.jsonl", "babilong-yarn-factor-2.jsonl", "babilong-interpolation-factor-8.jsonl")
    assert {file.name for file in tmp_path.iterdir()} == set(files)
    sample = Babilong(lambda text: 1 + len(text.encode()), essay()).sample("qa1", LENGTH, 0)
    networks = [tiny(), *(extend(tiny(), parse_extension(text)) for text in extensions)]
    texts = []
    for file, network, extension in zip(files, networks, (None, *extensions), strict=True):
        settings, *answers = kept(tmp_path / file)
        assert settings["extension"] == extension and settings["weights"]
        prompt = [256, *sample.prompt.encode()]
        with torch.inference_mode():
            written = likeliest(network, ByteTokenizer(), prompt, sample.tokens_to_generate)
        assert answers[0]["task"] == "qa1" and answers[0]["generated"] == written.text
        texts.append(written.text)
    assert len(set(texts)) == 3
    # Without --json the same command asks nothing, and prints a table for each.
    lines = {file: (tmp_path / file).read_bytes() for file in files}
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.count("BABILong's thresholds") == 3 and "BABILong with yarn:factor=2" in shown
    assert lines == {file: (tmp_path / file).read_bytes() for file in files}


def test_a_chat_model_is_asked_in_its_own_template(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "chat").mkdir()
    model = saved(tmp_path / "chat", "User: {{ messages[0]['content'] }}\nAnswer: ")
    arguments = ["context", str(model), *COMMON, "--out", str(tmp_path / "out"), *CPU]
    assert main([*arguments, "--answers", "written"]) == 0
    settings, first = kept(tmp_path / "out" / "babilong.jsonl")
    assert settings["chat_template"] is not None
    around = len("User: \nAnswer: ")
    sample = Babilong(lambda text: around + len(text.encode()), essay()).sample("qa1", LENGTH, 0)
    prompt = [*f"User: {sample.prompt}\nAnswer: ".encode()]
    assert len(prompt) + sample.tokens_to_generate <= LENGTH
    with torch.inference_mode():
        written = likeliest(tiny(), ByteTokenizer(), prompt, sample.tokens_to_generate)
    assert first["generated"] == written.text
    assert main(arguments) == 2
    assert "other settings (it differs in chat_template)" in capsys.readouterr().err


def test_a_server_is_asked_and_its_answers_are_kept(
    server: Shrugging, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["context", server.url, "--name", "m", *COMMON, "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "BABILong" in capsys.readouterr().out
    settings, *answers = kept(tmp_path / "babilong.jsonl")
    assert (settings["server"], settings["model"], settings["path"]) == (server.url, "m", "completions")
    assert [answer["generated"] for answer in answers] == [" It is in the kitchen."]
    measured, asked = [body for body in server.bodies if body["max_tokens"] == 1], len(server.bodies)
    assert main(arguments) == 0
    assert len(server.bodies) - asked == len(measured) == asked - 1
    assert main([*arguments[:3], "other", *arguments[4:]]) == 2
    assert "other settings (it differs in model)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["MODEL", "--answers", "written"], "has no chat template; leave out --answers written"),
        (["MODEL", "--extend", "yarn", "yarm"], "did you mean yarn"),
        (["URL"], "a server's model is named by --name"),
        (["URL", "--name", "m", "--extend", "yarn"], "for models on the disk"),
        (["URL", "--name", "m", "--answers", "written"], "for models on the disk"),
        (["http://localhost:1/v1", "--name", "m"], "nothing answers at http://localhost:1/v1"),
    ],
)
def test_refused_with_one_line_before_anything_is_asked(
    model: Path,
    server: Shrugging,
    tmp_path: Path,
    arguments: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [{"MODEL": str(model), "URL": server.url}.get(word, word) for word in arguments]
    assert main(["context", *words, *COMMON, "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1] and lines[-1].startswith("diptych")
    assert not server.bodies and not (tmp_path / "out").exists()
