"""Solvers against exact solutions on Gaussian data, and against diffusers' and k-diffusion's.

On Gaussian data D is affine in x, so the probability-flow equation has the solution x(s) = mean + sqrt((v + s^2) /
(v + t^2)) (x(t) - mean), v the variance, and a stochastic solver is an affine map of its start and its noise, whose
mean and variance follow exactly from its response to each alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.types import Denoiser
from diptych.diffusion.exact import MixtureData
from diptych.diffusion.grids import karras, uniform_log_snr
from diptych.diffusion.schedules import Cosine
from diptych.samplers.exponential import adams_weights, exponential_moments
from diptych.samplers.gaussian import GaussianSampler, ImageRequest
from diptych.samplers.solvers import SOLVERS, SolverName, heun
from tests.samplers.peers import run_diffusers

MEAN = torch.tensor([0.3, -0.1, 0.5], dtype=torch.float64)
VARIANCE = torch.tensor([0.25, 0.04, 1.0], dtype=torch.float64)
HIGH, LOW = 10.0, 0.1
DETERMINISTIC: list[SolverName] = [name for name, solver in SOLVERS.items() if not solver.is_stochastic]


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    return MEAN + VARIANCE / (VARIANCE + sigma[:, None] ** 2) * (x - MEAN)


def exact(x: Tensor, high: float, low: float) -> Tensor:
    return MEAN + ((VARIANCE + low**2) / (VARIANCE + high**2)).sqrt() * (x - MEAN)


def no_noise(step: int) -> Tensor:
    raise AssertionError("a deterministic solver asked for noise")


def last(steps: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    *_, (x, _) = steps
    return x


def orders(error: Callable[[int], float], steps: tuple[int, ...]) -> list[float]:
    errors = [error(n) for n in steps]
    return [math.log2(a / b) for a, b in pairwise(errors)]


def start() -> Tensor:
    return torch.tensor([[12.0, -7.0, 9.0], [-3.0, 11.0, 4.0]], dtype=torch.float64)


@pytest.mark.parametrize(("name", "order"), [
    ("ddim", 1), ("euler", 1), ("heun", 2), ("dpmpp_2m", 2), ("dpmpp_3m", 3), ("unipc_2", 3), ("unipc_3", 4),
    ("abm_2", 3), ("abm_3", 4),
])  # fmt: skip
def test_order_of_convergence(name: SolverName, order: int) -> None:
    """From sigma 10 to 0.1, where the first step matters. UniPC's corrector gains one order on its name."""

    def error(n: int) -> float:
        grid = uniform_log_snr(n, LOW, HIGH, to_zero=False)
        y = last(SOLVERS[name].run(gaussian, start(), grid, no_noise))
        return float((y - exact(start(), HIGH, LOW)).abs().max())

    measured = orders(error, (64, 128, 256))
    assert measured == pytest.approx([order] * 2, abs=0.12)
    assert SOLVERS[name].order <= order


