"""Tiny runs of every paradigm on the same text, quick enough to train in a test."""

from __future__ import annotations

import random
from pathlib import Path

from diptych.core.config import (
    DataConfig,
    ObjectiveName,
    OptimConfig,
    RunConfig,
    TokenizerConfig,
    TrainConfig,
    TransformerConfig,
)
from diptych.core.text_diffusion_config import TextDiffusionConfig
from diptych.training.run import train

KINDS: dict[str, tuple[ObjectiveName, int | None]] = {
    "ar": ("autoregressive", None),
    "masked": ("masked_diffusion", None),
    "block": ("masked_diffusion", 4),
    "uniform": ("uniform_diffusion", None),
}


def text_run(folder: Path, kind: str) -> RunConfig:
    """The recipe of one paradigm; `folder`/texts holds the text."""
    objective, block = KINDS[kind]
    return RunConfig(
        out=str(folder / kind),
        objective=objective,
        text_diffusion=TextDiffusionConfig(block_length=block),
        model=TransformerConfig(d_model=32, n_layers=2, n_heads=2, max_length=32),
        data=DataConfig(source=(str(folder / "texts"),), sequence_length=32, heldout_fraction=0.2, document_mask=False),
        tokenizer=TokenizerConfig(kind="byte", special_tokens=("<|mask|>",)),
        optim=OptimConfig(lr=3e-3, warmup_steps=2),
        train=TrainConfig(
            steps=12, batch_size=8, eval_every=4, eval_sequences=8, save_every=12, compile="off", dtype="float32"
        ),
    )


def train_text_runs(folder: Path) -> dict[str, Path]:
    """Write the text, train a run of each kind, and return their folders."""
    draw = random.Random(0)
    (folder / "texts").mkdir()
    for index in range(60):
        words = [draw.choice(["the sun", "a moon", "one star"]) + draw.choice([" rises", " sets"]) for _ in range(12)]
        (folder / "texts" / f"{index:02d}.txt").write_text(". ".join(words) + ".\n")
    for kind in KINDS:
        assert train(text_run(folder, kind))
    return {kind: folder / kind for kind in KINDS}
