"""Titans' memory in chunks against the recurrence that goes token by token."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from diptych.core.config import NeuralMemoryConfig, TransformerConfig
from diptych.nn import memory_heads
from diptych.nn.memory_scan import shares
from diptych.nn.neural_memory import NeuralMemory, Tokens, Weights, read, recall
from diptych.reference import titans as reference

D, HEADS = 3, 2


def config(depth: int = 1, chunk_length: int = 4) -> TransformerConfig:
    memory = NeuralMemoryConfig(depth=depth, chunk_length=chunk_length)
    return TransformerConfig(d_model=5, n_heads=HEADS, d_head=D, position="none", memory=memory)


def drawn(depth: int, chunk_length: int) -> NeuralMemory:
    memory = NeuralMemory(config(depth, chunk_length)).double()
    generator = torch.Generator().manual_seed(depth)
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.normal_(0.0, 0.6, generator=generator)
    return memory


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def projections(memory: NeuralMemory) -> reference.Projections:
    """The module's weights under the paper's names."""
    filters = memory.convolution.weight[:, 0].chunk(3)
    rows = zip(memory.gates.weight.chunk(3), memory.gates.bias.chunk(3), strict=True)
    gates = [tensor for pair in rows for tensor in pair]
    return reference.Projections(*memory.input.weight.chunk(3), *filters, *gates, theta_max=memory.max_step)


def first_memories(memory: NeuralMemory) -> list[reference.Memory]:
    return [[weight[i].T for weight in memory.initial] for i in range(HEADS)]


def fast(memory: NeuralMemory, x: torch.Tensor) -> torch.Tensor:
    return memory(x, *memory.begin(x))[0]


@pytest.mark.parametrize("length", [1, 9, 14])
@pytest.mark.parametrize("chunk_length", [1, 4, 7])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_chunks_give_the_recurrence_and_its_gradients(depth: int, chunk_length: int, length: int) -> None:
    memory, x = drawn(depth, chunk_length), normal(1, length, 5).requires_grad_()
    weight = normal(length, HEADS * D, seed=1)
    parameters = [x, *memory.parameters()]
    out = fast(memory, x)[0]
    slow = reference.memory_layer(x[0].T, projections(memory), first_memories(memory), chunk_length)[0].T
    assert (out - slow).abs().max() < 1e-10
    ours = torch.autograd.grad((out * weight).sum(), parameters)
    theirs = torch.autograd.grad((slow * weight).sum(), parameters)
    assert all(gradient.abs().max() > 0 for gradient in ours)
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).abs().max() < 1e-10 * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize("depth", [1, 2])
def test_the_state_is_that_of_the_recurrence(depth: int) -> None:
    memory, x = drawn(depth, 4), normal(1, 11, 5)
    with torch.no_grad():
        weights = memory(x, *memory.begin(x))[1]
        states = reference.memory_layer(x[0].T, projections(memory), first_memories(memory), 4)[1]
    for head in range(HEADS):
        for layer in range(depth):
            assert (weights.layers[layer][0, head, 0].T - states[head][11][layer]).abs().max() < 1e-10
            assert (weights.reference[layer][0, head].T - states[head][8][layer]).abs().max() < 1e-10


def test_a_memory_that_forgets_nothing_and_has_no_momentum_is_the_delta_rule() -> None:
    """With theta = 1/2, eta = alpha = 0 and chunks of one: W_t = W_{t-1} + (v - W_{t-1} k) k^T, by hand."""
    query, key, value = (normal(1, 1, 6, D, seed=i) for i in range(3))
    key = key / key.norm(dim=-1, keepdim=True)
    zero = torch.zeros(1, 1, 6, dtype=torch.float64)
    tokens = Tokens(query, key, value, zero + 0.5, zero, zero + 1.0)
    start = torch.zeros(1, 1, 2, D, D, dtype=torch.float64)
    weights = Weights((start,), (start[:, :, 0],), torch.zeros(1, dtype=torch.long))
    out, _ = read(weights, tokens, 1)
    w = torch.zeros(D, D, dtype=torch.float64)
    for t in range(6):
        w = w + torch.outer(value[0, 0, t] - w @ key[0, 0, t], key[0, 0, t])
        assert (w @ key[0, 0, t] - value[0, 0, t]).abs().max() < 1e-12
        assert (out[0, 0, t] - w @ query[0, 0, t]).abs().max() < 1e-12


@pytest.mark.parametrize("depth", [1, 2])
def test_finite_differences(depth: int) -> None:
    sizes = [2] * (depth + 1)

    def work(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        step, momentum, keep, *initial = rest
        layers = tuple(torch.stack((m, 0.5 * m), dim=2) for m in initial)
        weights = Weights(layers, tuple(initial), torch.zeros(1, dtype=torch.long))
        return read(weights, Tokens(query, key, value, step, momentum, keep), 2)[0]

    tokens = [normal(1, 1, 5, 2, seed=i) for i in range(3)] + [normal(1, 1, 5, seed=i).sigmoid() for i in range(3, 6)]
    initial = [normal(1, 1, i, o, seed=9) for i, o in pairwise(sizes)]
    assert torch.autograd.gradcheck(work, [x.requires_grad_() for x in (*tokens, *initial)])


@pytest.mark.parametrize("length", [1, 16, 40])
def test_heads_in_pieces_are_a_convolution_silu_and_unit_length(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor a piece is of 16 positions here; torch's own convolution and gradients know of no pieces."""
    monkeypatch.setattr(memory_heads, "PIECE", 1)
    x, before, weight = normal(2, length, 18), normal(2, 3, 18, seed=1), normal(18, 1, 4, seed=2)
    given = [tensor.requires_grad_() for tensor in (x, before, weight)]
    mixed = F.conv1d(torch.cat((before, x), dim=1).mT, weight, groups=18).mT
    query, key, value = (part.unflatten(-1, (HEADS, D)).transpose(1, 2) for part in F.silu(mixed).chunk(3, dim=-1))
    expected = torch.stack((F.normalize(query, dim=-1), F.normalize(key, dim=-1), value))
    out = torch.stack(memory_heads.heads(x, before, weight, HEADS))
    upstream = normal(*out.shape, seed=3)
    assert (out - expected).abs().max() < 1e-12
    gradients = (torch.autograd.grad((each * upstream).sum(), given) for each in (out, expected))
    assert all((a - b).abs().max() < 1e-10 for a, b in zip(*gradients, strict=True))


