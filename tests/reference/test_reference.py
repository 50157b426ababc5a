"""The review as code against torch, against enumeration, and the fast code against it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diptych.core.config import TransformerConfig
from diptych.core.random import Rng
from diptych.core.types import Batch
from diptych.models.language_model import LanguageModel
from diptych.nn.attention import MultiHeadAttention
from diptych.nn.embedding import TokenEmbedding, unembed
from diptych.nn.lowering import Lowered
from diptych.nn.masks import Causal
from diptych.nn.normalization import LayerNorm, RMSNorm
from diptych.objectives.autoregressive import Autoregressive
from diptych.reference.attention import Head, attention, causal_mask, mh_attention
from diptych.reference.decoder import Layer, decoder_transformer, feed_forward, sinusoid
from diptych.reference.embedding import softmax, token_embedding, unembedding
from diptych.reference.generation import chain_rule, generate, next_token_steps
from diptych.reference.normalization import layer_norm, rms_norm
from diptych.report.next_token import next_token_steps as fast_next_token_steps
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest
from diptych.tokenizers import base
from diptych.tokenizers.vocabulary import VocabularyOfBytes

RNG = np.random.default_rng(0)
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def double(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


def head(d_x: int, d_z: int, d: int) -> Head:
    shapes = ((d, d_x), (d,), (d, d_z), (d,), (d, d_z), (d,))
    return Head(*(RNG.normal(size=shape) for shape in shapes))


def test_softmax_equals_torch_and_columns_sum_to_one() -> None:
    a = RNG.normal(size=(7, 4)) * 300
    np.testing.assert_allclose(softmax(a), F.softmax(double(a), dim=0).numpy(), **EXACT)
    np.testing.assert_allclose(softmax(a).sum(0), 1.0, **EXACT)


def test_layer_norm_has_the_variance_that_the_formula_names() -> None:
    e = RNG.normal(size=16) * 5 + 3
    out = layer_norm(e, np.ones(16), np.zeros(16), epsilon=0.0)
    assert out.mean() == pytest.approx(0, abs=1e-12) and out.var() == pytest.approx(1, rel=1e-12)
    # The paper's slip, e[i] / d_e inside the variance, would not give unit variance.
    slip = (e - e.mean()) / np.sqrt(((e / 16 - e.mean()) ** 2).mean())
    assert abs(slip.var() - 1) > 0.1


def test_layer_norm_equals_the_fast_one() -> None:
    e, gamma, beta = RNG.normal(size=(3, 16))
    fast = LayerNorm(16).double()
    fast.weight.data, fast.bias.data = double(gamma), double(beta)
    np.testing.assert_allclose(layer_norm(e, gamma, beta), fast(double(e)).detach().numpy(), **EXACT)
    rms = RMSNorm(16).double()
    rms.weight.data = double(gamma)
    np.testing.assert_allclose(rms_norm(e, gamma), rms(double(e)).detach().numpy(), **EXACT)
    expected = F.layer_norm(double(e), (16,), double(gamma), double(beta)).numpy()
    np.testing.assert_allclose(layer_norm(e, gamma, beta), expected, **EXACT)


def test_embedding_and_unembedding_equal_the_fast_ones() -> None:
    W_e, W_u, e = RNG.normal(size=(6, 9)), RNG.normal(size=(9, 6)), RNG.normal(size=6)
    fast = TokenEmbedding(9, 6).double()
    fast.weight.data = double(W_e.T)
    for v in range(9):
        np.testing.assert_array_equal(token_embedding(v, W_e), fast(torch.tensor([[v]]))[0, 0].detach().numpy())
    expected = unembed(double(e), double(W_u)).softmax(-1).numpy()
    np.testing.assert_allclose(unembedding(e, W_u), expected, **EXACT)


def test_attention_equals_torch_and_hides_what_is_masked() -> None:
    X, Z, one = RNG.normal(size=(5, 4)), RNG.normal(size=(6, 7)), head(5, 6, 3)
    mask = RNG.random((7, 4)) < 0.6
    mask[0] = True
    query = (one.W_q @ X + one.b_q[:, None]).T
    key, value = (one.W_k @ Z + one.b_k[:, None]).T, (one.W_v @ Z + one.b_v[:, None]).T
    expected = F.scaled_dot_product_attention(double(query), double(key), double(value), attn_mask=double(mask.T))
    out = attention(X, Z, one, mask)
    np.testing.assert_allclose(out, expected.numpy().T, **EXACT)
    hidden = Z.copy()
    hidden[:, 3] += 1.0
    unseen = ~mask[3]
    assert unseen.any()
    np.testing.assert_array_equal(attention(X, hidden, one, mask)[:, unseen], out[:, unseen])


@pytest.mark.parametrize("cross", [False, True])
def test_attention_equals_the_fast_one(cross: bool) -> None:
    config = TransformerConfig(d_model=8, n_heads=2, bias=True)
    fast = MultiHeadAttention(config).double()
    for parameter in fast.parameters():
        torch.nn.init.normal_(parameter)
    W_o, b_o, heads = heads_of(fast)
    X = RNG.normal(size=(8, 5))
    Z = RNG.normal(size=(8, 7)) if cross else X
    mask = np.ones((7, 5), bool) if cross else causal_mask(5, 5)
    context = double(Z.T)[None] if cross else None
    expected = fast(double(X.T)[None], Lowered(causal=not cross), context=context)[0].detach().numpy().T
    np.testing.assert_allclose(mh_attention(X, Z, heads, W_o, b_o, mask), expected, **EXACT)


def heads_of(fast: MultiHeadAttention) -> tuple[np.ndarray, np.ndarray, list[Head]]:
    """W_o, b_o and each head's matrices out of the stacked ones of the fast layer."""
    d = fast.d_head
    weights = fast.input.weight.detach().numpy().reshape(3, fast.n_heads, d, -1)
    biases = fast.input.bias.detach().numpy().reshape(3, fast.n_heads, d)
    heads = [
        Head(weights[0, h], biases[0, h], weights[1, h], biases[1, h], weights[2, h], biases[2, h])
        for h in range(fast.n_heads)
    ]
    return fast.output.weight.detach().numpy(), fast.output.bias.detach().numpy(), heads


