"""Where does text come from?

Python's own library (always at hand), text files, folders of them, JSON lines, Parquet, and Hugging Face data sets by
name. Every source gives documents, in an order that depends on nothing but the source.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.config import RECIPE, DataConfig
from diptych.core.events import Handler, Message, ignore

PIECE = 1 << 24
"""Bytes of a plain text file that make one document at most: what must fit into memory as text and as tokens."""

JSON_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from."""

    text: str
    name: str


def read_documents(sources: Iterable[str], text_field: str, on_event: Handler = ignore) -> Iterator[Document]:
    """All non-empty documents of the sources, in order.

    Raises FileNotFoundError for a missing path and ValueError for a file that cannot be read as text, naming the place.
    """
    for source in sources:
        for document in _open(source, text_field, on_event):
            if document.text:
                yield document


def _open(source: str, field: str, on_event: Handler) -> Iterator[Document]:
    if source == "stdlib":
        from diptych.data.stdlib import stdlib_documents

        return stdlib_documents()
    if source.startswith("hf:"):
        return _hub_dataset(source.removeprefix("hf:"), field)
    path = Path(source)
    if path.is_dir():
        return _folder(path, field, on_event)
    if path.is_file():
        return _file(path, field)
    raise FileNotFoundError(f"there is no file or folder {source}; data.source takes paths, stdlib, or hf:NAME")


def is_text_file(path: Path) -> bool:
    """Whether a path is a file that is read as plain text, not as records."""
    return path.is_file() and not path.name.lower().endswith((*JSON_LINES, ".parquet"))


def _file(path: Path, field: str) -> Iterator[Document]:
    name = path.name.lower()
    if name.endswith(JSON_LINES):
        return _json_lines(path, field)
    if name.endswith(".parquet"):
        return _parquet(path, field)
    return text_file(path)


def text_file(path: Path, start: int = 0, end: int | None = None) -> Iterator[Document]:
    """The bytes from `start` to `end` of a UTF-8 file: one document, or several of `PIECE` bytes cut at line ends.

    Raises ValueError naming the first byte that is no text.
    """
    left = path.stat().st_size - start if end is None else end - start
    with path.open("rb") as file:
        file.seek(start)
        at, data = start, b""
        while left > 0 and (block := file.read(min(PIECE, left))):
            left -= len(block)
            data += block
            cut = _end_of_line(data) if left > 0 else len(data)
            if cut:
                yield Document(decode_text(data[:cut], path, at), str(path))
            at, data = at + cut, data[cut:]
        if data:
            yield Document(decode_text(data, path, at), str(path))


def line_end_before(path: Path, share: float) -> int:
    """The offset of a line's end in a file near `share` of its bytes, or of a character's where no line is near."""
    at = round(path.stat().st_size * share)
    with path.open("rb") as file:
        file.seek(max(0, at - PIECE))
        data = file.read(min(PIECE, at))
    return at - len(data) + _end_of_line(data)


def _end_of_line(data: bytes) -> int:
    """Where to cut bytes: after a line in their last tenth, else before the last character, which may be incomplete."""
    if newline := data.rfind(b"\n", len(data) * 9 // 10) + 1:
        return newline
    for back in range(1, min(4, len(data)) + 1):
        if data[-back] >= 0xC0:  # the first byte of a character of several bytes
            return len(data) - back
    return len(data)


def decode_text(data: bytes, path: Path, at: int = 0) -> str:
    """UTF-8 text of bytes that begin `at` in the file. Raises ValueError naming the first byte that is none."""
    if at == 0 and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is UTF-16; convert it first, for example with iconv -f utf-16 -t utf-8")
    if b"\0" in data:
        raise ValueError(f"{path} is binary (byte 0 at offset {at + data.index(0)}), not text")
    mark = len(codecs.BOM_UTF8) if at == 0 and data.startswith(codecs.BOM_UTF8) else 0
    try:
        return data[mark:].decode()
    except UnicodeDecodeError as error:
        offset = mark + error.start
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{data[offset]:02x} at offset {at + offset}; convert it first, "
            "for example with iconv -f latin1 -t utf-8"
        ) from None


