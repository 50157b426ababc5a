"""Are the steps of figure 1 those that a generation took?"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from diptych.core.config import TransformerConfig
from diptych.core.random import Rng
from diptych.core.types import Frame
from diptych.models.language_model import LanguageModel
from diptych.nn.masks import Causal
from diptych.report.next_token import next_token_steps, steps_of
from diptych.report.words import visible


class Letters:
    """A tokenizer of single ASCII characters whose end-of-sequence token is 0."""

    vocab_size = 128
    eos_id = 0

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("ascii"), dtype=np.uint8).astype(np.int32)

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i) for i in ids)

    def token_bytes(self, token: int) -> bytes:
        return b"<|endoftext|>" if token == 0 else bytes([token])


def frame(chosen: int, candidates: list[int], probabilities: list[float], log_probability: float, end: bool) -> Frame:
    return Frame(
        step=0,
        of=3,
        state=torch.tensor([chosen]),
        info={
            "candidates": torch.tensor([candidates]),
            "candidate_probabilities": torch.tensor([probabilities]),
            "log_probability": torch.tensor([log_probability]),
            "finished": torch.tensor([end]),
        },
    )


def test_the_probabilities_are_the_models_own() -> None:
    """Against softmax of the whole, uncached forward pass over the text so far."""
    config = TransformerConfig(vocab_size=128, d_model=32, n_layers=2, n_heads=2, max_length=32)
    model = LanguageModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(1))
    steps = next_token_steps(model, Letters(), "ab", n_steps=6, n_candidates=4, rng=Rng(3))
    assert 1 <= len(steps) <= 6
    for number, step in enumerate(steps):
        assert step.context.startswith("ab") and len(step.context) == 2 + number
        ids = torch.tensor([[0, *Letters().encode(step.context).tolist()]])
        with torch.no_grad():
            p = torch.softmax(model(ids, mask=Causal())[0, -1].double(), 0)
        best = torch.topk(p, 4).values.tolist()
        assert [c.probability for c in step.candidates[:4]] == pytest.approx(best, rel=1e-4)
        names = {visible(Letters().token_bytes(token)): float(p[token]) for token in range(128)}
        for candidate in step.candidates:
            assert names[candidate.text] == pytest.approx(candidate.probability, rel=1e-4)
        if number + 1 < len(steps):
            assert visible(steps[number + 1].context[-1]) == step.candidates[step.chosen].text


def test_steps_carry_context_candidates_and_choice() -> None:
    frames = [
        frame(ord("b"), [ord("a"), ord("b")], [0.5, 0.25], math.log(0.25), False),
        frame(ord("\n"), [ord(" "), ord("c")], [0.75, 0.125], math.log(0.0625), False),
        frame(0, [0, 97], [0.75, 0.125], math.log(0.75), True),
        frame(97, [0, 97], [0.75, 0.125], math.log(0.125), False),
    ]
    steps = steps_of(frames, Letters(), [0, ord("x")])
    assert [step.context for step in steps] == ["x", "xb", "xb\n"], "it stops where the text ends"
    assert [[c.text for c in step.candidates] for step in steps] == [
        ["a", "b"],
        ["␣", "c", "⏎"],
        ["<|endoftext|>", "a"],
    ]
    assert [step.chosen for step in steps] == [1, 2, 0]
    assert [c.probability for c in steps[1].candidates] == pytest.approx([0.75, 0.125, 0.0625]), (
        "the unlikely choice stands last"
    )
