"""Text and one small tokenizer of each kind."""

from __future__ import annotations

import random

import pytest

from diptych.core.config import TokenizerConfig
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.train import train_tokenizer

WORDS = ["the", "then", "these", "hen", "'ll", "don't", "naïve", "Straße", "日本語", "🙂🙂", "1234", "12", "x=foo(bar)"]
WORDS += ["", "aaaa", "aaaaa", "\n\n\t", "if:", "==", "мир", "привет"]


def some_text(seed: int, size: int) -> str:
    """Words that repeat, of many scripts, with white space of all kinds between them."""
    generator = random.Random(seed)
    return "".join(
        generator.choice(WORDS) + generator.choice([" ", " ", " ", "  ", "\n", "", "\r\n "]) for _ in range(size)
    )


TEXTS = [some_text(i, 200) for i in range(20)]


@pytest.fixture(scope="session")
def bpe() -> BytePairTokenizer:
    return train_bpe(TEXTS, 380)


@pytest.fixture(scope="session", params=["byte", "character", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerConfig(kind=request.param, vocab_size=380))
