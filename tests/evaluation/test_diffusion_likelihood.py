"""The flow's density and the variational bound against exactly known densities."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from diptych.core.events import Event, Progressed
from diptych.core.random import Rng
from diptych.core.types import Likelihood
from diptych.diffusion.bound import variational_bound
from diptych.diffusion.exact import ExactData, GaussianData, MixtureData
from diptych.evaluation.diffusion_likelihood import bits_per_dimension, flow_likelihood, image_score, in_batches


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


GAUSSIAN = GaussianData(normal(2, 2), deviation=torch.tensor([[0.2, 0.5], [1.0, 0.7]], dtype=torch.float64))
MIXTURE = MixtureData(torch.tensor([1.0, 2.0, 3.0]), normal(3, 2, 2, seed=1), torch.tensor([0.15, 0.3, 0.2]))
DATA: dict[str, ExactData] = {"gaussian": GAUSSIAN, "mixture": MIXTURE}
IDS = torch.arange(24)


def exact(data: ExactData, x: Tensor, sigma: float) -> Tensor:
    return -data.log_density(x, torch.full((len(x),), sigma, dtype=torch.float64))


@pytest.mark.parametrize("name", DATA)
def test_the_flow_converges_to_the_exact_density_at_the_fourth_order(name: str) -> None:
    mean = DATA[name](torch.zeros(1, 2, 2, dtype=torch.float64), torch.tensor([1e9], dtype=torch.float64))[0]
    data = (
        GaussianData(GAUSSIAN.mean - mean, GAUSSIAN.deviation)
        if name == "gaussian"
        else MixtureData(MIXTURE.weights, MIXTURE.means - mean, MIXTURE.deviations)
    )  # of mean zero, and with so much noise at the end that the prior is exact to 1e-6 nats
    x = data.draw(len(IDS), Rng(0))
    errors = []
    for steps in (24, 48, 96):
        got = flow_likelihood(data, x, IDS, Rng(0), steps=steps, sigma_min=0.02, sigma_max=3000.0)
        assert got.kind == "exact" and got.standard_error is None and got.count.tolist() == [4] * len(IDS)
        errors.append(float((got.nats - exact(data, x, 0.02)).abs().mean()))
    assert errors[2] < 1e-4
    assert math.log2(errors[0] / errors[1]) > 3.2 and math.log2(errors[1] / errors[2]) > 3.5


def test_the_default_flow_errs_by_what_its_prior_does_not_know() -> None:
    n = 400
    x = MIXTURE.draw(n, Rng(0))
    gap = flow_likelihood(MIXTURE, x, torch.arange(n), Rng(0)).nats - exact(MIXTURE, x, 0.002)
    stated = float(x.mean(0).norm()) / 80.0
    assert 0.85 * stated < float(gap.std()) < 1.15 * stated  # 0.014 nats; the deviation of 400 is known to 4 %
    assert abs(float(gap.mean()) - stated**2 / 2) < 4.0 * stated / math.sqrt(n)


def test_random_probes_are_unbiased_within_their_standard_error() -> None:
    covariance = normal(4, 4, seed=5)
    data = GaussianData(normal(4), covariance=covariance @ covariance.T / 4)
    x, ids = data.draw(64, Rng(0)), torch.arange(64)
    whole = flow_likelihood(data, x, ids, Rng(0), steps=24)
    guess = flow_likelihood(data, x, ids, Rng(0), steps=24, probes=16)
    assert guess.standard_error is not None
    z = (guess.nats - whole.nats) / guess.standard_error
    assert bool((guess.standard_error > 1e-3).all())  # off the diagonal there is something to err by
    assert abs(float((guess.nats - whole.nats).mean())) < 4.0 * float(guess.standard_error.mean()) / 8.0
    assert 0.7 < float(z.std()) < 1.5
    again = flow_likelihood(data, x[5:7], ids[5:7], Rng(0), steps=24, probes=16)
    assert torch.allclose(again.nats, guess.nats[5:7], rtol=0, atol=1e-10)  # keyed by the example


@pytest.mark.parametrize("name", DATA)
def test_the_bound_of_an_exact_denoiser_is_the_exact_value_and_never_below(name: str) -> None:
    data, n = DATA[name], 3000
    x, ids = data.draw(n, Rng(0)), torch.arange(n)
    got = variational_bound(data, x, ids, Rng(1), times=32)
    assert got.kind == "bound" and got.standard_error is not None
    gap = got.nats - exact(data, x, 1e-9)
    error = float(gap.std()) / math.sqrt(n)
    # What the bound gives away: the prior's mismatch at sigma_max and the last step's at sigma_min, 1e-3 nats in all.
    assert abs(float(gap.mean())) < 4.0 * error + 1e-3
    assert error < 0.1
    stated = float(got.standard_error.square().mean().sqrt()) / math.sqrt(n)
    assert 0.9 < stated / error < 1.1


def test_with_coarse_ends_the_bound_lies_above() -> None:
    """With sigma_min as large as the data's own deviation, the last step's Gaussian is no longer the posterior."""
    x, ids = GAUSSIAN.draw(3000, Rng(0)), torch.arange(3000)
    got = variational_bound(GAUSSIAN, x, ids, Rng(1), sigma_min=0.5, sigma_max=3.0)
    gap = got.nats - exact(GAUSSIAN, x, 1e-9)
    assert float(gap.mean()) > 5.0 * float(gap.std()) / math.sqrt(3000)


def test_a_wrong_denoiser_has_a_worse_bound() -> None:
    x, ids = MIXTURE.draw(2000, Rng(0)), torch.arange(2000)
    wrong: list[Callable[[Tensor, Tensor], Tensor]] = [
        GaussianData(x.mean(0), covariance=torch.cov(x.flatten(1).T)),
        lambda x, sigma: 1.1 * MIXTURE(x, sigma),
    ]
    right = variational_bound(MIXTURE, x, ids, Rng(1)).nats
    for denoiser in wrong:
        more = variational_bound(denoiser, x, ids, Rng(1)).nats - right  # the same noise, so most of the chance cancels
        assert float(more.mean()) > 5.0 * float(more.std()) / math.sqrt(2000)


def test_the_bound_of_an_example_does_not_depend_on_its_batch() -> None:
    x, ids = MIXTURE.draw(8, Rng(0)), torch.arange(8)
    whole = variational_bound(MIXTURE, x, ids, Rng(1), times=4)

    def score(rows: slice) -> Likelihood:
        return variational_bound(MIXTURE, x[rows], ids[rows], Rng(1), times=4)

    events: list[Event] = []
    parts = in_batches(score, 8, batch_size=3, on_event=events.append)
    assert torch.allclose(parts.nats, whole.nats, rtol=0, atol=1e-9) and parts.kind == "bound"
    assert parts.standard_error is not None and whole.standard_error is not None
    assert torch.allclose(parts.standard_error, whole.standard_error, rtol=1e-9)
    assert [event.done for event in events if isinstance(event, Progressed)] == [3, 6, 8]


def test_both_say_how_far_they_are() -> None:
    events: list[Event] = []
    x = MIXTURE.draw(2, Rng(0))
    variational_bound(MIXTURE, x, IDS[:2], Rng(0), times=4, on_event=events.append)
    flow_likelihood(MIXTURE, x, IDS[:2], Rng(0), steps=3, on_event=events.append)
    assert [event.done for event in events if isinstance(event, Progressed)] == [2, 4, 5, 1, 2, 3]


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_bits_of_uniform_data_are_the_logarithm_of_its_levels(levels: int) -> None:
    dims = 12
    nats = dims * math.log(2.0)  # -ln of the density 1/2 of a uniform number in [-1, 1]
    assert bits_per_dimension(nats, dims, levels) == pytest.approx(math.log2(levels), abs=1e-12)
    score = image_score(Likelihood(nats=torch.full((3,), nats), count=torch.full((3,), dims), kind="exact"), levels)
    assert score.bits_per_dimension == pytest.approx(math.log2(levels), abs=1e-6) and score.standard_error < 1e-6
    assert (score.n_images, score.kind) == (3, "exact")


def test_a_dequantized_density_bounds_the_discrete_bits() -> None:
    """Bits of v under the mixture's own bins, against the mean of dequantized densities' bits: above, and near."""
    data = GaussianData(torch.zeros(1, dtype=torch.float64), torch.tensor([0.1], dtype=torch.float64))
    levels, n = 16, 20_000
    v = ((data.draw(n, Rng(0)).clamp(-1, 1 - 1e-9) + 1) * levels / 2).floor()
    edges = 2 * v / levels - 1
    mass = torch.special.ndtr((edges + 2 / levels) / 0.1) - torch.special.ndtr(edges / 0.1)
    discrete = float(-mass.log2().mean())
    x = edges + 2 / levels * Rng(0).uniform("dequantization", torch.arange(n), 1)
    bits = bits_per_dimension(float(exact(data, x, 0.0).mean()), 1, levels)
    assert discrete < bits < discrete + 0.5


def test_wrong_requests_are_refused() -> None:
    x = MIXTURE.draw(2, Rng(0))
    with pytest.raises(ValueError, match="even"):
        variational_bound(MIXTURE, x, IDS[:2], Rng(0), times=3)
    with pytest.raises(ValueError, match="probes=1"):
        flow_likelihood(MIXTURE, x, IDS[:2], Rng(0), probes=1)
    with pytest.raises(ValueError, match="nothing to score"):
        in_batches(lambda rows: flow_likelihood(MIXTURE, x[rows], IDS[rows], Rng(0)), 0)
    with pytest.raises(ValueError, match="finite"):
        image_score(Likelihood(nats=torch.tensor([math.nan]), count=torch.tensor([1]), kind="exact"), 2)
