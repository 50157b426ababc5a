"""Which pairs does byte-pair encoding merge?

The most frequent one, again and again (Sennrich et al. 2016, algorithm 1). Counts are kept up to date from merge to
merge: only chunks that hold the merged pair are visited. Equal counts: the smallest (left id, right id) first.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import pairwise

from diptych.core.events import Handler, Message, Progressed, ignore
from diptych.tokenizers.base import utf8
from diptych.tokenizers.bpe import BytePairTokenizer, Pair
from diptych.tokenizers.splitting import BYTE_ORDER, GPT2_SPLIT


def train_bpe(
    texts: Iterable[str], vocab_size: int, max_bytes: int | None = None, on_event: Handler = ignore
) -> BytePairTokenizer:
    """Learn a vocabulary of `vocab_size` tokens: 256 bytes, the merges, and the end of a document.

    At most `max_bytes` of text are read. Raises ValueError for a vocabulary too small or an empty text; where the text
    runs out of pairs that occur twice, the vocabulary is smaller, and a message says so.
    """
    if vocab_size < 257:
        raise ValueError(
            f"a byte-pair vocabulary needs at least 257 tokens (256 bytes and one special), not {vocab_size}"
        )
    chunks = count_chunks(texts, max_bytes, on_event)
    if not chunks:
        raise ValueError("the tokenizer has no text to learn from; name a source that holds some")
    merges = _learn(chunks, vocab_size - 257, on_event)
    if len(merges) < vocab_size - 257:
        found = 257 + len(merges)
        on_event(
            Message(text=f"the text has no more pairs to merge: the vocabulary has {found} tokens, not {vocab_size}")
        )
    return BytePairTokenizer(merges)


def count_chunks(texts: Iterable[str], max_bytes: int | None, on_event: Handler) -> Counter[str]:
    """How often each chunk of the split occurs in the first `max_bytes` of the texts."""
    counts: Counter[str] = Counter()
    size = reported = 0
    for text in first_bytes(texts, max_bytes):
        counts.update(GPT2_SPLIT.findall(text))
        size += len(utf8(text))
        if size - reported >= 250_000:
            reported = size
            on_event(Progressed(what="reading text for the tokenizer", done=size / 1e6, total=None, unit="MB"))
    return counts


def first_bytes(texts: Iterable[str], size: int | None) -> Iterator[str]:
    """The texts up to `size` bytes of UTF-8, the last one cut at a character; None: all."""
    left = size
    for text in texts:
        if left is None:
            yield text
            continue
        data = utf8(text[:left])  # a character has at least a byte
        yield data[:left].decode("utf-8", "ignore")
        left -= len(data)
        if left <= 0:
            return


def _learn(chunks: Counter[str], n_merges: int, on_event: Handler) -> list[Pair]:
    byte_ids = {byte: token for token, byte in enumerate(BYTE_ORDER)}
    words = [[byte_ids[byte] for byte in utf8(chunk)] for chunk in chunks]
    weights = list(chunks.values())
    counts: dict[Pair, int] = defaultdict(int)
    where: dict[Pair, set[int]] = defaultdict(set)
    for index, word in enumerate(words):
        for pair in pairwise(word):
            counts[pair] += weights[index]
            where[pair].add(index)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < n_merges:
        negative, best = heapq.heappop(heap)
        if counts[best] != -negative:
            if counts[best] > 1:
                heapq.heappush(heap, (-counts[best], best))
            continue
        if -negative < 2:
            break
        new = 256 + len(merges)
        merges.append(best)
        grown = set()
        for index in where.pop(best):
            for pair in pairwise(words[index]):
                counts[pair] -= weights[index]
            words[index] = _merge_word(words[index], best, new)
            for pair in pairwise(words[index]):
                counts[pair] += weights[index]
                if new in pair:
                    where[pair].add(index)
                    grown.add(pair)
        del counts[best]
        for pair in grown:
            heapq.heappush(heap, (-counts[pair], pair))
        if len(merges) % 64 == 0:
            on_event(Progressed(what="training the tokenizer", done=len(merges), total=n_merges, unit="merges"))
    return merges


def _merge_word(word: list[int], pair: Pair, new: int) -> list[int]:
    """The word with every occurrence of the pair replaced, from the left."""
    i, out = 0, []
    while i < len(word):
        if i + 1 < len(word) and word[i] == pair[0] and word[i + 1] == pair[1]:
            out.append(new)
            i += 2
        else:
            out.append(word[i])
            i += 1
    return out
