"""How often does each chunk of a text occur, where the text may be larger than memory?"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from diptych.core.files import replacing
from diptych.tokenizers.base import utf8
from diptych.tokenizers.classes import class_table
from diptych.tokenizers.kernels.counting import AHEAD, MAX_CHUNK, SHIFT, count_chunks
from diptych.tokenizers.kernels.memory import announced
from diptych.tokenizers.kernels.rows import move_rows
from diptych.tokenizers.kernels.scanning import split as scan
from diptych.tokenizers.splitting import Split

SLAB = 1 << 22
"""Bytes of text that are counted at a time; between two of them a count can be stopped and kept."""

BYTES_PER_CHUNK, BYTES_PER_BYTE = 160, 24
"""What counting, and then merging, takes in memory for each distinct chunk and for each byte of one."""

DAMAGED = (OSError, ValueError, KeyError, EOFError, TypeError, BadZipFile, zlib.error, RuntimeError, MemoryError)
"""What reading a .npz file that is damaged, or none, raises."""

ONCE = np.empty(0, np.int64)


@final
@dataclass(frozen=True, eq=False)
class ChunkCounts:
    """Distinct chunks in the order of their first appearance: chunk i is arena[places[i] : places[i] + lengths[i]]."""

    arena: NDArray[np.uint8]
    places: NDArray[np.int64]
    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Chunks with their counts."""
        data = self.arena.tobytes()
        for place, length, count in zip(self.places.tolist(), self.lengths.tolist(), self.counts.tolist(), strict=True):
            yield data[place : place + length], count


