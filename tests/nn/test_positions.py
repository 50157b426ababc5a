"""Positions: rotations preserve what they should, tables and stretching equal their formulas and their peers'."""

from __future__ import annotations

import math

import pytest
import torch

from diptych.core.config import RopeScaling
from diptych.nn.positions import alibi_slopes, rope_frequencies, rotate, rotation, sinusoidal_table


def test_sinusoids_equal_the_formula() -> None:
    table = sinusoidal_table(50, 10)
    for pos, i in ((0, 0), (7, 3), (49, 9), (13, 4)):
        angle = pos / 10_000 ** ((i // 2 * 2) / 10)
        expected = math.sin(angle) if i % 2 == 0 else math.cos(angle)
        assert table[pos, i] == pytest.approx(expected, abs=1e-6)


def test_scores_of_rotated_vectors_depend_on_distance_alone() -> None:
    frequencies = rope_frequencies(16, 10_000.0, None)
    query, key = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def score(m: int, n: int) -> torch.Tensor:
        turn = lambda p: rotation(torch.tensor([[p]]), frequencies, torch.float32)  # noqa: E731
        return (rotate(query, turn(m)) * rotate(key, turn(n))).sum()

    torch.testing.assert_close(score(3, 1), score(103, 101), atol=1e-4, rtol=0)
    assert not torch.isclose(score(3, 1), score(4, 1), atol=1e-3)
    torch.testing.assert_close(score(5, 5), (query * key).sum(), atol=1e-5, rtol=0)


def test_llama_3_stretching_equals_hugging_face() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaling = RopeScaling(factor=8.0, original_max_length=8192)
    parameters = {
        "rope_type": "llama3",
        "rope_theta": 500_000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    config = LlamaConfig(
        hidden_size=512, num_attention_heads=4, max_position_embeddings=131_072, rope_parameters=parameters
    )
    expected, factor = ROPE_INIT_FUNCTIONS["llama3"](config, device=torch.device("cpu"))
    assert factor == 1.0
    ours = rope_frequencies(128, 500_000.0, scaling)
    torch.testing.assert_close(ours, expected.float(), rtol=1e-5, atol=0)
    plain = rope_frequencies(128, 500_000.0, None)
    assert torch.equal(ours[:1], plain[:1]) and ours[-1] == plain[-1] / 8


@pytest.mark.parametrize(
    ("scaling", "fields", "length"),
    [
        (RopeScaling(kind="linear", factor=2.5), {"factor": 2.5}, None),
        (RopeScaling(kind="dynamic", factor=2.0, original_max_length=4096), {"factor": 2.0}, 4096),
        (RopeScaling(kind="dynamic", factor=2.0, original_max_length=4096), {"factor": 2.0}, 10_000),
        (RopeScaling(kind="dynamic", factor=4.0, original_max_length=4096), {"factor": 4.0}, None),
        (RopeScaling(kind="yarn", factor=4.0, original_max_length=4096), {"factor": 4.0}, None),
        (RopeScaling(kind="yarn", factor=32.0, original_max_length=100), {"factor": 32.0}, None),
        (
            RopeScaling(
                kind="yarn", factor=8.0, original_max_length=2048, beta_fast=20.0, beta_slow=2.5, attention_factor=1.25
            ),
            {"factor": 8.0, "beta_fast": 20.0, "beta_slow": 2.5, "attention_factor": 1.25},
            None,
        ),
    ],
)
def test_stretching_equals_hugging_face(scaling: RopeScaling, fields: dict[str, float], length: int | None) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {"rope_type": scaling.kind, "rope_theta": 10_000.0, **fields}
    if scaling.kind == "yarn":
        parameters["original_max_position_embeddings"] = scaling.original_max_length
    config = LlamaConfig(
        hidden_size=512, num_attention_heads=4, max_position_embeddings=4096, rope_parameters=parameters
    )
    expected, factor = ROPE_INIT_FUNCTIONS[scaling.kind](config, torch.device("cpu"), seq_len=length)
    ours = rope_frequencies(128, 10_000.0, scaling, length)
    torch.testing.assert_close(ours, expected.float(), rtol=1e-5, atol=0)
    assert scaling.attention_scale == pytest.approx(factor, rel=1e-12)
    cos, sin = rotation(torch.arange(9)[None], ours, torch.float32, scaling.attention_scale)
    torch.testing.assert_close(cos**2 + sin**2, torch.full_like(cos, factor**2), rtol=1e-5, atol=0)


def test_ntk_divides_the_lowest_frequency_by_the_factor_and_keeps_the_highest() -> None:
    plain = rope_frequencies(64, 10_000.0, None)
    ours = rope_frequencies(64, 10_000.0, RopeScaling(kind="ntk", factor=8.0))
    assert ours[0] == plain[0]
    assert float(plain[-1] / ours[-1]) == pytest.approx(8.0, rel=1e-5)
    # So is dynamic stretching to as many times the training's length, up to its own factor.
    dynamic = RopeScaling(kind="dynamic", factor=1.0, original_max_length=100)
    assert torch.equal(rope_frequencies(64, 10_000.0, dynamic, 800), ours)


def test_alibi_slopes_equal_the_published_ones() -> None:
    torch.testing.assert_close(alibi_slopes(8), torch.tensor([2.0**-i for i in range(1, 9)]))
    twelve = [2.0**-i for i in range(1, 9)] + [2.0**-0.5, 2.0**-1.5, 2.0**-2.5, 2.0**-3.5]
    torch.testing.assert_close(alibi_slopes(12), torch.tensor(twelve))
