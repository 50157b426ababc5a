"""`diptych compare` of runs of images as a user calls it."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.cli.main import main
from diptych.core.recipe import load_json
from diptych.data.images import load_images
from diptych.evaluation import diffusion_likelihood
from diptych.evaluation.diffusion_likelihood import flow_likelihood
from diptych.evaluation.image_comparison import ImageComparisonResult
from diptych.report import image_comparison
from diptych.report.image_comparison import image_page
from tests.image_runs import train_image_runs
from tests.text_runs import text_run

FEW = ["--images", "4", "--dequantizations", "2", "--probes", "2", "--samples", "5", "--rounds", "2", "--steps", "3"]
FEW += ["--pixels-per-step", "4", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return train_image_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def compared(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of three paradigms."""
    out = tmp_path_factory.mktemp("compared") / "out"
    few_steps = partial(flow_likelihood, steps=3)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(diffusion_likelihood, "flow_likelihood", few_steps)
        assert main(["compare", *_three(runs), "--out", str(out), *FEW]) == 0
    return out


def _three(runs: dict[str, Path]) -> list[str]:
    return [str(runs[name]) for name in ("ar", "masked", "told")]


def test_a_comparison_from_the_command_line(
    compared: Path, runs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", *FEW, *_three(runs), "--out", str(compared)]  # runs may stand anywhere
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    for fragment in ("Gaussian diffusion", "17 for 16", "4 for 16", "flow, of levels spread evenly", "more than ar"):
        assert fragment in shown
    assert "told: is told the class of an image" in shown and "seconds an image" in shown
    assert main([*arguments, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((compared / "compare.json").read_text())
    assert [score["kind"] for score in record["scores"]] == ["exact", "bound", "flow"]
    assert [score["estimate_error"] > 0 for score in record["scores"]] == [False, True, True]
    assert [score["difference"] is not None for score in record["scores"]] == [False, True, True]
    first, second = record["scores"][:2]
    difference = second["bits_per_dimension"] - first["bits_per_dimension"]
    assert second["difference"]["value"] == pytest.approx(difference) and record["reference"] == "ar"
    assert [one["evaluations"] for one in record["drawn"]] == [16, 4, 3]
    assert all(one["seconds_per_image"] > 0 for one in record["drawn"])


def test_the_page_is_whole_and_loads_nothing(compared: Path, runs: dict[str, Path]) -> None:
    html = (compared / "index.html").read_text()
    assert not re.search(r"(src|href)=\"(?!#|data:)", html) and "http" not in html.replace("http-equiv", "")
    result = load_json(ImageComparisonResult, compared / "compare.json")
    for score in result.scores:
        assert f"{score.bits_per_dimension:.4f}" in html
    assert html == image_page(result) and html.count("<img ") == 4 * 5
    heldout = load_images(runs["ar"] / "data" / "heldout")
    assert np.array_equal(result.heldout.unpacked().pixels, heldout.pixels[:5])
    for name in ("bits", "images"):
        with Image.open(compared / f"{name}.png") as picture:
            assert picture.size[0] > 500


def test_an_interrupted_comparison_ends_with_the_same_numbers(
    compared: Path,
    runs: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    call = ["compare", str(runs["ar"]), str(runs["uniform"]), *FEW, "--out"]
    assert main([*call, str(tmp_path / "whole")]) == 0

    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(image_comparison, "packed", interrupted)
        assert main([*call, str(tmp_path / "parts")]) == 130
    assert "goes on from here" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr("diptych.evaluation.image_contenders.pixel_nats", interrupted)  # what is kept stays
        assert main([*call, str(tmp_path / "parts")]) == 0
    found = []
    for out in ("whole", "parts"):
        record = json.loads((tmp_path / out / "compare.json").read_text())
        for drawn in record["drawn"]:
            del drawn["seconds_per_image"]
        found.append(record)
    assert found[0] == found[1]
    assert main([*call, str(tmp_path / "parts"), "--seed", "8"]) == 2
    assert "differs in seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{ar}"], "at least two different runs"),
        (["{ar}", "nowhere"], "there is no recipe nowhere"),
        (["{ar}", "{text}"], "learnt images and"),
        (["{text}", "{ar}"], "which do not compare; name runs of one kind"),
        (["{ar}", "{gaussian}", "--solver", "none"], "there is no solver 'none'"),
        (["{ar}", "{masked}", "--draws", "1"], "draws=1 must be a multiple of 4"),
    ],
)
def test_wrong_calls_are_refused_in_one_line(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    from diptych.core.recipe import save_toml

    (tmp_path / "text").mkdir()
    save_toml(text_run(tmp_path, "ar"), tmp_path / "text" / "recipe.toml")
    places = {**{kind: str(folder) for kind, folder in runs.items()}, "text": str(tmp_path / "text")}
    call = ["compare", *(a.format(**places) for a in arguments), "--out", str(tmp_path / "out")]
    assert main(call) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("diptych: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not (tmp_path / "out").exists()


def test_options_of_text_are_refused(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in (["--judge", "x"], ["--rows", "4"], ["--length", "4"], ["--tokens-per-step", "1"]):
        with pytest.raises(SystemExit) as caught:
            main(["compare", *_three(runs), *option, "--out", str(tmp_path / "out")])
        assert caught.value.code == 2 and option[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
