"""Are lengths, their distribution, and the frequencies of distances what plain counting finds?"""

from __future__ import annotations

import re
import statistics
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.events import Event, Progressed
from diptych.data import lengths as module
from diptych.data import sources
from diptych.data.lengths import (
    PUBLISHED,
    RelativePositions,
    bin_edges,
    distribution,
    measure_lengths,
    relative_positions,
)
from diptych.data.sources import Document, read_documents
from diptych.reference.lengths import relative_position_frequency
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.simple import ByteTokenizer

TEXTS = ["one two\u00a0three\n", "  \t\n ", "日本語 naïve 🙂", "x", "a b " * 50]


def documents(texts: list[str]) -> list[Document]:
    return [Document(text, f"place {i}") for i, text in enumerate(texts)]


def pairs_apart(lengths: list[int], context: int) -> list[int]:
    """f(i), pair by pair: positions a <= b of one document, both within the context, that are i apart."""
    f = [0] * context
    for length in lengths:
        for a in range(min(length, context)):
            for b in range(a, min(length, context)):
                f[b - a] += 1
    return f


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(1, 30))
def test_frequencies_count_pairs(lengths: list[int], context: int) -> None:
    assert list(relative_positions(np.array(lengths), context).frequency) == pairs_apart(lengths, context)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=8), st.integers(1, 300))
def test_frequencies_equal_the_reference(lengths: list[int], context: int) -> None:
    fast = relative_positions(np.array(lengths), context)
    np.testing.assert_array_equal(fast.frequency, relative_position_frequency(lengths, context))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 30))
def test_shares_of_pairs_are_counted_ones(lengths: list[int], context: int) -> None:
    """Near share and median distance against the list of all pairs' distances."""
    f = pairs_apart(lengths, context)
    distances = sorted(i for i, count in enumerate(f) for _ in range(count))
    positions = relative_positions(np.array(lengths), context)
    assert positions.pairs == len(distances)
    assert positions.near_share == pytest.approx(sum(d < context / 2 for d in distances) / len(distances))
    below = [sum(i < d for i in distances) for d in range(context + 1)]
    assert positions.half_distance == next(d for d, n in enumerate(below) if 2 * n >= len(distances))


def test_documents_that_fill_the_context_have_the_closed_form() -> None:
    """f(i) = n (L - i): three quarters of the pairs lie below L/2, half below (1 - sqrt(1/2)) L, as L grows."""
    context = 100_000
    positions = relative_positions(np.array([context, 10**9]), context)
    assert positions.frequency == tuple(2 * (context - i) for i in range(context))
    assert positions.pairs == context * (context + 1)
    assert positions.near_share == pytest.approx(0.75, abs=1e-5)
    assert positions.half_distance == pytest.approx((1 - 0.5**0.5) * context, abs=1.5)


def test_documents_of_no_tokens_make_no_pairs() -> None:
    positions = relative_positions(np.array([0, 0]), 3)
    assert positions == RelativePositions(context=3, frequency=(0, 0, 0))
    assert positions.near_share == 0.0 and positions.half_distance == 0


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=60))
def test_a_distribution_equals_the_standard_library(lengths: list[int]) -> None:
    found = distribution(np.array(lengths, np.int64))
    cuts = statistics.quantiles(lengths, n=100, method="inclusive")
    assert [found.p5, found.p25, found.p75, found.p95, found.p99] == pytest.approx(
        [cuts[k - 1] for k in (5, 25, 75, 95, 99)]
    )
    assert found.median == statistics.median(lengths) and found.longest == max(lengths)
    assert found.total == sum(lengths) and found.mean == pytest.approx(statistics.fmean(lengths))
    bins = list(pairwise(found.edges))
    assert found.counts == tuple(sum(low <= n < high for n in lengths) for low, high in bins)
    assert sum(found.counts) == len(lengths) and len(found.counts) == len(bins)


def test_one_length_is_a_distribution() -> None:
    found = distribution(np.array([7]))
    assert {found.p5, found.median, found.p99, found.mean} == {7.0} and sum(found.counts) == 1


@pytest.mark.parametrize("longest", [0, 1, 2, 5, 6, 1000, 2**40])
def test_bins_grow_by_the_root_of_two(longest: int) -> None:
    edges = bin_edges(longest)
    assert edges[0] == 0 and edges[-2] <= longest < edges[-1]
    assert all(high > low for low, high in pairwise(edges))
    assert all(1.25 < high / low <= 1.51 for low, high in pairwise(edges[3:]))
    assert edges[:9] == (0, 1, 2, 3, 4, 6, 8, 11, 16)[: len(edges)]


