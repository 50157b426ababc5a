"""Near and far attention against every pair's own rotation, and its parts: disjoint, and causal together."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import finalize

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from diptych.core.config import PositionScheme
from diptych.nn.block_sparse import spans
from diptych.nn.masks import Causal, Documents, Full, Keys, Sinks, Span
from diptych.nn.near_far import Chunks, NearFar, near_far, parts_of
from diptych.nn.patterns import Cuts
from diptych.nn.positions import rope_frequencies, rotation

N, D, L = 40, 8, 16
SCHEMES = {
    "string": PositionScheme(kind="string", shift=11, window=3),
    "rerope": PositionScheme(kind="rerope", window=7),
    "self_extend": PositionScheme(kind="self_extend", window=6, group=4),
    "dca": PositionScheme(kind="dca", chunk=9, window=5, length=L),
    "dca, short window": PositionScheme(kind="dca", chunk=9, window=3, length=L),
    "streaming": PositionScheme(kind="streaming", sinks=2, window=9),
}
FREQUENCIES = rope_frequencies(D, 100.0, None).double()
TURN = partial(rotation, frequencies=FREQUENCIES, dtype=torch.float64)


def told(name: str, m: int, n: int) -> int | None:
    """The relative position of query m and key n as the papers write it; None: not attended to."""
    if n > m:
        return None
    delta = m - n
    match name:
        case "string":
            return delta if delta < 11 else delta - 11 + 3
        case "rerope":
            return min(delta, 7)
        case "self_extend":
            return delta if delta < 6 else m // 4 - n // 4 + 6 - 6 // 4
        case "dca" | "dca, short window":
            c, s, w = 16, 9, 5 if name == "dca" else 3
            if m // s == n // s:
                return delta
            if m // s - n // s == 1:
                successive = [*range(s, s + w), *[c - 1] * (s - w)]
                return successive[m % s] - n % s
            return c - 1 - n % s
        case _:
            # The cache holds the sinks, then the window; a key's position is its place there, the query's the last.
            held = [j for j in range(m + 1) if j < 2 or j > m - 9]
            return len(held) - 1 - held.index(n) if n in held else None


def distances(name: str, n: int = N) -> list[list[int | None]]:
    return [[told(name, i, j) for j in range(n)] for i in range(n)]


def by_pairs(query: Tensor, key: Tensor, value: Tensor, table: list[list[int | None]]) -> Tensor:
    """softmax over all keys of q^T R(relative position) k, each pair rotated by complex numbers of its own."""
    half = query.shape[-1] // 2
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
    q, k = (torch.complex(x[..., :half], x[..., half:]) for x in (query, key))
    relative = torch.tensor([[0 if one is None else one for one in row] for row in table])
    hidden = torch.tensor([[one is None for one in row] for row in table])
    turn = torch.polar(torch.ones(()).double(), relative[..., None] * FREQUENCIES)
    scores = torch.einsum("bhid,bhjd,ijd->bhij", q.conj(), k, turn.conj()).real / math.sqrt(query.shape[-1])
    return torch.softmax(scores.masked_fill(hidden, -math.inf), dim=-1) @ value


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def given(n: int = N, h: int = 4, g: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = (normal(2, heads, n, D, seed=i) for i, heads in enumerate((h, g, g)))
    return query * 3, key, value


def lowered(name: str, n: int = N, offset: int = 0, queries: int | None = None) -> NearFar:
    return near_far(Causal(), SCHEMES[name], TURN, queries=queries or n, keys=offset + (queries or n), offset=offset)


def read(parts: NearFar, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """A whole text, read at once."""
    return parts.attend(query, parts.kept(key), value)


@pytest.mark.parametrize("name", SCHEMES)
def test_it_equals_the_rotation_of_every_pair_by_its_own_relative_position(name: str) -> None:
    query, key, value = given()
    expected = by_pairs(query, key, value, distances(name))
    torch.testing.assert_close(read(lowered(name), query, key, value), expected, rtol=0, atol=1e-12)
    plain = by_pairs(query, key, value, [[i - j if j <= i else None for j in range(N)] for i in range(N)])
    assert (expected - plain).abs().max() > 0.1  # the scheme matters here


@pytest.mark.parametrize("name", SCHEMES)
def test_scale_of_yarn_multiplies_each_query_and_each_key_once(name: str) -> None:
    query, key, value = given()
    turn = partial(TURN, scale=1.3)
    parts = near_far(Causal(), SCHEMES[name], turn, queries=N, keys=N, offset=0)
    expected = by_pairs(query * 1.3, key * 1.3, value, distances(name))
    torch.testing.assert_close(read(parts, query, key, value), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_later_passage_equals_the_same_rows_of_the_whole(name: str) -> None:
    query, key, value = given(200)
    expected = by_pairs(query, key, value, distances(name, 200))
    held = key[:, :, :0]
    for offset, queries in ((0, 130), (130, 1), (131, 69)):
        end = offset + queries
        parts = lowered(name, offset=offset, queries=queries)
        held = torch.cat((held, parts.kept(key[:, :, offset:end])), dim=2)
        found = parts.attend(query[:, :, offset:end], held, value[:, :, :end])
        torch.testing.assert_close(found, expected[:, :, offset:end], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEMES)
def test_rows_of_different_lengths_go_by_their_own_positions(name: str) -> None:
    query, key, value = given()
    lengths = torch.tensor([30, 13])
    expected = by_pairs(query, key, value, distances(name))
    last, new = (
        torch.stack([x[row, :, length : length + 2] for row, length in enumerate(lengths)]) for x in (query, key)
    )
    parts = near_far(Causal(), SCHEMES[name], TURN, queries=2, keys=32, offset=lengths)
    held = lowered(name, 32).kept(key[:, :, :32])
    for row, length in enumerate(lengths):
        held[row, :, length : length + 2] = parts.kept(new)[row]
    found = parts.attend(last, held, value[:, :, :32])
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row], expected[row, :, length : length + 2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEMES)
def test_branches_of_a_text_go_by_their_positions(name: str) -> None:
    """Two branches after 30 tokens, of 3 and 4, equal each alone."""
    query, key, value = given(37)
    positions = torch.tensor([[30, 31, 32, 30, 31, 32, 33]])
    mask = Causal() & (Sinks(30) | Cuts((30, 3, 4)))
    tree = near_far(mask, SCHEMES[name], TURN, queries=7, keys=37, offset=30, positions=positions)
    held = torch.cat((lowered(name, 30).kept(key[:, :, :30]), tree.kept(key[:, :, 30:])), dim=2)
    found = tree.attend(query[:, :, 30:], held, value)
    for branch in (slice(30, 33), slice(33, 37)):
        rows = [*range(30), *range(branch.start, branch.stop)]
        alone = by_pairs(query[:, :, rows], key[:, :, rows], value[:, :, rows], distances(name, len(rows)))
        torch.testing.assert_close(
            found[:, :, branch.start - 30 : branch.stop - 30], alone[:, :, 30:], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("name", SCHEMES)
def test_keys_may_stand_anywhere_in_a_row(name: str) -> None:
    """As a ring of keys gives them: in any order, some slots empty."""
    query, key, value = given()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(5))
    places = torch.cat((order, torch.tensor([-1, -1])))[None]
    slots = torch.cat((order, torch.tensor([0, 3])))
    parts = near_far(Causal(), SCHEMES[name], TURN, queries=2, keys=N, offset=N - 2, key_positions=places.expand(2, -1))
    found = parts.attend(query[:, :, N - 2 :], lowered(name).kept(key)[:, :, slots], value[:, :, slots])
    expected = by_pairs(query, key, value, distances(name))[:, :, N - 2 :]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEMES)
def test_parts_share_no_pair_and_are_causal_together(name: str) -> None:
    place = torch.arange(N)
    query, key = place[None, :, None], place[None, None, :]
    seen = sum((part.mask.allowed(query, key) & Causal().allowed(query, key)).int() for part in parts_of(SCHEMES[name]))
    expected = torch.tensor([[one is not None for one in row] for row in distances(name)]).int()
    assert torch.equal(torch.as_tensor(seen)[0], expected)


def test_gradients_go_through_all_parts() -> None:
    query, key, value = (x.requires_grad_() for x in given())
    for name in SCHEMES:
        ours = torch.autograd.grad(read(lowered(name), query, key, value).pow(2).sum(), (query, key, value))
        expected = torch.autograd.grad(by_pairs(query, key, value, distances(name)).pow(2).sum(), (query, key, value))
        for one, other in zip(ours, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", SCHEMES)
def test_long_texts_are_cut_into_pieces_and_give_the_same(name: str) -> None:
    n = 700
    query, key, value = given(n, 2, 1)
    parts = lowered(name, n)
    assert all(part.mask.form == "pieces" for part in parts.parts)  # memory grows with n, not with n^2
    rows = torch.tensor([0, 5, 63, 64, 300, n - 1])
    table = [[told(name, int(i), j) for j in range(n)] for i in rows]
    expected = by_pairs(query[:, :, rows], key, value, table)
    torch.testing.assert_close(read(parts, query, key, value)[:, :, rows], expected, rtol=0, atol=1e-12)


LONG = {
    "string": lambda n: PositionScheme(kind="string", shift=n // 3, window=128),
    "rerope": lambda n: PositionScheme(kind="rerope", window=n // 2),
    "self_extend": lambda n: PositionScheme(kind="self_extend", window=n // 4, group=8),
    "dca": lambda n: PositionScheme(kind="dca", chunk=3 * n // 8, window=n // 8, length=n // 2),
    "streaming": lambda n: PositionScheme(kind="streaming", sinks=4, window=n // 2),
}
"""Schemes whose widths are a share of the text, as `diptych.core.context_extension` derives them."""


class Peak(TorchDispatchMode):
    """Counts the bytes of all tensors that operations make and that are still alive, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for storage in (x.untyped_storage() for x in tree_leaves(made) if isinstance(x, Tensor)):
            if storage._cdata not in self.alive:
                self.alive[storage._cdata] = storage.nbytes()
                finalize(storage, self.alive.pop, storage._cdata)
        self.peak = max(self.peak, sum(self.alive.values()))
        return made


