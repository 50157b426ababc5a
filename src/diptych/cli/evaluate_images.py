"""`diptych evaluate RUN` of a run that makes images: how good are they, and how probable are real ones?"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from diptych.cli.common import parse
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from diptych.checkpoints.image_model import OpenedImageModel
    from diptych.core.events import Handler
    from diptych.evaluation.diffusion_likelihood import ImageScore
    from diptych.evaluation.image_quality import ImageQuality

DESCRIPTION = """Draw images and measure them against the training images, beside the run's own held-out ones; score
held-out images in bits per dimension, by the probability-flow equation and by the variational bound (of uniformly
dequantized pixels, so both bound the discrete likelihood).

examples:
  diptych evaluate runs/digits
  diptych evaluate runs/digits --guidance 1.5 --steps 12 --score-images 0
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych evaluate` for images."""

    model: tyro.conf.Positional[str]
    """A run folder."""
    samples: int = 1000
    """Images to draw."""
    solver: str = "unipc_3"
    """How the backward process is followed."""
    steps: int = 20
    """Steps from noise to image."""
    guidance: float = 1.0
    """Weight of classifier-free guidance; 1: none."""
    score_images: int = 64
    """Held-out images whose likelihood is taken; 0: none."""
    probes: int = 8
    """Random directions by which the flow's divergence is estimated."""
    seed: int = 0
    """Seed of noise and of the classifier."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""
    json: bool = False
    """Print one JSON object."""


def main(arguments: list[str]) -> int:
    """Parse, draw, measure, print."""
    options = parse(Options, arguments, "evaluate", DESCRIPTION)
    if options.samples < 1 or options.score_images < 0:
        raise ValueError("--samples must be at least 1 and --score-images not negative")
    if options.probes < 2:
        raise ValueError(f"--probes {options.probes} must be at least 2: their spread is the error")
    from diptych.checkpoints.image_model import open_image_model
    from diptych.training.distributed import choose_device

    opened = open_image_model(Path(options.model), device=choose_device(options.device))
    with ConsoleHandler() as console:
        quality = quality_of(options, opened, console)
        scores = _scores(options, opened, console) if options.score_images else ()
    if options.json:
        record = {"quality": dataclasses.asdict(quality), "likelihood": [dataclasses.asdict(score) for score in scores]}
        print(json.dumps(record))
    else:
        _show(quality, scores)
    return 0


def quality_of(options: Options, opened: OpenedImageModel, on_event: Handler) -> ImageQuality:
    """Draw images of all classes in turn, and measure them beside the run's held-out images."""
    from diptych.checkpoints.image_model import images_of_run
    from diptych.core.random import Rng
    from diptych.evaluation.image_quality import image_quality
    from diptych.evaluation.image_samples import Guidance, ImageDrawer, build_sampler, labels_in_turn

    sampler = build_sampler(opened.run.diffusion, options.solver, options.steps)
    drawer = ImageDrawer(opened=opened, sampler=sampler, guidance=Guidance(weight=options.guidance))
    labels = labels_in_turn(opened, options.samples)
    drawn = drawer.draw(labels, options.samples, Rng(options.seed), on_event=on_event)
    return image_quality(drawn, *images_of_run(Path(options.model)), options.seed, on_event)


def _scores(options: Options, opened: OpenedImageModel, on_event: Handler) -> tuple[ImageScore, ...]:
    from diptych.evaluation.diffusion_likelihood import heldout_scores

    return heldout_scores(
        opened, Path(options.model), options.score_images, probes=options.probes, seed=options.seed, on_event=on_event
    )


def _show(quality: ImageQuality, scores: tuple[ImageScore, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, title=f"{quality.n_images:,} images; features: {quality.features}", title_justify="left")
    for name in ("", "generated", "95 %", "held-out images", "95 %"):
        table.add_column(name, justify="right")
    for one in quality.measures:
        table.add_row(
            one.name,
            f"{one.value:.4g}",
            f"{one.low:.4g} to {one.high:.4g}",
            f"{one.floor:.4g}",
            f"{one.floor_low:.4g} to {one.floor_high:.4g}",
        )
    console.print(table, markup=False)
    for score in scores:
        how = "probability flow" if score.kind == "exact" else "variational bound"
        console.print(
            f"{how}: {score.bits_per_dimension:.4f} ± {score.standard_error:.4f} bits per dimension "
            f"({score.n_images} held-out images, dequantized)"
        )
