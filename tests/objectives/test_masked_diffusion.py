"""Masked diffusion: its bound is the likelihood of an exact denoiser, and its estimates have that mean."""

from __future__ import annotations

import dataclasses
import math
from itertools import combinations, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.config import TransformerConfig
from diptych.core.random import Rng
from diptych.core.text_diffusion_config import TextDiffusionConfig
from diptych.core.types import Batch
from diptych.diffusion.discrete import build_alpha_schedule
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.nn.masks import Full
from diptych.nn.patterns import BlockCausal
from diptych.objectives import cross_entropy
from diptych.objectives.masked_diffusion import MaskedDiffusion
from tests.exact_text import ExactText, random_text

TOKENS, LENGTH = 3, 4
EXACT = ExactText(random_text(TOKENS, LENGTH + 1), TOKENS)
X = torch.tensor([[0, 2, 1, 0, 2]])
NATS = -float(EXACT.log_probability(X))
VOCAB, MASK = 13, 5


def objective(mask_id: int = TOKENS, **config: object) -> MaskedDiffusion:
    return MaskedDiffusion(TextDiffusionConfig(**config), mask_id)


def network(**changes: object) -> LanguageModel:
    config = TransformerConfig(vocab_size=VOCAB, d_model=16, n_layers=2, n_heads=2, n_kv_heads=1)
    model = LanguageModel(dataclasses.replace(config, **changes)).double()
    initialize(model, torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4.0)  # so that contexts matter
    return model


def rows(count: int = 3, length: int = 10, *, given: float = 0.0) -> Batch:
    generator = torch.Generator().manual_seed(2)
    x = torch.randint(VOCAB - 1, (count, length + 1), generator=generator)
    x += x >= MASK
    counted = torch.rand(count, length, generator=generator) >= given if given else None
    ids = torch.arange(7, 7 + count)
    return Batch(x=x, sample_ids=ids, places=ids + 30, counted=counted)


def hidden(*places: int, length: int = LENGTH) -> Tensor:
    return F.one_hot(torch.tensor([places], dtype=torch.long), length).sum(1).bool()


def blocks_of(block: int | None) -> list[range]:
    size = LENGTH if block is None else block
    return [range(start, min(start + size, LENGTH)) for start in range(0, LENGTH, size)]


