"""A tiny run on a small text, quick enough to train many times."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diptych.core.config import DataConfig, OptimConfig, RunConfig, TokenizerConfig, TrainConfig, TransformerConfig


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small documents with something to learn: sentences from a tiny grammar."""
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(0)
    for index in range(60):
        words = [draw.choice(["the sun", "a moon", "one star"]) + draw.choice([" rises", " sets"]) for _ in range(12)]
        (folder / f"{index:02d}.txt").write_text(". ".join(words) + ".\n")
    return folder


@pytest.fixture
def tiny(text: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """A recipe whose keys can be changed: tiny(out="x", **{"train.steps": 3})."""

    def make(out: str = "run", **changes: Any) -> RunConfig:
        return changed(tiny_run(text, tmp_path / out), **changes)

    return make


def tiny_run(text: Path, out: Path) -> RunConfig:
    """A recipe of a few seconds."""
    return RunConfig(
        out=str(out),
        model=TransformerConfig(d_model=32, n_layers=2, n_heads=2, max_length=32),
        data=DataConfig(source=(str(text),), sequence_length=32, heldout_fraction=0.2),
        tokenizer=TokenizerConfig(kind="byte"),
        optim=OptimConfig(lr=3e-3, warmup_steps=2),
        train=TrainConfig(
            steps=12, batch_size=4, eval_every=4, eval_sequences=4, save_every=3, compile="off", dtype="float32"
        ),
    )


def changed(run: RunConfig, **changes: Any) -> RunConfig:
    """A recipe with other values of some dotted keys."""
    for key, value in changes.items():
        part, _, name = key.rpartition(".")
        new = dataclasses.replace(getattr(run, part), **{name: value}) if part else value
        run = dataclasses.replace(run, **{part or name: new})
    return run


def losses(out: str | Path) -> dict[int, float]:
    """Training loss of every step in a run's metrics."""
    lines = (Path(out) / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return {record["step"]: record["loss"] for record in records if record["kind"] == "step"}


def command(*arguments: str) -> list[str]:
    """`diptych ...` with the interpreter of the tests."""
    return [sys.executable, "-m", "diptych", *arguments]


def start(recipe: Path, *arguments: str, threads: int = 1) -> subprocess.Popen[bytes]:
    """`diptych train RECIPE ...` as its own process."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    return subprocess.Popen(
        command("train", str(recipe), *arguments), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
