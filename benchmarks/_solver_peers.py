"""Runs the solvers of diffusers and k-diffusion on a denoiser and a grid of ours."""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Solve = Callable[[Any, Tensor, Sequence[float]], Tensor]


def diffusers_solvers() -> dict[str, Solve]:
    """Those of the names of our solvers, otherwise as they come."""
    from diffusers import (
        DPMSolverMultistepScheduler,
        EulerDiscreteScheduler,
        HeunDiscreteScheduler,
        UniPCMultistepScheduler,
    )

    sample = {"prediction_type": "sample"}
    return {
        "euler": _solve(lambda: EulerDiscreteScheduler(**sample)),
        "heun": _solve(lambda: HeunDiscreteScheduler(**sample), twice=True),
        "dpmpp_2m": _solve(lambda: DPMSolverMultistepScheduler(solver_order=2, **sample), preserving=True),
        "dpmpp_3m": _solve(lambda: DPMSolverMultistepScheduler(solver_order=3, **sample), preserving=True),
        "unipc_2": _solve(lambda: UniPCMultistepScheduler(solver_order=2, **sample), preserving=True),
        "unipc_3": _solve(lambda: UniPCMultistepScheduler(solver_order=3, **sample), preserving=True),
    }


def _solve(make: Callable[[], Any], *, twice: bool = False, preserving: bool = False) -> Solve:
    def run(denoise: Any, x: Tensor, sigmas: Sequence[float]) -> Tensor:
        scheduler = make()
        levels = list(sigmas[:-1])
        if twice:
            levels = [levels[0], *(level for level in levels[1:] for _ in range(2))]
        scheduler.set_timesteps(len(sigmas) - 1)
        scheduler.sigmas = torch.tensor([*levels, sigmas[-1]], dtype=torch.float64)
        scheduler.timesteps = torch.arange(len(levels), dtype=torch.float64)
        scheduler.set_begin_index(0)
        scheduler.is_scale_input_called = True
        alphas = [(1.0 + sigma**2) ** -0.5 if preserving else 1.0 for sigma in levels]
        state = x * alphas[0]
        for t, alpha, sigma in zip(scheduler.timesteps, alphas, levels, strict=True):
            denoised = denoise(state / alpha if preserving else state, x.new_full((x.shape[0],), sigma))
            state = scheduler.step(denoised, t, state, return_dict=False)[0].to(x.dtype)
        return state

    return run


def k_diffusion_solvers() -> dict[str, Solve]:
    """Those of k-diffusion, its third order without noise; empty where it is not at hand.

    Its wheel, unpacked at $DIPTYCH_K_DIFFUSION, is enough: what its samplers import for other purposes is stood in for.
    """
    folder = os.environ.get("DIPTYCH_K_DIFFUSION")
    if folder:
        for name in ("torchdiffeq", "torchsde", "torchvision", "torchvision.transforms"):
            sys.modules.setdefault(name, types.ModuleType(name))
        sys.modules["torchdiffeq"].odeint = None  # type: ignore[attr-defined]
        sys.modules["torchvision.transforms"].functional = None  # type: ignore[attr-defined]
        package = types.ModuleType("k_diffusion")
        package.__path__ = [str(Path(folder) / "k_diffusion")]
        sys.modules["k_diffusion"] = package
    try:
        sampling = importlib.import_module("k_diffusion.sampling")
    except ImportError:
        return {}
    quiet = {"disable": True}

    def named(name: str, **options: Any) -> Solve:
        return lambda denoise, x, sigmas: getattr(sampling, name)(
            denoise, x, torch.tensor(sigmas, dtype=x.dtype), **quiet, **options
        )

    return {
        "euler": named("sample_euler"),
        "heun": named("sample_heun"),
        "dpmpp_2m": named("sample_dpmpp_2m"),
        "dpmpp_3m": named("sample_dpmpp_3m_sde", eta=0.0, noise_sampler=lambda *_: 0.0),
    }
