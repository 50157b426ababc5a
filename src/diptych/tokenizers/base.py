"""What is a tokenizer?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

EOS = "<|endoftext|>"
"""The special token that opens and closes every document."""

Ids = NDArray[np.int32]


class Tokenizer(Protocol):
    """Maps text to token ids and back without loss."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        ...

    @property
    def eos_id(self) -> int:
        """The token that opens and closes a document."""
        ...

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Tokens that never come from text."""
        ...

    def encode(self, text: str) -> Ids:
        """Ids of the text; what looks like a special token is ordinary text."""
        ...

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Ids of each text."""
        ...

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text; bytes that are no UTF-8 become U+FFFD."""
        ...

    def decode_bytes(self, ids: Sequence[int] | Ids) -> bytes:
        """The bytes of all tokens in a row."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for."""
        ...

    def save(self, path: Path) -> None:
        """Write tokenizer.json, atomically."""
        ...


def utf8(text: str) -> bytes:
    """UTF-8 of the text; a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


class VocabularyOfBytes:
    """Decoding for tokenizers whose every token stands for bytes: subclasses fill `pieces`, one for each id."""

    pieces: list[bytes]

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return len(self.pieces)

    @property
    def eos_id(self) -> int:
        """The last id."""
        return len(self.pieces) - 1

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """The one special token."""
        return {EOS: self.eos_id}

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for. Raises ValueError for an id outside the vocabulary."""
        if not 0 <= token < len(self.pieces):
            raise ValueError(f"token id {token} lies outside the vocabulary of {len(self.pieces)}")
        return self.pieces[token]

    def decode_bytes(self, ids: Sequence[int] | Ids) -> bytes:
        """The bytes of all tokens in a row."""
        return b"".join(self.token_bytes(int(i)) for i in ids)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", "replace")
