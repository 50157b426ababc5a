"""What does a denoiser bound the likelihood of data by?

The variational bound of the process x = x_0 + sigma eps between two noise levels, in continuous time (Ho et al. 2020,
equation 5; Kingma et al. 2021, equations 12 and 14): what the prior N(0, sigma_max^2) misses of x_0 at the most noise,
the denoiser's errors in between, and the cost of x_0 given the least noisy x.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diptych.core.events import Handler, Progressed, ignore
from diptych.core.random import Rng
from diptych.core.types import Denoiser, Likelihood
from diptych.diffusion.parameterization import column


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    x_0: Float[Tensor, "b ..."],
    sample_ids: Int[Tensor, " b"],
    rng: Rng,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    times: int = 32,
    on_event: Handler = ignore,
) -> Likelihood:
    """An upper bound on -ln p(x_0) in nats and, of each example, its Monte-Carlo estimate's standard error.

    x_0: (b, ...). The bound is the mean of

        |x_0|^2 / (2 sigma_max^2)  +  integral of |x_0 - D|^2 / sigma^2 over ln sigma  -  ln N(x_0; D, sigma_min^2),

    the last at x of noise sigma_min. `times` evaluations an example estimate the integral, two at random in each of
    times / 2 equal parts of [ln sigma_min, ln sigma_max]: half their difference is that part's standard error, so the
    error needs no more evaluations. One more evaluation estimates the last term; its error is the deviation sqrt(d / 2)
    of the noise's square, exact where D is the clean image up to that noise. Raises ValueError for odd or no `times`.
    """
    if times < 2 or times % 2:
        raise ValueError(f"times={times} must be even and at least 2: two in each part of the noise levels")
    x_0 = x_0.double()
    dims, parts, span = x_0[0].numel(), times // 2, math.log(sigma_max / sigma_min)
    prior = x_0.flatten(1).square().sum(1) / (2.0 * sigma_max**2)
    at = rng.uniform("levels", sample_ids, parts, 2)
    diffusion, variance = torch.zeros_like(prior), torch.zeros_like(prior)
    for part in range(parts):
        pair = [
            span
            * _error(
                denoiser, x_0, sigma_min * (span * (part + at[:, part, i]) / parts).exp(), rng.fold(part, i), sample_ids
            )
            for i in (0, 1)
        ]
        diffusion += (pair[0] + pair[1]) / times
        variance += ((pair[0] - pair[1]) / times).square()
        on_event(Progressed(what="bounding", done=2 * part + 2, total=times + 1, unit="evaluations"))
    least = _error(denoiser, x_0, torch.full_like(prior, sigma_min), rng.fold("reconstruction"), sample_ids)
    reconstruction = 0.5 * (least + dims * math.log(2.0 * math.pi * sigma_min**2))
    on_event(Progressed(what="bounding", done=times + 1, total=times + 1, unit="evaluations"))
    return Likelihood(
        nats=prior + diffusion + reconstruction,
        count=torch.full_like(sample_ids, dims),
        kind="bound",
        standard_error=(variance + dims / 2).sqrt(),
    )


def _error(denoiser: Denoiser, x_0: Tensor, sigma: Tensor, rng: Rng, sample_ids: Tensor) -> Tensor:
    """|x_0 - D|^2 / sigma^2 at fresh noise, (b)."""
    x = x_0 + column(sigma, x_0) * rng.normal("noise", sample_ids, *x_0.shape[1:])
    return (x_0 - denoiser(x, sigma)).flatten(1).square().sum(1) / sigma.square()
