"""How are a chain of variables, common words and frequent words hidden? (RULER's vt, cwe and fwe)"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from random import Random
from typing import Final

from diptych.evaluation.context.suites.draft import Draft, fit
from diptych.evaluation.context.suites.sample import Count
from diptych.evaluation.context.suites.text import COMPOUNDS, NOISE, WORDS, spread

N_HOPS: Final = 4

MOST_EXAMPLE = 500
"""Tokens that the example of vt takes at most, and at most a quarter of the length where it can."""

CHAIN = (
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{context}\nQuestion: "
    "Find all variables that are assigned the value {value} in the text above. Answer: According to the chain(s) of "
    "variable assignment in the text above, {n} variables are assigned the value {value}, they are: "
)

N_COMMON: Final = 10

LONG = 4096
"""Length from which on RULER repeats the words of cwe more often."""

COMMON = (
    "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
    "appear most often.\n{context}\nQuestion: What are the 10 most common words in the above list? Answer: The top 10 "
    "words that appear most often in the list are:"
)

FREQUENT = (
    "Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared "
    "coded words. {context}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the "
    "three most frequently appeared words in the above coded text? Answer: According to the coded text above, the "
    "three most frequently appeared words are:"
)

ZETA_2 = math.pi**2 / 6
"""The sum of 1 / k^2 over all k."""

TOKENS_A_WORD = 50
"""RULER's fwe has one different word for so many tokens."""

FEWEST_FREQUENT = 27
"""Words of which the fourth most frequent, the third that is asked for, appears once."""


def _letters(rng: Random, letters: str, n_letters: int, n: int) -> list[str]:
    """n different words of random letters."""
    words = dict[str, None]()
    while len(words) < n:
        words["".join(rng.choices(letters, k=n_letters))] = None
    return list(words)


def track(rng: Random, length: int, count: Count) -> Draft:
    """vt: n repetitions of noise and one chain of 4 hops among them, after a short example of the same."""
    example = _Chain(rng, 3)
    limit = max(count(example.text(0)), min(MOST_EXAMPLE, length // 4))
    shown, _ = fit(example.text, count, limit, low=0, high=MOST_EXAMPLE)
    shown += f" {' '.join(example.variables)}\n\n"
    asked = _Chain(rng, 5)
    return Draft(
        build=lambda n: shown + asked.text(n), low=0, high=length, question=asked.value, answers=asked.variables
    )


class _Chain:
    """A value, the variables that have it, each from the one before, and their places in the noise."""

    def __init__(self, rng: Random, n_letters: int) -> None:
        self.value = str(rng.randint(10**4, 10**5 - 1))
        self.variables = tuple(_letters(rng, string.ascii_uppercase, n_letters, N_HOPS + 1))
        self.shares = sorted(rng.random() for _ in self.variables)
        pairs = zip(self.variables[1:], self.variables, strict=False)
        self.lines = [f"VAR {self.variables[0]} = {self.value}", *(f"VAR {to} = VAR {of} " for to, of in pairs)]

    def text(self, n: int) -> str:
        context = "\n".join(spread(self.lines, [NOISE] * n, [int((n + 1) * share) for share in self.shares]))
        return CHAIN.format(context=context, value=self.value, n=len(self.variables))


def common_words(rng: Random, length: int, tokens_to_generate: int, count: Count) -> Draft:
    """cwe: n different words, ten of which appear more often, after a short example of the same.

    30 times and thrice; 6 times and once below 4096 tokens, as in RULER, and where the longer list takes more tokens
    than there are. More words than there are come from two words each.
    """
    limit = length - tokens_to_generate
    if length >= LONG:
        full = _list(rng, limit, count, long=True)
        if count(full.build(full.low)) <= limit:
            return full
    return _list(rng, limit, count, long=False)


def _list(rng: Random, limit: int, count: Count, *, long: bool) -> Draft:
    n_example, often, seldom = (40, 10, 3) if long else (20, 3, 1)
    words, order = rng.sample(WORDS, n_example), rng.randrange(2**32)
    example = f"{_listed(words, often, seldom, order)} {_numbered(words[:N_COMMON])}\n"
    often, seldom = (30, 3) if long else (6, 1)
    words = rng.sample(WORDS, len(WORDS))
    if count(example + _listed(words, often, seldom, order)) <= limit:
        words = rng.sample(COMPOUNDS, min(len(COMPOUNDS), limit))
    return Draft(
        build=lambda n: example + _listed(words[:n], often, seldom, order),
        low=N_COMMON + 1,
        high=len(words),
        question="",
        answers=tuple(words[:N_COMMON]),
    )


def _listed(words: Sequence[str], often: int, seldom: int, order: int) -> str:
    listed = [*words[:N_COMMON]] * often + [*words[N_COMMON:]] * seldom
    Random(order).shuffle(listed)
    return COMMON.format(context=_numbered(listed))


def _numbered(words: Sequence[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


def frequent_words(rng: Random, length: int, tokens_to_generate: int) -> Draft:
    """fwe: about n words, of which the k-th appears int(n / (zeta(2) k^2)) times; the first one is dots, and the three
    after it are asked for."""
    n_words = max(5, (length - tokens_to_generate) // TOKENS_A_WORD)
    words = ["...", *_letters(rng, string.ascii_lowercase, 6, n_words - 1)]
    order = rng.randrange(2**32)

    def build(n: int) -> str:
        while int(n / ZETA_2 / 16) == int(n / ZETA_2 / 25):  # the fourth and the fifth word would be as frequent
            n -= 1
        shown = [word for k, word in enumerate(words, 1) for _ in range(int(n / ZETA_2 / k**2))]
        Random(order).shuffle(shown)
        return FREQUENT.format(context=" ".join(shown))

    return Draft(build=build, low=FEWEST_FREQUENT, high=4 * length, question="", answers=tuple(words[1:4]))
