"""How long are the documents of a corpus, and how often does each distance between its tokens occur?

Review table 5, left. Documents are counted one by one as they are read: three integers each are kept, in bytes of
UTF-8, in words, and in tokens. A word is a run of anything but white space, as `str.split` and `wc -w` cut text; what
is written without spaces between its words, such as Chinese, has few of them.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from numpy.typing import NDArray

from diptych.core.events import Handler, Progressed, ignore
from diptych.data.sources import Document
from diptych.tokenizers.base import Tokenizer, utf8

CONTEXT = 2048
"""Tokens of the training context that distances are counted in, where none is given."""

MOST_CONTEXT = 1 << 24

SLAB = 1 << 23
"""Characters that are tokenized at a time."""


@dataclass(frozen=True, kw_only=True)
class PublishedLength:
    """The mean length of a corpus's documents as somebody else states it."""

    corpus: str
    mean_bytes: float
    source: str
    """Where it stands."""


_PILE = "The Pile, Gao et al. 2020, table 1"

PUBLISHED: Final = tuple(
    PublishedLength(corpus=corpus, mean_bytes=kibibytes * 1024, source=_PILE)
    for corpus, kibibytes in (
        ("Wikipedia (en)", 1.11),
        ("Pile-CC", 4.33),
        ("GitHub", 5.25),
        ("ArXiv", 46.61),
        ("Books3", 538.36),
    )
)
"""Published means to set beside measured ones, shortest first; a row more is an entry more."""


@dataclass(frozen=True, kw_only=True)
class LengthDistribution:
    """The lengths of a corpus's documents in one unit. Percentiles interpolate between neighbours."""

    total: int
    mean: float
    p5: float
    p25: float
    median: float
    p75: float
    p95: float
    p99: float
    longest: int
    edges: tuple[int, ...]
    """Bin k of the histogram holds lengths from `edges[k]` up to, and without, `edges[k + 1]`."""
    counts: tuple[int, ...]
    """Documents in each bin."""


