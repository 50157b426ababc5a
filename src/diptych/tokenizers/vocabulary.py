"""What do all tokenizers share whose every token stands for bytes? Decoding, and special tokens within text."""

from __future__ import annotations

import re
import struct
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.tokenizers.base import EOS, Ids, Special
from diptych.tokenizers.kernels.encoding import join_pieces, joined_size
from diptych.tokenizers.kernels.memory import announced

FEW = 256
"""Ids of which a list is made as quickly without numbers that are kept."""


def numbered(first: int, others: Iterable[str] = ()) -> dict[str, int]:
    """Special tokens with their ids from `first` on: the end of document, then the others.

    Raises ValueError for a name that is empty or stands twice.
    """
    names = [EOS, *others]
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"the special tokens {', '.join(map(repr, names))} hold an empty name or one twice")
    return {name: first + place for place, name in enumerate(names)}


def special_names(values: Mapping[str, Any]) -> list[str]:
    """The special tokens besides the end of document that a file of ours names. Raises ValueError for what is none."""
    names = values.get("special_tokens", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("its special_tokens are no list of names")
    return names


class VocabularyOfBytes(ABC):
    """Tokens and their bytes; subclasses say how ordinary text is encoded.

    `pieces[i]` are the bytes of token i, empty where an id is not in use. always: special tokens that are recognized in
    every text, allowed or not. bos: the special token that opens a document, if another than `eos` does. Raises
    ValueError for special tokens that do not stand in the vocabulary.
    """

    def __init__(
        self,
        pieces: Sequence[bytes],
        special_tokens: Mapping[str, int],
        eos: str | None = EOS,
        *,
        always: Collection[str] = (),
        bos: str | None = None,
    ) -> None:
        self.pieces = list(pieces)
        for name, token in special_tokens.items():
            if not name or not 0 <= token < len(self.pieces) or self.pieces[token] != name.encode():
                raise ValueError(f"special token {name!r} does not stand at id {token} of the vocabulary")
        self._special_tokens = dict(special_tokens)
        self.eos, self.bos = eos, bos
        self.drops_space = False
        self.always = self._names(tuple(always))

    def __getstate__(self) -> dict[str, Any]:
        """For copies and other processes: without what is made again when it is needed."""
        return {name: part for name, part in vars(self).items() if name not in ("_flat", "_numbers")}

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included: every id lies below it."""
        return len(self.pieces)

    @property
    def eos_id(self) -> int:
        """The token that closes a document. Raises ValueError where the tokenizer has none."""
        if self.eos is None or self.eos not in self._special_tokens:
            known = ", ".join(self._special_tokens) or "none"
            raise ValueError(f"the tokenizer names no end-of-document token (its special tokens: {known})")
        return self._special_tokens[self.eos]

    @property
    def opening_id(self) -> int:
        """The token that stands before a document: that of its beginning where there is one, else `eos_id`."""
        return self.eos_id if self.bos is None else self._special_tokens[self.bos]

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Tokens that never come from text unless they are allowed to."""
        return self._special_tokens

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for. Raises ValueError for an id outside the vocabulary."""
        if not 0 <= token < len(self.pieces):
            raise ValueError(f"token id {token} lies outside the vocabulary of {len(self.pieces)}")
        return self.pieces[token]

    @cached_property
    def _flat(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """All pieces in a row, and where each begins."""
        offsets = np.zeros(len(self.pieces) + 1, np.int64)
        np.cumsum([len(piece) for piece in self.pieces], out=offsets[1:])
        pieces = np.frombuffer(b"".join(self.pieces) + bytes(8), np.uint8)
        with announced():  # the loops are compiled here, if they must be
            nothing = np.empty(0, np.int32)
            joined_size(nothing, offsets)
            join_pieces(nothing, pieces, offsets, np.empty(8, np.uint8))
        return pieces, offsets

    def _joined(self, ids: Sequence[int] | Ids) -> NDArray[np.uint8]:
        pieces, offsets = self._flat
        tokens = self._row(ids)
        size = joined_size(tokens, offsets)
        if size < 0:
            token = int(np.asarray(ids)[-1 - size])
            raise ValueError(f"token id {token} does not stand in the vocabulary of {len(self.pieces)}")
        out = np.empty(size + 8, np.uint8)
        join_pieces(tokens, pieces, offsets, out)
        begins_with_space = self.drops_space and size > 0 and out[0] == ord(" ")
        return out[1:size] if begins_with_space else out[:size]

    def _row(self, ids: Sequence[int] | Ids) -> Ids:
        """The ids as a row that the compiled loops take; ids outside the vocabulary stay outside."""
        if isinstance(ids, list):
            row = bytearray(4 * len(ids))
            try:
                struct.pack_into(f"{len(ids)}i", row, 0, *ids)  # a third of the time that NumPy takes
                return np.frombuffer(row, np.int32)
            except struct.error:
                pass  # what is no 32-bit number is told apart below
        try:
            tokens = np.asarray(ids)
        except ValueError:  # rows of different lengths
            tokens = np.empty((1, 1))
        if tokens.size == 0:
            return np.empty(0, np.int32)
        if tokens.dtype.kind not in "iu" or tokens.ndim != 1:
            raise ValueError("token ids must be a row of whole numbers")
        if tokens.dtype != np.int32 or not tokens.flags.c_contiguous or not tokens.flags.writeable:
            tokens = np.array(np.clip(tokens, -1, len(self.pieces)), np.int32)
        return tokens

    def decode_bytes(self, ids: Sequence[int] | Ids) -> bytes:
        """The bytes of all tokens in a row. Raises ValueError for an id outside the vocabulary."""
        return self._joined(ids).tobytes()

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text; bytes that are no UTF-8 become U+FFFD. Raises ValueError for an id outside the vocabulary."""
        return str(self._joined(ids).data, "utf-8", "replace")

    @abstractmethod
    def encode_ordinary(self, text: str) -> Ids:
        """Ids of the text; what looks like a special token is ordinary text."""

    def encode(self, text: str, *, allowed_special: Special = (), disallowed_special: Special = ()) -> Ids:
        """Ids of the text. What looks like a special token is ordinary text, unless it is allowed or disallowed.

        allowed_special: these become their tokens. disallowed_special: text that holds one of these raises ValueError;
        "all": all that are not allowed. Raises ValueError too for a name that is no special token.
        """
        if not allowed_special and not disallowed_special and not self.always:
            return self.encode_ordinary(text)
        allowed = self._names(allowed_special) | self.always
        disallowed = self._names(disallowed_special) - (allowed if disallowed_special == "all" else set())
        if disallowed and (found := any_of(disallowed).search(text)):
            raise ValueError(
                f"the text holds the special token {found.group()!r} at character {found.start()}; allow it, "
                "or encode it as ordinary text"
            )
        return self.encode_with(text, allowed)

    def encode_with(self, text: str, allowed: Collection[str]) -> Ids:
        """Ids of the text, in which the allowed names are special tokens and all others ordinary text."""
        parts, last = [], 0
        for match in any_of(allowed).finditer(text) if allowed else ():
            parts += [self.encode_ordinary(text[last : match.start()])]
            parts += [np.array([self._special_tokens[match.group()]], np.int32)]
            last = match.end()
        return np.concatenate([*parts, self.encode_ordinary(text[last:])])

    def _names(self, special: Special) -> set[str]:
        if special == "all":
            return set(self._special_tokens)
        if isinstance(special, str):
            raise ValueError(f"special tokens are named by a collection or 'all', not by {special!r}")
        if unknown := set(special) - self._special_tokens.keys():
            raise ValueError(f"{min(unknown)!r} is no special token here; there are: {', '.join(self._special_tokens)}")
        return set(special)

    @cached_property
    def _numbers(self) -> NDArray[np.object_]:
        """The ids as Python numbers: lists that share them are faster to make, and smaller."""
        return np.array(range(len(self.pieces)), object)

    def encode_list(self, text: str) -> list[int]:
        """Ids of the text as a Python list; special tokens are ordinary text."""
        ids = self.encode(text)
        numbers: list[int] = (ids if ids.size < FEW else self._numbers[ids]).tolist()
        return numbers

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Ids of each text; special tokens are ordinary text."""
        return [self.encode(text) for text in texts]


def any_of(names: Collection[str]) -> re.Pattern[str]:
    """The longest of several names that begin at one place."""
    return re.compile("|".join(re.escape(name) for name in sorted(names, key=lambda n: (-len(n), n))))