@pytest.mark.parametrize("name", ["abm_2", "abm_3"])
def test_angle_is_exact_on_data_of_its_own_deviation(name: SolverName) -> None:
    """On N(0, sigma_data^2) the equation over the angle stands still: 3 steps go from sigma 80 to 0 without error."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return x * (0.49 / (0.49 + sigma[:, None] ** 2))

    sampler = GaussianSampler(solver=name, steps=3, sigma_data=0.7, dtype=torch.float64)
    request = ImageRequest(shape=(3,), sample_ids=torch.arange(4))
    x = Rng(0).fold("start").normal("noise", request.sample_ids, 3) * 80.0
    *_, frame = sampler.sample(denoise, request, Rng(0))
    torch.testing.assert_close(frame.state, x * 0.7 / math.hypot(0.7, 80.0), rtol=1e-12, atol=0.0)


def moments(run: Any, sigmas: list[float], offset: float) -> tuple[Tensor, Tensor]:
    """Mean and variance at the end, of a start N(mean + offset, variance + sigma_max^2): exact, as the map is affine.

    Row 0 starts at the mean without noise, row 1 a deviation away, and row 2 + i has unit noise in step i alone.
    """
    n = len(sigmas) - 1
    x = (MEAN + offset).repeat(n + 2, 1)
    x[1] += (VARIANCE + sigmas[0] ** 2).sqrt()

    def unit(step: int) -> Tensor:
        rows = torch.zeros_like(x)
        rows[2 + step] = 1.0
        return rows

    end = last(run(gaussian, x, sigmas, unit))
    return end[0], (end[1:] - end[0]).square().sum(0)


@pytest.mark.parametrize(("name", "order"), [("ancestral", 1), ("dpmpp_2m_sde", 2)])
def test_weak_order_of_stochastic_solvers(name: SolverName, order: int) -> None:
    """The mean of a displaced start fades by (v + s^2) / (v + t^2), exactly, as D has the same mean all the way; the
    variance stays that of the data and noise."""

    def errors(n: int) -> tuple[float, float]:
        mean, variance = moments(SOLVERS[name].run, uniform_log_snr(n, LOW, HIGH, to_zero=False), 5.0)
        faded = MEAN + 5.0 * (VARIANCE + LOW**2) / (VARIANCE + HIGH**2)
        return float((mean - faded).abs().max()), float((variance - VARIANCE - LOW**2).abs().max())

    assert errors(16)[0] < 1e-12
    assert orders(lambda n: errors(n)[1], (128, 256, 512)) == pytest.approx([order] * 2, abs=0.15)


def test_churn_keeps_the_distribution_at_second_order() -> None:
    def run(denoise: Denoiser, x: Tensor, sigmas: list[float], noise: Any) -> Any:
        return heun(denoise, x, sigmas, noise, s_churn=5.0, s_tmin=0.2, s_tmax=5.0)

    def error(n: int) -> float:
        _, variance = moments(run, karras(n, LOW, HIGH, to_zero=False), 0.0)
        return float((variance - VARIANCE - LOW**2).abs().max())

    assert orders(error, (32, 64, 128)) == pytest.approx([2.0, 2.0], abs=0.1)


@pytest.mark.parametrize("name", list(SOLVERS))
def test_moments_of_the_data_on_the_usual_grid(name: SolverName) -> None:
    """From sigma 80 to 0: the data's mean and variance, to 1 % in 200 steps (order 1: 10 %). A mean that D
    is all the way is kept exactly by all but those that follow the angle, where it is a sine."""
    mean, variance = moments(SOLVERS[name].run, karras(200), 0.0)
    torch.testing.assert_close(mean, MEAN, rtol=0.0, atol=1e-5 if name.startswith("abm") else 1e-7)
    torch.testing.assert_close(variance, VARIANCE, rtol=0.1 if SOLVERS[name].order == 1 else 0.01, atol=0.0)


@pytest.mark.parametrize("h", [1e-3, 0.3, 0.999, 1.001, 4.0])
def test_weights_integrate_polynomials_exactly(h: float) -> None:
    """Moments by Gauss-Legendre quadrature; weights by the values of a cubic."""
    numpy = pytest.importorskip("numpy")
    nodes, weights = numpy.polynomial.legendre.leggauss(40)
    tau = 0.5 * (nodes + 1.0)
    measure = 0.5 * weights * h * numpy.exp(h * (tau - 1.0))
    assert exponential_moments(h, 4) == pytest.approx([float((measure * tau**k).sum()) for k in range(4)], rel=1e-13)
    places = [-2.3, -0.9, 0.0, 1.0]
    cubic = numpy.polynomial.Polynomial([0.4, -1.0, 0.7, 0.2])
    found = sum(w * float(cubic(p)) for w, p in zip(adams_weights(places, h), places, strict=True))
    assert found == pytest.approx(float((measure * cubic(tau)).sum()), rel=1e-12)


@pytest.mark.parametrize("name", list(SOLVERS))
@pytest.mark.parametrize("to_zero", [True, False])
def test_calls_and_last_step(name: SolverName, to_zero: bool) -> None:
    calls = []

    def counted(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (2,)
        assert float(sigma[0]) > 0.0
        calls.append(float(sigma[0]))
        return gaussian(x, sigma)

    before = start()
    frames = list(SOLVERS[name].run(counted, before, karras(6, to_zero=to_zero), lambda step: torch.ones_like(before)))
    assert len(frames) == 6
    assert len(calls) == SOLVERS[name].evaluations(6, to_zero=to_zero)
    assert torch.equal(before, start())
    assert torch.equal(*frames[-1]) == (to_zero and not name.startswith("abm"))
    assert len({x.data_ptr() for x, _ in frames}) == 6  # no state is overwritten by a later one


# Other libraries


def diffusers_scheduler(name: str, order: int = 2, **options: Any) -> tuple[Any, dict[str, Any]]:
    diffusers = pytest.importorskip("diffusers")
    shared = {"prediction_type": "sample", **options}
    match name:
        case "dpm":
            made = diffusers.DPMSolverMultistepScheduler(
                solver_order=order, lower_order_final=False, final_sigmas_type="sigma_min", **shared
            )
            return made, {"variance_preserving": True}
        case "unipc":
            made = diffusers.UniPCMultistepScheduler(
                solver_order=order, solver_type="bh2", lower_order_final=False, **shared
            )
            return made, {"variance_preserving": True}
        case "euler":
            return diffusers.EulerDiscreteScheduler(**shared), {}
        case _:
            return diffusers.HeunDiscreteScheduler(**shared), {"twice": True}


@pytest.mark.parametrize(("ours", "theirs", "order", "to_zero"), [
    ("euler", "euler", 1, True), ("ddim", "euler", 1, False), ("heun", "heun", 2, True), ("dpmpp_2m", "dpm", 2, False),
    ("unipc_2", "unipc", 2, False), ("unipc_3", "unipc", 3, False),
])  # fmt: skip
def test_equals_diffusers(ours: SolverName, theirs: str, order: int, to_zero: bool) -> None:
    scheduler, options = diffusers_scheduler(theirs, order)
    sigmas = karras(12, 0.05, 20.0, to_zero=to_zero)
    x = 2.0 * start()
    expected = run_diffusers(scheduler, gaussian, x, sigmas, **options)
    found = last(SOLVERS[ours].run(gaussian, x, sigmas, no_noise))
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-6)


def test_sde_equals_diffusers() -> None:
    scheduler, options = diffusers_scheduler("dpm", 2, algorithm_type="sde-dpmsolver++")
    sigmas = karras(12, 0.05, 20.0, to_zero=False)
    noise = torch.randn(12, 2, 3, dtype=torch.float64)
    expected = run_diffusers(scheduler, gaussian, start(), sigmas, noise=lambda step: noise[step], **options)
    found = last(SOLVERS["dpmpp_2m_sde"].run(gaussian, start(), sigmas, lambda step: noise[step]))
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.0), ("ancestral", 1.0)])
def test_equals_diffusers_on_a_table_of_betas(name: SolverName, eta: float) -> None:
    """DDIM's scheduler, and DDPM's with its small variance, step through integer times to 0."""
    diffusers = pytest.importorskip("diffusers")
    shared = {"clip_sample": False, "prediction_type": "sample", "timestep_spacing": "leading"}
    scheduler = diffusers.DDPMScheduler(**shared) if eta else diffusers.DDIMScheduler(**shared)
    scheduler.set_timesteps(20)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    alphas = [float(scheduler.alphas_cumprod[t]) for t in scheduler.timesteps]
    sigmas = [*(math.sqrt((1.0 - a) / a) for a in alphas), 0.0]
    theirs, ours = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    state = start() * math.sqrt(alphas[0])
    for t, a, sigma in zip(scheduler.timesteps, alphas, sigmas, strict=False):
        denoised = gaussian(state / math.sqrt(a), torch.full((2,), sigma, dtype=torch.float64))
        state = scheduler.step(denoised, t, state, generator=theirs).prev_sample

    def noise(step: int) -> Tensor:
        return torch.randn(2, 3, generator=ours, dtype=torch.float64)

    found = last(SOLVERS[name].run(gaussian, start(), sigmas, noise))
    torch.testing.assert_close(found, state, rtol=1e-5, atol=1e-6)


def test_third_order_of_diffusers_is_second_and_ours_third() -> None:
    """DPMSolverMultistepScheduler(solver_order=3) halves the weight of the second difference; data along one line, on
    which diffusers' single precision does not show yet."""

    def error(n: int, y: Tensor) -> float:
        return float((y - exact(start(), HIGH, LOW)).abs().max())

    def theirs(n: int) -> float:
        scheduler, options = diffusers_scheduler("dpm", 3)
        grid = uniform_log_snr(n, LOW, HIGH, to_zero=False)
        return error(n, run_diffusers(scheduler, gaussian, start(), grid, **options))

    def ours(n: int) -> float:
        grid = uniform_log_snr(n, LOW, HIGH, to_zero=False)
        return error(n, last(SOLVERS["dpmpp_3m"].run(gaussian, start(), grid, no_noise)))

    steps = (32, 64, 128)
    assert orders(theirs, steps)[-1] == pytest.approx(2.0, abs=0.25)
    assert orders(ours, steps)[-1] > 2.8
    assert ours(64) < 0.2 * theirs(64)


