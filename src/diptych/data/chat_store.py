"""How are conversations kept as tokens, and which of them make up step number n?

Beside the tokens lies a mask of what is learnt: the assistant's answers. Whole conversations share a row, none is cut,
and none sees the others. As for text, a batch is a pure function of its step.
"""

from __future__ import annotations

import json
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from diptych.core.events import Handler, Message, Progressed, ignore
from diptych.core.files import replacing, write_text
from diptych.core.types import Batch
from diptych.data.packing import fingerprint_of, read_sidecar, store_damaged, text_lengths
from diptych.data.sources import Document
from diptych.data.stream import RowOrder
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.chat import ChatTemplate, answer_mask, template_of

PARTS = ("tokens", "counted", "starts")


@dataclass(frozen=True, kw_only=True)
class ConversationStore:
    """Tokens of conversations and which of them count: conversation i is tokens[starts[i] : starts[i + 1]]."""

    tokens: NDArray[Any]
    counted: NDArray[np.bool_]
    starts: NDArray[np.int64]
    token_lengths: NDArray[np.int64]
    eos_id: int
    n_bytes: int
    """UTF-8 length of what counts."""

    @property
    def n_documents(self) -> int:
        """Number of conversations."""
        return len(self.starts) - 1

    @property
    def n_tokens(self) -> int:
        """Tokens of all conversations."""
        return len(self.tokens)


def build_conversation_store(
    conversations: Callable[[], Iterable[Document]],
    tokenizer: Tokenizer,
    template: str | None,
    path: Path,
    on_event: Handler = ignore,
) -> ConversationStore:
    """The store at `path`, made from the conversations if it is not there yet or was made with another template.

    template: Jinja source that makes text of messages; None: ChatML. Raises ValueError, naming the place, for messages
    that the template refuses, and where a store is damaged.
    """
    sidecar = path.with_suffix(".json")
    wanted = fingerprint_of(tokenizer, f"chat {template}")
    if sidecar.is_file() and read_sidecar(sidecar, path).get("fingerprint") != wanted:
        on_event(Message(text=f"{path} holds another tokenizer's tokens or another template's and is made again"))
        sidecar.unlink()
    if not sidecar.is_file():
        _write(
            conversations(), tokenizer, template_of(tokenizer, template), path, fingerprint=wanted, on_event=on_event
        )
    return _open(path, tokenizer)


def _write(
    conversations: Iterable[Document],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    path: Path,
    *,
    fingerprint: str,
    on_event: Handler,
) -> None:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    starts, unanswered, reported = [0], 0, 0
    with (
        replacing(path.with_suffix(".tokens")) as tokens,
        replacing(path.with_suffix(".counted")) as counts,
        tokens.open("wb") as tokens_file,
        counts.open("wb") as counts_file,
    ):
        for conversation in conversations:
            ids, counted = _render(conversation, tokenizer, template)
            if not counted.any():
                unanswered += 1
                continue
            tokens_file.write(ids.astype(dtype).tobytes())
            counts_file.write(counted.tobytes())
            starts.append(starts[-1] + len(ids))
            if starts[-1] - reported >= 100_000:
                reported = starts[-1]
                on_event(Progressed(what=f"tokenizing {path.name} chats", done=reported, total=None, unit="tokens"))
    if unanswered:
        text = f"{unanswered} conversations for {path.name} hold no answer of an assistant and were left out"
        on_event(Message(text=text, level="warning"))
    if len(starts) == 1:
        raise ValueError(f"none of the conversations for {path.name} holds an answer of an assistant to learn from")
    with replacing(path.with_suffix(".starts")) as temporary:
        temporary.write_bytes(np.array(starts, np.int64).tobytes())
    record = {"dtype": dtype.name, "n_tokens": starts[-1], "n_conversations": len(starts) - 1}
    write_text(path.with_suffix(".json"), json.dumps({**record, "fingerprint": fingerprint}) + "\n")


def _render(conversation: Document, tokenizer: Tokenizer, template: ChatTemplate) -> tuple[NDArray[Any], NDArray[Any]]:
    try:
        ids, counted = answer_mask(tokenizer, template, json.loads(conversation.text))
    except ValueError as error:
        raise ValueError(f"{conversation.name}: {error}") from None
    mask = np.array(counted, np.bool_)
    mask[:1] = False  # nothing stands before the first token that could predict it
    return np.asarray(ids), mask


