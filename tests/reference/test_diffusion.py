"""The review's forward and backward process against diffusers, closed forms, and the package's own."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from diptych.core.diffusion_config import DiffusionConfig
from diptych.core.random import Rng
from diptych.core.types import Batch
from diptych.diffusion.exact import MixtureData
from diptych.objectives.gaussian import GaussianDiffusion
from diptych.reference.diffusion import (
    Table,
    bound_terms,
    cosine_beta,
    cumulative,
    forward_process,
    gaussian_kl,
    linear_beta,
    p_mean,
    posterior,
    q_sample,
    sampling,
    training_loss,
)
from diptych.samplers.gaussian import GaussianSampler, ImageRequest

MEAN, DEVIATION = 0.6, 0.4


def exact_noise(beta: Table):
    """epsilon_theta of data N(MEAN, DEVIATION^2), independent numbers: E[epsilon | x_t], a line in x_t."""
    alpha_bar = cumulative(beta)

    def epsilon_theta(x_t: np.ndarray, t: int) -> np.ndarray:
        variance = alpha_bar[t] * DEVIATION**2 + 1.0 - alpha_bar[t]
        return math.sqrt(1.0 - alpha_bar[t]) * (x_t - math.sqrt(alpha_bar[t]) * MEAN) / variance

    return epsilon_theta


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_tables_and_steps_equal_diffusers_ones(schedule: str) -> None:
    beta = linear_beta(1000) if schedule == "linear" else cosine_beta(1000)
    theirs = DDPMScheduler(1000, beta_schedule=schedule, variance_type="fixed_small", clip_sample=False)
    assert len(beta) == 1001 and beta[0] == 0.0
    assert np.allclose(beta[1:], theirs.betas.double().numpy(), rtol=1e-6, atol=1e-9)  # theirs are in float32
    theirs.betas = torch.from_numpy(beta[1:])
    theirs.alphas = 1.0 - theirs.betas
    theirs.alphas_cumprod = theirs.alphas.cumprod(0)
    x_0, epsilon, predicted = np.random.default_rng(0).normal(size=(3, 6))
    for t in (1, 2, 500, 999, 1000):
        x_t = q_sample(x_0, t, epsilon, beta)
        added = theirs.add_noise(torch.from_numpy(x_0), torch.from_numpy(epsilon), torch.tensor([t - 1]))
        assert np.allclose(x_t, added.numpy(), rtol=0, atol=1e-12)
        generator = torch.Generator().manual_seed(5)
        step = theirs.step(torch.from_numpy(predicted)[None], t - 1, torch.from_numpy(x_t)[None], generator=generator)
        z = torch.randn(1, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)[0].numpy()
        _, variance = posterior(x_t, x_0, t, beta)
        ours = p_mean(x_t, t, lambda x, t: predicted, beta) + math.sqrt(variance) * z * (t > 1)
        assert np.allclose(ours, step.prev_sample[0].numpy(), rtol=1e-10, atol=1e-9)


def test_many_small_steps_are_one_large_one() -> None:
    """The chain is linear in x_0 and the noises: its coefficients add up to equation 4's mean and variance."""
    T = 30
    beta = linear_beta(T, 0.01, 0.3)
    x_0 = np.zeros(T + 1)
    x_0[0] = 1.0  # coordinate 0 carries the signal, coordinate t the noise of step t
    epsilon = np.concatenate([np.zeros((T, 1)), np.eye(T)], axis=1)
    chain = forward_process(x_0, epsilon, beta)
    alpha_bar = cumulative(beta)
    assert chain.shape == (T + 1, T + 1)
    for t in range(T + 1):
        assert chain[t, 0] == pytest.approx(math.sqrt(alpha_bar[t]), rel=1e-12)
        assert (chain[t, 1:] ** 2).sum() == pytest.approx(1.0 - alpha_bar[t], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("t", [1, 2, 17, 40])
def test_the_posterior_is_bayes_rule(t: int) -> None:
    """q(x_{t-1} | x_t, x_0) on a grid: proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0)."""
    beta = cosine_beta(50)
    alpha_bar = cumulative(beta)
    x_0, x_t = 0.7, -0.2
    mean, variance = posterior(np.array([x_t]), np.array([x_0]), t, beta)
    if t == 1:
        assert mean[0] == pytest.approx(x_0, abs=1e-12) and variance == pytest.approx(0.0, abs=1e-12)
        return
    x = np.linspace(-8.0, 8.0, 400_001)
    logarithm = -((x_t - math.sqrt(1 - beta[t]) * x) ** 2) / (2 * beta[t])
    logarithm -= (x - math.sqrt(alpha_bar[t - 1]) * x_0) ** 2 / (2 * (1 - alpha_bar[t - 1]))
    p = np.exp(logarithm - logarithm.max())
    p /= p.sum()
    assert mean[0] == pytest.approx((p * x).sum(), abs=1e-9)
    assert variance == pytest.approx((p * (x - mean[0]) ** 2).sum(), rel=1e-6)
    clean = (x_t - math.sqrt(alpha_bar[t]) * x_0) / math.sqrt(1 - alpha_bar[t])  # the true noise gives mu_tilde
    assert p_mean(np.array([x_t]), t, lambda x, t: np.array([clean]), beta)[0] == pytest.approx(mean[0], abs=1e-12)


def test_algorithm_2_makes_the_data_s_mean_and_variance() -> None:
    """Propagated exactly: sampling is affine in x_T and the noises, so one coordinate a source gives its share of the
    variance. What is missing shrinks with the step, at the first order."""
    missing = []
    for T in (250, 500, 1000):
        beta = linear_beta(T, 0.1 / T, 20.0 / T)
        x_T = np.zeros(T + 2)
        x_T[0] = 1.0
        z = np.concatenate([np.zeros((T, 1)), np.eye(T), np.zeros((T, 1))], axis=1)
        x_0 = sampling(x_T, z, exact_noise(beta), beta)[0]
        assert x_0[-1] == pytest.approx(MEAN, abs=1e-2 * 250 / T)
        missing.append(abs(((x_0[:-1] - x_0[-1]) ** 2).sum() / DEVIATION**2 - 1.0))
    assert missing[-1] < 0.02
    assert all(coarse / fine > 1.7 for coarse, fine in itertools.pairwise(missing))


def test_the_bound_is_above_the_exact_value_and_near_it_with_many_steps() -> None:
    """With levels even in the log-SNR: under the linear table the first steps' SNR doubles however many there are."""
    d, generator = 4000, np.random.default_rng(1)
    x_0 = MEAN + DEVIATION * generator.normal(size=d)
    exact = 0.5 * ((x_0 - MEAN) ** 2 / DEVIATION**2 + math.log(2 * math.pi * DEVIATION**2))
    gaps = []
    for T in (50, 200, 800):
        alpha_bar = np.concatenate([[1.0], 1.0 / (1.0 + np.geomspace(0.01, 60.0, T) ** 2)])
        beta = np.concatenate([[0.0], 1.0 - alpha_bar[1:] / alpha_bar[:-1]])
        terms = bound_terms(x_0, generator.normal(size=(T, d)), exact_noise(beta), beta)
        assert len(terms) == T + 1 and bool((terms[1:] >= 0.0).all())
        gaps.append((terms.sum() - exact.sum()) / d)
        bad = bound_terms(x_0, generator.normal(size=(T, d)), lambda x, t: np.zeros(d), beta)
        assert bad.sum() > terms.sum()
    assert gaps[0] > gaps[1] > gaps[2] > -0.01
    assert gaps[2] < 0.05


def test_the_divergence_of_gaussians_is_its_integral() -> None:
    x = np.linspace(-20, 20, 200_001)
    m_1, v_1, m_2, v_2 = 0.3, 0.5, -1.0, 2.0
    p = np.exp(-((x - m_1) ** 2) / (2 * v_1)) / math.sqrt(2 * math.pi * v_1)
    ratio = -((x - m_1) ** 2) / (2 * v_1) + (x - m_2) ** 2 / (2 * v_2) - 0.5 * math.log(v_1 / v_2)
    expected = np.trapezoid(p * ratio, x)
    assert gaussian_kl(np.array([m_1]), v_1, np.array([m_2]), v_2) == pytest.approx(expected, abs=1e-9)


def test_algorithm_1_equals_the_fast_loss() -> None:
    """At the noise levels and noises that the package draws, each an only step of a table of its own."""
    config = DiffusionConfig(schedule="vp_linear", parameterization="epsilon", weighting="simple", dequantize=False)
    x, ids, rng = torch.rand(5, 1, 2, 2) * 2 - 1, torch.arange(5), Rng(3)
    levels: list[float] = []

    def model(z: torch.Tensor, *, mask: object, time: torch.Tensor, cond: object = None) -> torch.Tensor:
        levels.extend((4 * time.double()).exp().tolist())
        return torch.tanh(z) * 0.7 + 0.1

    fast = GaussianDiffusion(config, levels=256).loss(model, Batch(x=x, sample_ids=ids), rng)
    noise = rng.normal("noise", ids, 1, 2, 2)
    losses = []
    for x_0, epsilon, sigma in zip(x.double(), noise, levels, strict=True):
        beta = np.array([0.0, sigma**2 / (1.0 + sigma**2)])
        z, flat = x_0.flatten().numpy(), epsilon.flatten().numpy()
        losses.append(training_loss(z, 1, flat, lambda x, t: np.tanh(x) * 0.7 + 0.1, beta))
    assert float(fast.total) == pytest.approx(sum(losses), rel=1e-5)
    assert fast.count == x.numel()


def test_algorithm_2_equals_the_fast_sampler() -> None:
    """Step by step from the same noise, on a mixture's exact denoiser; z = x / sqrt(1 + sigma^2) joins the frames."""
    data = MixtureData(
        torch.tensor([1.0, 2.0]), torch.tensor([[[[-0.5, 0.3]]], [[[0.6, 0.1]]]]), torch.tensor([0.1, 0.2])
    )
    T = 12
    sampler = GaussianSampler(solver="ancestral", steps=T, dtype=torch.float64)
    sigma = np.array(sampler.sigmas[::-1])  # sigma_0 = 0, ..., sigma_T
    alpha_bar = 1.0 / (1.0 + sigma**2)
    beta = np.concatenate([[0.0], 1.0 - alpha_bar[1:] / alpha_bar[:-1]])

    def epsilon_theta(x_t: np.ndarray, t: int) -> np.ndarray:
        x = torch.from_numpy(x_t).view(1, 1, 1, 2) * math.sqrt(1.0 + sigma[t] ** 2)
        level = torch.tensor([sigma[t]])
        return ((x - data(x, level)) / sigma[t]).flatten().numpy()

    ids, rng = torch.tensor([4]), Rng(2)
    frames = list(sampler.sample(data, ImageRequest(shape=(1, 1, 2), sample_ids=ids), rng))
    start = rng.fold("start").normal("noise", ids, 1, 1, 2).flatten().numpy()
    steps = [rng.fold("step", T - t).normal("noise", ids, 1, 1, 2).flatten().numpy() for t in range(1, T + 1)]
    x = sampling(start * sigma[T] * math.sqrt(alpha_bar[T]), np.stack(steps), epsilon_theta, beta)
    assert len(frames) == T
    for step, frame in enumerate(frames):
        t = T - 1 - step
        assert np.allclose(frame.state.flatten().numpy() * math.sqrt(alpha_bar[t]), x[t], rtol=0, atol=1e-9)