def decoder(exact_sinusoids: bool = True) -> tuple[LanguageModel, np.ndarray, list[Layer], np.ndarray]:
    """A fast network of Vaswani et al.'s kind, and its parameters in the paper's symbols."""
    config = TransformerConfig(
        vocab_size=5,
        d_model=8,
        n_layers=2,
        n_heads=2,
        d_ff=12,
        max_length=16,
        norm="layer",
        norm_placement="post",
        position="sinusoidal",
        feed_forward="relu",
        bias=True,
        tied_embedding=False,
    )
    model = LanguageModel(config).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(0.0, 0.7, generator=generator)
    layers = []
    for block in model.blocks:
        W_o, b_o, heads = heads_of(block.attention)
        ff, one, two = block.feed_forward, block.attention_norm, block.feed_forward_norm
        rest = (
            ff.input.weight,
            ff.input.bias,
            ff.output.weight,
            ff.output.bias,
            one.weight,
            one.bias,
            two.weight,
            two.bias,
        )
        layers.append(Layer(heads, W_o, b_o, *(p.numpy() for p in rest)))
    # The network's table is rounded to float32; unrounded, the rest can be held to 1e-10.
    table = double(np.stack([sinusoid(t, 8) for t in range(16)]))
    torch.testing.assert_close(model.sinusoids, table, rtol=0, atol=1e-7)
    if exact_sinusoids:
        model.sinusoids = table
    return model, model.embedding.weight.numpy().T, layers, model.unembedding.numpy()


def test_feed_forward_and_sinusoids_equal_torch() -> None:
    _, _, layers, _ = decoder()
    e = RNG.normal(size=8)
    layer = layers[0]
    inner = F.relu(F.linear(double(e), double(layer.W_1), double(layer.b_1)))
    expected = F.linear(inner, double(layer.W_2), double(layer.b_2)).numpy()
    np.testing.assert_allclose(feed_forward(e, layer), expected, **EXACT)
    assert sinusoid(0, 4).tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(sinusoid(3, 4), [np.sin(3), np.cos(3), np.sin(0.03), np.cos(0.03)], **EXACT)


