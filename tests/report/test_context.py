"""The report of a measurement of the effective context length shows what was measured, finished or not."""

from __future__ import annotations

import dataclasses
import math
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from tests.context_results import LENGTHS, POSITIONS, RESULT, SATURATION, TASK, WHOLE, cells

from diptych.evaluation.context.result import (
    Distance,
    sentence,
)
from diptych.report.context import context_figures, context_page, write_context_report
from diptych.report.context_drawings import (
    bracket_words,
    brackets,
    depth_map,
    distance_curve,
    distance_words,
    loss_curves,
    saturation_words,
    worst_depths,
    worst_scores,
)
from diptych.report.plots import PALETTE, svg

HOSTILE = "</p><script>alert(1)</script>&lt;\"'$x^2$\x00{{ 7*7 }}"

NONE = dataclasses.replace(TASK, state="none", passed=None, failed=256, cells=cells(60, (256,)), contexts=31)
OPEN = dataclasses.replace(TASK, state="undecided", passed=512, failed=2048, cells=cells(1100, (256, 512, 2048)))
EMPTY = dataclasses.replace(
    TASK, state="undecided", passed=None, failed=None, cells=(), distances=(), distance=None, reuse=None, contexts=0
)
STOPPED = dataclasses.replace(
    RESULT,
    extension="yarn 4",
    claimed=8192,
    tasks=(OPEN, EMPTY),
    saturation=None,
    stopped="the device ran out of memory",
)


