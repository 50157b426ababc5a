"""What does the output of a denoising network mean?

Every parameterization is one line: the clean image is D = c_skip x + c_out F(c_in x, ln(sigma) / 4), of the noisy
x = x_0 + sigma eps (Karras et al. 2022, equation 7). With other coefficients the network F learns the noise, the clean
image, v, or the straight path's velocity; all are linear in x and D, so each is exactly every other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from diptych.core.diffusion_config import DiffusionConfig, ParameterizationName


class Coefficients(NamedTuple):
    """c_skip, c_out and c_in at noise levels; tensors like sigma."""

    skip: Tensor
    out: Tensor
    into: Tensor


@final
@dataclass(frozen=True)
class Parameterization:
    """`name` says what F is: epsilon = eps; x0 = x_0; v = alpha (eps - sigma x_0) with alpha = 1 / sqrt(1 + sigma^2)
    (Salimans and Ho 2022); velocity = eps - x_0; edm = what is left of x_0 at unit variance, where the data's deviation
    is `sigma_data` (Karras et al. 2022, table 1)."""

    name: ParameterizationName
    sigma_data: float = 0.5

    def coefficients(self, sigma: Float[Tensor, "..."]) -> Coefficients:
        """c_skip, c_out, c_in at each noise level."""
        unit = (1.0 + sigma.square()).rsqrt()
        match self.name:
            case "epsilon":
                return Coefficients(torch.ones_like(sigma), -sigma, unit)
            case "x0":
                return Coefficients(torch.zeros_like(sigma), torch.ones_like(sigma), unit)
            case "v":
                return Coefficients(unit.square(), -sigma * unit, unit)
            case "velocity":
                flow = 1.0 / (1.0 + sigma)
                return Coefficients(flow, -sigma * flow, flow)
            case "edm":
                data = self.sigma_data
                scale = (sigma.square() + data**2).rsqrt()
                return Coefficients((data * scale).square(), sigma * data * scale, scale)

    def denoised(
        self, output: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """D, of what the network gave at noisy x."""
        skip, out, _ = self.coefficients(column(sigma, x))
        return skip * x + out * output

    def output(
        self, denoised: Float[Tensor, "b ..."], x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]
    ) -> Float[Tensor, "b ..."]:
        """F, of which `denoised` makes D: what the network should give where D is known, its target where D = x_0."""
        skip, out, _ = self.coefficients(column(sigma, x))
        return (denoised - skip * x) / out


def build_parameterization(config: DiffusionConfig) -> Parameterization:
    """The parameterization of a configuration."""
    return Parameterization(config.parameterization, config.sigma_data)


def column(values: Shaped[Tensor, " b"], x: Shaped[Tensor, "b ..."]) -> Tensor:
    """A value for each row of x, (b, 1, ...), for broadcasting against it."""
    return values.view(-1, *(1,) * (x.dim() - 1))


def convert(
    output: Float[Tensor, "b ..."],
    x: Float[Tensor, "b ..."],
    sigma: Float[Tensor, " b"],
    given: Parameterization,
    wanted: Parameterization,
) -> Float[Tensor, "b ..."]:
    """A network's output in another parameterization, exactly; sigma must be positive."""
    return wanted.output(given.denoised(output, x, sigma), x, sigma)
