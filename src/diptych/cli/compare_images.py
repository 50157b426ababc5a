"""`diptych compare RUN...` of runs of images: a pixel model, masked diffusion and Gaussian diffusion side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from diptych.cli.common import parse
from diptych.cli.compare import show, table, training_table
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from diptych.evaluation.image_comparison import ImageComparisonResult
    from diptych.evaluation.image_contenders import ImageComparisonConfig

DESCRIPTION = """Put runs of images side by side, over pixels and over patches: what differs in their training, bits per
dimension of the same held-out images, and how fast and what they draw.
Writes compare.json, drawings and a page. Ctrl-C is safe: the same command goes on.

RUN is the folder of a run; train them on the same images, a network over patches without classes.

examples:
  diptych train recipes/pixels-autoregressive.toml
  diptych train recipes/pixels-masked.toml
  diptych train recipes/pixels-gaussian.toml
  diptych compare runs/pixels-autoregressive runs/pixels-masked runs/pixels-gaussian
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych compare` for images."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders; the others are compared with the first, and scores with the first autoregressive one."""
    out: Path = Path("runs/compare")
    """Folder of the results."""
    images: int = 64
    """Held-out images to score, the first ones; 0: all."""
    draws: int = 8
    """Evaluations of a network that denoises pixels for each image's bound, a multiple of 4."""
    dequantizations: int = 2
    """How often Gaussian diffusion's flow scores each image, each time spread anew over its levels."""
    probes: int = 4
    """Random directions by which the flow's divergence is estimated each time."""
    batch_size: int = 64
    """Images in a forward pass."""
    samples: int = 36
    """Images that each run draws."""
    pixels_per_step: int = 1
    """Numbers of an image that diffusion over pixels draws in a step."""
    unmask: Literal["random", "confidence"] = "random"
    """Which pixels masked diffusion reveals in a step: any, or the surest."""
    solver: str = "unipc_3"
    """How Gaussian diffusion's backward process is followed."""
    steps: int = 20
    """Its steps from noise to image."""
    rounds: int = 3
    """Timings of each run's drawing, taken in turns."""
    seed: int = 0
    """Seed of bounds, noise and drawings."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""
    json: bool = False
    """Print one JSON object instead of the tables."""


def main(arguments: list[str]) -> int:
    """Parse, measure, write, print; 130 where interrupted."""
    options = parse(Options, arguments, "compare", DESCRIPTION)
    config = configured(options)
    from diptych.report.image_comparison import ImageComparison
    from diptych.training.distributed import choose_device

    def measure(console: ConsoleHandler) -> ImageComparisonResult:
        return ImageComparison(config, options.out, choose_device(options.device), console).run()

    return show(measure, _tables, options.out, as_json=options.json)


def configured(options: Options) -> ImageComparisonConfig:
    """The comparison that the options describe. Raises ValueError for what is wrong with them."""
    from diptych.evaluation.image_contenders import ImageComparisonConfig

    return ImageComparisonConfig(
        runs=options.runs,
        images=options.images or None,
        draws=options.draws,
        dequantizations=options.dequantizations,
        probes=options.probes,
        batch_size=options.batch_size,
        samples=options.samples,
        pixels_per_step=options.pixels_per_step,
        unmask=options.unmask,
        solver=options.solver,
        steps=options.steps,
        rounds=options.rounds,
        seed=options.seed,
    )


def _tables(result: ImageComparisonResult) -> None:
    from diptych.report.image_comparison import KINDS

    training_table(result.trained, result.reservations, seen="dimensions", row="an image")
    rows = []
    for score in result.scores:
        exact, bits = score.kind == "exact", f"{score.bits_per_dimension:.4f}"
        rows.append(
            (
                score.run,
                KINDS[score.kind],
                bits if exact else f"≤ {bits} ± {score.estimate_error:.4f}",
                f"{score.standard_error:.4f}",
                "" if score.difference is None else f"{score.difference.value:+.4f} ± {score.difference.error:.4f}",
            )
        )
    table(
        f"held-out images, {result.scores[0].n_images:,}: exact, or no less than the levels' own bits (≤), with the "
        "estimate's standard error",
        (
            "run",
            "likelihood",
            "bits per dimension",
            "± over images",
            f"more than {result.reference or 'autoregression'}",
        ),
        rows,
    )
    table(
        f"{result.config.samples} images at once ({result.machine})",
        ("drawn by", "evaluations an image", "seconds an image"),
        [(one.run, f"{one.evaluations:,}", f"{one.seconds_per_image:.3g}") for one in result.drawn],
    )
