"""How does a network become a denoiser?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from jaxtyping import Float, Int
from torch import Tensor

from diptych.core.types import Mask, Predictor
from diptych.diffusion.parameterization import Parameterization, column


@final
@dataclass(frozen=True)
class NetworkDenoiser:
    """D = c_skip x + c_out F(c_in x, ln(sigma) / 4) of a network F (Karras et al. 2022, equation 7).

    labels: the class (b) that each image is asked for, `n_classes` for none in particular; None: the network knows no
    classes.
    """

    model: Predictor
    parameterization: Parameterization
    mask: Mask
    labels: Int[Tensor, " b"] | None = None

    def __call__(self, x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b ..."]:
        """The mean of the clean image that the network believes in, in the precision of x."""
        return self.parameterization.denoised(self.output(x, sigma).to(x.dtype), x, sigma)

    def output(self, x: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b ..."]:
        """F, the network's own output."""
        into = self.parameterization.coefficients(column(sigma, x)).into
        return self.model((into * x).float(), mask=self.mask, time=sigma.log() / 4, cond=self.labels)
