"""What runs on the processor runs on a CUDA device with the same results."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch

from diptych.core.config import DataConfig, OptimConfig, RunConfig, TokenizerConfig, TrainConfig, TransformerConfig
from diptych.core.random import Rng
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.nn.masks import Causal, Documents
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest
from diptych.training.run import train
from tests.training.conftest import losses

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("position", ["rope", "learned", "alibi"])
def test_logits_and_generation_equal_the_processor(position: str) -> None:
    config = TransformerConfig(
        vocab_size=64, d_model=64, n_layers=2, n_heads=4, n_kv_heads=2, max_length=64, position=position
    )
    model = LanguageModel(config).requires_grad_(False).eval()
    initialize(model, torch.Generator().manual_seed(0))
    tokens = torch.randint(64, (2, 20))
    ids = torch.arange(20).expand(2, -1) // 7
    mask = Causal() & Documents(ids)
    expected = model(tokens, mask=mask)
    request = GenerationRequest(prompts=[[1, 2, 3], [4]], max_new_tokens=12, eos_id=63)
    sampler = AutoregressiveSampler(temperature=0.8)
    drawn = [f.state.tolist() for f in sampler.sample(model, request, Rng(0))]
    model.cuda()
    got = model(tokens.cuda(), mask=Causal() & Documents(ids.cuda()))
    torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-4)
    assert [f.state.tolist() for f in sampler.sample(model, request, Rng(0))] == drawn


@pytest.mark.parametrize("compiled", ["off", "on"])
def test_training_equals_the_processor(tmp_path: Path, compiled: str) -> None:
    draw = random.Random(0)
    texts = tmp_path / "texts"
    texts.mkdir()
    for index in range(30):
        (texts / f"{index}.txt").write_text(" ".join(draw.choices(["sun", "moon", "star"], k=60)))
    run = RunConfig(
        out=str(tmp_path / "cpu"),
        model=TransformerConfig(d_model=64, n_layers=2, n_heads=2, max_length=64),
        data=DataConfig(source=(str(texts),), sequence_length=64, heldout_fraction=0.2),
        tokenizer=TokenizerConfig(kind="byte"),
        optim=OptimConfig(warmup_steps=2),
        train=TrainConfig(steps=10, batch_size=4, dtype="float32", compile="off", device="cpu"),
    )
    train(run)
    settings = dataclasses.replace(run.train, device="cuda", compile=compiled)
    train(dataclasses.replace(run, out=str(tmp_path / "cuda"), train=settings))
    on_cpu, on_cuda = losses(tmp_path / "cpu"), losses(tmp_path / "cuda")
    assert list(on_cuda.values()) == pytest.approx(list(on_cpu.values()), rel=1e-3)