@pytest.mark.parametrize(("ours", "theirs", "options"), [
    ("euler", "sample_euler", {}), ("heun", "sample_heun", {}), ("dpmpp_2m", "sample_dpmpp_2m", {}),
    ("ancestral", "sample_euler_ancestral", {"noise": True}), ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"noise": True}),
])  # fmt: skip
def test_equals_k_diffusion(ours: SolverName, theirs: str, options: dict[str, bool]) -> None:
    sampling = pytest.importorskip("k_diffusion.sampling")
    sigmas = karras(12, 0.05, 20.0)
    noise = torch.randn(12, 2, 3, dtype=torch.float64)
    drawn = iter(noise)
    keyed = {"noise_sampler": lambda *_: next(drawn)} if options else {}
    levels = torch.tensor(sigmas, dtype=torch.float64)
    expected = getattr(sampling, theirs)(gaussian, start(), levels, disable=True, **keyed)
    found = last(SOLVERS[ours].run(gaussian, start(), sigmas, lambda step: noise[step]))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


# The sampler

MIXTURE = MixtureData(
    torch.tensor([0.3, 0.7], dtype=torch.float64),
    torch.tensor([-0.6, 0.4], dtype=torch.float64).view(2, 1, 1, 1),
    torch.tensor([0.1, 0.25], dtype=torch.float64),
)


