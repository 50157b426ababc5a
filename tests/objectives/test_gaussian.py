"""The loss of Gaussian diffusion, against networks whose loss is known exactly."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from diptych.core.diffusion_config import DiffusionConfig, ParameterizationName, ScheduleName, WeightingName
from diptych.core.random import Rng
from diptych.core.types import Batch
from diptych.diffusion.parameterization import Parameterization, column
from diptych.diffusion.schedules import build_schedule
from diptych.objectives.gaussian import GaussianDiffusion

DEVIATION = 0.7


class ExactNetwork:
    """What a network of some parameterization should give on pixels of a normal distribution."""

    def __init__(self, parameterization: Parameterization) -> None:
        self.parameterization = parameterization
        self.told: list[Tensor | None] = []

    def __call__(self, x: Tensor, *, mask: object, time: Tensor, cond: Tensor | None = None) -> Tensor:
        sigma = (4 * time.double()).exp()
        noisy = x.double() / self.parameterization.coefficients(column(sigma, x)).into
        variance = column(sigma, x).square()
        denoised = noisy * DEVIATION**2 / (DEVIATION**2 + variance)
        self.told.append(cond)
        return self.parameterization.output(denoised, noisy, sigma)


def batch(n: int, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 1, 2, 2, generator=generator) * DEVIATION
    return Batch(x=x, sample_ids=torch.arange(n), cond=torch.arange(n) % 3)


@pytest.mark.parametrize("schedule", get_args(ScheduleName))
@pytest.mark.parametrize("name", get_args(ParameterizationName))
def test_the_likelihood_weighted_loss_of_the_exact_denoiser_is_mutual_information(
    schedule: ScheduleName, name: ParameterizationName
) -> None:
    """int 1/2 (-dSNR) mmse = I(x_0; x at sigma_min) - I(x_0; x at sigma_max), each 1/2 ln(1 + deviation^2 / sigma^2) a
    pixel (Guo, Shamai and Verdu 2005)."""
    config = DiffusionConfig(
        schedule=schedule,
        parameterization=name,
        weighting="likelihood",
        sigma_min=0.05,
        sigma_max=20.0,
        dequantize=False,
    )
    objective = GaussianDiffusion(config, levels=256)
    loss = objective.loss(ExactNetwork(objective.parameterization), batch(40_000), Rng(3))
    wanted = 0.5 * (math.log1p((DEVIATION / 0.05) ** 2) - math.log1p((DEVIATION / 20.0) ** 2))
    assert loss.count == 160_000
    # The spread of the estimate depends on how a schedule spreads its noise levels; five standard errors of the widest.
    assert float(loss.total) / loss.count == pytest.approx(wanted, rel=0.12 if schedule != "edm" else 0.3)


@pytest.mark.parametrize("weighting", get_args(WeightingName))
@pytest.mark.parametrize("name", get_args(ParameterizationName))
def test_it_is_the_weighted_square_error_of_the_denoised_image(
    weighting: WeightingName, name: ParameterizationName
) -> None:
    from diptych.diffusion.weighting import loss_weight

    config = DiffusionConfig(parameterization=name, weighting=weighting, dequantize=False)
    objective, some, rng = GaussianDiffusion(config, levels=256), batch(64), Rng(0)
    network = ExactNetwork(objective.parameterization)
    loss = objective.loss(network, some, rng)
    sigma, slope = objective._levels(build_schedule(config), rng.uniform("time", some.sample_ids))
    x_0 = some.x.double()
    x = x_0 + column(sigma, x_0) * rng.normal("noise", some.sample_ids, 1, 2, 2)
    denoised = x * DEVIATION**2 / (DEVIATION**2 + column(sigma, x).square())
    weight = loss_weight(config, objective.parameterization, sigma, slope)
    assert float(loss.total) == pytest.approx(float((column(weight, x) * (denoised - x_0).square()).sum()), rel=2e-4)


def test_noise_is_keyed_by_the_example() -> None:
    objective, whole, rng = (
        GaussianDiffusion(DiffusionConfig(class_dropout=0.5), levels=17, n_classes=3),
        batch(8),
        Rng(1),
    )
    network = ExactNetwork(objective.parameterization)
    total = objective.loss(network, whole, rng).total
    parts = [objective.loss(network, whole.rows(i, i + 2), rng).total for i in range(0, 8, 2)]
    torch.testing.assert_close(torch.stack(parts).sum(), total, rtol=1e-5, atol=0)
    assert float(objective.loss(network, whole, Rng(2)).total) != float(total)


def test_dropped_classes_become_the_one_for_none() -> None:
    objective = GaussianDiffusion(DiffusionConfig(class_dropout=0.25), levels=17, n_classes=3)
    network = ExactNetwork(objective.parameterization)
    objective.loss(network, batch(4000), Rng(1))
    told = network.told[0]
    assert told is not None
    share = float((told == 3).double().mean())
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 4000)
    kept = told != 3
    assert torch.equal(told[kept], (torch.arange(4000) % 3)[kept])


def test_dequantization_fills_the_level_of_a_pixel() -> None:
    objective = GaussianDiffusion(DiffusionConfig(), levels=17)
    x = torch.full((2000, 1, 1, 1), 2 * 5.5 / 17 - 1)
    spread = objective.spread(Batch(x=x, sample_ids=torch.arange(2000)), Rng(0))
    level = (spread + 1) * 17 / 2
    assert float(level.min()) >= 5.0 and float(level.max()) <= 6.0
    assert float(level.mean()) == pytest.approx(5.5, abs=5 / math.sqrt(12 * 2000))
    assert float(level.var()) == pytest.approx(1 / 12, rel=0.1)


def test_the_bound_of_the_exact_denoiser_is_the_entropy() -> None:
    config = DiffusionConfig(sigma_min=0.01, dequantize=False)
    objective = GaussianDiffusion(config, levels=256)
    some = batch(2000)
    bound = objective.likelihood(ExactNetwork(objective.parameterization), some, Rng(0))
    exact = 0.5 * ((some.x.double() / DEVIATION).square() + math.log(2 * math.pi * DEVIATION**2)).flatten(1).sum(1)
    gap = bound.nats - exact
    error = float(gap.std()) / math.sqrt(len(gap))
    assert bound.kind == "bound" and abs(float(gap.mean())) < 5 * error + 2e-3
