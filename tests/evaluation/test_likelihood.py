"""Scores equal the chain rule written out, and every token counts once."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych.core.config import TransformerConfig
from diptych.core.events import Event, Progressed
from diptych.data.packing import TokenStore, build_token_store
from diptych.data.sources import Document
from diptych.evaluation.likelihood import score_store
from diptych.models.language_model import LanguageModel
from diptych.nn.masks import Causal
from diptych.tokenizers.simple import ByteTokenizer

TEXTS = ["abcabcabd", "x", "hello world, hello"]


def model_and_store(folder: Path) -> tuple[LanguageModel, TokenStore]:
    config = TransformerConfig(vocab_size=257, d_model=16, n_layers=2, n_heads=2, max_length=64)
    model = LanguageModel(config).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(0.0, 0.5, generator=generator)
    documents = [Document(text, str(i)) for i, text in enumerate(TEXTS)]
    return model, build_token_store(lambda: documents, ByteTokenizer(), folder / "store")


def test_one_window_equals_each_document_alone(tmp_path: Path) -> None:
    model, store = model_and_store(tmp_path)
    expected = 0.0
    for text in TEXTS:
        ids = torch.tensor([[256, *text.encode(), 256]])
        log_p = model(ids[:, :-1], mask=Causal()).log_softmax(-1)
        expected -= float(log_p.gather(2, ids[:, 1:, None]).sum())
    score = score_store(model, store, context=64, stride=64)
    assert score.nats == pytest.approx(expected, rel=1e-10)
    assert score.n_bytes == sum(map(len, TEXTS)) and score.n_tokens == score.n_bytes + 3
    assert score.bits_per_byte == pytest.approx(expected / math.log(2) / score.n_bytes)
    assert score.perplexity == pytest.approx(math.exp(expected / score.n_tokens))


def test_a_token_that_only_opens_documents_is_given_and_not_scored(tmp_path: Path) -> None:
    model, plain = model_and_store(tmp_path)
    opening = 255  # a byte that these texts do not hold
    tokens = [t for text in TEXTS for t in (opening, *text.encode(), 256)]
    lengths = plain.token_lengths.copy()
    lengths[opening] = 0
    store = replace(plain, tokens=np.array(tokens, np.uint16), token_lengths=lengths, opening_id=opening)
    expected = 0.0
    for text in TEXTS:
        ids = torch.tensor([[opening, *text.encode(), 256]])
        log_p = model(ids[:, :-1], mask=Causal()).log_softmax(-1)
        expected -= float(log_p.gather(2, ids[:, 1:, None]).sum())
    events: list[Event] = []
    score = score_store(model, store, context=64, stride=64, on_event=events.append)
    assert score.nats == pytest.approx(expected, rel=1e-10)
    assert score.n_tokens == sum(map(len, TEXTS)) + len(TEXTS)
    assert isinstance(events[-1], Progressed) and events[-1].done == events[-1].total == score.n_tokens


@pytest.mark.parametrize(("context", "stride", "batch_size"), [(8, 8, 2), (8, 3, 1), (5, 1, 16), (30, 7, 3)])
def test_windows_equal_their_definition(tmp_path: Path, context: int, stride: int, batch_size: int) -> None:
    model, store = model_and_store(tmp_path)
    stream = [int(t) for t in store.tokens]
    expected, start, scored = 0.0, 0, 1
    while scored < len(stream):
        end = min(start + context, len(stream) - 1)
        for target in range(scored, end + 1):
            opens = max((i for i in range(start, target) if stream[i] == 256), default=start)
            log_p = model(torch.tensor([stream[opens:target]]), mask=Causal())[0, -1].log_softmax(-1)
            expected -= float(log_p[stream[target]])
        scored, start = end + 1, start + stride
    score = score_store(model, store, context=context, stride=stride, batch_size=batch_size)
    assert score.nats == pytest.approx(expected, rel=1e-10)
    assert score.n_tokens == len(stream) - 1


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    model, store = model_and_store(tmp_path)
    model.embedding.weight[3, 3] = float("nan")
    with pytest.raises(ValueError, match="no finite number"):
        score_store(model, store, context=8, stride=8)
