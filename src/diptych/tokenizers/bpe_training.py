"""How is a byte-pair vocabulary learnt from text?

Chunks are counted first (`diptych.tokenizers.counts`), then the most frequent pair is merged, again and again
(Sennrich et al. 2016, algorithm 1). Equal counts: the smallest (left id, right id) first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diptych.core.events import Handler, Message, Progressed, ignore
from diptych.core.interrupts import interruptible
from diptych.tokenizers.base import EOS, utf8
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.counts import SLAB, ChunkCounter, ChunkCounts
from diptych.tokenizers.engine import slabs
from diptych.tokenizers.kernels.memory import announced
from diptych.tokenizers.kernels.merging import LEAST_PAIR, lay_out, learn_merges
from diptych.tokenizers.letters import BYTE_ORDER
from diptych.tokenizers.splitting import Split

MEMORY = 2_000_000_000
"""Bytes that counting and merging may take, by default."""

MAX_COUNT = 2**31 - 1
MAX_SYMBOLS = 2**30


def train_bpe(
    texts: Iterable[str],
    vocab_size: int,
    max_bytes: int | None = None,
    on_event: Handler = ignore,
    *,
    split: Split | None = None,
    special_tokens: Iterable[str] = (EOS,),
    min_count: int = 2,
    byte_order: Iterable[int] = BYTE_ORDER,
    memory: int = MEMORY,
    total_bytes: int | None = None,
    checkpoint: Path | None = None,
    fingerprint: str = "",
) -> BytePairTokenizer:
    """Learn a vocabulary of `vocab_size` tokens: 256 bytes, the tokens that merges make, and the special tokens last.

    At most `max_bytes` of text are read, one text after another; memory stays within about `memory` bytes whatever the
    texts' size. None as split: GPT-2's. total_bytes: the size of all texts, for the progress shown. checkpoint: a file
    that keeps the counts where the reading is interrupted; a later call with the same `fingerprint`, split and texts
    goes on from it. Raises ValueError for a vocabulary too small or an empty text; where the text runs out of pairs
    that occur `min_count` times, the vocabulary is smaller, and a message says so.
    """
    byte_order = list(byte_order)
    if sorted(byte_order) != list(range(256)):
        raise ValueError("the byte order must name each of the 256 bytes once")
    special, split = list(dict.fromkeys(special_tokens)), split or Split.named("gpt2")
    if vocab_size < 256 + len(special):
        raise ValueError(
            f"a byte-pair vocabulary needs at least {256 + len(special)} tokens (256 bytes and {len(special)} special)"
            f", not {vocab_size}"
        )
    fingerprint = _fingerprint(fingerprint, split, memory, max_bytes)
    counter = count_texts(
        first_bytes(texts, max_bytes),
        split,
        memory=memory,
        total_bytes=max_bytes if total_bytes is None else total_bytes,
        checkpoint=checkpoint,
        fingerprint=fingerprint,
        on_event=on_event,
    )
    pieces = [bytes([byte]) for byte in byte_order]
    n_learnt = vocab_size - len(special)
    try:
        merges = learn(counter.counts(), pieces, n_learnt, min_count, on_event)
    except KeyboardInterrupt:
        keep_counts(counter, checkpoint, fingerprint, on_event)
        raise
    if len(pieces) < n_learnt:
        found = len(pieces) + len(special)
        on_event(
            Message(text=f"the text has no more pairs to merge: the vocabulary has {found} tokens, not {vocab_size}")
        )
    ids = {name: len(pieces) + i for i, name in enumerate(special)}
    tokenizer = BytePairTokenizer(
        [*pieces, *(name.encode() for name in special)], merges, split, ids, eos=special[0] if special else None
    )
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return tokenizer


def count_texts(
    texts: Iterable[str],
    split: Split,
    *,
    memory: int = MEMORY,
    total_bytes: int | None = None,
    checkpoint: Path | None = None,
    fingerprint: str = "",
    on_event: Handler = ignore,
) -> ChunkCounter:
    """The chunks of all texts. Raises ValueError where there are none."""
    if memory < 50_000_000:
        raise ValueError(f"a memory limit of {memory:,} bytes is too small to count in; give at least 50 MB")
    counter = ChunkCounter(split, memory)
    if checkpoint is not None and counter.load(checkpoint, fingerprint):
        on_event(Message(text=f"going on after {counter.n_bytes / 1e6:,.1f} MB that {checkpoint} keeps the counts of"))
    started, before = time.perf_counter(), counter.n_bytes
    with interruptible() as interrupted:
        for slab in slabs(islice(texts, counter.n_documents, None), SLAB):
            counter.add(slab)
            speed = (counter.n_bytes - before) / 1e6 / max(1e-9, time.perf_counter() - started)
            total = None if total_bytes is None else max(total_bytes, counter.n_bytes) / 1e6
            on_event(
                Progressed(
                    what="reading text for the tokenizer",
                    done=counter.n_bytes / 1e6,
                    total=total,
                    unit=f"MB, {speed:,.0f} MB/s",
                )
            )
            if interrupted.is_set():
                keep_counts(counter, checkpoint, fingerprint, on_event)
                raise KeyboardInterrupt
    if counter.n_bytes == 0:
        raise ValueError("the tokenizer has no text to learn from; name a source that holds some")
    if counter.forgotten:
        on_event(
            Message(
                text=f"to stay within {memory / 1e9:.1f} GB, rare chunks were left out as they came, "
                f"{counter.forgotten:,} occurrences in all; more --memory counts them",
                level="warning",
            )
        )
    return counter


def _fingerprint(texts: str, split: Split, memory: int, max_bytes: int | None) -> str:
    """All that decides on the counts."""
    return "\0".join([texts, *split.patterns, str(memory), str(max_bytes)])


def keep_counts(counter: ChunkCounter, checkpoint: Path | None, fingerprint: str, on_event: Handler) -> None:
    """Write the counts so far to the checkpoint, if there is to be one."""
    if checkpoint is not None:
        counter.save(checkpoint, fingerprint)
        on_event(Message(text=f"the counts so far are kept in {checkpoint}; the same command goes on from there"))


def first_bytes(texts: Iterable[str], size: int | None) -> Iterator[str]:
    """The texts up to `size` bytes of UTF-8, the last one cut at a character; None: all."""
    left = size
    for text in texts:
        if left is None:
            yield text
            continue
        data = utf8(text[:left])  # a character has at least a byte
        is_whole = len(text) <= left and len(data) <= left
        yield text if is_whole else data[:left].decode("utf-8", "ignore")
        left -= len(data)
        if left <= 0:
            return


def learn(
    counts: ChunkCounts, pieces: list[bytes], n_tokens: int, min_count: int, on_event: Handler
) -> list[tuple[int, int]]:
    """Merges of a byte-level vocabulary; their tokens are added to `pieces` until it has `n_tokens`."""
    if counts.counts.max(initial=0) > MAX_COUNT:
        raise ValueError("a chunk occurs more than two thousand million times; train on a sample of the text")
    if counts.lengths.sum() + len(counts.lengths) > MAX_SYMBOLS:
        raise ValueError("the distinct chunks are too many; give a smaller memory limit, which leaves rare ones out")
    symbols = np.empty(256, np.int32)
    for token, piece in enumerate(pieces):
        symbols[piece[0]] = token
    cells = np.zeros(2 * (1 + int((counts.lengths + 1)[counts.lengths > 1].sum())), np.int32)
    with announced():  # the loop is compiled here, if it must be
        lay_out(counts.arena, counts.places[:0], counts.lengths[:0], counts.counts[:0], symbols, cells)
    lay_out(counts.arena, counts.places, counts.lengths, counts.counts, symbols, cells)
    merges = merge_pairs(cells, len(pieces), n_tokens, min_count=min_count, ties=LEAST_PAIR, on_event=on_event)
    pairs = [(left, right) for left, right in merges.tolist()]
    for left, right in pairs:
        pieces.append(pieces[left] + pieces[right])
    return pairs


def merge_pairs(
    cells: NDArray[np.int32], n_symbols: int, n_tokens: int, *, min_count: int, ties: int, on_event: Handler
) -> NDArray[np.int32]:
    """`learn_merges` in a thread of its own, so that progress is shown and Ctrl-C is heard."""
    control = np.array([n_symbols, 0])
    # Room that NumPy gives comes in large pages where the system has them: a fifth of the time is saved.
    pairs = np.empty((max(1 << 16, cells.size // 8), 4), np.int64)
    table = np.full(1 << max(18, len(pairs).bit_length() - 1), -1, np.int32)
    positions = np.empty(3 * cells.size // 2, np.int32)
    nothing = np.zeros(2, np.int32)
    results: list[NDArray[np.int32]] = []

    def work() -> None:
        with announced():
            learn_merges(nothing, pairs, table, positions, 0, 1, 1, ties, np.zeros(2, np.int64))
        results.append(
            learn_merges(cells, pairs, table, positions, n_symbols, n_tokens, max(1, min_count), ties, control)
        )

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
            on_event(
                Progressed(
                    what="training the tokenizer",
                    done=int(control[0]) - n_symbols,
                    total=n_tokens - n_symbols,
                    unit="tokens",
                )
            )
    finally:
        control[1] = 1
        thread.join()
    if not results:
        raise RuntimeError("the merging thread failed")
    return results[0]
