"""What is a tokenizer?"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

EOS = "<|endoftext|>"
"""The special token that opens and closes every document."""

BYTES = [bytes([byte]) for byte in range(256)]

Ids = NDArray[np.int32]

Special = Collection[str] | Literal["all"]
"""Which special tokens: some by name, none (an empty collection), or all that the tokenizer has."""


@runtime_checkable
class Tokenizer(Protocol):
    """Maps text to token ids and back without loss."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included: every id lies below it."""
        ...

    @property
    def eos_id(self) -> int:
        """The token that closes a document, and opens the next one where no other does."""
        ...

    @property
    def opening_id(self) -> int:
        """The token that stands before a document: that of its beginning where there is one, else `eos_id`."""
        ...

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Tokens that never come from text unless they are allowed to."""
        ...

    @property
    def drops_space(self) -> bool:
        """Whether decoding takes a space away with which a text begins, because encoding puts one there."""
        ...

    def encode(self, text: str, *, allowed_special: Special = (), disallowed_special: Special = ()) -> Ids:
        """Ids of the text. What looks like a special token is ordinary text, unless it is allowed (and becomes the
        token) or disallowed (ValueError); `disallowed_special="all"` means all that are not allowed."""
        ...

    def encode_list(self, text: str) -> list[int]:
        """Ids of the text as a Python list; special tokens are ordinary text."""
        ...

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Ids of each text, on all cores where that pays."""
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
        """Write the tokenizer to a file, atomically."""
        ...


def end_of(tokenizer: Tokenizer) -> int | None:
    """The token that closes a document; None where the tokenizer has none."""
    try:
        return tokenizer.eos_id
    except ValueError:
        return None


def document_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text that begins a document, after the token that opens one where there is such."""
    try:
        return [tokenizer.opening_id, *tokenizer.encode_list(text)]
    except ValueError:
        return tokenizer.encode_list(text)


def utf8(text: str) -> bytes:
    """UTF-8 of the text; a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD. Raises TypeError for no str."""
    if not isinstance(text, str):
        raise TypeError(f"a text must be a str, not {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()
