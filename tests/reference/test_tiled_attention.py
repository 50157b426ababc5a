"""Tiled attention against the untiled, against torch's gradients, and at scores that would overflow."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diptych.reference.attention import Head, attention
from diptych.reference.tiled_attention import flash_attention_2_backward, flash_attention_2_forward, merge

EXACT = {"rtol": 1e-12, "atol": 1e-12}
N, M, D, D_V = 13, 17, 5, 4
TILES = [(1, 1), (4, 3), (5, 17), (13, 2), (64, 64)]


def given(seed: int = 0, scale: float = 1.0) -> tuple[np.ndarray, ...]:
    """Q, K, V, dO, and a mask under which every query attends to something."""
    rng = np.random.default_rng(seed)
    Q, K, V, dO = (rng.normal(size=shape) for shape in ((N, D), (M, D), (M, D_V), (N, D_V)))
    Mask = rng.random((N, M)) < 0.5
    Mask[np.arange(N), np.arange(N)] = True
    Mask[3] = False
    Mask[3, 16] = True  # whose only key stands in the last tile
    Mask[4] = False
    Mask[4, 0] = True  # whose only key stands in the first
    return Q * scale, K, V, dO, Mask


def gradients(Q: np.ndarray, K: np.ndarray, V: np.ndarray, dO: np.ndarray, Mask: np.ndarray) -> list[np.ndarray]:
    """O, L, dQ, dK, dV of the formula, by torch."""
    q, k, v = (torch.from_numpy(x).requires_grad_() for x in (Q, K, V))
    S = (q @ k.T).masked_fill(~torch.from_numpy(Mask), float("-inf"))
    out = torch.softmax(S, dim=1) @ v
    out.backward(torch.from_numpy(dO))
    return [x.detach().numpy() for x in (out, torch.logsumexp(S, dim=1), q.grad, k.grad, v.grad)]


@pytest.mark.parametrize(("B_r", "B_c"), TILES)
def test_forward_equals_the_attention_of_table_4(B_r: int, B_c: int) -> None:
    Q, K, V, _, Mask = given()
    O, _ = flash_attention_2_forward(Q / np.sqrt(D), K, V, Mask, B_r, B_c)
    both = Head(np.eye(D, 2 * D), np.zeros(D), np.eye(D, D + D_V), np.zeros(D), np.eye(D_V, D + D_V, D), np.zeros(D_V))
    X = np.concatenate((Q, np.zeros_like(Q)), axis=1).T
    Z = np.concatenate((K, V), axis=1).T
    np.testing.assert_allclose(O, attention(X, Z, both, Mask.T).T, **EXACT)


@pytest.mark.parametrize(("B_r", "B_c"), TILES)
def test_values_and_gradients_equal_torchs_whatever_the_tiles(B_r: int, B_c: int) -> None:
    Q, K, V, dO, Mask = given()
    O, L = flash_attention_2_forward(Q, K, V, Mask, B_r, B_c)
    ours = O, L, *flash_attention_2_backward(Q, K, V, O, dO, L, Mask, B_r, B_c)
    for mine, theirs in zip(ours, gradients(Q, K, V, dO, Mask), strict=True):
        np.testing.assert_allclose(mine, theirs, **EXACT)


def test_scores_of_ten_thousand_do_not_overflow() -> None:
    Q, K, V, dO, Mask = given()
    Q, K = np.sign(Q) * 50.0, np.sign(K) * 40.0
    assert np.abs(Q @ K.T).max() == 10_000.0 and (Q @ K.T).min() == -10_000.0
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        O, L = flash_attention_2_forward(Q, K, V, Mask, 4, 3)
        ours = O, L, *flash_attention_2_backward(Q, K, V, O, dO, L, Mask, 4, 3)
    for mine, theirs in zip(ours, gradients(Q, K, V, dO, Mask), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-12, atol=1e-10)


def test_a_query_that_may_attend_to_nothing_gets_zero_and_moves_nothing() -> None:
    Q, K, V, dO, Mask = given()
    Mask[7] = False
    with np.errstate(invalid="raise", divide="raise"):
        O, L = flash_attention_2_forward(Q, K, V, Mask, 4, 3)
        dQ, dK, dV = flash_attention_2_backward(Q, K, V, O, dO, L, Mask, 4, 3)
    assert not O[7].any() and np.isneginf(L[7]) and not dQ[7].any()
    rest = np.arange(N) != 7
    expected = gradients(Q[rest], K, V, dO[rest], Mask[rest])
    for mine, theirs in zip((O[rest], L[rest], dQ[rest], dK, dV), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, **EXACT)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_merged_parts_are_the_attention_over_all_their_keys(scale: float) -> None:
    Q, K, V, _, Mask = given(scale=scale)
    Mask[7] = False
    of = np.random.default_rng(1).integers(0, 3, size=M)
    of[0], of[16] = 0, 2  # queries 3 and 4 attend to nothing in two of the parts
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        parts = [flash_attention_2_forward(Q, K[of == p], V[of == p], Mask[:, of == p], 4, 3) for p in range(3)]
        O, L = merge(parts)
    whole = flash_attention_2_forward(Q, K, V, Mask, N, M)
    np.testing.assert_allclose(O, whole[0], **EXACT)
    np.testing.assert_allclose(L, whole[1], **EXACT)
    assert not O[7].any() and np.isneginf(L[7])
