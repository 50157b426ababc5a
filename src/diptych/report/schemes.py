"""What does each scheme of tokenization make of one sentence, and of one text? (Review section 2.5.)"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from matplotlib.figure import Figure

from diptych.core.config import TokenizerConfig, TokenizerKind
from diptych.core.events import Handler, Message, ignore
from diptych.evaluation.tokenization import score_tokenizer
from diptych.report import tokens
from diptych.report.results import ReviewResults, Scheme
from diptych.tokenizers.bpe_training import first_bytes
from diptych.tokenizers.train import train_tokenizer

SENTENCE = "Sun rises from the east"
"""The review's own example for tokenization."""

NAMES: dict[TokenizerKind, str] = {
    "character": "Characters",
    "word": "Words",
    "wordpiece": "Sub-words: WordPiece",
    "unigram": "Sub-words: unigram",
    "sennrich": "Byte-pair encoding of words",
    "bpe": "Byte-level byte-pair encoding",
    "byte": "Raw bytes",
}
"""The schemes in the review's order, raw bytes last."""


def compare_schemes(
    train: Sequence[str],
    heldout: Iterable[str],
    *,
    vocab_size: int,
    train_bytes: int,
    heldout_bytes: int,
    sentence: str = SENTENCE,
    on_event: Handler = ignore,
) -> tuple[Scheme, ...]:
    """Learn a vocabulary by every scheme from the same text, and encode the same held-out text and sentence.

    WordPiece and unigram are left out where the library that they need is not installed.
    """
    texts = list(first_bytes(heldout, heldout_bytes))
    schemes = []
    for kind, name in NAMES.items():
        if kind in ("wordpiece", "unigram") and find_spec("tokenizers") is None:
            on_event(Message(text=f"{name} is left out: it needs tokenizers; pip install 'diptych[subword]'"))
            continue
        config = TokenizerConfig(kind=kind, vocab_size=vocab_size, train_bytes=train_bytes)
        tokenizer = train_tokenizer(train, config, on_event)
        score = score_tokenizer(name, tokenizer, texts, rounds=1, on_event=on_event)
        schemes.append(
            Scheme(
                name=name,
                vocab_size=tokenizer.vocab_size,
                sentence=tuple(
                    tokenizer.token_bytes(int(token)).decode("utf-8", "backslashreplace")
                    for token in tokenizer.encode(sentence)
                ),
                bytes_per_token=score.bytes_per_token,
                words_whole_share=score.words_whole_share,
                attention_pairs=score.attention_pairs,
                megabytes_per_second=score.megabytes_per_second,
            )
        )
    return tuple(schemes)


def drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """The sentence as every scheme cuts it."""
    rows = [
        tokens.Row(name=scheme.name, tokens=tuple(token.encode() for token in scheme.sentence))
        for scheme in results.schemes
    ]
    return tokens.drawing(rows, width=3.9 if narrow else 7.4)