def _folder(folder: Path, field: str, on_event: Handler) -> Iterator[Document]:
    """Every text file below, hidden ones and run folders left out; files that are no text are counted, not fatal.

    In the order of a hash of their paths, so that the start of a large folder is a mix of all of it.
    """
    skipped = 0
    for path in sorted(visible_files(folder), key=lambda p: _hash(p.relative_to(folder).as_posix())):
        if is_text_file(path):
            try:
                for _ in text_file(path):  # the whole of a file is checked before its first piece is used
                    pass
            except (ValueError, OSError):
                skipped += 1
                continue
        yield from _file(path, field)
    if skipped:
        on_event(Message(text=f"{folder}: {skipped} files are no UTF-8 text and were left out", level="warning"))


def visible_files(folder: Path) -> Iterator[Path]:
    """All files below but hidden ones, and those of runs: what a run writes into its source would change it."""
    for root, folders, names in os.walk(folder):
        if RECIPE in names and Path(root) != folder:
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and (path := Path(root, name)).is_file():
                yield path


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()


def _json_lines(path: Path, field: str) -> Iterator[Document]:
    for number, record in json_records(path):
        yield Document(_text_of(record, field, f"{path}, line {number}"), f"{path}:{number}")


def json_records(path: Path) -> Iterator[tuple[int, Any]]:
    """Each value of a file of JSON lines and the number of its line. Raises ValueError naming a line that is none."""
    for number, line in enumerate(byte_lines(path), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number}: no valid JSON ({error})") from None
        yield number, record


def byte_lines(path: Path) -> Iterator[bytes]:
    if path.suffix.lower() != ".gz":
        with path.open("rb") as file:
            yield from file
        return
    try:
        with gzip.open(path, "rb") as compressed:
            yield from compressed
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file ({error})") from None


def _text_of(record: Any, field: str, place: str) -> str:
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise ValueError(f"{place}: expected a JSON object or string, found {type(record).__name__}")
    if field not in record:
        raise ValueError(f"{place}: {no_field(field, record)}")
    if not isinstance(record[field], str):
        raise ValueError(f"{place}: field {field} holds {type(record[field]).__name__}, not text")
    return str(record[field])


def no_field(field: str, names: Iterable[str], key: str = "text_field") -> str:
    """What to say of records that lack a field; `key` of the recipe's data names it."""
    names = list(names)
    near = difflib.get_close_matches(field, names, 1, 0.4) or names
    return f"there is no field {field}; set data.{key} to one of: {', '.join(near)}"


def _parquet(path: Path, field: str) -> Iterator[Document]:
    for row, value in parquet_values(path, field):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{path}: column {field} holds {type(value).__name__}, not text")
        yield Document(value or "", f"{path}:{row}")


def parquet_values(path: Path, field: str, key: str = "text_field") -> Iterator[tuple[int, Any]]:
    """Each value of a column of a Parquet file and the number of its row. Raises ValueError where it has none."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"reading {path} needs pyarrow; pip install 'diptych[data]'") from None
    row = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            for batch in file.iter_batches(columns=[field]) if field in names else ():
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield row, value
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no valid Parquet file ({str(error).splitlines()[0]})") from None
    if field not in names:
        raise ValueError(f"{path}: {no_field(field, names, key)}")


def _hub_dataset(name: str, field: str) -> Iterator[Document]:
    for index, record in hub_records(name):
        yield Document(_text_of(record, field, f"data set {name}, record {index}"), f"{name}:{index}")


def hub_records(name: str) -> Iterator[tuple[int, Any]]:
    """Each record of `hub_table`, and its number."""
    yield from enumerate(hub_table(name))


def hub_table(name: str) -> Any:
    """`NAME` or `NAME:SPLIT` of a Hugging Face data set, or of a folder that `datasets` saved: its records in turn, and
    their `features` where these are known. Raises ValueError where it cannot be opened."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"the data set {name} needs datasets; pip install 'diptych[data]'") from None
    path, _, split = name.partition(":")
    try:
        if Path(path).is_dir():
            table = datasets.load_from_disk(path)
            return table[split or "train"] if isinstance(table, datasets.DatasetDict) else table
        return datasets.load_dataset(path, split=split or "train", streaming=True)
    except Exception as error:  # the library raises dozens of kinds, from network to missing split
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"the data set {name} cannot be opened: {reason}") from None


def size_on_disk(sources: Iterable[str]) -> int | None:
    """Bytes of all files of the sources, about those of their text; None where a source is no file and no folder."""
    sizes = []
    for source in sources:
        path = Path(source)
        if not path.exists():
            return None
        sizes += [file.stat().st_size for file in (visible_files(path) if path.is_dir() else [path])]
    return sum(sizes)


def describe(config: DataConfig) -> str:
    """The sources in a few words."""
    return ", ".join(config.source)
