"""How are documents kept as tokens?

One flat file of tokens, read by memory map. Each document is opened by the tokenizer's opening token and closed by its
end-of-document token; where the two are one, a single token stands between two documents and does both. A JSON sidecar
says what is in it; it is written last, so a store without one is not complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diptych.core.events import Handler, Message, Progressed, ignore
from diptych.core.files import replacing, write_text
from diptych.data.sources import Document
from diptych.tokenizers.base import Tokenizer, utf8


@dataclass(frozen=True, kw_only=True)
class TokenStore:
    """Tokens of a corpus. `token_lengths[i]` is the number of bytes that token i stands for (0 for special ones)."""

    tokens: NDArray[Any]
    token_lengths: NDArray[np.int64]
    eos_id: int
    n_documents: int
    n_bytes: int
    opening_id: int | None = None
    """The token that opens a document, where another one closes it; None: `eos_id` does both."""

    @property
    def n_tokens(self) -> int:
        """Tokens in the store, document boundaries included."""
        return len(self.tokens)

    @property
    def n_text_tokens(self) -> int:
        """Tokens in the store that are no document boundaries."""
        return self.n_tokens - (self.n_documents + 1 if self.opening_id is None else 2 * self.n_documents)


def build_token_store(
    documents: Callable[[], Iterable[Document]],
    tokenizer: Tokenizer,
    path: Path,
    on_event: Handler = ignore,
    *,
    fingerprint: str = "",
) -> TokenStore:
    """The store at `path`.tokens, made from the documents if it is not there yet.

    A store of another tokenizer, or of another `fingerprint` of the data, is made again. Memory stays bounded by one
    document. Raises ValueError where a store is damaged.
    """
    data, sidecar = path.with_suffix(".tokens"), path.with_suffix(".json")
    wanted = fingerprint_of(tokenizer, fingerprint)
    if not sidecar.is_file():
        _write(documents(), tokenizer, path, wanted, on_event)
    elif read_sidecar(sidecar, data).get("fingerprint") != wanted:
        on_event(Message(text=f"{data} holds other data or another tokenizer's tokens and is made again"))
        sidecar.unlink()
        _write(documents(), tokenizer, path, wanted, on_event)
    return _open(data, sidecar, tokenizer)


def fingerprint_of(tokenizer: Tokenizer, data: str) -> str:
    """What tells a store of these data by this tokenizer from others."""
    digest = hashlib.blake2b(data.encode(), digest_size=16)
    if (opening := _opening(tokenizer)) is not None:
        digest.update(f"{opening} {tokenizer.eos_id}".encode())
    for token in range(tokenizer.vocab_size):
        piece = tokenizer.token_bytes(token)
        digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.hexdigest()


def _opening(tokenizer: Tokenizer) -> int | None:
    """The token that opens a document and closes none, if there is one."""
    return None if tokenizer.opening_id == tokenizer.eos_id else tokenizer.opening_id


def _write(
    documents: Iterable[Document], tokenizer: Tokenizer, path: Path, fingerprint: str, on_event: Handler
) -> None:
    dtype = np.dtype(np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32)
    n_documents = n_bytes = n_tokens = reported = 0
    opening, end = (np.array([token], dtype).tobytes() for token in (tokenizer.opening_id, tokenizer.eos_id))
    closing = end if opening != end else b""
    around = len(opening + closing) // dtype.itemsize

    def report() -> None:
        on_event(Progressed(what=f"tokenizing {path.name} text", done=n_bytes / 1e6, total=None, unit="MB"))

    with replacing(path.with_suffix(".tokens")) as temporary, temporary.open("wb") as file:
        for document in documents:
            ids = tokenizer.encode(document.text).astype(dtype)
            file.write(opening + ids.tobytes() + closing)
            n_documents, n_tokens = n_documents + 1, n_tokens + around + len(ids)
            n_bytes += len(utf8(document.text))
            if n_bytes - reported >= 250_000:
                reported = n_bytes
                report()
        if not closing:
            file.write(end)
            n_tokens += 1
    report()
    record = {"dtype": dtype.name, "n_tokens": n_tokens, "n_documents": n_documents, "n_bytes": n_bytes}
    write_text(path.with_suffix(".json"), json.dumps({**record, "fingerprint": fingerprint}) + "\n")


def read_sidecar(sidecar: Path, data: Path) -> dict[str, Any]:
    """What a store says of itself. Raises ValueError where that is damaged."""
    try:
        record = json.loads(sidecar.read_bytes())
        if not isinstance(record, dict):
            raise ValueError("its description is no JSON object")
    except (ValueError, RecursionError) as error:
        raise store_damaged(data, error) from None
    return record


def store_damaged(data: Path, error: Exception) -> ValueError:
    """The error that says so, and what to do."""
    return ValueError(f"the token store {data} is damaged ({error}); delete {data.parent} to make it again")


def _open(data: Path, sidecar: Path, tokenizer: Tokenizer) -> TokenStore:
    record = read_sidecar(sidecar, data)
    try:
        tokens = np.memmap(data, np.dtype(record["dtype"]), "r")
        if len(tokens) != record["n_tokens"]:
            raise ValueError(f"{len(tokens)} tokens instead of {record['n_tokens']}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise store_damaged(data, error) from None
    return TokenStore(
        tokens=tokens,
        token_lengths=text_lengths(tokenizer),
        eos_id=tokenizer.eos_id,
        n_documents=record["n_documents"],
        n_bytes=record["n_bytes"],
        opening_id=_opening(tokenizer),
    )


def text_lengths(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """The number of bytes that each token stands for, 0 for special ones."""
    lengths = [len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    for special in tokenizer.special_tokens.values():
        lengths[special] = 0
    return np.array(lengths, np.int64)
