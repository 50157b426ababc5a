"""Which documents train, and which are held out?

A document's side depends on a hash of its text alone: copies of one text never stand on both sides, and more data never
moves a document.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from diptych.core.config import DataConfig
from diptych.core.events import Handler, ignore
from diptych.data.sources import Document, describe, read_documents


def fraction_of(text: str) -> float:
    """A number in [0, 1) from a hash of the text."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def is_heldout(text: str, share: float) -> bool:
    """Whether a text belongs to the held-out `share` of all texts."""
    return fraction_of(text) < share


def training_documents(config: DataConfig, on_event: Handler = ignore) -> Iterator[Document]:
    """The documents to learn from, at most `max_bytes` of them. Raises ValueError where there are none."""
    share = config.heldout_fraction if config.heldout is None else 0.0
    if not 0.0 <= share < 1.0:
        raise ValueError(f"data.heldout_fraction={share} lies outside [0, 1)")
    documents = read_documents(config.source, config.text_field, on_event)
    kept = _at_most((d for d in documents if not is_heldout(d.text, share)), config.max_bytes)
    return _some(kept, f"{describe(config)} holds no text to train on; name a source that holds some")


def heldout_documents(config: DataConfig, on_event: Handler = ignore) -> Iterator[Document]:
    """The documents to score on. Raises ValueError where there are none."""
    if config.heldout is not None:
        documents = read_documents([config.heldout], config.text_field, on_event)
        return _some(documents, f"{config.heldout} holds no text to score on")
    share = config.heldout_fraction
    documents = (d for d in read_documents(config.source, config.text_field) if is_heldout(d.text, share))
    message = (
        f"no document of {describe(config)} falls into the held-out share of {share:.0%}; "
        "raise data.heldout_fraction, or name a file to score on with data.heldout"
    )
    limit = None if config.max_bytes is None else max(1, round(config.max_bytes * share))
    return _some(_at_most(documents, limit), message)


def all_documents(sources: Sequence[str], text_field: str, on_event: Handler = ignore) -> Iterator[Document]:
    """Every document of the sources, as for scoring. Raises ValueError where there are none."""
    documents = read_documents(sources, text_field, on_event)
    return _some(documents, f"{', '.join(sources)} holds no text to score")


def _at_most(documents: Iterator[Document], size: int | None) -> Iterator[Document]:
    for document in documents:
        yield document
        if size is not None:
            size -= len(document.text)
            if size <= 0:
                return


def _some(documents: Iterator[Document], message: str) -> Iterator[Document]:
    empty = True
    for document in documents:
        empty = False
        yield document
    if empty:
        raise ValueError(message)
