"""What are the simplest tokens? Bytes, characters, and words (review section 2.5)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from diptych.core.files import write_text
from diptych.tokenizers.base import BYTES, Ids, utf8
from diptych.tokenizers.engine import ChunkEncoder, MergeTable
from diptych.tokenizers.splitting import Split
from diptych.tokenizers.vocabulary import VocabularyOfBytes, numbered


@final
class ByteTokenizer(VocabularyOfBytes):
    """Token i is byte i; 256 ends a document, and further special tokens follow."""

    def __init__(self, special_tokens: Sequence[str] = ()) -> None:
        special = numbered(256, special_tokens)
        super().__init__([*BYTES, *map(utf8, special)], special)

    def encode_ordinary(self, text: str) -> Ids:
        """One token a UTF-8 byte."""
        return np.frombuffer(utf8(text), np.uint8).astype(np.int32)

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        _write(self, path, {"diptych": "byte"})


@final
class LevelTokenizer(VocabularyOfBytes):
    """Token i is level i of a pixel, the byte i, of so many `levels`; the end of document and other special tokens
    follow. It writes no text but such bytes: encoding raises ValueError for what holds another one."""

    def __init__(self, levels: int, special_tokens: Sequence[str] = ()) -> None:
        if not 2 <= levels <= len(BYTES):
            raise ValueError(f"a pixel of one byte has 2 to {len(BYTES)} levels, not {levels}")
        self.levels = levels
        special = numbered(levels, special_tokens)
        super().__init__([*BYTES[:levels], *map(utf8, special)], special)

    def encode_ordinary(self, text: str) -> Ids:
        """One token a byte. Raises ValueError for a byte that is no level."""
        ids = np.frombuffer(utf8(text), np.uint8).astype(np.int32)
        if (ids >= self.levels).any():
            raise ValueError(f"byte {int(ids.max())} of the text is none of the {self.levels} levels of a pixel")
        return ids

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        _write(self, path, {"diptych": "level", "levels": self.levels})


@final
class CharacterTokenizer(VocabularyOfBytes):
    """One token a character of `alphabet`; characters outside it fall back to their bytes, tokens 0 to 255.

    special_tokens: those besides the end of document. Raises ValueError for an alphabet that names a character twice,
    or half of one (a surrogate).
    """

    def __init__(self, alphabet: str, special_tokens: Sequence[str] = ()) -> None:
        if len(set(alphabet)) < len(alphabet):
            raise ValueError("the alphabet names a character twice")
        if any("\ud800" <= character <= "\udfff" for character in alphabet):
            raise ValueError("the alphabet holds a surrogate, which is no character")
        self.alphabet = alphabet
        pieces = [*BYTES, *map(utf8, alphabet)]
        special = numbered(len(pieces), special_tokens)
        super().__init__([*pieces, *map(utf8, special)], special)
        self._ids = np.full(max(map(ord, alphabet), default=0) + 2, -1, np.int32)
        self._ids[[ord(character) for character in alphabet]] = np.arange(256, 256 + len(alphabet))

    def encode_ordinary(self, text: str) -> Ids:
        """One token a character where the alphabet has it."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        ids = self._ids[np.minimum(codes, len(self._ids) - 1)]
        if not (ids < 0).any():
            return ids
        text = utf8(text).decode()
        return np.array([i for c in text for i in self._known(c)], np.int32)

    def _known(self, character: str) -> Sequence[int]:
        code = ord(character)
        token = int(self._ids[code]) if code < len(self._ids) else -1
        return (token,) if token >= 0 else utf8(character)

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        _write(self, path, {"diptych": "character", "alphabet": self.alphabet})


@final
class WordTokenizer(VocabularyOfBytes):
    """One token a word of `words`, the space before it included; words outside it fall back to their bytes.

    A word is a chunk of GPT-2's split: letters, digits, other signs, or white space. special_tokens: those besides the
    end of document. Raises ValueError for a word that stands twice.
    """

    def __init__(self, words: Sequence[str], special_tokens: Sequence[str] = ()) -> None:
        if len(set(words)) < len(words) or "" in words:
            raise ValueError("the vocabulary names a word twice, or an empty one")
        self.words = list(words)
        pieces = [*BYTES, *map(utf8, words)]
        special = numbered(len(pieces), special_tokens)
        super().__init__([*pieces, *map(utf8, special)], special)
        nothing = np.empty(0, np.int32)
        no_merges = MergeTable(nothing, nothing, nothing, nothing)
        self._encoder = ChunkEncoder(pieces, no_merges, Split.named("gpt2"), whole_pieces=True)

    def encode_ordinary(self, text: str) -> Ids:
        """One token a word where the vocabulary has it."""
        return self._encoder.encode(text)

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Ids of each text, on all cores."""
        return self._encoder.encode_batch(texts)

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        _write(self, path, {"diptych": "word", "words": self.words})


def _write(tokenizer: VocabularyOfBytes, path: Path, values: dict[str, Any]) -> None:
    """Write tokenizer.json; the special tokens are named where there are more than the end of document."""
    names = list(tokenizer.special_tokens)[1:]
    values |= {"special_tokens": names} if names else {}
    write_text(path, json.dumps(values, ensure_ascii=False) + "\n")
