"""The one-row product equals torch's, and is taken only where it should be."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from diptych.nn import linear as module
from diptych.nn.linear import Linear, linear


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Which one-row products were taken, with small matrices let in."""
    taken: list[torch.dtype] = []
    original = module._kernel

    def spying(dtype: torch.dtype) -> object:
        taken.append(dtype)
        return original(dtype)

    monkeypatch.setattr(module, "_kernel", spying)
    monkeypatch.setattr(module, "SMALLEST", 0)
    return taken


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (130, 257), (512, 1000)])
@pytest.mark.parametrize("bias", [False, True])
def test_one_row_equals_torch(calls: list[torch.dtype], shape: tuple[int, int], bias: bool) -> None:
    weight, x, b = torch.randn(shape), torch.randn(1, 1, shape[1]), torch.randn(shape[0]) if bias else None
    with torch.no_grad():
        exact = F.linear(x.double(), weight.double(), None if b is None else b.double())
        torch.testing.assert_close(linear(x, weight, b).double(), exact, rtol=1e-4, atol=1e-4)
        narrow = (weight.bfloat16(), x.bfloat16(), None if b is None else b.bfloat16())
        ours, theirs = linear(narrow[1], narrow[0], narrow[2]), F.linear(narrow[1], narrow[0], narrow[2])
    assert ours.dtype == torch.bfloat16 and ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=2e-2)
    assert set(calls) == {torch.float32, torch.bfloat16}


def test_special_numbers_come_through(calls: list[torch.dtype]) -> None:
    with torch.no_grad():
        out = linear(torch.tensor([[1.0, 0.0]]), torch.tensor([[float("inf"), 1.0], [float("nan"), 1.0]]))
    assert out[0, 0] == float("inf") and out[0, 1].isnan()


def test_training_batches_and_other_types_go_to_torch(calls: list[torch.dtype]) -> None:
    layer = Linear(8, 5)
    torch.testing.assert_close(layer(torch.ones(1, 8)), F.linear(torch.ones(1, 8), layer.weight, layer.bias))
    layer(torch.ones(1, 8)).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        layer(torch.ones(2, 8))
    assert not calls
    with torch.no_grad():
        out = layer.double()(torch.ones(1, 8, dtype=torch.float64))
    assert out.dtype == torch.float64
