"""Which positions are revealed: against sorting and searching row by row, and the promise of the entropy bound."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diptych.samplers.unmasking import above, first_by, set_sizes, within_entropy


@given(
    gaps=st.integers(0, 80),
    steps=st.one_of(st.none(), st.integers(1, 100)),
    name=st.sampled_from(["linear", "cosine", "square"]),
)
@settings(max_examples=200, deadline=None)
def test_the_sizes_of_the_steps_follow_alpha(gaps: int, steps: int | None, name: str) -> None:
    sizes = set_sizes(gaps, steps, name)  # type: ignore[arg-type]
    count = gaps if steps is None else min(steps, gaps)
    assert len(sizes) == count and sum(sizes) == gaps and all(size >= 1 for size in sizes)
    alpha = {
        "linear": lambda t: 1 - t,
        "cosine": lambda t: 1 - math.cos(math.pi / 2 * (1 - t)),
        "square": lambda t: 1 - t * t,
    }[name]
    revealed = 0
    for step, size in enumerate(sizes):
        revealed += size
        wanted = gaps * alpha(1 - (step + 1) / count)
        # Half a token of rounding, unless at least one a step had to be revealed or had to be left for each later one.
        at_an_end = (revealed == step + 1 and wanted < revealed) or revealed == gaps - (count - step - 1)
        assert abs(revealed - wanted) <= 0.5 + 1e-9 or at_an_end
    if name == "linear" and count:
        assert max(sizes) - min(sizes) <= 1


def test_a_step_reveals_the_share_that_the_reverse_process_unmasks() -> None:
    gaps, steps = 100_000, 8
    left, t = gaps, 1.0
    for size in set_sizes(gaps, steps, "cosine"):
        s = t - 1 / steps
        alpha_t, alpha_s = (1 - math.cos(math.pi / 2 * (1 - u)) for u in (t, s))
        assert size / left == pytest.approx((alpha_s - alpha_t) / (1 - alpha_t), abs=2 / left)
        left, t = left - size, s


SCORES = st.lists(
    st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]), min_size=5, max_size=5), min_size=1, max_size=4
)


def masked(scores: list[list[float]], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    score = torch.tensor(scores, dtype=torch.float64)
    return score, torch.rand(score.shape, generator=torch.Generator().manual_seed(seed)) < 0.6


@given(SCORES, st.integers(0, 2**20), st.integers(0, 6))
@settings(max_examples=100, deadline=None)
def test_the_first_are_those_of_a_sorted_list(scores: list[list[float]], seed: int, most: int) -> None:
    score, left = masked(scores, seed)
    count = torch.arange(len(scores)) % (most + 1)
    chosen = first_by(score, left, count)
    for row, want in enumerate(count.tolist()):
        places = sorted(left[row].nonzero()[:, 0].tolist(), key=lambda i: (-scores[row][i], i))
        assert set(chosen[row].nonzero()[:, 0].tolist()) == set(places[:want])


@given(SCORES, st.integers(0, 2**20), st.sampled_from([0.0, 0.1, 0.4, 0.9, 1.0]))
@settings(max_examples=100, deadline=None)
def test_a_threshold_takes_all_that_reach_it_and_at_least_one(
    scores: list[list[float]], seed: int, threshold: float
) -> None:
    score, left = masked(scores, seed)
    chosen = above(score, left, threshold)
    for row in range(len(scores)):
        places = left[row].nonzero()[:, 0].tolist()
        sure = [i for i in places if scores[row][i] >= threshold]
        best = [min(places, key=lambda i: (-scores[row][i], i))] if places else []
        assert chosen[row].nonzero()[:, 0].tolist() == (sure or best)


@given(SCORES, st.integers(0, 2**20), st.sampled_from([0.0, 0.1, 0.25, 0.6, 1.5, 9.0]))
@settings(max_examples=100, deadline=None)
def test_the_entropy_bound_takes_the_largest_set_that_keeps_it(
    scores: list[list[float]], seed: int, bound: float
) -> None:
    entropy, left = masked(scores, seed)
    chosen = within_entropy(entropy, left, bound)
    assert not bool((chosen & ~left).any())
    for row in range(len(scores)):
        places = left[row].nonzero()[:, 0].tolist()
        sets = [[scores[row][i] for i in some] for n in range(1, len(places) + 1) for some in combinations(places, n)]
        # As the function adds: from the lowest on.
        fitting = [some for some in sets if sum(sorted(some)[:-1]) <= bound]
        taken = [scores[row][i] for i in chosen[row].nonzero()[:, 0].tolist()]
        assert len(taken) == max(map(len, fitting), default=0)
        assert sum(sorted(taken)[:-1]) <= bound
        assert sorted(taken) == sorted(scores[row][i] for i in places)[: len(taken)]


def test_within_the_bound_the_total_correlation_is_within_it_too() -> None:
    """On joint distributions of every strength of dependence, and the bound is attained by copies."""
    generator = np.random.default_rng(0)
    taken = []
    for spread in (0.5, 2.0, 4.0, 8.0, 16.0):
        for _ in range(20):
            p = np.exp(spread * generator.standard_normal((3, 3, 3, 3)))
            p /= p.sum()
            axes = range(4)
            h = [float(stats.entropy(p.sum(tuple(j for j in axes if j != i)))) for i in axes]
            chosen = within_entropy(torch.tensor([h]), torch.ones(1, 4, dtype=torch.bool), 0.4)[0].tolist()
            joint = p.sum(tuple(i for i in axes if not chosen[i]))
            together = sum(h[i] for i in axes if chosen[i]) - float(stats.entropy(joint.flatten()))
            assert -1e-12 <= together <= 0.4
            taken.append(sum(chosen))
    assert {1, 2} <= set(taken)
    copies = np.eye(2) / 2
    assert 2 * math.log(2) - float(stats.entropy(copies.flatten())) == pytest.approx(math.log(2))
    both = within_entropy(
        torch.full((1, 2), math.log(2), dtype=torch.float64), torch.ones(1, 2, dtype=torch.bool), math.log(2)
    )
    assert both.tolist() == [[True, True]]
