"""What is said of a pixel model, masked diffusion of pixels and Gaussian diffusion of images side by side?

Held-out images pair up: what makes one hard for all drops out of the difference of what it costs.
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np
import torch

from diptych.core.recipe import differences
from diptych.data.images import ImageSet
from diptych.evaluation.compare_likelihood import Estimate, ratio
from diptych.evaluation.compare_runs import paradigm_of, trained_otherwise
from diptych.evaluation.comparison import Reservation, TrainedRun
from diptych.evaluation.image_contenders import ImageComparisonConfig, ImageContender, ImageNats, NatsKind
from diptych.models.cost import parameters_by_part
from diptych.training.work import flops_per_target, positions_read, row_targets

_OF_PATCHES: Final = {"patches", "vocab_size", "max_length"}
"""Keys of a network that its being one over patches, or over tokens, decides."""

_OF_FORMAT: Final = ("data.format", "data.sequence_length")
"""Keys of a recipe that belong to the paradigm."""


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """A run's score on the held-out images, and its distance from autoregression."""

    run: str
    kind: NatsKind
    n_images: int
    bits_per_dimension: float
    estimate_error: float
    """Of the estimate for these very images; 0 where the likelihood is exact."""
    standard_error: float
    """Of the mean over images, as an estimate for all others."""
    difference: Estimate | None
    """Bits per dimension more than the first autoregressive run, over images; None: it is that run, or its images are
    others."""


@dataclass(frozen=True, kw_only=True)
class PackedImages:
    """Images as text: the levels (n, c, h, w), a byte each, in base64."""

    shape: tuple[int, int, int, int]
    levels: int
    pixels: str

    def unpacked(self) -> ImageSet:
        """The images."""
        data = np.frombuffer(base64.b64decode(self.pixels, validate=True), np.uint8)
        return ImageSet(pixels=data.reshape(self.shape), levels=self.levels)


@dataclass(frozen=True, kw_only=True)
class DrawnImages:
    """What a run drew, and how fast."""

    run: str
    evaluations: int
    """Passes through the network for each image."""
    seconds_per_image: float
    """All images at once, the median of the rounds."""
    images: PackedImages


@dataclass(frozen=True, kw_only=True)
class ImageComparisonResult:
    """Runs of images side by side."""

    config: ImageComparisonConfig
    machine: str
    trained: tuple[TrainedRun, ...]
    """Targets are dimensions: the numbers of an image."""
    reservations: tuple[Reservation, ...]
    reference: str | None
    """The first autoregressive run, to which differences are taken."""
    dims: int
    """Numbers of an image of the first run."""
    scores: tuple[ImageScore, ...]
    drawn: tuple[DrawnImages, ...]
    heldout: PackedImages
    """The first held-out images of the first run, beside what is drawn."""


def trained_image_run(contender: ImageContender, name: str, *, steps: int, kept_step: int, tokens: int) -> TrainedRun:
    """What a run's training took, in dimensions. tokens: levels or patches that it has seen."""
    config, run, dims = contender.network.config, contender.run, contender.dims
    images = tokens / row_targets(run, config)
    flops = flops_per_target(run, config) * tokens
    return TrainedRun(
        run=name,
        path=str(contender.path),
        paradigm=paradigm_of(run),
        parameters=sum(parameters_by_part(config).values()),
        steps=steps,
        kept_step=kept_step,
        tokens=round(images * dims),
        epochs=images / len(contender.train),
        positions=positions_read(run, config),
        row_targets=dims,
        flops_per_target=flops / (images * dims),
        flops=flops,
    )


def same_images(first: ImageSet, other: ImageSet) -> bool:
    """Whether two sets hold the same images in the same order, of as many levels."""
    return first.levels == other.levels and np.array_equal(first.pixels, other.pixels)


