"""The price of drawing tokens together: against the divergence of the enumerated distribution, and closed forms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.exact_text import ExactText, random_text
from tests.samplers.drawn import (
    Path,
    Rule,
    all_above,
    all_within,
    distribution,
    in_random_order,
    paths,
    surest_first,
)
from tests.samplers.test_masked_diffusion import MASK, make, prompted

from diptych.core.random import Rng
from diptych.core.types import Mask
from diptych.evaluation.parallel_decoding import estimate_price, exact_price, mean_entropies, total_correlation
from diptych.nn.masks import Full
from diptych.nn.patterns import BlockCausal
from diptych.samplers.canvas import CanvasRequest
from diptych.samplers.masked_diffusion import MaskedDiffusionSampler

LN2 = math.log(2.0)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other over such small tensors cost far more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def divergence(p: np.ndarray, q: np.ndarray) -> float:
    """KL(p || q)."""
    return float((p * np.log(p / q)).sum())


def with_order(p: np.ndarray, found: Sequence[Path]) -> float:
    """KL(p || q) of texts together with the sets in which their tokens are revealed."""
    return sum(float(p[path.text]) * path.chance * math.log(float(p[path.text]) / path.q) for path in found)


CASES: list[tuple[dict[str, Any], Rule]] = [
    ({"steps": 1}, surest_first(4)),
    ({"steps": 2}, surest_first(2, 2)),
    ({"steps": 3, "schedule": "cosine"}, surest_first(1, 1, 2)),
    ({"unmask": "threshold", "threshold": 0.4}, all_above(0.4)),
    ({"unmask": "threshold", "threshold": 0.5}, all_above(0.5)),
    ({"unmask": "entropy", "entropy_bound": 0.8}, all_within(0.8)),
    ({"unmask": "entropy", "entropy_bound": 1.0}, all_within(1.0)),
]


@pytest.mark.parametrize(("options", "rule"), CASES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_divergence_is_the_sum_of_the_expected_total_correlations(
    options: dict[str, Any], rule: Rule, seed: int
) -> None:
    text = random_text(3, 4, seed=seed)
    p = text.numpy()
    prices = exact_price(text, MaskedDiffusionSampler(**options))
    q = distribution(p, paths(p, rule))
    assert sum(prices) == pytest.approx(divergence(p, q), abs=1e-12)
    assert abs(sum(prices) - divergence(q, p)) > 1e-3  # the other direction is another number
    if bound := options.get("entropy_bound"):
        assert all(0 <= price <= bound for price in prices) and len(prices) > 1


@pytest.mark.parametrize("sizes", [(2, 2), (1, 1, 2), (4,), (1, 1, 1, 1)])
def test_in_random_order_the_price_is_that_of_text_and_order(sizes: tuple[int, ...]) -> None:
    text = random_text(3, 4)
    p = text.numpy()
    schedule = "cosine" if len(sizes) == 3 else "linear"
    sampler = MaskedDiffusionSampler(unmask="random", steps=len(sizes), schedule=schedule)
    prices = exact_price(text, sampler)
    found = paths(p, in_random_order(*sizes))
    assert len(prices) == len(sizes)
    assert sum(prices) == pytest.approx(with_order(p, found), abs=1e-12)
    of_the_text = divergence(p, distribution(p, found))
    if 1 < len(sizes) < 4:
        assert 1e-3 < of_the_text < sum(prices) - 1e-3
    else:  # all at once there is one order; one by one every order draws from p
        assert of_the_text == pytest.approx(sum(prices), abs=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"unmask": "random"},
        {"steps": 9},
        {"unmask": "threshold", "threshold": 1.0},
        {"unmask": "entropy", "entropy_bound": 0.0},
    ],
)
def test_one_at_a_time_costs_nothing(options: dict[str, Any]) -> None:
    prices = exact_price(random_text(3, 4), MaskedDiffusionSampler(**options))
    assert prices == pytest.approx([0.0] * 4, abs=1e-12)


@pytest.mark.parametrize("unmask", ["random", "confidence"])
def test_bits_of_even_parity_cost_one_bit_in_the_last_step(unmask: Any) -> None:
    """Any bits but all are independent, so only who draws the last ones together pays, and pays all."""
    n = 6
    p = torch.zeros((2,) * n, dtype=torch.float64)
    for index in range(2**n):
        bits = tuple(index >> i & 1 for i in range(n))
        p[bits] = 2.0 ** (1 - n) if sum(bits) % 2 == 0 else 0.0
    assert mean_entropies(p) == pytest.approx([r * LN2 for r in range(n)] + [(n - 1) * LN2], abs=1e-12)
    for steps, last in ((1, LN2), (2, LN2), (3, LN2), (6, 0.0)):
        prices = exact_price(p, MaskedDiffusionSampler(unmask=unmask, steps=steps))
        assert prices == pytest.approx([0.0] * (steps - 1) + [last], abs=1e-12)


def test_copies_cost_all_but_one_of_their_entropies_and_independent_tokens_nothing() -> None:
    copies = torch.zeros(3, 3, 3, dtype=torch.float64)
    shares = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    copies[range(3), range(3), range(3)] = shares
    h = -float((shares * shares.log()).sum())
    assert total_correlation(copies) == pytest.approx(2 * h, abs=1e-12)
    assert exact_price(copies, MaskedDiffusionSampler(steps=2)) == pytest.approx([h, 0.0], abs=1e-12)
    independent = torch.einsum("a,b,c->abc", shares, shares.flip(0), shares)
    for steps in (1, 2):
        assert sum(exact_price(independent, MaskedDiffusionSampler(steps=steps))) == pytest.approx(0.0, abs=1e-12)


ESTIMATES: dict[str, tuple[dict[str, Any], Rule, Sequence[Sequence[int]] | None]] = {
    "at once": ({"steps": 1}, surest_first(4), None),
    "confidence": ({"steps": 2}, surest_first(2, 2), None),
    "random": ({"unmask": "random", "steps": 2}, in_random_order(2, 2), None),
    "entropy": ({"unmask": "entropy", "entropy_bound": 1.0}, all_within(1.0), None),
    "blocks": (
        {"steps": 1, "block_length": 2},
        lambda marginals, step: [(1.0, tuple(marginals))],
        [(0,), (1, 2), (3,)],
    ),
}


@pytest.mark.parametrize("name", ESTIMATES)
def test_the_estimate_is_the_divergence_from_the_drawn_texts(name: str) -> None:
    options, rule, blocks = ESTIMATES[name]
    text = random_text(2, 4, seed=2)
    p = text.numpy()
    found = paths(p, rule, blocks)
    losses = np.array([math.log(path.q / float(p[path.text])) for path in found])
    chances = np.array([path.chance * path.q for path in found])
    exact = float((chances * losses).sum())
    deviation = math.sqrt(float((chances * (losses - exact) ** 2).sum()))
    n = 4000
    request = CanvasRequest(canvas=[[2] * 4] * n, mask_id=2)
    price = estimate_price(ExactText(text, 2), MaskedDiffusionSampler(**options), request, Rng(0))
    assert price.standard_error == pytest.approx(deviation / math.sqrt(n), rel=0.1)
    assert abs(price.nats - exact) < 4 * price.standard_error
    assert exact > 10 * price.standard_error  # so that it is told from none
    assert (price.n_texts, price.n_tokens) == (n, 4 * n)
    if name != "entropy":
        assert price.steps == (3 if blocks else 1 if name == "at once" else 2)


def test_the_estimate_scores_what_was_drawn_given_what_stands() -> None:
    """Of two texts, whose numbers are the tables' own."""
    text = random_text(3, 4, seed=5)
    p = text.numpy()
    request = CanvasRequest(canvas=[[3, 1, 3, 3], [0, 3, 3, 2]], mask_id=3, sample_ids=[5, 6])
    sampler = MaskedDiffusionSampler(steps=1)
    price = estimate_price(ExactText(text, 3), sampler, request, Rng(1))
    (frame,) = sampler.sample(ExactText(text, 3), request, Rng(1))
    first, second = p[:, 1] / p[:, 1].sum(), p[0, :, :, 2] / p[0, :, :, 2].sum()
    losses = []
    for table, tokens in ((first, frame.state[0, [0, 2, 3]].tolist()), (second, frame.state[1, [1, 2]].tolist())):
        axes = range(table.ndim)
        apart = math.prod(table.sum(tuple(j for j in axes if j != i))[tokens[i]] for i in axes)
        losses.append(math.log(apart / table[tuple(tokens)]))
    assert price.nats == pytest.approx(sum(losses) / 2, abs=1e-12)
    assert price.standard_error == pytest.approx(abs(losses[0] - losses[1]) / 2, abs=1e-12)
    assert (price.n_tokens, price.steps) == (5, 1)


