"""Accuracy by distance and loss by context are drawn as they were measured, with their intervals."""

from __future__ import annotations

import dataclasses
import math

import pytest
from tests.context_results import POSITIONS, RESULT, SATURATION, TASK
from tests.report.figure_parts import panel, upright

from diptych.report.context_curves import distance_curve, loss_curves
from diptych.report.plots import PALETTE


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
