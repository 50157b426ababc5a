"""Recipes: what is written is read back, and every fault names its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.core.config import OptimConfig, RopeScaling, RunConfig, TransformerConfig
from diptych.core.recipe import differences, dotted_keys, load_json, load_toml, save_json, save_toml


def test_toml_and_json_round_trip(tmp_path: Path) -> None:
    run = RunConfig(
        out='runs/ö "x"',
        model=TransformerConfig(d_model=128, rope_scaling=RopeScaling(factor=4.0), n_kv_heads=2),
        optim=OptimConfig(betas=(0.8, 0.9)),
    )
    save_toml(run, tmp_path / "r.toml")
    save_json(run, tmp_path / "r.json")
    assert load_toml(RunConfig, tmp_path / "r.toml") == run
    assert load_json(RunConfig, tmp_path / "r.json") == run


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ("[optim]\nlearning_rate = 1", ["unknown key optim.learning_rate", "optim."]),
        ("[optim]\nweight_decy = 1", ["unknown key optim.weight_decy", "did you mean optim.weight_decay?"]),
        ("sequence_length = 3", ["unknown key sequence_length", "did you mean data.sequence_length?"]),
        ("[modle]\nd_model = 3", ["unknown key modle", "did you mean model?"]),
        ("[train]\nsteps = 'many'", ["train.steps", "many"]),
        ("[optim]\nname = 'sgd'", ["optim.name", "adamw"]),
        ("[model]\nd_model = 100\nn_heads = 3", ["d_model=100 is no multiple of n_heads=3"]),
        ("[train\nsteps = 1", ["no valid TOML"]),
    ],
)
def test_faults_name_the_key_and_the_remedy(tmp_path: Path, text: str, fragments: list[str]) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ValueError) as caught:
        load_toml(RunConfig, path)
    for fragment in [*fragments, "recipe.toml"]:
        assert fragment in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_wrong_bytes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no recipe"):
        load_toml(RunConfig, tmp_path / "none.toml")
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ValueError, match="no valid JSON"):
        load_json(RunConfig, tmp_path / "bad.json")


def test_differences_are_dotted_keys() -> None:
    changed = RunConfig(out="x", optim=OptimConfig(lr=2.0))
    assert sorted(differences(RunConfig(), changed)) == ["optim.lr", "out"]


def test_dotted_keys_reach_nested_optional_tables() -> None:
    assert {"optim.lr", "model.rope_scaling.factor", "out"} <= set(dotted_keys(RunConfig))
