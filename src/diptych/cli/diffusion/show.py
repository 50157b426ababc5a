"""`diptych diffusion show [RUN]`: the forward process, the schedules, the loss at each noise level."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from diptych.cli.common import parse
from diptych.cli.console import ConsoleHandler
from diptych.core.diffusion_config import DiffusionConfig, ScheduleName

DESCRIPTION = """Draw Gaussian diffusion: real images under growing noise (forward.png), all schedules in log-SNR
(schedules.png) and, of a RUN, the square error of its network at each noise level beside the best linear denoiser's and
the Bayes-optimal floor of the training images (loss.png).

examples:
  diptych diffusion show --out diffusion
  diptych diffusion show --data my/pictures --schedule cosine --out diffusion
  diptych diffusion show runs/digits --out diffusion
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych diffusion show`."""

    model: tyro.conf.Positional[Path | None] = None
    """A run folder; none: no network is measured."""
    data: str = "digits"
    """Images to show where no run is given: digits, fashion, emoji, a folder, an array, hf:NAME."""
    schedule: ScheduleName = "edm"
    """The schedule of the forward process where no run is given."""
    out: Path = Path("diffusion")
    """Folder of the pictures."""
    seed: int = 0
    """Seed of the noise."""


def main(arguments: list[str]) -> int:
    """Parse, measure, draw."""
    options = parse(Options, arguments, "diffusion show", DESCRIPTION)
    from diptych.core.config import DataConfig
    from diptych.data.images import read_images
    from diptych.report import diffusion
    from diptych.report.plots import save_png

    config, loss = replace(DiffusionConfig(), schedule=options.schedule), None
    with ConsoleHandler() as console:
        if options.model is None:
            train, _ = read_images(DataConfig(format="images", source=(options.data,)), console)
        else:
            from diptych.checkpoints.image_model import images_of_run, open_image_model

            opened = open_image_model(options.model)
            train, heldout = images_of_run(options.model)
            config = opened.run.diffusion
            loss = diffusion.level_loss(opened, train, heldout, seed=options.seed, on_event=console)
    figures = {
        "forward": diffusion.forward_figure(train, config, seed=options.seed),
        "schedules": diffusion.schedule_figure(),
    }
    if loss is not None:
        figures["loss"] = diffusion.loss_figure(loss)
    for name, figure in figures.items():
        path = options.out / f"{name}.png"
        save_png(figure, path)
        print(path)
    return 0