def kolmogorov(sample: Tensor) -> float:
    """The largest distance of the sample's distribution function from the mixture's."""
    ordered = sample.flatten().double().sort().values
    cdf = sum(
        w * torch.special.ndtr((ordered - m) / s)
        for w, m, s in zip(MIXTURE.weights, MIXTURE.means.flatten(), MIXTURE.deviations, strict=True)
    )
    ranks = torch.arange(len(ordered) + 1, dtype=torch.float64) / len(ordered)
    return float(torch.maximum((cdf - ranks[:-1]).abs(), (cdf - ranks[1:]).abs()).max())


CRITICAL = math.sqrt(-0.5 * math.log(0.5e-6) / 20_000)
"""Kolmogorov and Smirnov's distance that 20,000 draws of the right distribution pass once in a million times: 0.019."""


def drawn(denoiser: Denoiser, **options: Any) -> Tensor:
    request = ImageRequest(shape=(1, 1, 1), sample_ids=torch.arange(20_000))
    *_, frame = GaussianSampler(**options).sample(denoiser, request, Rng(3))
    return frame.state


@pytest.mark.parametrize("options", [
    {"solver": "ancestral", "steps": 300}, {"solver": "dpmpp_2m_sde", "steps": 60}, {"solver": "unipc_3", "steps": 30},
    {"solver": "heun", "steps": 40, "s_churn": 10.0, "s_tmin": 0.05, "s_tmax": 5.0},
])  # fmt: skip
def test_a_mixture_is_drawn_right(options: dict[str, Any]) -> None:
    assert kolmogorov(drawn(MIXTURE, **options)) < CRITICAL


