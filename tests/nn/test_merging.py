"""Attention with its log-sum-exp, and its parts merged, against one softmax over all keys."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from diptych.core.types import Mask
from diptych.nn import merging
from diptych.nn.lowering import Lowered, Scope, in_form
from diptych.nn.masks import Both, Causal, Documents, Except, Window
from diptych.nn.merging import attention_with_lse, merge
from diptych.nn.patterns import Strided
from diptych.reference import tiled_attention

CLOSE = {"rtol": 0.0, "atol": 1e-12}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).to(device)


def given(
    h: int = 4, g: int = 2, q: int = 9, k: int = 23, d: int = 5, *, dtype: torch.dtype = torch.float64, b: int = 2
) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (normal(b, heads, n, d, seed=i) for i, (heads, n) in enumerate(((h, q), (g, k), (g, k))))
    return tuple(x.to(dtype).requires_grad_() for x in (query, key, value))


def some(q: int = 9, k: int = 23, *, b: int = 2, h: int = 1) -> Tensor:
    """A boolean mask in which row 0's query 2 may attend to nothing, and query 3 to one key only."""
    allowed = normal(b, h, q, k, seed=9) > 0
    allowed[0, :, 2] = False
    allowed[:, :, 3] = False
    allowed[:, :, 3, 1] = True
    return allowed


def formula(query: Tensor, key: Tensor, value: Tensor, mask: Lowered, scale: float | None = None) -> Tensor:
    """One softmax, rows without a key zero; differentiable."""
    share = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(share, 1).mT * (scale or query.shape[-1] ** -0.5)
    if mask.causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
    if mask.dense is not None:
        added = mask.dense if mask.dense.dtype != torch.bool else torch.zeros(()).where(mask.dense, -torch.inf)
        scores = scores + added
    empty = (scores == -torch.inf).all(-1, keepdim=True)
    weights = torch.softmax(scores.masked_fill(empty, 0.0), dim=-1).masked_fill(empty, 0.0)
    return weights @ value.repeat_interleave(share, 1)


