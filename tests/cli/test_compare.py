"""`diptych compare` as a user calls it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from diptych.checkpoints.run_folder import load_language_model, load_recipe
from diptych.cli.main import main
from diptych.core.recipe import load_json
from diptych.evaluation.comparison import ComparisonResult
from diptych.evaluation.likelihood import score_bound
from diptych.report import comparison
from diptych.report.comparison import page
from diptych.training.prepare import build_tokenizer, text_diffusion
from diptych.training.streams import build_streams, text_store
from tests.text_runs import train_text_runs

FEW = ["--rows", "0", "--draws", "4", "--samples", "3", "--rounds", "2", "--tokens-per-step", "1", "4"]
FEW += ["--batch-size", "16", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return train_text_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def compared(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of all paradigms."""
    out = tmp_path_factory.mktemp("compared") / "out"
    assert main(["compare", *map(str, runs.values()), "--out", str(out), *FEW]) == 0
    return out


def test_a_comparison_from_the_command_line(
    compared: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", *map(str, runs.values()), "--out", str(compared), *FEW]
    assert main(arguments) == 0
    shown = " ".join(capsys.readouterr().out.split())  # titles break where the folder's name is long
    for fragment in ("block diffusion, blocks of 4", "65 for 32", "one of the contenders", "≤", "+4.5%"):
        assert fragment in shown
    assert re.search(r"block: \d\.\d\d times the training FLOPs \(beside ar\)", shown)
    assert main([*arguments, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((compared / "compare.json").read_text())
    assert [run["run"] for run in record["trained"]] == ["ar", "masked", "block", "uniform"]
    assert record["reference"] == "ar" and record["judge_contends"]
    rates = [(score["run"], score["tokens_per_step"]) for score in record["generation"]]
    assert rates == [
        ("ar", 1),
        ("masked", 1),
        ("masked", 4),
        ("block", 1),
        ("block", 4),
        ("uniform", 1),
        ("uniform", 4),
        ("held-out text", None),
    ]
    assert [score["price"] is not None for score in record["generation"]] == [
        rate == 4 and run != "uniform" for run, rate in rates
    ]
    assert all((score["tokens_per_second"] or 0) > 0 for score in record["generation"][:-1])


def test_the_numbers_are_those_of_the_single_measurements(compared: Path, runs: dict[str, Path]) -> None:
    result = load_json(ComparisonResult, compared / "compare.json")
    folder = runs["uniform"]
    run = load_recipe(folder)
    model, tokenizer = load_language_model(folder)
    store = text_store(build_streams(run, folder, build_tokenizer(run, folder, print), print)[1])
    bound = score_bound(model, store, text_diffusion(run, tokenizer), context=32, draws=4)
    score = result.heldout[3]
    assert score.run == "uniform" and score.bits_per_byte == pytest.approx(bound.bits_per_byte, rel=1e-6)
    assert score.bits_per_byte_error == pytest.approx(bound.bits_per_byte_error, rel=1e-6)
    ar = result.heldout[0]
    assert ar.difference is None and score.difference is not None
    assert score.difference.value == pytest.approx(score.nats_per_token - ar.nats_per_token)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    scored = [record for line in lines if (record := json.loads(line))["kind"] == "eval"]
    assert [p.bits_per_byte for p in result.curves[3].points] == [record["bits_per_byte"] for record in scored]
    assert [p.step for p in result.curves[3].points] == [4, 8, 12]
    assert result.curves[3].points[-1].flops == pytest.approx(result.trained[3].flops)


def test_the_page_is_whole_and_loads_nothing(compared: Path) -> None:
    html = (compared / "index.html").read_text()
    assert not re.search(r"(src|href)=\"(?!#|data:)", html) and "http" not in html.replace("http-equiv", "")
    result = load_json(ComparisonResult, compared / "compare.json")
    for score in result.heldout:
        assert f"{score.bits_per_byte:.4f}" in html
    assert html == page(result)
    for name in ("bits", "curves", "generation"):
        assert (compared / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_texts_of_a_network_are_no_markup(compared: Path) -> None:
    from dataclasses import replace

    result = load_json(ComparisonResult, compared / "compare.json")
    hostile = replace(result.texts[0], texts=("<script>alert(1)</script>",))
    html = page(replace(result, texts=(hostile,)))
    assert "<script" not in html and "&lt;script&gt;" in html


def test_an_interrupted_comparison_ends_with_the_same_numbers(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = [shutil.copytree(runs[kind], tmp_path / kind) for kind in ("ar", "uniform")]
    call = ["compare", *map(str, two), *FEW, "--out"]
    assert main([*call, str(tmp_path / "whole")]) == 0

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(comparison.generation, "write", interrupted)
        assert main([*call, str(tmp_path / "parts")]) == 130
    assert "goes on from here" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr(comparison, "score_rows", interrupted)  # what is kept is not measured again
        assert main([*call, str(tmp_path / "parts")]) == 0
    found = []
    for out in ("whole", "parts"):
        record = json.loads((tmp_path / out / "compare.json").read_text())
        for score in record["generation"]:
            del score["tokens_per_second"]
        found.append(record)
    assert found[0] == found[1]
    assert main([*call, str(tmp_path / "parts"), "--draws", "8"]) == 2
    assert "differs in draws" in capsys.readouterr().err
    (two[0] / "model.safetensors").write_bytes((two[1] / "model.safetensors").read_bytes())
    assert main([*call, str(tmp_path / "parts")]) == 2
    assert "differs in weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{ar}"], "at least two different runs"),
        (["{ar}", "nowhere"], "there is no recipe nowhere"),
        (["{masked}", "{uniform}"], "name a model that judges their texts by --judge"),
        (["{ar}", "{masked}", "--judge", "{uniform}"], "cannot judge any"),
        (["{ar}", "{masked}", "--length", "33"], "--length 33 is more than the 32"),
        (["{ar}", "{masked}", "--draws", "1"], "draws=1 must be a multiple of 4"),
    ],
)
def test_wrong_calls_are_refused_in_one_line(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    places = {kind: str(folder) for kind, folder in runs.items()}
    call = ["compare", *(a.format(**places) for a in arguments), *FEW[:2], "--out", str(tmp_path / "out")]
    assert main(call) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diptych: ")]
    assert len(lines) == 1 and message in lines[0]
