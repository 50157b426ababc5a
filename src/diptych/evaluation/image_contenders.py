"""How does a run of images, over pixels or patches, say what an image costs, and how does it draw some?

All say how many nats each held-out image costs: by the chain rule over its numbers, by a bound of that, or by the
flow's density of the image spread evenly over its levels, which bounds the nats of the levels themselves from above.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal, final

import torch

from diptych.checkpoints.image_model import OpenedImageModel, images_of_run, open_image_model
from diptych.checkpoints.open import open_model
from diptych.checkpoints.run_folder import load_recipe
from diptych.core.config import RunConfig
from diptych.core.events import Handler, ignore
from diptych.core.random import Rng
from diptych.data.images import ImageSet, ImageStream
from diptych.data.pixels import PixelStream
from diptych.evaluation.compare_generation import Unmask
from diptych.evaluation.compare_runs import is_of_images
from diptych.evaluation.diffusion_likelihood import check_finite, image_flow, in_batches
from diptych.evaluation.image_samples import ImageDrawer, build_sampler, labels_in_turn
from diptych.evaluation.pixel_likelihood import likelihood_of_run, pixel_nats
from diptych.evaluation.pixel_samples import PixelDrawer, PixelSampler
from diptych.models.language_model import LanguageModel
from diptych.models.network import Network
from diptych.objectives.masked_lm import mask_id_of
from diptych.samplers.autoregressive import AutoregressiveSampler
from diptych.samplers.masked_diffusion import MaskedDiffusionSampler
from diptych.samplers.uniform_diffusion import UniformDiffusionSampler
from diptych.tokenizers.base import Tokenizer

NatsKind = Literal["exact", "bound", "flow"]
"""The likelihood of the levels; a bound of it; or the flow's density of levels spread evenly, which bounds it too."""


@dataclass(frozen=True, kw_only=True)
class ImageComparisonConfig:
    """What is measured of which runs."""

    runs: tuple[str, ...]
    """Run folders."""
    images: int | None = 64
    """Held-out images to score, the first ones; None: all."""
    draws: int = 8
    """Evaluations of a network that denoises pixels for an image's bound."""
    dequantizations: int = 2
    """How often an image is spread over its levels for the flow."""
    probes: int = 4
    """Random directions of each, by which the flow's divergence is estimated."""
    batch_size: int = 64
    """Images in a forward pass."""
    samples: int = 36
    """Images that each run draws."""
    pixels_per_step: int = 1
    """Numbers of an image that discrete diffusion draws in a step."""
    unmask: Unmask = "random"
    """Which of them masked diffusion reveals: any, or the surest."""
    solver: str = "unipc_3"
    """How Gaussian diffusion's backward process is followed."""
    steps: int = 20
    """Its steps from noise to image."""
    rounds: int = 3
    """Timings of each run, taken in turns."""
    seed: int = 0
    """Seed of bounds, noise and drawings."""

    def __post_init__(self) -> None:
        if len(self.runs) < 2 or len(set(self.runs)) < len(self.runs):
            raise ValueError(
                "name at least two different runs, as in: diptych compare runs/pixels-autoregressive runs/digits"
            )
        if min(self.batch_size, self.samples, self.pixels_per_step, self.steps, self.rounds) < 1:
            raise ValueError("batch_size, samples, pixels_per_step, steps and rounds must be at least 1")
        if (self.images or 2) < 2:
            raise ValueError("images must be at least 2: one alone tells no error")
        if min(self.dequantizations, self.probes) < 2:
            raise ValueError("dequantizations and probes must be at least 2: their spread is the error")
        if self.draws < 4 or self.draws % 4:
            raise ValueError(f"draws={self.draws} must be a multiple of 4")


