"""How are arrays of images read, and what are classes from a file?

Bytes of shape (n, h, w) or (n, h, w, c) in .npy, or in .npz with their labels. Arrays of pickled objects are refused:
to open one is to run its program.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.diffusion_config import ImageConfig
from diptych.data.image_canvas import Canvas
from diptych.data.image_set import ImageSet
from diptych.data.sources import no_field

MAX_CLASSES = 2**16
"""Numbers of classes reach at most so far: a larger one is no class but some other number."""

_DAMAGED = (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error, struct.error, KeyError)


def read_array(path: Path, config: ImageConfig) -> ImageSet:
    """The images of a .npy or .npz file. Raises ValueError for another file, a damaged one or one of another type."""
    canvas = Canvas(config)
    match path.suffix.lower():
        case ".npy":
            return ImageSet(pixels=canvas.fit_all(_pixels(_load(path), str(path))))
        case ".npz":
            archive = _load(path)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError(f"{path} is one array and no archive of them; give it the suffix .npy")
            with archive:
                pixels = _pixels(_member(archive, config.image_field, "images.image_field", path), str(path))
                labels = None
                if has_labels(config, archive.files, str(path)):
                    labels = _member(archive, config.label_field, "images.label_field", path)
        case _:
            raise ValueError(f"{path} is neither a folder of pictures nor an array (.npy, .npz); name one of these")
    numbers, classes = (None, ()) if labels is None else numbered(labels, len(pixels), f"{path}, {config.label_field}")
    return ImageSet(pixels=canvas.fit_all(pixels), labels=numbers, classes=classes)


def has_labels(config: ImageConfig, names: Sequence[str], place: str) -> bool:
    """Whether there is a field of labels. Raises ValueError where the recipe names one that there is not."""
    if config.label_field in names:
        return True
    if config.label_field != ImageConfig().label_field:
        raise ValueError(f"{place}: {no_field(config.label_field, names, 'images.label_field')}")
    return False


def _load(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r" if path.suffix.lower() == ".npy" else None, allow_pickle=False)
    except _DAMAGED as error:
        raise _refused(path, error) from None


def _member(archive: Mapping[str, Any], name: str, key: str, path: Path) -> Any:
    if name not in archive:
        raise ValueError(f"{path}: {no_field(name, list(archive), key)}")
    try:
        return archive[name]
    except _DAMAGED as error:
        raise _refused(path, error) from None


def _refused(path: Path, error: BaseException) -> ValueError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if "pickle" in reason or "Python objects" in reason:
        return ValueError(f"{path} holds pickled objects, which are never opened; save an array of dtype uint8")
    return ValueError(f"{path} is no array that can be read ({reason})")


def _pixels(array: Any, place: str) -> NDArray[np.uint8]:
    """An array of images as (n, h, w, c). Raises ValueError where it is none."""
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        kind = getattr(array, "dtype", type(array).__name__)
        raise ValueError(f"{place}: images are bytes from 0 to 255, not {kind}; save them as dtype uint8")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        raise ValueError(
            f"{place}: the array has shape {array.shape}; images are (n, h, w) or (n, h, w, c), "
            "with 1 or 3 channels last"
        )
    if 0 in array.shape:
        raise ValueError(f"{place} holds no images (shape {array.shape})")
    pixels: NDArray[np.uint8] = array
    return pixels


def numbered(
    labels: Any, count: int, place: str, names: Sequence[str] = ()
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Labels, numbers from 0 or words, as places in the names of the classes. Raises ValueError for other ones.

    names: what the source calls the classes that it numbers; none: numbers name themselves.
    """
    array = np.asarray(labels)
    if array.size != count or array.ndim > 2:
        raise ValueError(f"{place}: {count} images have labels of shape {array.shape}")
    array = array.reshape(count)
    if array.dtype.kind == "U":
        words, places = np.unique(array, return_inverse=True)
        return places.astype(np.int64), tuple(str(word) for word in words)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{place}: labels are whole numbers or words, not {array.dtype}")
    if int(array.min()) < 0 or int(array.max()) >= MAX_CLASSES:
        raise ValueError(f"{place}: labels count classes from 0, but reach from {array.min()} to {array.max()}")
    if names and int(array.max()) >= len(names):
        raise ValueError(f"{place}: there is a label {array.max()}, but names for {len(names)} classes only")
    return array.astype(np.int64), tuple(names) or tuple(str(i) for i in range(int(array.max()) + 1))
