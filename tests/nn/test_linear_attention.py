"""Kernel attention and the gated delta rule, in chunks, against their recurrences, and what may not be seen."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diptych.core.config import TransformerConfig
from diptych.nn import delta_rule
from diptych.nn.delta_rule import GatedDeltaAttention, gated_delta_rule
from diptych.nn.linear_attention import LinearAttention, kernel_attention
from diptych.nn.mixer import LayerState, Passage, Recurrence
from diptych.nn.positions import rope_frequencies, rotate, rotation
from diptych.nn.short_convolution import ShortConvolution
from diptych.reference import linear_attention as reference

CLOSE = {"atol": 1e-10, "rtol": 1e-10}
LENGTHS = (1, 2, 15, 32, 33, 64, 65, 150)
"""Below, at and above chunks."""

CONFIG = TransformerConfig(d_model=24, n_heads=4, n_kv_heads=2, d_head=6)
LAYERS = (LinearAttention, GatedDeltaAttention)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def passage_of(kind: str, t: int) -> Passage:
    """Two rows: whole, cut into documents (some of one position), or the second one padded."""
    match kind:
        case "whole":
            return Passage()
        case "documents":
            cuts = torch.rand(2, t, generator=torch.Generator().manual_seed(t)) < 0.15
            return Passage(documents=cuts.long().cumsum(1) % 3)
        case _:
            return Passage(lengths=torch.tensor([t, max(1, t - 3)]))


def steps(t: int, *, d: int = 6, e: int = 5) -> dict[str, torch.Tensor]:
    """Inputs of the delta rule for two rows of four query heads and two key-value heads, all with gradients."""
    given = {
        "query": F.normalize(normal(2, t, 4, d, seed=1), dim=-1),
        "key": F.normalize(normal(2, t, 2, d, seed=2), dim=-1),
        "value": normal(2, t, 2, e, seed=3),
        "strength": torch.sigmoid(normal(2, t, 2, seed=4)),
        "log_decay": -F.softplus(normal(2, t, 2, seed=5)),
        "state": normal(2, 2, d, e, seed=6),
    }
    return {name: tensor.requires_grad_() for name, tensor in given.items()}


def stretches(passage: Passage, row: int, t: int) -> list[tuple[int, int]]:
    """The documents of a row as (start, end), padding left out."""
    end = t if passage.lengths is None else int(passage.lengths[row])
    if passage.documents is None:
        return [(0, end)]
    ids = passage.documents[row]
    starts = [0, *(i for i in range(1, end) if ids[i] != ids[i - 1]), end]
    return list(pairwise(starts))


def sequential_delta(passage: Passage, given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The recurrence in torch, one position at a time, so that it has gradients."""
    query, key, value, state = given["query"], given["key"], given["value"], given["state"]
    out = torch.zeros(*query.shape[:3], value.shape[-1], dtype=query.dtype)
    last = torch.zeros_like(state)
    for row in range(2):
        for g in range(2):
            memory = state[row, g]
            for start, end in stretches(passage, row, query.shape[1]):
                memory = memory if start == 0 else torch.zeros_like(memory)
                for t in range(start, end):
                    k, beta = key[row, t, g], given["strength"][row, t, g]
                    kept = given["log_decay"][row, t, g].exp() * (memory - beta * torch.outer(k, k @ memory))
                    memory = kept + beta * torch.outer(k, value[row, t, g])
                    out[row, t, 2 * g : 2 * g + 2] = query[row, t, 2 * g : 2 * g + 2] @ memory
            last[row, g] = memory
    return out, last


def valid_part(out: torch.Tensor, passage: Passage) -> torch.Tensor:
    valid = passage.valid(out[..., 0])
    return out if valid is None else out * valid[:, :, None, None]


