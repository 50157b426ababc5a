"""Where do images come from?

Handwritten digits inside scikit-learn, Debian's packages of Fashion-MNIST and of emoji, folders of pictures, arrays,
and Hugging Face data sets by name.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.diffusion_config import ImageConfig
from diptych.core.events import Handler, ignore
from diptych.data.image_arrays import read_array
from diptych.data.image_canvas import Canvas, needs_images
from diptych.data.image_files import hub_images, picture_folder
from diptych.data.image_set import ImageSet

FASHION = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

EMOJI = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
"""Where Debian's package fonts-noto-color-emoji puts its font."""

EMOJI_SIZE = 32
"""Side of an emoji in pixels where data.images.size says nothing."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The images of a source, and its own test images where it comes with some."""

    images: ImageSet
    test: ImageSet | None = None


def read_source(source: str, config: ImageConfig, on_event: Handler = ignore) -> Found:
    """Read a source of images. Raises FileNotFoundError for a missing one and ValueError for one that is no images."""
    if source == "digits":
        return Found(images=_digits(config))
    if source == "fashion":
        return _fashion(config)
    if source == "emoji":
        return Found(images=_emoji(config))
    if source.startswith("hf:"):
        return Found(images=hub_images(source.removeprefix("hf:"), config, on_event))
    path = Path(source)
    if path.is_dir():
        return Found(images=picture_folder(path, config, on_event))
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file or folder {source}; data.source takes digits, fashion, emoji, folders of pictures, "
            "arrays (.npy, .npz), or hf:NAME"
        )
    return Found(images=read_array(path, config))


def _digits(config: ImageConfig) -> ImageSet:
    """Handwritten digits of 8 x 8 pixels and 17 levels (Alpaydin and Kaynak 1998), inside scikit-learn."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise needs_images("the digits", "scikit-learn") from None
    digits = load_digits()
    canvas = Canvas(config, levels=17)
    pixels = canvas.fit_all(digits.images.astype(np.uint8)[..., None])
    return ImageSet(
        pixels=pixels,
        labels=digits.target.astype(np.int64),
        levels=17,
        classes=tuple(str(name) for name in digits.target_names),
    )


def _fashion(config: ImageConfig) -> Found:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 and 10,000 articles of 28 x 28 pixels."""
    if not FASHION.is_dir():
        raise FileNotFoundError(
            f"Fashion-MNIST is not at {FASHION}; install Debian's package dataset-fashion-mnist (apt-get install), or "
            "name a folder of pictures"
        )
    canvas = Canvas(config)
    parts = []
    for part in ("train", "t10k"):
        pixels = read_idx(FASHION / f"{part}-images-idx3-ubyte.gz", 3)
        labels = read_idx(FASHION / f"{part}-labels-idx1-ubyte.gz", 1).astype(np.int64)
        parts.append(ImageSet(pixels=canvas.fit_all(pixels[..., None]), labels=labels, classes=FASHION_CLASSES))
    return Found(images=parts[0], test=parts[1])


def read_idx(path: Path, n_axes: int) -> NDArray[np.uint8]:
    """The bytes of a compressed file in the format of MNIST, with its shape. Raises ValueError for a damaged one."""
    try:
        with gzip.open(path, "rb") as file:
            magic = file.read(4)
            axes = np.frombuffer(file.read(4 * n_axes), ">u4")
            data = np.frombuffer(file.read(), np.uint8)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}; install dataset-fashion-mnist again") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file ({error})") from None
    if magic != bytes([0, 0, 8, n_axes]) or len(axes) != n_axes or data.size != np.prod(axes.astype(np.int64)):
        raise ValueError(f"{path} is no idx file of bytes along {n_axes} axes")
    return data.reshape(tuple(int(n) for n in axes))


def _emoji(config: ImageConfig) -> ImageSet:
    """The different pictures of Noto Color Emoji on white, small."""
    if not EMOJI.is_file():
        raise FileNotFoundError(
            f"the font of emoji is not at {EMOJI}; install Debian's package fonts-noto-color-emoji (apt-get install), "
            "or name a folder of pictures"
        )
    try:
        from fontTools.ttLib import TTFont, TTLibError
        from PIL import Image
    except ModuleNotFoundError:
        raise needs_images("the emoji", "fontTools and pillow") from None
    canvas = Canvas(config, size=config.size or EMOJI_SIZE, channels=config.channels or 3)
    pictures = []
    try:
        with TTFont(EMOJI, lazy=True) as font:
            for glyphs in font["CBDT"].strikeData:
                for glyph in glyphs.values():
                    pictures.append(canvas.fit(Image.open(io.BytesIO(glyph.imageData))))
    except (TTLibError, KeyError, OSError) as error:
        raise ValueError(f"{EMOJI} holds no bitmaps of emoji (table CBDT): {error}") from None
    return ImageSet(pixels=_different(pictures))


def _different(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """The pictures without copies, in the order of their first appearance."""
    seen: dict[bytes, Any] = {picture.tobytes(): picture for picture in reversed(pictures)}
    return np.stack(list(reversed(seen.values())))
