"""The autoregressive objective against torch's cross-entropy, and the chunked loss against the whole one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diptych.core.config import TransformerConfig
from diptych.core.random import Rng
from diptych.core.types import Batch
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.nn.masks import Causal
from diptych.objectives import cross_entropy
from diptych.objectives.autoregressive import Autoregressive


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cross_entropy, "_chunk_rows", lambda vocab_size: 7)


def test_chunked_loss_and_gradients_equal_torch() -> None:
    states = torch.randn(30, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(19, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(19, (30,))
    ours = cross_entropy.cross_entropy_sum(states, weight, targets)
    theirs = F.cross_entropy(states @ weight.T, targets, reduction="sum")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for a, b in zip(
        torch.autograd.grad(3 * ours, (states, weight)), torch.autograd.grad(3 * theirs, (states, weight)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    each = cross_entropy.cross_entropy_each(states, weight, targets)
    torch.testing.assert_close(each, F.cross_entropy(states @ weight.T, targets, reduction="none"))


def test_chunked_gradients_equal_finite_differences() -> None:
    states = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(5, (9,))
    assert torch.autograd.gradcheck(
        lambda s, w: cross_entropy.cross_entropy_sum(s, w, targets), (states, weight), eps=1e-6, atol=1e-7
    )


def test_under_autocast_the_loss_stays_close() -> None:
    states, weight = torch.randn(64, 32, requires_grad=True), torch.randn(100, 32, requires_grad=True)
    targets = torch.randint(100, (64,))
    exact = F.cross_entropy(states @ weight.T, targets, reduction="sum")
    with torch.autocast("cpu", torch.bfloat16):
        ours = cross_entropy.cross_entropy_sum(states, weight, targets)
    assert ours.dtype == torch.float32
    assert abs(ours - exact) / exact < 5e-3
    ours.backward()
    assert states.grad.dtype == weight.grad.dtype == torch.float32
    (reference,) = torch.autograd.grad(exact, weight)
    assert (weight.grad - reference).norm() / reference.norm() < 1e-2


def test_loss_and_likelihood_equal_the_chain_rule() -> None:
    model = LanguageModel(TransformerConfig(vocab_size=31, d_model=16, n_layers=2, n_heads=2))
    initialize(model, torch.Generator().manual_seed(1))
    x = torch.randint(31, (3, 12))
    batch = Batch(x=x, sample_ids=torch.arange(3))
    log_p = model(x[:, :-1], mask=Causal()).log_softmax(-1)
    nats = -log_p.gather(2, x[:, 1:, None])[..., 0].sum(1)
    loss = Autoregressive().loss(model, batch, Rng(0))
    assert loss.count == 33
    torch.testing.assert_close(loss.total, nats.sum())
    likelihood = Autoregressive().likelihood(model, batch, Rng(0))
    assert likelihood.kind == "exact"
    torch.testing.assert_close(likelihood.nats, nats.double(), rtol=1e-5, atol=1e-5)


def test_the_loss_is_a_sum_so_that_splitting_changes_nothing() -> None:
    model = LanguageModel(TransformerConfig(vocab_size=31, d_model=16, n_layers=2, n_heads=2)).double()
    initialize(model, torch.Generator().manual_seed(1))
    documents = torch.tensor([[0] * 5 + [1] * 8, [0] * 13, [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2]])
    batch = Batch(x=torch.randint(31, (3, 13)), sample_ids=torch.arange(3), documents=documents)
    whole = Autoregressive().loss(model, batch, Rng(0))
    parts = [Autoregressive().loss(model, batch.rows(i, i + 1), Rng(0)) for i in range(3)]
    torch.testing.assert_close(whole.total, sum(p.total for p in parts))
    assert whole.count == sum(p.count for p in parts)
