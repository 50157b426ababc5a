"""Which images train, which are held out, and which make up step number n?

An image's side depends on a hash of its pixels alone: copies never stand on both sides, and more data never moves an
image. A data set that comes with its own test images keeps them, and copies of held-out images are never trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from diptych.core.config import DataConfig
from diptych.core.events import Handler, Message, ignore
from diptych.core.types import Batch
from diptych.data.corpus import check_config
from diptych.data.image_set import (
    ImageSet,
    has_images,
    load_images,
    pixel_hashes,
    save_images,
    to_floats,
    to_levels,
)
from diptych.data.image_sources import read_source
from diptych.data.sources import describe
from diptych.data.stream import RowOrder

__all__ = [
    "ImageSet",
    "ImageStream",
    "has_images",
    "load_images",
    "pixel_hashes",
    "read_images",
    "save_images",
    "to_floats",
    "to_levels",
]


def read_images(config: DataConfig, on_event: Handler = ignore) -> tuple[ImageSet, ImageSet]:
    """The images to learn from and those held out.

    Raises FileNotFoundError for a missing source, and ValueError for one that cannot be read, for sources that do not
    go together, and where a side is left empty.
    """
    check_config(config)
    trained, kept = [], []
    for source in config.source:
        found = read_source(source, config.images, on_event)
        if config.heldout is not None:
            trained.append(found.images)
        elif found.test is not None:
            trained.append(found.images)
            kept.append(found.test)
        else:
            heldout = _fractions(found.images) < config.heldout_fraction
            trained.append(found.images.take(~heldout))
            kept.append(found.images.take(heldout))
    train = _joined(trained, config.source)
    if config.heldout is None:
        heldout_set = _joined(kept, config.source)
    else:
        found = read_source(config.heldout, config.images, on_event)
        heldout_set = _as_trained(found.images if found.test is None else found.test, train, config.heldout)
    return _apart(train, heldout_set, config, on_event)


def _fractions(images: ImageSet) -> NDArray[np.float64]:
    """A number in [0, 1) from a hash of the pixels of each image (n)."""
    # The 53 upper bits: a division of all 64 would round the largest of them to 1.
    fractions: NDArray[np.float64] = (pixel_hashes(images) >> np.uint64(11)).astype(np.float64) / 2.0**53
    return fractions


def _apart(train: ImageSet, heldout: ImageSet, config: DataConfig, on_event: Handler) -> tuple[ImageSet, ImageSet]:
    """Both sides, without training images of which a copy is held out. Raises ValueError where a side is empty."""
    if not len(heldout):
        raise ValueError(
            f"no image of {describe(config)} falls into the held-out share of {config.heldout_fraction:.0%}; "
            "raise data.heldout_fraction, or name images to score on with data.heldout"
        )
    copies = np.isin(pixel_hashes(train), pixel_hashes(heldout))
    if copies.any():
        text = f"{int(copies.sum())} training images are copies of held-out ones and were left out"
        on_event(Message(text=text, level="warning"))
        train = train.take(~copies)
    if not len(train):
        raise ValueError(
            f"{describe(config)} holds no image to train on besides the held-out ones; name more images in data.source"
        )
    return train, heldout


def _joined(parts: Sequence[ImageSet], names: Sequence[str]) -> ImageSet:
    """The images of several sources as one set. Raises ValueError where they do not go together."""
    first = parts[0]
    for part, name in zip(parts[1:], names[1:], strict=True):
        if part.shape != first.shape:
            raise ValueError(
                f"images of {names[0]} are {shape_text(first)}, those of {name} {shape_text(part)}; set "
                "data.images.size and data.images.channels to bring them to one shape"
            )
        if part.levels != first.levels:
            raise ValueError(
                f"pixels of {names[0]} have {first.levels} levels, those of {name} {part.levels}; name only one of them"
            )
        if part.classes != first.classes:
            raise ValueError(f"{names[0]} and {name} have different classes; name only one of them in data.source")
    labels = [part.labels for part in parts if part.labels is not None]
    return ImageSet(
        pixels=first.pixels if len(parts) == 1 else np.concatenate([part.pixels for part in parts]),
        labels=np.concatenate(labels) if labels else None,
        levels=first.levels,
        classes=first.classes,
    )


def _as_trained(images: ImageSet, train: ImageSet, name: str) -> ImageSet:
    """Held-out images from elsewhere, their classes numbered as those of the training images are."""
    if images.shape != train.shape or images.levels != train.levels:
        raise ValueError(
            f"the held-out images of {name} are {shape_text(images)} of {images.levels} levels, the training images "
            f"{shape_text(train)} of {train.levels}; name others in data.heldout, or set data.images.size"
        )
    labels = None
    if train.labels is not None:
        if images.labels is None:
            raise ValueError(f"the training images have classes and those of {name} none; name others in data.heldout")
        if unknown := sorted(set(images.classes) - set(train.classes)):
            raise ValueError(f"{name} has a class {unknown[0]!r} that the training images lack; leave it out there")
        places = np.array([train.classes.index(word) for word in images.classes], np.int64)
        labels = places[images.labels]
    return ImageSet(pixels=images.pixels, labels=labels, levels=train.levels, classes=train.classes)


def shape_text(images: ImageSet) -> str:
    """The shape of an image in words."""
    channels, height, width = images.shape
    return f"{height} x {width} pixels of {channels} channel{'s' * (channels != 1)}"


@final
class ImageStream:
    """Images and their classes, every one once an epoch."""

    def __init__(self, images: ImageSet, *, seed: int = 0, shuffle: bool = True) -> None:
        self.images = images
        self._order = RowOrder(len(images), seed, shuffle=shuffle)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, step: int, batch_size: int, rank: int = 0, ranks: int = 1) -> Batch:
        """This rank's part of the `batch_size` images of a step, at the centres of their levels: `x` is float32
        (b, c, h, w) in [-1, 1], `cond` the labels (b). Raises ValueError where it is no whole part.

        `sample_ids` number the images, the same in every epoch: noise of its own for each epoch folds in the step.
        """
        rows = self._order.rows(step, batch_size, rank, ranks)
        labels = None if self.images.labels is None else torch.from_numpy(self.images.labels[rows])
        return Batch(
            x=to_floats(torch.from_numpy(self.images.pixels[rows]), self.images.levels),
            sample_ids=torch.from_numpy(rows),
            cond=labels,
        )
