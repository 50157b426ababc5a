"""What are the simplest tokens? Bytes, and characters (review section 2.5)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import final

import numpy as np

from diptych.core.files import write_text
from diptych.tokenizers.base import EOS, Ids, VocabularyOfBytes, utf8


@final
class ByteTokenizer(VocabularyOfBytes):
    """Token i is byte i; 256 ends a document."""

    def __init__(self) -> None:
        self.pieces = [bytes([i]) for i in range(256)] + [EOS.encode()]

    def encode(self, text: str) -> Ids:
        """One token a UTF-8 byte."""
        return np.frombuffer(utf8(text), np.uint8).astype(np.int32)

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Ids of each text."""
        return [self.encode(text) for text in texts]

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        write_text(path, json.dumps({"diptych": "byte"}) + "\n")


@final
class CharacterTokenizer(VocabularyOfBytes):
    """One token a character of `alphabet`; characters outside it fall back to their bytes, tokens 0 to 255.

    Raises ValueError for an alphabet that names a character twice, or half of one (a surrogate).
    """

    def __init__(self, alphabet: str) -> None:
        if len(set(alphabet)) < len(alphabet):
            raise ValueError("the alphabet names a character twice")
        if any("\ud800" <= character <= "\udfff" for character in alphabet):
            raise ValueError("the alphabet holds a surrogate, which is no character")
        self.alphabet = alphabet
        self.pieces = [bytes([i]) for i in range(256)] + [utf8(c) for c in alphabet] + [EOS.encode()]
        self.ids = {character: (256 + i,) for i, character in enumerate(alphabet)}

    def encode(self, text: str) -> Ids:
        """One token a character where the alphabet has it."""
        ids = self.ids
        return np.array([i for c in text for i in (ids[c] if c in ids else utf8(c))], np.int32)

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Ids of each text."""
        return [self.encode(text) for text in texts]

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        write_text(path, json.dumps({"diptych": "character", "alphabet": self.alphabet}, ensure_ascii=False) + "\n")
