"""`diptych tokenizer study` as a user calls it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from diptych.cli.main import main
from diptych.cli.tokenizer.study import Options, configured, remarks
from diptych.core.recipe import load_json
from diptych.evaluation.vocabulary import Study


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    texts, draw = folder / "texts", random.Random(0)
    texts.mkdir()
    for index in range(40):
        words = draw.choices(["sun", "moon", "star", "rises", "sets", "from", "the", "east", "west"], k=60)
        (texts / f"{index}.txt").write_text(" ".join(words))
    (folder / "recipe.toml").write_text(
        f"""
[model]
preset = "llama-tiny"
n_layers = 1
d_model = 16
n_heads = 2
max_length = 16
[data]
source = ["{texts}"]
sequence_length = 16
heldout_fraction = 0.2
[train]
steps = 9
batch_size = 2
compile = "off"
dtype = "float32"
"""
    )
    return folder / "recipe.toml"


def study(recipe: Path, out: Path, *more: str) -> int:
    options = ["--model", str(recipe), "--out", str(out), "--sizes", "280", "257", *more]
    return main(["tokenizer", "study", *options])


def test_a_study_from_the_command_line(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study(recipe, tmp_path / "s", "--seeds", "2") == 0
    shown = capsys.readouterr()
    assert "about" in shown.err  # how long it will take
    assert shown.out.count("optimum") >= 1 and "±" in shown.out and "spread among seeds" in shown.out
    assert (tmp_path / "s" / "study.png").read_bytes().startswith(b"\x89PNG")
    kept = load_json(Study, tmp_path / "s" / "study.json")
    assert kept.config.sizes == (257, 280)
    assert f"{kept.vocabularies[1].embedding_parameters:,}" in shown.out

    assert study(recipe, tmp_path / "s", "--seeds", "2", "--json") == 0
    record = json.loads(capsys.readouterr().out)
    means = {row["size"]: row["bits_per_byte"] for row in record["rows"]}
    assert record["best"] == min(means, key=lambda size: means[size])
    assert record["scores"] == json.loads((tmp_path / "s" / "study.json").read_text())["scores"]

    assert study(recipe, tmp_path / "s", "--steps", "11") == 2
    refused = capsys.readouterr().err
    assert "another" in refused and "run.train.steps" in refused and refused.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stdlib", "--sizes", "100", "300"], "at least 257 tokens, not 100"),
        (["stdlib", "--sizes", "300", "512", "300"], "size 300 is given twice"),
        (["stdlib", "--sizes", "300"], "at least two sizes"),
        ([], "name the text to learn from"),
        (["no/such/texts"], "there is no file or folder no/such/texts"),
        (["stdlib", "--model", "llama-tny"], "did you mean llama-tiny?"),
        (["stdlib", "--model", "none.toml"], "none.toml"),
        (["stdlib", "--out", "FILE"], "is a file; name a folder"),
        (["stdlib", "--steps", "5", "--flops", "1e9"], "either --steps or --flops"),
        (["stdlib", "--max-bytes", "lots"], "--max-bytes lots is no size"),
        (["stdlib", "--seeds", "0"], "seeds=0"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FILE").write_text("")
    arguments = [str(tmp_path / "FILE") if a == "FILE" else a for a in arguments]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "out")]
    assert main(["tokenizer", "study", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("diptych: ") and error.count("\n") == 1


def test_options_reach_the_study(recipe: Path) -> None:
    config = configured(
        Options(
            source=("a", "b"),
            model=str(recipe),
            seed=3,
            batch_size=4,
            split="o200k",
            text_field="body",
            max_bytes="2MB",
        )
    )
    run = config.run
    assert run.data.source == ("a", "b") and run.data.text_field == "body" and run.data.max_bytes == 2_000_000
    assert (run.train.seed, run.train.batch_size, run.train.steps) == (3, 4, 9)
    assert run.tokenizer.split == "o200k" and run.model.d_model == 16
    # A published shape brings its own vocabulary, which the study replaces.
    assert configured(Options(source=("stdlib",), model="gpt2")).run.model.vocab_size == 0


def test_remarks_name_an_optimum_at_the_end(recipe: Path, tmp_path: Path) -> None:
    assert study(recipe, tmp_path / "s") == 0
    kept = load_json(Study, tmp_path / "s" / "study.json")
    end = "smallest" if kept.best.vocabulary.size == 257 else "largest"
    text = "\n".join(remarks(kept))
    assert f"the optimum is the {end} size tried" in text and "--seeds 3" in text
