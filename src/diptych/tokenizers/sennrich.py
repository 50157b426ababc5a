"""What was byte-pair encoding of text at first? Characters of words merge, and a mark ends each word.

Sennrich et al. 2016, section 3.2 and algorithm 1. The mark `</w>` stands here for the space behind a word, and a text
is encoded as if a space followed it, so that its last word is marked like every other; decoding takes that space away
again. White space other than a single space behind a word is a chunk of its own, and characters that the training did
not meet fall back to their bytes, so no text is lost.

Below, each character of several bytes is built from them by merges that come before all learnt ones, so the compiled
loops of byte-level encoding serve here too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from diptych.core.events import Handler, Message, ignore
from diptych.core.files import write_text
from diptych.tokenizers.base import Ids, utf8
from diptych.tokenizers.bpe import merge_table
from diptych.tokenizers.bpe_training import MEMORY, count_texts, first_bytes, merge_pairs
from diptych.tokenizers.counts import ChunkCounts
from diptych.tokenizers.engine import ChunkEncoder
from diptych.tokenizers.kernels.merging import EDGE, FIRST_PLACE
from diptych.tokenizers.splitting import Split
from diptych.tokenizers.vocabulary import VocabularyOfBytes, numbered, special_names

END = "</w>"
"""The end-of-word mark as the paper writes it."""

SPACE = " "
"""What the mark stands for in a text; within merges and files it is the mark."""

Merge = tuple[str, str]


@final
class SennrichTokenizer(VocabularyOfBytes):
    """Byte-pair encoding of the characters of words.

    alphabet: the characters of several bytes that are symbols; those of one byte always are. merges: pairs of strings
    in the order of the training, the end-of-word mark written as a space. special_tokens: those besides the end of
    document. Raises ValueError for a merge of what is no symbol.
    """

    def __init__(self, alphabet: str, merges: Sequence[Merge], special_tokens: Sequence[str] = ()) -> None:
        pieces, pairs = _characters(alphabet)
        self.alphabet, self.merges = alphabet, [(left, right) for left, right in merges]
        ids = {piece: token for token, piece in enumerate(pieces)}
        for left, right in self.merges:
            pair = ids.get(left.encode()), ids.get(right.encode())
            if pair[0] is None or pair[1] is None:
                raise ValueError(f"the merge of {left!r} and {right!r} names what is no symbol at its place")
            pairs.append((pair[0], pair[1]))
            joined = (left + right).encode()
            if joined not in ids:
                ids[joined] = len(pieces)
                pieces.append(joined)
        special = numbered(len(pieces), special_tokens)
        super().__init__([*pieces, *map(utf8, special)], special)
        self._encoder = ChunkEncoder(pieces, merge_table(pairs, pieces), Split.named("words"), whole_pieces=False)

    def encode_ordinary(self, text: str) -> Ids:
        """Ids of the text, int32; the last word is marked too."""
        return self._encoder.encode(text + SPACE) if text else np.empty(0, np.int32)

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Ids of each text, on all cores."""
        return self._encoder.encode_batch(text + SPACE if text else "" for text in texts)

    def _joined(self, ids: Sequence[int] | Ids) -> NDArray[np.uint8]:
        joined = super()._joined(ids)
        is_marked = joined.size > 0 and joined[-1] == ord(SPACE)
        return joined[:-1] if is_marked else joined

    def symbols(self, ids: Sequence[int] | Ids) -> list[str]:
        """The tokens as the paper writes them, with the end-of-word mark."""
        pieces = (self.token_bytes(int(token)).decode("utf-8", "replace") for token in ids)
        return [piece.replace(SPACE, END) for piece in pieces]

    def save(self, path: Path) -> None:
        """Write tokenizer.json."""
        values: dict[str, Any] = {"diptych": "sennrich", "alphabet": self.alphabet, "merges": self.merges}
        if names := list(self.special_tokens)[1:]:
            values["special_tokens"] = names
        write_text(path, json.dumps(values, ensure_ascii=False) + "\n")


