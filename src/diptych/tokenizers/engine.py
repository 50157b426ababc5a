"""How does text become ids through the compiled loops, from any number of threads?

Each call borrows a workspace (what is remembered of earlier chunks, and room for the output) that no other call has at
that time; the loops release the interpreter's lock, so threads run side by side.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from diptych.tokenizers.base import Ids, utf8
from diptych.tokenizers.classes import class_table
from diptych.tokenizers.kernels.encoding import (
    DOCUMENT,
    LENGTH_SHIFT,
    MAX_RANKS,
    MAX_TOKENS,
    N_BYTES,
    N_IDS,
    N_OUT,
    N_ROWS,
    NEVER,
    build_pairs,
    encode_chunks,
    pairs_of_pieces,
    remember_pieces,
)
from diptych.tokenizers.kernels.memory import announced
from diptych.tokenizers.kernels.rows import move_rows
from diptych.tokenizers.kernels.scanning import split as scan
from diptych.tokenizers.kernels.texts import context_of, text_encoder
from diptych.tokenizers.splitting import Split

CHUNKS = 8192
"""Chunks that are scanned before they are encoded."""

LEAST_ROWS, MOST_ROWS = 1 << 14, 1 << 21
"""Rows of a workspace's table, 32 bytes each; at its largest, and full, it starts afresh."""

SMALL = 1 << 16
"""Bytes of text up to which the output goes through the workspace's own room."""

SLAB = 1 << 20
"""Bytes of text that a thread takes at a time."""

KEPT = 8
"""Workspaces that are kept for later calls."""


@final
@dataclass(frozen=True, eq=False)
class MergeTable:
    """Ranked merges: `lefts[i]` and `rights[i]` merge with rank `ranks[i]` into the token `merged[ranks[i]]`."""

    lefts: NDArray[np.int32]
    rights: NDArray[np.int32]
    ranks: NDArray[np.int32]
    merged: NDArray[np.int32]


@final
class _Workspace:
    """What one call at a time uses."""

    def __init__(self, n_rows: int) -> None:
        self.rows = np.zeros((n_rows, 4), np.uint64)
        self.byte_pool = np.empty(16 * n_rows, np.uint8)
        self.id_pool = np.empty(4 * n_rows, np.int32)
        self.state = np.zeros(5, np.int64)
        self.cursor = np.zeros(2, np.int64)
        self.offsets = np.zeros(2, np.int64)
        self.token_offsets = np.zeros(2, np.int64)
        self.ends = np.empty(CHUNKS, np.int64)
        self.out = np.empty(SMALL + 2, np.int32)
        self.context = np.empty(0, np.int64)
        self.address = 0
        """Of the context; 0: short texts have no quick way."""