def image_reservations(
    contenders: list[ImageContender], trained: tuple[TrainedRun, ...], config: ImageComparisonConfig
) -> tuple[Reservation, ...]:
    """In what each run differs from the first one, and what holds of a run by itself."""
    first, found = contenders[0], list[Reservation]()
    for contender, of in zip(contenders, trained, strict=True):
        if contender is not first:
            lines = _differs(first, contender, (trained[0].flops, of.flops), config)
            found += [Reservation(run=of.run, text=f"{line} (beside {trained[0].run})") for line in lines]
        if contender.n_classes:
            most = math.log2(contender.n_classes) / contender.dims
            text = (
                f"is told the class of an image, in scoring too: that may be worth {most:.4f} bits per dimension, the "
                f"logarithm of {contender.n_classes} classes"
            )
            found.append(Reservation(run=of.run, text=text))
    return tuple(found)


def _differs(
    first: ImageContender, other: ImageContender, flops: tuple[float, float], config: ImageComparisonConfig
) -> Iterator[str]:
    one, another = first.network.config, other.network.config
    keys = set(differences(one, another))
    if (one.patches is None) != (another.patches is None):
        keys -= _OF_PATCHES
    if keys:
        yield f"another network: {', '.join(sorted(keys))}"
    if not same_images(first.scored(config), other.scored(config)):
        yield "other held-out images: bits per dimension do not compare"
    if not same_images(first.train, other.train):
        yield f"other training images: {len(other.train):,} instead of {len(first.train):,}"
    apart = _OF_FORMAT if first.run.data.format != other.run.data.format else ()
    yield from trained_otherwise(first.run, other.run, flops, apart)


def image_scores(
    contenders: list[ImageContender],
    names: list[str],
    nats: list[ImageNats],
    reference: ImageContender | None,
    config: ImageComparisonConfig,
) -> tuple[ImageScore, ...]:
    """Scores of all runs, paired with those of the reference where their images are the same."""
    scores = []
    for contender, name, own in zip(contenders, names, nats, strict=True):
        pairs = (
            reference is not None
            and contender is not reference
            and same_images(reference.scored(config), contender.scored(config))
        )
        beside = nats[contenders.index(reference)] if pairs and reference is not None else None
        scores.append(image_score(name, own, contender.dims, beside))
    return tuple(scores)


def image_score(run: str, own: ImageNats, dims: int, beside: ImageNats | None) -> ImageScore:
    """A run's score from the nats of its images, of `dims` numbers each, and those of the autoregressive run beside."""
    bits = [dims * math.log(2)] * len(own.nats)
    mean = ratio(own.nats, bits)
    difference = None
    if beside is not None:
        difference = ratio([a - b for a, b in zip(own.nats, beside.nats, strict=True)], bits)
    return ImageScore(
        run=run,
        kind=own.kind,
        n_images=len(own.nats),
        bits_per_dimension=mean.value,
        estimate_error=math.hypot(*own.standard_errors) / sum(bits),
        standard_error=mean.error,
        difference=difference,
    )


def packed(images: ImageSet) -> PackedImages:
    """Images as text."""
    n, (channels, height, width) = len(images), images.shape
    pixels = base64.b64encode(np.ascontiguousarray(images.pixels).tobytes()).decode("ascii")
    return PackedImages(shape=(n, channels, height, width), levels=images.levels, pixels=pixels)


def time_drawing(contender: ImageContender, config: ImageComparisonConfig) -> float:
    """Seconds that drawing all images again takes, an image."""
    if contender.device.type == "cuda":
        torch.cuda.synchronize(contender.device)
    start = time.perf_counter()
    contender.draw(config)  # the levels are fetched, so the device has finished
    return (time.perf_counter() - start) / config.samples


def drawn_images(
    contender: ImageContender, run: str, config: ImageComparisonConfig, images: PackedImages, seconds: list[float]
) -> DrawnImages:
    """What a run drew, and its speed from the seconds an image of every round."""
    return DrawnImages(
        run=run, evaluations=contender.evaluations(config), seconds_per_image=median(seconds), images=images
    )
