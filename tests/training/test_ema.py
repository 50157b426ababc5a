"""Averages in power-function form: their profiles, their exact resumption, and any other length made of snapshots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from diptych.checkpoints.weights import load_tensors
from diptych.core.config import RunConfig, TrainConfig
from diptych.core.events import Event, Stepped, ignore
from diptych.training.distributed import joined
from diptych.training.ema import MovingAverage, PowerAverages, build_average, gamma_of, length_of
from diptych.training.loop import Trainer, fit
from diptych.training.post_hoc import (
    AVERAGES,
    MOST,
    coefficients,
    inner_products,
    read_snapshots,
    reconstruct,
    save_snapshot,
)
from diptych.training.prepare import prepare


def of_one_number() -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    return model.double()


@pytest.mark.parametrize(("length", "gamma"), [(0.05, 16.97), (0.1, 6.94)])
def test_widths_and_exponents_are_the_papers(length: float, gamma: float) -> None:
    assert gamma_of(length) == pytest.approx(gamma, abs=0.005)  # section 3.1 prints these two
    assert length_of(gamma_of(length)) == pytest.approx(length, rel=1e-12)
    # The width is the profile's standard deviation as a share of the time, here by summation over a fine grid.
    s = (np.arange(200_000) + 0.5) / 200_000
    weight = s ** gamma_of(length)
    mean = np.average(s, weights=weight)
    assert np.sqrt(np.average((s - mean) ** 2, weights=weight)) == pytest.approx(length, rel=1e-6)


def test_widths_without_a_profile_are_refused() -> None:
    for length in (0.0, -0.1, 0.29, float("nan")):
        with pytest.raises(ValueError, match="choose one above 0"):
            gamma_of(length)
    with pytest.raises(ValueError, match="different widths"):
        PowerAverages(of_one_number(), (0.1, 0.10))
    with pytest.raises(ValueError, match="set one of them"):
        build_average(of_one_number(), TrainConfig(ema_decay=0.9, ema_lengths=(0.1,)))
    assert build_average(of_one_number(), TrainConfig()) is None
    assert isinstance(build_average(of_one_number(), TrainConfig(ema_decay=0.9)), MovingAverage)


def test_a_tracked_average_weighs_each_step_by_the_integral_of_its_profile() -> None:
    model, values = of_one_number(), np.random.default_rng(0).normal(size=40)
    averages = PowerAverages(model, (0.05, 0.1, 0.2))
    for step, value in enumerate(values, 1):
        nn.init.constant_(model.weight, float(value))
        averages.update(step)
    for length, average in averages.averages.items():
        power = gamma_of(float(length)) + 1.0
        weight = np.diff((np.arange(41) / 40) ** power)  # the profile integrated over each step
        assert float(average["weight"]) == pytest.approx(float(weight @ values), rel=1e-9, abs=1e-12)
    with averages.swapped_in():
        assert float(model.weight.detach()) == pytest.approx(
            np.diff((np.arange(41) / 40) ** (gamma_of(0.05) + 1)) @ values
        )
    assert float(model.weight.detach()) == values[-1]


def test_inner_products_equal_numerical_integration() -> None:
    steps, gammas = np.array([30.0, 100.0, 100.0, 250.0]), np.array([16.97, 6.94, 16.97, 1.5])
    s = (np.arange(1_000_000) + 0.5) * (250.0 / 1_000_000)
    profiles = [
        np.where(s <= t, (g + 1) * (np.minimum(s, t) / t) ** g / t, 0.0) for t, g in zip(steps, gammas, strict=True)
    ]
    expected = [[float(a @ b) * (250.0 / 1_000_000) for b in profiles] for a in profiles]
    np.testing.assert_allclose(inner_products(steps, gammas, steps, gammas), expected, rtol=1e-5)


def _track(folder: Path, values: Tensor, lengths: tuple[float, ...], every: int) -> PowerAverages:
    """Average a path of one number in float64 and keep snapshots of it."""
    model = of_one_number()
    averages = PowerAverages(model, lengths)
    for step, value in enumerate(values.tolist(), 1):
        nn.init.constant_(model.weight, value)
        averages.update(step)
        if step % every == 0:
            save_snapshot(dict(averages.state()), folder / AVERAGES, step)
    return averages


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_paths_whose_averages_are_known_are_reconstructed(tmp_path: Path, power: float) -> None:
    """The average of s^n under exponent gamma is t^n (gamma + 1) / (gamma + n + 1)."""
    _track(tmp_path, torch.arange(1, 2001, dtype=torch.float64).sub(0.5).pow(power), (0.05, 0.1), every=100)
    for length, step in ((0.07, 2000), (0.12, 2000), (0.08, 1550)):
        gamma = gamma_of(length)
        expected = step**power * (gamma + 1) / (gamma + power + 1)
        found = float(reconstruct(tmp_path, length, step)["weight"])
        assert found == pytest.approx(expected, rel=3e-3)
        # Another length's average is not this one's: the test can fail.
        if power:
            other = step**power * (gamma_of(0.05) + 1) / (gamma_of(0.05) + power + 1)
            assert abs(found - expected) < 0.1 * abs(other - expected)


def test_a_length_that_was_kept_comes_back_as_it_was(tmp_path: Path) -> None:
    values = torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cumsum(0)
    averages = _track(tmp_path, values, (0.05, 0.1), every=50)
    for length in ("0.05", "0.1"):
        expected = float(averages.averages[length]["weight"])
        assert float(reconstruct(tmp_path, float(length))["weight"]) == pytest.approx(expected, rel=1e-6)
    found = coefficients(read_snapshots(tmp_path), 0.1, 500)
    np.testing.assert_allclose(found, [0.0] * 19 + [1.0], atol=1e-6)


def test_few_snapshots_stay_and_the_newest_among_them(tmp_path: Path) -> None:
    values = torch.linspace(0, 1, 3 * MOST, dtype=torch.float64)
    averages = _track(tmp_path, values, (0.05, 0.1, 0.15), every=1)
    files = sorted((tmp_path / AVERAGES).iterdir())
    assert len(files) <= MOST and files[-1].stem.endswith(str(len(values)))
    found = float(reconstruct(tmp_path, 0.15)["weight"])
    assert found == pytest.approx(float(averages.averages["0.15"]["weight"]), rel=1e-6)


def test_what_cannot_be_reconstructed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="ema_lengths"):
        reconstruct(tmp_path, 0.1)
    _track(tmp_path, torch.ones(20), (0.05, 0.1), every=10)
    with pytest.raises(ValueError, match="end at step 20"):
        reconstruct(tmp_path, 0.1, 21)
    with pytest.raises(ValueError, match="choose one above 0"):
        reconstruct(tmp_path, 0.5)
    (tmp_path / AVERAGES / "step-x.safetensors").write_bytes(
        (tmp_path / AVERAGES / "step-00000010.safetensors").read_bytes()
    )
    with pytest.raises(ValueError, match="no snapshot"):
        reconstruct(tmp_path, 0.1)


class _StoppedError(Exception):
    """The process ends here."""


def _trained(run: RunConfig, stop: int | None = None) -> Trainer:
    """Train from where the run is; `stop`: break off after the checkpoint of that step and what came after it."""

    def watch(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == stop:
            raise _StoppedError

    with joined("cpu") as world:
        trainer = Trainer(prepare(run, world, ignore), world, watch)
        trainer.resume()
        fit(trainer)
    return trainer


def test_a_third_length_of_a_real_run_is_made_of_two(tiny: Callable[..., RunConfig], tmp_path: Path) -> None:
    """Against the same run that tracked all three; and a run stopped and resumed keeps the same averages."""
    changes = {"train.steps": 120, "train.save_every": 10, "train.eval_every": 0, "model.n_layers": 1, "optim.lr": 1e-2}
    direct = _trained(tiny("direct", **changes, **{"train.ema_lengths": (0.1, 0.15, 0.2)}))
    run = tiny("two", **changes, **{"train.ema_lengths": (0.1, 0.2)})
    assert isinstance(direct.average, PowerAverages)
    with pytest.raises(_StoppedError):
        _trained(run, stop=64)
    _trained(run)
    for length in ("0.1", "0.2"):  # the resumed run is exact
        stored = load_tensors(tmp_path / "two" / AVERAGES / "step-00000120.safetensors")
        for name, value in direct.average.averages[length].items():
            assert torch.equal(stored[f"{length}/{name}"], value)
    found, tracked = reconstruct(tmp_path / "two", 0.15), direct.average.averages["0.15"]
    assert found.keys() == tracked.keys()
    error = sum(float((found[n] - v).square().sum()) for n, v in tracked.items())
    apart = sum(float((direct.average.averages["0.1"][n] - v).square().sum()) for n, v in tracked.items())
    assert error < 1e-3 * apart
    kept = load_tensors(tmp_path / "two" / "model.safetensors")  # the first is what was evaluated and kept
    for name, value in direct.average.averages["0.1"].items():
        assert torch.equal(kept[name], value)
