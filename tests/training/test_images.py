"""Training on images: it learns, it resumes bit for bit, noise included, and what does not fit together is refused."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diptych.checkpoints.image_model import open_image_model
from diptych.core.config import RunConfig
from diptych.core.diffusion_config import PatchConfig
from diptych.core.recipe import save_toml
from diptych.training.run import train

from ..image_runs import tiny_image_run
from .conftest import changed, losses, start

Tiny = Callable[..., RunConfig]


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    """A recipe of a few seconds whose keys can be changed: tiny(out="x", **{"train.steps": 3})."""

    def make(out: str = "run", **changes: Any) -> RunConfig:
        return changed(tiny_image_run(tmp_path, tmp_path / out, count=80, heldout=0.2, lr=3e-3), **changes)

    return make


def test_it_learns_and_opens(tiny: Tiny) -> None:
    run = tiny(**{"train.steps": 150, "train.batch_size": 32, "train.eval_every": 50})
    assert train(run)
    values = list(losses(run.out).values())
    assert np.mean(values[-20:]) < 0.6 * np.mean(values[:5])
    opened = open_image_model(Path(run.out))
    assert opened.shape == (1, 4, 4) and opened.levels == 256 and opened.classes == ("0", "1")


@pytest.mark.slow
def test_sigkill_at_any_moment_loses_nothing(tiny: Tiny, tmp_path: Path) -> None:
    changes = {"train.steps": 60, "train.save_every": 2, "train.eval_every": 5}
    whole, killed = tiny("whole", **changes), tiny("killed", **changes)
    for run in (whole, killed):
        save_toml(run, tmp_path / f"{Path(run.out).name}.toml")
    assert start(tmp_path / "whole.toml").wait() == 0
    for pause in (0.0, 0.2):
        process = start(tmp_path / "killed.toml")
        deadline, before = time.monotonic() + 60, _size(killed)
        while _size(killed) == before and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(pause)
        process.kill()
        process.wait()
    assert start(tmp_path / "killed.toml").wait() == 0
    assert losses(killed.out) == losses(whole.out)
    for name in ("model.safetensors", "state/step-00000060/average.safetensors"):
        assert (Path(whole.out) / name).read_bytes() == (Path(killed.out) / name).read_bytes()


def _size(run: RunConfig) -> int:
    path = Path(run.out) / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def test_micro_batches_change_nothing(tiny: Tiny) -> None:
    whole, parts = tiny("whole"), tiny("parts", **{"train.micro_batch_size": 3})
    train(whole)
    train(parts)
    assert list(losses(parts.out).values()) == pytest.approx(list(losses(whole.out).values()), rel=2e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "autoregressive"}, "set all three"),
        ({"model.patches": None}, "set all three"),
        ({"model.patches": PatchConfig(size=3)}, "not cut into patches"),
        ({"model.patches": PatchConfig(height=8)}, "the images have 4"),
        ({"model.patches": PatchConfig(n_classes=5)}, "the images have 2 classes"),
        ({"init": "runs/other"}, "leave init"),
    ],
)
def test_what_does_not_fit_together_is_refused(tiny: Tiny, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(tiny(**changes))


def test_a_network_may_know_no_classes(tiny: Tiny) -> None:
    run = tiny(**{"model.patches": PatchConfig(n_classes=0), "train.steps": 2})
    train(run)
    assert open_image_model(Path(run.out)).classes == ()
    assert dataclasses.asdict(open_image_model(Path(run.out)).model.config)["patches"]["height"] == 4
