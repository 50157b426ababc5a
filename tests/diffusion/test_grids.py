"""Grids of noise levels against their definitions and against diffusers'."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from diptych.diffusion.grids import karras, uniform_log_snr, uniform_time
from diptych.diffusion.schedules import Cosine, LogNormal, Schedule, StraightPath, VPLinear

SCHEDULES: list[Schedule] = [VPLinear(), Cosine(), LogNormal(), StraightPath()]


def test_karras_equals_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    scheduler.set_timesteps(18)
    assert karras(18) == pytest.approx(scheduler.sigmas.tolist(), rel=1e-5)


def test_karras_is_uniform_in_its_root() -> None:
    roots = torch.tensor(karras(10, 0.01, 50.0, rho=3.0, to_zero=False), dtype=torch.float64) ** (1.0 / 3.0)
    torch.testing.assert_close(roots.diff(), roots.diff()[:1].expand(10))


def test_log_snr_is_uniform() -> None:
    logs = torch.tensor(uniform_log_snr(10, 0.01, 50.0, to_zero=False), dtype=torch.float64).log()
    torch.testing.assert_close(logs.diff(), torch.full((10,), math.log(0.01 / 50.0) / 10, dtype=torch.float64))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_time_is_uniform(schedule: Schedule) -> None:
    grid = uniform_time(schedule, 10, 0.01, 50.0, to_zero=False)
    times = schedule.time(torch.tensor(grid, dtype=torch.float64).log())
    torch.testing.assert_close(times.diff(), times.diff()[:1].expand(10), rtol=1e-7, atol=0.0)


@pytest.mark.parametrize("steps", [1, 2, 9])
@pytest.mark.parametrize("to_zero", [True, False])
def test_ends_and_order(steps: int, to_zero: bool) -> None:
    grids = [karras(steps, 0.01, 50.0, to_zero=to_zero), uniform_log_snr(steps, 0.01, 50.0, to_zero=to_zero)]
    grids += [uniform_time(schedule, steps, 0.01, 50.0, to_zero=to_zero) for schedule in SCHEDULES]
    for grid in grids:
        assert len(grid) == steps + 1
        assert all(a > b for a, b in pairwise(grid))
        assert grid[0] == 50.0
        assert grid[-1] == (0.0 if to_zero else 0.01)
        assert not to_zero or steps == 1 or grid[-2] == 0.01


def test_refuses_what_is_no_grid() -> None:
    with pytest.raises(ValueError, match="steps=0"):
        karras(0)
    with pytest.raises(ValueError, match="rho=0"):
        karras(5, rho=0.0)
    for low, high in ((0.0, 1.0), (2.0, 1.0), (1.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
            uniform_log_snr(5, low, high)
    with pytest.raises(ValueError, match="do not differ"):
        uniform_time(LogNormal(), 5, 1e30, 1e31)
