"""How do pictures of any kind come to one shape?

The middle square, averaged over areas where it shrinks; colours become grey by luma (ITU-R BT.601), and what is
transparent lies on white.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

import numpy as np
from numpy.typing import NDArray

from diptych.core.diffusion_config import ImageConfig

if TYPE_CHECKING:
    from PIL import Image


def needs_images(what: str, packages: str) -> ModuleNotFoundError:
    """The error where an optional package is missing."""
    return ModuleNotFoundError(f"{what} need {packages}; pip install 'diptych[images]'")


@contextmanager
def no_bombs() -> Iterator[None]:
    """Within it, a picture that would unpack to hundreds of megabytes is an error, not a warning."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@final
class Canvas:
    """Brings pictures to the size and channels that are asked for; what is not asked for stays as it is."""

    def __init__(
        self, config: ImageConfig, *, levels: int = 256, size: int | None = None, channels: int | None = None
    ) -> None:
        self.size, self.channels, self.levels = size or config.size, channels or config.channels, levels

    def fit_all(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Images (n, h, w, c) as (n, c, height, width)."""
        _, height, width, channels = pixels.shape
        if self.size in (None, height) and self.size in (None, width) and self.channels in (None, channels):
            return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        try:
            from PIL import Image
        except ModuleNotFoundError:
            raise needs_images("data.images.size and data.images.channels", "pillow") from None
        return np.stack([self.fit(Image.fromarray(p[..., 0] if channels == 1 else p)) for p in pixels])

    def fit(self, picture: Image.Image) -> NDArray[np.uint8]:
        """A picture as (c, h, w). Raises ValueError for one whose numbers are no bytes."""
        plain = _plain(picture)
        if self.channels is not None:
            plain = plain.convert("L" if self.channels == 1 else "RGB")
        if self.size is not None:
            plain = _middle_square(plain, self.size)
        pixels = np.asarray(plain, np.uint8)
        return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _plain(picture: Image.Image) -> Image.Image:
    """A picture upright, on white, and either grey (L) or coloured (RGB)."""
    from PIL import Image, ImageOps

    if picture.mode.startswith("I"):
        numbers = np.asarray(picture).astype(np.int64)
        if not 0 <= numbers.min() <= numbers.max() < 2**16:
            raise ValueError("its pixels have more than 16 bits")
        picture = Image.fromarray((numbers // 257).astype(np.uint8))  # 65535 = 255 * 257
    if picture.mode == "F":
        raise ValueError("its pixels are no whole numbers")
    picture = ImageOps.exif_transpose(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture).convert("RGB")
    if picture.mode in ("1", "L"):
        return picture.convert("L")
    return picture.convert("RGB")


def _middle_square(picture: Image.Image, size: int) -> Image.Image:
    """The middle square of a picture, of `size` pixels a side. No method here leaves the range of the pixels."""
    from PIL import Image

    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    if side == size:
        return picture.crop((left, top, left + side, top + side))
    method = Image.Resampling.BOX if side > size else Image.Resampling.BILINEAR
    return picture.resize((size, size), method, box=(left, top, left + side, top + side))


def stacked(pictures: Sequence[NDArray[np.uint8]], names: Sequence[str]) -> NDArray[np.uint8]:
    """Pictures (c, h, w) as one array; where some have colours all of them get three channels.

    Raises ValueError where they differ in size.
    """
    for picture, name in zip(pictures, names, strict=True):
        if picture.shape[1:] != pictures[0].shape[1:]:
            (h, w), (h0, w0) = picture.shape[1:], pictures[0].shape[1:]
            raise ValueError(
                f"pictures differ in size: {names[0]} is {h0} x {w0}, {name} is {h} x {w}; set data.images.size to "
                "bring them to one"
            )
    channels = max(len(picture) for picture in pictures)
    return np.stack([np.broadcast_to(p, (channels, *p.shape[1:])) for p in pictures])