def log_sum_exp(query: Tensor, key: Tensor, mask: Lowered) -> Tensor:
    """Of the scores of one softmax."""
    share = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(share, 1).mT * query.shape[-1] ** -0.5
    if mask.causal:
        scores = scores.masked_fill(~torch.ones(scores.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
    if mask.dense is not None:
        scores = scores + (mask.dense if mask.dense.dtype != torch.bool else mask.dense.double().log())
    return torch.logsumexp(scores, dim=-1)


def masks() -> dict[str, Lowered]:
    bias = (-normal(1, 4, 9, 23, seed=5).abs()).masked_fill(~some(b=1, h=4), -torch.inf)
    return {
        "all": Lowered(),
        "boolean": Lowered(dense=some()),
        "a head": Lowered(dense=some(h=4)),
        "added": Lowered(dense=bias),
    }


@pytest.fixture(params=["tiled", "written out"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of computing a part on a processor."""
    if request.param == "written out":
        monkeypatch.setattr(merging.Tiled, "of", merging._written_out)
    return request.param


@pytest.mark.parametrize("name", masks())
@pytest.mark.parametrize("scale", [None, 0.7])
def test_values_and_gradients_are_those_of_one_softmax(path: str, name: str, scale: float | None) -> None:
    mask, inputs = masks()[name], given()
    out, lse = attention_with_lse(*inputs, mask, scale=scale)
    expected = formula(*inputs, mask, scale)
    torch.testing.assert_close(out, expected, **CLOSE)
    direction = normal(*out.shape, seed=7)
    ours = torch.autograd.grad((out * direction).sum(), inputs)
    theirs = torch.autograd.grad((expected * direction).sum(), inputs)
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, **CLOSE)
    if scale is None:
        torch.testing.assert_close(lse, log_sum_exp(*inputs[:2], mask), **CLOSE)


def test_under_a_causal_mask(path: str) -> None:
    inputs = given(q=11, k=11)
    out, lse = attention_with_lse(*inputs, Lowered(causal=True))
    torch.testing.assert_close(out, formula(*inputs, Lowered(causal=True)), **CLOSE)
    torch.testing.assert_close(lse, log_sum_exp(*inputs[:2], Lowered(causal=True)), **CLOSE)


@pytest.mark.parametrize("name", ["all", "boolean", "added", "causal"])
def test_gradients_through_both_results_are_those_of_finite_differences(path: str, name: str) -> None:
    allowed = normal(1, 2, 4, 4, seed=9) > 0
    allowed[0, 1, 2] = False
    small = {
        "all": Lowered(),
        "boolean": Lowered(dense=allowed),
        "added": Lowered(dense=-normal(1, 2, 4, 4, seed=5).abs()),
        "causal": Lowered(causal=True),
    }
    inputs = given(h=2, g=1, q=4, k=4, b=1)

    def finite(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = attention_with_lse(*inputs, small[name])
        return out, lse.masked_fill(lse == -torch.inf, 0.0)

    assert torch.autograd.gradcheck(finite, inputs)


def parts_of(inputs: tuple[Tensor, Tensor, Tensor], allowed: Tensor, cuts: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    query, key, value = inputs
    return [attention_with_lse(query, key[:, :, at], value[:, :, at], Lowered(dense=allowed[..., at])) for at in cuts]


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_merged_parts_equal_one_softmax_over_their_union(path: str, scale: float) -> None:
    query, key, value = given()
    inputs = ((query * scale).detach().requires_grad_(), key, value)
    allowed = some()
    order = torch.randperm(23, generator=torch.Generator().manual_seed(3))
    out, lse = merge(parts_of(inputs, allowed, [order[:4], order[4:4], order[4:17], order[17:]]))
    whole = Lowered(dense=allowed)
    expected = formula(*inputs, whole)
    torch.testing.assert_close(out, expected, **CLOSE)
    torch.testing.assert_close(lse, log_sum_exp(*inputs[:2], whole), rtol=1e-13, atol=1e-12)
    assert not out[0, :, 2].any() and (lse[0, :, 2] == -torch.inf).all()
    direction = normal(*out.shape, seed=7)
    ours = torch.autograd.grad((out * direction).sum(), inputs)
    theirs = torch.autograd.grad((expected * direction).sum(), inputs)
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-11, atol=1e-11)


def test_merging_is_what_the_reference_says() -> None:
    query, key, value = (x.detach() for x in given(h=1, g=1, b=1))
    allowed = some(b=1)
    ours = merge(parts_of((query, key, value), allowed, [torch.arange(10), torch.arange(10, 23)]))
    q, k, v = (x[0, 0].numpy() for x in (query * 5**-0.5, key, value))
    theirs = tiled_attention.merge(
        [
            tiled_attention.flash_attention_2_forward(q, k[at], v[at], allowed[0, 0].numpy()[:, at], 4, 3)
            for at in (slice(0, 10), slice(10, 23))
        ]
    )
    for mine, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine[0, 0].numpy(), their, rtol=1e-12, atol=1e-12)


def test_gradients_of_a_merge_reach_parts_with_queries_of_their_own() -> None:
    """As near and far passes have them: the same position under two rotations."""
    query, key, value = given(h=2, g=1, q=2, k=3, b=1)
    other = normal(*query.shape, seed=8).requires_grad_()

    def merged(*inputs: Tensor) -> Tensor:
        query, other, key, value = inputs
        near = attention_with_lse(query, key[:, :, :1], value[:, :, :1], Lowered())
        far = attention_with_lse(other, key[:, :, 1:], value[:, :, 1:], Lowered())
        return merge([near, far])[0]

    assert torch.autograd.gradcheck(merged, (query, other, key, value))


def test_a_query_without_any_key_has_no_gradient_and_gives_none(path: str) -> None:
    inputs, allowed = given(), some()
    out, _ = merge(parts_of(inputs, allowed, [torch.arange(5), torch.arange(5, 23)]))
    gradients = torch.autograd.grad(out[0, :, 2].sum(), inputs)
    assert all(not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_less_precision_it_stays_near(dtype: torch.dtype) -> None:
    inputs = given(q=40, k=600, d=16, dtype=dtype)
    allowed = some(40, 600)
    out, lse = merge(parts_of(inputs, allowed, [torch.arange(200), torch.arange(200, 600)]))
    exact = tuple(x.detach().double().requires_grad_() for x in inputs)
    expected = formula(*exact, Lowered(dense=allowed))
    tolerance = 2**-6 if dtype == torch.bfloat16 else 1e-6
    assert out.dtype == dtype and lse.dtype == torch.float32
    assert (out - expected).abs().max() < tolerance * expected.abs().max()
    direction = normal(*out.shape, seed=7)
    ours = torch.autograd.grad((out * direction.to(dtype)).sum(), inputs)
    theirs = torch.autograd.grad((expected * direction).sum(), exact)
    for mine, their in zip(ours, theirs, strict=True):
        assert (mine - their).abs().max() < 4 * tolerance * their.abs().max()


def test_no_scores_are_kept_for_the_backward_pass() -> None:
    inputs = given(h=1, g=1, q=256, k=2048, b=1)
    kept = []

    def pack(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        query, key, value = inputs
        halves = [
            attention_with_lse(query, key[:, :, at], value[:, :, at], Lowered())
            for at in (slice(0, 1024), slice(1024, 2048))
        ]
        merge(halves)
    assert max(kept) <= 1024 * 5 < 256 * 1024


def test_compiled_it_is_the_same() -> None:
    def merged(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        near = attention_with_lse(query, key[:, :, :11], value[:, :, :11], Lowered(causal=True))
        far = attention_with_lse(query, key[:, :, 11:], value[:, :, 11:], Lowered())
        return merge([near, far])[0]

    inputs = given(q=11, k=23, dtype=torch.float32)
    expected = merged(*inputs)
    out = torch.compile(merged, fullgraph=True, backend="aot_eager")(*inputs)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    ours, theirs = (torch.autograd.grad(x.sin().sum(), inputs) for x in (out, expected))
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d", [16, 20])
def test_on_cuda_it_is_what_it_is_on_the_processor(dtype: torch.dtype, d: int) -> None:
    inputs = given(q=40, k=300, d=d, dtype=dtype)
    allowed, direction = some(40, 300), normal(2, 4, 40, d, seed=7)
    results = []
    for device in ("cpu", "cuda"):
        here = tuple(x.detach().to(device).requires_grad_() for x in inputs)
        out, lse = merge(parts_of(here, allowed.to(device), [torch.arange(100), torch.arange(100, 300)]))
        loss = (out.float() * direction.to(device)).sum() + lse.masked_fill(lse == -torch.inf, 0.0).sum()
        results.append([x.detach().cpu().float() for x in (out, *torch.autograd.grad(loss, here))])
    tolerance = 2**-5 if dtype == torch.bfloat16 else 1e-5
    for mine, their in zip(*results, strict=True):
        assert (mine - their).abs().max() < tolerance * their.abs().max()


def passes(n: int) -> dict[str, tuple[Mask, Mask]]:
    """Near and far of one causal attention; in the second, document by document, rows have no far keys."""
    width, documents = Window(n // 3), Documents(torch.arange(2 * n).view(2, n) // (n // 2 + 5))
    within = Both(Causal(), documents)
    return {
        "window": (Both(Causal(), width), Except(Causal(), width)),
        "documents": (Both(within, width), Except(within, width)),
        "stride": (Both(Causal(), Strided(4)), Except(Causal(), Strided(4))),
    }


@pytest.mark.parametrize("name", passes(8))
def test_pieces_of_masks_merge_as_dense_ones_do(name: str) -> None:
    n = 150
    inputs, scale = given(q=n, k=n), 0.7

    def both(lowered: Callable[[Mask], Lowered]) -> tuple[Tensor, Tensor]:
        return merge([attention_with_lse(*inputs, lowered(mask), scale=scale) for mask in passes(n)[name]])

    scope = Scope(n, n)
    pieces, dense = (both(lambda mask, form=form: in_form(form, mask, scope)) for form in ("pieces", "dense"))
    direction = normal(*pieces[0].shape, seed=7)
    results = []
    for out, lse in (pieces, dense):
        assert (lse > -torch.inf).all()  # a position attends at least to itself
        loss = (out * direction).sum() + (lse * direction[..., 0]).sum()
        results.append((out, lse, *torch.autograd.grad(loss, inputs)))
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-11)
    far = attention_with_lse(*inputs, in_form("pieces", passes(n)[name][1], scope))
    assert (far[1][:, :, 0] == -torch.inf).all() and not far[0][:, :, 0].any()
