"""Masks: each equals its definition written out, bounds what it says of blocks, and hides what it hides."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.mask_text import KINDS, LONGEST
from diptych.core.types import Mask
from diptych.nn.block_sparse import spans
from diptych.nn.lowering import lower
from diptych.nn.mask_text import mask_text, parse_mask
from diptych.nn.masks import Causal, Documents, Except, Full, Keys, Span, Within
from diptych.nn.reach import Reach, reach_of

N = 48
DEFINITIONS: dict[str, Callable[[int, int], bool]] = {
    "full": lambda q, k: True,
    "causal": lambda q, k: k <= q,
    "prefix(9)": lambda q, k: k <= q or (k < 9),
    "window(5)": lambda q, k: k > q - 5,
    "window(5, 2)": lambda q, k: q - 5 < k <= q + 2,
    "sinks(3)": lambda q, k: k in (0, 1, 2),
    "global(3)": lambda q, k: min(q, k) < 3,
    "strided(7)": lambda q, k: (q - k) % 7 == 0,
    "blocks(6)": lambda q, k: q // 6 == k // 6,
    "fixed(8, 2)": lambda q, k: q // 8 == k // 8 or k % 8 in (6, 7),
    "documents(5, 20, 4)": lambda q, k: all(not min(q, k) < end <= max(q, k) for end in (5, 25)),
    "block_causal(8)": lambda q, k: k < (q // 8 + 1) * 8,
    "block_diffusion(6, 24)": lambda q, k: _block_diffusion(q, k, 6, 24),
    "causal & (window(4) | strided(9))": lambda q, k: k <= q and (q - k < 4 or (q - k) % 9 == 0),
    "window(4) | sinks(2) & causal": lambda q, k: q - k < 4 or (k < 2 and k <= q),
}
"""Every mask but BigBird, in words of its paper."""

BIGBIRD = "bigbird(4, 1, 2, 3, 7)"


def _block_diffusion(q: int, k: int, block: int, length: int) -> bool:
    """Arriola et al. 2025, section 3.2: M_BD, M_OBC and M_BC."""
    if q < length and k < length:
        return q // block == k // block
    if q < length <= k:
        return (k - length) // block < q // block
    return q >= length and k >= length and (k - length) // block <= (q - length) // block


def _pairs(mask: Mask, queries: int = N, keys: int = N) -> torch.Tensor:
    return mask.allowed(torch.arange(queries)[None, :, None], torch.arange(keys)[None, None, :])


def test_every_mask_that_has_a_text_is_defined_here() -> None:
    assert {text.split("(")[0] for text in (*DEFINITIONS, BIGBIRD)} >= set(KINDS)


@pytest.mark.parametrize("text", DEFINITIONS)
def test_masks_equal_their_definitions(text: str) -> None:
    got = _pairs(parse_mask(text))[0]
    for q, k in product(range(N), range(N)):
        assert bool(got[q, k]) == DEFINITIONS[text](q, k), (q, k)


def test_bigbird_sees_neighbours_first_blocks_and_random_ones_that_do_not_change_as_text_grows() -> None:
    n, block = 400, 4
    small, large = (_pairs(parse_mask(BIGBIRD), m, m)[0] for m in (n, 2 * n))
    assert torch.equal(large[:n, :n], small), "what a position sees does not depend on the length"
    assert torch.equal(small, small.T)
    blocks = small[::block, ::block]
    assert torch.equal(blocks.repeat_interleave(block, 0).repeat_interleave(block, 1), small)
    others = []
    for q in range(3, n // block):
        assert bool(blocks[q, [0, 1, q - 1, q]].all())
        others.append(int(blocks[q, 2 : q - 1].sum()))
    assert max(others) == 3 and sum(others[50:]) > 2.5 * len(others[50:]), "three random ones, seldom twice the same"
    drawn = torch.cat([blocks[q, 2 : q - 1].nonzero()[:, 0].double() / (q - 3) for q in range(60, 100)])
    assert abs(float(drawn.mean()) - 0.5) < 4 * (1 / 12 / len(drawn)) ** 0.5, "from anywhere before"
    assert not torch.equal(_pairs(parse_mask("bigbird(4, 1, 2, 3, 8)"), n, n)[0], small)


IDS = torch.tensor([[0, 0, 1, 1, 1, 2] * 4, [0, 1, 1, 1, 2, 2] * 4]).sort(dim=1).values
PLACES = torch.tensor([[*range(7), *range(9), *range(8)], [*range(20), *range(4)]])
MASKS = (
    *map(parse_mask, (*DEFINITIONS, BIGBIRD)),
    Documents(IDS),
    Documents(IDS.flip(1)),
    Keys(torch.tensor([7, 20])),
    *(Within(parse_mask(text), PLACES) for text in ("sinks(2)", "blocks(3)", "prefix(4)")),
)


@settings(max_examples=150, deadline=None)
@given(
    masks=st.tuples(st.sampled_from(MASKS), st.sampled_from(MASKS)),
    join=st.sampled_from(["first", "both", "either", "except"]),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    offset=st.integers(0, 4),
)
def test_bounds_on_blocks_never_lie(masks: tuple[Mask, Mask], join: str, sizes: tuple[int, int], offset: int) -> None:
    first, second = masks
    mask = {"first": first, "both": first & second, "either": first | second, "except": Except(first, second)}[join]
    queries, keys = 20, 24
    query, key = spans(queries, sizes[0], offset), spans(keys, sizes[1], 0)
    found = mask.bounds(query, Span(*(position.transpose(1, 2) for position in key)))
    allowed = mask.allowed(torch.arange(offset, offset + queries)[None, :, None], torch.arange(keys)[None, None, :])
    for b, i, j in product(range(len(allowed)), range(query.first.shape[1]), range(key.first.shape[1])):
        block = allowed[b, i * sizes[0] : (i + 1) * sizes[0], j * sizes[1] : (j + 1) * sizes[1]]
        some, every = (bound.expand(len(allowed), -1, -1)[b, i, j] for bound in found)
        assert bool(some) or not block.any()
        assert not bool(every) or block.all()


@pytest.mark.parametrize("text", [*DEFINITIONS, BIGBIRD])
def test_bounds_of_single_masks_are_exact_on_their_own_blocks(text: str) -> None:
    """What a bound leaves open is work, so the plain masks must not leave open what is settled."""
    mask, size = parse_mask(text), 4
    if "&" in text:
        return  # joined bounds may be loose
    query = spans(N, size, 0)
    found = mask.bounds(query, Span(*(position.transpose(1, 2) for position in query)))
    blocks = _pairs(mask)[0].unfold(0, size, size).unfold(1, size, size).flatten(2)
    assert torch.equal(found.some[0], blocks.any(-1))
    if not text.startswith(("fixed", "prefix")):  # made of two parts that may fill a block together
        assert torch.equal(found.every[0], blocks.all(-1))


@pytest.mark.parametrize("text", [*DEFINITIONS, BIGBIRD, "causal & (window(9) | sinks(2) | global(1)) & blocks(20)"])
def test_masks_reach_no_farther_than_they_say(text: str) -> None:
    mask = parse_mask(text)
    reach = reach_of(mask)
    if reach is None:
        return
    allowed = _pairs(mask)[0] & torch.ones(N, N).tril().bool()
    for q, k in allowed.nonzero().tolist():
        assert k < reach.first or q - k < reach.recent


def test_places_are_counted_from_each_documents_beginning() -> None:
    """Sinks of a row of two documents: the first keys of each."""
    got = _pairs(Within(parse_mask("sinks(2)"), PLACES), 24, 24)
    for row, places in enumerate(PLACES.tolist()):
        assert got[row, 5].tolist() == [place < 2 for place in places]


def test_reaches() -> None:
    assert reach_of(parse_mask("causal & (window(9) | sinks(2))")) == Reach(2, 9)
    assert reach_of(parse_mask("window(9) & blocks(4)")) == Reach(0, 4)
    assert reach_of(parse_mask("window(9) | strided(4)")) is None


@pytest.mark.parametrize("text", [*DEFINITIONS, BIGBIRD])
def test_text_makes_the_mask_that_makes_the_text(text: str) -> None:
    assert parse_mask(mask_text(parse_mask(text))) == parse_mask(text)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "at its end a mask is missing"),
        ("windw(3)", "did you mean window?"),
        ("window", "it is written window(width, [ahead])"),
        ("window(0)", "width of window must be a whole number from 1"),
        ("window(3", "a parenthesis is not closed"),
        ("window(3,)", "takes whole numbers with commas between"),
        ("causal causal", "cannot be read from 'causal' on"),
        ("causal + full", "cannot be read from '+ full' on"),
        ("é", "it may hold names"),
        ("(" * LONGEST + ")" * LONGEST, "longer than any that makes sense"),
    ],
)
def test_a_faulty_text_is_refused_in_one_line(text: str, part: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_mask(text)
    assert part in str(error.value) and "\n" not in str(error.value)


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
