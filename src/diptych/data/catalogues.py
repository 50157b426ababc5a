"""What do a program's message catalogues say in two languages?

Readers of GNU gettext's `.po` text and `.mo` binary files: the message in the program's language and its translation.
A plural message gives two pairs. The header, fuzzy, obsolete and untranslated entries are left out.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MO_MAGIC = 0x950412DE

_ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9a-fA-F]{2}|.)")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_LINE = re.compile(r'(?:(msgctxt|msgid_plural|msgid|msgstr(?:\[\d+\])?)\s*)?"((?:[^"\\]|\\.)*)"')
_CHARSET = re.compile(rb"charset=([A-Za-z0-9_.:-]+)")


def read_po(path: Path) -> Iterator[tuple[str, str]]:
    """Pairs of a `.po` file. Raises ValueError naming the line that is none of a catalogue."""
    data = path.read_bytes()
    text = _decode(data.removeprefix(b"\xef\xbb\xbf"), _charset(data), path)
    entry = _Entry()
    for number, line in enumerate((line.strip() for line in text.split("\n")), 1):
        if line.startswith("#~"):
            continue
        if not line or line.startswith("#"):
            if entry.forms and (not line or entry.name.startswith("msgstr")):
                yield from entry.pairs()
                entry = _Entry()
            entry.fuzzy |= line.startswith("#,") and "fuzzy" in line
            continue
        match = _LINE.fullmatch(line)
        if match is None or (match[1] is None and not entry.name):
            raise ValueError(
                f'{path}, line {number}: expected msgid, msgstr or a string in quotes, found "{line[:40]}"'
            )
        if match[1] in ("msgctxt", "msgid") and entry.name.startswith("msgstr"):
            yield from entry.pairs()
            entry = _Entry()
        entry.add(match[1], _ESCAPE.sub(_unescape, match[2]))
    yield from entry.pairs()


def read_mo(path: Path) -> Iterator[tuple[str, str]]:
    """Pairs of a `.mo` file. Raises ValueError where its tables point outside of it."""
    data = path.read_bytes()
    order = next((o for o in "<>" if data[:4] == struct.pack(f"{o}I", MO_MAGIC)), None)
    if order is None or len(data) < 28:
        raise ValueError(f"{path} is no gettext catalogue: it does not begin as a .mo file does")
    _, count, originals, translations = struct.unpack_from(f"{order}4I", data, 4)
    if max(originals, translations) + 8 * count > len(data):
        raise ValueError(f"{path} is damaged: its tables of {count} messages do not fit into {len(data)} bytes")

    def string(table: int, index: int) -> bytes:
        length, start = struct.unpack_from(f"{order}2I", data, table + 8 * index)
        if start + length > len(data):
            raise ValueError(f"{path} is damaged: message {index} ends at byte {start + length} of {len(data)}")
        return data[start : start + length]

    header = next((string(translations, i) for i in range(count) if not string(originals, i)), b"")
    charset = _charset(header)
    for index in range(count):
        original = _decode(string(originals, index), charset, path)
        translation = _decode(string(translations, index), charset, path)
        singular, *plural = original.split("\x04", 1)[-1].split("\0")
        yield from _pairs(singular, plural[0] if plural else None, translation.split("\0"))


@dataclass
class _Entry:
    """An entry of a `.po` file while it is read: its strings by keyword, the last of which goes on."""

    fuzzy: bool = False
    name: str = ""
    strings: dict[str, str] = field(default_factory=dict)

    @property
    def forms(self) -> list[str]:
        return [text for name, text in self.strings.items() if name.startswith("msgstr")]

    def add(self, name: str | None, text: str) -> None:
        if name is not None:
            self.name = name
        self.strings[self.name] = self.strings.get(self.name, "") + text

    def pairs(self) -> Iterator[tuple[str, str]]:
        if not self.fuzzy:
            yield from _pairs(self.strings.get("msgid", ""), self.strings.get("msgid_plural"), self.forms)


def _pairs(singular: str, plural: str | None, forms: list[str]) -> Iterator[tuple[str, str]]:
    """The singular with the first form and the plural with the last, where there are such."""
    if singular and forms and forms[0]:
        yield singular, forms[0]
    if singular and plural and forms and forms[-1]:
        yield plural, forms[-1]


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "01234567":
        return chr(int(code, 8))
    if code[0] == "x" and len(code) == 3:
        return chr(int(code[1:], 16))
    return _ESCAPES.get(code, code)


def _charset(data: bytes) -> str:
    match = _CHARSET.search(data)
    return "utf-8" if match is None or match[1] == b"CHARSET" else match[1].decode()


def _decode(data: bytes, charset: str, path: Path) -> str:
    try:
        return data.decode(charset)
    except LookupError:
        raise ValueError(f"{path} names the character set {charset}, which is unknown here") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not {charset}, as its header says: byte 0x{data[error.start]:02x}") from None