def _open(path: Path, tokenizer: Tokenizer) -> ConversationStore:
    record = read_sidecar(path.with_suffix(".json"), path)
    try:
        tokens, counted, starts = (
            np.memmap(path.with_suffix(f".{part}"), np.dtype(dtype), "r")
            for part, dtype in zip(PARTS, (record["dtype"], np.bool_, np.int64), strict=True)
        )
        if not len(tokens) == len(counted) == record["n_tokens"] == starts[-1]:
            raise ValueError(f"{len(tokens)} tokens instead of {record['n_tokens']}")
        if starts[0] or (np.diff(starts) < 1).any() or len(starts) != record["n_conversations"] + 1:
            raise ValueError("its conversations do not follow one another")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise store_damaged(path, error) from None
    lengths = text_lengths(tokenizer)
    return ConversationStore(
        tokens=tokens,
        counted=counted,
        starts=starts,
        token_lengths=lengths,
        eos_id=tokenizer.eos_id,
        n_bytes=int(lengths[tokens[counted]].sum()),
    )


@final
class ConversationStream:
    """Rows of whole conversations, at most `sequence_length` + 1 tokens each; what is left of a row counts for nothing.

    Longer conversations are left out; raises ValueError where none remains.
    """

    def __init__(
        self,
        store: ConversationStore,
        sequence_length: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        document_mask: bool = True,
        on_event: Handler = ignore,
    ) -> None:
        self.store, self.width, self.document_mask = store, sequence_length + 1, document_mask
        lengths = np.diff(store.starts)
        fitting = np.flatnonzero(lengths <= self.width)
        if not len(fitting):
            raise ValueError(
                f"every conversation is longer than data.sequence_length={sequence_length} (the shortest has "
                f"{lengths.min()} tokens); raise it"
            )
        if left_out := len(lengths) - len(fitting):
            text = f"{left_out} of {len(lengths)} conversations are longer than data.sequence_length={sequence_length}"
            on_event(Message(text=f"{text} and were left out", level="warning"))
        self.rows = pack(fitting, lengths[fitting], self.width)
        self._order = RowOrder(len(self.rows), seed, shuffle=shuffle)

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, step: int, batch_size: int, rank: int = 0, ranks: int = 1) -> Batch:
        """This rank's part of the `batch_size` rows of a step. Raises ValueError where it is no whole part."""
        return self._gather(self._order.rows(step, batch_size, rank, ranks))

    def _gather(self, rows: NDArray[np.int64]) -> Batch:
        shape = (len(rows), self.width)
        tokens = np.full(shape, self.store.eos_id, np.int64)
        counted, documents, positions = np.zeros(shape, np.bool_), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for index, row in enumerate(rows):
            at = 0
            for number, conversation in enumerate(self.rows[row], 1):
                start, end = self.store.starts[conversation : conversation + 2]
                place = slice(at, at + end - start)
                tokens[index, place] = self.store.tokens[start:end]
                counted[index, place] = self.store.counted[start:end]
                documents[index, place] = number
                positions[index, place] = np.arange(end - start)
                at += end - start
            documents[index, at:] = len(self.rows[row]) + 1
            positions[index, at:] = np.arange(self.width - at)
        targets = tokens[:, 1:][counted[:, 1:]]
        return Batch(
            x=torch.from_numpy(tokens),
            sample_ids=torch.from_numpy(rows),
            documents=torch.from_numpy(documents) if self.document_mask else None,
            positions=torch.from_numpy(positions) if self.document_mask else None,
            counted=torch.from_numpy(counted[:, 1:].copy()),
            n_bytes=int(self.store.token_lengths[targets].sum()),
        )


def pack(items: Sequence[int] | NDArray[np.int64], lengths: NDArray[np.int64], width: int) -> list[list[int]]:
    """Rows of at most `width` tokens that hold every item once: the longest first, each into the fullest row where it
    fits (best-fit decreasing; Johnson 1973)."""
    rows: list[list[int]] = []
    waiting: dict[int, list[int]] = {}  # rows by the room that is left in them
    rooms: list[int] = []
    for place in np.argsort(-lengths, kind="stable"):
        length = int(lengths[place])
        found = bisect_left(rooms, length)
        if found == len(rooms):
            row, room = len(rows), width
            rows.append([])
        else:
            room = rooms[found]
            row = waiting[room].pop()
            if not waiting[room]:
                del waiting[room], rooms[found]
        rows[row].append(int(items[place]))
        room -= length
        if room not in waiting:
            insort(rooms, room)
        waiting.setdefault(room, []).append(row)
    return rows
