"""The bound of uniform diffusion, on text whose probability is known exactly."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.core.config import TransformerConfig
from diptych.core.random import Rng
from diptych.core.text_diffusion_config import AlphaScheduleName, TextDiffusionConfig
from diptych.core.types import Batch
from diptych.diffusion.discrete import build_alpha_schedule
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.objectives.uniform_diffusion import EARLIEST, UniformDiffusion, divergence
from tests.uniform_text import ExactText

SCHEDULES = get_args(AlphaScheduleName)


def naive(p: Tensor, x: int, z: int, odds: float) -> Tensor:
    """The sum over j, term by term, of the rates as Schiff et al. write them, with alpha N = odds (1 - alpha)."""
    n = len(p)
    alpha = odds / (n + odds)
    model = n * alpha * p + (1.0 - alpha)
    truth = torch.full((n,), 1.0 - alpha, dtype=torch.float64)
    truth[x] += n * alpha
    r, b = model / model[z], truth / truth[z]
    terms = r - b + b * (b / r).log()
    return terms.sum() - terms[z]


def objective(schedule: AlphaScheduleName = "linear", vocab: int = 3) -> UniformDiffusion:
    return UniformDiffusion(TextDiffusionConfig(schedule=schedule), vocab)


def integrand(text: ExactText, row: Tensor, t: Tensor) -> Tensor:
    """The mean over z of the bound's integrand at times t (m), summed over the targets of a row."""
    places = torch.tensor([i for i in range(len(row)) if i not in text.given])
    z = text.sequences[(text.sequences[:, text.given] == row[text.given]).all(1)]
    q = text.noise(t)[:, z[:, places], row[places]].prod(2)  # (m, z)
    n, alpha = text.vocab_size, text.schedule.alpha(t)
    rate, odds = -text.schedule.slope(t) / (n * alpha), n * alpha / (1.0 - alpha)
    logits = text.states(z.repeat(len(t), 1), mask=None, time=t.repeat_interleave(len(z)))[:, places]
    each = divergence(
        logits.flatten(0, 1),
        row[places].repeat(len(logits)),
        z[:, places].repeat(len(t), 1).flatten(),
        odds.repeat_interleave(len(z) * len(places)),
    )
    return rate * (q * each.view(len(t), len(z), len(places)).sum(2)).sum(1)


def bound(text: ExactText, row: Tensor, ends: tuple[float, float] = (0.0, 1.0), order: int = 120) -> float:
    """The integral over time, by Gauss and Legendre in s, t being 3 s^2 - 2 s^3 of the way: both ends, where the
    integrand has logarithms, are approached slowly."""
    nodes, weights = np.polynomial.legendre.leggauss(order)
    s, w = torch.from_numpy(0.5 * (nodes + 1.0)), torch.from_numpy(0.5 * weights)
    span = ends[1] - ends[0]
    t = ends[0] + span * s.square() * (3.0 - 2.0 * s)
    return float((w * span * 6.0 * s * (1.0 - s) * integrand(text, row, t)).sum())


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_bound_is_exact_for_the_exact_leave_one_out_posterior(schedule: AlphaScheduleName) -> None:
    text = ExactText(schedule)
    for index in (0, 17, 40, 80):
        row = text.sequences[index]
        exact = -math.log(float(text.conditional(row.tolist())[index]))
        assert bound(text, row) == pytest.approx(exact, abs=1e-7)
        middle = bound(text, row, (EARLIEST, 1.0 - EARLIEST))
        edges = integrand(text, row, torch.tensor([EARLIEST, 1.0 - EARLIEST], dtype=torch.float64))
        bias = middle + EARLIEST * float(edges.sum()) - exact  # of what is estimated, with three targets
        first = -float(text.schedule.slope(torch.zeros((), dtype=torch.float64)))
        assert -3.0 * EARLIEST * first - 1e-7 < bias < 1e-6


