"""Drawings of masks, of attention and of its cost: what is drawn is what was counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from diptych.core.mask_text import KINDS
from diptych.evaluation.attention_cost import CostCell, CostConfig, CostResult
from diptych.evaluation.attention_layers import LayerSize
from diptych.nn.mask_text import parse_mask
from diptych.report import masks as drawing
from diptych.report.attention import AttentionMap, head_figure, heads_figure
from diptych.report.attention_cost import cost_figure, seconds
from diptych.report.masks import GALLERY, mask_picture, masks_figure, percentage, terminal
from diptych.report.plots import save_png, svg


def allowed(text: str, length: int) -> torch.Tensor:
    position = torch.arange(length)
    return parse_mask(text).allowed(position[None, :, None], position[None, None])[0].expand(length, length)


@pytest.mark.parametrize("text", GALLERY)
def test_cells_are_the_mask(text: str) -> None:
    picture = mask_picture(text, 16)
    assert torch.equal(picture.shares, allowed(text, 16).float())
    assert picture.allowed == allowed(text, 16).double().mean().item()


def test_the_gallery_has_every_kind() -> None:
    assert not [name for name in KINDS if not any(name in text for text in GALLERY) and name not in ("blocks",)]


@pytest.mark.parametrize(("length", "cells"), [(30, 7), (64, 8), (100, 33)])
def test_long_masks_are_drawn_by_shares(length: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_PAIRS", 13 * length)  # several goes
    text = "causal & (window(9) | strided(7))"
    picture, whole = mask_picture(text, length, cells), allowed(text, length).double()
    edges = torch.linspace(0, length, cells + 1).round().long().tolist()
    for y in range(cells):
        for x in range(cells):
            block = whole[edges[y] : edges[y + 1], edges[x] : edges[x + 1]]
            assert picture.shares[y, x].item() == pytest.approx(block.mean().item(), rel=1e-6)
    assert picture.allowed == whole.mean().item()


@pytest.mark.parametrize("length", [0, -3, 2**17 + 1])
def test_lengths_that_cannot_be_drawn(length: int) -> None:
    with pytest.raises(ValueError, match="cannot be drawn"):
        mask_picture("causal", length)


def test_masks_in_a_terminal() -> None:
    lines = [str(line) for line in terminal([mask_picture("causal", 3), mask_picture("full", 2)], 80)]
    assert lines == [
        "causal            full",
        "██····            ████",
        "████··            ████",
        "██████            100 % of pairs",
        "66.7 % of pairs",
    ]
    below = [str(line) for line in terminal([mask_picture("causal", 3), mask_picture("full", 2)], 20)]
    assert below[5:7] == ["", "full"]
    shaded = [str(line) for line in terminal([mask_picture("causal", 32, 2)], 20)]
    assert shaded[1:3] == ["▓▓··", "██▓▓"]  # 17 / 32 of the pairs on the diagonal
    assert percentage(1 / 3000) == "0.0333 %"


def test_a_figure_of_masks(tmp_path: Path) -> None:
    pictures = [mask_picture(text, 16) for text in GALLERY]
    for narrow in (False, True):
        figure = masks_figure(pictures, narrow=narrow)
        shown = [axes for axes in figure.axes if axes.axison]
        assert [axes.get_title().replace("\n", " ").replace("\xa0", " ") for axes in shown] == list(GALLERY)
        for axes, picture in zip(shown, pictures, strict=True):
            assert axes.get_xlabel() == f"{percentage(picture.allowed)} of pairs"
            grid = torch.zeros(16, 16)
            for patch in axes.patches:
                x, y = round(patch.get_x() + 0.5), round(patch.get_y() + 0.5)
                grid[y, x : x + round(patch.get_width())] = patch.get_alpha()
            assert torch.equal(grid, picture.shares)
    assert "<image" not in svg(masks_figure(pictures[:3]), "masks")
    save_png(masks_figure([mask_picture("causal & window(3)", 300)]), tmp_path / "long.png")
    assert (tmp_path / "long.png").read_bytes().startswith(b"\x89PNG")


def some_map(tokens: int, layers: tuple[int, ...] = ()) -> AttentionMap:
    weights = torch.rand(2, 3, tokens, tokens).softmax(-1)
    names = tuple(f"t{i}" for i in range(tokens))
    return AttentionMap(source=names, target=names, weights=weights, layers=layers)


def test_heads_are_chosen_by_number() -> None:
    found = some_map(4, (1, 3))
    assert torch.equal(found.mean(3, 2), found.weights[1, 1])
    torch.testing.assert_close(found.mean(1), found.weights[0].mean(0))
    torch.testing.assert_close(found.mean(), found.weights.mean((0, 1)))
    for layer, head in ((2, None), (0, 1), (1, 4), (1, 0)):
        with pytest.raises(ValueError, match=r"there is no"):
            found.mean(layer, head)


def test_figures_of_heads(tmp_path: Path) -> None:
    found = some_map(4, (1, 3))
    panels = heads_figure(found).axes
    assert len(panels) == 6
    assert [axes.get_title() for axes in panels[:3]] == ["head 1", "head 2", "head 3"]
    assert panels[3].get_ylabel() == "layer 3"
    drawn = torch.as_tensor(panels[5].images[0].get_array().data)
    torch.testing.assert_close(drawn, found.weights[1, 2], check_dtype=False)
    large = head_figure(found, 3, 2).axes[0]
    assert [text.get_text() for text in large.get_yticklabels()] == ["t0", "t1", "t2", "t3"]
    alphas = torch.tensor([patch.get_alpha() for patch in large.patches]).view(4, 4)
    torch.testing.assert_close(alphas, found.weights[1, 1])
    assert large.get_xlabel() == "layer 3, head 2"
    long = head_figure(some_map(200)).axes[0]
    assert len(long.get_yticklabels()) == 100 and not long.patches  # names that would overlap are left out
    save_png(heads_figure(found), tmp_path / "heads.png")
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("with_memory", [True, False])
def test_a_figure_of_costs(narrow: bool, with_memory: bool) -> None:
    forms, lengths = ("naive", "full", "linear"), (8, 16, 32)
    cells = tuple(
        CostCell(form=form, length=n, seconds=(1e-4 * n**power,), n_bytes=100 * n**power if with_memory else None)
        for power, form in ((2, "naive"), (1, "full"))
        for n in lengths
    )
    config = CostConfig(forms=forms, lengths=lengths, size=LayerSize(d_model=8, n_heads=2))
    figure = cost_figure(CostResult(config=config, machine="", cells=cells), narrow=narrow)
    assert len(figure.axes) == 1 + with_memory
    for axes in figure.axes:
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels == ["naive:  n^(2.00 ± 0.00)", "full:  n^(1.00 ± 0.00)"]  # what was not measured is left out
        assert axes.get_xscale() == axes.get_yscale() == "log"
    assert list(figure.axes[0].lines[0].get_ydata()) == [1e-4 * n**2 for n in lengths]
    svg(figure, "cost")


@pytest.mark.parametrize(("value", "text"), [(2.5, "2.5 s"), (0.0123, "12.3 ms"), (45e-6, "45 µs")])
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text
