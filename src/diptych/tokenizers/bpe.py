"""How does byte-pair encoding cut text?

Byte-level byte-pair encoding (Sennrich et al. 2016, algorithm 1; Radford et al. 2019, section 2.2): within each chunk
of the split, the pair that was merged first in training is merged first.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import final

import numpy as np

from diptych.tokenizers.base import EOS, Ids, VocabularyOfBytes, utf8
from diptych.tokenizers.splitting import BYTE_ORDER, GPT2_SPLIT

CACHED_CHUNKS = 200_000
"""Chunks whose tokens are remembered; words repeat, so most of a text is looked up."""

Pair = tuple[int, int]


@final
class BytePairTokenizer(VocabularyOfBytes):
    """Merges `merges[r] = (left id, right id)` into id 256 + r, in the order of r; the last id ends a document.

    Raises ValueError where a merge names an id that does not exist yet.
    """

    def __init__(self, merges: Sequence[Pair]) -> None:
        self.merges = [(int(a), int(b)) for a, b in merges]
        self.pieces = [bytes([byte]) for byte in BYTE_ORDER]
        for left, right in self.merges:
            if not (0 <= left < len(self.pieces) and 0 <= right < len(self.pieces)):
                raise ValueError(f"merge ({left}, {right}) names a token that is made only later")
            self.pieces.append(self.pieces[left] + self.pieces[right])
        self.pieces.append(EOS.encode())
        self.ranks = {pair: rank for rank, pair in reversed(list(enumerate(self.merges)))}
        self.byte_ids = [0] * 256
        for token, byte in enumerate(BYTE_ORDER):
            self.byte_ids[byte] = token
        self.cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> Ids:
        """Ids of the text, chunk by chunk of GPT-2's split."""
        cache, out = self.cache, []
        for chunk in GPT2_SPLIT.findall(text):
            ids = cache.get(chunk)
            if ids is None:
                ids = self._encode_chunk(utf8(chunk))
                if len(cache) < CACHED_CHUNKS and len(chunk) < 64:
                    cache[chunk] = ids
            out += ids
        return np.array(out, np.int32)

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Ids of each text."""
        return [self.encode(text) for text in texts]

    def _encode_chunk(self, piece: bytes) -> list[int]:
        ids = [self.byte_ids[byte] for byte in piece]
        return self._merge_short(ids) if len(ids) <= 64 else self._merge_long(ids)

    def _merge_short(self, ids: list[int]) -> list[int]:
        """Merge the earliest pair of the training, leftmost first, until none is left."""
        ranks, never = self.ranks, len(self.merges)
        while len(ids) > 1:
            rank, at = min((ranks.get(pair, never), i) for i, pair in enumerate(pairwise(ids)))
            if rank == never:
                break
            ids[at : at + 2] = [256 + rank]
        return ids

    def _merge_long(self, ids: list[int]) -> list[int]:
        """The same by a heap over a linked list, so that a long chunk takes n log n."""
        n, ranks = len(ids), self.ranks
        after, before = list(range(1, n + 1)), list(range(-1, n - 1))
        heap = [(ranks[pair], i, *pair) for i, pair in enumerate(pairwise(ids)) if pair in ranks]
        heapq.heapify(heap)
        while heap:
            rank, i, left, right = heapq.heappop(heap)
            j = after[i]
            if ids[i] != left or j >= n or ids[j] != right:
                continue
            ids[i], ids[j] = 256 + rank, -1
            after[i] = after[j]
            if after[i] < n:
                before[after[i]] = i
            for k in (before[i], i):
                if k >= 0 and after[k] < n and (pair := (ids[k], ids[after[k]])) in ranks:
                    heapq.heappush(heap, (ranks[pair], k, *pair))
        return [i for i in ids if i >= 0]

    def save(self, path: Path) -> None:
        """Write tokenizer.json in Hugging Face's format."""
        from diptych.tokenizers.hugging_face import write

        write(self, path)