def test_the_posterior_given_all_of_z_is_not_what_the_bound_asks_for() -> None:
    """Read as x_theta, it counts what z_i tells of x_i twice."""
    text, twice = ExactText("square"), ExactText("square", leave_one_out=False)
    p = text.conditional([1, 0, 0, 0])
    rows = [int(index) for index in p.nonzero()[:, 0]]
    entropy = float(torch.special.entr(p).sum())
    means = [sum(float(p[i]) * bound(t, t.sequences[i], order=12) for i in rows) for t in (text, twice)]
    assert means[0] == pytest.approx(entropy, abs=1e-4) and means[1] > entropy + 0.05


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_estimate_and_its_standard_error_are_right(schedule: AlphaScheduleName) -> None:
    text, n = ExactText(schedule), 2000
    row = torch.tensor([2, 0, 1, 1])
    exact = -math.log(float(text.conditional(row.tolist())[(text.sequences == row).all(1)]))
    batch = Batch(x=row.repeat(n, 1), sample_ids=torch.arange(n))
    likelihood = objective(schedule).likelihood(text, batch, Rng(1), draws=4)
    assert likelihood.kind == "bound" and likelihood.count.tolist() == [3] * n
    error = float(likelihood.nats.std()) / math.sqrt(n)
    assert abs(float(likelihood.nats.mean()) - exact) < 4 * error
    assert likelihood.standard_error is not None
    claimed, actual = likelihood.standard_error.square(), (likelihood.nats - exact).square()
    assert abs(float((claimed - actual).mean())) < 4 * float((claimed - actual).std()) / math.sqrt(n)
    alone = [objective(schedule).loss(text, batch.rows(i, i + 50), Rng(2)) for i in range(0, n, 50)]
    assert all(part.count == 150 for part in alone)
    totals = torch.stack([part.total for part in alone]) / 50
    assert abs(float(totals.mean()) - exact) < 4 * float(totals.std()) / math.sqrt(len(alone))


@pytest.mark.parametrize("spread", [0.1, 3.0, 12.0])
def test_the_short_form_is_the_sum_over_all_tokens(spread: float) -> None:
    """In float64 for few tokens; in float32 for thousands, from times near 0 to times near 1."""
    few = spread * Rng(0).normal("logits", torch.arange(6), 5)
    odds = torch.tensor([1e-4, 0.3, 2.0, 40.0, 1e3, 1e6], dtype=torch.float64)
    x, z = torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([0, 1, 0, 0, 4, 1])
    short = divergence(few, x, z, odds)
    for i in range(6):
        expected = float(naive(few[i].softmax(0), int(x[i]), int(z[i]), float(odds[i])))
        assert float(short[i]) == pytest.approx(expected, rel=1e-7, abs=1e-9 * float(odds[i]))
    n = 5000
    logits = (spread * Rng(1).normal("logits", torch.arange(6), n)).float()
    for t in (1e-4, 1e-2, 0.5, 0.99, 1.0 - 1e-4):
        alpha = 1.0 - t
        odds = torch.full((6,), n * alpha / t, dtype=torch.float64)
        x = logits.argmax(1)
        z = torch.where(torch.arange(6) < 3, x, torch.arange(6))
        nats = divergence(logits, x, z, odds) / (n * alpha)
        for i in range(6):
            p = logits[i].double().softmax(0)
            expected = float(naive(p, int(x[i]), int(z[i]), float(odds[i]))) / (n * alpha)
            assert float(nats[i]) == pytest.approx(expected, rel=1e-5, abs=2e-6)


class Bigrams(torch.nn.Module):
    """A network that sees its own place alone, so that its loss can be written down."""

    output_bias = None

    def __init__(self, vocab: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.vocab_size = vocab
        self.embedding = torch.nn.Parameter(torch.randn(vocab, 6, generator=generator, dtype=torch.float64))
        self.unembedding = torch.nn.Parameter(torch.randn(vocab, 6, generator=generator, dtype=torch.float64))
        self.seen: list[Tensor] = []

    def new_cache(self, batch_size: int, max_length: int) -> None:
        raise NotImplementedError

    def states(self, x: Tensor, *, mask: object, time: Tensor, positions: object = None) -> Tensor:
        self.seen.append(x)
        return self.embedding[x]


def test_gradients_are_those_of_the_sum_written_down() -> None:
    model, vocab, rng = Bigrams(11), 11, Rng(4)
    batch = Batch(x=torch.randint(0, vocab, (5, 7)), sample_ids=torch.arange(5) + 3)
    loss = objective("cosine", vocab).loss(model, batch, rng)
    fast = torch.autograd.grad(loss.total, [model.embedding, model.unembedding])
    schedule = build_alpha_schedule("cosine")
    t = rng.uniform("time", batch.sample_ids)
    z = model.seen[0]
    total = torch.zeros((), dtype=torch.float64)
    for row in range(5):
        alpha, slope = float(schedule.alpha(t[row])), float(schedule.slope(t[row]))
        for i in range(1, 7):
            p = (model.unembedding @ model.embedding[z[row, i]]).softmax(0)
            odds = vocab * alpha / (1.0 - alpha)
            total = total - slope / (vocab * alpha) * naive(p, int(batch.x[row, i]), int(z[row, i]), odds)
    slow = torch.autograd.grad(total, [model.embedding, model.unembedding])
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-10)
    for ours, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
    with torch.no_grad():
        assert objective("cosine", vocab).loss(model, batch, rng).total.item() == pytest.approx(total.item(), rel=1e-10)


