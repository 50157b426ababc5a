"""Schedules against derivatives, integrals, normal quantiles and diffusers' tables."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler, betas_for_alpha_bar
from scipy import integrate, stats

from diptych.core.diffusion_config import DiffusionConfig, ScheduleName
from diptych.diffusion.schedules import Cosine, LogNormal, Schedule, StraightPath, VPLinear, build_schedule

SCHEDULES: dict[ScheduleName, Schedule] = {
    "vp_linear": VPLinear(),
    "cosine": Cosine(),
    "edm": LogNormal(),
    "flow": StraightPath(),
}
TIMES = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
def test_slope_is_the_derivative_and_time_the_inverse(name: ScheduleName) -> None:
    schedule = SCHEDULES[name]
    assert isinstance(schedule, Schedule) and build_schedule(DiffusionConfig(schedule=name)) == schedule
    time = TIMES.clone().requires_grad_()
    log_sigma = schedule.log_sigma(time)
    (derivative,) = torch.autograd.grad(log_sigma.sum(), time)
    assert torch.allclose(schedule.slope(TIMES), derivative, rtol=1e-9, atol=0)
    step = 1e-6
    difference = (schedule.log_sigma(TIMES + step) - schedule.log_sigma(TIMES - step)) / (2 * step)
    assert torch.allclose(schedule.slope(TIMES), difference, rtol=1e-4, atol=0)
    assert bool((derivative > 0).all())
    assert torch.allclose(schedule.time(log_sigma.detach()), TIMES, rtol=1e-9, atol=1e-12)
    levels = torch.linspace(-7.0, 5.0, 200, dtype=torch.float64)
    if name != "edm":  # at so much noise its distribution function is 1 up to rounding
        assert torch.allclose(schedule.log_sigma(schedule.time(levels)), levels, rtol=0, atol=1e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_alpha_is_what_the_kind_of_process_says(name: ScheduleName) -> None:
    schedule = SCHEDULES[name]
    sigma = schedule.log_sigma(TIMES).exp()
    alpha = schedule.alpha(sigma)
    preserved = {
        "vp_linear": alpha.square() + (alpha * sigma).square(),  # the variance
        "cosine": alpha.square() + (alpha * sigma).square(),
        "edm": alpha,  # the signal
        "flow": alpha + alpha * sigma,  # the weights' sum
    }[name]
    assert torch.allclose(preserved, torch.ones_like(sigma), rtol=0, atol=1e-12)


def test_the_normal_schedule_has_scipy_s_quantiles() -> None:
    expected = stats.norm.ppf(TIMES.numpy(), -1.2, 1.2)
    assert torch.allclose(LogNormal().log_sigma(TIMES), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_the_linear_schedule_is_its_integral_and_the_limit_of_ddpm_s_table() -> None:
    for time in (0.01, 0.4, 0.9):
        area, _ = integrate.quad(lambda t: 0.1 + 19.9 * t, 0.0, time, epsabs=1e-13)
        sigma = float(VPLinear().log_sigma(torch.tensor(time, dtype=torch.float64)).exp())
        assert math.log1p(sigma**2) == pytest.approx(area, rel=1e-12)
    errors = []
    for n in (1000, 2000, 4000):
        table = DDPMScheduler(n, beta_start=0.1 / n, beta_end=20.0 / n).betas.double()
        time = torch.arange(1, n + 1, dtype=torch.float64) / n
        left = VPLinear().alpha(VPLinear().log_sigma(time).exp()).square()
        errors.append(float((left - (1.0 - table).cumprod(0)).abs().max()))
    assert errors[0] < 5e-3
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(1.0, abs=0.05)  # of the first order in a step


@pytest.mark.parametrize("n", [50, 1000])
def test_the_cosine_schedule_is_diffusers_table_but_for_its_clipped_end(n: int) -> None:
    table = (1.0 - betas_for_alpha_bar(n).double()).cumprod(0)
    time = torch.arange(1, n, dtype=torch.float64) / n
    left = Cosine().alpha(Cosine().log_sigma(time).exp()).square()
    assert torch.allclose(left, table[:-1], rtol=0, atol=2e-7)  # the table's betas are in float32
    assert float(table[-1]) == pytest.approx(
        0.001 * float(table[-2]), rel=1e-4
    )  # theirs is clipped; the curve reaches 0


def test_the_straight_path_is_diffusers_one() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(1000, shift=1.0)
    time = scheduler.sigmas[1:].double()  # the first is 1: nothing but noise
    sigma = StraightPath().log_sigma(time).exp()
    alpha = StraightPath().alpha(sigma)
    assert torch.allclose(alpha * sigma, time, rtol=0, atol=1e-12)
    x_0, noise = torch.randn(999, 3, dtype=torch.float64), torch.randn(999, 3, dtype=torch.float64)
    theirs = scheduler.scale_noise(x_0, scheduler.timesteps[1:], noise)
    assert torch.allclose(alpha[:, None] * (x_0 + sigma[:, None] * noise), theirs.double(), rtol=0, atol=1e-6)
