"""What does a tokenizer make of a text? Its tokens, their length, whole words, speed, and what attention then costs.

Review section 2.5: fewer tokens for the same text cost less, under attention by the square of their number; the price
is a larger vocabulary.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diptych.core.events import Handler, Progressed, ignore
from diptych.tokenizers.base import Tokenizer, utf8

_WORD = re.compile(rb"\S+")


@dataclass(frozen=True, kw_only=True)
class TokenizerScore:
    """A tokenizer on a text of several documents."""

    name: str
    vocab_size: int
    n_documents: int
    n_bytes: int
    n_tokens: int
    n_words: int
    words_whole: int
    """Words, which are runs of anything but ASCII white space, that one token holds, with white space or alone."""
    attention_pairs: int
    """Sum over documents of the square of the number of tokens: what full attention scores."""
    seconds: float
    """Median time to encode all documents, one after another on one core."""

    @property
    def bytes_per_token(self) -> float:
        """Compression: the mean length of a token."""
        return self.n_bytes / max(1, self.n_tokens)

    @property
    def words_whole_share(self) -> float:
        """Share of the words that one token holds."""
        return self.words_whole / max(1, self.n_words)

    @property
    def megabytes_per_second(self) -> float:
        """Speed of encoding."""
        return self.n_bytes / 1e6 / max(1e-12, self.seconds)


def score_tokenizer(
    name: str, tokenizer: Tokenizer, texts: Sequence[str], *, rounds: int = 3, on_event: Handler = ignore
) -> TokenizerScore:
    """Encode all texts `rounds` times, the first time to warm up, and count. Raises ValueError where there is no
    text."""
    n_bytes = sum(len(utf8(text)) for text in texts)
    if n_bytes == 0:
        raise ValueError("there is no text to compare tokenizers on; name a source that holds some")
    seconds = []
    encoded: list[NDArray[np.int32]] = []
    for done in range(rounds + 1):
        on_event(Progressed(what=f"encoding with {name}", done=done, total=rounds + 1, unit="rounds"))
        started = time.perf_counter()
        encoded = [tokenizer.encode(text) for text in texts]
        seconds.append(time.perf_counter() - started)
    on_event(Progressed(what=f"encoding with {name}", done=rounds + 1, total=rounds + 1, unit="rounds"))
    lengths = token_lengths(tokenizer)
    counts = [whole_words(tokenizer.decode_bytes(ids), lengths[ids]) for ids in encoded]
    return TokenizerScore(
        name=name,
        vocab_size=tokenizer.vocab_size,
        n_documents=len(texts),
        n_bytes=n_bytes,
        n_tokens=sum(len(ids) for ids in encoded),
        n_words=sum(words for words, _ in counts),
        words_whole=sum(whole for _, whole in counts),
        attention_pairs=sum(len(ids) ** 2 for ids in encoded),
        seconds=statistics.median(seconds[1:]),
    )


def token_lengths(tokenizer: Tokenizer) -> NDArray[np.int64]:
    """The bytes of every token: int64 [vocab_size]."""
    return np.array([len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size)], np.int64)


def whole_words(text: bytes, lengths: NDArray[np.int64]) -> tuple[int, int]:
    """(words, those among them that one token holds and no other word), of a text cut into tokens of these lengths."""
    spans = np.array([match.span() for match in _WORD.finditer(text)], np.int64).reshape(-1, 2)
    if len(spans) == 0:
        return 0, 0
    ends = np.cumsum(lengths)
    token = np.searchsorted(ends, spans[:, 0], "right")
    start, end = ends[token] - lengths[token], ends[token]
    before = np.concatenate(([0], spans[:-1, 1]))
    after = np.concatenate((spans[1:, 0], [ends[-1]]))
    whole = (end >= spans[:, 1]) & (start >= before) & (end <= after)
    return len(spans), int(whole.sum())
