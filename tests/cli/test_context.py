"""`diptych context` as a user calls it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from diptych.cli.main import main
from diptych.core.config import DataConfig, OptimConfig, RecallConfig, RunConfig, TrainConfig, TransformerConfig
from diptych.evaluation.context.journal import JOURNAL
from diptych.evaluation.context.result import load_result
from diptych.training.run import train

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