class Reader(HTMLParser):
    """Checks that tags balance, and keeps ids, what would be loaded, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.loads.append(value or "")
        if tag not in {"meta", "link", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in {"meta", "link", "br"}:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing that is open"

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open, f"left open: {reader.open}"
    return reader


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def panel(figure: Figure, k: int = 0) -> Axes:
    return figure.axes[k]


def marked(figure: Figure, word: str) -> float:
    (text,) = (t for t in panel(figure).texts if t.get_text().startswith(word))
    return float(text.get_position()[0])


def upright(axes: Axes) -> list[float]:
    """Places of the lines from bottom to top."""
    return [float(line.get_xdata()[0]) for line in axes.lines if list(line.get_ydata()) == [0, 1]]  # type: ignore[index,arg-type]


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


def test_accuracy_stands_at_its_distance_within_wilsons_interval() -> None:
    stats = pytest.importorskip("scipy.stats")
    figure = distance_curve(RESULT, TASK)
    above, axes = figure.axes
    bars = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_color() == PALETTE["model"]]  # type: ignore[arg-type]
    assert len(bars) == len(TASK.distances) == 8
    for bar, of in zip(bars, TASK.distances, strict=True):
        interval = stats.binomtest(of.right, of.count).proportion_ci(method="wilson")
        assert list(bar.get_ydata()) == pytest.approx([interval.low, interval.high])  # type: ignore[arg-type]
        assert list(bar.get_xdata()) == pytest.approx([math.sqrt(of.first * of.last)] * 2)  # type: ignore[arg-type]
    levels = [float(line.get_ydata()[0]) for line in axes.lines if line.get_linestyle() == "--"]  # type: ignore[index,arg-type]
    assert sorted(levels) == pytest.approx([0.125, 0.125 + 0.85 * 0.875])
    assert upright(axes) == [812.4]
    assert axes.get_xscale() == "log" and above.get_xlim() == axes.get_xlim()
    (line,) = above.lines
    assert tuple(line.get_xdata()) == POSITIONS.distances and tuple(line.get_ydata()) == POSITIONS.shares  # type: ignore[arg-type]
    alone = distance_curve(dataclasses.replace(RESULT, positions=None), dataclasses.replace(TASK, distance=None))
    assert len(alone.axes) == 1 and upright(panel(alone)) == []


def test_the_loss_its_gains_and_its_saturation_are_drawn() -> None:
    losses, gains = loss_curves(RESULT).axes
    assert tuple(losses.lines[0].get_ydata()) == SATURATION.losses  # type: ignore[arg-type]
    bars = [tuple(line.get_ydata()) for line in gains.lines if len(line.get_xdata()) == 2][: len(SATURATION.gains)]  # type: ignore[arg-type]
    assert bars == [(gain.low, gain.high) for gain in SATURATION.gains]
    assert upright(losses) == upright(gains) == [1024]
    assert "ε 0.005" in {text.get_text() for text in gains.texts}
    none = dataclasses.replace(SATURATION, saturation=None, lengths=(128,), losses=(3.2,), gains=())
    assert upright(loss_curves(dataclasses.replace(RESULT, saturation=none)).axes[0]) == []


@pytest.mark.parametrize("narrow", [False, True])
def test_brackets_reach_from_passed_to_failed(narrow: bool) -> None:
    nothing = dataclasses.replace(RESULT, claimed=4096, tasks=(NONE,))
    figure = brackets([RESULT, STOPPED, nothing], narrow=narrow)
    axes = panel(figure)
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [(box.get_x(), box.get_x() + box.get_width()) for box in boxes] == [(1024, 1218), (512, 2048)]
    assert [mpl.colors.to_rgba(box.get_facecolor())[3] for box in boxes] == [1.0, 0.0]
    claims = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "|"]  # type: ignore[index,arg-type]
    assert claims == [2048, 8192, 8192, 4096, 2048]
    crosses = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "x"]  # type: ignore[index,arg-type]
    assert crosses == [256]
    assert sum(getattr(text, "arrow_patch", None) is not None for text in axes.texts) == 1
    said = {"1,024 to 1,218", "512 to 2,048, undecided", "undecided", "none: fails at 256", "at least 2,048"}
    assert said < set(texts(figure))


def test_worst_depths_are_the_least_scores() -> None:
    assert worst_scores(OPEN) == {
        length: min(cell.score for cell in OPEN.cells if cell.length == length) for length in (256, 512, 2048)
    }
    figure = worst_depths([RESULT, STOPPED])
    lines = [line for line in panel(figure).lines if line.get_marker() != "None"]
    assert [list(line.get_ydata()) for line in lines] == [  # type: ignore[arg-type]
        list(worst_scores(task).values()) for task in (TASK, OPEN)
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["runs/small", "runs/small + yarn 4"]


def test_what_is_known_is_said_in_a_few_words() -> None:
    words = [bracket_words(task) for task in (TASK, WHOLE, NONE, OPEN, EMPTY)]
    assert words == ["1,024 to 1,218", "at least 2,048", "none: fails at 256", "512 to 2,048, undecided", "undecided"]
    assert bracket_words(dataclasses.replace(EMPTY, failed=512)) == "below 512, undecided"
    assert bracket_words(dataclasses.replace(EMPTY, passed=512)) == "at least 512, undecided"
    distance = Distance(value=1812.4, low=640.0, high=2020.0, beyond=None)
    assert distance_words(distance) == "1,812 tokens (95 %: 640 to 2,020)"
    assert distance_words(dataclasses.replace(distance, high=None)) == "1,812 tokens (95 %: 640 or more)"
    assert distance_words(dataclasses.replace(distance, low=None)) == "1,812 tokens (95 %: up to 2,020)"
    assert distance_words(Distance(value=None, low=None, high=None, beyond=True)).startswith("above τ")
    assert distance_words(Distance(value=None, low=None, high=None, beyond=False)).startswith("below τ")
    assert saturation_words(SATURATION) == "1,024 tokens"
    assert "at least" in saturation_words(dataclasses.replace(SATURATION, censored=True))
    assert "no doubling" in saturation_words(dataclasses.replace(SATURATION, saturation=None))


def test_the_page_says_what_was_measured_and_loads_nothing() -> None:
    result = dataclasses.replace(RESULT, tasks=(TASK,))
    reader = read(context_page([result]))
    assert len(reader.ids) == len(set(reader.ids))
    assert all(load.startswith("#") or load == "data:," for load in reader.loads)
    assert {load[1:] for load in reader.loads if load.startswith("#")} <= set(reader.ids)
    text = " ".join(reader.text.split())
    assert sentence(result, TASK) in text
    for cell in TASK.cells:
        assert f"{cell.score:.3f}{100 * cell.accuracy:.1f} %, n {cell.n}" in text
    for said in ("234,567", "1 min 23 s", "0.062", "1.44", "812 tokens (95 %: 640 to 1,020)", "0.50 to 0.59", "12.5 %"):
        assert said in text
    assert reader.tags.count("svg") >= 2 * len(list(context_figures([result])))


def test_an_unfinished_measurement_is_a_page_and_names_carry_no_markup(tmp_path: Path) -> None:
    bare = dataclasses.replace(
        RESULT, model=HOSTILE, tasks=(), saturation=None, positions=None, stopped="out of memory <b>."
    )
    empty = dataclasses.replace(bare, tasks=(EMPTY,), stopped=None)
    path = write_context_report([bare, empty], tmp_path / "report")
    html = path.read_text(encoding="utf-8")
    assert html == context_page([bare, empty])
    reader = read(html)
    assert "script" not in reader.tags and "b" not in reader.tags
    assert "\x00" not in html and "alert(1)" in reader.text and "{{ 7*7 }}" in reader.text
    assert "stopped before it was done: out of memory <b>." in " ".join(reader.text.split())
    assert "no task has been asked yet" in reader.text and "No context has been answered yet" in reader.text
    files = sorted(str(file.relative_to(path.parent)) for file in path.parent.rglob("*") if file.is_file())
    assert files == ["figures/brackets.png", "index.html"]
    assert (path.parent / "figures" / "brackets.png").read_bytes().startswith(b"\x89PNG")


def test_drawings_are_named_once_by_result_and_task() -> None:
    names = [name for name, _ in context_figures([RESULT, STOPPED])]
    assert len(names) == len(set(names))
    assert names == [
        "brackets",
        "worst-depth",
        "1-1-single-key-depths",
        "1-1-single-key-distance",
        "1-2-in-context-classes-depths",
        "1-loss",
        "2-1-single-key-depths",
        "2-1-single-key-distance",
    ]


def test_numbers_on_a_map_keep_their_colour_in_the_dark_scheme() -> None:
    markup = svg(depth_map(RESULT, WHOLE), "map")
    ElementTree.fromstring(markup.replace("xlink:href", "href"))
    assert "var(--ink)" in markup and "#10131a" in markup and "<image" not in markup


def test_a_report_of_nothing_is_refused(tmp_path: Path) -> None:
    for act in (lambda: context_page([]), lambda: write_context_report([], tmp_path)):
        with pytest.raises(ValueError, match=r"^a report needs at least one result; give [^\n]+$"):
            act()
    assert list(tmp_path.iterdir()) == []