def test_what_is_kept_is_the_product_of_what_each_token_keeps() -> None:
    momentum, keep = torch.rand(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    share = shares(momentum, keep)
    for t in range(5):
        for s in range(5):
            sums = sum(float(keep[r + 1 : t + 1].prod() * momentum[s + 1 : r + 1].prod()) for r in range(s, t + 1))
            assert abs(float(share.memory[t, s]) - sums) < 1e-12
            assert abs(float(share.momentum[t, s] - (momentum[s + 1 : t + 1].prod() if s <= t else 0))) < 1e-12
        carried = sum(float(keep[r + 1 : t + 1].prod() * momentum[: r + 1].prod()) for r in range(t + 1))
        assert abs(float(share.memory[t, 5] - keep[: t + 1].prod())) < 1e-12
        assert abs(float(share.memory[t, 6]) - carried) < 1e-12
        assert abs(float(share.momentum[t, 5])) == 0
        assert abs(float(share.momentum[t, 6] - momentum[: t + 1].prod())) < 1e-12


def test_gates_that_are_shut_give_no_nan() -> None:
    memory = drawn(1, 8).float()
    with torch.no_grad():
        memory.gates.bias.view(3, HEADS)[1:] = torch.tensor([[-200.0], [200.0]])
    x = normal(1, 40, 5).float().requires_grad_()
    out = fast(memory, x)
    out.sum().backward()
    assert x.grad is not None
    assert out.isfinite().all() and x.grad.isfinite().all()


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("at", [1, 5, 8])
def test_no_token_moves_what_stands_before_it(depth: int, at: int) -> None:
    memory, x = drawn(depth, 4), normal(1, 13, 5)
    with torch.no_grad():
        before = fast(memory, x)
        x[:, at:] += 1.0
        after = fast(memory, x)
    assert torch.equal(before[:, :at], after[:, :at])
    assert not torch.equal(before[:, at:], after[:, at:])


def test_recall_is_the_memory_of_the_reference() -> None:
    memory, query = drawn(3, 4), normal(1, HEADS, 2, D)
    weights, _ = memory.begin(query)
    out = recall(weights.reference, query)
    for head, first in enumerate(first_memories(memory)):
        assert (out[0, head, 1] - reference.memory(first, query[0, head, 1])).abs().max() < 1e-12


def test_autocast_keeps_the_memory_in_float32() -> None:
    memory = NeuralMemory(config(2, 4))
    memory.draw(torch.Generator().manual_seed(0))
    with torch.no_grad():
        memory.input.weight.normal_(0.0, 0.6)
        memory.gates.weight.normal_(0.0, 0.6)
    x = normal(1, 11, 5).float()
    exact = fast(memory, x)
    with torch.autocast("cpu", torch.bfloat16):
        out, weights, _ = memory(x, *memory.begin(x))
    assert all(layer.dtype == torch.float32 for layer in weights.layers)
    assert (out - exact).abs().max() < 2**-5 * exact.abs().max()
