"""Where do conversations come from, and which of them are held out?

A conversation is a list of messages, each with a role (system, user, assistant) and its content: the field of a record
in JSON lines, Parquet files or Hugging Face data sets. As elsewhere a hash decides its side, and the order of training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diptych.core.config import DataConfig
from diptych.core.events import Handler, Message, ignore
from diptych.data.corpus import at_least_one, check_config, is_heldout
from diptych.data.mixing import mix
from diptych.data.sources import (
    JSON_LINES,
    Document,
    describe,
    hub_records,
    json_records,
    no_field,
    parquet_values,
    visible_files,
)
from diptych.tokenizers.base import utf8

KEY = "messages_field"


def read_conversations(source: str, field: str, on_event: Handler = ignore) -> Iterator[Document]:
    """Every conversation of a source as a document whose text is the JSON of its messages, and nothing else of them.

    Raises FileNotFoundError for a missing path and ValueError, naming the place, for a record that holds none.
    """
    path = Path(source)
    if source.startswith("hf:"):
        name = source.removeprefix("hf:")
        for number, record in hub_records(name):
            yield _conversation(_messages_of(record, field, f"{name}:{number}"), f"{name}:{number}")
    elif path.is_dir():
        files = sorted(file for file in visible_files(path) if _is_read(file))
        for file in files:
            yield from _file(file, field)
        if not files:
            on_event(Message(text=f"{path} holds no .jsonl and no .parquet file", level="warning"))
    elif path.is_file() and _is_read(path):
        yield from _file(path, field)
    elif path.exists():
        raise ValueError(f"{source} holds no conversations: they are read from .jsonl, .parquet or hf:NAME")
    else:
        raise FileNotFoundError(f"there is no file or folder {source}; conversations need .jsonl, .parquet or hf:NAME")


def _is_read(path: Path) -> bool:
    return path.name.lower().endswith((*JSON_LINES, ".parquet"))


def _file(path: Path, field: str) -> Iterator[Document]:
    if path.name.lower().endswith(".parquet"):
        for number, value in parquet_values(path, field, KEY):
            yield _conversation(value, f"{path}, row {number}")
        return
    for number, record in json_records(path):
        place = f"{path}, line {number}"
        yield _conversation(_messages_of(record, field, place), place)


def _messages_of(record: Any, field: str, place: str) -> Any:
    if isinstance(record, list):
        return record
    if not isinstance(record, dict):
        raise ValueError(f"{place}: expected a JSON object or a list of messages, found {type(record).__name__}")
    if field not in record:
        raise ValueError(f"{place}: {no_field(field, record, KEY)}")
    return record[field]


def _conversation(messages: Any, place: str) -> Document:
    if not isinstance(messages, list) or not messages:
        raise ValueError(f"{place}: a conversation is a list of messages, not {str(messages)[:40]!r}")
    kept = []
    for message in messages:
        match message:
            case {"role": str(role), "content": str(content)}:
                kept.append({"role": role, "content": content})
            case _:
                raise ValueError(f"{place}: a message needs role and content, both text; found {str(message)[:60]!r}")
    return Document(json.dumps(kept, ensure_ascii=False), place)


def training_conversations(config: DataConfig, on_event: Handler = ignore) -> Iterator[Document]:
    """The conversations to learn from in a mixed order, at most `max_bytes` of them. ValueError where none is left."""
    check_config(config)
    share = config.heldout_fraction if config.heldout is None else 0.0
    kept = (c for c in _mixed(config, on_event) if not is_heldout(c.text, share))
    return at_least_one(_at_most(kept, config.max_bytes), f"{describe(config)} holds no conversation to train on")


def heldout_conversations(config: DataConfig, on_event: Handler = ignore) -> Iterator[Document]:
    """The conversations to score on, at most their share of `max_bytes`. Raises ValueError where there are none."""
    check_config(config)
    if config.heldout is not None:
        found = read_conversations(config.heldout, config.messages_field, on_event)
        return at_least_one(found, f"{config.heldout} holds no conversation to score on; name a file that does")
    share = config.heldout_fraction
    kept = (c for c in _mixed(config, ignore) if is_heldout(c.text, share))
    limit = None if config.max_bytes is None else max(1, round(config.max_bytes * share))
    return at_least_one(
        _at_most(kept, limit),
        f"no conversation of {describe(config)} falls into the held-out share of {share:.0%}; raise "
        "data.heldout_fraction, or name a file to score on with data.heldout",
    )


def _mixed(config: DataConfig, on_event: Handler) -> Iterator[Document]:
    return mix([read_conversations(source, config.messages_field, on_event) for source in config.source])


def _at_most(conversations: Iterator[Document], size: int | None) -> Iterator[Document]:
    """Whole conversations until the first one that would exceed `size` bytes; None: all."""
    left = size
    for conversation in conversations:
        if left is not None:
            left -= len(utf8(conversation.text))
            if left < 0:
                return
        yield conversation
