"""What does a GGUF file say before its tensors begin?

GGUF is the file format of GGML (docs/gguf.md of that project): a count of key-value pairs and tensors, the pairs, the
tensors' names, shapes, types and places, and then the tensors themselves, which are not read here. Every count and
length is checked against the bytes that are left before anything of that size is made.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = "general.alignment"

_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS: dict[int, np.dtype[Any]] = {
    kind: np.dtype(name)
    for kind, name in {
        0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "u1", 10: "<u8", 11: "<i8", 12: "<f8",
    }.items()
}  # fmt: skip
BLOCKS: dict[int, tuple[int, int]] = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18),
}  # fmt: skip
"""GGML's number of a type -> the numbers in a block, and its bytes (`ggml.c`, `type_traits`)."""

_LEAST_PAIR, _LEAST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8
_MOST_DIMENSIONS, _MOST_NAME, _MOST_STRINGS = 4, 1 << 16, 1 << 22

Value = bool | int | float | str | list[str] | NDArray[Any]
"""A value of the metadata; arrays of numbers are NumPy's, arrays of strings are lists."""


@final
@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """Where a tensor lies: its shape as NumPy counts it (the fastest axis last), GGML's number of its type, and the
    offset of its first byte in the file."""

    shape: tuple[int, ...]
    ggml_type: int
    offset: int

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def n_bytes(self) -> int:
        """How many bytes its blocks take; 0 for a type that is not in `BLOCKS`."""
        block, size = BLOCKS.get(self.ggml_type, (1, 0))
        return self.elements // block * size


@final
@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """The metadata and the places of the tensors of a GGUF file."""

    path: Path
    version: int
    metadata: Mapping[str, Value]
    tensors: Mapping[str, TensorInfo]

    def text(self, key: str) -> str | None:
        """A string of the metadata; None where there is none. Raises ValueError for a value of another type."""
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, str):
            raise self._other(key, "a string")
        return value

    def whole(self, key: str) -> int | None:
        """A whole number of the metadata; None where there is none. Raises ValueError for another type."""
        value = self.metadata.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise self._other(key, "a whole number")
        return value

    def strings(self, key: str) -> list[str] | None:
        """An array of strings; None where there is none. Raises ValueError for another type."""
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, list):
            raise self._other(key, "an array of strings")
        return value

    def numbers(self, key: str) -> NDArray[Any] | None:
        """An array of numbers; None where there is none. Raises ValueError for another type."""
        value = self.metadata.get(key)
        if value is not None and not isinstance(value, np.ndarray):
            raise self._other(key, "an array of numbers")
        return value

    def _other(self, key: str, expected: str) -> ValueError:
        return ValueError(f"{self.path}: {key} is not {expected}")


