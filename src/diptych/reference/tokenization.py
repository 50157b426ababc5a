"""How does text become tokens?

Review section 2.5: by character, by word, by sub-word, and by byte-pair encoding (*Formal Algorithms*, section 4,
leaves the choice open). Joined, the tokens of a text give the text.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise

Symbols = tuple[str, ...]
Merge = tuple[str, str]

END = "</w>"
"""The end-of-word mark of Sennrich et al. 2016, section 3.2."""


def characters(text: str) -> list[str]:
    """Character-level tokenization: the vocabulary is the alphabet."""
    return list(text)


def words(text: str) -> list[str]:
    """Word-level tokenization: the vocabulary is the words, here each with the space before it."""
    return re.findall(r" ?\w+| ?[^\w\s]+|\s+(?!\S)|\s+", text)


def pair_counts(vocabulary: Mapping[Symbols, int]) -> Counter[Merge]:
    """How often each pair of neighbours stands in a dictionary of words with their counts, in the order of
    appearance."""
    counts: Counter[Merge] = Counter()
    for word, count in vocabulary.items():
        for pair in pairwise(word):
            counts[pair] += count
    return counts


def merged(word: Symbols, pair: Merge) -> Symbols:
    """The word with every occurrence of the pair replaced by one symbol, from the left."""
    out: list[str] = []
    i = 0
    while i < len(word):
        is_pair = word[i : i + 2] == pair
        out.append("".join(pair) if is_pair else word[i])
        i += 2 if is_pair else 1
    return tuple(out)


def learn_bpe(vocabulary: Mapping[Symbols, int], n_merges: int) -> list[Merge]:
    """Byte-pair encoding, training (Sennrich et al. 2016, algorithm 1).

    Input: a dictionary of words, each a tuple of symbols, with their counts; the number of merges.
    Output: the merges in order: each time the most frequent pair, of equal ones the first in the dictionary.
    """
    merges: list[Merge] = []
    for _ in range(n_merges):
        counts = pair_counts(vocabulary)
        if not counts:
            break
        best = max(counts, key=counts.__getitem__)
        vocabulary = {merged(word, best): count for word, count in vocabulary.items()}
        merges.append(best)
    return merges


def apply_bpe(word: Symbols, merges: Sequence[Merge]) -> Symbols:
    """Byte-pair encoding, use: the pairs merge in the order in which they were learnt (section 3.2)."""
    for merge in merges:
        word = merged(word, merge)
    return word


def wordpiece(word: str, vocabulary: set[str], prefix: str = "##") -> list[str]:
    """WordPiece: the longest entry that the rest of the word begins with, again and again (Wu et al. 2016, section
    4.1).

    Input: a word; entries, those that go on a word with the prefix before them.
    Output: the entries; empty where none fits.
    """
    tokens: list[str] = []
    start = 0
    while start < len(word):
        lead = prefix if start else ""
        fits = [end for end in range(len(word), start, -1) if lead + word[start:end] in vocabulary]
        if not fits:
            return []
        tokens.append(lead + word[start : fits[0]])
        start = fits[0]
    return tokens


def unigram(word: str, log_p: Mapping[str, float]) -> list[str]:
    """The unigram model: the cut of greatest probability (Kudo 2018, equation 1), found by Viterbi's algorithm.

    Input: a word; the logarithm of each entry's probability.
    Output: the entries; empty where no cut exists.
    """
    best = [0.0] + [-math.inf] * len(word)
    back = [0] * (len(word) + 1)
    for end in range(1, len(word) + 1):
        for start in range(end):
            p = best[start] + log_p.get(word[start:end], -math.inf)
            if p > best[end]:
                best[end], back[end] = p, start
    tokens: list[str] = []
    end = len(word)
    while end > 0 and best[end] > -math.inf:
        tokens.insert(0, word[back[end] : end])
        end = back[end]
    return tokens
