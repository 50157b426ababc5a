"""Keyed random numbers: the same whatever the batch, distributed as they should be."""

from __future__ import annotations

import subprocess
import sys

import torch

from diptych.core.random import Rng, derive_seed


def test_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    rng = Rng(7)
    together = rng.normal("noise", torch.tensor([5, 11, 3]), 4, 6)
    alone = rng.normal("noise", torch.tensor([11]), 4, 6)
    assert torch.equal(together[1], alone[0])


def test_seed_purpose_and_sample_each_change_the_numbers() -> None:
    base = Rng(1).uniform("a", torch.tensor([0]), 8)
    for other in (
        Rng(2).uniform("a", torch.tensor([0]), 8),
        Rng(1).uniform("b", torch.tensor([0]), 8),
        Rng(1).uniform("a", torch.tensor([1]), 8),
        Rng(1).fold("step", 1).uniform("a", torch.tensor([0]), 8),
    ):
        assert not torch.isclose(base, other).any()


def test_uniform_numbers_pass_a_chi_square_test() -> None:
    numbers = Rng(0).uniform("u", torch.arange(1000), 1000)
    assert numbers.min() > 0 and numbers.max() < 1
    observed = torch.histc(numbers.float().flatten(), bins=100, min=0, max=1).double()
    statistic = ((observed - 10_000) ** 2 / 10_000).sum()
    assert 55 < statistic < 155  # 99 degrees of freedom: mean 99, deviation 14; bounds at four deviations


def test_neighbouring_samples_and_counters_are_uncorrelated() -> None:
    numbers = Rng(3).normal("n", torch.arange(2000), 2000)
    for a, b in ((numbers[1:], numbers[:-1]), (numbers[:, 1:], numbers[:, :-1])):
        correlation = (a * b).mean()
        assert abs(correlation) < 5 / (2000 * 1999) ** 0.5


def test_normal_numbers_have_the_moments_of_a_normal() -> None:
    x = Rng(4).normal("n", torch.arange(1000), 1000)
    n = x.numel()
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((x**power).mean() - expected) < 5 * (variance / n) ** 0.5


def test_seeds_are_the_same_in_another_process() -> None:
    code = "from diptych.core.random import derive_seed; print(derive_seed(3, 'weights', 9))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(other.stdout) == derive_seed(3, "weights", 9)
