"""How is a tokenizer made for a text?"""

from __future__ import annotations

from collections.abc import Iterable

from diptych.core.config import TokenizerConfig
from diptych.core.events import Handler, ignore
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.bpe_training import first_bytes, train_bpe
from diptych.tokenizers.simple import ByteTokenizer, CharacterTokenizer


def train_tokenizer(texts: Iterable[str], config: TokenizerConfig, on_event: Handler = ignore) -> Tokenizer:
    """A tokenizer of the kind that `config` names, learnt from at most `config.train_bytes` of the texts.

    Raises ValueError where there is nothing to learn from, or the vocabulary is too small.
    """
    if config.train_bytes < 1:
        raise ValueError(f"tokenizer.train_bytes={config.train_bytes} leaves no text to learn from; give some")
    match config.kind:
        case "byte":
            return ByteTokenizer()
        case "character":
            alphabet = {
                c for text in first_bytes(texts, config.train_bytes) for c in text if not "\ud800" <= c <= "\udfff"
            }
            return CharacterTokenizer("".join(sorted(alphabet)))
        case "bpe":
            return train_bpe(texts, config.vocab_size, config.train_bytes, on_event)
