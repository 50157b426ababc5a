"""Do many threads get from one tokenizer what one thread gets, and batches what single texts give?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from diptych.tokenizers import engine
from diptych.tokenizers.base import EOS
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.splitting import Split

from .conftest import TEXTS, some_text


def test_threads_do_not_disturb_each_other() -> None:
    """A tokenizer that no one used before, with texts of all sizes, all calls mixed."""
    learnt = train_bpe(TEXTS, 380)
    texts = [[some_text(100 * i + j, 1 + 40 * j) for j in range(30)] + ["the", "x" * 3000] for i in range(8)]
    expected = [[learnt.encode(text).tolist() for text in own] for own in texts]
    fresh = BytePairTokenizer(learnt.pieces, learnt.merges, learnt.split, learnt.special_tokens)
    barrier = threading.Barrier(8)

    def work(i: int) -> list[list[int]]:
        barrier.wait()
        for _ in range(3):
            assert [fresh.encode_list(text) for text in texts[i]] == expected[i]
            assert [ids.tolist() for ids in fresh.encode_batch(texts[i])] == expected[i]
            assert [fresh.decode(ids) for ids in expected[i]] == texts[i]
            special = fresh.encode(texts[i][0] + EOS, allowed_special="all").tolist()
            assert special == [*expected[i][0], fresh.eos_id]
        return [fresh.encode(text).tolist() for text in texts[i]]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == expected
    assert len(fresh._encoder._free) <= engine.KEPT


@pytest.mark.parametrize("pattern", ["gpt2", r"\S+|\s+"])
@pytest.mark.parametrize("n_threads", [None, 1, 2, 5])
def test_batches_keep_the_order(n_threads: int | None, pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SLAB", 3000)
    tokenizer = train_bpe(TEXTS, 380, split=Split.named(pattern))
    texts = [some_text(i, i % 37) if i % 5 else "" for i in range(300)]
    texts[150:150] = [some_text(7, 20_000), "", ""]
    assert len(list(engine.slabs(texts, engine.SLAB))) > 5
    expected = [tokenizer.encode(text).tolist() for text in texts]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts, n_threads)] == expected
    assert [ids.tolist() for ids in tokenizer.encode_batch(iter(texts), n_threads)] == expected


def test_batches_of_next_to_nothing(bpe: BytePairTokenizer) -> None:
    assert bpe.encode_batch([]) == bpe.encode_batch(iter([])) == []
    assert [ids.tolist() for ids in bpe.encode_batch([""])] == [[]]
    assert [ids.tolist() for ids in bpe.encode_batch(["", "the", ""])] == [[], bpe.encode("the").tolist(), []]
    texts = [some_text(1, 200_000)]
    assert [ids.tolist() for ids in bpe.encode_batch(texts)] == [bpe.encode(texts[0]).tolist()]


def test_texts_of_a_batch_do_not_run_into_each_other(bpe: BytePairTokenizer) -> None:
    parts = ["th", "en", " ", " ", "\n", "a", "aaa", "'", "ll"] * 20
    assert [ids.tolist() for ids in bpe.encode_batch(parts)] == [bpe.encode(part).tolist() for part in parts]


@pytest.mark.parametrize("n_threads", [1, 3])
def test_an_error_in_one_text_is_raised_and_the_tokenizer_works_on(
    bpe: BytePairTokenizer, n_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SLAB", 100)
    texts = [some_text(i, 20) for i in range(40)]
    for wrong in (None, 3, b"bytes", ["the"]):
        with pytest.raises(TypeError, match=f"a text must be a str, not {type(wrong).__name__}"):
            bpe.encode_batch([*texts, wrong, *texts], n_threads)  # type: ignore[list-item]
        assert [bpe.decode(ids) for ids in bpe.encode_batch(texts, n_threads)] == texts
        assert 1 <= len(bpe._encoder._free) <= engine.KEPT


def test_an_error_of_the_source_of_texts_passes_through(
    bpe: BytePairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "SLAB", 100)

    def failing() -> Iterator[str]:
        for i in range(30):
            if i == 20:
                raise OSError("the disk is gone")
            yield some_text(i, 20)

    with pytest.raises(OSError, match="the disk is gone"):
        bpe.encode_batch(failing())
    assert bpe.decode(bpe.encode("the")) == "the"