@final
class ChunkEncoder:
    """Encodes chunks of a split by ranked merges.

    pieces: the bytes of every token, empty for ids that no text gives. merges: None takes tiktoken's rule, by which
    two neighbours merge wherever their joint bytes are a token, lower ids first. whole_pieces: a chunk that is a token
    is taken whole, whatever the merges make of it (as tiktoken always does). Raises ValueError for a vocabulary
    without all 256 bytes, or one too large.
    """

    def __init__(self, pieces: list[bytes], merges: MergeTable | None, split: Split, *, whole_pieces: bool) -> None:
        if len(pieces) > MAX_TOKENS:
            raise ValueError(f"a vocabulary of {len(pieces)} tokens is too large; at most {MAX_TOKENS} are handled")
        self.split = split
        self.whole_pieces = whole_pieces
        offsets = np.zeros(len(pieces) + 1, np.int64)
        np.cumsum([len(piece) for piece in pieces], out=offsets[1:])
        self._pieces = (np.frombuffer(b"".join(pieces) + bytes(8), np.uint8), offsets)
        self._least_rows = LEAST_ROWS
        while self._least_rows < 4 * len(pieces) * whole_pieces or 16 * self._least_rows < 2 * offsets[-1]:
            self._least_rows *= 2
        self.byte_ids = _byte_ids(pieces)
        self._classes = class_table()
        self._free: deque[_Workspace] = deque(maxlen=KEPT)
        with announced():
            if merges is None:
                merges = self._merges_of_pieces(len(pieces))
            if merges.merged.size > MAX_RANKS:
                raise ValueError(f"{merges.merged.size} merges are too many; at most {MAX_RANKS} are handled")
            self._merged = np.ascontiguousarray(merges.merged)
            self._pairs = build_pairs(merges.lefts, merges.rights, merges.ranks)
        self._byte_pairs = _byte_pairs(merges, self.byte_ids)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and other processes: without what was remembered."""
        return {name: part for name, part in vars(self).items() if name not in ("_free", "_classes")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._pieces[0].flags.writeable = False  # as it was; for a writable one the loops would be compiled anew
        self._classes = class_table()
        self._free = deque(maxlen=KEPT)

    def _merges_of_pieces(self, n_tokens: int) -> MergeTable:
        n_rows = self._least_rows
        while n_rows < 4 * n_tokens:
            n_rows *= 2
        work = _Workspace(n_rows)
        remember_pieces(*self._pieces, work.rows, work.byte_pool, work.id_pool, work.state)
        # Of tokens spelt alike the lowest counts, which must come last: of a pair named twice the last rank holds.
        lefts, rights, ranks = (each[::-1].copy() for each in pairs_of_pieces(*self._pieces, work.rows, work.byte_pool))
        return MergeTable(lefts, rights, ranks, np.arange(n_tokens, dtype=np.int32))

    def _borrow(self) -> _Workspace:
        try:
            return self._free.pop()
        except IndexError:
            work = _Workspace(self._least_rows)
            with announced():  # the loops are compiled here, if they must be
                self._seed(work)
                work.offsets[1] = 1
                ends = None if self.split.rule is not None else np.ones(1, np.int64)
                self._fill(work, b" ", work.offsets, work.token_offsets, ends, work.out)
                self._bind(work)
            return work

    def _bind(self, work: _Workspace) -> None:
        """Tell short texts' quick way where the tables stand."""
        if self.split.rule is not None:
            tables = [self._classes, self.byte_ids, self._byte_pairs, self._pairs, self._merged]
            tables += [work.rows, work.byte_pool, work.id_pool, work.state, work.cursor, work.ends, work.out]
            work.context = context_of(tables, self.split.rule)
            work.address = work.context.ctypes.data
            text_encoder()

    def _seed(self, work: _Workspace) -> None:
        if self.whole_pieces:
            remember_pieces(*self._pieces, work.rows, work.byte_pool, work.id_pool, work.state)

    def _make_room(self, work: _Workspace) -> None:
        """Double the table and its pools, or empty them at their largest."""
        n_rows = 2 * len(work.rows)
        if n_rows > max(MOST_ROWS, self._least_rows):
            work.rows[:] = 0
            work.state[[N_ROWS, N_BYTES, N_IDS]] = 0
            self._seed(work)
            return
        work.address = 0  # should this be interrupted, the quick way must not find tables that are gone
        rows = np.zeros((n_rows, 4), np.uint64)
        move_rows(work.rows, rows, LENGTH_SHIFT)
        work.rows = rows
        work.byte_pool = np.concatenate([work.byte_pool, np.empty_like(work.byte_pool)])
        work.id_pool = np.concatenate([work.id_pool, np.empty_like(work.id_pool)])
        self._bind(work)

    def encode(self, text: str) -> Ids:
        """Ids of one text."""
        data = utf8(text)
        ends = None if self.split.rule is not None else self.split.chunk_ends(data.decode())
        work = self._borrow()
        try:
            if work.address and len(data) <= CHUNKS:
                n = text_encoder()(work.address, data, len(data))
                if n >= 0:
                    return work.out[:n].copy()
            work.offsets[1] = len(data)
            if len(data) <= SMALL:
                return work.out[: self._fill(work, data, work.offsets, work.token_offsets, ends, work.out)].copy()
            out = np.empty(len(data) + 2, np.int32)  # a token a byte at most; pages that are not written cost nothing
            n = self._fill(work, data, work.offsets, work.token_offsets, ends, out)
            out.resize(n, refcheck=False)
            return out
        finally:
            self._free.append(work)

    def encode_pieces(self, data: bytes, ends: NDArray[np.int64]) -> Ids:
        """Ids of bytes whose chunks end at `ends`."""
        work = self._borrow()
        try:
            work.offsets[1] = len(data)
            out = np.empty(len(data) + 2, np.int32)
            return out[: self._fill(work, data, work.offsets, work.token_offsets, ends, out)].copy()
        finally:
            self._free.append(work)

    def encode_batch(self, texts: Iterable[str], n_threads: int | None = None) -> list[Ids]:
        """Ids of each text; None: a thread for every core that this process may use."""
        parts = slabs(texts, SLAB)
        first = next(parts, None)
        second = next(parts, None)
        if first is None:
            return []
        if second is None:
            return self._encode_slab(first)
        with ThreadPoolExecutor(n_threads or available_cores()) as pool:
            done = pool.map(self._encode_slab, [first, second, *parts])
            return [ids for slab in done for ids in slab]

    def _encode_slab(self, texts: list[str]) -> list[Ids]:
        parts = [utf8(text) for text in texts]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        ends = None
        if self.split.rule is None:
            within = [self.split.chunk_ends(part.decode()) for part in parts]
            ends = np.concatenate([each + offset for each, offset in zip(within, offsets[:-1], strict=True)])
        token_offsets = np.zeros(len(parts) + 1, np.int64)
        out = np.empty(offsets[-1] + 2, np.int32)
        work = self._borrow()
        try:
            n = self._fill(work, b"".join(parts), offsets, token_offsets, ends, out)
        finally:
            self._free.append(work)
        ids = out[:n].copy()
        bounds = token_offsets.tolist()
        return [ids[start:end] for start, end in pairwise(bounds)]

    def _fill(  # noqa: PLR0917
        self,
        work: _Workspace,
        data: bytes,
        offsets: NDArray[np.int64],
        token_offsets: NDArray[np.int64],
        ends: NDArray[np.int64] | None,
        out: NDArray[np.int32],
    ) -> int:
        """Write the tokens of all documents and where each document's begin; returns how many tokens there are."""
        buffer = np.frombuffer(data, np.uint8)
        state, cursor = work.state, work.cursor
        state[N_OUT] = state[DOCUMENT] = cursor[0] = cursor[1] = start = 0
        block = work.ends if ends is None else ends
        more = True
        while more:
            if ends is None:
                n = scan(buffer, offsets, self._classes, self.split.rule, cursor, block)
                more = n == CHUNKS
            else:
                n, more = block.size, False
            done = 0
            while done < n:
                done = encode_chunks(
                    buffer, start, block, done, n, offsets, token_offsets,
                    self.byte_ids, self._byte_pairs, self._pairs, self._merged,
                    work.rows, work.byte_pool, work.id_pool, state, out,
                )  # fmt: skip
                if done < n:
                    self._make_room(work)
                if done and (more or done < n):
                    start = block.item(done - 1)
        return int(state.item(N_OUT))


