"""`diptych generate RUN` of a run that learnt images as sequences of pixels: a picture of many."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diptych.cli.common import ModelOptions, language_model, open_model, parse
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from diptych.core.config import RunConfig
    from diptych.evaluation.pixel_samples import PixelSampler

DESCRIPTION = """Draw images pixel by pixel, from the first to the last, or many at once in any order where the network
denoises. Writes one picture of all of them.

examples:
  diptych generate runs/pixels-autoregressive --samples 20 --temperature 0.9
  diptych generate runs/pixels-masked --steps 16 --unmask confidence --out digits.png
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych generate` for images as sequences of pixels."""

    model: tyro.conf.Positional[str]
    """A run folder."""
    samples: int = 64
    """Images to draw."""
    temperature: float = 1.0
    """0 takes the most likely level; 1 draws from the network's own distribution."""
    steps: int | None = None
    """Steps from noise to image (of block diffusion: of a block), where the network denoises; None: one a number."""
    unmask: Literal["random", "confidence"] | None = None
    """Which hidden pixels a step of masked diffusion reveals: any (None too), or the surest."""
    batch_size: int = 64
    """Images that are drawn at a time."""
    seed: int = 0
    """Seed of the draws."""
    out: Path | None = None
    """The picture, a PNG file; None: samples/ in the run folder."""
    options: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)


def main(arguments: list[str]) -> int:
    """Parse, draw, write."""
    options = parse(Options, arguments, "generate", DESCRIPTION)
    if options.samples < 1 or options.batch_size < 1:
        raise ValueError("--samples and --batch-size must be at least 1")
    out = options.out or Path(options.model) / "samples" / f"seed-{options.seed}.png"
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out} must end in .png")
    from diptych.checkpoints.image_model import images_of_run
    from diptych.checkpoints.run_folder import load_recipe
    from diptych.core.random import Rng
    from diptych.evaluation.pixel_samples import PixelDrawer
    from diptych.objectives.masked_lm import mask_id_of
    from diptych.report.images import save_grid

    run, opened = load_recipe(Path(options.model)), open_model(options.model, options.options)
    learnt, _ = images_of_run(Path(options.model))
    drawer = PixelDrawer(
        model=language_model(opened),
        sampler=_sampler(options, run, prod(learnt.shape)),
        shape=learnt.shape,
        levels=learnt.levels,
        opening_id=opened.tokenizer.opening_id,
        mask_id=mask_id_of(opened.tokenizer),
    )
    with ConsoleHandler() as console:
        images = drawer.draw(options.samples, Rng(options.seed), batch_size=options.batch_size, on_event=console)
    save_grid(images, out)
    print(out)
    return 0


def _sampler(options: Options, run: RunConfig, count: int) -> PixelSampler:
    """The backward process of the run's paradigm. Raises ValueError for options that it does not have."""
    if run.objective != "masked_diffusion" and options.unmask is not None:
        raise ValueError(f"--unmask reveals what masked diffusion hides, and this is {run.objective}; leave it out")
    if run.objective == "autoregressive":
        from diptych.samplers.autoregressive import AutoregressiveSampler

        if options.steps is not None:
            raise ValueError("--steps is for networks that denoise; this one draws number by number, so leave it out")
        return AutoregressiveSampler(temperature=options.temperature)
    if run.objective == "uniform_diffusion":
        from diptych.samplers.uniform_diffusion import UniformDiffusionSampler

        return UniformDiffusionSampler(
            steps=count if options.steps is None else options.steps,
            temperature=options.temperature,
            schedule=run.text_diffusion.schedule,
        )
    from diptych.samplers.masked_diffusion import MaskedDiffusionSampler

    return MaskedDiffusionSampler(
        steps=options.steps,
        unmask=options.unmask or "random",
        temperature=options.temperature,
        schedule=run.text_diffusion.schedule,
        block_length=run.text_diffusion.block_length,
    )
