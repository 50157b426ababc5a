"""How do measurements become the living review, one self-contained page?

`SECTIONS` stand in the order of the review; one whose results are absent is absent. The page loads nothing: its style,
its plots and its mark are inside it, and its content security policy forbids everything else. Texts of the model are
escaped by the templates and can carry no markup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jinja2 import Environment
from markupsafe import Markup

from diptych.core.files import write_text
from diptych.data.lengths import PUBLISHED
from diptych.evaluation.compare_likelihood import PUBLISHED as PUBLISHED_GAPS
from diptych.report import words
from diptych.report.environment import page_environment
from diptych.report.results import ReviewResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from diptych.evaluation.attention_cost import CostResult
    from diptych.evaluation.compare_curves import Overtaking
    from diptych.evaluation.context.result import ContextResult, TaskResult
    from diptych.evaluation.yardsticks import Yardstick

Drawing = Callable[..., "Figure"]


@dataclass(frozen=True)
class Section:
    """A part of the page: `templates/{name}.html.j2`, shown if `present` says so."""

    name: str
    number: str
    """Of the review's own section; empty for what the review does not have."""
    title: str
    present: Callable[[ReviewResults], bool]


SECTIONS: Final = (
    Section("transformer", "2.1", "The transformer", lambda r: r.model is not None),
    Section("translation", "2.1", "Encoder and decoder", lambda r: r.translation is not None),
    Section("stability", "2.1", "Where training diverges", lambda r: r.stability is not None),
    Section("masks", "2.2", "Attention masks", lambda r: bool(r.masks)),
    Section("generation", "2.3", "Autoregressive generation", lambda r: bool(r.next_token)),
    Section("samples", "2.3", "Texts it wrote", lambda r: bool(r.samples)),
    Section("lengths", "2.4", "Length of training documents", lambda r: bool(r.lengths)),
    Section(
        "effective_context",
        "2.4",
        "Effective context length",
        lambda r: r.effective_context is not None or r.pretrained_context is not None,
    ),
    Section("attention", "2.4.2", "Efficient attention and memory", lambda r: r.attention_cost is not None),
    Section("tokenization", "2.5", "Tokenization", lambda r: r.tokenizer is not None),
    Section("forward", "3.1", "The forward process of diffusion", lambda r: r.image_diffusion is not None),
    Section("backward", "3.2", "The backward process of diffusion", lambda r: r.image_diffusion is not None),
    Section("training", "", "Training", lambda r: bool(r.training)),
    Section("likelihood", "", "Held-out bits per byte", lambda r: r.score is not None or bool(r.yardsticks)),
    Section("paradigms", "", "Two paradigms side by side", lambda r: r.paradigms is not None),
    Section("method", "", "How this was measured", lambda _: True),
)


def render(results: ReviewResults, path: Path) -> Path:
    """Write the page to `path` and its drawings as PNG into `figures/` beside it, each atomically; returns `path`."""
    from diptych.report.plots import save_png

    write_text(path, page(results))
    for name, draw in _drawings(results):
        save_png(draw(results), path.parent / "figures" / f"{name}.png")
    return path


def page(results: ReviewResults) -> str:
    """The page as HTML: a function of the results alone, so that equal results give equal bytes."""
    html = (
        _environment()
        .get_template("page.html.j2")
        .render(
            results=results,
            sections=[section for section in SECTIONS if section.present(results)],
            summary=words.summary(results),
            created=datetime.fromisoformat(results.created),
            rows=_ranking(results),
        )
    )
    return words.readable(html)


def _drawings(results: ReviewResults) -> Iterator[tuple[str, Drawing]]:
    """Name and function of every drawing that these results allow."""
    from diptych.report import (
        attention_cost,
        effective_context,
        image_diffusion,
        lengths,
        masks,
        next_token,
        paradigms,
        plots,
        recall,
        schemes,
        stability,
        translation,
    )

    own, pretrained = results.effective_context, results.pretrained_context
    drawings: tuple[tuple[object, str, Drawing], ...] = (
        (results.translation, "translation", translation.drawing),
        (results.stability, "stability", stability.review_drawing),
        (results.masks, "masks", masks.review_drawing),
        (results.next_token, "next_token", next_token.drawing),
        (results.lengths, "lengths", lengths.review_drawing),
        (own and own.saturation, "effective_context", effective_context.loss_drawing),
        (own and own.positions and own.tasks[0].distances, "training_distances", effective_context.training_drawing),
        (pretrained and pretrained.tasks[0].cells, "pretrained_depths", effective_context.pretrained_map),
        (pretrained and pretrained.tasks[0].distances, "pretrained_distances", effective_context.pretrained_distances),
        (results.attention_cost, "attention_cost", attention_cost.review_drawing),
        (results.recall, "recall", recall.review_drawing),
        (results.schemes, "schemes", schemes.drawing),
        (results.image_diffusion, "diffusion_schedules", image_diffusion.schedules_drawing),
        (results.image_diffusion, "diffusion_loss", image_diffusion.loss_drawing),
        (results.training, "training_curve", plots.training_curve),
        (results.yardsticks, "yardsticks", plots.yardstick_bars),
        (results.paradigms, "paradigms", paradigms.review_drawing),
        (results.stages, "stages", plots.stage_bars),
    )
    return ((name, draw) for measured, name, draw in drawings if measured)


def _ranking(results: ReviewResults) -> list[tuple[Yardstick, bool]]:
    """Yardsticks and the model together, best first, each with whether it is the model."""
    from diptych.evaluation.yardsticks import likelihood_yardstick
    from diptych.report.plots import OWN_NAME

    rows = [(row, False) for row in results.yardsticks]
    if results.score is not None:
        score = results.score
        rows.append((likelihood_yardstick(OWN_NAME[score.kind], score.nats, score.n_bytes), True))
    return sorted(rows, key=lambda row: row[0].bits_per_byte)


def _plot(results: ReviewResults, name: str) -> Markup:
    """A drawing as inline SVG, once for wide pages and once for phones; the style shows one of them."""
    from diptych.report.plots import svg

    draw = dict(_drawings(results))[name]
    wide = svg(draw(results), f"{name}-wide")
    narrow = svg(draw(results, narrow=True), f"{name}-narrow")
    return Markup('<div class="plot wide">{}</div><div class="plot narrow">{}</div>').format(
        Markup(wide), Markup(narrow)
    )


def _exponents_from(cost: CostResult) -> int:
    from diptych.report.attention_cost import exponents_from

    return exponents_from(cost)


def _overtaking(found: Overtaking) -> str:
    from diptych.report.comparison import sentence

    return sentence(found)


def _context_sentence(result: ContextResult, task: TaskResult) -> str:
    from diptych.evaluation.context.result import sentence

    return sentence(result, task)


def _threshold_words(task: TaskResult) -> str:
    from diptych.evaluation.context.result import threshold_words

    return threshold_words(task)


@cache
def _environment() -> Environment:
    environment = page_environment()
    environment.globals["plot"] = _plot
    environment.globals["published_lengths"] = PUBLISHED
    environment.globals["exponents_from"] = _exponents_from
    environment.globals["published_gaps"] = PUBLISHED_GAPS
    environment.globals["overtaking"] = _overtaking
    environment.globals["context_sentence"] = _context_sentence
    environment.globals["threshold_words"] = _threshold_words
    return environment
