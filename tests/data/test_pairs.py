"""Stores of pairs hold what went in; batches are a function of the step, of near lengths, and cover every pair."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych.core.events import Message
from diptych.data.pairs import PairStore, PairStream, build_pair_store
from diptych.data.parallel import Pair
from diptych.tokenizers.base import Tokenizer

DRAW = random.Random(0)
PAIRS = [Pair(f"naïve {'ab' * DRAW.randrange(20)}{i}", f"{'c d' * DRAW.randrange(20)}🙂{i}") for i in range(101)]


@pytest.fixture
def store(tmp_path: Path, tokenizer: Tokenizer) -> PairStore:
    return build_pair_store(lambda: PAIRS, tokenizer, tmp_path / "train", 100)


def test_a_store_holds_the_pairs_and_is_found_again(store: PairStore, tmp_path: Path, tokenizer: Tokenizer) -> None:
    for index, pair in enumerate(PAIRS):
        assert tokenizer.decode(store.source(index)) == pair.source
        assert tokenizer.decode(store.target(index)) == pair.target
    assert len(store) == len(PAIRS)

    def none() -> list[Pair]:
        raise AssertionError("the store is there already")

    again = build_pair_store(none, tokenizer, tmp_path / "train", 100)
    assert np.array_equal(again.tokens, store.tokens) and np.array_equal(again.starts, store.starts)
    other = build_pair_store(lambda: PAIRS[:3], tokenizer, tmp_path / "train", 100, fingerprint="other data")
    assert len(other) == 3


def test_long_pairs_are_counted_and_left_out(tmp_path: Path, tokenizer: Tokenizer) -> None:
    lengths = [max(len(tokenizer.encode(side)) for side in (p.source, p.target)) + 1 for p in PAIRS]
    events: list[object] = []
    store = build_pair_store(lambda: PAIRS, tokenizer, tmp_path / "some", 30, events.append)
    assert len(store) == sum(length <= 30 for length in lengths) and store.lengths().max() + 1 <= 30
    (text,) = [e.text for e in events if isinstance(e, Message)]
    assert text.startswith(f"{len(PAIRS) - len(store)} of {len(PAIRS)} some pairs are longer than 30 tokens")
    with pytest.raises(ValueError, match="every pair is longer"):
        build_pair_store(lambda: PAIRS, tokenizer, tmp_path / "none", 2)


@pytest.mark.parametrize("part", ["tokens", "starts", "json"])
def test_a_damaged_store_is_refused(part: str, store: PairStore, tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / f"train.{part}"
    path.write_bytes(path.read_bytes()[:-16])
    with pytest.raises(ValueError, match=r"is damaged .*; delete"):
        build_pair_store(lambda: PAIRS, tokenizer, tmp_path / "train", 100)


def test_a_batch_says_what_it_holds(store: PairStore, tokenizer: Tokenizer) -> None:
    batch = PairStream(store, shuffle=False).batch(2, 5)
    assert batch.sample_ids.tolist() == [10, 11, 12, 13, 14]
    assert batch.cond.shape[1] % 8 == 0 and (batch.x.shape[1] - 1) % 8 == 0
    for row, index in enumerate(batch.sample_ids.tolist()):
        source, target = store.source(index).tolist(), store.target(index).tolist()
        length = len(source) + 1
        assert batch.cond_lengths[row] == length
        assert batch.cond[row, :length].tolist() == [*source, store.eos_id]
        assert batch.x[row, : len(target) + 2].tolist() == [tokenizer.opening_id, *target, store.eos_id]
        assert batch.x[row, 1:][batch.counted[row]].tolist() == [*target, store.eos_id]
        assert (batch.x[row, len(target) + 2 :] == store.eos_id).all()
    assert batch.n_bytes == sum(len(PAIRS[i].target.encode()) for i in range(10, 15))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 101, 150])
def test_every_pair_comes_once_an_epoch(batch_size: int, shuffle: bool, store: PairStore) -> None:
    stream = PairStream(store, seed=3, shuffle=shuffle)
    steps = -(-3 * len(PAIRS) // batch_size)
    drawn = torch.cat([stream.batch(step, batch_size).sample_ids for step in range(steps)]).tolist()
    epochs = [drawn[start : start + len(PAIRS)] for start in range(0, 3 * len(PAIRS), len(PAIRS))]
    assert all(sorted(epoch) == list(range(len(PAIRS))) for epoch in epochs)
    assert (epochs[0] == epochs[1]) == (not shuffle)


def test_a_batch_is_a_function_of_the_step_and_is_split_over_ranks(store: PairStore) -> None:
    steps = [9, 0, 31, 17]
    there = [PairStream(store, seed=1).batch(step, 8) for step in steps]
    stream = PairStream(store, seed=1)
    for step, batch in zip(steps, there, strict=True):
        parts = [stream.batch(step, 8, rank, 2).sample_ids for rank in range(2)]
        assert torch.equal(torch.cat(parts), batch.sample_ids)
    assert not torch.equal(PairStream(store, seed=2).batch(0, 8).sample_ids, there[1].sample_ids)
    with pytest.raises(ValueError, match="no multiple of the 3 processes"):
        stream.batch(0, 8, 0, 3)


def test_rows_of_a_batch_are_of_near_lengths_in_every_epoch(tmp_path: Path, tokenizer: Tokenizer) -> None:
    draw = random.Random(1)
    pairs = [Pair("a " * draw.randrange(1, 60), "b") for _ in range(1000)]
    store = build_pair_store(lambda: pairs, tokenizer, tmp_path / "long", 200)
    stream, spread = PairStream(store), []
    for step in range(180):
        lengths = stream.batch(step, 16).cond_lengths
        spread.append(int(lengths.max() - lengths.min()))
    assert sorted(spread)[170] <= 4, "all batches but those at the ends of epochs"
    widths = [int(stream.batch(step, 16).cond_lengths.max()) for step in range(60)]
    assert widths != sorted(widths), "the batches are mixed"
