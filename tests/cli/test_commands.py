"""Commands as a user calls them: they work, and wrong input gives one line and exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diptych.cli.main import COMMANDS, GROUPS, main
from diptych.cli.review import seconds


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder, trained by the command itself."""
    folder = tmp_path_factory.mktemp("cli")
    texts = folder / "texts"
    texts.mkdir()
    for index in range(40):
        (texts / f"{index}.txt").write_text(f"the sun rises from the east on day {index}. " * 6)
    (folder / "recipe.toml").write_text(
        f"""
out = "{folder / "run"}"
[model]
preset = "llama-tiny"
n_layers = 2
d_model = 32
n_heads = 2
max_length = 32
[tokenizer]
vocab_size = 300
[data]
source = ["{texts}"]
sequence_length = 32
heldout_fraction = 0.2
[train]
steps = 30
batch_size = 8
eval_every = 0
compile = "off"
"""
    )
    assert main(["train", str(folder / "recipe.toml"), "--train.steps", "40", "--optim.lr", "3e-3"]) == 0
    return folder / "run"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "diptych", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line by which a call is refused."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("diptych: ")]
    assert len(lines) == 1 and "Traceback" not in error, error
    return lines[0]


def test_overrides_and_presets_reach_the_recipe(trained: Path) -> None:
    recipe = (trained / "recipe.toml").read_text()
    assert "steps = 40" in recipe and "lr = 0.003" in recipe
    config = json.loads((trained / "config.json").read_text())
    assert config["n_layers"] == 2 and config["n_kv_heads"] == 2  # the preset's, and the recipe's change of it


