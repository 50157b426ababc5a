"""Which documents train, and which are held out?

A document's side depends on a hash of its text alone: copies of one text never stand on both sides, and more data never
moves a document. A corpus of one text file has its last share held out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from diptych.core.config import DataConfig
from diptych.core.events import Handler, ignore
from diptych.data.mixing import at_most, mix
from diptych.data.sources import Document, describe, is_text_file, line_end_before, read_documents, text_file


def fraction_of(text: str) -> float:
    """A number in [0, 1) from a hash of the text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def is_heldout(text: str, share: float) -> bool:
    """Whether a text belongs to the held-out `share` of all texts."""
    return fraction_of(text) < share


def training_documents(config: DataConfig, on_event: Handler = ignore) -> Iterator[Document]:
    """The documents to learn from in a mixed order, at most `max_bytes` of them. ValueError where none is left."""
    check_config(config)
    share = config.heldout_fraction if config.heldout is None else 0.0
    if (file := _only_file(config)) is not None and share:
        kept = text_file(file, 0, line_end_before(file, 1 - share))
    else:
        kept = (d for d in _mixed(config, on_event) if not is_heldout(d.text, share))
    return at_least_one(
        at_most(kept, config.max_bytes), f"{describe(config)} holds no text to train on; name a source that does"
    )


def heldout_documents(config: DataConfig, on_event: Handler = ignore) -> Iterator[Document]:
    """The documents to score on, at most their share of `max_bytes`. Raises ValueError where there are none."""
    check_config(config)
    if config.heldout is not None:
        documents = read_documents([config.heldout], config.text_field, on_event)
        return at_least_one(
            documents, f"{config.heldout} holds no text to score on; name a file that does in data.heldout"
        )
    share = config.heldout_fraction
    if (file := _only_file(config)) is not None and share:
        kept = text_file(file, line_end_before(file, 1 - share))
    else:
        kept = (d for d in _mixed(config, ignore) if is_heldout(d.text, share))
    message = (
        f"no document of {describe(config)} falls into the held-out share of {share:.0%}; "
        "raise data.heldout_fraction, or name a file to score on with data.heldout"
    )
    limit = None if config.max_bytes is None else max(1, round(config.max_bytes * share))
    return at_least_one(at_most(kept, limit), message)


def all_documents(sources: Sequence[str], text_field: str, on_event: Handler = ignore) -> Iterator[Document]:
    """Every document of the sources in their own order, as for scoring. Raises ValueError where there are none."""
    documents = read_documents(sources, text_field, on_event)
    return at_least_one(documents, f"{', '.join(sources)} holds no text to score")


def check_config(config: DataConfig) -> None:
    """Raises ValueError for a share or a budget that leaves nothing to read."""
    if not 0.0 <= config.heldout_fraction < 1.0:
        raise ValueError(f"data.heldout_fraction={config.heldout_fraction} lies outside [0, 1)")
    if config.max_bytes is not None and config.max_bytes < 1:
        raise ValueError(f"data.max_bytes={config.max_bytes} reads nothing; give a positive number, or leave it out")
    if not config.source:
        raise ValueError("data.source is empty; name files, folders, stdlib or hf:NAME")


def _only_file(config: DataConfig) -> Path | None:
    """The one text file that is the whole corpus, if it is one."""
    path = Path(config.source[0])
    return path if len(config.source) == 1 and is_text_file(path) else None


def _mixed(config: DataConfig, on_event: Handler) -> Iterator[Document]:
    return mix([read_documents([source], config.text_field, on_event) for source in config.source])


def at_least_one(documents: Iterator[Document], message: str) -> Iterator[Document]:
    """All of them; ValueError with `message` where there are none."""
    empty = True
    for document in documents:
        empty = False
        yield document
    if empty:
        raise ValueError(message)