def peak_of_long_text(name: str, n: int) -> int:
    """Bytes that stand at most while n tokens are read by one head, masks included."""
    query, key, value = (torch.zeros(1, 1, n, D) for _ in range(3))
    turn = partial(rotation, frequencies=FREQUENCIES.float(), dtype=torch.float32)
    with torch.inference_mode(), Peak() as seen:
        read(near_far(Causal(), LONG[name](n), turn, queries=n, keys=n, offset=0), query, key, value)
    return seen.peak


@pytest.mark.parametrize("name", LONG)
def test_memory_of_a_long_text_grows_in_line_with_it(name: str) -> None:
    """From twice the tokens no more than twice the bytes, where masks of near and far would take four times."""
    shorter, longer = (peak_of_long_text(name, n) for n in (4096, 8192))
    assert longer >= 8192 * 6 * D * 4  # rotated queries and keys, cosines and sines of both, are seen
    assert longer <= 2.2 * shorter


def test_bounds_of_chunks_are_those_of_their_pairs() -> None:
    place = torch.arange(60)
    query, key = spans(60, 7, 0), spans(60, 5, 0)
    for mask in (Chunks(9, 0, 0), Chunks(9, 1, 1), Chunks(9, 2), Chunks(4, 1, 3)):
        allowed = mask.allowed(place[None, :, None], place[None, None, :])[0]
        found = mask.bounds(query, Span(*(x.transpose(1, 2) for x in key)))
        for i in range(found.some.shape[1]):
            for j in range(found.some.shape[2]):
                block = allowed[7 * i : 7 * i + 7, 5 * j : 5 * j + 5]
                assert bool(found.some[0, i, j]) == bool(block.any())
                assert bool(found.every[0, i, j]) <= bool(block.all())


def test_padded_keys_stay_unseen() -> None:
    query, key, value = given()
    lengths = torch.tensor([N, 25])
    parts = near_far(Causal() & Keys(lengths), SCHEMES["string"], TURN, queries=N, keys=N, offset=0)
    expected = by_pairs(query, key, value, distances("string"))
    found = read(parts, query, key, value)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1, :, :25], expected[1, :, :25], rtol=0, atol=1e-12)
    assert not torch.allclose(found[1, :, 25:], expected[1, :, 25:])


def test_masks_that_a_scheme_cannot_obey_are_refused() -> None:
    for mask in (Full(), Causal() & Documents(torch.zeros(2, N, dtype=torch.long))):
        with pytest.raises(ValueError, match=r"^the positions of string [^\n]+$"):
            near_far(mask, SCHEMES["string"], TURN, queries=N, keys=N, offset=0)


def test_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.dropout = 0\.0"):
        lowered("string").attend(*given(), dropout=0.1)