@pytest.mark.parametrize("block", [None, 1, 2, 3, 4, 9])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "square"])
def test_the_bound_of_an_exact_denoiser_is_the_likelihood(schedule: str, block: int | None) -> None:
    """The integral over time by Gauss and Legendre's rule, the mean over what is hidden by enumeration."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    time, share = torch.from_numpy((nodes + 1) / 2), torch.from_numpy(weights / 2)
    curve, masked = build_alpha_schedule(schedule), objective(block_length=block)
    alpha = curve.alpha(time)
    total = 0.0
    for places in blocks_of(block):
        for k in range(1, len(places) + 1):
            probability = (1 - alpha) ** k * alpha ** (len(places) - k)
            weight = float((share * -curve.slope(time) / (1 - alpha) * probability).sum())
            total += weight * sum(
                float(masked.hidden_nats(EXACT, X, hidden(*c)).sum()) for c in combinations(places, k)
            )
    assert total == pytest.approx(NATS, rel=0, abs=1e-10)


@pytest.mark.parametrize(("estimator", "block"), [("count", None), ("time", None), ("count", 3), ("time", 3)])
@pytest.mark.parametrize("in_places", [False, True])
def test_the_loss_is_the_bound_on_average(estimator: str, block: int | None, in_places: bool) -> None:
    """50 steps of 500 rows; 4 standard errors, which are less than 4 % of the bound."""
    masked = objective(estimator=estimator, block_length=block, schedule="square")
    ids = torch.arange(500)
    batch = Batch(x=X.expand(500, -1), sample_ids=ids, places=ids if in_places else None)
    totals = torch.stack([masked.loss(EXACT, batch, Rng(step)).total / 500 for step in range(50)])
    error = float(totals.std()) / math.sqrt(50)
    assert abs(float(totals.mean()) - NATS) < 4 * error < 0.04 * NATS


def test_times_are_spread_over_the_rows_of_a_step_and_their_blocks() -> None:
    """How far shares lie from even ones at most, in shares of one: half of what chance would leave, or less."""

    def unevenness(numbers: Tensor) -> Tensor:
        n = numbers.shape[-1]
        return n * (numbers.sort(-1).values - (torch.arange(n) + 0.5) / n).abs().amax(-1)

    masked, ids = objective(), torch.arange(1000, 1032)
    chance = unevenness(Rng(0).uniform("", torch.arange(1000), 32)).mean()
    assert chance > 4
    steps = []
    for step in range(40):
        batch = Batch(x=X.expand(32, -1), sample_ids=ids, places=ids + 32 * step)
        steps.append(masked._spread(batch, Rng(step), 32))
        assert torch.equal(masked._spread(batch.rows(3, 9), Rng(step), 32), steps[-1][3:9])
        alone = dataclasses.replace(batch, places=None)
        for spread in (steps[-1], steps[-1].T, masked._spread(alone, Rng(step), 32)):
            assert unevenness(spread).max() < chance / 2
    first = torch.stack(steps)[:, 0, 0]
    assert unevenness(first) < 10, "and over steps each is uniform"  # 1.6 sqrt(40): one in a hundred


@pytest.mark.parametrize("estimator", ["count", "time"])
@pytest.mark.parametrize("block", [None, 4])
def test_the_loss_is_a_sum_so_that_splitting_changes_nothing(block: int | None, estimator: str) -> None:
    model, batch = network(), rows(given=0.2)
    masked = objective(MASK, block_length=block, estimator=estimator)
    whole = masked.loss(model, batch, Rng(0))
    parts = [masked.loss(model, batch.rows(i, i + 1), Rng(0)) for i in range(3)]
    torch.testing.assert_close(whole.total, sum(p.total for p in parts), rtol=1e-12, atol=0)
    assert whole.count == sum(p.count for p in parts) == int(batch.counted.sum()) < 30
    with torch.no_grad():
        torch.testing.assert_close(masked.loss(model, batch, Rng(0)).total, whole.total.detach(), rtol=1e-6, atol=0)
    bounds = [masked.likelihood(model, b, Rng(0)) for b in (batch, batch.rows(1, 2))]
    torch.testing.assert_close(bounds[0].nats[1:2], bounds[1].nats, rtol=1e-12, atol=0)
    torch.testing.assert_close(bounds[0].standard_error[1:2], bounds[1].standard_error, rtol=1e-9, atol=0)
    assert bounds[0].count.tolist() == batch.counted.sum(1).tolist()


@pytest.mark.parametrize("block", [None, 3])
def test_given_tokens_are_seen_and_not_predicted(block: int | None) -> None:
    """The bound of the counted targets alone: -log p(counted | given), averaged over nothing where one counts."""
    counted = hidden(2)
    batch = Batch(x=X, sample_ids=torch.arange(1), counted=counted)
    seen = X if block is None else X[:, :4]
    table = EXACT.table.view((TOKENS,) * 5)
    marginal = table if block is None else table.sum(4)
    row = seen[0].tolist()
    own = [marginal[(*row[:3], v, *row[4:])] for v in range(TOKENS)]
    expected = -float((own[int(X[0, 3])] / sum(own)).log())
    loss = objective(block_length=block).loss(EXACT, batch, Rng(0))
    bound = objective(block_length=block).likelihood(EXACT, batch, Rng(0))
    assert float(loss.total) == pytest.approx(expected, rel=1e-10) and loss.count == 1
    assert float(bound.nats) == pytest.approx(expected, rel=1e-10) and float(bound.standard_error) < 1e-12


def test_blocks_of_one_token_are_autoregression() -> None:
    """Each token predicted alone, by the same network, from a mask token after the clean tokens before it."""
    model, batch, masked = network(), rows(), objective(MASK, block_length=1)
    expected = torch.zeros(3, dtype=torch.float64)
    for at in range(1, 11):
        x = torch.cat((batch.x[:, :at], torch.full((3, 1), MASK)), dim=1)
        logits = model(x, mask=BlockCausal(1, given=1))[:, -1].detach().index_fill(1, torch.tensor([MASK]), -math.inf)
        expected += F.cross_entropy(logits, batch.x[:, at], reduction="none")
    found = masked.likelihood(model, batch, Rng(0))
    assert found.kind == "exact" and found.standard_error is None
    torch.testing.assert_close(found.nats, expected, rtol=1e-10, atol=0)
    for seed in range(3):
        total = masked.loss(model, batch, Rng(seed)).total.detach()
        torch.testing.assert_close(total, expected.sum(), rtol=1e-10, atol=0)
    exact = objective(block_length=1).likelihood(EXACT, Batch(x=X, sample_ids=torch.arange(1)), Rng(0))
    assert float(exact.nats) == pytest.approx(NATS, rel=1e-12)


@pytest.mark.parametrize("block", [2, 4, 10, 99])
def test_two_parts_in_one_pass_equal_each_block_after_the_clean_text_before_it(block: int) -> None:
    model, batch, masked = network(), rows(), objective(MASK, block_length=block)
    hide = torch.rand(3, 10) < 0.6
    found = masked.hidden_nats(model, batch.x, hide)
    for start in range(0, 10, block):
        end = min(start + block, 10)
        noisy = batch.x[:, 1:].masked_fill(hide, MASK)[:, start:end]
        logits = model(torch.cat((batch.x[:, : start + 1], noisy), dim=1), mask=BlockCausal(block, given=1)).detach()
        logits = logits[:, start + 1 :].index_fill(2, torch.tensor([MASK]), -math.inf)
        expected = F.cross_entropy(logits.transpose(1, 2), batch.x[:, start + 1 : end + 1], reduction="none")
        torch.testing.assert_close(found[:, start:end], expected * hide[:, start:end], rtol=1e-10, atol=1e-12)


def test_one_block_is_the_whole_row() -> None:
    """Of one layer, in which the first token's state cannot carry what is noisy to others."""
    model, batch = network(n_layers=1), rows()
    whole, one = (objective(MASK, block_length=block).loss(model, batch, Rng(0)).total for block in (None, 99))
    torch.testing.assert_close(whole, one, rtol=1e-12, atol=0)


