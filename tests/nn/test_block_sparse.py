"""Attention in pieces equals attention under the dense mask, forward and backward, and skips what is hidden."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.types import Mask
from diptych.nn import block_sparse
from diptych.nn.attention import attention
from diptych.nn.block_sparse import Pieces, block_sparse_attention, cut
from diptych.nn.lowering import Lowered, Scope, choose, in_form, lower
from diptych.nn.mask_text import parse_mask
from diptych.nn.masks import Causal, Documents, Keys
from diptych.nn.positions import alibi_slopes

TEXTS = (
    "causal",
    "causal & window(70)",
    "causal & (window(70) | sinks(4))",
    "causal & (window(50) | global(3))",
    "causal & (window(32) | strided(32))",
    "strided(7)",
    "causal & strided(50)",
    "bigbird(64)",
    "causal & bigbird(16, 1, 1, 2)",
    "causal & documents(100, 30, 200)",
    "causal & fixed(128, 8)",
    "blocks(64)",
    "block_diffusion(32, 160)",
    "prefix(90)",
    "window(40, 40)",
)


def _inputs(n: int, *, rows: int = 2, heads: tuple[int, int] = (4, 2), keys: int | None = None) -> list[Tensor]:
    generator = torch.Generator().manual_seed(n)
    shapes = ((heads[0], n), (heads[1], keys or n), (heads[1], keys or n))
    return [torch.randn(rows, h, t, 8, generator=generator, dtype=torch.float64, requires_grad=True) for h, t in shapes]


def _compare(mask: Mask, inputs: list[Tensor], *, offset: int = 0, slopes: Tensor | None = None) -> Pieces:
    """Pieces against torch's attention under the dense mask; 1e-12 for the output and all gradients."""
    query, key, value = inputs
    pieces = replace(cut(mask, queries=query.shape[2], keys=key.shape[2], offset=offset), slopes=slopes)
    dense = in_form("dense", mask, Scope(query.shape[2], key.shape[2], offset, slopes)).dense
    assert dense is not None
    dense = dense if slopes is None else dense.double()
    got = block_sparse_attention(query, key, value, pieces)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=dense, enable_gqa=True)
    probe = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(1))
    for ours, theirs in zip(
        (got, *torch.autograd.grad(got, inputs, probe)),
        (expected, *torch.autograd.grad(expected, inputs, probe)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    return pieces


@pytest.mark.parametrize("n", [1, 63, 320])
@pytest.mark.parametrize("text", TEXTS)
def test_pieces_equal_the_dense_mask(text: str, n: int) -> None:
    _compare(parse_mask(text), _inputs(n))


@pytest.mark.parametrize("text", TEXTS)
def test_every_allowed_pair_lies_in_exactly_one_piece(text: str) -> None:
    n = 300
    pieces = cut(parse_mask(text), queries=n, keys=n, offset=0)
    times = torch.zeros(n, n, dtype=torch.int)
    for piece in pieces.pieces:
        rows, keys = torch.arange(n)[piece.rows], torch.arange(n)[piece.keys]
        times[rows[:, None], keys] += block_sparse._decide(piece, 0)[0].int()
    assert torch.equal(times, pieces.dense()[0, 0].int())


def test_masks_of_rows_that_differ_later_queries_and_biases() -> None:
    ids = torch.tensor([[0] * 100 + [1] * 150, [0] * 30 + [1] * 220])
    _compare(Causal() & Documents(ids), _inputs(250))
    _compare(Causal() & Keys(torch.tensor([250, 90])), _inputs(250))
    _compare(parse_mask("causal & (window(20) | strided(16))") & Documents(ids), _inputs(250))
    _compare(parse_mask("causal & (window(40) | sinks(3))"), _inputs(130, keys=190), offset=60)
    _compare(parse_mask("causal & (window(40) | strided(30))"), _inputs(130, keys=190), offset=60)
    _compare(parse_mask("causal & window(70)"), _inputs(200), slopes=alibi_slopes(4))


def test_what_is_too_large_to_decide_beforehand_is_decided_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_sparse, "MOST_DECIDED", 0)
    pieces = _compare(parse_mask("causal & (window(70) | sinks(4))"), _inputs(320))
    assert all(piece.allowed is None for piece in pieces.pieces)
    _compare(parse_mask("causal & (window(32) | strided(32))"), _inputs(320))


@pytest.mark.parametrize("text", TEXTS)
def test_blocks_that_are_allowed_whole_stand_apart_from_those_that_a_mask_decides(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_sparse, "MASK_COST", block_sparse.PIECE_COST)  # one block is worth a piece
    mask = parse_mask(text)
    _compare(mask, _inputs(320))
    for piece in block_sparse._in_order(mask, 320, 320, 0):
        keys = torch.arange(320)[piece.keys].view(-1, 64)
        blocks = mask.allowed(torch.arange(320)[None, piece.rows, None], keys.flatten()[None, None]).unflatten(
            2, (-1, 64)
        )
        assert blocks.all() if piece.mask is None else not blocks.all(3).all(1).any()


def test_rows_that_may_attend_to_nothing_are_zero_and_harm_no_gradient() -> None:
    query, key, value = inputs = _inputs(200)
    mask = parse_mask("causal & window(16)") & Keys(torch.tensor([100, 200]))
    for pieces in (
        cut(mask, queries=200, keys=200, offset=0),
        replace(cut(mask, queries=200, keys=200, offset=0), once=False),
    ):
        out = block_sparse_attention(query, key, value, pieces)
        assert bool((out[0, :, 115:] == 0).all()) and bool((out[0, :, :115] != 0).all())
        for gradient in torch.autograd.grad(out.square().sum(), inputs):
            assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_mask_hides_moves_no_output_by_one_bit(text: str, dtype: torch.dtype) -> None:
    n = 300
    pieces = cut(parse_mask(text), queries=n, keys=n, offset=0)
    dense = pieces.dense()[0, 0]
    query, key, value = (x.detach().to(dtype) for x in _inputs(n, rows=1))
    before = block_sparse_attention(query, key, value, pieces)
    hidden = 217
    key, value = key.clone(), value.clone()
    key[:, :, hidden], value[:, :, hidden] = 1e4, -1e4
    after = block_sparse_attention(query, key, value, pieces)
    unseen = ~dense[:, hidden]
    assert torch.equal(before[:, :, unseen], after[:, :, unseen])
    assert not bool(unseen.all()) and not torch.equal(before[:, :, ~unseen], after[:, :, ~unseen])


def test_work_is_what_the_mask_leaves() -> None:
    """Scores computed for n = 4,096, against those allowed."""
    n = 4096
    for text, most in (
        ("causal & window(256)", 1.3),  # a piece of 64 rows needs 64 keys more than a row
        ("causal & (window(256) | sinks(4))", 1.3),
        ("causal & (window(64) | strided(64))", 2.6),  # a causal triangle of 64 x 64 for each remainder, and the window
        ("causal & fixed(128, 8)", 2.0),
        ("bigbird(64)", 1.05),
    ):
        pieces = cut(parse_mask(text), queries=n, keys=n, offset=0)
        computed = sum(piece.n_rows * piece.n_keys for piece in pieces.pieces)
        allowed = int(parse_mask(text).allowed(torch.arange(n)[None, :, None], torch.arange(n)[None, None]).sum())
        assert allowed <= computed <= most * allowed, (text, computed / allowed)


def test_the_form_is_chosen_by_mask_length_and_device() -> None:
    window = parse_mask("causal & window(64)")
    assert choose(window, Scope(256, 256)) == "dense"
    assert choose(window, Scope(4096, 4096)) == "pieces"
    assert choose(window, Scope(4096, 4096, device="cuda")) == "flex"
    assert choose(window, Scope(4096, 4096, device="mps")) == "dense"
    assert choose(Causal(), Scope(4096, 4096)) == "causal"
    assert choose(Causal(), Scope(4096, 4096, slopes=alibi_slopes(4))) == "pieces", "never a bias of n x n"
    assert choose(parse_mask("window(4000, 4000)"), Scope(4096, 4096)) == "dense", "hardly anything to skip"
    assert choose(window, Scope(1, 4096, 4095)) == "dense"
    assert lower(window, queries=64, keys=64, offset=0).form == "causal", "a window that hides nothing"
    assert lower(window, queries=1, keys=64, offset=63).form == "none"


def test_attention_takes_every_form_and_drops_out_under_pieces() -> None:
    query, key, value = (x.detach() for x in _inputs(600, rows=1))
    mask = parse_mask("causal & window(64)")
    dense = in_form("dense", mask, Scope(600, 600))
    pieces = in_form("pieces", mask, Scope(600, 600))
    assert (dense.form, pieces.form) == ("dense", "pieces")
    torch.testing.assert_close(attention(query, key, value, pieces), attention(query, key, value, dense))
    torch.manual_seed(0)
    dropped = attention(query, key, value, pieces, dropout=0.5)
    assert not torch.allclose(dropped, attention(query, key, value, dense))


def test_compiled_flex_attention_equals_the_dense_mask() -> None:
    """Forward, which is all that FlexAttention does on a processor; compiled, as it is used."""
    from diptych.training.compilation import why_not

    if why_not("cpu") is not None:
        pytest.skip("there is no compiler")
    from diptych.nn.flex import attention_by_blocks

    n = 300
    query, key, value = (x.detach().float() for x in _inputs(n))
    query, key, value = (F.pad(x, (0, 8)) for x in (query, key, value))
    ids = torch.tensor([[0] * 100 + [1] * 200, [0] * 30 + [1] * 270])
    texts = ("causal & (window(70) | sinks(4))", "bigbird(64)", "causal & documents(90, 210) & full")
    for mask in (*map(parse_mask, texts), Causal() & Documents(ids)):
        lowered = in_form("flex", mask, Scope(n, n))
        assert lowered.flex is not None
        dense = in_form("dense", mask, Scope(n, n)).dense
        with torch.no_grad():
            got = attention_by_blocks(query, key, value, lowered.flex)
        expected = F.scaled_dot_product_attention(query, key, value, attn_mask=dense, enable_gqa=True)
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


def test_a_lowered_bias_takes_the_precision_of_the_scores() -> None:
    lowered = lower(Causal(), queries=3, keys=3, offset=0, slopes=alibi_slopes(2))
    assert lowered.in_precision(torch.bfloat16).dense.dtype == torch.bfloat16  # type: ignore[union-attr]
    assert (
        Lowered(dense=torch.ones(1, 1, 2, 2, dtype=torch.bool)).in_precision(torch.bfloat16).dense.dtype == torch.bool
    )  # type: ignore[union-attr]
