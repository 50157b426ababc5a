"""Optimizers against the published update, and the averaging of weights against its closed form."""

from __future__ import annotations

import pytest
import torch

from diptych.core.config import OptimConfig, TransformerConfig
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.training.ema import MovingAverage
from diptych.training.optimizers import Optimizer, clip_and_scale


def make() -> LanguageModel:
    model = LanguageModel(TransformerConfig(vocab_size=20, d_model=16, n_layers=2, n_heads=2))
    initialize(model, torch.Generator().manual_seed(0))
    return model


def test_adamw_equals_its_formula_and_decays_matrices_only() -> None:
    model = make()
    config = OptimConfig(lr=0.1, weight_decay=0.5, betas=(0.9, 0.95))
    optimizer = Optimizer(model, config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in before.items()}
    generator = torch.Generator().manual_seed(1)
    for step in (1, 2, 3):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator)
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step(0.5)
        for name, old in before.items():
            first, second = moments[name]
            first.mul_(0.9).add_(gradients[name], alpha=0.1)
            second.mul_(0.95).add_(gradients[name] ** 2, alpha=0.05)
            decay = 0.5 if old.dim() == 2 else 0.0
            old.mul_(1 - 0.05 * decay)
            old.sub_(0.05 * (first / (1 - 0.9**step)) / ((second / (1 - 0.95**step)).sqrt() + 1e-8))
            torch.testing.assert_close(dict(model.named_parameters())[name].detach(), old, rtol=1e-4, atol=1e-6)


def test_muon_moves_block_matrices_along_orthogonal_directions() -> None:
    model = make()
    optimizer = Optimizer(model, OptimConfig(name="muon", muon_lr=0.1, weight_decay=0.0))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step(1.0)
    weight = model.blocks[0].attention.output.weight
    moved = (before["blocks.0.attention.output.weight"] - weight.detach()) / 0.1
    singular = torch.linalg.svdvals(moved)
    # Newton-Schulz brings every singular value near 1, where the gradient's own spread over two orders.
    assert singular.min() > 0.5 and singular.max() < 1.4
    assert {type(part).__name__ for part in optimizer.parts} == {"Muon", "AdamW"}


@pytest.mark.parametrize("norm", [0.0, 0.3, 1e9])
def test_clipping_equals_torch(norm: float) -> None:
    ours, theirs = make(), make()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        a.grad = torch.randn_like(a)
        b.grad = a.grad * 0.25
    measured = clip_and_scale(list(ours.parameters()), 0.25, norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs.parameters(), norm or float("inf"))
    assert measured == pytest.approx(float(expected), rel=1e-5)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_moving_average_equals_its_closed_form() -> None:
    model = make()
    parameter = model.embedding.weight
    average = MovingAverage(model, 0.8)
    start = parameter.detach().clone()
    with torch.no_grad():
        for step, value in enumerate((1.0, 2.0, 3.0), 1):
            parameter.fill_(value)
            average.update(step)
    expected = 0.8**3 * start + 0.2 * (0.8**2 * 1 + 0.8 * 2 + 3)
    torch.testing.assert_close(average.average["embedding.weight"], expected)
    with average.swapped_in():
        torch.testing.assert_close(parameter.detach(), expected)
    assert (parameter == 3.0).all()
    with pytest.raises(ValueError, match="ema_decay"):
        MovingAverage(model, 1.0)
