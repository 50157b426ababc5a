"""The digits recipe from scratch: seconds of training, and how good the images are, beside the held-out images' floors.

    python benchmarks/digits_quality.py [--steps N] [--samples 1000] [--device cpu]

Training is that of `diptych train recipes/digits.toml`, the measures are those of `diptych evaluate RUN` with its
defaults. Besides timings of the machine, the result says whether each goal is met.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from _common import write

if TYPE_CHECKING:
    from diptych.cli.evaluate_images import Options

RECIPE = Path(__file__).parent.parent / "recipes" / "digits.toml"

FRECHET, ACCURACY, NEAREST = 1.2, 0.95, 0.25
"""The goals: at most so many times the floor, at least this share, and so near to the floor."""


def main() -> None:
    from diptych.cli.evaluate_images import Options
    from diptych.core.events import ignore
    from diptych.presets import load_run
    from diptych.training.run import train

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="training steps; none: the recipe's")
    parser.add_argument("--samples", type=int, default=Options(model="").samples)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()

    run = load_run(str(RECIPE))
    steps = given.steps or run.train.steps
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "digits")
        config = dataclasses.replace(run.train, steps=steps, device=given.device)
        start = time.perf_counter()
        train(dataclasses.replace(run, out=str(out), train=config), ignore)
        training = time.perf_counter() - start
        options = Options(model=str(out), samples=given.samples, device=given.device)
        start = time.perf_counter()
        measures, features = measured(options)
        measuring = time.perf_counter() - start
    write(
        f"digits-quality-{given.device}",
        {
            "steps": steps,
            "training_seconds": training,
            "drawing_and_measuring_seconds": measuring,
            "samples": options.samples,
            "solver": options.solver,
            "solver_steps": options.steps,
            "seed": options.seed,
            "features": features,
            "measures": measures,
            "goals": {
                f"FD(clf) at most {FRECHET} times the floor": measures["FD(clf)"]["ratio"] <= FRECHET,
                f"accuracy at least {ACCURACY:.0%}": measures["accuracy"]["value"] >= ACCURACY,
                f"nearest within {NEAREST:.0%} of the floor": abs(measures["nearest"]["ratio"] - 1.0) <= NEAREST,
            },
        },
    )


def measured(options: Options) -> tuple[dict[str, dict[str, float]], str]:
    """Each measure with its interval, its floor and their ratio; and what the features are."""
    from diptych.checkpoints.image_model import open_image_model
    from diptych.cli.evaluate_images import quality_of
    from diptych.core.events import ignore

    quality = quality_of(options, open_image_model(Path(options.model), device=options.device), ignore)
    measures = {
        measure.name: {
            **{name: value for name, value in dataclasses.asdict(measure).items() if name != "name"},
            "ratio": measure.value / measure.floor,
        }
        for measure in quality.measures
    }
    return measures, quality.features


if __name__ == "__main__":
    main()
