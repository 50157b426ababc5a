"""At which noise levels does a backward process stop on its way?

Each grid goes from sigma_max down to sigma_min in the frame x = x_0 + sigma eps, both included, as Python floats.
`steps` counts the steps between levels; where the last goes to 0, sigma_min is the level before it (Karras et al. 2022,
equation 5).

All raise ValueError for fewer than one step, or where not 0 < sigma_min < sigma_max.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from diptych.diffusion.schedules import Schedule


def karras(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, *, rho: float = 7.0, to_zero: bool = True
) -> list[float]:
    """Uniform in sigma^(1/rho) (Karras et al. 2022, equation 5)."""
    if rho <= 0.0:
        raise ValueError(f"rho={rho} must be positive")
    low, high = _checked(steps, sigma_min, sigma_max)
    start, end = high ** (1.0 / rho), low ** (1.0 / rho)
    return _levels(steps, low, high, to_zero, lambda share: (start + share * (end - start)) ** rho)


def uniform_log_snr(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, *, to_zero: bool = True
) -> list[float]:
    """Uniform in the log-SNR, -2 ln sigma (Lu et al. 2022)."""
    low, high = _checked(steps, sigma_min, sigma_max)
    return _levels(steps, low, high, to_zero, lambda share: high * (low / high) ** share)


def uniform_time(
    schedule: Schedule, steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, *, to_zero: bool = True
) -> list[float]:
    """Uniform in the time of a schedule."""
    low, high = _checked(steps, sigma_min, sigma_max)
    ends = torch.tensor([high, low], dtype=torch.float64)
    start, end = (float(time) for time in schedule.time(ends.log()))
    if not end < start:
        raise ValueError(f"the schedule's times of sigma_min={low} and sigma_max={high} do not differ; use closer ones")

    def level(share: float) -> float:
        return math.exp(float(schedule.log_sigma(torch.tensor(start + share * (end - start), dtype=torch.float64))))

    return _levels(steps, low, high, to_zero, level)


def _levels(steps: int, low: float, high: float, to_zero: bool, level: Callable[[float], float]) -> list[float]:
    """high, what lies between, low; and 0 if asked for."""
    intervals = steps - 1 if to_zero else steps
    between = [level(step / intervals) for step in range(1, intervals)]
    ends = [high, *between, low] if intervals else [high]
    return [*ends, 0.0] if to_zero else ends


def _checked(steps: int, sigma_min: float, sigma_max: float) -> tuple[float, float]:
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
    if not 0.0 < sigma_min < sigma_max < math.inf:
        raise ValueError(f"sigma_min={sigma_min} and sigma_max={sigma_max} must be 0 < sigma_min < sigma_max")
    return sigma_min, sigma_max
