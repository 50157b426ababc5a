"""How much noise is there at which time?

Every schedule is one curve: the logarithm of sigma, the noise in the frame z / alpha = x + sigma eps, against a time in
[0, 1]. The log-SNR of Kingma et al. 2021 is -2 ln sigma. Training draws the time uniformly, so a schedule is also the
distribution of noise levels that a network learns; `alpha` says how the schedule's own process scales the signal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from diptych.core.diffusion_config import DiffusionConfig


@runtime_checkable
class Schedule(Protocol):
    """ln sigma against time, increasing; all times in (0, 1), all tensors of one shape."""

    def log_sigma(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """ln sigma at a time."""
        ...

    def slope(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """d ln sigma / d time."""
        ...

    def time(self, log_sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The time at which ln sigma has a value."""
        ...

    def alpha(self, sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """By how much the process scales the signal at a noise level: z = alpha (x + sigma eps)."""
        ...


def _variance_preserving(sigma: Tensor) -> Tensor:
    return (1.0 + sigma.square()).rsqrt()


@final
@dataclass(frozen=True)
class VPLinear:
    """beta(t) = beta_min + (beta_max - beta_min) t: the limit of DDPM's table (Ho et al. 2020; Song et al. 2021,
    equation 32); sigma^2 = exp(int beta) - 1 and alpha^2 + (alpha sigma)^2 = 1."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def log_sigma(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1/2 ln(exp(integral of beta) - 1)."""
        return 0.5 * torch.expm1(self._integral(time)).log()

    def slope(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """beta / (2 (1 - exp(-integral)))."""
        beta = self.beta_min + (self.beta_max - self.beta_min) * time
        return -0.5 * beta / torch.expm1(-self._integral(time))

    def time(self, log_sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The root of the integral's quadratic; written so that small times lose no digits."""
        integral = torch.log1p((2.0 * log_sigma).exp())
        root = (self.beta_min**2 + 2.0 * (self.beta_max - self.beta_min) * integral).sqrt()
        return 2.0 * integral / (root + self.beta_min)

    def alpha(self, sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1 / sqrt(1 + sigma^2)."""
        return _variance_preserving(sigma)

    def _integral(self, time: Tensor) -> Tensor:
        return 0.5 * (self.beta_max - self.beta_min) * time.square() + self.beta_min * time


@final
@dataclass(frozen=True)
class Cosine:
    """alpha^2 = cos^2(u) / cos^2(u_0), u = (t + offset) / (1 + offset) pi / 2 (Nichol and Dhariwal 2021, equation
    17)."""

    offset: float = 0.008

    def log_sigma(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1/2 ln(sin(u - u_0) sin(u + u_0) / cos^2 u), which is 1/2 ln((1 - alpha^2) / alpha^2)."""
        u, start = self._angle(time), self._start
        return 0.5 * ((u - start).sin() * (u + start).sin()).log() - u.cos().log()

    def slope(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """(cot(u - u_0) / 2 + cot(u + u_0) / 2 + tan u) du/dt."""
        u, start = self._angle(time), self._start
        turn = 0.5 * math.pi / (1.0 + self.offset)
        return turn * (0.5 / (u - start).tan() + 0.5 / (u + start).tan() + u.tan())

    def time(self, log_sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """From sin^2 u = (sigma^2 + sin^2 u_0) / (1 + sigma^2)."""
        sine = ((2.0 * log_sigma).exp() + math.sin(self._start) ** 2).sqrt()
        u = torch.atan2(sine, torch.full_like(sine, math.cos(self._start)))
        return u * (2.0 / math.pi) * (1.0 + self.offset) - self.offset

    def alpha(self, sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1 / sqrt(1 + sigma^2)."""
        return _variance_preserving(sigma)

    @property
    def _start(self) -> float:
        return 0.5 * math.pi * self.offset / (1.0 + self.offset)

    def _angle(self, time: Tensor) -> Tensor:
        return (time + self.offset) * (0.5 * math.pi / (1.0 + self.offset))


@final
@dataclass(frozen=True)
class LogNormal:
    """ln sigma = mean + deviation Phi^-1(t): EDM's distribution of noise levels (Karras et al. 2022, table 1)."""

    mean: float = -1.2
    deviation: float = 1.2

    def log_sigma(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """mean + deviation Phi^-1(t)."""
        normal: Tensor = torch.special.ndtri(time)
        return self.mean + self.deviation * normal

    def slope(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """deviation / phi(Phi^-1(t))."""
        normal: Tensor = torch.special.ndtri(time)
        return self.deviation * math.sqrt(2.0 * math.pi) * (0.5 * normal.square()).exp()

    def time(self, log_sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Phi((ln sigma - mean) / deviation)."""
        time: Tensor = torch.special.ndtr((log_sigma - self.mean) / self.deviation)
        return time

    def alpha(self, sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1: the signal is not scaled."""
        return torch.ones_like(sigma)


@final
@dataclass(frozen=True)
class StraightPath:
    """z = (1 - t) x + t eps, so sigma = t / (1 - t): flow matching (Lipman et al. 2023; Liu et al. 2023)."""

    def log_sigma(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """ln(t / (1 - t))."""
        return torch.logit(time)

    def slope(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1 / (t (1 - t))."""
        return 1.0 / (time * (1.0 - time))

    def time(self, log_sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """sigma / (1 + sigma)."""
        return torch.sigmoid(log_sigma)

    def alpha(self, sigma: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1 - t = 1 / (1 + sigma)."""
        return 1.0 / (1.0 + sigma)


def build_schedule(config: DiffusionConfig) -> Schedule:
    """The schedule of a configuration."""
    match config.schedule:
        case "vp_linear":
            return VPLinear()
        case "cosine":
            return Cosine()
        case "edm":
            return LogNormal(config.p_mean, config.p_std)
        case "flow":
            return StraightPath()
