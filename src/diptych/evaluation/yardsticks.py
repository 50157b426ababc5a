"""How few bytes do programs that everyone knows make of the same text?

A model's bits per byte mean something beside a compressor's, since a likelihood is a code length (Shannon 1948;
Deletang et al. 2024, *Language Modeling Is Compression*). Two kinds of row, told apart by their names: compressors that
meet the held-out text unprepared, and one that has read the training text first, as the model has.
"""

from __future__ import annotations

import lzma
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from diptych.core.events import Handler, Message, Progressed, ignore

BROTLI_WINDOW: Final = 24
"""log2 of brotli's window, the largest of RFC 7932: 16 MiB."""
XZ_DICTIONARY_LIMIT: Final = (1 << 30) + (1 << 29)
"""The largest dictionary that liblzma's encoder takes: 1.5 GiB."""


@dataclass(frozen=True, kw_only=True)
class Yardstick:
    """What one known method makes of the held-out text."""

    name: str
    bytes: int
    """Size of the compressed text; for a likelihood, its code length rounded up to whole bytes."""
    bits_per_byte: float
    note: str = ""
    """What it knew before, in a few words."""
    primed: bool = False
    """Whether it has read the training text, as the model has."""


def compress_yardsticks(data: bytes, train: bytes | None = None, *, on_event: Handler = ignore) -> list[Yardstick]:
    """Compress the held-out `data` with xz -9e and brotli 11; given the training text, also with xz primed by it.

    Without the package `brotli` (extra `review`) its row is left out with a `Message`. Raises ValueError for no data.
    """
    if not data:
        raise ValueError("there is no held-out text to compress; set some aside with data.heldout_fraction")
    rows = [_row("xz -9e", _xz(data), len(data), note="alone with the held-out text")]
    brotli_bytes = _brotli(data, on_event)
    if brotli_bytes is not None:
        rows.append(_row("brotli 11", brotli_bytes, len(data), note="alone with the held-out text"))
    if train:
        on_event(Progressed(what="xz over the training text", done=0, total=None, unit="bytes"))
        primed = primed_xz_bytes(data, train)
        rows.append(_row("primed xz -9e", primed, len(data), note="after the training text", primed=True))
    return rows


def primed_xz_bytes(data: bytes, train: bytes) -> int:
    """How much longer xz's output grows when `data` follows `train`, in bytes.

    The dictionary spans both texts, so every byte of training can be referred to. Raises ValueError beyond 1.5 GiB.
    """
    total = len(train) + len(data)
    if total > XZ_DICTIONARY_LIMIT:
        raise ValueError(
            f"{total} bytes are more than xz's largest dictionary ({XZ_DICTIONARY_LIMIT}); pass less training text"
        )
    with ThreadPoolExecutor(2) as pool:  # liblzma works outside of the interpreter's lock
        without, with_data = pool.map(lambda text: _xz(text, dictionary=total), (train, train + data))
    return with_data - without


def likelihood_yardstick(name: str, nats: float, n_bytes: int, *, note: str = "after the training text") -> Yardstick:
    """A model's likelihood of the held-out text as a row: `nats` for the whole of its `n_bytes` bytes."""
    if n_bytes < 1:
        raise ValueError("bits per byte need at least one byte of held-out text")
    bits = float(nats) / math.log(2)  # a numpy sum may come in; results are plain numbers
    return Yardstick(name=name, bytes=math.ceil(bits / 8), bits_per_byte=bits / n_bytes, note=note, primed=True)


def _row(name: str, compressed: int, n_bytes: int, *, note: str, primed: bool = False) -> Yardstick:
    return Yardstick(name=name, bytes=compressed, bits_per_byte=8 * compressed / n_bytes, note=note, primed=primed)


def _xz(data: bytes, dictionary: int | None = None) -> int:
    """Bytes of `xz -9e`, container included; or of its bare LZMA2 stream with a dictionary of that many bytes."""
    preset = 9 | lzma.PRESET_EXTREME
    if dictionary is None:
        return len(lzma.compress(data, preset=preset))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": preset, "dict_size": max(dictionary, 4096)}]
    return len(lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters))


def _brotli(data: bytes, on_event: Handler) -> int | None:
    try:
        import brotli
    except ModuleNotFoundError:
        text = "brotli's yardstick is left out: the package is not installed (pip install 'diptych[review]')"
        on_event(Message(text=text, level="warning"))
        return None
    return len(brotli.compress(data, quality=11, lgwin=BROTLI_WINDOW))