def gradients(outputs: tuple[torch.Tensor, ...], inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    total = sum((normal(*out.shape, seed=9 + i) * out).sum() for i, out in enumerate(outputs))
    assert isinstance(total, torch.Tensor)
    return torch.autograd.grad(total, inputs, materialize_grads=True)


@pytest.mark.parametrize("kind", ["whole", "documents", "padded"])
@pytest.mark.parametrize("t", LENGTHS)
def test_the_delta_rule_in_chunks_is_its_recurrence_with_all_gradients(t: int, kind: str) -> None:
    given, passage = steps(t), passage_of(kind, t)
    read = given["query"], given["key"], given["value"], passage
    rates = {name: given[name] for name in ("strength", "log_decay", "state")}
    out, last = gated_delta_rule(*read, **rates)
    ours = valid_part(out, passage), last
    theirs = sequential_delta(passage, given)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    inputs = list(given.values())
    torch.testing.assert_close(gradients(ours, inputs), gradients(theirs, inputs), **CLOSE)


@pytest.mark.parametrize("length", [2, 32, 64])
def test_chunks_of_every_length_give_the_same(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given, passage = steps(150), passage_of("documents", 150)
    read, inputs = (given["query"], given["key"], given["value"], passage), list(given.values())
    rates = {name: given[name] for name in ("strength", "log_decay", "state")}
    usual = gated_delta_rule(*read, **rates)
    monkeypatch.setattr(delta_rule, "_longest_chunk", lambda _: length)
    ours = gated_delta_rule(*read, **rates)
    torch.testing.assert_close(ours, usual, **CLOSE)
    torch.testing.assert_close(gradients(ours, inputs), gradients(usual, inputs), **CLOSE)


def test_chunks_are_about_half_as_long_as_a_head_is_wide() -> None:
    lengths = [delta_rule._longest_chunk(torch.zeros(d)) for d in (1, 32, 64, 80, 128, 512)]
    assert lengths == [16, 16, 32, 32, 64, 64]


def test_both_are_the_recurrences_of_the_papers() -> None:
    t, d = 70, 6
    given = {name: tensor.detach() for name, tensor in steps(t).items()}
    out, last = gated_delta_rule(
        given["query"], given["key"], given["value"], Passage(), **{n: given[n] for n in list(given)[3:]}
    )
    summed, _ = kernel_attention(given["query"], given["key"], given["value"], Passage())
    turn = rotation(torch.arange(t)[None], rope_frequencies(d, 100.0, None), torch.float64)
    turned, _ = kernel_attention(given["query"], given["key"], given["value"], Passage(), rotation=turn)
    both, _ = kernel_attention(given["query"], given["key"], given["value"], Passage(causal=False))
    matrices = rotate(torch.eye(d, dtype=torch.float64).expand(1, t, d, d), turn)[0].transpose(1, 2).numpy()
    array = {name: tensor[0].numpy() for name, tensor in given.items()}
    causal, full = np.triu(np.ones((t, t), dtype=bool)), np.ones((t, t), dtype=bool)
    for head in range(4):
        g = head // 2
        q, k, v = array["query"][:, head].T, array["key"][:, g].T, array["value"][:, g].T
        rates = np.exp(array["log_decay"][:, g]), array["strength"][:, g]
        expected, memory = reference.gated_delta_rule(q, k, v, *rates, array["state"][g].T)
        np.testing.assert_allclose(out[0, :, head].T, expected, atol=1e-10)
        np.testing.assert_allclose(last[0, g].T, memory, atol=1e-10)
        weighed = reference.kernel_attention(q, k, v, causal)
        np.testing.assert_allclose(reference.recurrent_kernel_attention(q, k, v), weighed, atol=1e-12)
        np.testing.assert_allclose(summed[0, :, head].T, weighed, atol=1e-10)
        np.testing.assert_allclose(both[0, :, head].T, reference.kernel_attention(q, k, v, full), atol=1e-10)
        expected = reference.rotated_kernel_attention(q, k, v, matrices, causal)
        np.testing.assert_allclose(turned[0, :, head].T, expected, atol=1e-10)


def by_weights(
    passage: Passage, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, turn: Any
) -> torch.Tensor:
    """The quadratic formula."""
    t = query.shape[1]
    features = [F.elu(x) + 1 for x in (query, key.repeat_interleave(2, 2))]
    seen = torch.zeros(2, t, t, dtype=torch.bool)
    for row in range(2):
        for start, end in stretches(passage, row, t):
            seen[row, start:end, start:end] = True
        seen[row, range(t), range(t)] = True  # padding has to divide by something
    seen = seen.tril() if passage.causal else seen
    below = torch.einsum("bqhd,bkhd->bhqk", *features) * seen[:, None]
    above = below
    if turn is not None:
        above = torch.einsum("bqhd,bkhd->bhqk", *(rotate(x, turn) for x in features)) * seen[:, None]
    return torch.einsum("bhqk,bkhd->bqhd", above / below.sum(-1, keepdim=True), value.repeat_interleave(2, 2))


@pytest.mark.parametrize("kind", ["whole", "documents", "padded"])
@pytest.mark.parametrize(("causal", "rotary"), [(True, False), (True, True), (False, True)])
@pytest.mark.parametrize("t", LENGTHS)
def test_kernel_attention_in_chunks_is_its_formula_with_all_gradients(
    t: int, causal: bool, rotary: bool, kind: str
) -> None:
    query, key, value = (normal(2, t, h, 6, seed=h).requires_grad_() for h in (4, 2, 2))
    turn = rotation(torch.arange(t)[None], rope_frequencies(6, 100.0, None), torch.float64) if rotary else None
    passage = replace(passage_of(kind, t), causal=causal)
    out, state = kernel_attention(query, key, value, passage, rotation=turn)
    assert (state is not None) == causal
    ours, theirs = (valid_part(x, passage) for x in (out, by_weights(passage, query, key, value, turn)))
    torch.testing.assert_close(ours, theirs, **CLOSE)
    inputs = [query, key, value]
    torch.testing.assert_close(gradients((ours,), inputs), gradients((theirs,), inputs), **CLOSE)


def test_kernel_attention_goes_on_from_its_sums_with_all_gradients() -> None:
    query, key, value = (normal(2, 150, h, 6, seed=h).requires_grad_() for h in (4, 2, 2))
    whole, end = kernel_attention(query, key, value, Passage())
    state, parts = None, []
    for start, stop in ((0, 1), (1, 70), (70, 150)):
        part = (x[:, start:stop] for x in (query, key, value))
        out, state = kernel_attention(*part, Passage(), state=state)
        parts.append(out)
    assert state is not None and end is not None
    ours, theirs = (torch.cat(parts, 1), *state), (whole, *end)
    torch.testing.assert_close(ours, theirs, **CLOSE)
    inputs = [query, key, value]
    torch.testing.assert_close(gradients(ours, inputs), gradients(theirs, inputs), **CLOSE)


def test_the_delta_rule_equals_qwen3_nexts() -> None:
    theirs = pytest.importorskip("transformers.models.qwen3_next.modeling_qwen3_next")
    given = {name: tensor.detach().float() for name, tensor in steps(100).items()}
    rates = {name: given[name] for name in ("strength", "log_decay", "state")}
    out, last = gated_delta_rule(given["query"], given["key"], given["value"], Passage(), **rates)
    for rule in (theirs.torch_chunk_gated_delta_rule, theirs.torch_recurrent_gated_delta_rule):
        for share in range(2):  # their query heads are as many as their keys'
            expected, memory = rule(
                given["query"][:, :, share::2] * 6**0.5,
                given["key"],
                given["value"],
                g=given["log_decay"],
                beta=given["strength"],
                initial_state=given["state"],
                output_final_state=True,
            )
            torch.testing.assert_close(out[:, :, share::2], expected, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(last, memory, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neither_instant_forgetting_nor_none_breaks_the_sums(dtype: torch.dtype) -> None:
    t = 100
    given = {name: tensor.detach().to(dtype) for name, tensor in steps(t).items()}
    decay = torch.zeros(2, t, 2, dtype=dtype)
    decay[:, ::7], decay[1, 40:60] = -1e4, -1e4
    given["log_decay"] = decay
    given = {name: tensor.requires_grad_() for name, tensor in given.items()}
    read = given["query"], given["key"], given["value"], Passage()
    ours = gated_delta_rule(*read, **{name: given[name] for name in ("strength", "log_decay", "state")})
    close = {"atol": 2e-4, "rtol": 2e-4} if dtype == torch.float32 else CLOSE
    theirs = sequential_delta(Passage(), given)
    torch.testing.assert_close(ours, theirs, **close)
    inputs = list(given.values())
    torch.testing.assert_close(gradients(ours, inputs), gradients(theirs, inputs), **close)


def test_one_key_written_again_and_again_does_not_blow_up() -> None:
    key = F.normalize(torch.ones(1, 128, 1, 128), dim=-1)
    value = normal(1, 128, 1, 128, seed=0, dtype=torch.float32)
    full, never = torch.ones(1, 128, 1), torch.zeros(1, 128, 1)
    out, _ = gated_delta_rule(key, key, value, Passage(), strength=full, log_decay=never)
    torch.testing.assert_close(out, value, atol=1e-5, rtol=1e-5)  # each value takes the place of the one before


def test_gradients_of_a_short_passage_are_finite_differences() -> None:
    given = {name: tensor.detach()[:1] for name, tensor in steps(3, d=2, e=1).items()}
    passage = Passage(documents=torch.tensor([[0, 0, 1]]))

    def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        query, key, value, strength, log_decay, state = tensors
        rates = {"strength": strength, "log_decay": log_decay, "state": state}
        return gated_delta_rule(query, key, value, passage, **rates)

    assert torch.autograd.gradcheck(run, [tensor.clone().requires_grad_() for tensor in given.values()])


def layer_of(kind: type, config: TransformerConfig = CONFIG, dtype: torch.dtype = torch.float64) -> Any:
    layer = kind(config)
    for index, parameter in enumerate(layer.parameters()):
        parameter.data = normal(*parameter.shape, seed=index) * 0.5
    layer.start(torch.Generator().manual_seed(1))
    assert isinstance(layer, Recurrence)
    return layer.to(dtype)


def turn_of(t: int, start: int | torch.Tensor = 0) -> Any:
    first = start[:, None] if isinstance(start, torch.Tensor) else start
    positions = (first + torch.arange(t)).view(-1, t)
    return rotation(positions, rope_frequencies(6, 100.0, None), torch.float64)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_sees_no_future_no_other_document_and_no_padding(kind: type) -> None:
    layer, t, at = layer_of(kind), 100, 47
    x = normal(2, t, 24, seed=0)
    documents = torch.tensor([[0] * at + [1] * (t - at), [2] * 10 + [5] * 37 + [2] * (t - 47)])
    lengths = torch.tensor([at, 80])

    def moved(passage: Passage, rows: int, part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        other = x.clone()
        other[rows, part] += 3 * normal(2, t, 24, seed=1)[rows, part]
        with torch.no_grad():
            return layer(x, passage, turn_of(t)), layer(other, passage, turn_of(t))

    before, after = moved(Passage(), 0, slice(at, None))
    assert torch.equal(before[0, :at], after[0, :at]) and torch.equal(before[1], after[1])
    assert (before[0, at:] != after[0, at:]).any(-1).all()
    before, after = moved(Passage(documents=documents), 0, slice(0, at))
    assert torch.equal(before[0, at:], after[0, at:]) and not torch.equal(before[0, :at], after[0, :at])
    before, after = moved(Passage(documents=documents), 1, slice(0, 10))
    assert torch.equal(before[1, 10:], after[1, 10:])
    before, after = moved(Passage(lengths=lengths), 0, slice(at, None))
    assert torch.equal(before[0, :at], after[0, :at])
    if kind is LinearAttention:
        before, after = moved(Passage(causal=False, documents=documents), 0, slice(0, at))
        assert torch.equal(before[0, at:], after[0, at:])
        before, after = moved(Passage(causal=False, lengths=lengths), 0, slice(at, None))
        assert torch.equal(before[0, :at], after[0, :at])
        before, after = moved(Passage(causal=False), 0, slice(at, None))
        assert (before[0] != after[0]).any(-1).all()


@pytest.mark.parametrize("kind", LAYERS)
def test_token_by_token_is_the_whole_and_takes_constant_memory(kind: type) -> None:
    layer, t = layer_of(kind), 75
    x, cache, sizes, parts = normal(2, t, 24, seed=0), LayerState(), set(), []
    for start, stop in ((0, 1), (1, 40), *((i, i + 1) for i in range(40, t))):
        part = x[:, start:stop]
        parts.append(layer(part, Passage(offset=start), turn_of(stop - start, start), cache))
        sizes.add(cache.n_bytes)
    torch.testing.assert_close(torch.cat(parts, 1), layer(x, Passage(), turn_of(t)), **CLOSE)
    assert len(sizes) == 1


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("shortest", [1, 2, 33])
def test_a_padded_prefill_leaves_the_state_of_each_row_alone(kind: type, shortest: int) -> None:
    layer, t = layer_of(kind), 70
    x, following, lengths = normal(2, t, 24, seed=0), normal(2, 3, 24, seed=1), torch.tensor([t, shortest])
    cache, noisy = LayerState(), LayerState()
    layer(x, Passage(lengths=lengths), turn_of(t), cache)
    other = x.clone()
    other[1, shortest:] = 7.0
    layer(other, Passage(lengths=lengths), turn_of(t), noisy)
    assert cache.value is not None and noisy.value is not None
    assert all(torch.equal(a, b) for a, b in zip(cache.value, noisy.value, strict=True))
    out = layer(following, Passage(offset=lengths), turn_of(3, lengths), cache)
    for row, length in enumerate(lengths.tolist()):
        whole = torch.cat((x[row : row + 1, :length], following[row : row + 1]), dim=1)
        expected = layer(whole, Passage(), turn_of(length + 3))[:, length:]
        torch.testing.assert_close(out[row : row + 1], expected, **CLOSE)


def test_a_short_convolution_is_torchs_within_each_document() -> None:
    layer = ShortConvolution(5).double()
    layer.start(torch.Generator().manual_seed(0))
    theirs = torch.nn.Conv1d(5, 5, 4, groups=5, padding=3, bias=False).double()
    theirs.weight.data = layer.weight.data
    x, documents = normal(2, 30, 5, seed=0), passage_of("documents", 30)
    y, _ = layer(x, documents)
    for row in range(2):
        for start, end in stretches(documents, row, 30):
            expected = theirs(x[row, start:end].T)[:, : end - start].T
            torch.testing.assert_close(y[row, start:end], expected, **CLOSE)
    _, before = layer(x, documents)
    following = normal(2, 2, 5, seed=1)
    goes_on, _ = layer(following, Passage(), before)
    for row in range(2):
        start, end = stretches(documents, row, 30)[-1]
        expected = theirs(torch.cat((x[row, start:end], following[row])).T)[:, end - start : end - start + 2].T
        torch.testing.assert_close(goes_on[row], expected, **CLOSE)


@pytest.mark.parametrize("kind", LAYERS)
def test_under_autocast_what_a_layer_remembers_stays_float32(kind: type) -> None:
    layer = layer_of(kind, dtype=torch.float32)
    x, cache = normal(2, 90, 24, seed=0, dtype=torch.float32), LayerState()
    cosines, sines = turn_of(90)
    exact = layer(x, Passage(), (cosines.float(), sines.float()))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x, Passage(), (cosines.bfloat16(), sines.bfloat16()), cache)
    assert out.dtype == torch.bfloat16 and cache.value is not None and cache.value[0].dtype == torch.float32
    assert (out - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_is_made_without_memory_for_its_weights(kind: type) -> None:
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in kind(CONFIG).parameters())


def test_gated_delta_layers_start_with_the_decays_of_mamba() -> None:
    layer = layer_of(GatedDeltaAttention, TransformerConfig(d_model=64, n_heads=64, d_head=2))
    rate, step = layer.A_log.exp(), F.softplus(layer.dt_bias)
    assert rate.min() >= 1 and rate.max() <= 16 and rate.std() > 2
    assert step.min() >= 0.001 and step.max() <= 0.1 and step.log().std() > 0.5


def test_what_reads_in_one_direction_refuses_two() -> None:
    x = normal(1, 4, 24, seed=0)
    with pytest.raises(ValueError, match="left to right"):
        layer_of(GatedDeltaAttention)(x, Passage(causal=False))
    cache = LayerState()
    layer_of(LinearAttention)(x, Passage(), None, cache)
    with pytest.raises(ValueError, match="both directions"):
        layer_of(LinearAttention)(x, Passage(causal=False), None, cache)
