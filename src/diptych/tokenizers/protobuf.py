"""What stands in a message of Protocol Buffers? Its fields by number, as far as SentencePiece's files need them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5
_MOST_BITS = 64


@dataclass(frozen=True)
class Fields:
    """Values by the field's number: whole numbers, or bytes (of strings, messages and fixed numbers)."""

    values: Mapping[int, list[int | bytes]]

    def messages(self, number: int) -> list[bytes]:
        """All values of a repeated field. Raises ValueError where one is a number."""
        found = [value for value in self.values.get(number, []) if isinstance(value, bytes)]
        if len(found) < len(self.values.get(number, [])):
            raise ValueError(f"field {number} is no message")
        return found

    def last_bytes(self, number: int, default: bytes) -> bytes:
        """The bytes of a field. Raises ValueError where it is a number."""
        return [default, *self.messages(number)][-1]

    def last_int(self, number: int, default: int) -> int:
        """A whole number of 32 bits with its sign. Raises ValueError for another type."""
        value = self.values.get(number, [default])[-1]
        if not isinstance(value, int):
            raise ValueError(f"field {number} is no number")
        return value - (1 << 64) if value >> 63 else value

    def last_float(self, number: int, default: float) -> float:
        """A number of single precision. Raises ValueError for another type."""
        value = self.values.get(number, [None])[-1] if number in self.values else None
        if value is None:
            return default
        if not isinstance(value, bytes) or len(value) != struct.calcsize("<f"):
            raise ValueError(f"field {number} is no number of single precision")
        return float(struct.unpack("<f", value)[0])


def read_fields(data: bytes) -> Fields:
    """The fields of a message. Raises ValueError where the bytes are none."""
    values: dict[int, list[int | bytes]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError(f"no field begins at byte {at}")
        value: int | bytes
        if kind == _VARINT:
            value, at = _varint(data, at)
        else:
            if kind == _BYTES:
                size, at = _varint(data, at)
            elif kind in (_FIXED_32, _FIXED_64):
                size = 4 if kind == _FIXED_32 else 8
            else:
                raise ValueError(f"field {number} has a type that does not exist")
            if size > len(data) - at:
                raise ValueError(f"it ends within field {number}")
            value, at = data[at : at + size], at + size
        values.setdefault(number, []).append(value)
    return Fields(values)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, the lowest first; and where it ends."""
    value = shift = 0
    while shift < _MOST_BITS:
        if at >= len(data):
            raise ValueError("it ends within a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & ((1 << 64) - 1), at
        shift += 7
    raise ValueError("a number is too long")
