"""Several models' brackets and worst depths stand side by side as they were measured."""

from __future__ import annotations

import dataclasses

import matplotlib as mpl
import pytest
from matplotlib.patches import Rectangle
from tests.context_results import NONE, OPEN, RESULT, STOPPED, TASK
from tests.report.figure_parts import panel, texts

from diptych.report.context_brackets import brackets, worst_depths
from diptych.report.context_words import worst_scores


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
