"""How are pairs kept as tokens, and which of them make up step number n?

One flat file of tokens, source after target after source, and one of the places where each begins. A JSON sidecar says
what is in them; it is written last, so a store without one is not complete. A batch holds pairs of about the same
length, and is a pure function of the step: a resumed run sees what the uninterrupted one would have.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diptych.core.events import Handler, Message, Progressed, ignore
from diptych.core.files import replacing, write_text
from diptych.core.random import derive_seed
from diptych.core.types import Batch
from diptych.data.packing import fingerprint_of, read_sidecar, store_damaged, text_lengths
from diptych.data.parallel import Pair
from diptych.tokenizers.base import Tokenizer

POOL_BATCHES = 64
"""Batches whose pairs are sorted by length together: enough to find near lengths, few enough to stay mixed."""

WIDTH_STEP = 8
"""Rows are padded to a multiple of so many tokens, so that few shapes occur."""

_ENCODED_AT_ONCE = 1024

Ids = Sequence[int] | NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class PairStore:
    """Tokens of pairs: source i is tokens[starts[2 i] : starts[2 i + 1]], its target goes on to starts[2 i + 2].

    `token_lengths[i]` is the number of bytes that token i stands for (0 for special ones). A side and its closing
    `eos_id` have at most `longest` tokens.
    """

    tokens: NDArray[Any]
    starts: NDArray[np.int64]
    token_lengths: NDArray[np.int64]
    opening_id: int
    eos_id: int
    longest: int

    def __len__(self) -> int:
        return (len(self.starts) - 1) // 2

    def source(self, index: int) -> NDArray[Any]:
        """The tokens of a pair's source."""
        return self.tokens[self.starts[2 * index] : self.starts[2 * index + 1]]

    def target(self, index: int) -> NDArray[Any]:
        """The tokens of a pair's target."""
        return self.tokens[self.starts[2 * index + 1] : self.starts[2 * index + 2]]

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of source and target of each pair, (n, 2)."""
        return np.diff(self.starts).reshape(-1, 2)


def build_pair_store(
    pairs: Callable[[], Iterable[Pair]],
    tokenizer: Tokenizer,
    path: Path,
    longest: int,
    on_event: Handler = ignore,
    *,
    fingerprint: str = "",
) -> PairStore:
    """The store at `path`.tokens, made from the pairs if it is not there yet.

    A pair of which a side and its end have more than `longest` tokens is left out. A store of another tokenizer, length
    or `fingerprint` of the data is made again. Raises ValueError where a store is damaged or no pair is short enough.
    """
    data, sidecar = path.with_suffix(".tokens"), path.with_suffix(".json")
    wanted = fingerprint_of(tokenizer, f"pairs up to {longest}; {fingerprint}")
    if not sidecar.is_file():
        _write(pairs(), tokenizer, path, longest=longest, fingerprint=wanted, on_event=on_event)
    elif read_sidecar(sidecar, data).get("fingerprint") != wanted:
        on_event(Message(text=f"{data} holds other data or another tokenizer's tokens and is made again"))
        sidecar.unlink()
        _write(pairs(), tokenizer, path, longest=longest, fingerprint=wanted, on_event=on_event)
    return _open(path, tokenizer, longest)


def _write(
    pairs: Iterable[Pair], tokenizer: Tokenizer, path: Path, *, longest: int, fingerprint: str, on_event: Handler
) -> None:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    starts, left_out = array("q", [0]), 0
    with replacing(path.with_suffix(".tokens")) as temporary, temporary.open("wb") as file:
        for source, target in _encoded(pairs, tokenizer):
            if max(len(source), len(target)) + 1 > longest:
                left_out += 1
                continue
            for ids in (source, target):
                file.write(ids.astype(dtype).tobytes())
                starts.append(starts[-1] + len(ids))
            if (done := len(starts) // 2) % _ENCODED_AT_ONCE == 0:
                on_event(Progressed(what=f"tokenizing {path.name} pairs", done=done, total=None, unit="pairs"))
    count = len(starts) // 2
    on_event(Progressed(what=f"tokenizing {path.name} pairs", done=count, total=count, unit="pairs"))
    if left_out:
        text = f"{left_out} of {left_out + count} {path.name} pairs are longer than {longest} tokens and were left out"
        on_event(Message(text=text))
    if not count:
        raise ValueError(f"every pair is longer than data.sequence_length={longest} tokens; raise it")
    with replacing(path.with_suffix(".starts")) as temporary:
        np.frombuffer(starts, np.int64).tofile(temporary)
    record = {"dtype": dtype.name, "n_pairs": count, "n_tokens": starts[-1], "fingerprint": fingerprint}
    write_text(path.with_suffix(".json"), json.dumps(record) + "\n")


def _encoded(pairs: Iterable[Pair], tokenizer: Tokenizer) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """The tokens of each pair; many texts at once are encoded on all cores."""
    stream = iter(pairs)
    while part := list(islice(stream, _ENCODED_AT_ONCE)):
        ids = tokenizer.encode_batch([text for pair in part for text in (pair.source, pair.target)])
        yield from zip(ids[0::2], ids[1::2], strict=True)


def _open(path: Path, tokenizer: Tokenizer, longest: int) -> PairStore:
    data = path.with_suffix(".tokens")
    record = read_sidecar(path.with_suffix(".json"), data)
    try:
        tokens = np.memmap(data, np.dtype(record["dtype"]), "r")
        starts = np.fromfile(path.with_suffix(".starts"), np.int64)
        if len(tokens) != record["n_tokens"] or len(starts) != 2 * record["n_pairs"] + 1:
            raise ValueError(f"{len(tokens)} tokens and {len(starts)} places do not fit its description")
        if starts[0] != 0 or starts[-1] != len(tokens) or (np.diff(starts) < 0).any():
            raise ValueError("its places lie outside of it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise store_damaged(data, error) from None
    return PairStore(
        tokens=tokens,
        starts=starts,
        token_lengths=text_lengths(tokenizer),
        opening_id=tokenizer.opening_id,
        eos_id=tokenizer.eos_id,
        longest=longest,
    )


@final
class PairStream:
    """The pairs of a store, each once an epoch; shuffled ones stand together with pairs of about their length."""

    def __init__(self, store: PairStore, *, seed: int = 0, shuffle: bool = True) -> None:
        self.store, self.seed, self.shuffle = store, seed, shuffle
        self._order: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.store)

    def batch(self, step: int, batch_size: int, rank: int = 0, ranks: int = 1) -> Batch:
        """This rank's part of the `batch_size` pairs of a step; epochs follow one another without a gap.

        `batch_size` must be a multiple of `ranks`: ValueError otherwise.
        """
        if batch_size % ranks:
            raise ValueError(f"train.batch_size={batch_size} is no multiple of the {ranks} processes")
        share = batch_size // ranks
        first = step * batch_size + rank * share
        store, rows = self.store, [self._row(first + i, batch_size) for i in range(share)]
        targets = [store.target(row) for row in rows]
        return pair_batch(
            [store.source(row) for row in rows],
            targets,
            opening_id=store.opening_id,
            eos_id=store.eos_id,
            longest=store.longest,
            sample_ids=rows,
            n_bytes=sum(int(store.token_lengths[target].sum()) for target in targets),
        )

    def _row(self, index: int, batch_size: int) -> int:
        epoch, place = divmod(index, len(self.store))
        if not self.shuffle:
            return place
        if self._order is None or self._order[0] != (epoch, batch_size):
            self._order = ((epoch, batch_size), self._epoch(epoch, batch_size))
        return int(self._order[1][place])

    def _epoch(self, epoch: int, batch_size: int) -> NDArray[np.int64]:
        """The order of an epoch: shuffled, sorted by length within pools, and the batches shuffled again.

        The epoch begins in the middle of the batch that the last one's end began.
        """
        generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, "order", epoch)))
        order = generator.permutation(len(self.store))
        begun = -epoch * len(self.store) % batch_size
        head, rest = order[:begun], order[begun:]
        lengths = self.store.lengths()
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(rest), POOL_BATCHES * batch_size):
            pool = rest[start : start + POOL_BATCHES * batch_size]
            pool = pool[np.lexsort(lengths[pool].T)]
            batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
        whole = [batch for batch in batches if len(batch) == batch_size]
        parts = [batch for batch in batches if len(batch) < batch_size]
        mixed = [whole[i] for i in generator.permutation(len(whole))]
        return np.concatenate([head, *mixed, *parts])


def pair_batch(
    sources: Sequence[Ids],
    targets: Sequence[Ids],
    *,
    opening_id: int,
    eos_id: int,
    longest: int | None = None,
    sample_ids: Sequence[int] | None = None,
    n_bytes: int = 0,
) -> Batch:
    """Pairs as a batch: x is the opening token, the target and the end; cond the source and the end; both padded."""
    cond, cond_lengths = padded(sources, eos_id, longest)
    answers, lengths = padded(targets, eos_id, longest)
    opening = torch.full((len(sources), 1), opening_id)
    return Batch(
        x=torch.cat((opening, answers), dim=1),
        sample_ids=torch.tensor(range(len(sources)) if sample_ids is None else sample_ids),
        counted=torch.arange(answers.shape[1]) < lengths[:, None],
        cond=cond,
        cond_lengths=cond_lengths,
        n_bytes=n_bytes,
    )


def padded(texts: Sequence[Ids], eos_id: int, longest: int | None = None) -> tuple[Tensor, Tensor]:
    """Each text closed by `eos_id` and padded with more of it to one width, (b, t), and their lengths (b).

    No width is above `longest`, but for a text that itself is longer.
    """
    lengths = [len(text) + 1 for text in texts]
    width = -(-max(lengths) // WIDTH_STEP) * WIDTH_STEP
    if longest is not None:
        width = max(min(width, longest), *lengths)
    rows = np.full((len(texts), width), eos_id, np.int64)
    for row, text in zip(rows, texts, strict=True):
        row[: len(text)] = text
    return torch.from_numpy(rows), torch.tensor(lengths)
