"""How is an effective context length reported, with what stands behind it and what it cost, as one page?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from diptych import __version__
from diptych.core.files import write_text
from diptych.evaluation.context.result import Cell, ContextResult, TaskResult, sentence
from diptych.report import context_brackets, context_curves, context_map, context_words, words
from diptych.report.environment import page_environment
from diptych.report.plots import save_png, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawing = Callable[..., "Figure"]

PAGE, FIGURES = "index.html", "figures"


def context_page(results: Sequence[ContextResult]) -> str:
    """The page as HTML: a function of the results alone. It loads nothing, and names are escaped.

    Raises ValueError where there is no result.
    """
    _check(results)
    plots = {name: _inline(name, draw) for name, draw in context_figures(results)}
    html = (
        page_environment()
        .get_template("context.html.j2")
        .render(
            results=results,
            version=__version__,
            plots=plots,
            task_figure=task_figure,
            sentence=sentence,
            taus=words.listing([f"{tau:g}" for tau in sorted({result.tau for result in results})]),
            rows=cell_rows,
            depth_names=context_words.depth_names,
            task_name=context_words.task_name,
            bracket=context_words.bracket_words,
            ratio=ratio_words,
            distance=context_words.distance_words,
            saturation=context_words.saturation_words,
        )
    )
    return words.readable(html)


def write_context_report(results: Sequence[ContextResult], folder: Path) -> Path:
    """Write the drawings as PNG into `folder`'s `figures`, then the page, each atomically; returns the page's path.

    Raises ValueError where there is no result.
    """
    _check(results)
    for name, draw in context_figures(results):
        save_png(draw(), folder / FIGURES / f"{name}.png")
    path = folder / PAGE
    write_text(path, context_page(results))
    return path


def context_figures(results: Sequence[ContextResult]) -> Iterator[tuple[str, Drawing]]:
    """Name and function (keyword `narrow`) of every drawing that these results allow."""
    if any(result.tasks for result in results):
        yield "brackets", partial(context_brackets.brackets, results)
    if len(results) > 1 and any(task.cells for result in results for task in result.tasks):
        yield "worst-depth", partial(context_brackets.worst_depths, results)
    for i, result in enumerate(results):
        for j, task in enumerate(result.tasks):
            if task.cells:
                yield task_figure(i, j, task, "depths"), partial(context_map.depth_map, result, task)
            if task.distances:
                yield task_figure(i, j, task, "distance"), partial(context_curves.distance_curve, result, task)
        if result.saturation is not None and result.saturation.lengths:
            yield f"{i + 1}-loss", partial(context_curves.loss_curves, result)


def task_figure(result: int, task: int, of: TaskResult, kind: str) -> str:
    """The name of a task's drawing: the places of the result and of the task count from 0."""
    return f"{result + 1}-{task + 1}-{re.sub('[^a-z0-9]+', '-', of.task.lower()).strip('-')}-{kind}"


def cell_rows(task: TaskResult) -> list[tuple[int, list[Cell | None], float]]:
    """Each length with its cells, the farthest depth first and None where nothing was asked, and its worst score."""
    cells = {(cell.length, cell.depth): cell for cell in task.cells}
    depths = range(len(context_words.depth_names(task)))
    worst = context_words.worst_scores(task)
    return [(n, [cells.get((n, depth)) for depth in depths], score) for n, score in worst.items()]


def ratio_words(result: ContextResult, task: TaskResult) -> str:
    """Effective over claimed length: a range, a bound, or nothing where nothing is certified."""
    if task.passed is None:
        return "" if task.failed is None else f"below {task.failed / result.claimed:.2f}"
    low = task.passed / result.claimed
    return f"{low:.2f} or more" if task.failed is None else f"{low:.2f} to {task.failed / result.claimed:.2f}"


def _check(results: Sequence[ContextResult]) -> None:
    if not results:
        raise ValueError("a report needs at least one result; give a folder that diptych context has written")


def _inline(name: str, draw: Drawing) -> Markup:
    """Once for wide pages and once for phones; the style shows one of them."""
    return Markup('<div class="plot wide">{}</div><div class="plot narrow">{}</div>').format(
        Markup(svg(draw(), f"{name}-wide")), Markup(svg(draw(narrow=True), f"{name}-narrow"))
    )
