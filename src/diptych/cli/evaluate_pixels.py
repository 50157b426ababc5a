"""`diptych evaluate RUN` of a run that learnt images as sequences of pixels: how probable are held-out ones?"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from diptych.cli.common import ModelOptions, language_model, open_model, parse
from diptych.cli.console import ConsoleHandler

DESCRIPTION = """Score the images that a run held out in bits per dimension: exactly where it learnt the next pixel, by
a bound where it learnt to denoise.

examples:
  diptych evaluate runs/pixels-autoregressive
  diptych evaluate runs/pixels-masked --draws 32
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych evaluate` for images as sequences of pixels."""

    model: tyro.conf.Positional[str]
    """A run folder."""
    score_images: int | None = None
    """Held-out images to score, the first ones; None: all."""
    draws: int = 8
    """Evaluations of a network that denoises for each image's bound."""
    batch_size: int = 64
    """Images in a forward pass."""
    seed: int = 0
    """Seed of what is hidden."""
    json: bool = False
    """Print one JSON object."""
    options: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)


def main(arguments: list[str]) -> int:
    """Parse, score, print."""
    options = parse(Options, arguments, "evaluate", DESCRIPTION)
    from diptych.checkpoints.image_model import images_of_run
    from diptych.checkpoints.run_folder import load_recipe
    from diptych.core.random import Rng
    from diptych.data.pixels import PixelStream
    from diptych.evaluation.pixel_likelihood import likelihood_of_run, score_pixels

    folder = Path(options.model)
    run, opened = load_recipe(folder), open_model(options.model, options.options)
    model, (_, heldout) = language_model(opened), images_of_run(folder)
    with ConsoleHandler() as console:
        score = score_pixels(
            likelihood_of_run(run, model, opened.tokenizer, Rng(options.seed), draws=options.draws),
            PixelStream(heldout, opened.tokenizer.opening_id, shuffle=False),
            device=model.unembedding.device,
            n_images=options.score_images,
            batch_size=options.batch_size,
            on_event=console,
        )
    if options.json:
        print(json.dumps({"model": options.model, **dataclasses.asdict(score)}))
        return 0
    exact = score.estimate_error is None
    error = "" if exact else f" ± {score.estimate_error:.4f}"
    kind = "exact" if exact else "bound, standard error"
    print(f"{'' if exact else 'at most '}{score.bits_per_dimension:.4f}{error} bits per dimension ({kind})")
    print(
        f"{score.n_images:,} held-out images; standard error as an estimate for all others: {score.standard_error:.4f}"
    )
    return 0
