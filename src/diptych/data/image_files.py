"""How are pictures read from a folder, or from a Hugging Face data set?"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.diffusion_config import ImageConfig
from diptych.core.events import Handler, Message, Progressed
from diptych.data.image_arrays import has_labels, numbered
from diptych.data.image_canvas import Canvas, needs_images, no_bombs, stacked
from diptych.data.image_set import ImageSet
from diptych.data.sources import hub_table, no_field, visible_files

if TYPE_CHECKING:
    from PIL import Image

PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")

_AT_ONCE = 1000
"""Pictures between two reports."""


def picture_folder(folder: Path, config: ImageConfig, on_event: Handler) -> ImageSet:
    """Every picture below a folder; where they lie in folders, the first of them on the way names the class.

    Files that are no picture inside are counted and left out. Raises ValueError where none is left, where some have a
    class and some none, and where sizes differ without `size`.
    """
    paths = sorted(path for path in visible_files(folder) if path.suffix.lower() in PICTURES)
    canvas, pictures, kept, broken = Canvas(config), [], [], []
    for path in paths:
        try:
            pictures.append(_decoded(path, canvas))
            kept.append(path)
        except ValueError:
            broken.append(path)
        if len(kept) % _AT_ONCE == 0:
            on_event(Progressed(what=f"reading {folder}", done=len(kept), total=len(paths), unit="pictures"))
    if broken:
        text = f"{folder}: {len(broken)} files such as {broken[0].name} are no picture inside and were left out"
        on_event(Message(text=text, level="warning"))
    if not kept:
        raise ValueError(f"{folder} holds no picture ({', '.join(PICTURES)}) that can be read; name another folder")
    names = [path.relative_to(folder) for path in kept]
    labels, classes = _classes(names, folder)
    return ImageSet(pixels=stacked(pictures, [str(name) for name in names]), labels=labels, classes=classes)


def _classes(names: list[Path], folder: Path) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    within = [name.parts[0] if len(name.parts) > 1 else None for name in names]
    if all(part is None for part in within):
        return None, ()
    if (at := next((i for i, part in enumerate(within) if part is None), None)) is not None:
        raise ValueError(
            f"{folder}: {names[at]} lies beside the folders that name classes; put it into one of them, or all "
            "pictures into one folder"
        )
    return numbered(np.array(within, np.str_), len(names), str(folder))


def _decoded(source: Path | io.BytesIO, canvas: Canvas) -> NDArray[np.uint8]:
    """The pixels of a file. Raises ValueError where it is no picture, or one that would fill the memory."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise needs_images("pictures", "pillow") from None
    try:
        with no_bombs(), Image.open(source) as picture:
            return canvas.fit(picture)
    except Exception as error:  # decoders of damaged files raise dozens of kinds
        raise ValueError((str(error) or type(error).__name__).splitlines()[0]) from None


def hub_images(name: str, config: ImageConfig, on_event: Handler) -> ImageSet:
    """The images of `NAME` or `NAME:SPLIT` of a Hugging Face data set, or of a folder that `datasets` saved. Classes
    are called as the data set calls them.

    Raises ValueError where there are none, where one cannot be read and where sizes differ without `size`.
    """
    canvas, pictures, labels = Canvas(config), [], []
    labelled, table = False, hub_table(name)
    for index, record in enumerate(table):
        place = f"data set {name}, record {index}"
        if config.image_field not in record:
            raise ValueError(f"{place}: {no_field(config.image_field, record, 'images.image_field')}")
        if index == 0:
            labelled = has_labels(config, list(record), place)
        try:
            pictures.append(_of_record(record[config.image_field], canvas))
        except ValueError as error:
            raise ValueError(f"{place}: field {config.image_field} holds no picture ({error})") from None
        if labelled:
            labels.append(record[config.label_field])
        if len(pictures) % _AT_ONCE == 0:
            on_event(Progressed(what=f"reading {name}", done=len(pictures), total=None, unit="pictures"))
    if not pictures:
        raise ValueError(f"the data set {name} holds no images; name another split with hf:NAME:SPLIT")
    # A ClassLabel knows what its numbers are called; the features of a data set that streams may be unknown.
    names = getattr((table.features or {}).get(config.label_field), "names", ())
    numbers, classes = numbered(labels, len(pictures), f"data set {name}", names) if labelled else (None, ())
    places = [f"record {i}" for i in range(len(pictures))]
    return ImageSet(pixels=stacked(pictures, places), labels=numbers, classes=classes)


def _of_record(value: Any, canvas: Canvas) -> NDArray[np.uint8]:
    """The pixels of a picture as data sets keep it: decoded, or the bytes of its file."""
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        value = value["bytes"]
    if isinstance(value, bytes):
        return _decoded(io.BytesIO(value), canvas)
    if hasattr(value, "mode") and hasattr(value, "convert"):
        picture: Image.Image = value
        return canvas.fit(picture)
    raise ValueError(f"it is of type {type(value).__name__}")