def available_cores() -> int:
    """Cores that this process may use."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


def slabs(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    """The texts in lists of about `size` characters."""
    slab: list[str] = []
    taken = 0
    for text in texts:
        slab.append(text)
        taken += len(text) if isinstance(text, str) else 0  # refused where it is encoded
        if taken >= size:
            yield slab
            slab, taken = [], 0
    if slab:
        yield slab


def _byte_ids(pieces: list[bytes]) -> NDArray[np.int32]:
    """The token of each byte."""
    ids = {piece[0]: token for token, piece in reversed(list(enumerate(pieces))) if len(piece) == 1}
    if missing := set(range(256)) - ids.keys():
        raise ValueError(f"byte 0x{min(missing):02x} has no token: only byte-level vocabularies are handled")
    return np.array([ids[byte] for byte in range(256)], np.int32)


def _byte_pairs(merges: MergeTable, byte_ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """The rank of each pair of bytes, at left << 8 | right."""
    ranks = np.full(65536, NEVER, np.int32)
    size = int(max(merges.lefts.max(initial=0), merges.rights.max(initial=0), byte_ids.max())) + 1
    byte_of = np.full(size, -1, np.int64)
    byte_of[byte_ids] = np.arange(256)
    lefts, rights = byte_of[merges.lefts], byte_of[merges.rights]
    both = (lefts >= 0) & (rights >= 0)
    ranks[(lefts[both] << 8) | rights[both]] = merges.ranks[both]
    return ranks
