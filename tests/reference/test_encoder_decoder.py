"""The slow encoder-decoder and the slow beam search against the fast ones; smoothing and warm-up against others."""

from __future__ import annotations

import dataclasses
import math
from functools import cache, partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diptych.core.config import OptimConfig, TransformerConfig
from diptych.core.random import Rng
from diptych.core.types import Batch
from diptych.models.encoder_decoder import Conditioned, EncoderDecoder
from diptych.nn.masks import Causal
from diptych.objectives.autoregressive import Autoregressive
from diptych.objectives.cross_entropy import slice_loss
from diptych.presets import PRESETS
from diptych.reference.decoder import Layer, sinusoid
from diptych.reference.encoder_decoder import CrossLayer, encoder_decoder_transformer
from diptych.reference.translation import beam_search, best_of_all, length_penalty, smoothed_cross_entropy, warm_up
from diptych.samplers import beam
from diptych.training.schedules import lr_factor
from tests.reference.test_reference import double, heads_of

VOCAB, BEGIN, EOS = 5, 4, 0


def layer_of(block: torch.nn.Module) -> Layer:
    """A block of the fast network in the paper's symbols."""
    W_o, b_o, heads = heads_of(block.attention)
    ff, one, two = block.feed_forward, block.attention_norm, block.feed_forward_norm
    rest = (ff.input, ff.output, one, two)
    return Layer(heads, W_o, b_o, *(p.numpy() for part in rest for p in (part.weight, part.bias)))


def cross_layer_of(block: torch.nn.Module) -> CrossLayer:
    W_o, b_o, heads = heads_of(block.cross_attention)
    return CrossLayer(layer_of(block), heads, W_o, b_o, block.cross_norm.weight.numpy(), block.cross_norm.bias.numpy())


def network() -> EncoderDecoder:
    config = TransformerConfig(
        **{
            **dataclasses.asdict(PRESETS["vanilla-2017-tiny"]),
            **{"vocab_size": VOCAB, "d_model": 8, "n_heads": 2, "d_ff": 12, "max_length": 16, "tied_embedding": False},
        }
    )
    model = EncoderDecoder(config).double().eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(0.0, 0.7, generator=generator)
    model.sinusoids = double(np.stack([sinusoid(t, 8) for t in range(16)]))
    return model


def reference_of(model: EncoderDecoder) -> tuple[np.ndarray, list[Layer], list[CrossLayer], np.ndarray]:
    encoder, decoder = [layer_of(b) for b in model.encoder], [cross_layer_of(b) for b in model.blocks]
    return model.embedding.weight.numpy().T, encoder, decoder, model.unembedding.numpy()


