"""Schedules of the share of tokens that are left: ends, derivatives, inverses."""

from __future__ import annotations

import math

import pytest
import torch

from diptych.diffusion.discrete import AlphaSchedule, build_alpha_schedule

FORMULAS = {
    "linear": lambda t: 1.0 - t,
    "cosine": lambda t: 1.0 - math.cos(0.5 * math.pi * (1.0 - t)),
    "square": lambda t: 1.0 - t * t,
}


@pytest.mark.parametrize("name", FORMULAS)
def test_schedules_are_their_formulas_with_their_slopes_and_inverses(name: str) -> None:
    schedule = build_alpha_schedule(name)
    assert isinstance(schedule, AlphaSchedule)
    time = torch.linspace(0.0, 1.0, 401, dtype=torch.float64)
    alpha = schedule.alpha(time)
    expected = torch.tensor([FORMULAS[name](t) for t in time.tolist()], dtype=torch.float64)
    assert torch.allclose(alpha, expected, rtol=0, atol=1e-15)
    assert abs(float(alpha[0]) - 1.0) < 1e-15 and float(alpha[-1]) == 0.0 and bool((alpha.diff() < 0).all())
    inside = time[1:-1].clone().requires_grad_()
    (derivative,) = torch.autograd.grad(schedule.alpha(inside).sum(), inside)
    assert torch.allclose(schedule.slope(inside.detach()), derivative, rtol=1e-13, atol=0)
    assert torch.allclose(schedule.time(alpha), time, rtol=0, atol=1e-13)
