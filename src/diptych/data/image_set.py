"""What is a collection of images, as integers, as numbers and on the disk?

A pixel is a whole number below `levels`, kept as one byte. Its level v of L has its centre at 2 (v + 1/2) / L - 1, so
that the levels are equal intervals that fill [-1, 1] and a density over it gives each level a probability.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from diptych.core.files import write_folder
from diptych.core.recipe import load_json, save_json

_PIXELS, _LABELS, _FACTS = "pixels.npy", "labels.npy", "images.json"


@final
@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images of one shape. Raises ValueError where its parts do not fit together."""

    pixels: NDArray[np.uint8]
    """Levels (n, channels, height, width), each less than `levels`."""
    labels: NDArray[np.int64] | None = None
    """The class of each image (n), a place in `classes`; None: the images have no classes."""
    levels: int = 256
    """Values that a pixel may have."""
    classes: tuple[str, ...] = ()
    """Names of the classes."""

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4:
            raise ValueError(f"images are bytes of shape (n, c, h, w), not {self.pixels.dtype} {self.pixels.shape}")
        if not 2 <= self.levels <= 256:
            raise ValueError(f"a pixel of one byte has 2 to 256 levels, not {self.levels}")
        if self.labels is not None and self.labels.shape != (len(self.pixels),):
            raise ValueError(f"{len(self.pixels)} images have labels of shape {self.labels.shape}")
        if self.labels is not None and ((self.labels < 0) | (self.labels >= len(self.classes))).any():
            raise ValueError(f"a label lies outside the {len(self.classes)} classes")

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_] | slice) -> ImageSet:
        """The images of some rows, in their order."""
        labels = None if self.labels is None else self.labels[rows]
        return ImageSet(pixels=self.pixels[rows], labels=labels, levels=self.levels, classes=self.classes)

    def floats(self) -> Float[Tensor, "n c h w"]:
        """All images as numbers in [-1, 1], the centres of their levels."""
        return to_floats(torch.from_numpy(np.array(self.pixels)), self.levels)


def to_floats(pixels: UInt8[Tensor, "..."], levels: int) -> Float[Tensor, "..."]:
    """The centre of each level in [-1, 1], float32."""
    return (pixels.to(torch.float32) + 0.5) * (2.0 / levels) - 1.0


def to_levels(x: Float[Tensor, "..."], levels: int) -> UInt8[Tensor, "..."]:
    """The level in whose interval each number lies; what lies outside [-1, 1] goes to the nearest level."""
    return ((x + 1.0) * (levels / 2.0)).floor().clamp(0, levels - 1).to(torch.uint8)


def pixel_hashes(images: ImageSet) -> NDArray[np.uint64]:
    """A hash of the pixels of each image (n): equal for copies."""
    shape = repr(images.shape).encode()
    digests = (
        hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8, key=shape).digest() for image in images.pixels
    )
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


@dataclass(frozen=True, kw_only=True)
class _Facts:
    """What the arrays on the disk do not say."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    levels: int
    classes: tuple[str, ...]
    labelled: bool


def save_images(images: ImageSet, folder: Path) -> None:
    """Keep the images in a folder of their own, which appears complete or not at all."""

    def fill(temporary: Path) -> None:
        np.save(temporary / _PIXELS, images.pixels, allow_pickle=False)
        if images.labels is not None:
            np.save(temporary / _LABELS, images.labels, allow_pickle=False)
        facts = _Facts(levels=images.levels, classes=images.classes, labelled=images.labels is not None)
        save_json(facts, temporary / _FACTS)

    write_folder(folder, fill)


def has_images(folder: Path) -> bool:
    """Whether `save_images` has kept images there."""
    return (folder / _FACTS).is_file()


def load_images(folder: Path) -> ImageSet:
    """The images that `save_images` kept, mapped from the disk. Raises FileNotFoundError or ValueError for a damaged
    folder."""
    facts = load_json(_Facts, folder / _FACTS)
    pixels = _mapped(folder / _PIXELS)
    labels = _mapped(folder / _LABELS).astype(np.int64) if facts.labelled else None
    try:
        return ImageSet(pixels=pixels, labels=labels, levels=facts.levels, classes=facts.classes)
    except ValueError as error:
        raise ValueError(f"{folder} is damaged: {error}") from None


def _mapped(path: Path) -> NDArray[np.uint8]:
    """An array whose pages are read as they are needed."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}, which the images of a run need")
    try:
        array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({str(error).splitlines()[0]})") from None
    return array
