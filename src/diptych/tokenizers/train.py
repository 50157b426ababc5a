"""How is a tokenizer made for a text?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from diptych.core.config import ALL_TEXT, TokenizerConfig
from diptych.core.events import Handler, ignore
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.bpe_training import MEMORY, count_texts, first_bytes, train_bpe
from diptych.tokenizers.sennrich import train_sennrich
from diptych.tokenizers.simple import ByteTokenizer, CharacterTokenizer, WordTokenizer
from diptych.tokenizers.splitting import Split
from diptych.tokenizers.vocabulary import numbered


def train_tokenizer(
    texts: Iterable[str],
    config: TokenizerConfig,
    on_event: Handler = ignore,
    *,
    memory: int = MEMORY,
    total_bytes: int | None = None,
    checkpoint: Path | None = None,
    fingerprint: str = "",
) -> Tokenizer:
    """A tokenizer of the kind that `config` names, learnt from at most `config.train_bytes` of the texts.

    memory: the bytes that counting and merging may take. total_bytes: the size of all texts, for the progress shown.
    checkpoint, fingerprint: where byte-pair encoding keeps its
    counts if it is interrupted, and what tells this text from others (`train_bpe`). Raises ValueError where there is
    nothing to learn from, or the vocabulary is too small.
    """
    size = None if config.train_bytes == ALL_TEXT else config.train_bytes
    if size is not None and size < 1:
        raise ValueError(f"tokenizer.train_bytes={size} leaves no text to learn from; give some")
    special = config.special_tokens
    match config.kind:
        case "byte":
            return ByteTokenizer(special)
        case "character":
            return CharacterTokenizer(_alphabet(first_bytes(texts, size)), special)
        case "word":
            texts = first_bytes(texts, size)
            return train_words(texts, config.vocab_size, on_event, memory=memory, special_tokens=special)
        case "sennrich":
            return train_sennrich(texts, config.vocab_size, size, on_event, memory=memory, special_tokens=special)
        case "wordpiece":
            from diptych.tokenizers.subword import train_wordpiece

            return train_wordpiece(first_bytes(texts, size), config.vocab_size, on_event, special)
        case "unigram":
            from diptych.tokenizers.subword import train_unigram

            return train_unigram(first_bytes(texts, size), config.vocab_size, on_event, special)
        case "bpe":
            return train_bpe(
                texts,
                config.vocab_size,
                size,
                on_event,
                split=Split.named(config.split),
                special_tokens=numbered(0, special),
                memory=memory,
                total_bytes=total_bytes if size is None or total_bytes is None else min(size, total_bytes),
                checkpoint=checkpoint,
                fingerprint=fingerprint,
            )


def train_words(
    texts: Iterable[str],
    vocab_size: int,
    on_event: Handler = ignore,
    *,
    memory: int = MEMORY,
    special_tokens: Sequence[str] = (),
) -> WordTokenizer:
    """The most frequent words of the texts; of equally frequent ones the first.

    Raises ValueError for an empty text, or a vocabulary without room for a word beside 256 bytes and the special
    tokens.
    """
    n_special = len(numbered(0, special_tokens))
    n_words = vocab_size - 256 - n_special
    if n_words < 1:
        raise ValueError(
            f"a vocabulary of words needs at least {257 + n_special} tokens (256 bytes, {n_special} special), "
            f"not {vocab_size}"
        )
    counts = count_texts(texts, Split.named("gpt2"), memory=memory, on_event=on_event).counts()
    # A word of one byte has a token already; a split may cut between the characters of no word, never within one.
    ranked = sorted(((chunk, n) for chunk, n in counts if len(chunk) > 1), key=lambda item: -item[1])
    return WordTokenizer([chunk.decode() for chunk, _ in ranked[:n_words]], special_tokens)


def _alphabet(texts: Iterable[str]) -> str:
    """All characters of the texts but surrogates, which are none."""
    seen: set[str] = set()
    for text in texts:
        seen.update(text)
    return "".join(sorted(c for c in seen if not "\ud800" <= c <= "\udfff"))
