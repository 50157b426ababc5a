"""Features of the time equal the peer's and tell noise levels apart; a modulated block equals the peer's."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import get_timestep_embedding

from diptych.core.config import TransformerConfig
from diptych.nn.block import Block
from diptych.nn.conditioning import FEATURES, ClassEmbedding, TimeEmbedding, time_features
from diptych.nn.lowering import Lowered

CONFIG = TransformerConfig(d_model=32, n_layers=1, n_heads=2, norm="layer", feed_forward="gelu_tanh", bias=True)


def test_features_equal_those_of_the_peer() -> None:
    time = torch.tensor([-1.6, -0.3, 0.0, 0.01, 1.1])
    theirs = get_timestep_embedding(1000 * time, FEATURES, flip_sin_to_cos=True, downscale_freq_shift=1)
    torch.testing.assert_close(time_features(time), theirs, rtol=0, atol=1e-3)  # angles of 1600 in float32


def test_neighbouring_noise_levels_are_told_apart() -> None:
    sigma = torch.logspace(-2.7, 1.9, 300, dtype=torch.float64)
    features = time_features((sigma.log() / 4).float())
    distance = torch.cdist(features, features) + 1e9 * torch.eye(300)
    assert distance.min() > 1.0  # of vectors of length sqrt(128) = 11.3


def test_the_time_and_the_class_are_embedded_by_their_own_rows() -> None:
    time, classes = TimeEmbedding(8), ClassEmbedding(3, 8)
    torch.nn.init.normal_(classes.weight)
    assert torch.equal(classes(torch.tensor([3, 0])), classes.weight[[3, 0]])
    features = time_features(torch.tensor([0.2]))
    hidden = torch.nn.functional.silu(features @ time.input.weight.T + time.input.bias)
    torch.testing.assert_close(time(torch.tensor([0.2])), hidden @ time.output.weight.T + time.output.bias)


def test_a_modulated_block_equals_the_peers() -> None:
    torch.manual_seed(0)
    ours = Block(CONFIG, modulated=True)
    theirs = BasicTransformerBlock(
        32,
        2,
        16,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=3,
        attention_bias=True,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
    ).eval()
    theirs.norm1.norm.eps = CONFIG.norm_eps
    state = theirs.state_dict()
    for part in ("weight", "bias"):
        projections = [state[f"attn1.to_{name}.{part}"] for name in "qkv"]
        getattr(ours.attention.input, part).data = torch.cat(projections)
        getattr(ours.attention.output, part).data = state[f"attn1.to_out.0.{part}"]
        getattr(ours.feed_forward.input, part).data = state[f"ff.net.0.proj.{part}"]
        getattr(ours.feed_forward.output, part).data = state[f"ff.net.2.{part}"]
    x, time, labels = torch.randn(4, 6, 32), torch.tensor([3, 500, 20, 7]), torch.tensor([0, 1, 2, 2])
    modulation = theirs.norm1.linear(torch.nn.functional.silu(theirs.norm1.emb(time, labels, hidden_dtype=x.dtype)))
    with torch.no_grad():
        wanted = theirs(x, timestep=time, class_labels=labels)
        got = ours(x, Lowered(), modulation=modulation.view(4, 6, 32))
    assert (wanted - x).abs().max() > 0.1
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "rms", "none"])
def test_a_compiled_modulated_block_equals_the_plain_one(norm: str) -> None:
    torch.manual_seed(0)
    block = Block(TransformerConfig(d_model=16, n_layers=1, n_heads=2, norm=norm), modulated=True)  # type: ignore[arg-type]
    x, modulation = torch.randn(2, 4, 16), torch.randn(2, 6, 16, requires_grad=True)
    results = []
    for run in (block, torch.compile(block, dynamic=False)):
        out = run(x, Lowered(), modulation=modulation)
        results.append((out, *torch.autograd.grad(out.square().sum(), (modulation, *block.parameters()))))
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain, rtol=1e-4, atol=1e-4)
