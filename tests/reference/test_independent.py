"""The review as code against torch's own modules and against counting, where no fast object of ours takes part."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diptych.reference.attention import Head, attention, causal_mask, mh_attention
from diptych.reference.decoder import Layer, decoder_transformer, gelu, gelu_tanh, post_norm_block, pre_norm_block, relu
from diptych.reference.embedding import softmax
from diptych.reference.generation import chain_rule, draw, generate, greedy, next_token_steps

EXACT = {"rtol": 0, "atol": 1e-12}
N_V, EOS = 4, 0


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def test_softmax_of_huge_scores_is_finite_and_of_nothing_is_refused() -> None:
    np.testing.assert_allclose(softmax(np.array([1e5, 1e5 - np.log(3)])), [0.75, 0.25], rtol=1e-9)
    with pytest.raises(ValueError, match="no position may be attended to"):
        softmax(np.full((3, 2), -np.inf))


def heads_of(theirs: nn.MultiheadAttention) -> list[Head]:
    d, h = theirs.embed_dim, theirs.num_heads
    if theirs.in_proj_weight is None:
        weights = [w.detach().numpy() for w in (theirs.q_proj_weight, theirs.k_proj_weight, theirs.v_proj_weight)]
    else:
        weights = list(theirs.in_proj_weight.detach().numpy().reshape(3, d, d))
    biases = theirs.in_proj_bias.detach().numpy().reshape(3, d)
    rows = [slice(i * d // h, (i + 1) * d // h) for i in range(h)]
    return [Head(*(part[r] for w, b in zip(weights, biases, strict=True) for part in (w, b))) for r in rows]


@pytest.mark.parametrize("causal", [False, True])
def test_many_heads_equal_torch(causal: bool) -> None:
    """Cross-attention to a context of another width and length; under a causal mask, of the same length."""
    theirs = nn.MultiheadAttention(12, 3, kdim=10, vdim=10, dtype=torch.float64)
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    X, Z = random(12, 5), random(10, 5 if causal else 8)
    Mask = causal_mask(5, 5) if causal else np.ones((8, 5), dtype=bool)
    expected = theirs(X.T, Z.T, Z.T, attn_mask=torch.from_numpy(~Mask.T), need_weights=False)[0].T
    W_o, b_o = theirs.out_proj.weight.detach().numpy(), theirs.out_proj.bias.detach().numpy()
    ours = mh_attention(X.numpy(), Z.numpy(), heads_of(theirs), W_o, b_o, Mask)
    np.testing.assert_allclose(ours, expected.detach().numpy(), **EXACT)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_blocks_equal_torch(norm_first: bool, activation: str) -> None:
    theirs = nn.TransformerEncoderLayer(12, 3, 20, 0.0, activation, norm_first=norm_first, dtype=torch.float64)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    names = "linear1.weight linear1.bias linear2.weight linear2.bias norm1.weight norm1.bias norm2.weight norm2.bias"
    out = theirs.self_attn.out_proj
    rest = [theirs.get_parameter(name) for name in ("self_attn.out_proj.weight", "self_attn.out_proj.bias")]
    rest += [theirs.get_parameter(name) for name in names.split()]
    W = Layer(heads_of(theirs.self_attn), *(p.detach().numpy() for p in rest), {"relu": relu, "gelu": gelu}[activation])
    assert out.weight.shape == W.W_o.shape
    X, Mask = random(12, 6), causal_mask(6, 6)
    block = pre_norm_block if norm_first else post_norm_block
    expected = theirs(X.T[:, None], src_mask=torch.from_numpy(~Mask.T))[:, 0].T.detach().numpy()
    np.testing.assert_allclose(block(X.numpy(), W, Mask), expected, rtol=1e-10, atol=1e-10)


def test_activations_equal_torch() -> None:
    e = torch.linspace(-6, 6, 101, dtype=torch.float64)
    for ours, theirs in ((relu, F.relu), (gelu, F.gelu), (gelu_tanh, lambda x: F.gelu(x, approximate="tanh"))):
        np.testing.assert_allclose(ours(e.numpy()), theirs(e).numpy(), rtol=0, atol=1e-13)


def test_a_mask_leaks_nothing() -> None:
    """Whatever stands at the hidden positions, what a position gathers stays the same to the last bit."""
    rng = np.random.default_rng(0)
    W = Head(*(rng.normal(size=shape) for shape in ((4, 6), (4,)) * 3))
    X, Mask = rng.normal(size=(6, 8)), causal_mask(8, 8)
    for t in range(8):
        changed = X.copy()
        changed[:, t + 1 :] = 100 * rng.normal(size=(6, 7 - t))
        before, after = (attention(Y, Y, W, Mask)[:, : t + 1] for Y in (X, changed))
        np.testing.assert_array_equal(before, after)
    assert np.abs(attention(X, X, W, Mask) - attention(X, X, W, Mask | True))[:, :7].min() > 0


def test_the_bias_of_the_keys_cancels_and_that_of_the_values_is_added() -> None:
    """b_k shifts all scores of a query alike, so the softmax loses it; weights that sum to one pass b_v through."""
    rng = np.random.default_rng(7)
    W = Head(*(rng.normal(size=shape) for shape in ((4, 6), (4,)) * 3))
    X, Z, Mask = rng.normal(size=(6, 5)), rng.normal(size=(6, 7)), np.ones((7, 5), dtype=bool)
    out = attention(X, Z, W, Mask)
    np.testing.assert_allclose(attention(X, Z, replace(W, b_k=W.b_k + 3.0), Mask), out, **EXACT)
    np.testing.assert_allclose(attention(X, Z, replace(W, b_v=W.b_v + 3.0), Mask), out + 3.0, **EXACT)
    assert np.abs(attention(X, Z, replace(W, b_q=W.b_q + 3.0), Mask) - out).max() > 0.1


def table_model(x: Sequence[int]) -> np.ndarray:
    """A distribution of its own for every prefix."""
    weights = np.random.default_rng([len(x), *x]).uniform(0.1, 1.0, N_V)
    return weights / weights.sum()


def test_the_chain_rule_is_a_distribution_over_the_ends_of_any_beginning() -> None:
    for beginning in ((), (2,), (2, 1)):
        total = math.fsum(chain_rule((*beginning, *x), table_model) for x in product(range(N_V), repeat=4))
        assert total == pytest.approx(chain_rule(beginning, table_model), abs=1e-12)
    assert chain_rule((), table_model) == 1.0


def test_draws_follow_the_distribution() -> None:
    """An even grid of uniform numbers lands on each token in proportion, to one grid step."""
    p, n = np.array([0.1, 0.0, 0.65, 0.25]), 10_000
    counts = Counter(draw(p, (i + 0.5) / n) for i in range(n))
    assert [counts[v] / n for v in range(4)] == pytest.approx(p.tolist(), abs=1.5 / n)
    assert counts[1] == 0 and greedy(p) == 2
    assert [draw(np.array([0.5, 0.5]), u) for u in (0.25, 0.5, 0.75)] == [0, 0, 1]
    rounded_down = np.array([0.5, 0.5 - 1e-6])
    assert draw(rounded_down, 1 - 1e-9) == 1  # a sum just short of one still ends within the vocabulary


def test_equation_2_draws_sequences_as_often_as_equation_1_says() -> None:
    """Uniform numbers from a grid over the unit square: every outcome of two draws gets its share by the chain rule."""
    n = 60
    grid = [(i + 0.5) / n for i in range(n)]
    counts = Counter(tuple(generate([], table_model, EOS, 2, u)) for u in product(grid, repeat=2))
    outcomes = [(EOS,), *((a, b) for a in range(1, N_V) for b in range(N_V))]
    assert set(counts) == set(outcomes)
    for x in outcomes:
        assert counts[x] / n**2 == pytest.approx(chain_rule(x, table_model), abs=3 / n)


def test_generation_ends_at_the_end_of_sequence_or_the_length_and_reads_all_before() -> None:
    seen: list[list[int]] = []

    def policy(x: Sequence[int]) -> np.ndarray:
        seen.append(list(x))
        return np.eye(N_V)[{3: 2, 2: 1, 1: EOS}[x[-1]]]

    assert generate([1, 3], policy, EOS, 9, [0.5] * 9) == [1, 3, 2, 1, EOS]
    assert seen == [[1, 3], [1, 3, 2], [1, 3, 2, 1]]
    assert generate([1, 3], policy, EOS, 4, [0.5] * 9) == [1, 3, 2, 1]


def test_the_candidates_of_figure_1_are_the_likeliest_in_order() -> None:
    steps = next_token_steps([1, 2], table_model, EOS, 5, [0.9, 0.8, 0.7], 3)
    assert steps[0].x == (1, 2)
    for step in steps:
        p = table_model(step.x)
        assert step.probabilities == tuple(sorted(p.tolist(), reverse=True)[:3])
        assert [p[v] for v in step.candidates] == list(step.probabilities)


def test_the_columns_of_the_decoder_are_distributions_that_the_future_does_not_reach() -> None:
    rng = np.random.default_rng(6)
    heads = [Head(*(rng.normal(size=shape) for shape in ((4, 8), (4,)) * 3)) for _ in range(2)]
    shapes = ((8, 8), (8,), (12, 8), (12,), (8, 12), (8,), (8,), (8,), (8,), (8,))
    layers = [Layer(heads, *(rng.normal(size=shape) for shape in shapes))]
    W_e, W_u = rng.normal(size=(8, 5)), rng.normal(size=(5, 8))
    x = [3, 1, 4, 1, 2]
    whole = decoder_transformer(x, W_e, layers, W_u)
    np.testing.assert_allclose(whole.sum(axis=0), 1.0, **EXACT)
    for t in range(1, 5):
        changed = x[:t] + [(v + 1) % 5 for v in x[t:]]
        np.testing.assert_array_equal(decoder_transformer(changed, W_e, layers, W_u)[:, :t], whole[:, :t])