@dataclass(frozen=True, kw_only=True)
class RelativePositions:
    """How often each distance between two tokens of one document occurs within the training context.

    `frequency[i]` is f(i) of An et al. 2024 (*Why Does the Effective Context Length of LLMs Fall Short?*, equation 2).
    """

    context: int
    """L, in tokens."""
    frequency: tuple[int, ...]
    """[L]: pairs of positions (a, b) of one document with b - a = i; f(0) pairs each position with itself."""

    @property
    def pairs(self) -> int:
        """All pairs, those of a position with itself included: what causal attention scores."""
        return sum(self.frequency)

    @property
    def near_share(self) -> float:
        """Share of all pairs whose distance is less than L/2: about 3/4 if every document fills the context."""
        return sum(self.frequency[: (self.context + 1) // 2]) / max(1, self.pairs)

    @property
    def half_distance(self) -> int:
        """The least distance below which at least half of all pairs lie: about 0.29 L if every document fills L."""
        reached = np.cumsum(np.array(self.frequency, np.int64))
        return int(np.searchsorted(2 * reached, reached[-1])) + 1 if reached[-1] else 0


@dataclass(frozen=True, kw_only=True)
class CorpusLengths:
    """The lengths of a corpus's documents; what needs a tokenizer is None where none was given."""

    name: str
    documents: int
    in_bytes: LengthDistribution
    in_words: LengthDistribution
    in_tokens: LengthDistribution | None = None
    positions: RelativePositions | None = None
    complete: bool = True
    """False where reading was interrupted: the figures are those of the documents read until then."""


def measure_lengths(
    name: str,
    documents: Iterable[Document],
    *,
    tokenizer: Tokenizer | None = None,
    context: int = CONTEXT,
    total_bytes: int | None = None,
    on_event: Handler = ignore,
    interrupted: threading.Event | None = None,
) -> CorpusLengths:
    """The lengths of all documents, read once; memory is 24 bytes a document, the slab that is tokenized, and what
    the tokenizer remembers.

    Neighbouring documents of one name are the pieces of a large file and count as one. Tokens are those of the text
    alone, without the ones that open or close a document. total_bytes: the size of all text, for the progress shown.
    interrupted: once it is set, the documents read so far make the result. Raises ValueError where there is no
    document or the context is out of range, KeyboardInterrupt where it was interrupted before the first document.
    """
    _check(context)
    so_far = _SoFar(tokenizer)
    meter = _Meter(name, total_bytes, on_event)
    stop = interrupted or threading.Event()
    for document in documents:
        so_far.add(document)
        meter.show(so_far)
        if stop.is_set():
            break
    so_far.tokenize()
    meter.show(so_far, ended=True, whole=not stop.is_set())
    if not so_far.bytes:
        if stop.is_set():
            raise KeyboardInterrupt
        raise ValueError(f"{name} holds no text; name a source that does")
    tokens = np.array(so_far.tokens, np.int64)
    return CorpusLengths(
        name=name,
        documents=len(so_far.bytes),
        in_bytes=distribution(np.array(so_far.bytes, np.int64)),
        in_words=distribution(np.array(so_far.words, np.int64)),
        in_tokens=None if tokenizer is None else distribution(tokens),
        positions=None if tokenizer is None else relative_positions(tokens, context),
        complete=not stop.is_set(),
    )


def _check(context: int) -> None:
    if not 1 <= context <= MOST_CONTEXT:
        raise ValueError(f"a context of {context} tokens is out of range; give 1 to {MOST_CONTEXT}")


def distribution(lengths: NDArray[np.int64]) -> LengthDistribution:
    """Mean, percentiles and histogram of one length or more, int64 [n]."""
    longest = int(lengths.max())
    p5, p25, median, p75, p95, p99 = np.percentile(lengths, (5, 25, 50, 75, 95, 99)).tolist()
    edges = bin_edges(longest)
    counts, _ = np.histogram(lengths, np.array(edges))
    total = int(lengths.sum())
    return LengthDistribution(
        total=total,
        mean=total / len(lengths),
        p5=p5,
        p25=p25,
        median=median,
        p75=p75,
        p95=p95,
        p99=p99,
        longest=longest,
        edges=edges,
        counts=tuple(counts.tolist()),
    )


def bin_edges(longest: int) -> tuple[int, ...]:
    """0, 1, and the whole numbers nearest to the powers of the square root of 2, up to the first above `longest`."""
    edges = [0, 1]
    exponent = 1
    while edges[-1] <= longest:
        edge = round(2 ** (exponent / 2))
        if edge > edges[-1]:
            edges.append(edge)
        exponent += 1
    return tuple(edges)


def relative_positions(lengths: NDArray[np.int64], context: int) -> RelativePositions:
    """f(i) = sum over documents of max(0, min(length, L) - i), for i from 0 to L - 1: lengths in tokens, int64 [n].

    f(i) counts the pairs of positions that are i apart in one document's first L tokens, and f(0) the positions
    themselves. A document longer than the context counts by its first L tokens alone. Raises ValueError for a context
    out of range.
    """
    _check(context)
    of_length = np.bincount(np.minimum(lengths, context), minlength=context + 1)
    longer = len(lengths) - np.cumsum(of_length)  # longer[j]: documents of more than j tokens
    # A document of m tokens adds one to longer[j] for each j < m, so its m - i from i on make its share of f(i).
    frequency = np.cumsum(longer[context - 1 :: -1])[::-1]
    return RelativePositions(context=context, frequency=tuple(frequency.tolist()))


@final
class _SoFar:
    """The lengths of the documents read so far."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer
        self.bytes, self.words, self.tokens = array("q"), array("q"), array("q")
        self.n_bytes = 0
        self._name, self._last = "", " "
        self._waiting: list[str] = []
        self._places: list[int] = []
        self._size = 0

    def add(self, document: Document) -> None:
        """Count a document, or a further piece of the last one."""
        text = document.text
        size, words = len(utf8(text)), len(text.split())
        if document.name and document.name == self._name:
            self.bytes[-1] += size
            # A word that the cut went through was counted on both sides of it.
            self.words[-1] += words - (not self._last.isspace() and not text[:1].isspace())
        else:
            self.bytes.append(size)
            self.words.append(words)
            self.tokens.append(0)
        self._name, self._last = document.name, text[-1:]
        self.n_bytes += size
        if self.tokenizer is not None:
            self._waiting.append(text)
            self._places.append(len(self.tokens) - 1)
            self._size += len(text)
            if self._size >= SLAB:
                self.tokenize()

    def tokenize(self) -> None:
        """Count the tokens of the documents that wait for it."""
        if self.tokenizer is not None and self._waiting:
            for place, ids in zip(self._places, self.tokenizer.encode_batch(self._waiting), strict=True):
                self.tokens[place] += len(ids)
        self._waiting, self._places, self._size = [], [], 0


@final
class _Meter:
    """Shows how much was read and how fast, ten times a second at most."""

    def __init__(self, name: str, total_bytes: int | None, on_event: Handler) -> None:
        self.what, self.total, self.on_event = f"reading {name}", total_bytes, on_event
        self.started = self.shown = time.perf_counter()

    def show(self, so_far: _SoFar, *, ended: bool = False, whole: bool = False) -> None:
        """Emit the progress if it is time, or reading has `ended`; `whole`: nothing is left to read."""
        now = time.perf_counter()
        if now - self.shown < 0.1 and not ended:
            return
        self.shown = now
        speed = so_far.n_bytes / 1e6 / max(1e-9, now - self.started)
        # Text may be larger than its files, which compress it, or smaller, where they escape it.
        total = None if self.total is None else max(self.total, so_far.n_bytes) / 1e6
        done = so_far.n_bytes / 1e6
        self.on_event(
            Progressed(
                what=self.what,
                done=done,
                total=done if whole else total,
                unit=f"MB, {len(so_far.bytes):,} documents, {speed:,.0f} MB/s",
            )
        )