@pytest.mark.parametrize("block_length", [None, 3])
def test_a_network_scores_as_it_draws(block_length: int | None) -> None:
    """Token by token, each row alone, under the mask that the sampler's cache stands for."""
    model, request = make(), prompted(forbidden=(3,))
    sampler = MaskedDiffusionSampler(steps=1, block_length=block_length)
    mask: Mask = Full() if block_length is None else BlockCausal(block_length, given=1)
    losses, before = [0.0] * len(request.canvas), torch.tensor(request.canvas)

    def log_p(row: torch.Tensor, place: int, token: int) -> float:
        logits = model(row[None], mask=mask)[0, place]
        logits[[3, MASK]] = -math.inf
        return float(logits.log_softmax(-1)[token])

    for frame in sampler.sample(model, request, Rng(8)):
        for row, canvas in enumerate(before):
            so_far = canvas.clone()
            for place in (canvas != frame.state[row]).nonzero()[:, 0].tolist():
                token = int(frame.state[row, place])
                losses[row] += log_p(canvas, place, token) - log_p(so_far, place, token)
                so_far[place] = token
        before = frame.state
    price = estimate_price(model, sampler, request, Rng(8))
    assert price.nats == pytest.approx(float(np.mean(losses)), abs=1e-10)
    assert price.standard_error == pytest.approx(float(np.std(losses, ddof=1)) / math.sqrt(len(losses)), abs=1e-10)
    assert price.nats > 0.1


def test_one_at_a_time_is_estimated_to_cost_nothing_at_all() -> None:
    request = CanvasRequest(canvas=[[2] * 4] * 3, mask_id=2)
    price = estimate_price(ExactText(random_text(2, 4), 2), MaskedDiffusionSampler(), request, Rng(0))
    assert (price.nats, price.standard_error, price.steps) == (0.0, 0.0, 4)


def test_what_cannot_be_priced_is_refused() -> None:
    p, model = random_text(2, 2), ExactText(random_text(2, 2), 2)
    with pytest.raises(ValueError, match="add up to 1"):
        exact_price(p * 2, MaskedDiffusionSampler())
    for options in ({"temperature": 0.5}, {"block_length": 2}):
        with pytest.raises(ValueError, match="temperature 1 and no block_length"):
            exact_price(p, MaskedDiffusionSampler(**options))
    for rows, temperature in ((1, 1.0), (2, 0.0)):
        request = CanvasRequest(canvas=[[2, 2]] * rows, mask_id=2)
        with pytest.raises(ValueError, match="at least two texts drawn at temperature 1"):
            estimate_price(model, MaskedDiffusionSampler(temperature=temperature), request, Rng(0))
