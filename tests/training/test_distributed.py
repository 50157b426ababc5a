"""Two gloo processes give the losses of one, and their checkpoints reload in one."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from diptych.core.config import RunConfig
from diptych.core.recipe import save_toml
from diptych.training.run import train

from .conftest import losses

Tiny = Callable[..., RunConfig]


def torchrun(recipe: Path) -> subprocess.CompletedProcess[str]:
    arguments = [
        "--nproc-per-node",
        "2",
        "--master-port",
        "0",
        "--rdzv-backend",
        "c10d",
        "--rdzv-endpoint",
        "localhost:0",
    ]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *arguments, "-m", "diptych", "train", str(recipe)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_two_processes_equal_one(tiny: Tiny, tmp_path: Path, engine: str) -> None:
    changes = {"train.distributed": engine, "train.ema_decay": 0.9, "train.micro_batch_size": 1}
    two = tiny("two", **changes)
    half = dataclasses.replace(two, train=dataclasses.replace(two.train, steps=9))
    save_toml(half, tmp_path / "two.toml")
    result = torchrun(tmp_path / "two.toml")
    assert result.returncode == 0, result.stderr[-2000:]
    # The schedule looks at the number of steps, so the single process stops where the two did.
    alone = tiny("alone", **changes, **{"train.steps": 9})
    train(alone)
    assert list(losses(two.out).values()) == pytest.approx(list(losses(alone.out).values()), rel=2e-4)
    # The two processes' checkpoint goes on in one process as if there had been only one.
    train(two)
    train(dataclasses.replace(alone, train=two.train))
    assert list(losses(two.out).values()) == pytest.approx(list(losses(alone.out).values()), rel=2e-4)
    assert sorted(losses(two.out)) == list(range(1, 13))


@pytest.mark.slow
def test_an_uneven_batch_is_refused_in_one_line(tiny: Tiny, tmp_path: Path) -> None:
    save_toml(tiny(**{"train.batch_size": 3}), tmp_path / "odd.toml")
    result = torchrun(tmp_path / "odd.toml")
    assert "train.batch_size=3 is no multiple of the 2 processes" in result.stderr
