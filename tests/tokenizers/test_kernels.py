"""Are chunks found by their bytes, even where their keys are alike?"""

from __future__ import annotations

import random

import numpy as np
import pytest

from diptych.tokenizers.counts import ChunkCounter, ChunkCounts
from diptych.tokenizers.kernels.rows import GOLDEN, ODD, keys_of
from diptych.tokenizers.splitting import Split

from .test_engine import TRAINED

MASK = (1 << 64) - 1


def stirred(h: int) -> int:
    return h ^ (h >> 31)


def twins(seed: int) -> tuple[bytes, bytes]:
    """Two chunks of 32 bytes with the same keys: what the second eight bytes change in the hash, the third undo."""
    generator = random.Random(seed)
    first, second, third, other, last = (generator.getrandbits(64) for _ in range(5))
    golden = int(GOLDEN)
    begun = ((first * golden) ^ (32 * int(ODD))) & MASK
    h, g = (((stirred(begun) ^ word) * golden) & MASK for word in (second, other))
    answer = third ^ stirred(h) ^ stirred(g)
    chunks = ([first, second, third, last], [first, other, answer, last])
    left, right = (b"".join(word.to_bytes(8, "little") for word in words) for words in chunks)
    return left, right


@pytest.mark.parametrize("seed", range(5))
def test_keys_that_are_alike_do_not_confuse_chunks(seed: int) -> None:
    left, right = twins(seed)
    buffer = np.frombuffer(left + right, np.uint8)
    assert left != right
    assert keys_of(buffer, 0, 32) == keys_of(buffer, 32, 32)

    counter = ChunkCounter(Split.named("gpt2"), 1 << 40)
    for _ in range(3):
        counter.merge(ChunkCounts(buffer, np.array([0, 32]), np.array([32, 32]), np.array([1, 5])))
    assert list(counter.counts()) == [(left, 3), (right, 15)]

    ours = TRAINED["gpt2"]
    for chunk in (left, right, left, right):
        assert ours.decode_bytes(ours._encoder.encode_pieces(chunk, np.array([32]))) == chunk


@pytest.mark.parametrize("length", [*range(1, 20), 31, 32, 33, 100])
def test_keys_do_not_depend_on_what_stands_around_a_chunk(length: int) -> None:
    """At the very end of a buffer too, where eight bytes can no longer be read."""
    generator = random.Random(length)
    chunk = generator.randbytes(length)
    alone = keys_of(np.frombuffer(chunk, np.uint8), 0, length)
    for before, after in ((0, 1), (3, 0), (5, 7), (1, 30)):
        data = generator.randbytes(before) + chunk + generator.randbytes(after)
        assert keys_of(np.frombuffer(data, np.uint8), before, length) == alone
    if length <= 8:
        assert alone == (int.from_bytes(chunk, "little"), 0)
    elif length <= 16:
        assert alone == (int.from_bytes(chunk[:8], "little"), int.from_bytes(chunk[8:], "little"))
