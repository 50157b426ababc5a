"""The forward and the backward process of masked text against enumeration, and against the package's own."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from diptych.core.random import Rng
from diptych.core.text_diffusion_config import TextDiffusionConfig
from diptych.core.types import Batch
from diptych.diffusion.discrete import build_alpha_schedule
from diptych.nn.masks import Full
from diptych.objectives.masked_diffusion import MaskedDiffusion
from diptych.reference.text_diffusion import ancestral_sampling, hide, linear_alpha, mdlm_loss, reveal
from tests.exact_text import ExactText, random_text

N, L, M = 3, 3, 3
P = random_text(N, L).numpy()
TEXTS = list(itertools.product(range(N), repeat=L))


def x_theta(z: np.ndarray) -> np.ndarray:
    """The exact conditional distribution of every token given the visible ones."""
    table = np.zeros((L, N))
    for text in TEXTS:
        if all(seen in (M, token) for seen, token in zip(z, text, strict=True)):
            table[range(L), text] += P[text]
    return table / table.sum(1, keepdims=True)


def cosine_alpha(t: float) -> float:
    return 1.0 - math.cos(math.pi / 2.0 * (1.0 - t))


def test_two_steps_hide_as_one_does() -> None:
    """On a grid of uniform numbers, the share of tokens visible is alpha_t, by whatever way."""
    grid = (np.arange(400) + 0.5) / 400
    u = np.stack(np.meshgrid(grid, grid)).reshape(2, -1)
    x = np.zeros(u.shape[1], dtype=np.int64)
    for alpha in (linear_alpha, cosine_alpha):
        by_two = hide(hide(x, 0.0, 0.3, u[0], M, alpha), 0.3, 0.8, u[1], M, alpha)
        at_once = hide(x, 0.0, 0.8, u[0], M, alpha)
        assert (by_two == 0).mean() == pytest.approx(alpha(0.8), abs=4e-3)
        assert (at_once == 0).mean() == pytest.approx(alpha(0.8), abs=4e-3)
        assert set(np.unique(by_two)) == {0, M}


@pytest.mark.parametrize("text", [(0, 0, 0), (2, 1, 0), (1, 2, 2)])
def test_the_mean_loss_of_exact_conditionals_is_the_exact_value(text: tuple[int, ...]) -> None:
    """Over all ways to hide and, by Gauss and Legendre, over all times: a polynomial in alpha, so exact."""
    nodes, weights = np.polynomial.legendre.leggauss(6)
    total = 0.0
    for t, w in zip(0.5 * (nodes + 1.0), 0.5 * weights, strict=True):
        for hidden in itertools.product((False, True), repeat=L):
            u = np.where(hidden, 1.0 - 1e-9, 1e-9)
            chance = np.prod(np.where(hidden, t, 1.0 - t))
            total += w * chance * mdlm_loss(np.array(text), t, u, x_theta, M, linear_alpha, lambda t: -1.0)
    assert total == pytest.approx(-math.log(P[text]), abs=1e-12)


def test_a_step_back_lifts_masks_as_often_as_bayes_rule_says_and_draws_what_is_believed() -> None:
    """q(z_s visible | z_t masked) = (q(masked at t | visible at s) q(visible at s)) / q(masked at t), on a grid."""
    s, t, grid = 0.4, 0.9, (np.arange(200) + 0.5) / 200
    z_t = np.array([M, 1, M])
    lifted, tokens = 0, np.zeros(N)
    for a in grid:
        for b in grid:
            z_s = reveal(z_t, s, t, np.array([[a, a, 1.0], [b, b, b]]), x_theta, M, cosine_alpha)
            assert z_s[1] == 1 and z_s[2] == M
            if z_s[0] != M:
                lifted += 1
                tokens[z_s[0]] += 1
    chance = (1.0 - cosine_alpha(t) / cosine_alpha(s)) * cosine_alpha(s) / (1.0 - cosine_alpha(t))
    assert lifted / 200**2 == pytest.approx(chance, abs=6e-3)
    np.testing.assert_allclose(tokens / lifted, x_theta(z_t)[0], atol=6e-3)


def test_ancestral_sampling_draws_texts_of_the_distribution() -> None:
    """By Pearson's chi-square at 240 steps; texts drawn at once, as if tokens were independent, fail it."""
    n, steps = 3000, 240
    generator = np.random.default_rng(0)
    start = np.full(L, M)

    def statistic(steps: int) -> float:
        counts = np.zeros((N,) * L)
        for _ in range(n):
            chain = ancestral_sampling(start, generator.random((steps, 2, L)), memory, M, linear_alpha)
            assert len(chain) == steps + 1 and M not in chain[0]
            counts[tuple(chain[0])] += 1
        common = n * P > 5
        groups = [*(counts[common] - n * P[common]), (counts[~common] - n * P[~common]).sum()]
        expected = [*(n * P[common]), n * P[~common].sum()]
        value = float(sum(g**2 / e for g, e in zip(groups, expected, strict=True)))
        return float(torch.special.gammaincc(torch.tensor(len(groups) / 2 - 0.5), torch.tensor(value / 2)))

    known: dict[tuple[int, ...], np.ndarray] = {}

    def memory(z: np.ndarray) -> np.ndarray:
        key = tuple(z)
        if key not in known:
            known[key] = x_theta(z)
        return known[key]

    assert statistic(steps) > 1e-3
    assert statistic(1) < 1e-6


def test_given_tokens_stay() -> None:
    u = np.random.default_rng(1).random((6, 2, L))
    chain = ancestral_sampling(np.array([M, 2, M]), u, x_theta, M, linear_alpha)
    assert (chain[:, 1] == 2).all() and M not in chain[0]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "square"])
def test_the_loss_equals_the_fast_one(schedule: str) -> None:
    """At the time and the uniform numbers that the package draws; its first token is given."""
    model, ids, rng = ExactText(random_text(N, L + 1, seed=1), mask_id=M), torch.arange(5), Rng(4)
    x = torch.randint(0, N, (5, L + 1))
    objective = MaskedDiffusion(TextDiffusionConfig(schedule=schedule, estimator="time"), M)
    fast = objective.loss(model, Batch(x=x, sample_ids=ids), rng)
    alpha = build_alpha_schedule(schedule)

    def numbers(f):
        return lambda t: float(f(torch.tensor(t, dtype=torch.float64)))

    slow = 0.0
    for row in range(5):

        def predict(z: np.ndarray, first: int = int(x[row, 0])) -> np.ndarray:
            logits = model(torch.tensor([[first, *z.tolist()]]), mask=Full())[0, 1:, :M]
            return logits.softmax(-1).numpy()

        # The fast loss hides a token where its number is below 1 - alpha, the reference where it is not below alpha.
        t = float(rng.uniform("time", ids)[row])
        u = 1.0 - rng.uniform("hide", ids, L)[row].numpy()
        slow += mdlm_loss(x[row, 1:].numpy(), t, u, predict, M, numbers(alpha.alpha), numbers(alpha.slope))
    assert float(fast.total) == pytest.approx(slow, rel=1e-6)
    assert fast.count == 5 * L
