"""`diptych attention show | map | cost` as a user calls them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diptych.checkpoints.run_folder import save_weights
from diptych.cli.attention.cost import Options, configured
from diptych.cli.main import main
from diptych.core.config import TransformerConfig
from diptych.core.random import Rng
from diptych.evaluation import attention_cost
from diptych.evaluation.attention_cost import CostConfig
from diptych.models.network import build_network, initialize
from diptych.report.masks import GALLERY
from diptych.tokenizers.simple import ByteTokenizer

CONFIG = TransformerConfig(vocab_size=257, d_model=16, n_layers=3, n_heads=2, max_length=600)


def saved(folder: Path, **values: object) -> str:
    model = build_network(replace(CONFIG, **values))
    initialize(model, Rng(0).generator("weights"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    folder.mkdir()
    weights = dict(model.named_parameters())
    save_weights(weights, model.config, folder)
    ByteTokenizer().save(folder / "tokenizer.json")
    return str(folder)


def refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attention", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("diptych: ") and error.count("\n") == 1


def test_masks_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "masks.png"
    assert main(["attention", "show", "causal", "causal & window(2)", "--length", "4", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "████····" in shown.out and "··████··" in shown.out and "43.8 % of pairs" in shown.out
    assert str(out) in shown.err and out.read_bytes().startswith(b"\x89PNG")
    assert main(["attention", "show"]) == 0
    gallery = capsys.readouterr().out
    assert all(text in gallery for text in GALLERY)
    assert main(["attention", "show", "causal & window(64)", "--length", "1000", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == {"mask": "causal & window(64)", "length": 1000, "allowed": (64 * 65 / 2 + 936 * 64) / 1000**2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["windw(3)"], "did you mean window"),
        (["causal &"], "cannot be read"),
        (["causal", "--length", "0"], "cannot be drawn"),
        (["causal", "--out", "masks.jpg"], "a picture is written as .png"),
    ],
)
def test_masks_that_cannot_be_drawn(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(["show", *arguments], message, capsys)


def test_heads_of_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = saved(tmp_path / "run", attention=("softmax", "linear")), tmp_path / "heads.png"
    assert main(["attention", "map", model, "a b", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "left out, as they hold no attention weights: layer 2 (linear)" in shown.err
    assert out.read_bytes().startswith(b"\x89PNG")
    lines = shown.out.splitlines()
    assert lines[1].split() == ["1", "(begin)", "(begin)", "(1)", "1.00"] and lines[3].split()[:2] == ["3", "␣"]
    assert main(["attention", "map", model, "a b", "--layer", "3", "--head", "2", "--top", "9", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["token"] for record in records] == ["(begin)", "a", " ", "b"]
    for position, record in enumerate(records):
        weights = [key["weight"] for key in record["keys"]]
        assert {key["position"] for key in record["keys"]} == set(range(position + 1))
        assert sum(weights) == pytest.approx(1, abs=1e-6) and weights == sorted(weights, reverse=True)


def test_models_and_texts_that_have_no_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = saved(tmp_path / "run")
    refused(["map", model, "a", "--layer", "4"], "no attention in layer 4; layers: 1, 2, 3", capsys)
    refused(["map", model, "a", "--layer", "1", "--head", "3"], "no head 3; heads: 1 to 2", capsys)
    refused(["map", model, "a", "--head", "1"], "give --layer too", capsys)
    refused(["map", model, "a" * 512], "the text has 513 tokens; attention is drawn of up to 512", capsys)
    refused(["map", model, "a", "--top", "0"], "lists nothing", capsys)
    refused(["map", model, "a", "--out", "x.svg"], "written as .png", capsys)
    refused(["map", str(tmp_path / "nothing"), "a"], "nothing", capsys)
    recurrent = saved(tmp_path / "recurrent", attention=("linear", "gated_delta"))
    refused(["map", recurrent, "a"], "no layer of this model has attention weights to draw: layer 1 (linear)", capsys)
    both = saved(tmp_path / "both", n_encoder_layers=1)
    refused(["map", both, "a"], f"diptych translate {both} --text '...' --attention", capsys)


SMALL = ["--d-model", "16", "--n-heads", "2", "--repeats", "2", "--device", "cpu"]


def test_costs_are_measured_and_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_cost, "SHORTEST", 1e-4)
    out = tmp_path / "cost"
    asked = ["attention", "cost", "naive", "window(4)", "--lengths", "64", "16", "32", *SMALL, "--out", str(out)]

    def interrupted(*arguments: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(attention_cost._Timer, "seconds", interrupted)
        assert main(asked) == 130
    assert "goes on from here" in capsys.readouterr().err
    assert len(json.loads((out / "cost.json").read_text())["cells"]) == 6
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert "naive" in shown and "window(4)" in shown and "exponent" in shown and "95 % interval" in shown
    assert {path.name for path in out.iterdir()} == {"cost.json", "cost.csv", "cost.png"}
    assert main([*asked, "--json", "--fit-from", "32"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["config"]["lengths"] == [16, 32, 64] and len(record["cells"]) == 6
    assert record["laws"][0]["form"] == "naive" and record["laws"][0]["time"]["lengths"] == [32, 64]
    alone = [*asked[:3], *asked[4:], "--lengths", "16", "256"]
    assert main([*alone, "--memory-budget", "100kB"]) == 0
    assert "naive is left out at 256 positions" in capsys.readouterr().err
    refused([*asked[1:], "--train"], "differs in size.train", capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["windw(4)"], "did you mean window"),
        (["--lengths", "0"], "lengths must be at least 1"),
        (["--repeats", "0"], "measures nothing"),
        (["--d-model", "15"], "d_model=15"),
        (["--memory-budget", "lots"], "--memory-budget lots is no size"),
        (["--device", "tpu9"], "tpu9"),
    ],
)
def test_costs_that_cannot_be_measured(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["cost", *arguments, "--out", str(tmp_path / "c")], message, capsys)


def test_defaults_are_those_of_the_measurement() -> None:
    assert configured(Options()) == CostConfig()


def test_the_group_says_what_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attention"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("show", "map", "cost"))
    refused(["mapp"], "did you mean map", capsys)
