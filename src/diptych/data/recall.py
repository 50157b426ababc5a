"""Which documents show whether a network remembers what it read long ago?

Needles, each a key and its value, hidden in a haystack of one endless sentence. At the end the keys of some of them
stand again, in another order, and what comes next is the value: the associative recall of Arora et al. 2023
("Zoology"), spread out as the needles of RULER are (Hsieh et al. 2024). Every document pairs its keys with values at
random, independently of one another, so whoever has not read a needle, or has forgotten it, is right once in `n_values`
guesses and no oftener.

Nothing is kept on the disk: a document is a pure function of the seed and its number.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from diptych.core.config import DataConfig, RecallConfig
from diptych.core.random import Rng
from diptych.core.types import Batch
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.simple import WordTokenizer

HAYSTACK = tuple(" the grass is green the sky is blue the sun is yellow".replace(" ", "| ").split("|")[1:])
"""The words around the needles, again and again."""

_SYLLABLES = tuple(first + second for first, second in product("bdfghjklmnprstvwz", "aeiou"))
"""None of them is a word of the haystack."""

ENDLESS = 2**62
"""Length of a stream that never repeats itself."""

HELD_OUT = "heldout"
"""Purpose of the stream that nothing is learnt from."""


@dataclass(frozen=True, kw_only=True)
class RecallWords:
    """The tokens of a task: of the haystack in order, of the keys, of the values, and the one that opens a document."""

    haystack: Int[Tensor, " h"]
    keys: Int[Tensor, " k"]
    values: Int[Tensor, " v"]
    opening: int


@dataclass(frozen=True, kw_only=True)
class RecallDocuments:
    """Documents and what is asked at their end.

    tokens: (b, t + 1), the opening token first. asked: places (q) of the keys at the end, the same in all documents,
    which their answers follow. needles: places (b, q) of the keys that these repeat.
    """

    tokens: Int[Tensor, "b t_1"]
    asked: Int[Tensor, " q"]
    needles: Int[Tensor, "b q"]

    @property
    def distances(self) -> Int[Tensor, "b q"]:
        """Tokens from a needle's key to the same key at the end."""
        return self.asked - self.needles

    @property
    def answers(self) -> Int[Tensor, "b q"]:
        """The tokens that answer."""
        return self.tokens[:, self.asked + 1]


def key_words(config: RecallConfig) -> list[str]:
    """The keys as words, such as ` Ba`. Raises ValueError for more than there are."""
    return [f" {syllable.capitalize()}" for syllable in _first(config.n_keys, "n_keys")]


def value_words(config: RecallConfig) -> list[str]:
    """The values as words, such as ` ko`. Raises ValueError for more than there are."""
    return [f" {syllable}" for syllable in _first(config.n_values, "n_values")]


def _first(count: int, name: str) -> tuple[str, ...]:
    if count > len(_SYLLABLES):
        raise ValueError(f"data.recall.{name}={count} is more than the {len(_SYLLABLES)} words that there are")
    return _SYLLABLES[:count]


def recall_tokenizer(config: RecallConfig) -> WordTokenizer:
    """A tokenizer to which every word of the task is one token. Raises ValueError for more words than there are."""
    return WordTokenizer([*dict.fromkeys(HAYSTACK), *key_words(config), *value_words(config)])


def recall_words(config: RecallConfig, tokenizer: Tokenizer) -> RecallWords:
    """The task's words as tokens. Raises ValueError for a tokenizer to which a word is several tokens."""

    def tokens_of(words: list[str]) -> Tensor:
        ids = tokenizer.encode_batch(words)
        for word, tokens in zip(words, ids, strict=True):
            if len(tokens) != 1:
                raise ValueError(
                    f"the tokenizer writes the word {word!r} of the recall task in {len(tokens)} tokens instead of "
                    "one; leave [tokenizer] out of the recipe"
                )
        return torch.tensor([int(tokens[0]) for tokens in ids])

    return RecallWords(
        haystack=tokens_of(list(HAYSTACK)),
        keys=tokens_of(key_words(config)),
        values=tokens_of(value_words(config)),
        opening=tokenizer.opening_id,
    )


