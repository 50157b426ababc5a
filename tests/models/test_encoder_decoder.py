"""The encoder-decoder equals torch's own on copied weights; caches, neighbours and padding change nothing."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from diptych.core.config import TransformerConfig
from diptych.core.random import Rng
from diptych.core.types import Batch, ConditionalPredictor, TokenPredictor
from diptych.models.cost import parameters_by_part
from diptych.models.encoder_decoder import EncoderDecoder, cross_attention_weights
from diptych.models.network import build_network, initialize
from diptych.nn.masks import Causal
from diptych.objectives.autoregressive import Autoregressive
from diptych.presets import PRESETS
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest

VOCAB, EOS = 31, 0

VANILLA = TransformerConfig(
    vocab_size=VOCAB,
    d_model=32,
    n_layers=3,
    n_encoder_layers=2,
    n_heads=4,
    d_ff=48,
    max_length=40,
    norm="layer",
    norm_placement="post",
    position="sinusoidal",
    feed_forward="relu",
    bias=True,
    embedding_scale=True,
)

KINDS = {
    "vanilla": VANILLA,
    "marian": dataclasses.replace(VANILLA, position="sinusoidal_halves", output_bias=True, feed_forward="silu"),
    "bart": dataclasses.replace(VANILLA, position="learned", embedding_norm=True, tied_embedding=False),
    "llama-like": dataclasses.replace(
        VANILLA, position="rope", norm="rms", norm_placement="pre", n_kv_heads=2, feed_forward="swiglu", qk_norm=True
    ),
}


def make(config: TransformerConfig = VANILLA) -> EncoderDecoder:
    model = build_network(config)
    assert isinstance(model, EncoderDecoder)
    generator = torch.Generator().manual_seed(0)
    initialize(model, generator)
    with torch.no_grad():  # norms and biases that are not ones and zeros
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


def example(rows: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(VOCAB, (rows, 9), generator=generator)
    return source, torch.tensor([9, 4, 6, 1][:rows]), torch.randint(VOCAB, (rows, 7), generator=generator)


def copied(ours: EncoderDecoder) -> torch.nn.Transformer:
    """torch's transformer with our weights. Its last normalizations do nothing where ours has none."""
    config = ours.config
    theirs = torch.nn.Transformer(
        config.d_model,
        config.n_heads,
        config.n_encoder_layers,
        config.n_layers,
        config.d_ff,
        dropout=0.0,
        norm_first=config.norm_placement == "pre",
        batch_first=True,
    )
    if config.norm_placement == "post":
        theirs.encoder.norm = theirs.decoder.norm = None
    parts = {"self_attn.in_proj_": "attention.input.", "self_attn.out_proj.": "attention.output."}
    parts |= {
        "multihead_attn.in_proj_": "cross_attention.input.",
        "multihead_attn.out_proj.": "cross_attention.output.",
    }
    parts |= {"linear1.": "feed_forward.input.", "linear2.": "feed_forward.output."}
    norms = {"encoder": ("attention_norm.", "feed_forward_norm.")}
    norms["decoder"] = ("attention_norm.", "cross_norm.", "feed_forward_norm.")
    state, mine = {}, ours.state_dict()
    for name in theirs.state_dict():
        side, _, rest = name.partition(".")
        if rest.startswith("norm."):
            state[name] = mine[{"encoder": "encoder_", "decoder": "final_"}[side] + rest]
            continue
        _, number, inner = rest.split(".", 2)
        for part, own in (parts | {f"norm{i + 1}.": n for i, n in enumerate(norms[side])}).items():
            inner = inner.replace(part, own) if inner.startswith(part) else inner
        state[name] = mine[f"{'encoder' if side == 'encoder' else 'blocks'}.{number}.{inner}"]
    theirs.load_state_dict(state)
    return theirs.double().eval()


