"""How well does a model that only counts predict the next token?

The interpolated n-gram model with modified Kneser-Ney smoothing of Chen and Goodman, *An Empirical Study of Smoothing
Techniques for Language Modeling* (Harvard TR-10-98, 1998; Computer Speech and Language 13, 1999), section "modified
Kneser-Ney smoothing": the strongest of the models that count, and so the yardstick of one that learns.

    p(w | h) = max(a(h w) - D(a(h w)), 0) / sum_v a(h v) + gamma(h) p(w | h'),        h' = h without its first token

where a(h w) is the count of h w at the highest order, and below it the number of different tokens seen before h w; at
the bottom stands the uniform distribution. No n-gram crosses a document: counting starts anew at the end-of-sequence
token that opens one, and n-grams that begin with it, which nothing can precede, keep their plain counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from diptych.core.events import Handler, Progressed, ignore

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""D1, D2, D3+ where a text is too small or too regular to estimate them; KenLM's `--discount_fallback` default."""


@final
@dataclass(frozen=True)
class _Order:
    """The n-grams of one length. A context is numbered as the (n-1)-gram that it is, in the order below."""

    keys: Ints
    """(g,) context * vocab_size + last token, ascending; an n-gram's number is its place here."""
    shares: Floats
    """(g,) the discounted relative frequency of each n-gram after its context."""
    backoffs: Floats
    """(contexts,) gamma, the probability that each context leaves to the order below; 1 where it has no successor."""
    discounts: tuple[float, float, float]

    def find(self, contexts: Ints, tokens: Ints, vocab_size: int) -> Ints:
        """Numbers of the n-grams (context, token), -1 where unseen; contexts may be -1."""
        wanted = contexts * vocab_size + tokens
        places = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((contexts >= 0) & (self.keys[places] == wanted), places, -1)

    def interpolate(self, grams: Ints, contexts: Ints, lower: Floats) -> Floats:
        """Probabilities at this order from those of the order below; where the context is unseen, the latter."""
        shares = np.where(grams >= 0, self.shares[grams], 0.0)
        return np.where(contexts >= 0, shares + self.backoffs[contexts] * lower, lower)


@final
@dataclass(frozen=True)
class NGram:
    """A fitted model: `NGram.fit` makes it, `nats` scores with it, `probabilities` shows one distribution of it."""

    orders: tuple[_Order, ...]
    vocab_size: int
    eos_id: int

    @classmethod
    def fit(
        cls,
        tokens: NDArray[np.integer[Any]],
        order: int = 5,
        *,
        vocab_size: int,
        eos_id: int,
        on_event: Handler = ignore,
    ) -> Self:
        """Count the n-grams of up to `order` tokens in `tokens` (n,): documents that each start with `eos_id`.

        The order is lower where no document is that long.

        Raises ValueError for an order below 1, fewer than two tokens, tokens outside the vocabulary, or a first
        token other than `eos_id`.
        """
        stream = _checked(tokens, vocab_size)
        if order < 1:
            raise ValueError(f"an n-gram model needs an order of at least 1, not {order}")
        if len(stream) < 2 or stream[0] != eos_id:
            raise ValueError(
                "an n-gram model is fitted to at least two tokens, the first of them the end-of-sequence token "
                f"{eos_id} that opens a document; put it there"
            )
        lengths: list[_Counted] = []
        orders: list[_Order] = []
        contexts = 1  # the empty one
        for n, counted in enumerate(_count(stream, order, vocab_size, eos_id), start=1):
            if lengths:
                shorter = lengths.pop()
                orders.append(_smooth(shorter.keys, _continuations(shorter, counted), contexts, vocab_size))
                contexts = len(shorter.keys)
            lengths.append(counted)
            on_event(Progressed(what="counting n-grams", done=n, total=order, unit="orders"))
        longest = lengths.pop()
        orders.append(_smooth(longest.keys, longest.counts, contexts, vocab_size))
        return cls(tuple(orders), vocab_size, eos_id)

    def nats(self, tokens: NDArray[np.integer[Any]]) -> Floats:
        """Negative log-likelihood of tokens[1:], each after what stands before it in its document: (n - 1,) nats."""
        stream = _checked(tokens, self.vocab_size)
        reach = _reach(stream, self.eos_id)
        p = np.full(len(stream), 1.0 / self.vocab_size)
        contexts = np.zeros_like(stream)  # the empty context, number 0, stands before every token
        for n, order in enumerate(self.orders, start=1):
            grams = order.find(contexts, stream, self.vocab_size)
            p = order.interpolate(grams, contexts, p)
            contexts = np.where(reach >= n, np.roll(grams, 1), -1)
        nats: Floats = -np.log(p[1:])
        return nats

    def probabilities(self, context: Sequence[int]) -> Floats:
        """The distribution (vocab_size,) of the token after `context`, of which the last `order - 1` tokens count."""
        p = np.full(self.vocab_size, 1.0 / self.vocab_size)
        context = list(context)
        starts = [i for i, token in enumerate(context) if token == self.eos_id]
        context = context[starts[-1] :] if starts else context
        for n, order in enumerate(self.orders, start=1):
            number = self._number_of(context[len(context) - n + 1 :]) if n <= len(context) + 1 else -1
            if number >= 0:
                here = slice(*np.searchsorted(order.keys, [number * self.vocab_size, (number + 1) * self.vocab_size]))
                p = order.backoffs[number] * p
                p[order.keys[here] % self.vocab_size] += order.shares[here]
        return p

    def _number_of(self, gram: Sequence[int]) -> int:
        """The number of an n-gram, -1 if it was not seen; the empty one's is 0."""
        number = np.zeros(1, dtype=np.int64)
        for order, token in zip(self.orders, gram, strict=False):
            number = order.find(number, np.array([token]), self.vocab_size)
        return int(number[0])