def from_json(values: Mapping[str, Any], path: Path) -> SennrichTokenizer:
    """The tokenizer of a parsed tokenizer.json. Raises ValueError for a damaged one."""
    try:
        return SennrichTokenizer(values["alphabet"], values["merges"], special_names(values))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: its alphabet and merges do not fit together ({error})") from None


def _characters(alphabet: str) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Bytes, the beginnings of characters, characters; and the merges that build these, in ids."""
    pieces = [bytes([byte]) for byte in range(256)]
    ids = {piece: token for token, piece in enumerate(pieces)}
    pairs: list[tuple[int, int]] = []
    # All beginnings first: so an alphabet in any order gives the characters, in that order, the ids before the merges.
    for size in (2, 3, 4):
        for character in alphabet:
            data = character.encode()
            if len(data) > size and data[:size] not in ids:
                ids[data[:size]] = len(pieces)
                pieces.append(data[:size])
                pairs.append((ids[data[: size - 1]], data[size - 1]))
    for character in alphabet:
        data = character.encode()
        if data in ids:
            raise ValueError(f"the alphabet names {character!r}, which is a symbol already")
        ids[data] = len(pieces)
        pieces.append(data)
        pairs.append((ids[data[:-1]], data[-1]))
    return pieces, pairs


def train_sennrich(
    texts: Iterable[str],
    vocab_size: int,
    max_bytes: int | None = None,
    on_event: Handler = ignore,
    *,
    memory: int = MEMORY,
    special_tokens: Sequence[str] = (),
) -> SennrichTokenizer:
    """Learn merges of characters within words until there are `vocab_size` tokens.

    Of equally frequent pairs the one that comes first in the text is merged, as in the paper's algorithm 1 with its
    dictionary in the order of the text. Raises ValueError for an empty text, or a vocabulary too small for its
    characters.
    """
    marked = (text + SPACE for text in first_bytes(texts, max_bytes) if text)
    counts = count_texts(marked, Split.named("words"), memory=memory, total_bytes=max_bytes, on_event=on_event).counts()
    codes, chunk_of = _codes(counts)
    alphabet = "".join(map(chr, np.unique(codes[codes >= 0x80]).tolist()))
    pieces, _ = _characters(alphabet)
    n_special = len(numbered(0, special_tokens))
    n_learnt = vocab_size - n_special
    if n_learnt < len(pieces):
        raise ValueError(
            f"a vocabulary of {vocab_size} has no room for the 256 bytes and {len(alphabet)} characters of this text; "
            f"it needs at least {len(pieces) + n_special} tokens"
        )
    ids = {piece: token for token, piece in enumerate(pieces)}
    symbols = np.arange(0x110000 if alphabet else 0x80, dtype=np.int32)
    symbols[[ord(character) for character in alphabet]] = [ids[character.encode()] for character in alphabet]
    cells = np.zeros((codes.size + len(counts.counts) + 1, 2), np.int32)
    cells[:, 0] = EDGE
    places = np.arange(codes.size) + chunk_of + 1
    cells[places, 0], cells[places, 1] = symbols[codes], counts.counts[chunk_of]
    learnt = merge_pairs(cells.reshape(-1), len(pieces), n_learnt, min_count=1, ties=FIRST_PLACE, on_event=on_event)
    merges: list[Merge] = []
    for left, right in learnt.tolist():
        pieces.append(pieces[left] + pieces[right])
        merges.append((pieces[left].decode(), pieces[right].decode()))
    if len(pieces) < n_learnt:
        size = len(pieces) + n_special
        on_event(Message(text=f"every word is one token: the vocabulary has {size} tokens, not {vocab_size}"))
    return SennrichTokenizer(alphabet, merges, special_tokens)


def _codes(counts: ChunkCounts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The code points of all distinct chunks in a row, and which chunk each belongs to."""
    data = b"".join(chunk for chunk, _ in counts)
    codes = np.frombuffer(data.decode().encode("utf-32-le"), np.uint32).astype(np.int64)
    begins_character = (np.frombuffer(data, np.uint8) & 0xC0) != 0x80
    chunk_of_byte = np.repeat(np.arange(len(counts.lengths)), counts.lengths)
    return codes, chunk_of_byte[begins_character]
