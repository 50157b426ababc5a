"""Masked language modelling: its forward process, its loss against brute force and the slow reference."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from diptych.core.random import Rng
from diptych.core.types import Batch
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.nn.masks import Full
from diptych.objectives.masked_lm import (
    MaskedLanguageModel,
    corrupt,
    mask_id_of,
    masked_language_model,
    ordinary_tokens,
    select,
)
from diptych.presets import PRESETS
from diptych.reference.decoder import Layer, gelu
from diptych.reference.encoder import Ends, encoder_transformer, hide_tokens, masked_loss
from diptych.tokenizers.simple import ByteTokenizer
from tests.reference.test_pre_norm import heads_of

VOCAB, MASK, EOS = 23, 22, 21
OBJECTIVE = MaskedLanguageModel(mask_id=MASK, ordinary=ordinary_tokens(VOCAB, [EOS, MASK]))


def encoder(**changes: object) -> LanguageModel:
    tiny = dataclasses.replace(PRESETS["bert-tiny"], vocab_size=VOCAB, d_model=16, n_layers=2, max_length=40)
    model = LanguageModel(dataclasses.replace(tiny, norm_eps=1e-5, **changes))
    model = model.double().eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 1.0, generator=generator)
    return model


def rows(*lengths: int, count: int = 3) -> Batch:
    """Random tokens; every row opens a document, and others at `lengths`."""
    x = torch.randint(EOS, (count, 31), generator=torch.Generator().manual_seed(1))
    for at in (0, *lengths):
        x[:, at] = EOS
    documents = (x == EOS).cumsum(1)
    columns = torch.arange(31).expand_as(x)
    starts = torch.where(x == EOS, columns, 0).cummax(1).values
    return Batch(x=x, sample_ids=torch.arange(5, 5 + count), documents=documents, positions=columns - starts)


def test_the_encoder_masking_and_loss_equal_the_slow_reference() -> None:
    model = encoder().requires_grad_(False)
    layers = []
    for block in model.blocks:
        modules = (block.attention.output, block.feed_forward.input, block.feed_forward.output)
        norms = (block.attention_norm, block.feed_forward_norm)
        rest = [p.numpy() for module in (*modules, *norms) for p in (module.weight, module.bias)]
        layers.append(Layer(heads_of(block.attention), *rest, gelu))
    head = model.head_transform
    parts = [p for m in (model.embedding_norm, head.dense, head.norm) for p in (m.weight, m.bias)]
    ends = Ends(
        model.position_embedding.weight.numpy().T,
        *(p.numpy() for p in parts),
        model.unembedding.numpy(),
        model.output_bias.numpy(),
    )
    x = torch.randint(EOS, (2, 31))
    x[:, 0] = EOS
    ids, rng, total, count = torch.tensor([4, 9]), Rng(7), 0.0, 0
    uniforms = [rng.uniform(purpose, ids, 30).tolist() for purpose in ("select", "kind", "token")]
    for row in range(2):
        tokens = x[row, :-1].tolist()
        chosen, kind, place = (u[row] for u in uniforms)
        drawn = [int(u * EOS) for u in place]
        seen, positions = hide_tokens(tokens, chosen, kind, drawn, MASK, [EOS, MASK])
        assert seen != tokens and positions
        P = encoder_transformer(seen, model.embedding.weight.numpy().T, layers, ends)
        np.testing.assert_allclose(
            model(torch.tensor([seen]), mask=Full())[0].softmax(-1).numpy().T, P, rtol=0, atol=1e-10
        )
        assert np.abs(P[:, 1:] - P[:, :-1]).max() > 0.1  # the comparison is not one of constants
        total, count = total + masked_loss(tokens, positions, P), count + len(positions)
    loss = OBJECTIVE.loss(model, Batch(x=x, sample_ids=ids), rng)
    assert loss.count == count
    assert float(loss.total) == pytest.approx(total, rel=1e-10)


def test_the_loss_equals_brute_force_over_positions() -> None:
    """Document by document, each run through the network alone, one position at a time."""
    model, batch, rng = encoder(), rows(11, 23), Rng(0)
    noisy, selected = OBJECTIVE.hide(batch.x[:, :-1], batch.sample_ids, rng)
    total = 0.0
    for row, at in selected.nonzero().tolist():
        same = (batch.documents[row, :-1] == batch.documents[row, at]).nonzero()[:, 0]
        logits = model(noisy[row, same][None], mask=Full())[0, at - int(same[0])].detach()
        total -= float(logits.log_softmax(-1)[batch.x[row, at]])
    loss = OBJECTIVE.loss(model, batch, rng)
    assert loss.count == int(selected.sum()) > 5
    assert float(loss.total.detach()) == pytest.approx(total, rel=1e-10)
    nats, guesses, tokens = OBJECTIVE.scores(model, batch, rng)
    assert float(nats.sum()) == pytest.approx(total, rel=1e-10)
    assert tokens.tolist() == batch.x[:, :-1][selected].tolist() and guesses.shape == tokens.shape
    with torch.no_grad():
        assert float(OBJECTIVE.loss(model, batch, rng).total) == pytest.approx(total, rel=1e-10)


def test_shares_are_those_of_the_paper() -> None:
    """Binomial bounds of 5 standard deviations: wrong by chance once in a million, and off by a tenth is seen."""
    x = torch.randint(EOS, (2000, 500), generator=torch.Generator().manual_seed(0))
    x[:, ::50] = EOS
    noisy, selected = OBJECTIVE.hide(x, torch.arange(2000), Rng(1))

    def close(found: int, of: int, share: float) -> bool:
        deviation = math.sqrt(of * share * (1 - share))
        assert 5 * deviation < 0.05 * of * share  # the power that is claimed
        return abs(found - of * share) < 5 * deviation

    ordinary = int((x != EOS).sum())
    n = int(selected.sum())
    assert close(n, ordinary, 0.15)
    assert not selected[x == EOS].any() and (noisy[~selected] == x[~selected]).all()
    hidden, changed = noisy[selected] == MASK, noisy[selected] != x[selected]
    assert close(int(hidden.sum()), n, 0.8)
    replaced = noisy[selected][changed & ~hidden]
    assert close(len(replaced), n, 0.1 * 20 / 21)  # one in 21 draws is the token itself
    counts = torch.bincount(replaced, minlength=VOCAB)
    assert counts[EOS] == counts[MASK] == 0
    expected = len(replaced) / EOS
    chi_square = float(((counts[:EOS] - expected) ** 2 / expected).sum())
    assert chi_square < 52.4  # 20 degrees of freedom, one in ten thousand


def test_positions_of_one_row_are_independent_of_each_other() -> None:
    """Neighbours are selected together as often as apart positions are: 0.15^2 of the time."""
    x = torch.zeros(1000, 500, dtype=torch.long)
    _, selected = OBJECTIVE.hide(x, torch.arange(1000), Rng(2))
    for lag in (1, 2, 7):
        both = int((selected[:, lag:] & selected[:, :-lag]).sum())
        n, p = 1000 * (500 - lag), 0.15**2
        assert abs(both - n * p) < 5 * math.sqrt(n * p * (1 + 2 * 0.15))


def test_a_row_does_not_depend_on_the_others_but_noise_does_on_seed_and_row() -> None:
    model, batch = encoder(), rows(11)
    whole = OBJECTIVE.loss(model, batch, Rng(3))
    parts = [OBJECTIVE.loss(model, batch.rows(i, i + 1), Rng(3)) for i in range(3)]
    assert float(whole.total.detach()) == pytest.approx(sum(float(p.total.detach()) for p in parts), rel=1e-12)
    assert whole.count == sum(p.count for p in parts)
    x = batch.x[:1].expand(2, -1)
    first, _ = OBJECTIVE.hide(x, torch.tensor([0, 1]), Rng(3))
    again, _ = OBJECTIVE.hide(x, torch.tensor([0, 1]), Rng(3).fold("step", 1))
    assert (first[0] != first[1]).any() and (first != again).any()


def test_a_row_has_a_masked_token_wherever_it_can_and_none_breaks_nothing() -> None:
    _, selected = OBJECTIVE.hide(torch.zeros(500, 3, dtype=torch.long), torch.arange(500), Rng(0))
    assert selected.any(1).all() and 1 < selected.sum(1).double().mean() < 1.3
    model = encoder()
    nothing = Batch(x=torch.full((2, 9), EOS), sample_ids=torch.arange(2))
    loss = OBJECTIVE.loss(model, nothing, Rng(0))
    loss.total.backward()
    assert loss.count == 0 and float(loss.total.detach()) == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_a_subset_is_hidden_at_any_share_of_a_row() -> None:
    """The two pure steps by themselves, as a diffusion over masks needs them: a share of its own for each row."""
    x = torch.arange(4000).view(2, 2000)
    uniform = Rng(0).uniform("select", torch.arange(2), 2000)
    selected = select(torch.ones_like(x, dtype=torch.bool), uniform, torch.tensor([[0.0], [0.7]]))
    assert not selected[0].any() and abs(int(selected[1].sum()) - 1400) < 5 * math.sqrt(2000 * 0.21)
    noisy = corrupt(x, selected, uniform, x, mask_id=-1)
    assert (noisy[selected] == -1).all() and (noisy[~selected] == x[~selected]).all()


def test_gradients_reach_every_parameter() -> None:
    model = encoder()
    initialize(model, torch.Generator().manual_seed(0))
    OBJECTIVE.loss(model, rows(), Rng(0)).total.backward()
    assert all(p.grad is not None and p.grad.any() for name, p in model.named_parameters() if "input.bias" not in name)


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="no bits per byte"):
        OBJECTIVE.likelihood(encoder(), rows(), Rng(0))
    with pytest.raises(ValueError, match="no mask token"):
        mask_id_of(ByteTokenizer())
    assert mask_id_of(ByteTokenizer(("<spare>",)), "<spare>") == 257
    with pytest.raises(ValueError, match="'<none>' is no special token of the tokenizer"):
        mask_id_of(ByteTokenizer(("<|mask|>",)), "<none>")
    with pytest.raises(ValueError, match="share=0"):
        dataclasses.replace(OBJECTIVE, share=0.0)
    with pytest.raises(ValueError, match="no shares of a whole"):
        dataclasses.replace(OBJECTIVE, masked=0.95)
    objective = masked_language_model(ByteTokenizer(["<|mask|>"]))
    assert objective.mask_id == 257 and int(objective.ordinary.sum()) == 256
