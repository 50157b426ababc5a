"""How much of a text is left at which time?

Every process that destroys tokens leaves each as it is with probability alpha(t), independently: alpha falls from 1 at
time 0 to 0 at time 1. What becomes of the others, a mask or a random token, is for the process to say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from diptych.core.text_diffusion_config import AlphaScheduleName


@runtime_checkable
class AlphaSchedule(Protocol):
    """The share of tokens that are left against a time in [0, 1]; float64 tensors of any one shape."""

    def alpha(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The share alpha at a time."""
        ...

    def slope(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """d alpha / d time, negative."""
        ...

    def time(self, alpha: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The time at which a share is left."""
        ...


@final
@dataclass(frozen=True)
class Linear:
    """alpha = 1 - t (LLaDA, Nie et al. 2025; MDLM's log-linear schedule, Sahoo et al. 2024)."""

    def alpha(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1 - t."""
        return 1.0 - time

    def slope(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """-1."""
        return -torch.ones_like(time)

    def time(self, alpha: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1 - alpha."""
        return 1.0 - alpha


@final
@dataclass(frozen=True)
class Cosine:
    """alpha = 1 - cos(pi (1 - t) / 2): few tokens are lost at first (Shi et al. 2024, table 4)."""

    def alpha(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1 - cos(pi (1 - t) / 2) = 2 sin^2(pi (1 - t) / 4), which is exact near time 1 too."""
        return 2.0 * torch.sin(0.25 * math.pi * (1.0 - time)).square()

    def slope(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """-pi/2 sin(pi (1 - t) / 2)."""
        return -0.5 * math.pi * torch.sin(0.5 * math.pi * (1.0 - time))

    def time(self, alpha: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1 - 4/pi asin(sqrt(alpha / 2))."""
        return 1.0 - 4.0 / math.pi * torch.asin((0.5 * alpha).sqrt())


@final
@dataclass(frozen=True)
class Square:
    """alpha = 1 - t^2 (Shi et al. 2024, table 4, polynomial of power 2)."""

    def alpha(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """1 - t^2."""
        return 1.0 - time.square()

    def slope(self, time: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """-2 t."""
        return -2.0 * time

    def time(self, alpha: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """sqrt(1 - alpha)."""
        return (1.0 - alpha).sqrt()


def build_alpha_schedule(name: AlphaScheduleName) -> AlphaSchedule:
    """The schedule of a name."""
    match name:
        case "linear":
            return Linear()
        case "cosine":
            return Cosine()
        case "square":
            return Square()