@pytest.mark.parametrize("placement", ["post", "pre"])
def test_it_equals_torch_on_copied_weights(placement: str) -> None:
    ours = make(dataclasses.replace(VANILLA, norm_placement=placement))
    theirs = copied(ours)
    source, lengths, x = example()
    embed = lambda t: F.embedding(t, ours.embedding.weight) * 32**0.5 + ours.sinusoids[: t.shape[1]]  # noqa: E731
    padding = torch.arange(9) >= lengths[:, None]
    states = theirs(
        embed(source),
        embed(x),
        tgt_mask=torch.nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64),
        src_key_padding_mask=torch.zeros(3, 9, dtype=torch.float64).masked_fill(padding, float("-inf")),
        memory_key_padding_mask=torch.zeros(3, 9, dtype=torch.float64).masked_fill(padding, float("-inf")),
    )
    expected = states @ ours.embedding.weight.T
    torch.testing.assert_close(ours(source, lengths, x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_neighbours_change_nothing(kind: str) -> None:
    model = make(KINDS[kind])
    source, lengths, x = example()
    together = model(source, lengths, x)
    changed = source.clone()
    changed[1, 4:] = 5
    torch.testing.assert_close(model(changed, lengths, x)[1], together[1], rtol=0, atol=1e-12)
    for row, length in enumerate(lengths.tolist()):
        alone = model(source[row : row + 1, :length], lengths[row : row + 1], x[row : row + 1])
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-12)
    changed[1, 3] = (source[1, 3] + 1) % VOCAB
    assert not torch.allclose(model(changed, lengths, x)[1], together[1], atol=1e-3), "the source is read"


@pytest.mark.parametrize("kind", KINDS)
def test_the_future_does_not_move_the_past(kind: str) -> None:
    model = make(KINDS[kind])
    source, lengths, x = example()
    changed = x.clone()
    changed[:, 4:] = (x[:, 4:] + 3) % VOCAB
    before, after = model(source, lengths, x), model(source, lengths, changed)
    torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, 4:], after[:, 4:], atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_equals_uncached_and_select_takes_the_source_along(kind: str) -> None:
    model = make(KINDS[kind])
    source, lengths, x = example()
    given = model.given(source, lengths)
    assert isinstance(model, ConditionalPredictor) and isinstance(given, TokenPredictor)
    whole = given(x, mask=Causal())
    cache = given.new_cache(3, 7)
    parts = [given(x[:, :3], mask=Causal(), cache=cache)]
    rows = torch.tensor([2, 0, 0, 1])
    cache.select(rows)
    for t in range(3, 7):
        parts.append(given(x[rows, t : t + 1], mask=Causal(), cache=cache))
    torch.testing.assert_close(parts[0], whole[:, :3], rtol=0, atol=1e-12)
    torch.testing.assert_close(torch.cat(parts[1:], 1), whole[rows, 3:], rtol=0, atol=1e-12)


def test_both_sides_take_masks_and_hide_what_those_hide() -> None:
    """Encoder and decoder of one layer each: a source token beyond all windows that lead to a target token."""
    config = dataclasses.replace(VANILLA, n_layers=1, n_encoder_layers=1, mask=("window(2, 1) | sinks(1)",))
    model = make(config)
    source, lengths, x = example()
    before, states = model(source, lengths, x), model.encode(source, lengths)
    changed = source.clone()
    changed[:, 1] = (changed[:, 1] + 1) % config.vocab_size
    moved = (model.encode(changed, lengths) != states).any(-1)
    assert moved[:, :3].all() and not moved[:, 3:].any(), "seen one behind, itself, and one ahead"
    target = x.clone()
    target[:, 1] = (target[:, 1] + 1) % config.vocab_size
    moved = (model(source, lengths, target) != before).any(-1)
    assert not moved[:, 0].any() and moved[:, 1:3].all() and not moved[:, 3:].any()
    given = model.given(source, lengths)
    cache = given.new_cache(3, x.shape[1])
    parts = [given(x[:, t : t + 1], mask=Causal(), cache=cache) for t in range(x.shape[1])]
    torch.testing.assert_close(torch.cat(parts, dim=1), before, rtol=0, atol=1e-12)


def test_generation_of_a_row_does_not_depend_on_its_batch() -> None:
    model = make()
    source, lengths, _ = example()

    def greedy(rows: slice) -> list[list[int]]:
        count = len(lengths[rows])
        request = GenerationRequest(prompts=[[EOS]] * count, max_new_tokens=8, eos_id=EOS)
        width = int(lengths[rows].max())
        given = model.given(source[rows, :width], lengths[rows])
        frames = AutoregressiveSampler(temperature=0.0).sample(given, request, Rng(0))
        drawn = torch.stack([frame.state for frame in frames], 1).tolist()
        return [row[: row.index(EOS)] if EOS in row else row for row in drawn]

    together = greedy(slice(0, 3))
    assert together == [greedy(slice(i, i + 1))[0] for i in range(3)]
    assert len(set(map(tuple, together))) > 1