def test_times_of_a_step_are_spread_evenly_and_do_not_depend_on_how_it_is_cut() -> None:
    class Times(Bigrams):
        def states(self, x: Tensor, *, mask: object, time: Tensor, positions: object = None) -> Tensor:
            self.seen.append(time)
            return self.embedding[x]

    model, n = Times(5), 64
    batch = Batch(x=torch.ones(n, 3, dtype=torch.long), sample_ids=torch.arange(n) + 7, places=torch.arange(n))
    whole = objective(vocab=5).loss(model, batch, Rng(0)).total
    parts = [objective(vocab=5).loss(model, batch.rows(i, i + 16), Rng(0)).total for i in range(0, n, 16)]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)
    gaps = model.seen[0].sort().values.diff()
    assert float(gaps.max()) < 2.7 / n and torch.equal(model.seen[0], torch.cat(model.seen[1:]))


def test_tokens_are_replaced_evenly_and_as_often_as_the_time_says() -> None:
    n, vocab = 3000, 4
    x = torch.full((n, 5), 2)
    z = objective(vocab=vocab).corrupt(x, torch.full((n,), 0.3, dtype=torch.float64), torch.arange(n), Rng(0))
    share = torch.nn.functional.one_hot(z, vocab).double().mean((0, 1))
    expected = torch.full((vocab,), 0.7 / vocab, dtype=torch.float64)
    expected[2] += 0.3
    assert float((share - expected).abs().max()) < 5 * math.sqrt(0.25 / x.numel())


def test_what_is_given_or_does_not_count_is_never_replaced() -> None:
    model, vocab, n = Bigrams(50), 50, 400
    x = torch.randint(0, vocab, (n, 6))
    counted = torch.rand(n, 5) < 0.5
    batch = Batch(x=x, sample_ids=torch.arange(n), counted=counted)
    loss = objective(vocab=vocab).loss(model, batch, Rng(0))
    z = model.seen[0]
    assert loss.count == int(counted.sum())
    assert torch.equal(z[:, 0], x[:, 0]) and torch.equal(z[:, 1:][~counted], x[:, 1:][~counted])
    share = float((z[:, 1:][counted] != x[:, 1:][counted]).double().mean())
    assert 0.4 < share < 0.6  # half on average over time
    likelihood = objective(vocab=vocab).likelihood(model, batch, Rng(0), draws=2)
    assert torch.equal(likelihood.count, counted.sum(1))
    whole = Batch(x=x, sample_ids=torch.arange(n))
    assert float(likelihood.nats.sum()) < 0.7 * float(
        objective(vocab=vocab).likelihood(model, whole, Rng(0), draws=2).nats.sum()
    )


def network(vocab: int) -> LanguageModel:
    model = LanguageModel(
        TransformerConfig(vocab_size=vocab, d_model=16, n_layers=1, n_heads=2, d_ff=32, max_length=16)
    )
    initialize(model, Rng(0).generator("weights"))
    return model


def test_the_batch_does_not_matter() -> None:
    vocab = 20
    model, x = network(vocab), torch.randint(0, vocab, (6, 9))
    batch, rng = Batch(x=x, sample_ids=torch.tensor([4, 9, 2, 7, 1, 30])), Rng(5)
    whole = objective(vocab=vocab).loss(model, batch, rng)
    parts = [objective(vocab=vocab).loss(model, batch.rows(i, i + 2), rng) for i in (0, 2, 4)]
    assert whole.count == 48 == sum(part.count for part in parts)
    torch.testing.assert_close(torch.stack([part.total for part in parts]).sum(), whole.total, rtol=1e-5, atol=0)
    nats = objective(vocab=vocab).likelihood(model, batch, rng).nats
    last = objective(vocab=vocab).likelihood(model, batch.rows(5, 6), rng).nats
    torch.testing.assert_close(last[0], nats[5], rtol=1e-5, atol=0)


def test_it_learns_in_bfloat16() -> None:
    """Of 16 tokens only the even ones occur, evenly and independently: log 8 nats each, from log 16 at first."""
    vocab, generator = 16, torch.Generator().manual_seed(0)
    model = network(vocab)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)
    nats = []
    for step in range(80):
        x = 2 * torch.randint(0, vocab // 2, (64, 9), generator=generator)
        batch = Batch(x=x, sample_ids=torch.arange(64) + 64 * step)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = objective("square", vocab).loss(model, batch, Rng(step))
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
        nats.append(float(loss.total.detach()) / loss.count)
    assert nats[0] == pytest.approx(math.log(16), rel=0.1)
    assert sum(nats[-20:]) / 20 == pytest.approx(math.log(8), rel=0.05)


def test_wrong_numbers_are_refused() -> None:
    batch = Batch(x=torch.zeros(1, 4, dtype=torch.long), sample_ids=torch.arange(1))
    for draws in (0, 3):
        with pytest.raises(ValueError, match="even"):
            objective().likelihood(ExactText(), batch, Rng(0), draws=draws)
    with pytest.raises(ValueError, match="draws from 5"):
        objective(vocab=5).loss(ExactText(), batch, Rng(0))
