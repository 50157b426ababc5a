"""Does a stream show every token once, in an order that depends on nothing but the step?"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.core.types import Batch
from diptych.data.packing import TokenStore
from diptych.data.stream import SequenceStream, windows
from diptych.tokenizers.base import Tokenizer

from .conftest import TEXTS, MakeStore

EOS, LENGTHS = 9, np.array([1, 2, 3, 4, 1, 1, 2, 5, 7, 0], np.int64)
"""A made-up vocabulary of ten tokens, its last one the end of a document."""

many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def store_of(tokens: list[int]) -> TokenStore:
    array = np.array(tokens, np.uint16)
    return TokenStore(tokens=array, token_lengths=LENGTHS, eos_id=EOS, n_documents=0, n_bytes=int(LENGTHS[array].sum()))


STORES = st.lists(st.integers(0, 8) | st.just(EOS), min_size=30, max_size=200).map(
    lambda ids: store_of([EOS, *ids, EOS])
)


def same(a: Batch, b: Batch) -> bool:
    pairs = [(a.x, b.x), (a.sample_ids, b.sample_ids), (a.documents, b.documents), (a.positions, b.positions)]
    return all(x is y is None or torch.equal(x, y) for x, y in pairs) and a.n_bytes == b.n_bytes  # type: ignore[arg-type]


@many
@given(store=STORES, length=st.integers(1, 20), seed=st.integers(0, 5), epoch=st.integers(0, 3))
def test_an_epoch_predicts_every_token_once(store: TokenStore, length: int, seed: int, epoch: int) -> None:
    stream = SequenceStream(store, length, seed=seed)
    rows = [stream.batch(epoch * len(stream) + i, 1) for i in range(len(stream))]
    assert sorted(int(row.sample_ids) for row in rows) == list(range(len(stream)))
    for row in rows:
        start = int(row.sample_ids) * length
        assert row.x.tolist() == [store.tokens[start : start + length + 1].tolist()]
    assert len(stream) == (store.n_tokens - 1) // length  # what is left over is shorter than a row
    assert sum(row.n_bytes for row in rows) == LENGTHS[store.tokens[1 : len(stream) * length + 1]].sum()


@many
@given(store=STORES, length=st.integers(1, 20), steps=st.permutations(range(8)), ranks=st.sampled_from([1, 2, 3, 6]))
def test_a_batch_depends_on_its_step_alone_and_ranks_share_it(
    store: TokenStore, length: int, steps: list[int], ranks: int
) -> None:
    streams = [SequenceStream(store, length, seed=3) for _ in range(2)]
    in_order = [streams[0].batch(step, 6) for step in range(8)]
    for step in steps:
        assert same(streams[1].batch(step, 6), in_order[step])
        parts = [streams[1].batch(step, 6, rank, ranks) for rank in range(ranks)]
        assert torch.cat([part.places for part in parts]).tolist() == list(range(6 * step, 6 * step + 6))
        assert torch.equal(torch.cat([part.x for part in parts]), in_order[step].x)
        assert torch.equal(torch.cat([part.sample_ids for part in parts]), in_order[step].sample_ids)
        assert sum(part.n_bytes for part in parts) == in_order[step].n_bytes


@many
@given(store=STORES, length=st.integers(1, 20))
def test_documents_are_numbered_as_by_a_loop(store: TokenStore, length: int) -> None:
    batch = SequenceStream(store, length, shuffle=False).batch(0, 3)
    assert batch.documents is not None
    assert batch.positions is not None
    for row, documents, positions in zip(batch.x.tolist(), batch.documents, batch.positions, strict=True):
        document = position = 0
        for i, token in enumerate(row):
            document, position = (document + 1, 0) if token == EOS else (document, position + (i > 0))
            assert (int(documents[i]), int(positions[i])) == (document, position)


def test_without_a_mask_there_are_no_documents() -> None:
    batch = SequenceStream(store_of([EOS, 1, 2, EOS, 3, EOS]), 2, document_mask=False).batch(0, 2)
    assert batch.documents is None
    assert batch.positions is None


def test_seeds_and_epochs_give_other_orders_and_no_shuffle_gives_none() -> None:
    store = store_of([EOS] + [1] * 200)
    order = {
        (seed, epoch): tuple(SequenceStream(store, 2, seed=seed).batch(epoch, 100).sample_ids.tolist())
        for seed in range(2)
        for epoch in range(2)
    }
    assert len(set(order.values())) == 4
    assert SequenceStream(store, 2, shuffle=False).batch(1, 100).sample_ids.tolist() == list(range(100))


def test_every_place_is_as_likely() -> None:
    store = store_of([EOS] + [1] * 5)
    seen = Counter(int(SequenceStream(store, 1, seed=seed).batch(0, 1).sample_ids) for seed in range(500))
    assert set(seen) == set(range(5))
    assert all(60 < count < 140 for count in seen.values())  # 100 expected, standard deviation 9


def test_bytes_of_a_row_are_the_bytes_of_its_text(make_store: MakeStore, tokenizer: Tokenizer) -> None:
    stream = SequenceStream(make_store(), 17, seed=1)
    for step in range(len(stream)):
        batch = stream.batch(step, 1)
        text = [i for i in batch.x[0, 1:].tolist() if i != tokenizer.eos_id]
        assert batch.n_bytes == len(tokenizer.decode_bytes(text))


def test_a_store_shorter_than_a_sequence_says_what_to_do() -> None:
    assert len(SequenceStream(store_of([EOS, 1, 2, EOS]), 3)) == 1
    with pytest.raises(ValueError, match=r"only 4 tokens.*sequence of 4 .*data\.sequence_length"):
        SequenceStream(store_of([EOS, 1, 2, EOS]), 4)


def test_ranks_must_share_evenly() -> None:
    with pytest.raises(ValueError, match="batch_size=5 is no multiple of the 2"):
        SequenceStream(store_of([EOS, 1, 2, EOS]), 1).batch(0, 5, 0, 2)


@many
@given(store=STORES, context=st.integers(1, 30), share=st.floats(0.01, 1), batch_size=st.integers(1, 5))
def test_windows_count_every_token_once_with_enough_context(
    store: TokenStore, context: int, share: float, batch_size: int
) -> None:
    stride = max(1, round(context * share))
    counted = Counter[int]()
    for window in windows(store, context, stride, batch_size):
        assert window.counted.shape == window.batch.x[:, 1:].shape
        assert len(window.batch.x) <= batch_size
        for start, row, new in zip(window.batch.sample_ids.tolist(), window.batch.x, window.counted, strict=True):
            assert row.tolist() == store.tokens[start : start + len(row)].tolist()
            for target in new.nonzero().flatten().tolist():
                counted[start + target + 1] += 1
                assert target >= context - stride or start == 0
    assert counted == Counter(range(1, store.n_tokens))


OPENED = st.lists(st.lists(st.integers(0, 7), max_size=12), min_size=2, max_size=8).map(
    lambda texts: TokenStore(
        tokens=np.array([token for text in texts for token in (8, *text, EOS)], np.uint16),
        token_lengths=np.array([*LENGTHS[:8], 0, 0]),
        eos_id=EOS,
        n_documents=len(texts),
        n_bytes=0,
        opening_id=8,
    )
)
"""Documents opened by 8 and closed by 9."""


@many
@given(store=OPENED, length=st.integers(1, 3), stride=st.integers(1, 3))
def test_a_token_that_only_opens_documents_is_given_and_not_predicted(
    store: TokenStore, length: int, stride: int
) -> None:
    stream = SequenceStream(store, length, shuffle=False)
    for i in range(len(stream)):
        batch = stream.batch(i, 1)
        assert batch.counted is not None and batch.documents is not None and batch.positions is not None
        assert batch.counted.tolist() == (batch.x[:, 1:] != 8).tolist()
        document = position = 0
        for at, token in enumerate(batch.x[0].tolist()):
            document, position = (document + 1, 0) if token == 8 else (document, position + (at > 0))
            assert (int(batch.documents[0, at]), int(batch.positions[0, at])) == (document, position)
    counted = Counter[int]()
    for window in windows(store, length, min(stride, length), 2):
        for start, new in zip(window.batch.sample_ids.tolist(), window.counted, strict=True):
            counted.update(start + target + 1 for target in new.nonzero().flatten().tolist())
    assert counted == Counter(i for i in range(1, store.n_tokens) if store.tokens[i] != 8)


@pytest.mark.parametrize("stride", [0, 9])
def test_strides_outside_the_context_are_refused(stride: int) -> None:
    with pytest.raises(ValueError, match="stride must lie between 1 and the context of 8"):
        next(windows(store_of([EOS] + [1] * 50), 8, stride, 2))


def test_a_batch_is_cheap(tmp_path: Path) -> None:
    path = tmp_path / "big"
    np.random.default_rng(0).integers(0, 10, 3_000_000, dtype=np.uint16).tofile(path)
    tokens = np.memmap(path, np.uint16, "r")
    store = TokenStore(tokens=tokens, token_lengths=LENGTHS, eos_id=EOS, n_documents=1, n_bytes=1)
    stream = SequenceStream(store, 256)
    stream.batch(0, 32)
    times = []
    for step in range(30):
        start = time.perf_counter()
        stream.batch(step, 32)
        times.append(time.perf_counter() - start)
    assert min(times) < 2e-3


def test_the_corpus_is_whole(make_store: MakeStore, tokenizer: Tokenizer) -> None:
    store = make_store()
    text = tokenizer.decode(SequenceStream(store, store.n_tokens - 1, shuffle=False).batch(0, 1).x[0].tolist())
    assert text.split("<|endoftext|>") == ["", *TEXTS, ""]