def test_one_source_serves_many_rows_but_several_must_fit() -> None:
    model = make()
    source, lengths, x = example()
    one = model.given(source[1:2], lengths[1:2])
    torch.testing.assert_close(
        one(x, mask=Causal(), cache=one.new_cache(3, 7)),
        model(source[[1, 1, 1]], lengths[[1, 1, 1]], x),
        rtol=0,
        atol=1e-12,
    )
    with pytest.raises(ValueError, match="3 sources do not fit 2"):
        model.given(source, lengths).new_cache(2, 7)


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_activations_give_the_same_gradients_and_every_parameter_learns(kind: str) -> None:
    model = make(KINDS[kind]).train()
    source, lengths, x = example()
    gradients = []
    for recompute in (False, True):
        model.checkpoint_activations = recompute
        model.zero_grad()
        model(source, lengths, x).square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-9, atol=1e-12)
        assert gradient.abs().sum() > 0, name


def test_the_smoothed_loss_and_its_gradients_equal_torchs() -> None:
    model = make()
    source, lengths, x = example()
    counted = torch.arange(6) < torch.tensor([[6], [2], [4]])
    batch = Batch(x=x, sample_ids=torch.arange(3), counted=counted, cond=source, cond_lengths=lengths)
    loss = Autoregressive(label_smoothing=0.1).loss(model, batch, Rng(0))
    loss.total.backward()
    got = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    logits = model(source, lengths, x[:, :-1])[counted]
    expected = F.cross_entropy(logits, x[:, 1:][counted], reduction="sum", label_smoothing=0.1)
    expected.backward()
    assert loss.count == 12
    torch.testing.assert_close(loss.total, expected, rtol=1e-12, atol=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(got[name], parameter.grad, rtol=1e-9, atol=1e-11)
    likelihood = Autoregressive(label_smoothing=0.1).likelihood(model, batch, Rng(0))
    unsmoothed = F.cross_entropy(logits, x[:, 1:][counted], reduction="sum")
    assert float(likelihood.nats.sum()) == pytest.approx(float(unsmoothed), rel=1e-12)


def test_attention_weights_are_those_of_torch() -> None:
    model = make()
    theirs = copied(model)
    source, _, x = example(1)
    found = cross_attention_weights(model, source[0], x[0])
    assert found.shape == (3, 4, 7, 9)
    embed = lambda t: F.embedding(t, model.embedding.weight) * 32**0.5 + model.sinusoids[: t.shape[1]]  # noqa: E731
    memory, h = theirs.encoder(embed(source)), embed(x)
    mask = torch.nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
    for layer, weights in zip(theirs.decoder.layers, found, strict=True):
        middle = layer.norm1(h + layer.self_attn(h, h, h, attn_mask=mask, need_weights=False)[0])
        _, expected = layer.multihead_attn(middle, memory, memory, average_attn_weights=False)
        torch.testing.assert_close(weights, expected[0], rtol=0, atol=1e-10)
        h = layer(h, memory, tgt_mask=mask)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_are_counted_before_they_exist(kind: str) -> None:
    counted = sum(parameters_by_part(KINDS[kind]).values())
    assert counted == sum(p.numel() for p in build_network(KINDS[kind]).parameters())


def test_the_paper_s_base_model_has_its_size() -> None:
    config = dataclasses.replace(PRESETS["vanilla-2017"], vocab_size=37_000)
    assert sum(parameters_by_part(config).values()) == pytest.approx(65e6, rel=0.05)  # table 3


def test_what_does_not_fit_is_refused() -> None:
    model = make()
    source, lengths, x = example()
    long = torch.zeros(1, 41, dtype=torch.long)
    with pytest.raises(ValueError, match="41 tokens are more than the 40"):
        model.encode(long, torch.tensor([41]))
    with pytest.raises(ValueError, match="41 tokens are more than the 40"):
        model(source[:1], lengths[:1], long)
    given = model.given(source, lengths)
    with pytest.raises(ValueError, match="its cache holds 5"):
        given(x, mask=Causal(), cache=given.new_cache(3, 5))
