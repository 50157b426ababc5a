"""Which images does a trained network draw?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from diptych.checkpoints.image_model import OpenedImageModel
from diptych.core.diffusion_config import DiffusionConfig
from diptych.core.events import Handler, Progressed, ignore
from diptych.core.random import Rng
from diptych.core.types import Denoiser, Frame
from diptych.data.images import ImageSet, to_levels
from diptych.diffusion.schedules import build_schedule
from diptych.samplers.gaussian import GaussianSampler, GridName, ImageRequest
from diptych.samplers.guidance import Guided


def build_sampler(
    config: DiffusionConfig, solver: str, steps: int, *, grid: GridName = "karras", churn: float = 0.0
) -> GaussianSampler:
    """A sampler between the noise levels that a network learnt. Raises ValueError for an unknown solver, and for
    choices that contradict each other."""
    return GaussianSampler(
        solver=solver,  # type: ignore[arg-type]  # names are checked there
        steps=steps,
        grid=grid,
        schedule=build_schedule(config) if grid == "time" else None,
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
        s_churn=churn,
        sigma_data=config.sigma_data,
    )


@final
@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How a network is guided: by `weak`, another one (autoguidance), or by itself without a class."""

    weight: float = 1.0
    interval: tuple[float, float] | None = None
    weak: OpenedImageModel | None = None


@final
@dataclass(frozen=True, kw_only=True)
class ImageDrawer:
    """A network, how it is guided and by which solver it draws.

    Raises ValueError for guidance of a network that knows no classes by itself, or by a network of other images.
    """

    opened: OpenedImageModel
    sampler: GaussianSampler
    guidance: Guidance = Guidance()

    def __post_init__(self) -> None:
        weak = self.guidance.weak
        if self.guidance.weight != 1.0 and weak is None and not self.opened.classes:
            raise ValueError("the network knows no classes, so it cannot guide itself; name a weaker one with --guide")
        if weak is not None and (weak.shape, weak.classes) != (self.opened.shape, self.opened.classes):
            raise ValueError("the weaker network makes images of another shape or other classes; name one of the same")

    def denoiser(self, labels: Int[Tensor, " b"] | None) -> Denoiser:
        """What the solver asks, for images of these classes; None: of no class in particular."""
        own, guidance = self.opened.denoiser(labels), self.guidance
        if guidance.weight == 1.0:
            return own
        other = self.opened.denoiser(None) if guidance.weak is None else guidance.weak.denoiser(labels)
        return Guided(conditional=own, other=other, weight=guidance.weight, interval=guidance.interval)

    def frames(self, labels: Int[Tensor, " b"] | None, sample_ids: Int[Tensor, " b"], rng: Rng) -> Iterator[Frame]:
        """The backward process of some images, step by step."""
        request = ImageRequest(shape=self.opened.shape, sample_ids=sample_ids)
        return self.sampler.sample(self.denoiser(labels), request, rng)

    def draw(
        self,
        labels: Int[Tensor, " n"] | None,
        n: int,
        rng: Rng,
        *,
        batch_size: int = 256,
        on_frame: Callable[[int, Frame], None] | None = None,
        on_event: Handler = ignore,
    ) -> ImageSet:
        """`n` images of these classes, in whole levels. The same seed draws the same images in batches of any size.

        on_frame: is shown each step of each batch, and the number of the batch's first image.
        """
        device, drawn = next(self.opened.model.parameters()).device, []
        for start in range(0, n, batch_size):
            ids = torch.arange(start, min(n, start + batch_size), device=device)
            asked = None if labels is None else labels.to(device)[ids]
            for frame in self.frames(asked, ids, rng):
                if on_frame is not None:
                    on_frame(start, frame)
                done = start + len(ids) * (frame.step + 1) / frame.of
                on_event(Progressed(what="drawing images", done=int(done), total=n, unit="images"))
            drawn.append(to_levels(frame.state, self.opened.levels).cpu().numpy())
        known = None if labels is None or not self.opened.classes else np.asarray(labels.cpu(), np.int64)
        return ImageSet(
            pixels=np.concatenate(drawn),
            labels=known,
            levels=self.opened.levels,
            classes=self.opened.classes,
        )


def labels_in_turn(opened: OpenedImageModel, n: int) -> Int[Tensor, " n"] | None:
    """The classes in turn; None where the network knows none."""
    return torch.arange(n) % len(opened.classes) if opened.classes else None
