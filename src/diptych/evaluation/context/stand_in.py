"""How long is a text in the tokens of a model whose tokenizer is not at hand?

About as many tokens as its bytes times a measured ratio. The stand-in makes every word one token, and fills up with
empty ones, so that tasks can be written for it as for any tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, final

import numpy as np

from diptych.tokenizers.base import Ids, Special, utf8

_WORD = re.compile(r" ?[^\s]+|\s")

_EMPTY = 0


@final
class StandInTokenizer:
    """A `Tokenizer` by which a text has as many tokens as its bytes times `tokens_per_byte`, at least one a word.

    Tokens are numbered as their words come up. It has no special tokens. Raises ValueError for a ratio outside (0, 1].
    """

    special_tokens: Mapping[str, int] = {}
    drops_space = False

    def __init__(self, tokens_per_byte: float) -> None:
        if not 0.0 < tokens_per_byte <= 1.0:
            raise ValueError(f"a text has between 0 and 1 tokens a byte, not {tokens_per_byte}")
        self.tokens_per_byte = tokens_per_byte
        self.words = [""]
        self.numbers = {"": _EMPTY}

    @property
    def vocab_size(self) -> int:
        """Words so far."""
        return len(self.words)

    @property
    def eos_id(self) -> NoReturn:
        """Raises ValueError: there is none."""
        raise ValueError("a server puts the tokens that open and close a document itself")

    opening_id = eos_id

    def encode_list(self, text: str) -> list[int]:
        """Each word's number, and after it empty tokens up to the length of the text so far."""
        ids: list[int] = []
        n_bytes = 0
        for word in _WORD.findall(text):
            ids.append(self.numbers.setdefault(word, len(self.words)))
            if ids[-1] == len(self.words):
                self.words.append(word)
            n_bytes += len(utf8(word))
            ids += [_EMPTY] * (round(n_bytes * self.tokens_per_byte) - len(ids))
        return ids

    def encode(self, text: str, *, allowed_special: Special = (), disallowed_special: Special = ()) -> Ids:
        """The same as an array."""
        del allowed_special, disallowed_special  # it has none
        return np.array(self.encode_list(text), np.int32)

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text."""
        return "".join(self.words[token] for token in ids)

    def decode_bytes(self, ids: Sequence[int] | Ids) -> bytes:
        """The text's bytes."""
        return utf8(self.decode(ids))

    def token_bytes(self, token: int) -> bytes:
        """The word's bytes; none for an empty token."""
        return utf8(self.words[token])

    def save(self, path: Path) -> NoReturn:
        """Raises ValueError: it is no tokenizer of a model."""
        raise ValueError(f"{path} is not written: a stand-in only tells lengths")
