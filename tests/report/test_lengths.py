"""Do the drawings of lengths show the numbers that they were given?"""

from __future__ import annotations

import dataclasses
import math

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diptych.data.lengths import PUBLISHED, CorpusLengths
from diptych.report import plots
from diptych.report.lengths import drawing, review_drawing
from diptych.report.page import page
from diptych.report.results import ReviewResults


@pytest.fixture
def corpus(full: ReviewResults) -> CorpusLengths:
    return full.lengths[0]


def shown(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.axison]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_histogram_a_curve_and_published_means(corpus: CorpusLengths, n: int, narrow: bool) -> None:
    corpora = [dataclasses.replace(corpus, name=f"number {i}") for i in range(n)]
    panels = shown(drawing(corpora, narrow=narrow))
    titled = [axes for axes in panels if axes.get_title(loc="left").startswith("number")]
    curves = [axes for axes in panels if axes.get_title(loc="left").startswith("f(i)/f(0)")]
    assert [axes.get_title(loc="left") for axes in titled] == [f"number {i}" for i in range(n)]
    assert len(curves) == n and len(panels) == 2 * n + 1
    (published,) = (axes for axes in panels if "published" in axes.get_title(loc="left"))
    assert [line.get_xdata()[0] for line in published.get_lines()] == [row.mean_bytes for row in PUBLISHED]
    assert len({axes.get_xlim() for axes in (*titled, published)}) == 1, "one scale for all lengths"


def test_bars_are_documents_a_factor_of_two(corpus: CorpusLengths) -> None:
    axes = drawing([corpus]).axes[0]
    heights, edges, _ = axes.patches[0].get_data()
    lengths = corpus.in_bytes
    assert tuple(edges) == lengths.edges[1:]
    areas = [h * math.log2(high / low) for h, low, high in zip(heights, edges, edges[1:], strict=False)]
    counts = lengths.counts[1:]
    assert [area / sum(areas) for area in areas] == pytest.approx([count / sum(counts) for count in counts])
    assert axes.get_lines()[0].get_xdata()[0] == lengths.mean == 60


def test_the_curve_is_f_over_its_start(corpus: CorpusLengths) -> None:
    axes = drawing([corpus]).axes[1]
    curve, full_context, half = axes.get_lines()
    frequency = [sum(max(0, min(n, 64) - i) for n in (8, 12, 160)) for i in range(64)]
    assert list(curve.get_ydata()) == pytest.approx([*(f / frequency[0] for f in frequency), 0])
    assert list(curve.get_xdata()) == list(range(65))
    assert list(full_context.get_ydata()) == [1, 0]
    below = next(d for d in range(65) if 2 * sum(frequency[:d]) >= sum(frequency))
    assert half.get_xdata()[0] == below


def test_what_was_not_tokenized_has_no_curve(full: ReviewResults, corpus: CorpusLengths) -> None:
    bytes_only = dataclasses.replace(corpus, in_tokens=None, positions=None)
    for narrow in (False, True):
        assert len(drawing([bytes_only, bytes_only], narrow=narrow).axes) == 3
    html = page(dataclasses.replace(full, lengths=(bytes_only,)))
    assert "None" not in html and "of all pairs" not in html


def test_a_partial_corpus_says_so_and_marks_survive_the_page(full: ReviewResults, corpus: CorpusLengths) -> None:
    figure = drawing([dataclasses.replace(corpus, complete=False)])
    assert "(partial)" in figure.axes[0].get_title(loc="left")
    assert "a corpus" in plots.svg(review_drawing(full), "lengths")
