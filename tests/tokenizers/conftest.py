"""Text of many kinds, one small tokenizer of each kind, and byte-pair encoding by its definition."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from diptych.core.config import TokenizerConfig
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.classes import Class, class_table
from diptych.tokenizers.kernels.scanning import split as scan
from diptych.tokenizers.splitting import Split
from diptych.tokenizers.train import train_tokenizer

PATTERN_OF_CLASS = {
    Class.MARK: r"\p{M}",
    Class.UPPER: r"[\p{Lu}\p{Lt}]",
    Class.LOWER: r"\p{Ll}",
    Class.LETTER: r"[\p{Lm}\p{Lo}]",
    Class.NUMBER: r"\p{N}",
    Class.SPACE: r"[^\S\r\n]",
    Class.NEWLINE: r"[\r\n]",
}
"""How the split patterns write the classes of characters."""

WORDS = ["the", "then", "these", "hen", "'ll", "don't", "naïve", "Straße", "日本語", "🙂🙂", "1234", "12", "x=foo(bar)"]
WORDS += ["", "aaaa", "aaaaa", "\n\n\t", "if:", "==", "мир", "привет"]

ODD = ["'s", "'S", "'ſ", "'re", "'RE", "'lL", "'Ve", "'d", "'x", "'", "''", "ſ", "don't", "DON'T", "I'm", "isn'tT"]
ODD += [
    " ",
    "  ",
    "   ",
    "\n",
    "\r\n",
    "\r",
    "\n\n",
    " \n",
    "\n ",
    "\t",
    "\t\n",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x85",
    "\xa0",
]
ODD += ["\u2028", "\u2029", "\u3000", "\u200b", "\ufeff", "\u1680", "\0", "\x7f", "/", "//", "/\n", "..", "!?", "(\r\n"]
ODD += ["0", "12", "123", "1234", "٣", "१२३", "Ⅷ", "½", "五", "x1y2", "a", "A", "Aa", "aA", "ABCd", "ABC", "HTTPServer"]
ODD += ["é", "e\u0301", "É", "ǅ", "ʰ", "ª", "ß", "İ", "\u0301", "\u0301\u0301", "\u20dd", "ا", "ש\u05b8", "नि", "ไทย"]
ODD += [
    "日本",
    "ｱ",
    "한",
    "𝔄",
    "𐐀𐐨",
    "🙂",
    "👩‍👩‍👧",
    "🇩🇪",
    "✊🏽",
    "abcdefghijkl",
    "ABCDEFGHIJKL",
    "\U000f0000",
    "\ue000",
    "\ufffd",
]
"""What split patterns stumble over."""


def some_text(seed: int, size: int) -> str:
    """Words that repeat, of many scripts, with white space of all kinds between them."""
    generator = random.Random(seed)
    return "".join(
        generator.choice(WORDS) + generator.choice([" ", " ", " ", "  ", "\n", "", "\r\n "]) for _ in range(size)
    )


def odd_text(generator: random.Random, size: int, others: str = "") -> str:
    """`size` of the odd strings, repeated at times, and single ones of the `others`."""
    parts = []
    for _ in range(size):
        part = generator.choice(others) if others and generator.random() < 0.4 else generator.choice(ODD)
        parts.append(part * generator.choice([1, 1, 1, 2, 3, 9]))
    return "".join(parts)


def source_texts(n_bytes: int) -> list[str]:
    """Modules of the standard library, which every machine has: about so many bytes."""
    texts: list[str] = []
    for path in sorted(Path(json.__file__).parent.parent.glob("*.py"), key=lambda path: path.name):
        texts.append(path.read_text(errors="replace"))
        n_bytes -= len(texts[-1])
        if n_bytes < 0:
            break
    return texts


def scanned(split: Split, text: str) -> list[str]:
    """The chunks of a text by the compiled scanner."""
    assert split.rule is not None
    data = text.encode()
    ends, cursor = np.empty(7, np.int64), np.zeros(2, np.int64)  # less room than chunks: it must go on where it was
    offsets = np.array([0, len(data)])
    chunks, start = [], 0
    while n := scan(np.frombuffer(data, np.uint8), offsets, class_table(), split.rule, cursor, ends):
        for end in ends[:n].tolist():
            chunks.append(data[start:end].decode())
            start = end
    assert start == len(data)
    return chunks


def merged_by_definition(chunk: bytes, ids: Mapping[bytes, int], ranks: Mapping[tuple[int, int], int]) -> list[int]:
    """The tokens of a chunk: of all neighbours that merge, those of the lowest rank, leftmost first, again and again.

    `ranks` orders pairs of ids, and the token that a pair makes is the id of its joint bytes.
    """
    parts = [bytes([byte]) for byte in chunk]
    while True:
        keys = [(ids[left], ids[right]) for left, right in pairwise(parts)]
        found = [(ranks[key], i) for i, key in enumerate(keys) if key in ranks]
        if not found:
            return [ids[part] for part in parts]
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def random_pieces(generator: random.Random, n_tokens: int, alphabet: bytes, longest: int) -> list[bytes]:
    """256 bytes and other tokens that join two of those before, all in an order at random."""
    pieces = [bytes([byte]) for byte in range(256)]
    known = [bytes([byte]) for byte in alphabet]
    while len(pieces) < n_tokens:
        piece = generator.choice(known) + generator.choice(known)
        if len(piece) <= longest and piece not in known:
            known.append(piece)
            pieces.append(piece)
    generator.shuffle(pieces)
    return pieces


def pairs_by_definition(pieces: Sequence[bytes]) -> dict[tuple[int, int], int]:
    """tiktoken's rule: two tokens merge where their joint bytes are a token, lower ids first."""
    ids = {piece: token for token, piece in enumerate(pieces)}
    pairs = {}
    for token, piece in enumerate(pieces):
        for cut in range(1, len(piece)):
            if piece[:cut] in ids and piece[cut:] in ids:
                pairs[ids[piece[:cut]], ids[piece[cut:]]] = token
    return pairs


TEXTS = [some_text(i, 200) for i in range(20)]


@pytest.fixture(scope="session")
def bpe() -> BytePairTokenizer:
    return train_bpe(TEXTS, 380)


@pytest.fixture(scope="session", params=["byte", "character", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerConfig(kind=request.param, vocab_size=380))
