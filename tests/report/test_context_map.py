"""A map of depth against length shows each cell's score, what parts it at tau, and the claim."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.patches import Rectangle
from tests.context_results import LENGTHS, RESULT, TASK, WHOLE, cells
from tests.report.figure_parts import marked, panel, texts

from diptych.report.context_map import depth_map
from diptych.report.plots import svg


@pytest.mark.parametrize("narrow", [False, True])
def test_every_cell_of_a_map_has_its_colour_its_score_and_its_number(narrow: bool) -> None:
    axes = panel(depth_map(RESULT, TASK, narrow=narrow))
    colours = {
        (patch.get_x() + 0.5, patch.get_y() + 0.5): patch.get_facecolor()
        for patch in axes.patches
        if isinstance(patch, Rectangle)
    }
    shown = {(*text.get_position(), text.get_text()) for text in axes.texts}
    assert len(TASK.cells) == len(colours) == 30
    for cell in TASK.cells:
        place = LENGTHS.index(cell.length), cell.depth
        assert colours[place] == pytest.approx(mpl.colormaps["cividis"](cell.score), abs=1 / 255)
        assert (*place, f"{cell.score:.2f}") in shown
        assert (place[0], place[1] + 0.06, f"n {cell.n}") in shown
    assert axes.yaxis_inverted() and axes.get_yticklabels()[0].get_text() == "0–20 %"
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"{n:,}" for n in LENGTHS]


def test_a_line_parts_what_reaches_tau_and_the_ends_of_the_bracket_are_marked() -> None:
    figure = depth_map(RESULT, TASK)
    # The model sees 1,100 tokens: of 1,218 not all of the first fifth, of 1,448 neither of the second, and so on.
    border = {
        ((3, 0), (2, 0)), ((3, 0), (3, 1)),
        ((4, 1), (3, 1)), ((4, 1), (4, 2)),
        ((5, 2), (4, 2)), ((5, 2), (5, 3)),
    }  # fmt: skip
    expected = {tuple(sum(axis) / 2 for axis in zip(*pair, strict=True)) for pair in border}
    segments = [line for line in panel(figure).lines if line.get_linestyle() == "-" and line.get_color() == "#10131a"]
    found = {(float(sum(line.get_xdata()) / 2), float(sum(line.get_ydata()) / 2)) for line in segments}  # type: ignore[arg-type]
    assert found == expected
    assert marked(figure, "passed") == 2 and marked(figure, "failed") == 3
    assert not [text for text in texts(depth_map(RESULT, WHOLE)) if text == "failed"]


@pytest.mark.parametrize(
    ("claimed", "place", "text"),
    [(100, -0.5, "claimed 100"), (1100, 2.5, "claimed 1,100"), (2048, 5.5, "claimed 2,048"), (9000, 5.5, "→")],
)
def test_the_claim_stands_after_the_last_length_that_it_covers(claimed: int, place: float, text: str) -> None:
    figure = depth_map(dataclasses.replace(RESULT, claimed=claimed), TASK)
    assert marked(figure, "claimed") == place
    assert any(shown.endswith(text) for shown in texts(figure))


def test_lengths_that_do_not_fit_go_on_below() -> None:
    lengths = tuple(round(1024 * 2 ** (k / 4)) for k in range(25))
    task = dataclasses.replace(TASK, cells=cells(5000, lengths, 1), passed=lengths[20], failed=lengths[21])
    figure = depth_map(RESULT, task, narrow=True)
    panels = figure.axes[:-1]
    assert len(panels) > 1
    shown = [label.get_text() for axes in panels for label in axes.get_xticklabels()]
    assert shown == [f"{n:,}" for n in lengths]
    assert sum(text.startswith("n ") for text in texts(figure)) == len(lengths)
    assert {"passed", "failed"} < set(texts(figure))


def test_the_worst_depth_is_bold_where_one_is_worse() -> None:
    bold = {text.get_position() for text in panel(depth_map(RESULT, TASK)).texts if text.get_fontweight() == "bold"}
    assert {place for place in bold if place[1] >= 0} == {(3, 0), (4, 0), (5, 0), (5, 1)}


def test_numbers_on_a_map_keep_their_colour_in_the_dark_scheme() -> None:
    markup = svg(depth_map(RESULT, WHOLE), "map")
    ElementTree.fromstring(markup.replace("xlink:href", "href"))
    assert "var(--ink)" in markup and "#10131a" in markup and "<image" not in markup
