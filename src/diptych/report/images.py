"""How do images become one picture, and a backward process an animation?"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.files import replacing
from diptych.data.image_canvas import needs_images
from diptych.data.images import ImageSet

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 640
"""Pixels that the longer side of a picture has, nearly, where its images are small."""

BACKGROUND = 255


def grid(images: ImageSet, columns: int | None = None) -> NDArray[np.uint8]:
    """All images side by side in rows, (height, width, 3), each pixel a square, a gap between images.

    columns: images in a row; None: about as many as there are rows. Raises ValueError for fewer than one.
    """
    n, (channels, height, width) = len(images), images.shape
    columns = math.ceil(math.sqrt(n)) if columns is None else columns
    if columns < 1:
        raise ValueError(f"a row of {columns} images holds none; give at least 1")
    rows = -(-n // columns)
    scale = max(1, SIDE // max(rows * (height + 1), columns * (width + 1)))
    gap = max(1, scale // 2)
    high, wide = height * scale + gap, width * scale + gap
    canvas = np.full((rows * high + gap, columns * wide + gap, 3), BACKGROUND, np.uint8)
    for index, image in enumerate(_bytes(images)):
        top, left = gap + index // columns * high, gap + index % columns * wide
        colour = np.repeat(image, 3, axis=0) if channels == 1 else image[:3]
        large = colour.transpose(1, 2, 0).repeat(scale, axis=0).repeat(scale, axis=1)
        canvas[top : top + height * scale, left : left + width * scale] = large
    return canvas


def save_grid(images: ImageSet, path: Path, columns: int | None = None) -> None:
    """Write `grid` as PNG, atomically."""
    picture = _pillow().fromarray(grid(images, columns))
    with replacing(path) as temporary:
        picture.save(temporary, format="PNG")


def encoded(images: ImageSet) -> tuple[str, ...]:
    """Each image as PNG in base64, a pixel a pixel, so that a page can hold it."""
    module, found = _pillow(), []
    for image in _bytes(images):
        stream = io.BytesIO()
        module.fromarray(image[0] if len(image) == 1 else image[:3].transpose(1, 2, 0)).save(stream, format="PNG")
        found.append(base64.b64encode(stream.getvalue()).decode("ascii"))
    return tuple(found)


def save_animation(frames: Sequence[ImageSet], path: Path, *, milliseconds: int = 120, hold: int = 2000) -> None:
    """Write the frames as `save_pictures` does. Raises ValueError for another ending of the name, or no frames."""
    module = _pillow()
    save_pictures([module.fromarray(grid(frame)) for frame in frames], path, milliseconds=milliseconds, hold=hold)


def save_pictures(pictures: Sequence[Image], path: Path, *, milliseconds: int = 120, hold: int = 2000) -> None:
    """Write the pictures as an animated PNG (.png, .apng) or GIF (.gif), atomically; the last one stays a while.

    Raises ValueError for another ending of the name, or no pictures.
    """
    kinds = {".png": "PNG", ".apng": "PNG", ".gif": "GIF"}
    if path.suffix.lower() not in kinds:
        raise ValueError(f"{path} is no name of an animation; let it end in .gif or .apng")
    if not pictures:
        raise ValueError("an animation needs at least one frame")
    durations = [milliseconds] * (len(pictures) - 1) + [hold]
    with replacing(path) as temporary:
        pictures[0].save(
            temporary,
            format=kinds[path.suffix.lower()],
            save_all=True,
            append_images=pictures[1:],
            duration=durations,
            loop=0,
        )


def _bytes(images: ImageSet) -> NDArray[np.uint8]:
    """The pixels (n, c, h, w) from 0, the least level, to 255, the most."""
    return np.rint(np.asarray(images.pixels, np.float64) * (255.0 / (images.levels - 1))).astype(np.uint8)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise needs_images("pictures", "pillow") from None
    return Image
