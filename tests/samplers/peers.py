"""Runs the schedulers of diffusers on our denoisers and grids, in double precision where they let us."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diptych.core.types import Denoiser


def run_diffusers(
    scheduler: Any,
    denoise: Denoiser,
    x: Tensor,
    sigmas: Sequence[float],
    *,
    variance_preserving: bool = False,
    twice: bool = False,
    noise: Any = None,
) -> Tensor:
    """Where a scheduler with prediction_type="sample" gets from x = x_0 + sigma eps along `sigmas`.

    variance_preserving: its own state is alpha x with alpha = 1 / sqrt(1 + sigma^2). twice: it takes each noise level
    but the first and the last twice, as Heun's does.
    """
    levels = list(sigmas[:-1])
    if twice:
        levels = [levels[0], *(level for level in levels[1:] for _ in range(2))]
    scheduler.set_timesteps(len(sigmas) - 1)
    scheduler.sigmas = torch.tensor([*levels, sigmas[-1]], dtype=torch.float64)
    scheduler.timesteps = torch.arange(len(levels), dtype=torch.float64)
    scheduler.set_begin_index(0)
    scheduler.is_scale_input_called = True

    def alpha(sigma: float) -> float:
        return (1.0 + sigma**2) ** -0.5 if variance_preserving else 1.0

    state = x * alpha(levels[0])
    for step, sigma in enumerate(levels):
        denoised = denoise(state / alpha(sigma), x.new_full((x.shape[0],), sigma))
        options = {} if noise is None else {"variance_noise": noise(step)}
        state = scheduler.step(denoised, scheduler.timesteps[step], state, **options).prev_sample.to(x.dtype)
    return state / alpha(sigmas[-1])
