"""Runs on images of two kinds, quick enough to train in a test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from diptych.core.config import DataConfig, OptimConfig, RunConfig, TrainConfig, TransformerConfig
from diptych.core.diffusion_config import PatchConfig
from diptych.core.text_diffusion_config import TextDiffusionConfig
from diptych.training.run import train


def tiny_image_run(folder: Path, out: Path, *, count: int, heldout: float, lr: float) -> RunConfig:
    """A recipe on `count` images, kept in `folder`, that are bright in their upper or in their left half."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, count)
    pixels = generator.integers(0, 60, (count, 4, 4))
    pixels[labels == 0, :2] += 180
    pixels[labels == 1, :, :2] += 180
    np.savez(folder / "images.npz", image=pixels.astype(np.uint8), label=labels)
    return RunConfig(
        out=str(out),
        objective="gaussian",
        model=TransformerConfig(d_model=16, n_layers=2, n_heads=2, position="learned", patches=PatchConfig(size=2)),
        data=DataConfig(format="images", source=(str(folder / "images.npz"),), heldout_fraction=heldout),
        optim=OptimConfig(lr=lr, warmup_steps=2),
        train=TrainConfig(
            steps=12,
            batch_size=8,
            eval_every=4,
            eval_sequences=8,
            save_every=3,
            compile="off",
            dtype="float32",
            ema_lengths=(0.1, 0.2),
        ),
    )


def train_image_runs(folder: Path) -> dict[str, Path]:
    """Train runs of every paradigm on the same images, and return their folders; `told` knows the classes."""
    told = tiny_image_run(folder, folder / "told", count=60, heldout=0.2, lr=3e-3)
    gaussian = replace(
        told,
        out=str(folder / "gaussian"),
        model=replace(told.model, patches=PatchConfig(size=2, n_classes=0)),
    )
    pixels = replace(
        told,
        out=str(folder / "ar"),
        objective="autoregressive",
        model=TransformerConfig(d_model=16, n_layers=2, n_heads=2, position="learned", max_length=17),
        data=replace(told.data, format="pixels", sequence_length=16),
    )
    masked = replace(pixels, out=str(folder / "masked"), objective="masked_diffusion")
    blocks = TextDiffusionConfig(block_length=6)
    runs = {
        "ar": pixels,
        "masked": masked,
        "block": replace(masked, out=str(folder / "block"), text_diffusion=blocks),
        "uniform": replace(pixels, out=str(folder / "uniform"), objective="uniform_diffusion"),
        "gaussian": gaussian,
        "told": told,
    }
    for run in runs.values():
        assert train(run)
    return {name: Path(run.out) for name, run in runs.items()}
