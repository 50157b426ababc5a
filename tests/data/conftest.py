"""A small corpus in a token store of bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diptych.data.packing import TokenStore, build_token_store
from diptych.data.sources import Document
from diptych.tokenizers.base import Ids, Tokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.vocabulary import VocabularyOfBytes

TEXTS = [f"{'naïve 🙂 ' * (i % 4)}text number {i}{'!' * (i * i % 23)}\n" for i in range(37)]

MakeStore = Callable[..., TokenStore]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_bpe(TEXTS, 300)


@pytest.fixture(scope="session")
def opening() -> Tokenizer:
    """A tokenizer whose documents are opened by a token of their own."""
    pieces = [bytes([byte]) for byte in range(256)] + [b"<s>", b"</s>"]
    return Bytes(pieces, {"<s>": 256, "</s>": 257}, "</s>", bos="<s>")


class Bytes(VocabularyOfBytes):
    """Every byte a token."""

    def encode_ordinary(self, text: str) -> Ids:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int32)

    def save(self, path: Path) -> None:
        raise NotImplementedError


@pytest.fixture
def make_store(tmp_path: Path, tokenizer: Tokenizer) -> MakeStore:
    def make(texts: list[str] = TEXTS) -> TokenStore:
        return build_token_store(lambda: [Document(text, "") for text in texts], tokenizer, tmp_path / "text")

    return make