@pytest.mark.parametrize(("exact_sinusoids", "tolerance"), [(True, 1e-10), (False, 1e-5)])
def test_the_whole_decoder_equals_the_fast_network(exact_sinusoids: bool, tolerance: float) -> None:
    model, W_e, layers, W_u = decoder(exact_sinusoids)
    x = [3, 1, 4, 1, 0, 2]
    expected = model(torch.tensor([x]), mask=Causal())[0].softmax(-1).numpy().T
    np.testing.assert_allclose(decoder_transformer(x, W_e, layers, W_u), expected, rtol=0, atol=tolerance)


BEGIN, EOS = 4, 0


def policy() -> tuple[LanguageModel, object]:
    model, W_e, layers, W_u = decoder()
    return model, lambda x: decoder_transformer([BEGIN, *x], W_e, layers, W_u)[:, -1]


def test_the_chain_rule_is_a_distribution_over_all_sequences() -> None:
    _, P = policy()
    for length in (1, 2, 3):
        total = sum(chain_rule(x, P) for x in itertools.product(range(5), repeat=length))
        assert total == pytest.approx(1.0, abs=1e-12)


def test_likelihood_equals_the_chain_rule() -> None:
    model, P = policy()
    for x in ([2], [1, 3, 3], [4, 0, 2, 1]):
        batch = Batch(x=torch.tensor([[BEGIN, *x]]), sample_ids=torch.arange(1))
        nats = Autoregressive().likelihood(model, batch, Rng(0)).nats
        assert float(torch.exp(-nats)) == pytest.approx(chain_rule(x, P), rel=1e-10)


def draws(rng: Rng, steps: int) -> list[float]:
    """The uniform numbers that the fast sampler uses for sample 0."""
    return [float(rng.fold("token", s).uniform("draw", torch.tensor([0]), 1)) for s in range(steps)]


def test_generation_equals_the_fast_sampler() -> None:
    model, P = policy()
    lengths = set()
    for seed in range(8):
        u = draws(Rng(seed), 9)
        expected = generate([2, 1], P, EOS, 11, u)
        request = GenerationRequest(prompts=[[BEGIN, 2, 1]], max_new_tokens=9, eos_id=EOS)
        sampler = AutoregressiveSampler(candidates=3)
        frames = list(sampler.sample(model, request, Rng(seed)))
        assert [2, 1, *(int(f.state) for f in frames)] == expected
        steps = next_token_steps([2, 1], P, EOS, 11, u, 3)
        for step, frame in zip(steps, frames, strict=True):
            assert list(step.candidates) == frame.info["candidates"][0].tolist()
            np.testing.assert_allclose(step.probabilities, frame.info["candidate_probabilities"][0].numpy(), rtol=1e-9)
            assert step.chosen == int(frame.state)
        lengths.add(len(expected))
    assert len(lengths) > 1  # some ended by the end-of-sequence token, before the limit


class Letters(VocabularyOfBytes):
    """a to d are the ids 0 to 3; 4 opens the document."""

    def __init__(self) -> None:
        super().__init__([b"a", b"b", b"c", b"d", base.EOS.encode()], {base.EOS: 4})

    def encode_ordinary(self, text: str) -> np.ndarray:
        return np.array([ord(c) - 97 for c in text], np.int32)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_figure_1_equals_the_fast_one_step_by_step(seed: int) -> None:
    """Context, candidates in their order, probabilities and the token chosen, at every step."""
    model, P = policy()
    tokenizer = Letters()
    steps = next_token_steps([2, 1], P, BEGIN, 8, draws(Rng(seed), 6), 5)
    fast = fast_next_token_steps(model, tokenizer, "cb", n_steps=6, n_candidates=5, rng=Rng(seed))
    assert len(steps) > 1
    for ours, theirs in zip(steps, fast, strict=True):
        assert theirs.context == tokenizer.decode(list(ours.x))
        shown = [tokenizer.pieces[v].decode() for v in ours.candidates]
        assert [candidate.text for candidate in theirs.candidates] == shown
        np.testing.assert_allclose([c.probability for c in theirs.candidates], ours.probabilities, rtol=1e-9)
        assert ours.candidates[theirs.chosen] == ours.chosen
