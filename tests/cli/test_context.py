"""`diptych context` as a user calls it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from diptych.cli.main import main
from diptych.core.config import DataConfig, OptimConfig, RecallConfig, RunConfig, TrainConfig, TransformerConfig
from diptych.evaluation.context.journal import JOURNAL
from diptych.evaluation.context.result import load_result
from diptych.training.run import train
from tests.evaluation.context.http_oracle import Oracle

CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recall run that has learnt nothing."""
    out = tmp_path_factory.mktemp("runs") / "recall"
    recipe = RunConfig(
        out=str(out),
        model=TransformerConfig(d_model=32, n_layers=2, n_heads=2, max_length=256),
        data=DataConfig(format="recall", sequence_length=128, recall=RecallConfig(n_keys=40, n_values=40)),
        optim=OptimConfig(warmup_steps=1),
        train=TrainConfig(
            steps=2, batch_size=2, eval_every=2, eval_sequences=2, save_every=2, compile="off", dtype="float32"
        ),
    )
    assert train(recipe)
    return out


@pytest.fixture(scope="module")
def measured(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("measured") / "out"
    assert main(["context", str(run), "--out", str(out), "--tasks", "single_key", "multi_key", *CPU]) == 0
    return out


def test_an_untrained_model_has_no_effective_length(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = load_result(measured / "as-is")
    assert [task.state for task in result.tasks] == ["none", "none"]
    assert result.stopped is None and result.claimed == 256
    assert (measured / "index.html").is_file() and (measured / "figures" / "brackets.png").is_file()


def test_the_same_command_asks_nothing_again(
    measured: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even from answers of which the last was cut off in writing."""
    out = tmp_path / "out"
    shutil.copytree(measured, out)
    whole = (out / "as-is" / JOURNAL).read_bytes()
    lines = whole.splitlines(keepends=True)
    (out / "as-is" / JOURNAL).write_bytes(b"".join(lines[:-2]) + lines[-2][:40])
    arguments = ["context", str(run), "--out", str(out), "--tasks", "single_key", "multi_key", *CPU]
    assert main(arguments) == 0
    again = [json.loads(line) for line in (out / "as-is" / JOURNAL).read_bytes().splitlines()]
    before = [json.loads(line) for line in lines]
    for record in (*again, *before):
        record.pop("seconds", None)
    assert again == before
    assert "effective context length none" in capsys.readouterr().out
    found, kept = (load_result(folder / "as-is") for folder in (out, measured))
    assert [task.cells for task in found.tasks] == [task.cells for task in kept.tasks]


def test_a_budget_ends_with_what_is_known(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["context", str(run), "--out", str(out), "--style", "pairs", "--budget", "300tok", *CPU]
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert "undecided: nothing is certified yet" in shown.out and "budget" in shown.err
    assert load_result(out / "as-is").tasks[0].contexts == 2  # of 128 tokens each


def test_extensions_are_measured_beside_the_model(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["context", str(run), "--out", str(out), "--style", "pairs", "--extend", "yarn:factor=2", "rerope"]
    assert main([*arguments, *CPU]) == 0
    names = [load_result(out / name).name for name in ("as-is", "yarn-factor-2", "rerope")]
    assert names == ["recall", "recall + yarn:factor=2", "recall + rerope"]


def test_a_suite_asks_and_goes_on(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["context", str(run), "--out", str(tmp_path / "out"), "--suite", "babilong", "--samples", "1"]
    code = main([*arguments, "--lengths", "64", *CPU])
    assert code == 2  # this tokenizer knows only the words of its own task, in many more tokens


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no run folder nowhere"),
        (["RUN", "--budget", "soon"], "neither a duration nor tokens"),
        (["RUN", "--extend", "yarm"], "did you mean yarn"),
        (["RUN", "--tau", "1.5"], "tau is a score"),
        (["RUN", "--longest", "40"], "needs at least"),
        (["RUN", "--answers", "written"], "no chat template"),
        (["RUN", "--style", "sentences"], ""),
        (["http://localhost:1/v1"], "--name"),
        (["RUN", "--beside", "nowhere"], "holds no context.json"),
    ],
)
def test_refused_with_one_line(
    run: Path, tmp_path: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(run) if word == "RUN" else word for word in arguments]
    assert main(["context", *words, "--out", str(tmp_path / "out"), *CPU]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert said in lines[-1] and lines[-1].startswith("diptych")


def test_answers_of_another_measurement_are_refused(
    measured: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (measured / "as-is" / JOURNAL).read_bytes()
    assert main(["context", str(run), "--out", str(measured), "--seed", "1", *CPU]) == 2
    assert "other settings (it differs in seed)" in capsys.readouterr().err
    assert (measured / "as-is" / JOURNAL).read_bytes() == before


class Reader(Oracle):
    """Finds the pair that is asked about, of the last `seen` words of a prompt; says " nothing" else."""

    seen = 10**6

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        words = body["prompt"].split()
        before = words[:-1][-self.seen :]
        found = [value for key, value in pairwise(before) if key == words[-1]]
        top = {f" {found[-1]}" if found else " nothing": -0.1}
        usage = {"prompt_tokens": len(body["prompt"].encode()) // 4, "completion_tokens": 1}
        return 200, json.dumps({"choices": [{"text": "", "logprobs": {"top_logprobs": [top]}}], "usage": usage})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    oracle = Reader()
    yield oracle
    oracle.close()


def test_a_server_is_measured_after_what_that_takes_was_said(
    server: Reader, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["context", server.url, "--name", "m", "--longest", "512", "--style", "pairs", "--out", str(tmp_path)]
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "at least 512 tokens" in said.out and "tau 0.7 certified to 512" in said.out
    # 32 contexts of each of three lengths, with five questions each; 31 that are right suffice.
    assert "480 requests" in said.err and load_result(tmp_path / "as-is").tasks[0].contexts == 3 * 31
    asked = len(server.bodies)
    assert main(arguments) == 0
    assert len(server.bodies) - asked == 2  # to count the tokens of its texts


def test_a_server_that_forgets_fails(server: Reader, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.seen = 100
    arguments = ["context", server.url, "--name", "m", "--longest", "512", "--style", "pairs", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert "effective context length none" in capsys.readouterr().out
