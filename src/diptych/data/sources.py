"""Where does text come from?

Python's own library (always at hand), text files, folders of them, JSON lines, Parquet, and Hugging Face data sets by
name. Every source gives documents, in an order that depends on nothing but the source.
"""

from __future__ import annotations

import difflib
import gzip
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.config import DataConfig
from diptych.core.events import Handler, Message, ignore


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


def _file(path: Path, field: str) -> Iterator[Document]:
    name = path.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz", ".ndjson")):
        return _json_lines(path, field)
    if name.endswith(".parquet"):
        return _parquet(path, field)
    return iter([Document(_decode(path.read_bytes(), path), str(path))])


def _decode(data: bytes, path: Path) -> str:
    """UTF-8 text. Raises ValueError naming the first byte that is none."""
    if b"\0" in data:
        raise ValueError(f"{path} is binary (byte 0 at offset {data.index(0)}), not text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; convert it first, "
            f"for example with iconv -f latin1 -t utf-8"
        ) from None


def _folder(folder: Path, field: str, on_event: Handler) -> Iterator[Document]:
    """Every text file below, hidden ones left out; files that are no text are counted, not fatal."""
    skipped = 0
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.name.lower().endswith((".jsonl", ".jsonl.gz", ".ndjson", ".parquet")):
            yield from _file(path, field)
            continue
        try:
            text = _decode(path.read_bytes(), path)
        except (ValueError, OSError):
            skipped += 1
            continue
        yield Document(text, str(path))
    if skipped:
        on_event(Message(text=f"{folder}: {skipped} files are no UTF-8 text and were left out", level="warning"))


def _json_lines(path: Path, field: str) -> Iterator[Document]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: no valid JSON ({error})") from None
            yield Document(_text_of(record, field, f"{path}, line {number}"), f"{path}:{number}")


def _text_of(record: Any, field: str, place: str) -> str:
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise ValueError(f"{place}: expected a JSON object or string, found {type(record).__name__}")
    if field not in record:
        raise ValueError(f"{place}: {_no_field(field, record)}")
    if not isinstance(record[field], str):
        raise ValueError(f"{place}: field {field} holds {type(record[field]).__name__}, not text")
    return str(record[field])


def _no_field(field: str, names: Iterable[str]) -> str:
    names = list(names)
    near = difflib.get_close_matches(field, names, 1, 0.4) or names
    return f"there is no field {field}; set data.text_field to one of: {', '.join(near)}"


def _parquet(path: Path, field: str) -> Iterator[Document]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"reading {path} needs pyarrow; pip install 'diptych[data]'") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{path} is no valid Parquet file ({error})") from None
    if field not in file.schema_arrow.names:
        raise ValueError(f"{path}: {_no_field(field, file.schema_arrow.names)}")
    row = 0
    for batch in file.iter_batches(columns=[field]):
        for value in batch.column(0).to_pylist():
            row += 1
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{path}: column {field} holds {type(value).__name__}, not text")
            yield Document(value or "", f"{path}:{row}")


def _hub_dataset(name: str, field: str) -> Iterator[Document]:
    """`NAME` or `NAME:SPLIT` of a Hugging Face data set, or a folder that `datasets` saved."""
    try:
        import datasets
    except ModuleNotFoundError:
        raise ModuleNotFoundError(f"the data set {name} needs datasets; pip install 'diptych[data]'") from None
    path, _, split = name.partition(":")
    try:
        if Path(path).is_dir():
            table = datasets.load_from_disk(path)
            table = table[split or "train"] if isinstance(table, datasets.DatasetDict) else table
        else:
            table = datasets.load_dataset(path, split=split or "train", streaming=True)
    except Exception as error:  # the library raises dozens of kinds, from network to missing split
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"the data set {name} cannot be opened: {reason}") from None
    for index, record in enumerate(table):
        yield Document(_text_of(record, field, f"data set {name}, record {index}"), f"{name}:{index}")


def describe(config: DataConfig) -> str:
    """The sources in a few words."""
    return ", ".join(config.source)
