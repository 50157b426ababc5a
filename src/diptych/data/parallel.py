"""Where do pairs of a text and its translation come from, and which are held out?

Two files whose lines belong together, tables of two columns, JSON lines, gettext catalogues, folders of these, Hugging
Face data sets, and tasks written out on the spot. A pair's side depends on a hash of its source text alone: the same
source never stands on both sides, and more data never moves a pair.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.core.config import DataConfig
from diptych.core.events import Handler, Message, ignore
from diptych.data.catalogues import read_mo, read_po
from diptych.data.corpus import check_config, is_heldout
from diptych.data.mixing import interleave, mix
from diptych.data.sources import (
    JSON_LINES,
    byte_lines,
    decode_text,
    describe,
    hub_records,
    json_records,
    no_field,
    visible_files,
)
from diptych.data.written_out import is_written_out, written_out
from diptych.tokenizers.base import utf8

KINDS = (
    "two files with a + between them, .tsv, .jsonl, .po, .mo, a folder of these, hf:NAME, numbers:en-de, dates:en-de"
)

TABLES = (".tsv", ".tsv.gz")


@dataclass(frozen=True, slots=True)
class Pair:
    """A text and its translation."""

    source: str
    target: str

    @property
    def text(self) -> str:
        """Both, one after the other."""
        return f"{self.source}\n{self.target}"


def training_pairs(config: DataConfig, on_event: Handler = ignore) -> Iterator[Pair]:
    """The pairs to learn from in a mixed order, each once, at most `max_bytes` of them. ValueError where none is left.

    No pair has a source that is held out.
    """
    check_config(config)
    share = config.heldout_fraction if config.heldout is None else 0.0
    foreign = set() if config.heldout is None else {_digest(p.source) for p in _heldout_file(config, ignore)}
    kept = (p for p in _mixed(config, on_event) if not is_heldout(p.source, share) and _digest(p.source) not in foreign)
    return _some(
        _at_most(kept, config.max_bytes), f"{describe(config)} holds no pairs to train on; name a source that does"
    )


def heldout_pairs(config: DataConfig, on_event: Handler = ignore) -> Iterator[Pair]:
    """The pairs to score on, at most their share of `max_bytes`. Raises ValueError where there are none."""
    check_config(config)
    if config.heldout is not None:
        return _some(
            _heldout_file(config, on_event),
            f"{config.heldout} holds no pairs to score on; name a file that does in data.heldout",
        )
    share = config.heldout_fraction
    kept = (p for p in _mixed(config, ignore) if is_heldout(p.source, share))
    message = (
        f"no pair of {describe(config)} falls into the held-out share of {share:.0%}; "
        "raise data.heldout_fraction, or name a file to score on with data.heldout"
    )
    limit = None if config.max_bytes is None else max(1, round(config.max_bytes * share))
    return _some(_at_most(kept, limit), message)


def all_pairs(sources: Sequence[str], fields: tuple[str, str], on_event: Handler = ignore) -> Iterator[Pair]:
    """Every pair of the sources in their own order, each once, as for scoring. ValueError where there are none."""
    return _some(_once(read_pairs(sources, fields, on_event)), f"{', '.join(sources)} holds no pairs to score")


def read_pairs(sources: Iterable[str], fields: tuple[str, str], on_event: Handler = ignore) -> Iterator[Pair]:
    """All pairs of the sources of which neither side is empty.

    Raises FileNotFoundError for a missing path and ValueError for a file that holds no pairs, naming the place.
    """
    for source in sources:
        for first, second in _open(source, fields, on_event):
            if first.strip() and second.strip():
                yield Pair(first, second)


def _open(source: str, fields: tuple[str, str], on_event: Handler) -> Iterator[tuple[str, str]]:
    if is_written_out(source):
        return written_out(source)
    if source.startswith("hf:"):
        name = source.removeprefix("hf:")
        return (_of_record(r, fields, f"data set {name}, record {i}") for i, r in hub_records(name))
    path = Path(source)
    if path.is_dir():
        return _files(sorted(p for p in visible_files(path) if _is_readable(p)), fields, on_event)
    if path.is_file():
        return _file(path, fields)
    first, plus, second = source.partition("+")
    if plus:
        return _aligned(Path(first), Path(second))
    if glob.has_magic(source) and (found := sorted(glob.glob(source, recursive=True))):  # noqa: PTH207  # a pattern
        return _files([Path(name) for name in found], fields, on_event)
    raise FileNotFoundError(f"there is no file or folder {source}; pairs come from {KINDS}")


def _is_readable(path: Path) -> bool:
    return path.name.lower().endswith((*TABLES, *JSON_LINES, ".po", ".mo"))


def _file(path: Path, fields: tuple[str, str]) -> Iterator[tuple[str, str]]:
    name = path.name.lower()
    if name.endswith(TABLES):
        return _table(path)
    if name.endswith(JSON_LINES):
        return (_of_record(r, fields, f"{path}, line {n}") for n, r in json_records(path))
    if name.endswith(".po"):
        return read_po(path)
    if name.endswith(".mo"):
        return read_mo(path)
    raise ValueError(f"{path} is none of the files that hold pairs; they come from {KINDS}")


def _files(paths: Iterable[Path], fields: tuple[str, str], on_event: Handler) -> Iterator[tuple[str, str]]:
    """The pairs of many files; one that cannot be read is counted, not fatal."""
    skipped = []
    for path in paths:
        try:
            pairs = list(_file(path, fields))
        except (ValueError, OSError) as error:
            skipped.append(str(error))
            continue
        yield from pairs
    if skipped:
        on_event(Message(text=f"{len(skipped)} files were left out; the first: {skipped[0]}", level="warning"))


def _aligned(first: Path, second: Path) -> Iterator[tuple[str, str]]:
    """Line i of one file with line i of the other. Raises ValueError where one has more lines."""
    for path in (first, second):
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}; two aligned files are written as {first}+{second}")
    counts = [sum(1 for _ in byte_lines(path)) for path in (first, second)]
    if counts[0] != counts[1]:
        raise ValueError(f"{first} has {counts[0]} lines and {second} {counts[1]}; aligned files have equally many")
    yield from zip(_text_lines(first), _text_lines(second), strict=True)


def _text_lines(path: Path) -> Iterator[str]:
    at = 0
    for line in byte_lines(path):
        yield decode_text(line, path, at).rstrip("\r\n")
        at += len(line)


def _table(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_text_lines(path), 1):
        columns = line.split("\t")
        if line and len(columns) < 2:
            raise ValueError(f"{path}, line {number}: expected two columns with a tab between them")
        if line:
            yield columns[0], columns[1]


def _of_record(record: Any, fields: tuple[str, str], place: str) -> tuple[str, str]:
    if isinstance(record, dict) and fields[0] not in record and isinstance(record.get("translation"), dict):
        record = record["translation"]
    if not isinstance(record, dict):
        raise ValueError(f"{place}: expected a JSON object, found {type(record).__name__}")
    for field in fields:
        if field not in record:
            raise ValueError(f"{place}: {no_field(field, record, 'pair_fields')}")
        if not isinstance(record[field], str):
            raise ValueError(f"{place}: field {field} holds {type(record[field]).__name__}, not text")
    return record[fields[0]], record[fields[1]]


def _heldout_file(config: DataConfig, on_event: Handler) -> Iterator[Pair]:
    return _once(read_pairs([str(config.heldout)], config.pair_fields, on_event))


def _mixed(config: DataConfig, on_event: Handler) -> Iterator[Pair]:
    """Each pair of all sources once; what is written out on the spot comes mixed and is not waited for."""
    sources = [read_pairs([source], config.pair_fields, on_event) for source in config.source]
    return _once(interleave(sources) if all(map(is_written_out, config.source)) else mix(sources))


def _once(pairs: Iterable[Pair]) -> Iterator[Pair]:
    seen: set[bytes] = set()
    for pair in pairs:
        if (digest := _digest(pair.text)) not in seen:
            seen.add(digest)
            yield pair


def _digest(text: str) -> bytes:
    return hashlib.blake2b(utf8(text), digest_size=12).digest()


def _at_most(pairs: Iterable[Pair], size: int | None) -> Iterator[Pair]:
    """The first pairs that have `size` bytes of UTF-8 on both sides together; None: all."""
    left = size
    for pair in pairs:
        if left is not None:
            left -= len(utf8(pair.source)) + len(utf8(pair.target))
            if left < 0:
                return
        yield pair


def _some(pairs: Iterator[Pair], message: str) -> Iterator[Pair]:
    empty = True
    for pair in pairs:
        empty = False
        yield pair
    if empty:
        raise ValueError(message)
