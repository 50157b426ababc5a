"""The three Titans layers against their readable form; caches, padding, and what may not be seen."""

from __future__ import annotations

import pytest
import torch

from diptych.core.config import NeuralMemoryConfig, SegmentConfig, TransformerConfig
from diptych.nn.block import build_mixer
from diptych.nn.mixer import LayerState, Passage, Recurrence
from diptych.nn.positions import Rotation, rope_frequencies, rotation
from diptych.nn.titans import Titans, TitansContext, TitansGate, TitansLayer
from diptych.nn.window_attention import WindowAttention
from diptych.reference import titans as reference
from tests.nn.test_neural_memory import first_memories, normal, projections

KINDS = ["titans_context", "titans_gate", "titans_layer"]
LENGTH = 23


def drawn(
    kind: str, *, depth: int = 1, chunk_length: int = 4, segment: int = 6, persistent: int = 2, **choices: object
) -> Titans:
    config = TransformerConfig(
        d_model=5,
        n_heads=2,
        d_head=4,
        attention=(kind,),
        segment=SegmentConfig(length=segment),
        memory=NeuralMemoryConfig(depth=depth, chunk_length=chunk_length, n_persistent=persistent),
        **choices,
    )
    layer = build_mixer(config, 0).double()
    assert isinstance(layer, Titans) and isinstance(layer, Recurrence)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return layer.eval()


def turns(length: int = LENGTH) -> Rotation:
    return rotation(torch.arange(length)[None], rope_frequencies(4, 100.0, None), torch.float64)


def part(by: Rotation, start: int, end: int) -> Rotation:
    return by[0][:, start:end], by[1][:, start:end]


def readable(layer: Titans, x: torch.Tensor) -> torch.Tensor:
    """The reference's output for one sequence (t, m), its weights those of the layer."""
    attention = layer.attention
    persistent = x.new_zeros(x.shape[1], 0) if attention.persistent is None else attention.persistent.T
    gamma_m = layer.memory_norm.weight
    gamma_y = gamma_m if isinstance(layer, TitansLayer) else layer.attention_norm.weight
    W = reference.Titans(
        projections(layer.memory),
        first_memories(layer.memory),
        reference.Attention(*attention.input.weight.chunk(3), persistent),
        gamma_y,
        gamma_m,
        layer.output.weight,
    )
    w, b = attention.window, layer.memory.chunk_length
    match layer:
        case TitansGate():
            return reference.memory_as_gate(x.T, W, w, b).T
        case TitansLayer():
            return reference.memory_as_layer(x.T, W, layer.retrieved.weight, w, b).T
        case TitansContext():
            more = layer.query.weight, layer.retrieved.weight, layer.attended.weight
            return reference.memory_as_context(x.T, W, *more, w, b).T
    raise AssertionError


