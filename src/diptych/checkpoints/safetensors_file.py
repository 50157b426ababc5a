"""How do tensors get from a safetensors file straight into a network, and back, without a second copy of them?

The format (github.com/huggingface/safetensors): eight bytes with the length of a header, the header, a JSON object of
names with type, shape and place, and the tensors' bytes, row by row, little-endian, one after another. Everything that
the header claims is checked against the size of the file before anything of that size is made.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from diptych.checkpoints.json_object import MOST_BYTES, brief, parse_object
from diptych.core.files import replacing

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of weights."""

OTHERS = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "U32": 4, "I32": 4, "U64": 8}
OTHERS |= {"I64": 8, "C64": 8}
"""Bytes of the types in which no weights are read."""

AT_ONCE = 1 << 22
"""Bytes that are read at once where they are converted on the way."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor in a file: its type by the format's name, and the offset of its first byte."""

    path: Path
    name: str
    kind: str
    shape: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Raises ValueError for a type in which no weights are read."""
        if self.kind not in FLOATS:
            known = ", ".join(FLOATS)
            raise ValueError(f"{self.path}: {brief(self.name)} is of type {self.kind}; weights are read from {known}")
        return FLOATS[self.kind]

    @property
    def n_bytes(self) -> int:
        """Its size in the file."""
        return self.count * item_size(self.kind)


def item_size(kind: str) -> int:
    """Bytes of one element of a type."""
    return FLOATS[kind].itemsize if kind in FLOATS else OTHERS[kind]


def read_header(path: Path) -> dict[str, StoredTensor]:
    """What a file holds, by name; the tensors themselves are not read.

    Raises FileNotFoundError, or ValueError for a header that does not describe exactly the bytes of the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MOST_BYTES):
            raise _damaged(path, f"a header of {length:,} bytes in a file of {size:,}")
        values = parse_object(file.read(length), f"the header of {path}")
    values.pop("__metadata__", None)
    tensors = [_entry(path, name, value, 8 + length) for name, value in values.items()]
    end = 8 + length
    for tensor in sorted(tensors, key=lambda tensor: (tensor.start, tensor.n_bytes)):
        if tensor.start != end:
            what = "overlaps another" if tensor.start < end else "leaves a gap before it"
            raise _damaged(path, f"the tensor {brief(tensor.name)} {what}")
        end += tensor.n_bytes
    if end != size:
        raise _damaged(path, f"its tensors end at byte {end:,}, the file at {size:,}")
    return {tensor.name: tensor for tensor in tensors}


def _entry(path: Path, name: str, value: Any, data: int) -> StoredTensor:
    match value:
        case {"dtype": str(kind), "shape": list(shape), "data_offsets": [int(first), int(last)]}:
            pass
        case _:
            raise _damaged(path, f"the entry of {brief(name)} is no type, shape and place")
    if kind not in FLOATS and kind not in OTHERS:
        raise ValueError(f"{path}: {brief(name)} has the type {brief(kind)}, which is not understood")
    if not all(isinstance(length, int) and not isinstance(length, bool) and length >= 0 for length in shape):
        raise _damaged(path, f"{brief(name)} has the shape {brief(shape)}")
    tensor = StoredTensor(path=path, name=name, kind=kind, shape=tuple(shape), start=data + first)
    if first < 0 or last - first != tensor.n_bytes:
        claim = f"{brief(name)} of shape {brief(shape)} takes {brief(last - first)} bytes"
        raise _damaged(path, f"its header says that {claim}")
    return tensor


def _damaged(path: Path, what: str) -> ValueError:
    return ValueError(f"{path} is damaged or no safetensors file ({what}); restore it from a copy")


def read_into(stored: StoredTensor, out: Tensor) -> None:
    """Fill `out`, of the same shape, from the file, converted to its type and moved to its device.

    Nothing is kept of a tensor on the way but a few MB. Raises ValueError where the file ends early.
    """
    if tuple(out.shape) != stored.shape:
        raise ValueError(
            f"{stored.path}: {brief(stored.name)} has shape {stored.shape}, but config.json asks for {tuple(out.shape)}"
        )
    if not out.is_contiguous():
        whole = torch.empty(stored.shape, dtype=stored.dtype)
        read_into(stored, whole)
        out.copy_(whole)
        return
    with stored.path.open("rb", buffering=0) as file:
        file.seek(stored.start)
        flat = out.detach().view(-1)
        if out.dtype == stored.dtype and out.device.type == "cpu":
            _fill(file, flat, stored)
            return
        step = AT_ONCE // stored.dtype.itemsize
        buffer = torch.empty(min(step, stored.count), dtype=stored.dtype)
        for first in range(0, stored.count, step):
            part = buffer[: min(step, stored.count - first)]
            _fill(file, part, stored)
            flat[first : first + step].copy_(part)


def _fill(file: Any, flat: Tensor, stored: StoredTensor) -> None:
    view = flat.view(torch.uint8).numpy().data
    while view:
        count = file.readinto(view)
        if not count:
            raise _damaged(stored.path, f"it ends within {brief(stored.name)}")
        view = view[count:]


@dataclass(frozen=True, kw_only=True)
class TensorToWrite:
    """A tensor that is made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Tensor]


def write_tensors(
    tensors: Iterable[TensorToWrite], path: Path, dtype: torch.dtype, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a file atomically, tensor by tensor, all in one type. Raises OSError where the disk is full."""
    kind = next(name for name, known in FLOATS.items() if known == dtype)
    tensors = list(tensors)
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    end = 0
    for tensor in tensors:
        first, end = end, end + math.prod(tensor.shape) * dtype.itemsize
        header[tensor.name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [first, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of eight bytes
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            _write(file, tensor, dtype)


def _write(file: BinaryIO, tensor: TensorToWrite, dtype: torch.dtype) -> None:
    made = tensor.make().detach().to(device="cpu", dtype=dtype).contiguous()
    if tuple(made.shape) != tensor.shape:
        raise ValueError(f"{tensor.name} has shape {tuple(made.shape)}, not {tensor.shape}")
    file.write(made.view(-1).view(torch.uint8).numpy().data)