@final
class ChunkCounter:
    """Counts chunks of a split in no more than about `memory` bytes, the merging that follows included.

    Where the distinct chunks take more, those that occurred least so far are forgotten; `forgotten` counts their
    occurrences. What is forgotten depends on the texts alone, so a count that was kept and goes on ends like one that
    was not interrupted. Raises ValueError for a chunk of 16 MB or more.
    """

    def __init__(self, split: Split, memory: int) -> None:
        self.split, self.memory = split, memory
        self.n_documents = self.n_bytes = self.forgotten = 0
        self._rows = np.zeros((1 << 16, 4), np.uint64)
        self._arena = np.empty(1 << 22, np.uint8)
        self._state = np.zeros(2, np.int64)
        self._ends = np.empty(8192, np.int64)
        self._classes = class_table()
        with announced():  # the loops are compiled here, if they must be
            nothing, one = np.frombuffer(b" ", np.uint8), np.zeros(2, np.int64)
            scan(nothing, one, self._classes, (0, 0), one.copy(), self._ends)
            count_chunks(nothing, 0, ONCE, ONCE, self._rows, self._arena, self._state)
            move_rows(self._rows[:1], self._rows[:1], SHIFT)

    def add(self, texts: Iterable[str]) -> None:
        """Count the chunks of some more texts."""
        parts = [utf8(text) for text in texts]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        buffer = np.frombuffer(b"".join(parts), np.uint8)
        self._count_all(buffer, offsets, parts)
        self.n_documents += len(parts)
        self.n_bytes += int(offsets[-1])

    def _count_all(self, buffer: NDArray[np.uint8], offsets: NDArray[np.int64], parts: list[bytes]) -> None:
        if self.split.rule is None:
            for part, offset in zip(parts, offsets.tolist(), strict=False):
                self._count(buffer, offset, self.split.chunk_ends(part.decode()) + offset, ONCE)
            return
        start, cursor = 0, np.zeros(2, np.int64)
        while n := scan(buffer, offsets, self._classes, self.split.rule, cursor, self._ends):
            self._count(buffer, start, self._ends[:n], ONCE)
            start = int(self._ends[n - 1])

    def merge(self, other: ChunkCounts) -> None:
        """Add the counts of another text."""
        ends = np.cumsum(other.lengths)
        order = np.repeat(other.places - (ends - other.lengths), other.lengths) + np.arange(int(other.lengths.sum()))
        chunks = other.arena[order]
        chunks.flags.writeable = False  # as the bytes of texts are: the loops are compiled for one kind
        self._count(chunks, 0, ends, other.counts)

    def _count(
        self, buffer: NDArray[np.uint8], start: int, ends: NDArray[np.int64], weights: NDArray[np.int64]
    ) -> None:
        done = 0
        while True:
            n = count_chunks(buffer, start, ends[done:], weights[done:], self._rows, self._arena, self._state)
            done += n
            if done == ends.size:
                break
            if n:
                start = int(ends[done - 1])
            self._make_room(int(ends[done]) - start)
        n_rows, n_bytes = self._state.tolist()
        if _memory_of(n_rows, n_bytes) > self.memory:
            self._forget()

    def _make_room(self, length: int) -> None:
        """For one more block of chunks, the next of which has `length` bytes."""
        if length > MAX_CHUNK:
            raise ValueError(
                f"the split leaves a chunk of {length:,} bytes in one piece, and training takes at most {MAX_CHUNK:,}; "
                "leave such text out, or choose another split"
            )
        n_rows, n_bytes = self._state.tolist()
        if 2 * (n_rows + AHEAD) > len(self._rows):
            rows = np.zeros((2 * len(self._rows), 4), np.uint64)
            move_rows(self._rows, rows, SHIFT)
            self._rows = rows
        else:
            arena = np.empty(2 * len(self._arena) + length, np.uint8)
            arena[:n_bytes] = self._arena[:n_bytes]
            self._arena = arena

    def _forget(self) -> None:
        """Drop the rarest chunks until half of the memory is free."""
        kept = self.counts()
        for least in np.unique(kept.counts):
            often = kept.counts > least
            if _memory_of(int(often.sum()), int(kept.lengths[often].sum())) <= self.memory // 2:
                break
        self.forgotten += int(kept.counts[~often].sum())
        self._rows[:] = 0
        self._state[:] = 0
        self.merge(ChunkCounts(kept.arena, kept.places[often], kept.lengths[often], kept.counts[often]))

    def counts(self) -> ChunkCounts:
        """What was counted so far."""
        used = self._rows[self._rows[:, 2] != 0]
        places = (used[:, 2] & np.uint64((1 << SHIFT) - 1)).astype(np.int64) - 1
        order = np.argsort(places)
        lengths = (used[:, 2] >> np.uint64(SHIFT)).astype(np.int64)
        counts = used[:, 3].astype(np.int64)
        return ChunkCounts(self._arena[: self._state[1]], places[order], lengths[order], counts[order])

    def save(self, path: Path, fingerprint: str) -> None:
        """Keep the counts so far, and what they are of, in a .npz file."""
        counts = self.counts()
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                fingerprint=np.frombuffer(fingerprint.encode(), np.uint8),
                progress=np.array([self.n_documents, self.n_bytes, self.forgotten]),
                arena=counts.arena,
                places=counts.places,
                lengths=counts.lengths,
                counts=counts.counts,
            )

    def load(self, path: Path, fingerprint: str) -> bool:
        """Go on from what `save` kept; False, and nothing is changed, where it is not there or of something else."""
        try:
            with np.load(path, allow_pickle=False) as kept:
                if kept["fingerprint"].tobytes() != fingerprint.encode():
                    return False
                progress = kept["progress"]
                counts = ChunkCounts(*(kept[name] for name in ("arena", "places", "lengths", "counts")))
        except DAMAGED:
            return False
        if progress.shape != (3,) or progress.dtype != np.int64 or not _fit_together(counts):
            return False
        self.merge(counts)
        self.n_documents, self.n_bytes, self.forgotten = progress.tolist()
        return True


def _memory_of(n_chunks: int, n_bytes: int) -> int:
    """Bytes that counting and merging take for distinct chunks of `n_bytes` in all."""
    return BYTES_PER_CHUNK * n_chunks + BYTES_PER_BYTE * n_bytes


def _fit_together(counts: ChunkCounts) -> bool:
    """Whether the parts of a file are counts of chunks."""
    numbers = (counts.places, counts.lengths, counts.counts)
    if counts.arena.dtype != np.uint8 or counts.arena.ndim != 1 or any(each.dtype != np.int64 for each in numbers):
        return False
    if any(each.shape != (counts.places.size,) for each in numbers):
        return False
    ends = counts.places + counts.lengths
    positive = all((each > 0).all() for each in numbers[1:])
    return bool(positive and (counts.places >= 0).all() and (ends <= counts.arena.size).all())