@final
@dataclass(frozen=True)
class _Counted:
    """The n-grams of one length as they stand in the text."""

    keys: Ints
    counts: Ints
    """(g,) how often each is predicted."""
    opening: NDArray[np.bool_]
    """(g,) which begin with the end-of-sequence token, so that nothing can precede them."""
    suffixes: Ints
    """(g,) the number of each without its first token, in the order below; empty at order 1."""


def _count(stream: Ints, order: int, vocab_size: int, eos_id: int) -> Iterator[_Counted]:
    """The n-grams of 1, 2, ..., `order` tokens that end in stream[1:] and cross no document."""
    reach = _reach(stream, eos_id)
    grams = stream  # the number of the n-gram that ends at each position, -1 where it would cross a document
    keys = np.arange(vocab_size, dtype=np.int64)
    opening = keys == eos_id
    counts = np.bincount(stream[1:], minlength=vocab_size)
    yield _Counted(keys, counts, np.zeros_like(opening), np.empty(0, dtype=np.int64))
    for n in range(2, order + 1):
        ends = np.flatnonzero(reach >= n - 1)
        if len(ends) == 0:
            return  # no document is that long
        keys, numbers, counts = np.unique(
            grams[ends - 1] * vocab_size + stream[ends], return_inverse=True, return_counts=True
        )
        suffixes = np.empty(len(keys), dtype=np.int64)
        suffixes[numbers] = grams[ends]
        grams = np.full(len(stream), -1, dtype=np.int64)
        grams[ends] = numbers
        opening = opening[keys // vocab_size]
        yield _Counted(keys, counts, opening, suffixes)


def _continuations(counted: _Counted, longer: _Counted) -> Ints:
    """How many different tokens stand before each n-gram; the plain count where nothing can."""
    different = np.bincount(longer.suffixes, minlength=len(counted.keys))
    return np.where(counted.opening, counted.counts, different)


def _smooth(keys: Ints, counts: Ints, n_contexts: int, vocab_size: int) -> _Order:
    """Discount the (adjusted) counts and give what is taken away to the order below."""
    discounts = _discounts(counts)
    taken = np.array([0.0, *discounts])[np.minimum(counts, 3)]
    contexts = keys // vocab_size
    totals = np.bincount(contexts, weights=counts, minlength=n_contexts)
    # The denominator of an unseen context is never used: its successors' shares are empty and its back-off is 1.
    divisors = np.where(totals > 0, totals, 1.0)
    backoffs = np.where(totals > 0, np.bincount(contexts, weights=taken, minlength=n_contexts) / divisors, 1.0)
    return _Order(keys, (counts - taken) / divisors[contexts], backoffs, discounts)


def _discounts(counts: Ints) -> tuple[float, float, float]:
    """D1, D2 and D3+ from the numbers of n-grams with a count of 1 to 4 (Chen and Goodman 1998, equation 26)."""
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == c)) for c in (1, 2, 3, 4))
    if min(n1, n2, n3) == 0:
        return FALLBACK_DISCOUNTS
    y = n1 / (n1 + 2 * n2)
    discounts = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    if all(0 < d <= c for c, d in enumerate(discounts, start=1)):
        return discounts
    return FALLBACK_DISCOUNTS


def _reach(stream: Ints, eos_id: int) -> Ints:
    """How many tokens of its own document stand before each position, its opening one included."""
    places = np.arange(len(stream))
    opened = np.maximum.accumulate(np.where(stream == eos_id, places, 0))
    return places - np.concatenate(([0], opened[:-1]))


def _checked(tokens: NDArray[np.integer[Any]], vocab_size: int) -> Ints:
    """The tokens as int64 (room for the packed keys), refused if any lies outside the vocabulary."""
    stream = np.asarray(tokens).astype(np.int64)
    if stream.ndim != 1 or len(stream) == 0:
        raise ValueError(f"an n-gram model reads a non-empty row of tokens, not an array of shape {stream.shape}")
    if stream.min() < 0 or stream.max() >= vocab_size:
        bad = stream.min() if stream.min() < 0 else stream.max()
        raise ValueError(f"token {bad} lies outside the vocabulary of {vocab_size}; check the tokenizer")
    return stream
