"""Filters against brute force over sorted probabilities, and against Hugging Face's."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from diptych.samplers import filters

LOGITS = st.lists(st.floats(-8, 8, width=16), min_size=2, max_size=12)


def kept(logits: torch.Tensor) -> set[int]:
    return {i for i, value in enumerate(logits[0].tolist()) if value > -math.inf}


def probabilities(values: list[float]) -> list[float]:
    top = max(values)
    weights = [math.exp(v - top) for v in values]
    return [w / sum(weights) for w in weights]


@settings(deadline=None)
@given(LOGITS, st.integers(1, 15))
def test_top_k_equals_brute_force(values: list[float], k: int) -> None:
    least = sorted(values, reverse=True)[min(k, len(values)) - 1]
    expected = {i for i, v in enumerate(values) if v >= least}
    assert kept(filters.top_k(torch.tensor([values]), k)) == expected


@settings(deadline=None)
@given(LOGITS, st.floats(0.01, 1.0))
def test_top_p_equals_brute_force(values: list[float], p: float) -> None:
    probability = probabilities(values)
    order = sorted(range(len(values)), key=lambda i: -values[i])
    expected, total = set(), 0.0
    for index in order:
        if expected and abs(total - p) < 1e-5:
            return  # on the edge float32 and float64 may differ
        if total >= p and expected:
            break
        expected.add(index)
        total += probability[index]
    assert kept(filters.top_p(torch.tensor([values]), p)) == expected


@settings(deadline=None)
@given(LOGITS, st.floats(0.01, 1.0))
def test_min_p_equals_brute_force(values: list[float], p: float) -> None:
    probability = probabilities(values)
    threshold = p * max(probability)
    if any(abs(q - threshold) < 1e-6 * threshold for q in probability if q < max(probability)):
        return
    expected = {i for i, q in enumerate(probability) if q >= threshold or q == max(probability)}
    assert kept(filters.min_p(torch.tensor([values]), p)) == expected


@settings(deadline=None)
@given(LOGITS, st.sets(st.integers(0, 11)), st.floats(0.5, 3.0))
def test_repetition_penalty_equals_brute_force(values: list[float], seen: set[int], penalty: float) -> None:
    mask = torch.tensor([[i in seen for i in range(len(values))]])
    expected = [(v / penalty if v > 0 else v * penalty) if i in seen else v for i, v in enumerate(values)]
    got = filters.repetition_penalty(torch.tensor([values]), mask, penalty)[0].tolist()
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_filters_equal_hugging_face() -> None:
    logits = torch.randn(16, 200) * 3
    ids = torch.randint(200, (16, 30))
    seen = torch.zeros(16, 200, dtype=torch.bool).scatter(1, ids, True)
    pairs = [
        (filters.temperature(logits, 0.7), TemperatureLogitsWarper(0.7)),
        (filters.top_k(logits, 17), TopKLogitsWarper(17)),
        (filters.top_p(logits, 0.85), TopPLogitsWarper(0.85)),
        (filters.min_p(logits, 0.05), MinPLogitsWarper(0.05)),
        (filters.repetition_penalty(logits, seen, 1.3), RepetitionPenaltyLogitsProcessor(1.3)),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs(ids, logits.clone()))


def test_the_most_likely_token_always_remains() -> None:
    logits = torch.tensor([[100.0, -100.0, -100.0]])
    for filtered in (filters.top_p(logits, 1e-9), filters.min_p(logits, 1.0), filters.top_k(logits, 1)):
        assert kept(filtered) == {0}
