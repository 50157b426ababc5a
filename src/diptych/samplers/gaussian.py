"""How are images drawn from a denoiser?

Noise of the highest level, then a solver down a grid of levels. All noise is keyed by (seed, step, sample id), so an
image does not depend on what else is drawn beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, final

import torch
from jaxtyping import Int
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.types import Denoiser, Frame
from diptych.diffusion.grids import karras, uniform_log_snr, uniform_time
from diptych.diffusion.schedules import Schedule
from diptych.samplers.solvers import SOLVERS, Solver, SolverFunction, SolverName, abm_2, abm_3, heun

GridName = Literal["karras", "log_snr", "time"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRequest:
    """Which images: their `shape` (c, h, w), and `sample_ids` (b), which number them for their noise; images come on
    the ids' device.

    Raises ValueError where there is nothing to draw.
    """

    shape: tuple[int, ...]
    sample_ids: Int[Tensor, " b"]

    def __post_init__(self) -> None:
        if self.sample_ids.dim() != 1 or not len(self.sample_ids):
            raise ValueError("sample_ids must be one row of at least one number")
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"an image of shape {self.shape} has no pixels")


@final
@dataclass(frozen=True, kw_only=True)
class GaussianSampler:
    """Runs a solver in `steps` steps along a grid of noise levels, from sigma_max to sigma_min and, by default, to 0.

    solver: a name of `SOLVERS`. grid: `karras`, uniform in sigma^(1/rho); `log_snr`, uniform in ln sigma; `time`,
    uniform in the time of `schedule`. s_churn, s_tmin, s_tmax, s_noise: see `heun`, the only solver that has them.
    sigma_data: deviation of the data, about, by which `abm_2` and `abm_3` know their angle; others do not use it.

    Raises ValueError for numbers out of range and for choices that contradict each other.
    """

    solver: SolverName = "unipc_3"
    steps: int = 20
    grid: GridName = "karras"
    schedule: Schedule | None = None
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    to_zero: bool = True
    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0
    sigma_data: float = 0.5
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f"there is no solver '{self.solver}'; choose one of {', '.join(SOLVERS)}")
        if self.grid == "time" and self.schedule is None:
            raise ValueError("the grid 'time' is uniform in a schedule's time, and no schedule is given")
        if self.grid != "time" and self.schedule is not None:
            raise ValueError(f"the grid '{self.grid}' uses no schedule; give none, or choose the grid 'time'")
        if self.s_churn < 0.0 or self.s_noise < 0.0 or self.s_tmin > self.s_tmax:
            raise ValueError("s_churn and s_noise must not be negative, and s_tmin not above s_tmax")
        if self.s_churn and self.solver != "heun":
            instead = (
                "draws noise in every step already" if self._chosen.is_stochastic else "would lose its order by it"
            )
            raise ValueError(f"s_churn={self.s_churn}: '{self.solver}' {instead}; use the solver 'heun' or s_churn=0")
        if not 0.0 < self.sigma_data < math.inf:
            raise ValueError(f"sigma_data={self.sigma_data} must be positive")
        if not self.dtype.is_floating_point:
            raise ValueError(f"dtype={self.dtype} must be a floating-point type")
        if not self.sigmas:
            raise ValueError("there are no noise levels")

    @cached_property
    def sigmas(self) -> list[float]:
        """The noise levels, decreasing: steps + 1 of them."""
        ends = (self.sigma_min, self.sigma_max)
        match self.grid:
            case "karras":
                return karras(self.steps, *ends, rho=self.rho, to_zero=self.to_zero)
            case "log_snr":
                return uniform_log_snr(self.steps, *ends, to_zero=self.to_zero)
            case "time":
                assert self.schedule is not None
                return uniform_time(self.schedule, self.steps, *ends, to_zero=self.to_zero)
            case unknown:
                raise ValueError(f"there is no grid '{unknown}'; choose karras, log_snr or time")

    @property
    def evaluations(self) -> int:
        """Calls of the denoiser for a batch."""
        return self._chosen.evaluations(self.steps, to_zero=self.to_zero)

    @torch.inference_mode()
    def sample(self, denoiser: Denoiser, request: ImageRequest, rng: Rng) -> Iterator[Frame]:
        """Yield a frame a step: `state` is x (b, c, h, w), `info["denoised"]` the clean image the step believed in."""

        def normal(key: Rng) -> Tensor:
            return key.normal("noise", request.sample_ids, *request.shape).to(self.dtype)

        x = normal(rng.fold("start")) * self.sigma_max
        steps = self._run(denoiser, x, self.sigmas, lambda step: normal(rng.fold("step", step)))
        for step, (state, denoised) in enumerate(steps):
            yield Frame(step, self.steps, state, {"denoised": denoised})

    @property
    def _chosen(self) -> Solver:
        return SOLVERS[self.solver]

    @property
    def _run(self) -> SolverFunction:
        match self.solver:
            case "heun":
                return partial(heun, s_churn=self.s_churn, s_tmin=self.s_tmin, s_tmax=self.s_tmax, s_noise=self.s_noise)
            case "abm_2":
                return partial(abm_2, sigma_data=self.sigma_data)
            case "abm_3":
                return partial(abm_3, sigma_data=self.sigma_data)
            case _:
                return self._chosen.run
