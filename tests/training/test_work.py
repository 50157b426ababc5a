"""FLOPs of a step are those of every matrix product that it computes, in the comparison and in the reported MFU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diptych.core.config import RunConfig, TransformerConfig
from diptych.core.diffusion_config import PatchConfig
from diptych.core.events import Event, Stepped
from diptych.core.text_diffusion_config import AlphaScheduleName, TextDiffusionConfig
from diptych.diffusion.discrete import build_alpha_schedule
from diptych.models.diffusion_transformer import DiffusionTransformer
from diptych.models.language_model import LanguageModel
from diptych.training.loop import Trainer
from diptych.training.run import train
from diptych.training.work import flops_per_target, positions_read, predicted_share, row_targets

from ..image_runs import tiny_image_run
from ..text_runs import text_run

Tiny = Callable[..., RunConfig]


def test_flops_count_every_product_of_the_positions_read(tmp_path: Path) -> None:
    config = TransformerConfig(vocab_size=50, d_model=32, n_layers=2, n_heads=2, max_length=32)
    model = LanguageModel(config)
    head = model.unembedding.numel()
    body = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embedding" not in name)
    for kind, positions, share in (
        ("ar", 32, 1.0),
        ("masked", 33, 33 / 64),
        ("block", 65, 5 / 8),
        ("uniform", 33, 1.0),
    ):
        row = 6 * body * positions + 12 * 32 * positions**2 * 2 + 6 * head * 32 * share
        assert flops_per_target(text_run(tmp_path, kind), config) == pytest.approx(row / 32, rel=1e-12), kind


@pytest.mark.parametrize("schedule", ["linear", "cosine", "square"])
def test_the_share_of_hidden_targets_is_the_mean_of_its_schedule(tmp_path: Path, schedule: AlphaScheduleName) -> None:
    run = replace(text_run(tmp_path, "masked"), text_diffusion=TextDiffusionConfig(schedule=schedule, estimator="time"))
    t = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    assert predicted_share(run) == pytest.approx(float((1 - build_alpha_schedule(schedule).alpha(t)).mean()), abs=1e-7)


def test_flops_of_an_image_are_those_of_its_patches(tmp_path: Path) -> None:
    patches = PatchConfig(size=2, channels=1, height=4, width=4, n_classes=0)
    config = TransformerConfig(d_model=16, n_layers=2, n_heads=2, position="learned", patches=patches)
    run = tiny_image_run(tmp_path, tmp_path / "run", count=8, heldout=0.2, lr=1e-3)
    assert row_targets(run, config) == positions_read(run, config) == 4
    model = DiffusionTransformer(config)
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "position" not in name}
    once = sum(n for name, n in matrices.items() if "modulation" in name or "time" in name)
    image = 6 * (once + 4 * (sum(matrices.values()) - once)) + 12 * 16 * 4**2 * 2
    assert 4 * flops_per_target(run, config) == pytest.approx(image, rel=1e-12)


@pytest.mark.parametrize("kind", ["plain", "blocks", "uniform"])
def test_the_reported_mfu_counts_the_positions_that_are_read(
    tiny: Tiny, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: dict[str, dict[str, object]] = {
        "plain": {},
        # Blocks of one hide every target, so that nothing is left to chance.
        "blocks": {"objective": "masked_diffusion", "text_diffusion.block_length": 1},
        "uniform": {"objective": "uniform_diffusion"},
    }
    run = tiny(
        **{"train.steps": 2, "data.document_mask": False, "tokenizer.special_tokens": ("<|mask|>",), **kinds[kind]}
    )
    monkeypatch.setattr(Trainer, "peak", lambda self: 1e12)
    events = list[Event]()
    assert train(run, events.append)
    config = replace(run.model, vocab_size=258)
    model = LanguageModel(config)
    head = model.unembedding.numel()
    body = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2 and "embedding" not in name)
    positions = {"plain": 32, "blocks": 65, "uniform": 33}[kind]
    row = 6 * body * positions + 12 * 32 * positions**2 * 2 + 6 * head * 32
    stepped = [event for event in events if isinstance(event, Stepped)]
    assert len(stepped) == 2
    for event in stepped:
        assert event.mfu * 1e12 / event.tokens_per_second == pytest.approx(row / 32, rel=1e-9)


def test_hidden_targets_alone_count_in_the_mfu_of_masked_diffusion(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"data.document_mask": False, "tokenizer.special_tokens": ("<|mask|>",), "train.steps": 1}
    run, events = tiny(**settings, objective="masked_diffusion"), list[Event]()
    monkeypatch.setattr(Trainer, "peak", lambda self: 1e12)
    assert train(run, events.append)
    (event,) = [event for event in events if isinstance(event, Stepped)]
    config = replace(run.model, vocab_size=258)
    each = event.mfu * 1e12 / event.tokens_per_second
    head = 6 * 258 * 32
    all_targets = flops_per_target(replace(run, objective="uniform_diffusion"), config)
    assert each == pytest.approx(all_targets - head * 31 / 64, rel=1e-9)