def test_the_test_above_notices_five_percent() -> None:
    """Its power: a denoiser whose clean image is 5 % too large, or displaced by 0.03, is rejected."""
    options = {"solver": "unipc_3", "steps": 30}
    assert kolmogorov(drawn(lambda x, s: 1.05 * MIXTURE(x, s), **options)) > CRITICAL
    assert kolmogorov(drawn(lambda x, s: MIXTURE(x, s) + 0.03, **options)) > CRITICAL


@pytest.mark.parametrize("name", list(SOLVERS))
def test_an_image_does_not_depend_on_its_batch(name: SolverName) -> None:
    sampler = GaussianSampler(solver=name, steps=7, s_churn=3.0 if name == "heun" else 0.0, dtype=torch.float64)

    def final(ids: list[int]) -> Tensor:
        request = ImageRequest(shape=(2, 3, 3), sample_ids=torch.tensor(ids))
        frames = list(sampler.sample(MIXTURE_OF_IMAGES, request, Rng(5)))
        assert [(frame.step, frame.of) for frame in frames] == [(i, 7) for i in range(7)]
        assert frames[-1].info["denoised"].shape == (len(ids), 2, 3, 3)
        return frames[-1].state

    together = final([4, 9, 2, 11])
    assert not torch.equal(together[0], together[1])
    torch.testing.assert_close(final([9, 11]), together[[1, 3]], rtol=0.0, atol=1e-12)


MIXTURE_OF_IMAGES = MixtureData(
    torch.ones(2, dtype=torch.float64),
    torch.linspace(-1.0, 1.0, 36, dtype=torch.float64).view(2, 2, 3, 3),
    torch.tensor([0.1, 0.3], dtype=torch.float64),
)


def test_precision_of_images_is_single_by_default() -> None:
    request = ImageRequest(shape=(1, 2, 2), sample_ids=torch.arange(2))
    (frame, *_) = GaussianSampler(steps=3).sample(lambda x, s: 0.5 * x, request, Rng(1))
    assert frame.state.dtype is torch.float32
    assert GaussianSampler(solver="heun", steps=18).evaluations == 35


@pytest.mark.parametrize(("options", "said"), [
    ({"solver": "dpm"}, "no solver 'dpm'"), ({"grid": "linear"}, "no grid 'linear'"), ({"grid": "time"}, "no schedule"),
    ({"schedule": Cosine()}, "uses no schedule"), ({"steps": 0}, "steps=0"), ({"sigma_min": 90.0}, "sigma_min=90.0"),
    ({"s_churn": 1.0}, "use the solver 'heun'"), ({"s_churn": 1.0, "solver": "ancestral"}, "already"),
    ({"s_churn": -1.0, "solver": "heun"}, "negative"), ({"dtype": torch.int64}, "floating-point"),
])  # fmt: skip
def test_choices_that_make_no_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        GaussianSampler(**options)


def test_empty_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="sample_ids"):
        ImageRequest(shape=(1, 2, 2), sample_ids=torch.arange(0))
    with pytest.raises(ValueError, match="no pixels"):
        ImageRequest(shape=(1, 0, 2), sample_ids=torch.arange(2))
