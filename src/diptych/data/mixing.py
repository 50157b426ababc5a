"""In which order are documents read for training?

A budget (`data.max_bytes`, `tokenizer.train_bytes`) reads only the start of the data, so the start must be a mix. The
order is keyed by a hash of each text: it is the same in every process and does not depend on a global seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from diptych.data.sources import Document
from diptych.tokenizers.base import utf8

MIXED_CHARACTERS = 64_000_000
"""Text that is held to be shuffled; more than that is shuffled piece by piece."""


class HasText(Protocol):
    """A document, or anything else that is mixed by its text."""

    @property
    def text(self) -> str:
        """What decides its place."""
        ...


T = TypeVar("T", bound=HasText)


def mix(sources: Sequence[Iterable[T]], held: int = MIXED_CHARACTERS) -> Iterator[T]:
    """Every document once: the sources in turn, then shuffled among each `held` characters or so."""
    waiting: list[T] = []
    size = 0
    for document in interleave(sources):
        waiting.append(document)
        size += len(document.text)
        if size >= held:
            yield from _shuffled(waiting)
            waiting, size = [], 0
    yield from _shuffled(waiting)


def interleave(sources: Sequence[Iterable[T]]) -> Iterator[T]:
    """The next document always from the source of which the least text has come so far."""
    open_streams: list[tuple[int, int, Iterator[T]]] = [(0, i, iter(s)) for i, s in enumerate(sources)]
    while open_streams:
        least = min(range(len(open_streams)), key=lambda k: open_streams[k][:2])
        size, index, stream = open_streams[least]
        document = next(stream, None)
        if document is None:
            del open_streams[least]
            continue
        open_streams[least] = (size + len(document.text), index, stream)
        yield document


def at_most(documents: Iterable[Document], size: int | None) -> Iterator[Document]:
    """The first `size` bytes of UTF-8 text, the last document cut to fit; None: everything."""
    left = size
    for document in documents:
        if left is None:
            yield document
            continue
        data = utf8(document.text)
        if len(data) > left:
            # A character cut in half is left out.
            text = data[:left].decode("utf-8", "ignore")
            if text:
                yield Document(text, document.name)
            return
        left -= len(data)
        yield document
        if left == 0:
            return


def _shuffled(documents: list[T]) -> list[T]:
    return sorted(documents, key=lambda d: hashlib.blake2b(utf8(d.text), digest_size=8, person=b"order").digest())
