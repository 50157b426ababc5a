"""How are runs of images put side by side: measured stage by stage, drawn, and written as one page?"""

from __future__ import annotations

import math
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Final, final

import torch

from diptych import __version__
from diptych.core.events import Handler, Progressed, ignore
from diptych.core.files import write_text
from diptych.core.recipe import save_json
from diptych.evaluation.attention_cost import machine_of
from diptych.evaluation.compare_runs import short_names, weights_digest
from diptych.evaluation.comparison import TrainedRun
from diptych.evaluation.image_comparison import (
    DrawnImages,
    ImageComparisonResult,
    PackedImages,
    drawn_images,
    image_reservations,
    image_scores,
    packed,
    time_drawing,
    trained_image_run,
)
from diptych.evaluation.image_contenders import (
    ImageComparisonConfig,
    ImageContender,
    ImageNats,
    NatsKind,
    open_image_contender,
)
from diptych.report import words
from diptych.report.comparison import COMPARISON, plot_markup, scored_curves
from diptych.report.environment import page_environment
from diptych.report.image_comparison_drawings import HELD_OUT, bits_marks, grids
from diptych.report.images import encoded
from diptych.report.plots import save_png
from diptych.report.stages import Stages

KINDS: Final[dict[NatsKind, str]] = {
    "exact": "exact",
    "bound": "bound",
    "flow": "flow, of levels spread evenly",
}
"""How a score came about, in words."""


@final
class ImageComparison:
    """One comparison in the folder `out`; `run` measures whatever of it is not there yet.

    Raises ValueError for runs of other kinds, for an unknown solver, and where the folder holds another comparison.
    """

    def __init__(
        self, config: ImageComparisonConfig, out: Path, device: torch.device, on_event: Handler = ignore
    ) -> None:
        self.config, self.out, self.device, self.on_event = config, out, device, on_event
        self.contenders = [open_image_contender(Path(run), device) for run in config.runs]
        for contender in self.contenders:
            contender.evaluations(config)  # a solver that there is not is told of before anything is measured
        self.names = short_names([contender.path for contender in self.contenders])
        self.reference = next((c for c in self.contenders if c.is_autoregressive), None)
        settings = {
            **asdict(config),
            "weights": [weights_digest(contender.path) for contender in self.contenders],
            "machine": machine_of(device),
        }
        self.stages = Stages(out, settings, "comparison")

    def run(self) -> ImageComparisonResult:
        """Measure, and write `compare.json`, the drawings and the page."""
        config, reference = self.config, self.reference
        trained = tuple(map(self._trained, self.contenders, self.names))
        nats = [
            self.stages.stage(f"nats-{i}", ImageNats, partial(contender.nats, config, self.on_event))
            for i, contender in enumerate(self.contenders)
        ]
        result = ImageComparisonResult(
            config=config,
            machine=machine_of(self.device),
            trained=trained,
            reservations=image_reservations(self.contenders, trained, config),
            reference=None if reference is None else self.names[self.contenders.index(reference)],
            dims=self.contenders[0].dims,
            scores=image_scores(self.contenders, self.names, nats, reference, config),
            drawn=self._drawn(),
            heldout=packed(self.contenders[0].heldout.take(slice(0, config.samples))),
        )
        save_json(result, self.out / COMPARISON)
        save_png(bits_marks(result), self.out / "bits.png")
        save_png(grids(result), self.out / "images.png")
        write_text(self.out / "index.html", image_page(result))
        return result

    def _trained(self, contender: ImageContender, name: str) -> TrainedRun:
        training, heldout = scored_curves(contender.path)
        best, last = min(heldout, key=lambda point: point.loss), training[-1]
        return trained_image_run(contender, name, steps=last.step, kept_step=best.step, tokens=last.tokens)

    def _drawn(self) -> tuple[DrawnImages, ...]:
        kept = [
            self.stages.stage(f"images-{i}", PackedImages, partial(self._draw, contender))
            for i, contender in enumerate(self.contenders)
        ]
        rounds = []
        for number in range(self.config.rounds):
            # In turns, so that what slows the machine down for a while slows all alike.
            rounds.append(self.stages.stage(f"times-{number}", tuple[float, ...], self._times))
            self.on_event(Progressed(what="timing", done=number + 1, total=self.config.rounds, unit="rounds"))
        return tuple(
            drawn_images(contender, name, self.config, images, seconds)
            for contender, name, images, *seconds in zip(self.contenders, self.names, kept, *rounds, strict=True)
        )

    def _draw(self, contender: ImageContender) -> PackedImages:
        return packed(contender.draw(self.config, self.on_event))

    def _times(self) -> tuple[float, ...]:
        return tuple(time_drawing(contender, self.config) for contender in self.contenders)


def image_page(result: ImageComparisonResult) -> str:
    """The page as HTML: a function of the result alone. It loads nothing."""
    named = [(HELD_OUT, result.heldout)]
    named += [(f"{of.run}: {of.paradigm}", one.images) for of, one in zip(result.trained, result.drawn, strict=True)]
    html = (
        page_environment()
        .get_template("image_comparison.html.j2")
        .render(
            result=result,
            version=__version__,
            kinds=KINDS,
            plot=plot_markup(result, "bits", bits_marks),
            columns=math.ceil(math.sqrt(result.config.samples)),
            panels=[(name, encoded(images.unpacked())) for name, images in named],
        )
    )
    return words.readable(html)