def test_generate_is_seeded_and_streams_the_prompt(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for seed in ("1", "1", "2"):
        assert main(["generate", str(trained), "--prompt", "the sun", "--max-new-tokens", "20", "--seed", seed]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    assert all(out.startswith("the sun") for out in outputs)


def test_generate_json_many_prompts_stops_and_samples(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("the\nthe sun rises from\n")
    arguments = ["--prompt", "on day", "--prompt-file", str(tmp_path / "prompts.txt"), "--samples", "2", "--json"]
    assert main(["generate", str(trained), *arguments, "--max-new-tokens", "12", "--stop", "rises"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["prompt"] for r in records] == ["on day"] * 2 + ["the"] * 2 + ["the sun rises from"] * 2
    for record in records:
        assert len(record["ids"]) == len(record["log_probabilities"]) <= 12
        assert "rises" not in record["text"] and all(p <= 0 for p in record["log_probabilities"])


def test_generate_shows_probabilities_and_beams(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(trained), "--prompt", "the", "--show-probabilities", "--max-new-tokens", "3"]) == 0
    out = capsys.readouterr().out
    assert "step 1" in out and "→" in out and "0." in out
    assert main(["generate", str(trained), "--prompt", "the", "--beams", "3", "--max-new-tokens", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["log_probability"] < 0


def test_evaluate_agrees_with_itself_and_beats_nothing_it_should_not(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("the sun rises from the east on day 7. " * 20)
    scores = []
    for stride in ("8", "32"):
        assert main(["evaluate", str(trained), str(tmp_path / "text.txt"), "--stride", stride, "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0]["n_bytes"] == scores[1]["n_bytes"] == 38 * 20
    assert scores[0]["n_tokens"] == scores[1]["n_tokens"]
    assert scores[0]["bits_per_byte"] < scores[1]["bits_per_byte"] < 3  # more context predicts better
    assert main(["evaluate", str(trained), str(tmp_path), "--yardsticks"]) == 0
    assert "xz -9e" in capsys.readouterr().out


def test_info_counts_what_the_file_holds(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors import safe_open

    assert main(["info", str(trained), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    with safe_open(trained / "model.safetensors", "pt") as file:
        total = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert record["parameters"]["total"] == total
    assert main(["info", "llama-3"]) == 0
    assert "8,030,261,248" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["trian"], ["unknown command trian", "did you mean train?"]),
        (["train"], ["name a recipe file or a preset"]),
        (["train", "gpt2-tny"], ["did you mean gpt2-tiny?"]),
        (["train", "none.toml"], ["there is no recipe none.toml"]),
        (["train", "gpt2-tiny", "--data.source", "nowhere"], ["there is no file or folder nowhere"]),
        (["generate", "nowhere"], ["there is no run folder nowhere"]),
        (["generate", "{run}", "--temperature", "-1"], ["temperature=-1"]),
        (["generate", "{run}", "--samples", "0"], ["--samples"]),
        (["generate", "{run}", "--device", "warp"], ["device 'warp' cannot be used here"]),
        (["evaluate", "{run}"], ["name the data to score"]),
        (["evaluate", "{run}", "nowhere.txt"], ["there is no file or folder nowhere.txt"]),
        (["evaluate", "{run}", "{empty}"], ["holds no text to score"]),
        (["evaluate", "{run}", "{binary}"], ["is binary"]),
        (["evaluate", "{run}", "{latin}"], ["is not UTF-8", "offset 3"]),
        (["evaluate", "{run}", "{texts}", "--stride", "33"], ["stride must lie between 1 and"]),
        (["info", "nowhere"], ["there is no run folder nowhere"]),
        (["review", "--budget", "soon"], ["--budget soon is no duration"]),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], fragments: list[str]
) -> None:
    files = {"empty": b"", "binary": b"\x7fELF\0\0", "latin": "caf\xe9".encode("latin1"), "texts": b"some text here"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    places = {"run": str(trained), **{name: str(tmp_path / name) for name in files}}
    line = refused(capsys, *[a.format(**places) for a in arguments])
    for fragment in fragments:
        assert fragment in line


@pytest.mark.parametrize("text", [b"", b"abc"])
def test_too_little_text_is_refused_and_nothing_is_left_half_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: bytes
) -> None:
    for index in range(3):
        (tmp_path / f"{index}.txt").write_bytes(text)
    line = refused(capsys, "train", "llama-tiny", "--data.source", str(tmp_path), "--out", str(tmp_path / "run"))
    assert any(f in line for f in ("holds no text", "held-out share", "fewer than one sequence", "no text to learn"))


@pytest.mark.parametrize(
    ("file", "data", "fragments"),
    [
        ("model.safetensors", b"\x80\x04pickle", ["model.safetensors is damaged"]),
        ("model.safetensors", None, ["holds no model.safetensors"]),
        ("config.json", b"{}", ["embeds only 0"]),
        ("config.json", b'{"d_modle": 3}', ["unknown key d_modle", "did you mean d_model?"]),
        ("tokenizer.json", b"[]", ["tokenizer.json"]),
        ("tokenizer.json", None, ["there is no tokenizer"]),
    ],
)
def test_a_damaged_run_folder_is_refused_in_one_line(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    data: bytes | None,
    fragments: list[str],
) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors", "recipe.toml"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    if data is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(data)
    line = refused(capsys, "generate", str(tmp_path), "--prompt", "the")
    for fragment in fragments:
        assert fragment in line


def test_a_tokenizer_of_another_vocabulary_is_refused(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 280}))
    assert "embeds only 280" in refused(capsys, "generate", str(tmp_path), "--prompt", "the")


@pytest.mark.parametrize("name", [*COMMANDS, *(f"{group} {name}" for group in GROUPS for name in GROUPS[group])])
def test_every_command_has_help(name: str) -> None:
    result = run(*name.split(), "--help", COLUMNS="120")
    assert result.returncode == 0
    assert f"diptych {name}" in result.stdout and len(result.stdout) > 200


def test_wrong_options_exit_with_2(trained: Path) -> None:
    result = run("generate", str(trained), "--temprature", "1")
    assert result.returncode == 2 and "temperature" in result.stdout + result.stderr


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    heavy = "('torch', 'numpy', 'numba', 'tyro', 'pydantic')"
    found = f"print([m for m in {heavy} if m in sys.modules])"
    code = f"import sys; from diptych.cli.main import main; main(['--help']); {found}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    start = time.perf_counter()
    run("--help")
    assert time.perf_counter() - start < 5  # the benchmark measures it; this only catches a heavy import


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("6m", 360), ("1.5h", 5400), ("45", 45)])
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected
