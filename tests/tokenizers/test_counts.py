"""Are chunks counted as `collections.Counter` counts them, within any memory, and whatever is interrupted or broken?"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.events import Event, Message
from diptych.tokenizers import counts as counting
from diptych.tokenizers.bpe_training import count_texts, train_bpe
from diptych.tokenizers.counts import ChunkCounter, ChunkCounts
from diptych.tokenizers.splitting import PATTERNS, Split

from .conftest import ODD, TEXTS, some_text, source_texts

GPT2 = Split.named("gpt2")
PLENTY = 1 << 40


def by_library(texts: Iterable[str], pattern: str = PATTERNS["gpt2"]) -> Counter[bytes]:
    return Counter(chunk.encode() for text in texts for chunk in regex.findall(pattern, text))


def counted(texts: Iterable[str], split: Split = GPT2, memory: int = PLENTY) -> ChunkCounter:
    counter = ChunkCounter(split, memory)
    counter.add(texts)
    return counter


def distinct_words(n: int, seed: int = 0) -> list[str]:
    """Random words of 1 to 40 letters, some of them again and again."""
    generator = random.Random(seed)
    words = ["".join(generator.choices("abcdefgh", k=generator.randint(1, 40))) for _ in range(n)]
    return words + generator.choices(words[:50], k=n // 2)


@pytest.mark.parametrize("name", ["gpt2", "llama3", "o200k"])
def test_counts_are_those_of_a_counter(name: str) -> None:
    texts = [*source_texts(300_000), *TEXTS, "", *(odd for odd in ODD)]
    split = Split.named(name)
    assert dict(counted(texts, split).counts()) == by_library(texts, PATTERNS[name])


def test_another_pattern_is_counted_through_the_library() -> None:
    split = Split.named(r"[^\W\d]+|\d|\s+|[^\w\s]")
    texts = [*source_texts(50_000), *TEXTS, ""]
    assert dict(counted(texts, split).counts()) == by_library(texts, split.patterns[0])


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(st.sampled_from("ab \n\0'é"), max_size=80), max_size=8))
def test_small_texts_are_counted_one_by_one_as_together(texts: list[str]) -> None:
    """Documents do not run into each other, and NULs are characters."""
    counter = ChunkCounter(GPT2, PLENTY)
    for text in texts:
        counter.add([text])
    assert dict(counter.counts()) == dict(counted(texts).counts()) == by_library(texts)
    assert counter.n_documents == len(texts)
    assert counter.n_bytes == sum(len(text.encode()) for text in texts)


def test_table_and_arena_grow() -> None:
    """Chunks around all lengths at which a row is handled in another way, and more of them than there is room for."""
    words = distinct_words(120_000)
    words += [letter * n for n in (7, 8, 9, 15, 16, 17, 23, 24, 25, 255, 256, 257, 70_000) for letter in "xy"] * 2
    words += ["x" * 300_000 + letter for letter in "abcdefghijklmnopqrst"]
    counter = counted([" ".join(words)])
    assert dict(counter.counts()) == by_library([" ".join(words)])
    assert len(counter._rows) > 1 << 17
    assert len(counter._arena) > 1 << 22


def test_chunks_that_differ_in_a_single_place_or_in_length_are_told_apart() -> None:
    words = ["a" * place + "b" + "a" * (n - place - 1) for n in range(1, 42) for place in range(n)]
    words += [letter * n for n in range(1, 42) for letter in "a\0"]
    texts = [word for i, word in enumerate(words) for _ in range(1 + i % 3)]
    assert dict(counted(texts).counts()) == by_library(texts)


def test_the_order_is_that_of_first_appearance() -> None:
    text = " ".join(distinct_words(20_000, seed=2))
    assert [chunk for chunk, _ in counted([text]).counts()] == list(by_library([text]))


def test_counts_of_several_texts_merge() -> None:
    texts = source_texts(200_000)
    whole = ChunkCounter(GPT2, PLENTY)
    for text in texts:
        whole.merge(counted([text]).counts())
    assert dict(whole.counts()) == by_library(texts)


def test_rare_chunks_are_forgotten_where_memory_is_short_and_this_is_reported() -> None:
    words = distinct_words(60_000)
    texts = [" ".join(words[i : i + 1000]) for i in range(0, len(words), 1000)]
    exact = by_library(texts)
    memory = 8_000_000
    counter = ChunkCounter(GPT2, memory)
    for text in texts:
        counter.add([text])
        kept = counter.counts()
        n_bytes = int(kept.lengths.sum())
        assert counting.BYTES_PER_CHUNK * len(kept.counts) + counting.BYTES_PER_BYTE * n_bytes <= memory
    assert counter.forgotten > 0
    kept = dict(counter.counts())
    assert all(kept[chunk] <= exact[chunk] for chunk in kept)
    assert sum(kept.values()) + counter.forgotten == sum(exact.values())
    assert {chunk for chunk, _ in exact.most_common(40)} <= kept.keys()


def test_one_large_text_stays_within_memory_too() -> None:
    counter = counted([" ".join(distinct_words(60_000))], memory=8_000_000)
    assert counter.forgotten > 0
    kept = counter.counts()
    assert counting.BYTES_PER_CHUNK * len(kept.counts) + counting.BYTES_PER_BYTE * int(kept.lengths.sum()) <= 8_000_000


def test_what_is_left_out_is_said() -> None:
    events: list[Event] = []
    words = distinct_words(200_000)
    counter = count_texts([" ".join(words)], GPT2, memory=50_000_000, on_event=events.append)
    messages = [event for event in events if isinstance(event, Message)]
    assert [message.level for message in messages] == ["warning"]
    assert f"{counter.forgotten:,} occurrences" in messages[0].text
    with pytest.raises(ValueError, match="at least 50 MB"):
        count_texts(["a"], GPT2, memory=49_000_000)


def test_enough_memory_gives_what_all_memory_gives() -> None:
    texts = source_texts(400_000)
    assert train_bpe(texts, 600, memory=60_000_000).merges == train_bpe(texts, 600, memory=PLENTY).merges


@pytest.mark.parametrize("memory", [PLENTY, 4_000_000])
@pytest.mark.parametrize("split", [GPT2, Split.named(r"\S+|\s")])
def test_counts_that_were_kept_go_on_as_if_never_interrupted(split: Split, memory: int, tmp_path: Path) -> None:
    """Where memory is short, the same chunks are forgotten."""
    slabs = [[some_text(seed, 500), " ".join(distinct_words(4000, seed))] for seed in range(8)]
    whole, parts = ChunkCounter(split, memory), ChunkCounter(split, memory)
    for i, slab in enumerate(slabs):
        whole.add(slab)
        parts.add(slab)
        parts.save(tmp_path / f"{i}.npz", "these")
        parts = ChunkCounter(split, memory)
        assert not parts.load(tmp_path / f"{i}.npz", "others")
        assert parts.load(tmp_path / f"{i}.npz", "these")
    assert list(parts.counts()) == list(whole.counts())
    numbers = (whole.n_documents, whole.n_bytes, whole.forgotten)
    assert (parts.n_documents, parts.n_bytes, parts.forgotten) == numbers
    assert (whole.forgotten > 0) == (memory < PLENTY)


def is_unchanged(counter: ChunkCounter) -> bool:
    return list(counter.counts()) == [(b"a", 1)] and (counter.n_documents, counter.n_bytes, counter.forgotten) == (
        1,
        1,
        0,
    )


def test_a_damaged_file_is_not_gone_on_from(tmp_path: Path) -> None:
    """Bytes changed or cut off anywhere: not a word of it is taken over, or all of it."""
    path = tmp_path / "counts.npz"
    good = counted(["ab cd ab"])
    good.save(path, "these")
    data = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(600):
        damaged = bytearray(data[: generator.choice([len(data), generator.randrange(len(data))])])
        for _ in range(generator.randint(1, 3)):
            if damaged:
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(bytes(damaged))
        counter = counted(["a"])
        if counter.load(path, "these"):
            assert dict(counter.counts()) == {b"a": 1, **dict(good.counts())}
        else:
            refused += 1
            assert is_unchanged(counter)
    assert refused > 400


LIES: dict[str, dict[str, object]] = {
    "places beyond the bytes": {"places": np.array([0, 100])},
    "places before the bytes": {"places": np.array([-3, 1])},
    "lengths beyond the bytes": {"lengths": np.array([1, 2**40])},
    "lengths of nothing": {"lengths": np.array([1, 0])},
    "lengths below nothing": {"lengths": np.array([1, -1])},
    "counts of nothing": {"counts": np.array([0, 1])},
    "counts too few": {"counts": np.array([1])},
    "counts in a square": {"counts": np.array([[1], [1]])},
    "counts that are fractions": {"counts": np.array([1.5, 2.5])},
    "an arena of wide numbers": {"arena": np.array([97, 98], np.int64)},
    "progress of two": {"progress": np.array([1, 2])},
    "progress of one": {"progress": np.array(1)},
    "objects": {"counts": np.array([None, None])},
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_whose_parts_do_not_fit_together_is_not_gone_on_from(lie: str, tmp_path: Path) -> None:
    path = tmp_path / "counts.npz"
    parts: dict[str, object] = {
        "fingerprint": np.frombuffer(b"these", np.uint8),
        "progress": np.array([1, 2, 0]),
        "arena": np.frombuffer(b"ab", np.uint8),
        "places": np.array([0, 1]),
        "lengths": np.array([1, 1]),
        "counts": np.array([1, 1]),
    }
    np.savez(path, **parts)
    assert counted(["x"]).load(path, "these")
    np.savez(path, **{**parts, **LIES[lie]}, allow_pickle=True)
    counter = counted(["a"])
    assert not counter.load(path, "these")
    assert is_unchanged(counter)


@pytest.mark.parametrize("content", [b"", b"{}", b"PK\x03\x04", None])
def test_what_is_no_such_file_is_not_gone_on_from(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "counts.npz"
    if content is None:
        np.save(tmp_path / "one.npy", np.zeros(3))
        (tmp_path / "one.npy").rename(path)
    else:
        path.write_bytes(content)
    counter = counted(["a"])
    assert not counter.load(path, "these")
    assert not counter.load(tmp_path / "nothing.npz", "these")
    assert not counter.load(tmp_path, "these")
    assert is_unchanged(counter)


@pytest.mark.parametrize("split", [GPT2, Split.named(r"(?s).+")])
def test_a_chunk_of_16_megabytes_is_refused_in_one_line(split: Split) -> None:
    counter = counted(["a" * ((1 << 24) - 1)], split)
    assert [(len(chunk), n) for chunk, n in counter.counts()] == [((1 << 24) - 1, 1)]
    with pytest.raises(ValueError, match="a chunk of 16,777,216 bytes") as caught:
        counter.add(["b" + "a" * ((1 << 24) - 1)])
    assert "\n" not in str(caught.value)


def test_what_is_no_text_is_refused() -> None:
    for wrong in (None, 3, b"bytes"):
        with pytest.raises(TypeError, match="a text must be a str, not"):
            ChunkCounter(GPT2, PLENTY).add([wrong])


def test_counts_without_any_chunk_are_empty() -> None:
    counter = counted([])
    assert list(counter.counts()) == []
    counter.merge(ChunkCounts(*(np.empty(0, kind) for kind in (np.uint8, np.int64, np.int64, np.int64))))
    assert list(counter.counts()) == []
