"""`diptych generate RUN` of a run that makes images: a picture of many, and an animation of the backward process."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import tyro

from diptych.cli.common import parse
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

    from diptych.checkpoints.image_model import OpenedImageModel
    from diptych.core.types import Frame
    from diptych.data.images import ImageSet
    from diptych.evaluation.image_samples import ImageDrawer

DESCRIPTION = """Draw images with a trained network, from noise to image, step by step.

Writes one picture of all of them and an animation of the backward process: what each step believed the images to be.

examples:
  diptych generate runs/digits
  diptych generate runs/digits --classes 3 7 --samples 20 --guidance 1.5 --out digits.png --animation digits.gif
  diptych generate runs/digits --solver ancestral --steps 200
"""

ANIMATED = 64
"""Most images that are animated."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych generate` for images."""

    model: tyro.conf.Positional[str]
    """A run folder."""
    samples: int = 64
    """Images to draw."""
    classes: tuple[str, ...] = ()
    """Classes to draw, in turn; none: all of them."""
    solver: str = "unipc_3"
    """ancestral (DDPM), ddim, euler, heun, dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, unipc_2, unipc_3, abm_2 or abm_3."""
    steps: int = 20
    """Steps from noise to image."""
    grid: Literal["karras", "log_snr", "time"] = "karras"
    """Where the noise levels lie: as in Karras et al. 2022, evenly in log-SNR, or evenly in the schedule's time."""
    churn: float = 0.0
    """Noise that heun adds on its way (Karras et al. 2022, algorithm 2, S_churn)."""
    guidance: float = 1.0
    """Weight of guidance; 1: none."""
    guidance_interval: tuple[float, float] | None = None
    """Guide only between these noise levels."""
    guide: str | None = None
    """A weaker run that guides instead of the network without a class (autoguidance)."""
    seed: int = 0
    """Seed of the noise."""
    out: Path | None = None
    """The picture, a PNG file; None: samples/ in the run folder."""
    animation: Path | None = None
    """The animation, .gif or .apng; None: beside the picture, a GIF."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""


def main(arguments: list[str]) -> int:
    """Parse, draw, write."""
    options = parse(Options, arguments, "generate", DESCRIPTION)
    if options.samples < 1:
        raise ValueError("--samples must be at least 1")
    if options.guidance == 1.0 and (options.guide or options.guidance_interval):
        raise ValueError("--guidance 1 does not guide; give --guide and --guidance-interval a weight, as --guidance 2")
    out = options.out or Path(options.model) / "samples" / f"seed-{options.seed}.png"
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out {out} must end in .png")
    animation = options.animation or out.with_suffix(".gif")
    if animation.suffix.lower() not in (".gif", ".apng") or animation == out:
        raise ValueError(f"--animation {animation} must end in .gif or .apng")
    from diptych.core.random import Rng
    from diptych.report.images import save_animation, save_grid

    drawer = _drawer(options)
    labels = _labels(options, drawer.opened)
    with ConsoleHandler() as console:
        frames: list[ImageSet] = []

        def keep(first: int, frame: Frame) -> None:
            if first == 0:
                frames.append(_shown(frame, drawer.opened.levels))

        images = drawer.draw(labels, options.samples, Rng(options.seed), on_frame=keep, on_event=console)
        save_grid(images, out)
        save_animation(frames, animation)
    print(out)
    print(animation)
    return 0


def _drawer(options: Options) -> ImageDrawer:
    from diptych.checkpoints.image_model import open_image_model
    from diptych.evaluation.image_samples import Guidance, ImageDrawer, build_sampler
    from diptych.training.distributed import choose_device

    device = choose_device(options.device)
    opened = open_image_model(Path(options.model), device=device)
    sampler = build_sampler(opened.run.diffusion, options.solver, options.steps, grid=options.grid, churn=options.churn)
    weak = None if options.guide is None else open_image_model(Path(options.guide), device=device)
    guidance = Guidance(weight=options.guidance, interval=options.guidance_interval, weak=weak)
    return ImageDrawer(opened=opened, sampler=sampler, guidance=guidance)


def _labels(options: Options, opened: OpenedImageModel) -> Int[Tensor, " n"] | None:
    import torch

    from diptych.evaluation.image_samples import labels_in_turn

    if not options.classes:
        return labels_in_turn(opened, options.samples)
    numbers = []
    for name in options.classes:
        if name not in opened.classes:
            near = difflib.get_close_matches(name, opened.classes, 1)
            known = ", ".join(opened.classes[:20]) or "none: the network knows no classes"
            raise ValueError(f"unknown class {name}; {f'did you mean {near[0]}?' if near else f'classes: {known}'}")
        numbers.append(opened.classes.index(name))
    return torch.tensor(numbers)[torch.arange(options.samples) % len(numbers)]


def _shown(frame: Frame, levels: int) -> ImageSet:
    """What a step believed the first images to be; at last the images."""
    from diptych.data.images import ImageSet, to_levels

    x = frame.state if frame.step + 1 == frame.of else frame.info["denoised"]
    return ImageSet(pixels=np.asarray(to_levels(x[:ANIMATED], levels).cpu()), levels=levels)