def test_the_whole_row_equals_the_formula() -> None:
    """Places that are hidden, their number and weight, and the logits of a network with a bias of its own."""
    model, batch = network(output_bias=True), rows()
    with torch.no_grad():
        model.output_bias.normal_()
    masked = objective(MASK)
    uniform = Rng(4).uniform("hide", batch.sample_ids, 10)
    numbers = (Rng(4).uniform("time", torch.zeros(1)) + batch.places * (5**0.5 - 1) / 2) % 1
    expected = 0.0
    for row in range(3):
        k = 1 + int(numbers[row] * 10)
        hide = torch.zeros(10, dtype=torch.bool).index_fill(0, uniform[row].argsort()[:k], True)
        x = torch.cat((batch.x[row, :1], batch.x[row, 1:].masked_fill(hide, MASK)))
        logits = model(x[None], mask=Full())[0, 1:].detach().index_fill(1, torch.tensor([MASK]), -math.inf)
        expected += 10 / k * float(F.cross_entropy(logits[hide], batch.x[row, 1:][hide], reduction="sum"))
    loss = masked.loss(model, batch, Rng(4))
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-10) and loss.count == 30


@pytest.mark.parametrize(("block", "estimator"), [(None, "count"), (3, "time")])
def test_gradients_equal_finite_differences(block: int | None, estimator: str) -> None:
    model, batch = network(tied_embedding=False, output_bias=True), rows()
    masked = objective(MASK, block_length=block, estimator=estimator)
    masked.loss(model, batch, Rng(0)).total.backward()
    for name, parameter in model.named_parameters():
        direction = torch.randn_like(parameter)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter.add_(step * direction)
            values.append(float(masked.loss(model, batch, Rng(0)).total.detach()))
            with torch.no_grad():
                parameter.sub_(step * direction)
        slope = (values[0] - values[1]) / 2e-6
        assert float((parameter.grad * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-5), name
    assert not model.unembedding.grad[MASK].any() and float(model.output_bias.grad[MASK]) == 0.0


def _mdlm(model: ExactText, x: Tensor, ids: Tensor, rng: Rng, draws: int) -> Tensor:
    """Sahoo et al. 2024: times (u + i) / draws, each token hidden on its own, weight 1 / t."""
    first, total = rng.uniform("u", ids, 1), torch.zeros(len(ids), dtype=torch.float64)
    for draw in range(draws):
        time = (first + draw) / draws
        hide = rng.uniform(f"hide {draw}", ids, x.shape[1] - 1) < time
        total += (objective(model.mask_id).hidden_nats(model, x, hide).sum(1, keepdim=True) / time)[:, 0]
    return total / draws


@pytest.mark.parametrize("block", [None, 4])
def test_the_likelihood_has_the_mean_and_the_error_it_says(block: int | None) -> None:
    """1000 estimates of one row's bound: their mean within 4 standard errors, their spread as they say."""
    model = ExactText(random_text(2, 8), 2)
    x = torch.tensor([[0, 1, 1, 0, 1, 0, 0, 1]]).expand(1000, -1)
    exact = -float(model.log_probability(x[:1]))
    evaluations = model.evaluations
    found = objective(2, block_length=block).likelihood(model, Batch(x=x, sample_ids=torch.arange(1000)), Rng(0))
    assert model.evaluations - evaluations == 16
    assert found.kind == "bound" and found.count.tolist() == [7] * 1000
    deviation = float(found.nats.std())
    assert abs(float(found.nats.mean()) - exact) < 4 * deviation / 1000**0.5 < 0.025 * exact
    said = float(found.standard_error.square().mean().sqrt())
    assert 0.9 < deviation / said < 1.1
    if block is None:
        theirs = _mdlm(model, x, torch.arange(1000), Rng(0), 16)
        assert abs(float(theirs.mean()) - exact) < 4 * float(theirs.std()) / 1000**0.5
        assert deviation < 0.5 * float(theirs.std())


def test_scaled_cross_entropy_without_a_token_equals_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "_chunk_rows", lambda vocab_size: 7)
    states, weight = (torch.randn(n, 8, dtype=torch.float64, requires_grad=True) for n in (30, 19))
    bias = torch.randn(19, dtype=torch.float64, requires_grad=True)
    targets, scale = torch.randint(18, (30,)), torch.rand(30, dtype=torch.float64) * 9
    without = bias.masked_fill(torch.arange(19) == 18, -math.inf)
    ours = cross_entropy.cross_entropy_sum(states, weight, targets, bias=without, scale=scale)
    theirs = (F.cross_entropy(states @ weight[:18].T + bias[:18], targets, reduction="none") * scale).sum()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    found, expected = (torch.autograd.grad(2 * loss, (states, weight, bias)) for loss in (ours, theirs))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_under_autocast_the_loss_and_its_gradients_stay_close() -> None:
    model, batch, masked = network().float(), rows(8), objective(MASK)
    exact = masked.loss(model, batch, Rng(0)).total
    reference = torch.autograd.grad(exact, model.embedding.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        loss = masked.loss(model, batch, Rng(0)).total
    found = torch.autograd.grad(loss, model.embedding.weight)[0]
    assert bool(found.isfinite().all()) and abs(float((loss / exact).detach()) - 1) < 0.02
    assert float((found - reference).norm() / reference.norm()) < 0.1


def test_what_it_refuses() -> None:
    batch = rows()
    for draws in (0, 2, 6):
        with pytest.raises(ValueError, match="multiple of 4"):
            objective(MASK).likelihood(network(), batch, Rng(0), draws=draws)
    apart = dataclasses.replace(batch, documents=torch.zeros_like(batch.x))
    with pytest.raises(ValueError, match="documents cannot be kept apart"):
        objective(MASK).loss(network(), apart, Rng(0))


def test_the_exact_text_is_its_table() -> None:
    """Chain rule in any order, and its cache."""
    for x in product(range(TOKENS), repeat=3):
        row = torch.tensor([[0, *x, 1]])
        expected = float(EXACT.log_probability(row))
        canvas, total = torch.tensor([[0, 3, 3, 3, 3]]), 0.0
        for at in (2, 4, 1, 3):
            total += float(EXACT(canvas, mask=Full())[0, at, :TOKENS].log_softmax(0)[row[0, at]])
            canvas[0, at] = row[0, at]
        assert total == pytest.approx(expected, rel=1e-12)
    cache = EXACT.new_cache(1, 5)
    EXACT.states(X[:, :3], mask=BlockCausal(2, given=1), cache=cache)
    noisy = torch.tensor([[3, 2]])
    cached = EXACT.states(noisy, mask=BlockCausal(2, given=1), cache=cache)
    whole = EXACT.states(torch.cat((X[:, :3], noisy), dim=1), mask=BlockCausal(2, given=1))
    assert torch.equal(cached, whole[:, 3:])
