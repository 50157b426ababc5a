"""`diptych stability` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diptych.cli.main import main
from diptych.cli.stability import Options, configured
from diptych.evaluation.stability import StabilityConfig

SMALL = ["--d-model", "16", "--n-heads", "2", "--sequence-length", "16", "--batch-size", "2", "--steps", "5"]
GRID = ["--norms", "none", "layer", "--placements", "pre", "--depths", "2", "1", "--learning-rates", "1e9", "1e-3"]


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"the sun rises from the east on day {day}\n" for day in range(100)))
    return str(path)


def test_a_sweep_from_the_command_line(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s"
    assert main(["stability", text, "--out", str(out), *SMALL, *GRID]) == 0
    shown = capsys.readouterr()
    assert (
        "runs, about" in shown.err and "normalization: none" in shown.out and "normalization: layer, pre" in shown.out
    )
    assert "×" in shown.out and "uniform guess (5.55)" in shown.out
    assert (out / "stability.png").read_bytes().startswith(b"\x89PNG")
    assert main(["stability", text, "--out", str(out), *SMALL, *GRID, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((out / "stability.json").read_text()) and len(record["runs"]) == 8
    assert main(["stability", text, "--out", str(out), *SMALL, *GRID, "--warmup", "2"]) == 2
    refused = capsys.readouterr().err
    assert "differs in warmup_steps" in refused and refused.count("\n") == 1


def test_ctrl_c_says_how_to_go_on(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from diptych.evaluation import stability

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stability, "outcome", interrupted)
        assert main(["stability", text, "--out", str(tmp_path / "s"), *SMALL, *GRID]) == 130
    assert "goes on from here" in capsys.readouterr().err
    assert main(["stability", text, "--out", str(tmp_path / "s"), *SMALL, *GRID]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["TEXT", "--depths", "0"], "depths must be at least 1"),
        (["TEXT", "--learning-rates", "-1"], "learning rates must be positive"),
        (["TEXT", "--d-model", "15"], "d_model=15"),
        (["TEXT", "--max-bytes", "lots"], "--max-bytes lots is no size"),
        (["TEXT", "--sequence-length", "100000"], "fewer than one sequence"),
        (["no/such/text"], "no/such/text"),
    ],
)
def test_wrong_input_is_one_line(
    text: str, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [text if a == "TEXT" else a for a in arguments]
    assert main(["stability", *arguments, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("diptych: ") and error.count("\n") == 1


def test_defaults_are_those_of_the_sweep() -> None:
    assert configured(Options()) == StabilityConfig()