@pytest.mark.parametrize("persistent", [0, 2])
@pytest.mark.parametrize(("depth", "chunk_length", "segment"), [(1, 1, 5), (1, 4, 6), (2, 3, 6)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_its_readable_form(kind: str, depth: int, chunk_length: int, segment: int, persistent: int) -> None:
    layer = drawn(kind, depth=depth, chunk_length=chunk_length, segment=segment, persistent=persistent)
    x, weight = normal(1, 13, 5).requires_grad_(), normal(13, 5, seed=1)
    out, slow = layer(x, Passage())[0], readable(layer, x[0])
    assert (out - slow).abs().max() < 1e-10
    parameters = [x, *layer.parameters()]
    ours = torch.autograd.grad((out * weight).sum(), parameters)
    theirs = torch.autograd.grad((slow * weight).sum(), parameters)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() < 1e-10 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize(("depth", "chunk_length", "segment"), [(1, 1, 5), (2, 4, 6), (1, 7, 4)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_gives_what_the_whole_text_gives(kind: str, depth: int, chunk_length: int, segment: int) -> None:
    layer = drawn(kind, depth=depth, chunk_length=chunk_length, segment=segment, n_kv_heads=1, qk_norm=True)
    x, by = normal(2, LENGTH, 5), turns()
    with torch.no_grad():
        whole = layer(x, Passage(), by)
        for ends in ([*range(1, LENGTH + 1)], [2, 9, 10, 21, LENGTH]):
            cache, out, start = LayerState(), [], 0
            for end in ends:
                out.append(layer(x[:, start:end], Passage(offset=start), part(by, start, end), cache))
                start = end
            assert (torch.cat(out, dim=1) - whole).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_different_lengths_leave_the_states_of_rows_without_padding(kind: str) -> None:
    layer, lengths = drawn(kind, depth=2), torch.tensor([9, 14, 1, 0])
    x, by = normal(4, LENGTH, 5), turns()
    with torch.no_grad():
        cache = LayerState()
        start = layer(x[:, :14], Passage(lengths=lengths), part(by, 0, 14), cache)
        after = [start[i, : lengths[i]] for i in range(4)]
        following = torch.stack([x[i, n : n + 6] for i, n in enumerate(lengths.tolist())])
        for step in range(6):
            cos, sin = (torch.cat([table[:, n + step, None] for n in lengths.tolist()]) for table in by)
            out = layer(following[:, step, None], Passage(offset=lengths + step), (cos, sin), cache)
            after = [torch.cat((row, out[i])) for i, row in enumerate(after)]
        for i, n in enumerate(lengths.tolist()):
            alone = layer(x[i : i + 1, : n + 6], Passage(), part(by, 0, n + 6))[0]
            assert (after[i] - alone).abs().max() < 1e-10
        # Rows that stand at different places may also go on by several tokens at once.
        fresh = LayerState()
        layer(x[:2, :14], Passage(lengths=lengths[:2]), part(by, 0, 14), fresh)
        both = tuple(torch.cat((table[:, 9:15], table[:, 14:20])) for table in by)
        more = layer(following[:2], Passage(offset=lengths[:2]), both, fresh)
    assert (more[0] - after[0][9:]).abs().max() < 1e-10
    assert (more[1] - after[1][14:]).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_padding_moves_nothing(kind: str) -> None:
    layer, lengths = drawn(kind), torch.tensor([9, 14])
    x, by = normal(2, 14, 5), turns(14)
    states = []
    with torch.no_grad():
        for value in (0.0, 100.0):
            x[0, 9:], cache = value, LayerState()
            out = layer(x, Passage(lengths=lengths), by, cache)
            states.append((out[0, :9], out[1], *(cache.value or ())))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


@pytest.mark.parametrize("at", [1, 5, 6, 8, 15])
@pytest.mark.parametrize("kind", KINDS)
def test_no_position_sees_a_later_one(kind: str, at: int) -> None:
    layer, x, by = drawn(kind, depth=2), normal(1, LENGTH, 5), turns()
    with torch.no_grad():
        before = layer(x, Passage(), by)
        x[:, at:] += 1.0
        after = layer(x, Passage(), by)
    assert torch.equal(before[:, :at], after[:, :at])
    assert (before[:, at:] != after[:, at:]).any(dim=-1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_never_grows(kind: str) -> None:
    layer, cache, sizes = drawn(kind), LayerState(), set()
    with torch.no_grad():
        for step in range(25):
            layer(normal(1, 1, 5, seed=step), Passage(offset=step), None, cache)
            sizes.add(cache.n_bytes)
    assert len(sizes) == 1


def test_rows_of_a_state_can_be_chosen() -> None:
    layer, x = drawn("titans_context"), normal(2, 9, 5)
    with torch.no_grad():
        cache = LayerState()
        layer(x[:, :8], Passage(), None, cache)
        cache.select(torch.tensor([1, 1, 0]))
        out = layer(x[[1, 1, 0], 8:], Passage(offset=8), None, cache)
        whole = layer(x, Passage())[:, 8:]
    assert (out - whole[[1, 1, 0]]).abs().max() < 1e-10


@pytest.mark.parametrize("window", [1, 4, 30])
def test_a_window_is_attention_under_the_mask_of_a_window(window: int) -> None:
    config = TransformerConfig(d_model=8, n_heads=4, n_kv_heads=2)
    layer = WindowAttention(config, window=window, n_persistent=0).double()
    x, by = normal(2, 13, 8), rotation(torch.arange(13)[None], rope_frequencies(2, 100.0, None), torch.float64)
    with torch.no_grad():
        out, _ = layer(x, by, layer.begin(x), torch.zeros(2, dtype=torch.long))
        heads = layer.project(x, by)
        distance = torch.arange(13)[:, None] - torch.arange(13)
        key, value = (part.repeat_interleave(2, dim=1) for part in heads[1:])
        scores = (heads.query @ key.mT / 2**0.5).masked_fill((distance < 0) | (distance >= window), float("-inf"))
        dense = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
    assert (out - dense).abs().max() < 1e-10


def test_the_window_of_a_configuration_comes_before_its_segment() -> None:
    assert drawn("titans_gate", window=3).attention.window == 3
    assert drawn("titans_layer", segment=6).attention.window == 6


def test_what_it_cannot_read_is_refused() -> None:
    layer, x = drawn("titans_gate"), normal(1, 3, 5)
    with pytest.raises(ValueError, match="left to right"):
        layer(x, Passage(causal=False))
    with pytest.raises(ValueError, match=r"data\.document_mask = false"):
        layer(x, Passage(documents=torch.zeros(1, 3, dtype=torch.long)))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_and_start(kind: str) -> None:
    layer = drawn(kind, depth=2).float()
    layer.start(torch.Generator().manual_seed(0))
    x, by = normal(2, LENGTH, 5).float(), tuple(table.bfloat16() for table in turns())
    exact = layer(x, Passage(), tuple(table.float() for table in by))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x, Passage(), by)
        cache = LayerState()
        layer(x[:, :7], Passage(), part(by, 0, 7), cache)
        rest = layer(x[:, 7:], Passage(offset=7), part(by, 7, LENGTH), cache)
    out.float().sum().backward()
    assert (out - exact).abs().max() < 2**-4 * exact.abs().max()
    assert (rest - exact[:, 7:]).abs().max() < 2**-4 * exact.abs().max()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