def test_bytes_words_and_tokens_of_a_text(tokenizer: Tokenizer) -> None:
    found = measure_lengths("some", documents(TEXTS), tokenizer=tokenizer, context=16)
    sizes = [len(text.encode()) for text in TEXTS]
    words = [len(re.findall(r"\S+", text)) for text in TEXTS]
    assert words == [3, 0, 3, 1, 100]
    tokens = [len(tokenizer.encode(text)) for text in TEXTS]
    assert found.in_bytes == distribution(np.array(sizes))
    assert found.in_words == distribution(np.array(words)) and words == [len(text.split()) for text in TEXTS]
    assert found.in_tokens == distribution(np.array(tokens))
    assert found.positions == relative_positions(np.array(tokens), 16)
    assert found.documents == len(TEXTS) and found.name == "some" and found.complete


def test_without_a_tokenizer_there_are_no_tokens() -> None:
    found = measure_lengths("some", documents(TEXTS))
    assert found.in_tokens is None and found.positions is None and found.in_bytes.total == 15 + 5 + 21 + 1 + 200


def test_slabs_change_nothing(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measure_lengths("some", documents(TEXTS * 3), tokenizer=tokenizer)
    monkeypatch.setattr(module, "SLAB", 10)
    assert measure_lengths("some", documents(TEXTS * 3), tokenizer=tokenizer) == whole


@pytest.mark.parametrize("text", ["word " * 100, "line of text\n" * 50, "longword" * 60, "naïve 🙂" * 40])
def test_a_large_file_is_one_document(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces that a file is read in, cut at a line's end or amid a word, add up to the file."""
    monkeypatch.setattr(sources, "PIECE", 64)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(text)
    pieces = list(read_documents([str(tmp_path)], "text"))
    assert len(pieces) > 6
    found = measure_lengths("folder", pieces, tokenizer=ByteTokenizer())
    assert found.documents == 2
    assert found.in_bytes.total == 2 * len(text.encode()) == found.in_bytes.longest * 2
    assert found.in_tokens == found.in_bytes
    assert found.in_words.longest == len(text.split()) == found.in_words.total // 2


def test_an_interrupted_reading_gives_what_was_read() -> None:
    stop = threading.Event()

    def stopping() -> object:
        for index, document in enumerate(documents(TEXTS)):
            if index == 2:
                stop.set()
            yield document

    found = measure_lengths("some", stopping(), tokenizer=ByteTokenizer(), interrupted=stop)
    expected = measure_lengths("some", documents(TEXTS[:3]), tokenizer=ByteTokenizer())
    assert not found.complete and expected.complete
    assert (found.in_bytes, found.in_words, found.positions) == (
        expected.in_bytes,
        expected.in_words,
        expected.positions,
    )
    with pytest.raises(KeyboardInterrupt):
        measure_lengths("some", [], interrupted=stop)


@pytest.mark.parametrize("total", [None, 100, 1000])
def test_progress_says_how_much_and_how_fast(total: int | None) -> None:
    events: list[Event] = []
    measure_lengths("some", documents(TEXTS), total_bytes=total, on_event=events.append)
    last = events[-1]
    assert isinstance(last, Progressed) and last.what == "reading some"
    assert last.done == last.total == pytest.approx(242e-6), "at the end nothing is left"
    assert re.fullmatch(r"MB, 5 documents, [\d,]+ MB/s", last.unit)


@pytest.mark.parametrize("context", [0, -1, 2**24 + 1])
def test_a_context_out_of_range_is_refused(context: int) -> None:
    with pytest.raises(ValueError, match=f"a context of {context} tokens is out of range"):
        measure_lengths("some", documents(TEXTS), context=context)
    with pytest.raises(ValueError, match="out of range"):
        relative_positions(np.array([3]), context)


def test_nothing_to_measure_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing holds no text"):
        measure_lengths("nothing", [])


def test_published_means_are_those_of_the_paper() -> None:
    """Gao et al. 2020, table 1, column 'Mean Document Size', in KiB."""
    stated = {"Wikipedia (en)": 1.11, "Pile-CC": 4.33, "GitHub": 5.25, "ArXiv": 46.61, "Books3": 538.36}
    assert {row.corpus: round(row.mean_bytes / 1024, 2) for row in PUBLISHED} == stated
    assert all("Gao et al. 2020" in row.source for row in PUBLISHED)
