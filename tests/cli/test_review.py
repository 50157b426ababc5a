"""`diptych review --pretrained` as a user calls it: what cannot be measured is said before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diptych.checkpoints.run_folder import save_weights
from diptych.cli.main import main
from diptych.core.config import RECIPE, RunConfig, TransformerConfig
from diptych.core.recipe import save_toml
from diptych.models.network import build_network, initialize
from diptych.tokenizers.simple import ByteTokenizer


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Models of which no effective context length can be told."""
    config = TransformerConfig(vocab_size=264, d_model=16, n_layers=1, n_heads=2, max_length=32)
    model = build_network(config)
    initialize(model, torch.Generator().manual_seed(0))
    for name in ("short", "denoiser"):
        save_weights(dict(model.named_parameters()), config, tmp_path / name)
        ByteTokenizer().save(tmp_path / name / "tokenizer.json")
    save_toml(RunConfig(out="denoiser", objective="masked_diffusion"), tmp_path / "denoiser" / RECIPE)
    (tmp_path / "notes.txt").write_text("no model")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "there is no run folder"),
        ("notes.txt", "is no model"),
        ("denoiser", "does not continue text"),
        ("short", "claims 32 tokens, and what is asked does not fit them"),
    ],
)
def test_a_pretrained_model_that_cannot_be_asked_is_refused_before_the_training(
    models: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    out = models / "review"
    assert main(["review", "--pretrained", str(models / name), "--out", str(out)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("diptych: ") and said in line and str(models / name) in line
    assert not out.exists()
