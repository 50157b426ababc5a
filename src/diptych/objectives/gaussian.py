"""Gaussian diffusion of images: the forward process adds noise, and the loss asks for the image that was there.

x = x_0 + sigma eps with sigma drawn by a schedule; the loss is w(sigma) |D(x, sigma) - x_0|^2 (Ho et al. 2020,
algorithm 1; Karras et al. 2022, equation 2). Noise level, noise and dropped classes are functions of the step and the
example alone, so they survive re-batching and resuming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diptych.core.diffusion_config import DiffusionConfig
from diptych.core.random import Rng
from diptych.core.types import Batch, Likelihood, Loss, Predictor
from diptych.diffusion.bound import variational_bound
from diptych.diffusion.denoiser import NetworkDenoiser
from diptych.diffusion.parameterization import Parameterization, build_parameterization, column
from diptych.diffusion.schedules import Schedule, build_schedule
from diptych.diffusion.weighting import loss_weight
from diptych.nn.masks import Full


@final
@dataclass(frozen=True)
class GaussianDiffusion:
    """`levels`: values that a pixel may have, over which its noise of dequantization spreads. `n_classes`: classes that
    the network is told; 0: none."""

    config: DiffusionConfig
    levels: int
    n_classes: int = 0

    @property
    def parameterization(self) -> Parameterization:
        """What the network's output means."""
        return build_parameterization(self.config)

    def loss(self, model: Predictor, batch: Batch, rng: Rng) -> Loss:
        """w(sigma) |D - x_0|^2, summed over the numbers of all images; its terms are those numbers.

        batch.x: images (b, c, h, w) in [-1, 1]; batch.cond: their classes (b), where the network knows any.
        """
        x_0, ids = self.spread(batch, rng), batch.sample_ids
        sigma, slope = self._levels(build_schedule(self.config), rng.uniform("time", ids))
        noise = rng.normal("noise", ids, *x_0.shape[1:])
        x = x_0 + column(sigma, x_0) * noise
        denoiser = self._denoiser(model, self._told(batch.cond, ids, rng))
        output, target = denoiser.output(x, sigma), self.parameterization.output(x_0, x, sigma)
        # w |D - x_0|^2 in terms of the network's own output, which is of unit size where D - x_0 is tiny.
        scale = self.parameterization.coefficients(sigma).out
        weight = loss_weight(self.config, self.parameterization, sigma, slope) * scale.square()
        error = (output.float() - target.float()).square()
        return Loss(total=(column(weight.float(), x) * error).sum(), count=x_0.numel())

    def likelihood(self, model: Predictor, batch: Batch, rng: Rng) -> Likelihood:
        """The variational bound on -log p(x_0) in nats, of dequantized images (Kingma et al. 2021)."""
        x_0 = self.spread(batch, rng)
        denoiser = self._denoiser(model, self._told(batch.cond, batch.sample_ids, None))
        return variational_bound(
            denoiser, x_0, batch.sample_ids, rng, sigma_min=self.config.sigma_min, sigma_max=self.config.sigma_max
        )

    def spread(self, batch: Batch, rng: Rng) -> Float[Tensor, "b c h w"]:
        """The images in float64, each pixel spread uniformly over its level where the configuration says so."""
        x = batch.x.double()
        if not self.config.dequantize:
            return x
        return x + (rng.uniform("dequantization", batch.sample_ids, *x.shape[1:]) - 0.5) * (2.0 / self.levels)

    def _denoiser(self, model: Predictor, labels: Tensor | None) -> NetworkDenoiser:
        return NetworkDenoiser(model, self.parameterization, Full(), labels)

    def _levels(self, schedule: Schedule, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """sigma, and d ln sigma / du of u, uniform in (0, 1), that spans the times between the least and most noise."""
        ends = torch.tensor([self.config.sigma_min, self.config.sigma_max], dtype=torch.float64)
        first, last = schedule.time(ends.log()).to(uniform.device)
        time = first + (last - first) * uniform
        return schedule.log_sigma(time).exp(), schedule.slope(time) * (last - first)

    def _told(self, labels: Tensor | None, ids: Int[Tensor, " b"], rng: Rng | None) -> Int[Tensor, " b"] | None:
        """The class that the network is told of each image: its own, or none in particular."""
        if not self.n_classes or labels is None:
            return None
        if rng is None or not self.config.class_dropout:
            return labels
        return torch.where(rng.uniform("class", ids) < self.config.class_dropout, self.n_classes, labels)
