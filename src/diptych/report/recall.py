"""How is recall drawn? Right answers against the distance of the needle, of several networks in one drawing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from diptych.checkpoints.run_folder import load_language_model
from diptych.core.config import (
    DataConfig,
    NeuralMemoryConfig,
    OptimConfig,
    RecallConfig,
    RunConfig,
    TrainConfig,
    TransformerConfig,
)
from diptych.core.events import Handler
from diptych.data.recall import RecallStream
from diptych.evaluation.recall import RecallScore, attention_reach, score_recall
from diptych.report.plots import PALETTE, style
from diptych.report.results import RecallResult, ReviewResults
from diptych.training.distributed import World
from diptych.training.loop import Trainer
from diptych.training.prepare import prepare
from diptych.training.run import train_experiment

_COLOURS = ("model", "second", "ink", "other")
_MARKERS = ("o", "s", "^", "D")


def recall_figure(scores: Mapping[str, RecallScore], *, narrow: bool = False) -> Figure:
    """A line a network by its name, with 95 % intervals; where attention alone ends, and what a guess gives.

    Raises ValueError for no score, more than four, or scores of tasks with different chances.
    """
    if not 1 <= len(scores) <= len(_COLOURS):
        raise ValueError(f"the drawing takes one to {len(_COLOURS)} networks, not {len(scores)}")
    chances = {score.chance for score in scores.values()}
    if len(chances) > 1:
        raise ValueError("the networks answer questions of different numbers of values; draw them apart")
    with style():
        figure = Figure(figsize=(3.9 if narrow else 7.4, 3.2), layout="constrained")
        axes = figure.add_subplot()
        for (name, score), colour, marker in zip(scores.items(), _COLOURS, _MARKERS, strict=False):
            _draw(axes, name, score, PALETTE[colour], marker)
        _draw_chance(axes, chances.pop())
        for reach in sorted({score.reach for score in scores.values() if score.reach is not None}):
            _draw_reach(axes, reach)
        axes.set_ylim(0, 1)
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y")
        axes.tick_params(length=0)
        axes.set_xlabel("tokens from the needle to the question")
        axes.set_ylabel("right answers")
        figure.legend(frameon=False, loc="outside upper left", ncols=1 if narrow else len(scores))
    return figure


def recall_run(out: Path, seed: int, *, memory: bool) -> RunConfig:
    """A smaller form of `recipes/recall.toml`, with and without its memory."""
    name = "memory" if memory else "window"
    return RunConfig(
        out=str(out / "recall" / name),
        model=TransformerConfig(
            d_model=64,
            n_layers=1,
            n_heads=2,
            max_length=64,
            window=8,
            attention=("titans_gate" if memory else "softmax",),
            memory=NeuralMemoryConfig(chunk_length=8),
        ),
        data=DataConfig(
            format="recall",
            sequence_length=64,
            recall=RecallConfig(n_needles=4, n_queries=4, n_keys=8, n_values=8),
        ),
        optim=OptimConfig(name="muon", muon_lr=0.02, lr=5e-3, warmup_steps=20),
        train=TrainConfig(
            seed=seed, steps=200, batch_size=64, dtype="float32", compile="off", eval_every=0, save_every=100
        ),
    )


NAMES = {False: "a window of 8 tokens", True: "the window and a memory"}
"""How the networks are called, without and with a memory."""


def measure_recall(run: RunConfig, world: World, on_event: Handler) -> RecallResult:
    """Train a network, or go on with its training, and ask it. Raises KeyboardInterrupt where that is interrupted."""
    experiment = prepare(run, world, on_event)
    if not train_experiment(Trainer(experiment, world, on_event)):
        raise KeyboardInterrupt
    model, _ = load_language_model(experiment.out, device=world.device)
    assert isinstance(experiment.heldout, RecallStream)
    reach = attention_reach(model.config)
    return RecallResult(
        name=NAMES[run.model.attention != ("softmax",)],
        steps=run.train.steps,
        score=score_recall(model, experiment.heldout, n_documents=128, reach=reach, on_event=on_event),
    )


def review_drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """The networks of a review."""
    return recall_figure({one.name: one.score for one in results.recall}, narrow=narrow)


def _draw(axes: Axes, name: str, score: RecallScore, colour: str, marker: str) -> None:
    shares = list(score.bins())
    places = [(share.first + share.last) / 2 for share in shares]
    low, high = zip(*(share.interval for share in shares), strict=True)
    line: dict[str, Any] = {"color": colour, "linewidth": 1.6, "marker": marker, "markersize": 4.5, "clip_on": False}
    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.plot(places, [share.accuracy for share in shares], label=name, zorder=3, **line)


def _draw_chance(axes: Axes, chance: float) -> None:
    axes.axhline(chance, color=PALETTE["muted"], linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    axes.annotate(f"chance {chance:.1%}", (1, chance), (0, 3), ha="right", color=PALETTE["muted"], **place)


def _draw_reach(axes: Axes, reach: int) -> None:
    axes.axvline(reach, color=PALETTE["muted"], linewidth=1, linestyle=(0, (1, 2)), zorder=1)
    place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate("attention\nends here", (reach, 0.5), (4, 0), va="center", color=PALETTE["muted"], **place)
