"""Guided denoisers against the combination written out, and against the score of the sharpened distribution."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from diptych.diffusion.exact import GaussianData
from diptych.samplers.guidance import Guided

A = GaussianData(torch.tensor([0.5, -0.2], dtype=torch.float64), torch.tensor([0.3, 0.2], dtype=torch.float64))
B = GaussianData(torch.tensor([-0.1, 0.1], dtype=torch.float64), torch.tensor([0.8, 0.6], dtype=torch.float64))


def points() -> tuple[Tensor, Tensor]:
    sigma = torch.tensor([0.05, 0.3, 0.31, 2.0, 7.0], dtype=torch.float64)
    return torch.randn(5, 2, dtype=torch.float64), sigma


def never(x: Tensor, sigma: Tensor) -> Tensor:
    raise AssertionError("asked where it need not be")


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.0, 7.5])
def test_is_the_combination(weight: float) -> None:
    x, sigma = points()
    expected = B(x, sigma) + weight * (A(x, sigma) - B(x, sigma))
    torch.testing.assert_close(Guided(conditional=A, other=B, weight=weight)(x, sigma), expected)


def test_follows_the_score_of_the_tilted_density() -> None:
    """(D - x) / sigma^2 is the gradient of w ln p_A + (1 - w) ln p_B at that noise level (Tweedie's formula)."""
    x, sigma = points()
    x.requires_grad_(True)
    tilted = (3.0 * A.log_density(x, sigma) - 2.0 * B.log_density(x, sigma)).sum()
    (score,) = torch.autograd.grad(tilted, x)
    denoised = Guided(conditional=A, other=B, weight=3.0)(x.detach(), sigma)
    torch.testing.assert_close((denoised - x.detach()) / sigma[:, None] ** 2, score)


def test_interval_guides_inside_only() -> None:
    """low < sigma <= high, row by row; where no row is inside, the other denoiser is not asked."""
    x, sigma = points()
    guided = Guided(conditional=A, other=B, weight=3.0, interval=(0.3, 2.0))(x, sigma)
    everywhere = Guided(conditional=A, other=B, weight=3.0)(x, sigma)
    inside = torch.tensor([False, False, True, True, False])
    torch.testing.assert_close(guided[inside], everywhere[inside])
    assert torch.equal(guided[~inside], A(x, sigma)[~inside])
    outside = Guided(conditional=A, other=never, weight=3.0, interval=(0.3, 2.0))
    assert torch.equal(outside(x[[0, 4]], sigma[[0, 4]]), A(x[[0, 4]], sigma[[0, 4]]))


def test_weight_one_is_no_guidance() -> None:
    x, sigma = points()
    assert torch.equal(Guided(conditional=A, other=never, weight=1.0)(x, sigma), A(x, sigma))


@pytest.mark.parametrize("weight", [-0.5, math.inf, math.nan])
def test_refuses_weights(weight: float) -> None:
    with pytest.raises(ValueError, match="guidance weight"):
        Guided(conditional=A, other=B, weight=weight)


@pytest.mark.parametrize("interval", [(2.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (math.nan, 1.0)])
def test_refuses_intervals(interval: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="guidance interval"):
        Guided(conditional=A, other=B, weight=2.0, interval=interval)
