"""The drawing of a sweep shows what the sweep found."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diptych.core.recipe import load_json
from diptych.evaluation.stability import StabilityResult
from diptych.report.plots import save_png, svg
from diptych.report.stability import drawing

KEPT = Path(__file__).parents[2] / "benchmarks" / "results" / "stability-cpu.json"


@pytest.fixture(scope="module")
def result() -> StabilityResult:
    return load_json(StabilityResult, KEPT)


def texts(figure: Figure, title: str) -> list[str]:
    (axes,) = (a for a in figure.findobj(Axes) if a.get_title(loc="left") == title)
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize("narrow", [False, True])
def test_every_cell_is_marked_as_it_ended(result: StabilityResult, narrow: bool) -> None:
    figure, config = drawing(result, narrow=narrow), result.config
    for column in config.columns:
        title = "no normalization" if column.placement is None else column.name
        found = texts(figure, title)
        cells = [result.cell(column, d, r) for d in config.depths for r in config.learning_rates]
        assert len(found) == len(cells) == 24
        for text, cell in zip(found, cells, strict=True):
            assert cell is not None
            shown = {"diverged": "×", "frequencies": "○", "learnt": f"{cell.final_loss or 0:.1f}"}
            assert text == shown[cell.outcome]
    assert {"×", "○"} <= set(texts(figure, "no normalization"))


def test_an_unfinished_sweep_is_drawn_as_far_as_it_is(result: StabilityResult, tmp_path: Path) -> None:
    figure = drawing(dataclasses.replace(result, runs=result.runs[:3]))
    assert len(texts(figure, "layer, post")) == 3 and not texts(figure, "rms, pre")
    save_png(figure, tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert svg(drawing(result), "stability").startswith("<svg")


def test_a_sweep_without_a_normalization_is_drawn_too(result: StabilityResult) -> None:
    alone = dataclasses.replace(result, config=dataclasses.replace(result.config, norms=("none",)))
    assert len(texts(drawing(alone), "no normalization")) == 24
