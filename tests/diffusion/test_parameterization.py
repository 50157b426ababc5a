"""Parameterizations against what their names say, one another, and the weightings' closed forms."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from diptych.core.diffusion_config import DiffusionConfig, ParameterizationName, ScheduleName
from diptych.diffusion.exact import GaussianData
from diptych.diffusion.parameterization import Parameterization, column, convert
from diptych.diffusion.schedules import build_schedule
from diptych.diffusion.weighting import loss_weight

NAMES: tuple[ParameterizationName, ...] = get_args(ParameterizationName)
SIGMA = torch.logspace(math.log10(0.002), math.log10(80.0), 60, dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


X_0, EPSILON = normal(60, 2, 3), normal(60, 2, 3, seed=1)
X = X_0 + column(SIGMA, X_0) * EPSILON


@pytest.mark.parametrize("name", NAMES)
def test_the_target_is_what_the_name_says(name: ParameterizationName) -> None:
    sigma = column(SIGMA, X)
    alpha = (1.0 + sigma.square()).rsqrt()
    data = 0.5
    scale = (sigma.square() + data**2).sqrt()
    expected = {
        "epsilon": EPSILON,
        "x0": X_0,
        "v": alpha * EPSILON - alpha * sigma * X_0,  # Salimans and Ho's, sigma_z = alpha sigma
        "velocity": EPSILON - X_0,
        "edm": (sigma / data * X_0 - data * EPSILON) / scale,  # equation 7 with x = x_0 + sigma eps put in
    }[name]
    got = Parameterization(name, data).output(X_0, X, SIGMA)
    assert torch.allclose(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_s_input_is_the_process_s_own_and_of_unit_size(name: ParameterizationName) -> None:
    """For data of the deviation that a parameterization assumes; the straight path's process is not of unit size."""
    into = Parameterization(name).coefficients(SIGMA).into
    if name == "velocity":
        time = SIGMA / (1.0 + SIGMA)
        assert torch.allclose(into, 1.0 - time, rtol=1e-12)
    else:
        variance = (0.25 if name == "edm" else 1.0) + SIGMA.square()
        assert torch.allclose(into.square() * variance, torch.ones_like(SIGMA), rtol=1e-12)


def test_edm_s_target_has_unit_variance_whatever_the_noise() -> None:
    n = 20_000
    x_0, epsilon = 0.5 * normal(n, 1, seed=2), normal(n, 1, seed=3)
    for level in (0.01, 0.5, 20.0):
        sigma = torch.full((n,), level, dtype=torch.float64)
        target = Parameterization("edm").output(x_0, x_0 + level * epsilon, sigma)
        assert float(target.var()) == pytest.approx(1.0, abs=4.5 * math.sqrt(2.0 / n))


@pytest.mark.parametrize(("given", "wanted"), itertools.product(NAMES, NAMES))
def test_every_conversion_is_exact_and_comes_back(given: ParameterizationName, wanted: ParameterizationName) -> None:
    a, b = Parameterization(given), Parameterization(wanted)
    for denoised in (X_0, normal(60, 2, 3, seed=4)):
        output = a.output(denoised, X, SIGMA)
        converted = convert(output, X, SIGMA, a, b)
        assert torch.allclose(converted, b.output(denoised, X, SIGMA), rtol=1e-6, atol=1e-6)
        assert torch.allclose(b.denoised(converted, X, SIGMA), denoised, rtol=0, atol=1e-9)
        assert torch.allclose(convert(converted, X, SIGMA, b, a), output, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_simple_weighting_is_the_square_error_of_the_output(name: ParameterizationName) -> None:
    parameterization = Parameterization(name)
    output = normal(60, 2, 3, seed=5)
    error = (output - parameterization.output(X_0, X, SIGMA)).square().flatten(1).sum(1)
    weight = loss_weight(DiffusionConfig(weighting="simple"), parameterization, SIGMA, torch.ones_like(SIGMA))
    clean = (parameterization.denoised(output, X, SIGMA) - X_0).square().flatten(1).sum(1)
    assert torch.allclose(weight * clean, error, rtol=1e-7)


def test_edm_and_min_snr_weights_are_their_papers() -> None:
    ones, edm, epsilon = torch.ones_like(SIGMA), Parameterization("edm"), Parameterization("epsilon")
    of_edm = loss_weight(DiffusionConfig(weighting="edm"), epsilon, SIGMA, ones)
    assert torch.allclose(of_edm, loss_weight(DiffusionConfig(weighting="simple"), edm, SIGMA, ones), rtol=1e-12)
    snr = SIGMA.pow(-2)
    # On the noise's error, |epsilon - F|^2 = SNR |x_0 - D|^2, min-SNR weighs by min(SNR, gamma) / SNR.
    weight = loss_weight(DiffusionConfig(weighting="min_snr", min_snr_gamma=5.0), epsilon, SIGMA, ones)
    assert torch.allclose(weight / snr, torch.minimum(snr, 5.0 * ones) / snr, rtol=1e-12)
    assert float(weight.max()) == 5.0 and float(weight.min()) == pytest.approx(1.0 / 80.0**2)


@pytest.mark.parametrize("schedule", ["vp_linear", "cosine", "edm", "flow"])
def test_likelihood_weighting_integrates_to_the_information_between_data_and_noisy_data(schedule: ScheduleName) -> None:
    """Of N(0, s^2): I(x_0; x at sigma) = 1/2 ln(1 + s^2 / sigma^2), whose derivative the Bayes error is (Guo et al.
    2005); so the weighted floor is the difference between the ends, whichever schedule draws the levels."""
    low, high, deviation = 0.05, 20.0, 0.7
    config = DiffusionConfig(weighting="likelihood", schedule=schedule)
    curve = build_schedule(config)
    start, end = curve.time(torch.tensor([low, high], dtype=torch.float64).log())
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    time = start + (end - start) * u
    sigma, slope = curve.log_sigma(time).exp(), curve.slope(time) * (end - start)
    data = GaussianData(torch.zeros(1, dtype=torch.float64), torch.tensor([deviation], dtype=torch.float64))
    weight = loss_weight(config, Parameterization("v"), sigma, slope)
    got = float((weight * data.bayes_error(sigma).value).mean())
    expected = 0.5 * (math.log1p((deviation / low) ** 2) - math.log1p((deviation / high) ** 2))
    assert got == pytest.approx(expected, rel=1e-6)