@dataclass(frozen=True, kw_only=True)
class ImageNats:
    """Negative log-likelihood of each held-out image's levels in nats, or a bound."""

    kind: NatsKind
    nats: tuple[float, ...]
    standard_errors: tuple[float, ...]
    """Of each image's estimate; 0 where it is exact."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageContender(ABC):
    """A run of images made ready to be measured."""

    path: Path
    run: RunConfig
    train: ImageSet
    heldout: ImageSet

    @property
    def is_autoregressive(self) -> bool:
        """Whether it tells an image number by number, so that its likelihood is exact."""
        return self.run.objective == "autoregressive"

    @property
    def dims(self) -> int:
        """Numbers of an image."""
        return prod(self.train.shape)

    @property
    def n_classes(self) -> int:
        """Classes that the network is told; 0: none."""
        return 0

    @property
    @abstractmethod
    def network(self) -> Network:
        """The network."""

    @abstractmethod
    def nats(self, config: ImageComparisonConfig, on_event: Handler = ignore) -> ImageNats:
        """Those of the first held-out images."""

    @abstractmethod
    def draw(self, config: ImageComparisonConfig, on_event: Handler = ignore) -> ImageSet:
        """`config.samples` images."""

    @abstractmethod
    def evaluations(self, config: ImageComparisonConfig) -> int:
        """Passes through the network that an image takes."""

    def scored(self, config: ImageComparisonConfig) -> ImageSet:
        """The held-out images that are scored."""
        return self.heldout.take(slice(0, config.images))

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.network.parameters()).device


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class PixelContender(ImageContender):
    """A run that learnt images as sequences of levels."""

    model: LanguageModel
    tokenizer: Tokenizer

    @property
    def network(self) -> Network:
        return self.model

    def nats(self, config: ImageComparisonConfig, on_event: Handler = ignore) -> ImageNats:
        found = pixel_nats(
            likelihood_of_run(self.run, self.model, self.tokenizer, Rng(config.seed), draws=config.draws),
            PixelStream(self.scored(config), self.tokenizer.opening_id, shuffle=False),
            device=self.device,
            batch_size=config.batch_size,
            on_event=on_event,
        )
        errors = torch.zeros_like(found.nats) if found.standard_error is None else found.standard_error
        return ImageNats(
            kind=found.kind,  # of blocks of one number it is exact too
            nats=tuple(found.nats.double().tolist()),
            standard_errors=tuple(errors.double().tolist()),
        )

    def draw(self, config: ImageComparisonConfig, on_event: Handler = ignore) -> ImageSet:
        drawer = PixelDrawer(
            model=self.model,
            sampler=self._sampler(config),
            shape=self.train.shape,
            levels=self.train.levels,
            opening_id=self.tokenizer.opening_id,
            mask_id=mask_id_of(self.tokenizer, self.run.text_diffusion.mask_token),
        )
        return drawer.draw(config.samples, Rng(config.seed), on_event=on_event)

    def evaluations(self, config: ImageComparisonConfig) -> int:
        if self.is_autoregressive:
            return self.dims
        return self._steps(config) * -(-self.dims // self._block)

    @property
    def _block(self) -> int:
        return min(self.run.text_diffusion.block_length or self.dims, self.dims)

    def _steps(self, config: ImageComparisonConfig) -> int:
        """Of a block."""
        return -(-self._block // config.pixels_per_step)

    def _sampler(self, config: ImageComparisonConfig) -> PixelSampler:
        diffusion = self.run.text_diffusion
        match self.run.objective:
            case "autoregressive":
                return AutoregressiveSampler()
            case "uniform_diffusion":
                return UniformDiffusionSampler(steps=self._steps(config), schedule=diffusion.schedule)
            case _:
                # Evenly many numbers a step, whatever schedule the run was trained by.
                return MaskedDiffusionSampler(
                    steps=self._steps(config), unmask=config.unmask, block_length=diffusion.block_length
                )


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianContender(ImageContender):
    """A run that learnt to take noise from images."""

    opened: OpenedImageModel

    @property
    def network(self) -> Network:
        return self.opened.model

    @property
    def n_classes(self) -> int:
        return len(self.opened.classes)

    def nats(self, config: ImageComparisonConfig, on_event: Handler = ignore) -> ImageNats:
        images = self.scored(config)
        whole = ImageStream(images, shuffle=False).batch(0, len(images)).to(self.device)
        drawn = []
        for number in range(config.dequantizations):
            rng = Rng(config.seed).fold("dequantization", number)
            found = in_batches(
                lambda part, rng=rng: image_flow(  # type: ignore[misc]
                    self.opened, whole.rows(part.start, part.stop), rng, probes=config.probes, on_event=on_event
                ),
                len(images),
                batch_size=config.batch_size,
                on_event=on_event,
            )
            check_finite(found.nats)
            drawn.append(found.nats.double())
        each = torch.stack(drawn)
        # A level is 2 / levels wide.
        nats = each.mean(0) + self.dims * math.log(images.levels / 2)
        # The spread of the draws holds that of the divergence's estimates.
        errors = each.std(0) / math.sqrt(len(drawn))
        return ImageNats(kind="flow", nats=tuple(nats.tolist()), standard_errors=tuple(errors.tolist()))

    def draw(self, config: ImageComparisonConfig, on_event: Handler = ignore) -> ImageSet:
        labels = labels_in_turn(self.opened, config.samples)
        return self._drawer(config).draw(labels, config.samples, Rng(config.seed), on_event=on_event)

    def evaluations(self, config: ImageComparisonConfig) -> int:
        return self._drawer(config).sampler.evaluations

    def _drawer(self, config: ImageComparisonConfig) -> ImageDrawer:
        sampler = build_sampler(self.run.diffusion, config.solver, config.steps)
        return ImageDrawer(opened=self.opened, sampler=sampler)


def open_image_contender(path: Path, device: torch.device) -> ImageContender:
    """Open a run folder with its own images. Raises ValueError for a run of text, FileNotFoundError for what is
    missing."""
    run = load_recipe(path)
    if not is_of_images(run):
        raise ValueError(f"{path} learnt text and the others images, which do not compare; name runs of one kind")
    if run.lora is not None:
        raise ValueError(f"{path} trained a low-rank update; compare runs whose every weight was trained")
    train, heldout = images_of_run(path)
    if len(heldout) < 2:
        raise ValueError(f"{path} holds out one image, which tells no error; train with a larger heldout_fraction")
    if run.objective == "gaussian":
        opened = open_image_model(path, device=device)
        return GaussianContender(path=path, run=run, train=train, heldout=heldout, opened=opened)
    found = open_model(path, device=device, dtype=torch.float32)
    assert isinstance(found.model, LanguageModel), "sequences of pixels are learnt by one stack"
    return PixelContender(
        path=path, run=run, train=train, heldout=heldout, model=found.model.eval(), tokenizer=found.tokenizer
    )
