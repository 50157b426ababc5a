"""How is a backward process pushed further towards what is asked of it?

Two denoisers are one: what the better says, and beyond, by how much it differs from a worse one. The result is again a
denoiser, so every solver takes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from diptych.core.types import Denoiser
from diptych.diffusion.parameterization import column


@final
@dataclass(frozen=True, kw_only=True)
class Guided:
    """D_other + weight (D - D_other), of `conditional` D.

    other: the same network without a class for classifier-free guidance (Ho and Salimans 2022), a weaker network for
    autoguidance (Karras et al. 2024). weight: 1 is no guidance, and `other` is not asked then; 0 is `other` alone; Ho
    and Salimans' w is weight - 1. interval: guide only where low < sigma <= high (Kynkaanniemi et al. 2024), with
    sigma in the frame x_0 + sigma eps; elsewhere D alone is asked.

    Raises ValueError for a negative or infinite weight and for an empty interval.
    """

    conditional: Denoiser
    other: Denoiser
    weight: float
    interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0.0):
            raise ValueError(f"guidance weight={self.weight} must be finite and at least 0; 1 is no guidance")
        if self.interval is not None and not 0.0 <= self.interval[0] < self.interval[1]:
            raise ValueError(f"guidance interval={self.interval} must be two noise levels, 0 <= low < high")

    def __call__(self, x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b ..."]:
        """The guided mean of the clean data."""
        denoised = self.conditional(x, sigma)
        if self.weight == 1.0:
            return denoised
        if self.interval is None:
            return torch.lerp(self.other(x, sigma), denoised, self.weight)
        inside = (sigma > self.interval[0]) & (sigma <= self.interval[1])
        if not bool(inside.any()):
            return denoised
        guided = torch.lerp(self.other(x, sigma), denoised, self.weight)
        return torch.where(column(inside, x), guided, denoised)