def check_recall(config: DataConfig) -> None:
    """Raises ValueError for more words than there are, or sequences too short for the needles."""
    key_words(config.recall), value_words(config.recall)
    haystack_length(config.recall, config.sequence_length)


def haystack_length(config: RecallConfig, length: int) -> int:
    """Tokens of a document of `length` tokens before the first question. Raises ValueError where it is too short."""
    before = length - 2 * config.n_queries
    if before - max(0, config.nearest - 2) < 2 * config.n_needles:
        wanted = 2 * (config.n_needles + config.n_queries) + config.nearest - 2
        raise ValueError(
            f"{config.n_needles} needles and {config.n_queries} questions at least {config.nearest} tokens apart do "
            f"not fit into data.sequence_length={length}; it must be at least {wanted}"
        )
    return before


def make_documents(config: RecallConfig, words: RecallWords, length: int, rng: Rng, ids: Tensor) -> RecallDocuments:
    """The documents of these numbers `ids` (b), each of the opening token and `length` more.

    Every set of places where needles do not overlap is as likely as any other. Raises ValueError where there is no room
    for the needles.
    """
    rows, needles = len(ids), config.n_needles
    before = haystack_length(config, length)
    # n of the places that are left when every needle is one token wide; those behind a needle then move on by one.
    room = min(before, before - config.nearest + 2) - needles
    places = _choice(rng, "places", ids, room, needles).sort(1).values + torch.arange(needles) + 1
    keys = words.keys[_choice(rng, "keys", ids, config.n_keys, needles)]
    values = words.values[(rng.uniform("values", ids, needles) * config.n_values).long()]
    phase = (rng.uniform("haystack", ids, 1) * len(words.haystack)).long()
    tokens = words.haystack[(phase + torch.arange(length + 1)) % len(words.haystack)]
    tokens[:, 0] = words.opening
    tokens.scatter_(1, places, keys).scatter_(1, places + 1, values)
    chosen = _choice(rng, "queries", ids, needles, config.n_queries)
    asked = before + 1 + 2 * torch.arange(config.n_queries)
    tokens[:, asked], tokens[:, asked + 1] = keys.gather(1, chosen), values.gather(1, chosen)
    assert tokens.shape == (rows, length + 1)
    return RecallDocuments(tokens=tokens, asked=asked, needles=places.gather(1, chosen))


def _choice(rng: Rng, purpose: str, ids: Int[Tensor, " b"], of: int, count: int) -> Int[Tensor, "b c"]:
    """`count` different numbers below `of` in a random order, for each id."""
    return rng.uniform(purpose, ids, of).argsort(1)[:, :count]


@final
class RecallStream:
    """Documents without end, of which only the answers are learnt. `purpose` tells streams of one seed apart.

    Raises ValueError for a sequence too short for the needles, or a tokenizer of other words.
    """

    def __init__(self, config: DataConfig, tokenizer: Tokenizer, *, seed: int = 0, purpose: str = "train") -> None:
        self.config, self.length = config.recall, config.sequence_length
        check_recall(config)
        self.words = recall_words(self.config, tokenizer)
        self.rng = Rng(seed).fold("recall", purpose)

    def __len__(self) -> int:
        return ENDLESS

    def documents(self, first: int, count: int) -> RecallDocuments:
        """`count` documents from number `first` on."""
        ids = torch.arange(first, first + count)
        return make_documents(self.config, self.words, self.length, self.rng, ids)

    def batch(self, step: int, batch_size: int, rank: int = 0, ranks: int = 1) -> Batch:
        """This rank's part of the `batch_size` documents of a step. Raises ValueError where it is no whole part."""
        if batch_size % ranks:
            raise ValueError(f"train.batch_size={batch_size} is no multiple of the {ranks} processes")
        share = batch_size // ranks
        first = step * batch_size + rank * share
        documents = self.documents(first, share)
        counted = torch.zeros(share, self.length, dtype=torch.bool)
        counted[:, documents.asked] = True
        return Batch(x=documents.tokens, sample_ids=torch.arange(first, first + share), counted=counted)
