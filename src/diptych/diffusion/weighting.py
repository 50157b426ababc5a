"""How much does each noise level count in the loss w(sigma) |D - x_0|^2?"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from diptych.core.diffusion_config import DiffusionConfig
from diptych.diffusion.parameterization import Parameterization


def loss_weight(
    config: DiffusionConfig,
    parameterization: Parameterization,
    sigma: Float[Tensor, " b"],
    slope: Float[Tensor, " b"],
) -> Float[Tensor, " b"]:
    """w at each noise level; slope: d ln sigma / du, where u, uniform in [0, 1], is what the level was drawn by.

    simple: 1 / c_out^2, the square error of the network's own output (Ho et al. 2020, equation 14, where that is the
    noise). min_snr: min(1 / sigma^2, gamma) (Hang et al. 2023). edm: (sigma^2 + sigma_data^2) / (sigma sigma_data)^2
    (Karras et al. 2022, table 1). likelihood: half of -dSNR/du, with which the mean loss is the diffusion term of the
    variational bound in nats (Kingma et al. 2021, equation 14).
    """
    match config.weighting:
        case "simple":
            return parameterization.coefficients(sigma).out.pow(-2)
        case "min_snr":
            return sigma.pow(-2).clamp(max=config.min_snr_gamma)
        case "edm":
            return (sigma.square() + config.sigma_data**2) / (sigma * config.sigma_data).square()
        case "likelihood":
            return sigma.pow(-2) * slope
