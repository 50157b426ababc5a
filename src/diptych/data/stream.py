"""Which tokens make up step number n?

A pure function of the step: there is no iterator whose place could be lost, so a resumed run sees what the
uninterrupted one would have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, final

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from diptych.core.random import derive_seed
from diptych.core.types import Batch
from diptych.data.packing import TokenStore


class Stream(Protocol):
    """The examples of every step of a training."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def batch(self, step: int, batch_size: int, rank: int = 0, ranks: int = 1) -> Batch:
        """This rank's part of the `batch_size` examples of a step. Raises ValueError where it is no whole part."""
        ...


def places(step: int, batch_size: int, rank: int, ranks: int) -> NDArray[np.int64]:
    """This rank's part of a step's examples, numbered from the first step on.

    `batch_size` must be a multiple of `ranks`: ValueError otherwise.
    """
    if batch_size % ranks:
        raise ValueError(f"train.batch_size={batch_size} is no multiple of the {ranks} processes")
    share = batch_size // ranks
    first = step * batch_size + rank * share
    return np.arange(first, first + share)


@final
class RowOrder:
    """Which rows make up a step: every row once an epoch, in an order of its own where they are shuffled."""

    def __init__(self, count: int, seed: int, *, shuffle: bool) -> None:
        self.count, self.seed, self.shuffle = count, seed, shuffle
        self._epoch: tuple[int, NDArray[np.int64]] | None = None

    def rows(self, step: int, batch_size: int, rank: int, ranks: int) -> NDArray[np.int64]:
        """This rank's part of the `batch_size` rows of a step; epochs follow one another without a gap.

        `batch_size` must be a multiple of `ranks`: ValueError otherwise.
        """
        return np.array([self._row(int(i)) for i in places(step, batch_size, rank, ranks)], np.int64)

    def _row(self, index: int) -> int:
        epoch, place = divmod(index, self.count)
        if not self.shuffle:
            return place
        if self._epoch is None or self._epoch[0] != epoch:
            generator = np.random.Generator(np.random.PCG64(derive_seed(self.seed, "order", epoch)))
            self._epoch = (epoch, generator.permutation(self.count))
        return int(self._epoch[1][place])


@final
class SequenceStream:
    """The rows of a store: row i is tokens[i T : i T + T + 1], so that every token is predicted exactly once an epoch.

    Raises ValueError where the store is shorter than one sequence.
    """

    def __init__(
        self,
        store: TokenStore,
        sequence_length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        document_mask: bool = True,
    ) -> None:
        self.store, self.length, self.document_mask = store, sequence_length, document_mask
        self.rows = (store.n_tokens - 1) // sequence_length
        if self.rows < 1:
            raise ValueError(
                f"the text has only {store.n_tokens} tokens, fewer than one sequence of {sequence_length} and its next "
                "token; give more text (or a larger data.heldout_fraction), or a smaller data.sequence_length"
            )
        self._order = RowOrder(self.rows, seed, shuffle=shuffle)

    def __len__(self) -> int:
        return self.rows

    def batch(self, step: int, batch_size: int, rank: int = 0, ranks: int = 1) -> Batch:
        """This rank's part of the `batch_size` sequences of a step. Raises ValueError where it is no whole part."""
        rows = self._order.rows(step, batch_size, rank, ranks)
        columns = np.arange(self.length + 1)
        tokens = np.asarray(self.store.tokens[rows[:, None] * self.length + columns])
        batch = make_batch(self.store, tokens, rows, document_mask=self.document_mask)
        return replace(batch, places=torch.from_numpy(places(step, batch_size, rank, ranks)))


def make_batch(store: TokenStore, tokens: NDArray[Any], ids: NDArray[np.int64], *, document_mask: bool) -> Batch:
    """A batch from tokens (b, t + 1), its documents numbered from their opening tokens.

    A token that opens a document and closes none is given, not predicted: it does not count.
    """
    documents = positions = counted = None
    opens = tokens == (store.eos_id if store.opening_id is None else store.opening_id)
    if store.opening_id is not None:
        counted = torch.from_numpy(~opens[:, 1:])
    if document_mask:
        documents = torch.from_numpy(np.cumsum(opens, axis=1))
        columns = np.arange(tokens.shape[1])
        starts = np.maximum.accumulate(np.where(opens, columns, 0), axis=1)
        positions = torch.from_numpy(columns - starts)
    return Batch(
        x=torch.from_numpy(tokens.astype(np.int64)),
        sample_ids=torch.from_numpy(ids),
        documents=documents,
        positions=positions,
        counted=counted,
        n_bytes=int(store.token_lengths[tokens[:, 1:]].sum()),
    )


@dataclass(frozen=True)
class Window:
    """Sequences to score, of whose targets (b, t) only those `counted` are new."""

    batch: Batch
    counted: Bool[Tensor, "b t"]


def windows(
    store: TokenStore, context: int, stride: int, batch_size: int, *, document_mask: bool = True
) -> Iterator[Window]:
    """Overlapping sequences in which every token of the store but its first, and but those that only open a document,
    is counted exactly once.

    Each counted token has at least `context - stride` tokens before it, but for the store's first ones. The last window
    may be shorter. Raises ValueError for a stride outside 1..context.
    """
    if not 1 <= stride <= context:
        raise ValueError(f"the stride must lie between 1 and the context of {context}, not at {stride}")
    last = store.n_tokens - 1
    starts = [0]
    while starts[-1] + context < last:
        starts.append(starts[-1] + stride)
    # All windows but the last are whole and go in batches; the last one goes alone.
    whole = [start for start in starts if start + context <= last]
    groups = [whole[i : i + batch_size] for i in range(0, len(whole), batch_size)]
    groups += [[start] for start in starts[len(whole) :]]
    for group in groups:
        end = min(context, last - group[0])
        tokens = np.asarray(store.tokens[np.array(group)[:, None] + np.arange(end + 1)])
        new = np.array([0 if start == 0 else context - stride for start in group])
        counted = torch.from_numpy(np.arange(end)[None, :] >= new[:, None])
        batch = make_batch(store, tokens, np.array(group, np.int64), document_mask=document_mask)
        yield Window(batch, counted if batch.counted is None else counted & batch.counted)
