"""Transformer-XL against its sequential reference: values, gradients, what is hidden, and the constant state."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from diptych.core.config import SegmentConfig, TransformerConfig
from diptych.nn.block import build_mixer
from diptych.nn.mixer import LayerState, Passage, Recurrence
from diptych.nn.transformer_xl import TransformerXL
from diptych.reference.transformer_xl import XLHead, transformer_xl

L, M, WIDTH = 4, 6, 12
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def layer(length: int = L, memory: int = M, **changes: object) -> TransformerXL:
    config = TransformerConfig(
        d_model=WIDTH,
        n_heads=4,
        n_kv_heads=2,
        d_head=6,
        n_layers=1,
        attention=("transformer_xl",),
        segment=SegmentConfig(length=length, memory_length=memory),
        **changes,
    )
    module = TransformerXL(config).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return module.eval()


def text(t: int, b: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(b, t, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_reference(module: TransformerXL, x: Tensor) -> Tensor:
    """(t, m) -> (t, m), the module's own parameters in the reference's symbols."""
    h, g, d = module.n_heads, module.n_kv_heads, module.d_head
    W_q, W_kE, W_v = (part.unflatten(0, (-1, d)) for part in module.input.weight.split((h * d, g * d, g * d)))
    W_kR, u, v = module.relative.weight.view(g, d, -1), module.content_bias.view(h, d), module.position_bias.view(h, d)
    of = [i // (h // g) for i in range(h)]
    heads = [XLHead(W_q[i], W_kE[of[i]], W_kR[of[i]], W_v[of[i]], u[i], v[i]) for i in range(h)]
    return transformer_xl(x.T, heads, module.output.weight, module.length, module.memory_length).T


def read(module: TransformerXL, x: Tensor, cuts: list[int], **passage: object) -> tuple[Tensor, LayerState]:
    """A passage in several calls of a cache."""
    state, outs, start = LayerState(), [], 0
    with torch.no_grad():
        for end in [*cuts, x.shape[1]]:
            outs.append(module(x[:, start:end], Passage(offset=start, **passage), cache=state))
            start = end
    return torch.cat(outs, 1), state


@pytest.mark.parametrize(("length", "memory"), [(4, 6), (4, 4), (5, 2), (3, 0), (1, 3), (4, 40), (64, 8)])
def test_values_and_all_gradients_equal_the_sequential_reference(length: int, memory: int) -> None:
    module, x = layer(length, memory), text(18).requires_grad_()
    given = (x, *module.parameters())
    ours, theirs = module(x, Passage())[0], by_reference(module, x[0])
    torch.testing.assert_close(ours, theirs, **EXACT)
    direction = text(18, seed=3)[0]
    mine, their = (torch.autograd.grad((y * direction).sum(), given) for y in (ours, theirs))
    assert all(gradient.any() for gradient in mine)
    torch.testing.assert_close(mine, their, **EXACT)


def test_no_gradient_flows_into_earlier_segments_though_their_values_count() -> None:
    module, x = layer(), text(18).requires_grad_()
    at = 2 * L + 1
    out = module(x, Passage())
    gradient = torch.autograd.grad(out[0, at].sum(), x)[0][0]
    assert not gradient[: 2 * L].any() and gradient[2 * L : at + 1].all() and not gradient[at + 1 :].any()
    first = 2 * L - M  # the first position that the segment remembers
    for changed, moves in ((first - 1, False), (first, True)):
        other = x.detach().clone()
        other[0, changed] += 1.0
        assert torch.equal(module(other, Passage())[0, at], out[0, at]) is not moves


def test_nothing_of_the_future_of_other_documents_or_of_padding_is_seen() -> None:
    module, x = layer(), text(20, b=2)
    documents = torch.tensor([[0] * 6 + [1] * 5 + [0] * 9, [7] * 20])
    mask = Passage(documents=documents)
    before = module(x, mask)
    for begin, end in ((0, 6), (6, 11), (11, 20)):
        other = x.clone()
        other[0, :begin] += 2.0
        other[0, end:] -= 1.0
        after = module(other, mask)
        assert torch.equal(after[0, begin:end], before[0, begin:end]) and torch.equal(after[1], before[1])
    later = x.clone()
    later[:, 13:] *= -1.0
    assert torch.equal(module(later, mask)[:, :13], before[:, :13])
    assert not torch.equal(module(later, mask)[:, 13:], before[:, 13:])
    alone = module(x[:1, 6:11], Passage(documents=documents[:1, 6:11]))
    # Segments follow the row, so a document that begins within one remembers at least what it would alone.
    torch.testing.assert_close(before[0, 6:10], alone[0, :4], **EXACT)


@pytest.mark.parametrize("cuts", [list(range(1, 30)), [7, *range(8, 30)], [9, 12, 13, 27], [3, 29], [30]])
def test_in_pieces_it_is_what_it_is_at_once(cuts: list[int]) -> None:
    module, x = layer(), text(31, b=2)
    out, state = read(module, x, cuts)
    torch.testing.assert_close(out, module(x, Passage()), **EXACT)
    assert state.n_bytes == 2 * (2 * (L + M) * 2 * 6 * 8 + 16)


def test_the_state_is_constant_and_small() -> None:
    module, x = layer(), text(40)
    sizes = set()
    for end in (1, 2, 11, 40):
        _, state = read(module, x[:, :end], list(range(1, end)))
        sizes.add(state.n_bytes)
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in state.value)
    assert len(sizes) == 1


@pytest.mark.parametrize("lengths", [[3, 11, 8], [13, 1, 4], [12, 12, 5]])
def test_after_a_prefill_of_rows_of_different_lengths_each_goes_on_as_if_alone(lengths: list[int]) -> None:
    module, x, more = layer(), text(13, b=3), text(9, b=3, seed=5)
    x = torch.where(torch.arange(13)[None, :, None] < torch.tensor(lengths)[:, None, None], x, 1e3)
    state = LayerState()
    with torch.no_grad():
        module(x, Passage(lengths=torch.tensor(lengths)), cache=state)
        state.select(torch.tensor([2, 0, 1]))
        rows = [lengths[2], lengths[0], lengths[1]]
        outs = [
            module(more[:, i : i + 1], Passage(offset=torch.tensor(rows) + i), cache=state)
            for i in range(more.shape[1])
        ]
    for row, source in enumerate((2, 0, 1)):
        whole = torch.cat((x[source, : lengths[source]], more[row]))[None]
        expected = module(whole, Passage())[0, lengths[source] :]
        torch.testing.assert_close(torch.cat(outs, 1)[row], expected, **EXACT)


def test_padding_leaves_exactly_the_state_of_the_unpadded_row() -> None:
    module, x = layer(), text(13)
    for n in (2, 5, 13):
        unpadded, padded = LayerState(), LayerState()
        module(x[:, :n], Passage(), cache=unpadded)
        other = x.clone()
        other[:, n:] = 1e3
        module(other, Passage(lengths=torch.tensor([n])), cache=padded)
        for mine, their in zip(padded.value, unpadded.value, strict=True):
            torch.testing.assert_close(mine, their, rtol=1e-13, atol=1e-13)


def test_padding_in_later_pieces_leaves_no_trace() -> None:
    module, x = layer(), text(24, b=2)
    lengths = torch.tensor([6, 2])
    _, state = read(module, x[:, :9], [])
    out = module(x[:, 9:19], Passage(offset=9, lengths=lengths), cache=state)
    last = module(x[:, 19:20], Passage(offset=9 + lengths), cache=state)
    for row, n in enumerate(lengths.tolist()):
        whole = torch.cat((x[row, : 9 + n], x[row, 19:20]))[None]
        expected = module(whole, Passage())[0]
        torch.testing.assert_close(out[row, :n], expected[9 : 9 + n], **EXACT)
        torch.testing.assert_close(last[row], expected[-1:], **EXACT)


@pytest.mark.parametrize("cuts", [[1, 2, 3, 4, 5, 6, 7, 8], [5], [8, 20]])
def test_documents_are_obeyed_from_call_to_call(cuts: list[int]) -> None:
    module, x = layer(), text(24, b=2)
    documents = torch.tensor([[0] * 5 + [1] * 6 + [0] * 13, [3] * 20 + [4] * 4])
    state, outs, start = LayerState(), [], 0
    for end in [*cuts, 24]:
        part = Passage(documents=documents[:, start:end], offset=start)
        outs.append(module(x[:, start:end], part, cache=state))
        start = end
    torch.testing.assert_close(torch.cat(outs, 1), module(x, Passage(documents=documents)), **EXACT)


def test_a_prefill_of_documents_goes_on_in_the_last_one() -> None:
    module, x = layer(), text(14)
    state = LayerState()
    module(x[:, :9], Passage(documents=torch.tensor([[0] * 6 + [1] * 3])), cache=state)
    out = module(x[:, 9:], Passage(offset=9), cache=state)
    whole = module(x, Passage(documents=torch.tensor([[0] * 6 + [1] * 8])))
    torch.testing.assert_close(out, whole[:, 9:], **EXACT)


def test_a_rotation_is_not_used_and_reading_both_ways_is_refused() -> None:
    module, x = layer(qk_norm=True), text(9)
    turn = (torch.zeros(1, 9, 1, 6, dtype=torch.float64), torch.ones(1, 9, 1, 6, dtype=torch.float64))
    assert torch.equal(module(x, Passage(), turn), module(x, Passage()))
    with pytest.raises(ValueError, match="left to right only"):
        module(x, Passage(causal=False))


def test_a_configuration_makes_it_and_its_special_weights_start_small() -> None:
    config = TransformerConfig(d_model=64, n_heads=4, attention=("softmax", "transformer_xl"))
    module = build_mixer(config, 1)
    assert isinstance(module, TransformerXL) and isinstance(module, Recurrence)
    module.start(torch.Generator().manual_seed(0))
    for parameter in (module.content_bias, module.position_bias):
        assert 0.01 < parameter.std() < 0.03
    with torch.device("meta"):
        build_mixer(config, 1)


def test_generating_before_training_does_not_spoil_training() -> None:
    module, x = layer(), text(9)
    with torch.inference_mode():
        module(x, Passage())
    module(x, Passage()).sum().backward()
    assert module.relative.weight.grad.any()


def test_under_autocast_it_stays_near() -> None:
    module, x = layer(), text(33, b=2)
    exact = module(x, Passage())
    with torch.autocast("cpu", torch.bfloat16):
        near = module.float()(x.float(), Passage())
    assert near.dtype == torch.bfloat16 and (near - exact).abs().max() < 0.05 * exact.abs().max()


def test_compiled_it_is_the_same() -> None:
    module, x = layer().float(), text(18).float()
    compiled = torch.compile(lambda x: module(x, Passage()), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x, Passage()), rtol=1e-5, atol=1e-5)