def test_the_whole_network_equals_the_fast_one() -> None:
    model = network()
    z, x = [3, 1, 2, 2, 0], [4, 1, 3]
    padded = torch.tensor([[*z, 1, 1]])
    expected = model(padded, torch.tensor([5]), torch.tensor([x]))[0].softmax(-1).numpy().T
    P = encoder_decoder_transformer(z, x, *reference_of(model))
    np.testing.assert_allclose(P, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(P.sum(0), 1.0, rtol=0, atol=1e-12)


def test_beam_search_equals_the_slow_one_and_enough_beams_find_the_best_of_all() -> None:
    """The last layer is softened, so that many sequences are about equally likely and beams differ."""
    model = network()
    model.head.weight.mul_(0.2)
    for z in ([3, 1, 2, 0], [1, 0]):
        given = model.given(torch.tensor([z]), torch.tensor([len(z)]))

        @cache
        def P(x: tuple[int, ...], given: Conditioned = given) -> np.ndarray:
            return given(torch.tensor([[BEGIN, *x]]), mask=Causal())[0, -1].softmax(-1).numpy()

        for alpha in (0.0, 0.6):
            penalty = beam.wu_penalty(alpha)
            lp = partial(length_penalty, alpha=alpha)
            best = best_of_all(P, EOS, VOCAB, 3, lp)
            for k in (1, 2, 4):
                slow = beam_search(P, EOS, 3, k, lp)
                fast = beam.beam_search(given, [BEGIN], beams=k, max_new_tokens=3, eos_id=EOS, length_penalty=penalty)
                assert [h.ids for h in fast] == [x for x, _ in slow]
                assert [h.score for h in fast] == pytest.approx([score for _, score in slow], abs=1e-5)
                assert all(score <= dict(best)[x] + 1e-9 for x, score in slow)
            widest = beam_search(P, EOS, 3, VOCAB**3, lp)
            assert widest[0][0] == best[0][0] and widest[0][1] == pytest.approx(best[0][1], abs=1e-12)


def test_many_searches_at_once_equal_each_alone() -> None:
    model = network()
    model.head.weight.mul_(0.2)
    sources = torch.tensor([[3, 1, 2, 0, 0], [1, 0, 0, 0, 0], [2, 2, 3, 3, 0]])
    lengths = torch.tensor([4, 2, 5])
    options = {"beams": 3, "max_new_tokens": 9, "eos_id": EOS, "length_penalty": beam.wu_penalty(0.6)}
    prompts = [[BEGIN], [BEGIN, 2, 1], [BEGIN]]
    together = beam.beam_searches(model.given(sources, lengths), prompts, **options)
    for row, prompt in enumerate(prompts):
        alone = beam.beam_search(model.given(sources[row : row + 1], lengths[row : row + 1]), prompt, **options)
        assert [h.ids for h in together[row]] == [h.ids for h in alone]
        assert [h.score for h in together[row]] == pytest.approx([h.score for h in alone], abs=1e-5)
    assert len({h.ids for found in together for h in found}) > 3
    with pytest.raises(ValueError, match="beams=0"):
        beam.beam_search(model.given(sources[:1], lengths[:1]), [BEGIN], beams=0, max_new_tokens=2, eos_id=EOS)


def test_length_penalties_are_the_papers() -> None:
    assert length_penalty(1, 0.6) == 1.0
    assert length_penalty(7, 0.6) == pytest.approx(2**0.6, rel=1e-12)
    for length in (1, 2, 30):
        assert beam.wu_penalty(0.6)(length) == pytest.approx(length_penalty(length, 0.6), rel=1e-12)
        assert beam.power_of_length(0.7)(length) == pytest.approx(math.exp(0.7 * math.log(length)), rel=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_label_smoothing_equals_torch_and_the_fast_one(epsilon: float) -> None:
    logits = torch.randn(7, dtype=torch.float64)
    slow = smoothed_cross_entropy(logits.softmax(0).numpy(), 3, epsilon)
    fast, gradient = slice_loss(logits[None], torch.tensor([3]), epsilon)
    expected = F.cross_entropy(logits[None], torch.tensor([3]), label_smoothing=epsilon)
    assert slow == pytest.approx(float(expected), rel=1e-12) and float(fast) == pytest.approx(slow, rel=1e-12)
    for i in range(7):
        moved = [logits.clone(), logits.clone()]
        moved[0][i] += 1e-6
        moved[1][i] -= 1e-6
        up, down = (smoothed_cross_entropy(m.softmax(0).numpy(), 3, epsilon) for m in moved)
        assert float(gradient[0, i]) == pytest.approx((up - down) / 2e-6, abs=1e-8)


def test_the_warm_up_is_equation_3_of_the_paper() -> None:
    d_model, warmup = 512, 4000
    config = OptimConfig(lr=d_model**-0.5 * warmup**-0.5, schedule="inverse_sqrt", warmup_steps=warmup)
    for step in (1, 2, 1000, 3999, 4000, 4001, 100_000):
        expected = warm_up(step, d_model, warmup)
        assert config.lr * lr_factor(step - 1, 100_000, config) == pytest.approx(expected, rel=1e-12)
    assert max(range(1, 9000), key=lambda step: warm_up(step, d_model, warmup)) == warmup


def test_finite_differences_agree_with_the_gradient_of_the_whole_network() -> None:
    model = network().requires_grad_(True)
    batch = Batch(
        x=torch.tensor([[BEGIN, 1, 3, EOS]]),
        sample_ids=torch.zeros(1, dtype=torch.long),
        cond=torch.tensor([[3, 1, 2, EOS, EOS]]),
        cond_lengths=torch.tensor([4]),
    )
    objective = Autoregressive(label_smoothing=0.1)
    objective.loss(model, batch, Rng(0)).total.backward()
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in model.parameters()]
        expected = sum(float((p.grad * d).sum()) for p, d in zip(model.parameters(), directions, strict=True))
        losses = []
        for step in (1e-6, -2e-6):
            for parameter, direction in zip(model.parameters(), directions, strict=True):
                parameter.data.add_(direction, alpha=step)
            losses.append(float(objective.loss(model, batch, Rng(0)).total.detach()))
        for parameter, direction in zip(model.parameters(), directions, strict=True):
            parameter.data.add_(direction, alpha=1e-6)
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(expected, rel=1e-5)


def test_a_given_source_matters() -> None:
    model = network()
    x = torch.tensor([[BEGIN, 1]])
    one = model.given(torch.tensor([[1, 0]]), torch.tensor([2]))(x, mask=Causal())
    two = model.given(torch.tensor([[2, 0]]), torch.tensor([2]))(x, mask=Causal())
    assert not torch.allclose(one, two, atol=1e-2)
