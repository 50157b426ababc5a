"""Exactly solvable data against scipy, numerical integrals and derivatives of their own densities."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from diptych.core.random import Rng
from diptych.core.types import Denoiser
from diptych.diffusion.exact import EmpiricalData, ExactData, GaussianData, MixtureData
from diptych.diffusion.parameterization import column


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def covariance(d: int) -> torch.Tensor:
    factor = normal(d, d, seed=7)
    return factor @ factor.T / d


MEANS = normal(3, 2, 2, seed=1)
WEIGHTS = torch.tensor([0.5, 1.5, 2.0], dtype=torch.float64)
DATA: dict[str, ExactData] = {
    "gaussian": GaussianData(normal(2, 2), deviation=normal(2, 2, seed=3).abs()),
    "correlated": GaussianData(normal(2, 2), covariance=covariance(4)),
    "isotropic mixture": MixtureData(WEIGHTS, MEANS, torch.tensor([0.1, 0.4, 0.2], dtype=torch.float64)),
    "diagonal mixture": MixtureData(WEIGHTS, MEANS, normal(3, 2, 2, seed=4).abs() + 0.1),
    "empirical": EmpiricalData(normal(6, 2, 2, seed=5)),
}
LEVELS = torch.tensor([0.05, 0.3, 1.0, 4.0, 30.0], dtype=torch.float64)


@pytest.mark.parametrize("name", DATA)
def test_the_denoiser_is_the_gradient_of_the_log_density(name: str) -> None:
    data = DATA[name]
    assert isinstance(data, Denoiser) and isinstance(data, ExactData)
    sigma = LEVELS.repeat(8)
    x = data.draw(40, Rng(1)) + column(sigma, normal(40, 2, 2)) * normal(40, 2, 2, seed=2)
    x.requires_grad_()
    (score,) = torch.autograd.grad(data.log_density(x, sigma).sum(), x)
    tweedie = x + column(sigma, x).square() * score
    assert torch.allclose(data(x, sigma), tweedie, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sigma", [0.1, 1.0, 5.0])
def test_densities_and_means_in_one_dimension_equal_numerical_integrals(sigma: float) -> None:
    weights, means, deviations = [0.3, 0.7], [-1.0, 0.5], [0.2, 0.6]
    mixture = MixtureData(*(torch.tensor(v, dtype=torch.float64) for v in (weights, [[m] for m in means], deviations)))
    gaussian = GaussianData(torch.tensor([0.4], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64))

    y = np.linspace(-8, 8, 100_001)
    of_mixture = sum(w * stats.norm.pdf(y, m, s) for w, m, s in zip(weights, means, deviations, strict=True))
    for data, density in ((mixture, of_mixture), (gaussian, stats.norm.pdf(y, 0.4, 0.7))):
        for x in (-2.0, 0.1, 1.5):
            joint = density * stats.norm.pdf(x, y, sigma)
            mass, moment = integrate.simpson(joint, x=y), integrate.simpson(y * joint, x=y)
            at, level = torch.tensor([[x]], dtype=torch.float64), torch.tensor([sigma], dtype=torch.float64)
            assert float(data.log_density(at, level)) == pytest.approx(math.log(mass), abs=1e-6)
            assert float(data(at, level)) == pytest.approx(moment / mass, abs=1e-6)


def test_densities_in_many_dimensions_equal_scipy() -> None:
    x, sigma = normal(5, 2, 2, seed=8), LEVELS
    correlated, mixture = DATA["correlated"], DATA["isotropic mixture"]
    assert isinstance(correlated, GaussianData) and isinstance(mixture, MixtureData)
    for i in range(5):
        at, eye = x[i].flatten().numpy(), np.eye(4)
        expected = stats.multivariate_normal.logpdf(
            at, correlated.mean.flatten().numpy(), covariance(4).numpy() + float(sigma[i]) ** 2 * eye
        )
        assert float(correlated.log_density(x, sigma)[i]) == pytest.approx(expected, rel=1e-9)
        parts = [
            float(w / WEIGHTS.sum())
            * stats.multivariate_normal.pdf(at, m.flatten().numpy(), (float(s) ** 2 + float(sigma[i]) ** 2) * eye)
            for w, m, s in zip(mixture.weights, mixture.means, mixture.deviations, strict=True)
        ]
        assert float(mixture.log_density(x, sigma)[i]) == pytest.approx(math.log(sum(parts)), rel=1e-9)


@pytest.mark.parametrize("name", DATA)
def test_draws_have_the_data_s_moments(name: str) -> None:
    """Within 4.5 standard errors of the denoiser's own limits: where noise drowns the data, D is the mean, and the
    least error the whole variance."""
    data, n = DATA[name], 40_000
    drawn = data.draw(n, Rng(3))
    assert torch.equal(drawn[:10], data.draw(10, Rng(3)))
    huge = torch.tensor([1e7], dtype=torch.float64)
    mean = data(torch.zeros(1, 2, 2, dtype=torch.float64), huge)[0]
    error = drawn.std(0) / math.sqrt(n)
    assert bool(((drawn.mean(0) - mean).abs() < 4.5 * error + 1e-9).all())
    spread = data.bayes_error(torch.tensor([1e5], dtype=torch.float64), n=n, rng=Rng(4))
    squares = (drawn - mean).flatten(1).square().sum(1)
    tolerance = 4.5 * (squares.std() / math.sqrt(n) + spread.standard_error[0])
    assert abs(float(squares.mean() - spread.value[0])) < float(tolerance)


def test_bayes_error_of_a_gaussian_is_what_its_denoiser_errs_by() -> None:
    data, n = DATA["correlated"], 20_000
    exact = data.bayes_error(LEVELS)
    x_0 = data.draw(n, Rng(0))
    for sigma, value in zip(LEVELS, exact.value, strict=True):
        levels = sigma.expand(n)
        squares = (data(x_0 + sigma * normal(n, 2, 2, seed=11), levels) - x_0).flatten(1).square().sum(1)
        assert abs(float(squares.mean() - value)) < 4.5 * float(squares.std()) / math.sqrt(n)
    assert bool((exact.standard_error == 0).all())


def test_no_other_denoiser_errs_less_than_the_mixture_s_own() -> None:
    data, n = DATA["isotropic mixture"], 20_000
    sigma = torch.tensor([0.5], dtype=torch.float64)
    floor = data.bayes_error(sigma, n=n, rng=Rng(2))
    x_0 = data.draw(n, Rng(2))
    x = x_0 + 0.5 * Rng(5).normal("noise", torch.arange(n), 2, 2)
    linear = GaussianData(x_0.mean(0), covariance=torch.cov(x_0.flatten(1).T))  # the best of all linear denoisers
    squares, own = ((f(x, sigma.expand(n)) - x_0).flatten(1).square().sum(1) for f in (linear, data))
    assert float((squares - own).mean()) > 5 * float((squares - own).std()) / math.sqrt(n)
    assert abs(float(own.mean() - floor.value[0])) < 4.5 * math.sqrt(2) * float(floor.standard_error[0])


def test_a_finite_set_is_a_mixture_of_tiny_deviations_and_chunks_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = normal(50, 3, seed=12)
    empirical = EmpiricalData(points)
    mixture = MixtureData(torch.ones(50), points, torch.full((50,), 1e-9))
    sigma = LEVELS.repeat(4)
    x = normal(20, 3, seed=13)
    assert torch.allclose(empirical(x, sigma), mixture(x, sigma), rtol=0, atol=1e-9)
    assert torch.allclose(empirical.log_density(x, sigma), mixture.log_density(x, sigma), rtol=1e-9, atol=1e-9)
    whole = empirical(x, sigma), mixture(x, sigma)
    monkeypatch.setattr("diptych.diffusion.exact._CHUNK", 151)
    assert torch.allclose(empirical(x, sigma), whole[0], rtol=0, atol=1e-14)
    assert torch.allclose(mixture(x, sigma), whole[1], rtol=0, atol=1e-14)


def test_a_finite_set_far_away_and_without_noise_gives_its_nearest_point() -> None:
    empirical = EmpiricalData(normal(50, 3, seed=12))
    x = 100.0 * normal(4, 3, seed=14)
    nearest = torch.cdist(x, empirical.points).argmin(1)
    got = empirical(x, torch.full((4,), 1e-4, dtype=torch.float64))
    assert torch.allclose(got, empirical.points[nearest], atol=1e-12)
    assert got.dtype == torch.float64 and empirical(x.float(), torch.full((4,), 1e-2)).dtype == torch.float32


def test_wrong_data_is_refused() -> None:
    with pytest.raises(ValueError, match="either"):
        GaussianData(torch.zeros(2))
    with pytest.raises(ValueError, match="shape"):
        GaussianData(torch.zeros(2), torch.ones(3))
    with pytest.raises(ValueError, match="rows and columns"):
        GaussianData(torch.zeros(2), covariance=torch.eye(3))
    with pytest.raises(ValueError, match="eigenvalue"):
        GaussianData(torch.zeros(2), covariance=-torch.eye(2)).draw(1, Rng(0))
    with pytest.raises(ValueError, match="weights"):
        MixtureData(torch.ones(2), torch.zeros(3, 1), torch.ones(3))
    with pytest.raises(ValueError, match="positive"):
        MixtureData(torch.tensor([1.0, 0.0]), torch.zeros(2, 1), torch.ones(2))
    with pytest.raises(ValueError, match="at least one"):
        EmpiricalData(torch.zeros(0, 2))
