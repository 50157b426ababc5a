"""A run on images of two kinds, quick enough to train in a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from diptych.core.config import DataConfig, OptimConfig, RunConfig, TrainConfig, TransformerConfig
from diptych.core.diffusion_config import PatchConfig


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