def read_header(path: Path) -> GgufHeader:
    """The header of a little-endian GGUF file, version 2 or 3; its tensors are not touched.

    Raises FileNotFoundError where there is no file, ValueError in one line for a file that is damaged or of another
    kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError(f"{path} is no GGUF file: it does not begin with {MAGIC.decode()}")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(data, path).header()


class _Reader:
    """A place in the file that moves on as values are read."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self.data, self.path = data, path
        self.size, self.at = len(data), len(MAGIC)

    def header(self) -> GgufHeader:
        version = self.number("<I", "its version")
        if version not in VERSIONS:
            if int.from_bytes(version.to_bytes(4, "big"), "little") in (1, *VERSIONS):
                raise ValueError(f"{self.path} is a big-endian GGUF file; only little-endian ones are read")
            raise ValueError(f"{self.path} is GGUF version {version}; versions 2 and 3 are read")
        n_tensors = self.count(_LEAST_TENSOR, "tensors")
        n_pairs = self.count(_LEAST_PAIR, "key-value pairs")
        metadata: dict[str, Value] = {}
        for _ in range(n_pairs):
            key = self.name("a key", metadata)
            metadata[key] = self.value(self.number("<I", f"the type of {key}"), key)
        tensors: dict[str, TensorInfo] = {}
        for _ in range(n_tensors):
            name = self.name("a tensor's name", tensors)
            tensors[name] = self.tensor(name)
        alignment = metadata.get(ALIGNMENT, 32)
        if isinstance(alignment, bool) or not isinstance(alignment, int) or alignment < 1 or alignment % 8:
            raise self.damaged(f"{ALIGNMENT} is no multiple of 8")
        placed = self.placed(tensors, -(-self.at // alignment) * alignment, alignment)
        return GgufHeader(path=self.path, version=version, metadata=metadata, tensors=placed)

    def placed(self, tensors: Mapping[str, TensorInfo], start: int, alignment: int) -> dict[str, TensorInfo]:
        """The tensors with offsets in the file, each within it and apart from the others."""
        placed, last, before = {}, start, ""
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
            block = BLOCKS.get(tensor.ggml_type, (1, 0))[0]
            if (tensor.shape[-1] if tensor.shape else 1) % block:
                raise self.damaged(f"tensor {_brief(name)} of shape {tensor.shape} is not in whole blocks of {block}")
            offset = start + tensor.offset
            if tensor.offset % alignment or offset + tensor.n_bytes > self.size:
                raise self.damaged(f"tensor {_brief(name)} lies outside the file, or is not aligned")
            if offset < last and tensor.n_bytes:
                raise self.damaged(f"tensors {_brief(before)} and {_brief(name)} overlap")
            if tensor.n_bytes:
                last, before = offset + tensor.n_bytes, name
            placed[name] = TensorInfo(shape=tensor.shape, ggml_type=tensor.ggml_type, offset=offset)
        return {name: placed[name] for name in tensors}

    def damaged(self, what: str) -> ValueError:
        return ValueError(f"{self.path} is damaged: {what}")

    def number(self, form: str, what: str) -> int:
        """One number of the structure itself."""
        try:
            (value,) = struct.unpack_from(form, self.data, self.at)
        except struct.error:
            raise self.damaged(f"it ends before {_brief(what)}") from None
        self.at += struct.calcsize(form)
        return int(value)

    def count(self, least: int, what: str) -> int:
        """How many things follow that take `least` bytes each, at the least."""
        count = self.number("<Q", f"the count of {what}")
        if count * least > self.size - self.at:
            raise self.damaged(f"it claims {count:,} {_brief(what)}, more than the file can hold")
        return count

    def name(self, what: str, known: Mapping[str, object]) -> str:
        length = self.count(1, f"bytes for {what}")
        if length >= _MOST_NAME:
            raise self.damaged(f"{what} of {length:,} bytes")
        try:
            name = str(self.take(length), "utf-8")
        except UnicodeDecodeError:
            raise self.damaged(f"{what} is not UTF-8") from None
        if name in known:
            raise self.damaged(f"{what} stands twice: {_brief(name)}")
        return name

    def take(self, length: int) -> bytes:
        self.at += length
        return self.data[self.at - length : self.at]

    def value(self, kind: int, key: str) -> Value:
        if kind == _STRING:
            return self.strings(1, key)[0]
        if kind == _ARRAY:
            return self.array(key)
        numbers = self.numbers(kind, 1, key)
        value: bool | int | float = numbers[0].item()
        return value

    def array(self, key: str) -> Value:
        kind = self.number("<I", f"the type of {key}")
        if kind == _ARRAY:
            raise ValueError(f"{self.path}: {_brief(key)} is an array of arrays, which is not read")
        if kind != _STRING and kind not in _NUMBERS:
            raise self.damaged(f"{_brief(key)} has the type {kind}, which does not exist")
        count = self.count(8 if kind == _STRING else _NUMBERS[kind].itemsize, f"values of {key}")
        return self.strings(count, key) if kind == _STRING else self.numbers(kind, count, key)

    def numbers(self, kind: int, count: int, key: str) -> NDArray[Any]:
        if kind not in _NUMBERS:
            raise self.damaged(f"{_brief(key)} has the type {kind}, which does not exist")
        dtype = _NUMBERS[kind]
        if count * dtype.itemsize > self.size - self.at:
            raise self.damaged(f"it ends within {_brief(key)}")
        values = np.frombuffer(self.take(count * dtype.itemsize), dtype)
        if kind == _BOOL:
            if (values > 1).any():
                raise self.damaged(f"{_brief(key)} is neither true nor false")
            return values.astype(np.bool_)
        return values

    def strings(self, count: int, key: str) -> list[str]:
        if count > _MOST_STRINGS:
            raise self.damaged(f"{_brief(key)} has {count:,} strings, more than any vocabulary")
        data, at, size, unpack = self.data, self.at, self.size, struct.Struct("<Q").unpack_from
        found = []
        try:
            for _ in range(count):  # vocabularies are long: no calls in this loop but these
                start = at + 8
                at = start + unpack(data, at)[0]
                if at > size:
                    raise self.damaged(f"it ends within {_brief(key)}")
                found.append(str(data[start:at], "utf-8"))
        except struct.error:
            raise self.damaged(f"it ends within {_brief(key)}") from None
        except UnicodeDecodeError:
            raise self.damaged(f"{_brief(key)} is not UTF-8") from None
        self.at = at
        return found

    def tensor(self, name: str) -> TensorInfo:
        """Its offset still counts from the first tensor."""
        what = f"the place of tensor {name}"
        n_dimensions = self.number("<I", what)
        if n_dimensions > _MOST_DIMENSIONS:
            raise self.damaged(f"tensor {_brief(name)} has {n_dimensions:,} dimensions")
        shape = tuple(self.number("<Q", what) for _ in range(n_dimensions))[::-1]
        # No type of GGML spends less than a bit on a number.
        if math.prod(shape) > 8 * self.size:
            raise self.damaged(f"tensor {_brief(name)} of shape {shape} is larger than the file")
        return TensorInfo(shape=shape, ggml_type=self.number("<I", what), offset=self.number("<Q", what))


def _brief(text: str) -> str:
    """One short line of what may be anything."""
    line = repr(text)[1:-1]
    return line if len(line) < 80 else line[:77] + "..."
