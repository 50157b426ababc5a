"""Masks: each equals its definition written out, and hides what it hides."""

from __future__ import annotations

from itertools import product

import torch

from diptych.nn.masks import Causal, Documents, Full, Keys, lower


def _dense(mask: object, queries: int, keys: int, offset: int | torch.Tensor = 0) -> torch.Tensor:
    lowered = lower(mask, queries=queries, keys=keys, offset=offset, slopes=None)
    if lowered.dense is not None:
        return lowered.dense[:, 0]
    shape = torch.ones(1, queries, keys, dtype=torch.bool)
    return shape.tril() if lowered.causal else shape


def test_masks_and_their_compositions_equal_their_definitions() -> None:
    ids = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 1, 1, 1, 2, 2]])
    lengths = torch.tensor([4, 6])
    same = lambda b, q, k: bool(ids[b, q] == ids[b, k])  # noqa: E731
    cases = [
        (Full(), lambda b, q, k: True),
        (Causal(), lambda b, q, k: k <= q),
        (Documents(ids), same),
        (Keys(lengths), lambda b, q, k: k < lengths[b]),
        (Causal() & Documents(ids), lambda b, q, k: k <= q and same(b, q, k)),
        (Causal() | Documents(ids), lambda b, q, k: k <= q or same(b, q, k)),
        ((Full() & Causal()) | Keys(lengths), lambda b, q, k: k <= q or k < lengths[b]),
    ]
    for mask, rule in cases:
        got = _dense(mask, 6, 6).expand(2, 6, 6)
        for b, q, k in product(range(2), range(6), range(6)):
            assert bool(got[b, q, k]) == bool(rule(b, q, k)), (mask, b, q, k)


def test_offsets_shift_the_queries() -> None:
    assert torch.equal(_dense(Causal(), 2, 5, 3)[0], torch.ones(5, 5).tril()[3:].bool())
    ragged = _dense(Causal(), 2, 6, torch.tensor([1, 4]))
    assert torch.equal(ragged[0], torch.ones(6, 6).tril()[1:3].bool())
    assert torch.equal(ragged[1], torch.ones(6, 6).tril()[4:6].bool())


def test_the_cheapest_form_is_chosen() -> None:
    assert lower(Causal(), queries=8, keys=8, offset=0, slopes=None).causal
    one = lower(Causal(), queries=1, keys=9, offset=8, slopes=None)
    assert one.dense is None and not one.causal
    assert lower(Full(), queries=8, keys=8, offset=0, slopes=None).dense is None


def test_alibi_adds_slope_times_distance() -> None:
    slopes = torch.tensor([0.5, 0.25])
    bias = lower(Causal(), queries=4, keys=4, offset=0, slopes=slopes).dense
    for h, q, k in product(range(2), range(4), range(4)):
        expected = -float(slopes[h]) * (q - k) if k <= q else float("-inf")
        assert bias[0, h, q, k] == expected
