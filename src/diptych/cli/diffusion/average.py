"""`diptych diffusion average RUN`: the average of the weights over another length, after training."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import tyro

from diptych.cli.common import parse

DESCRIPTION = """Make a run folder whose weights are the moving average of another length, from the snapshots that a run
with train.ema_lengths kept (Karras et al. 2024, algorithm 3).

examples:
  diptych diffusion average runs/digits --length 0.08 --out runs/digits-longer
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych diffusion average`."""

    model: tyro.conf.Positional[Path]
    """A run folder."""
    length: float
    """Relative width of the average, such as 0.1: its standard deviation in steps over their number."""
    out: Path
    """The new run folder."""
    step: int | None = None
    """As if training had ended after so many steps; None: the newest snapshot's."""


def main(arguments: list[str]) -> int:
    """Parse, average, write."""
    options = parse(Options, arguments, "diffusion average", DESCRIPTION)
    from diptych.checkpoints.run_folder import TOKENIZER, load_config, load_recipe, save_weights
    from diptych.core.config import RECIPE
    from diptych.core.files import write_folder
    from diptych.core.recipe import save_toml
    from diptych.training.post_hoc import reconstruct

    if options.out.exists():
        raise FileExistsError(f"{options.out} exists already; choose another --out")
    config, run = load_config(options.model), load_recipe(options.model)
    if run.lora is not None:
        raise ValueError(f"{options.model} learnt a low-rank update, of which no run folder of averages is made")
    weights = reconstruct(options.model, options.length, options.step)

    def fill(folder: Path) -> None:
        save_toml(replace(run, out=str(options.out)), folder / RECIPE)
        if (options.model / TOKENIZER).is_file():
            shutil.copyfile(options.model / TOKENIZER, folder / TOKENIZER)
        if config.patches is not None:
            shutil.copytree(options.model / "data", folder / "data")
        save_weights(weights, config, folder)

    write_folder(options.out, fill)
    print(options.out)
    return 0
