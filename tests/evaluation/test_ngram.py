"""Is the vectorised n-gram model the one of Chen and Goodman's page, and does it add up?"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from diptych.core.events import Progressed
from diptych.evaluation.ngram import FALLBACK_DISCOUNTS, NGram

EOS = 0


def corpus(seed: int, documents: int, length: int, vocab_size: int) -> np.ndarray:
    """Documents of skewed tokens with some memory, so that counts of all sizes and repeated n-grams occur."""
    rng = np.random.default_rng(seed)
    tokens = [EOS]
    for _ in range(documents):
        word = 1
        for _ in range(rng.integers(0, length)):
            fresh = 1 + min(int(rng.exponential(vocab_size / 6)), vocab_size - 2)
            word = fresh if rng.random() < 0.5 else 1 + (3 * word) % (vocab_size - 2)
            tokens.append(word)
        tokens.append(EOS)
    return np.array(tokens, dtype=np.int32)


class BruteForce:
    """Chen and Goodman's formulas over dictionaries of tuples, read off the page."""

    def __init__(self, tokens: list[int], order: int, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.order = order
        documents, start = [], 0
        for end in range(1, len(tokens)):
            if tokens[end] == EOS:
                documents.append(tuple(tokens[start : end + 1]))
                start = end
        if start < len(tokens) - 1:
            documents.append(tuple(tokens[start:]))
        raw: Counter[tuple[int, ...]] = Counter()
        for document in documents:
            for n in range(1, order + 1):
                for end in range(max(n, 2), len(document) + 1):
                    raw[document[end - n : end]] += 1
        before: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for gram in raw:
            before[gram[1:]].add(gram[0])
        for document in documents:  # the opening token is predicted nowhere, but it precedes the first one
            before[document[1:2]].add(EOS)
        self.count: dict[tuple[int, ...], int] = {}
        for gram, number in raw.items():
            opens = len(gram) > 1 and gram[0] == EOS
            self.count[gram] = number if len(gram) == order or opens else len(before[gram])
        self.discounts = {n: self.estimate(n) for n in range(1, order + 1)}

    def estimate(self, n: int) -> dict[int, float]:
        of = Counter(count for gram, count in self.count.items() if len(gram) == n)
        fallback = dict(enumerate((0.0, *FALLBACK_DISCOUNTS)))
        if not (of[1] and of[2] and of[3]):
            return fallback
        y = of[1] / (of[1] + 2 * of[2])
        found = {c: c - (c + 1) * y * of[c + 1] / of[c] for c in (1, 2, 3)}
        return found | {0: 0.0} if all(0 < d <= c for c, d in found.items()) else fallback

    def probability(self, context: tuple[int, ...], token: int) -> float:
        n = len(context) + 1
        lower = self.probability(context[1:], token) if context else 1 / self.vocab_size
        successors = [self.count.get((*context, v), 0) for v in range(self.vocab_size)]
        total = sum(successors)
        if total == 0:
            return lower
        d = self.discounts[n]
        gamma = sum(d[min(c, 3)] for c in successors) / total
        own = self.count.get((*context, token), 0)
        return (own - d[min(own, 3)]) / total + gamma * lower

    def nats(self, tokens: list[int]) -> list[float]:
        found = []
        for i in range(1, len(tokens)):
            opened = max((j for j in range(i) if tokens[j] == EOS), default=0)
            context = tuple(tokens[max(opened, i - self.order + 1) : i])
            found.append(-float(np.log(self.probability(context, tokens[i]))))
        return found


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_dictionaries_of_tuples(order: int, seed: int) -> None:
    train = corpus(seed, documents=40, length=30, vocab_size=12)
    heldout = corpus(seed + 100, documents=6, length=30, vocab_size=12)
    fast = NGram.fit(train, order, vocab_size=13, eos_id=EOS)
    slow = BruteForce(train.tolist(), order, 13)
    np.testing.assert_allclose(fast.nats(heldout), slow.nats(heldout.tolist()), rtol=1e-12)


def test_estimated_discounts_are_put_to_the_proof() -> None:
    """The corpora above must not all fall back to the constants, or the equality would prove little."""
    model = NGram.fit(corpus(0, 40, 30, 12), 5, vocab_size=13, eos_id=EOS)
    assert sum(order.discounts != FALLBACK_DISCOUNTS for order in model.orders) >= 3


def test_an_unfinished_last_document_is_counted() -> None:
    train = corpus(3, 10, 20, 9)[:-4]
    fast = NGram.fit(train, 4, vocab_size=9, eos_id=EOS)
    np.testing.assert_allclose(fast.nats(train), BruteForce(train.tolist(), 4, 9).nats(train.tolist()), rtol=1e-12)


@pytest.mark.parametrize("order", [1, 3, 5])
def test_every_distribution_sums_to_one_and_is_positive(order: int) -> None:
    train = corpus(4, 60, 40, 30)
    model = NGram.fit(train, order, vocab_size=40, eos_id=EOS)
    rng = np.random.default_rng(5)
    seen = [train[i : i + n].tolist() for n in range(1, 7) for i in rng.integers(0, len(train) - n, 20)]
    unseen = [rng.integers(0, 40, n).tolist() for n in range(0, 7) for _ in range(20)]
    for context in seen + unseen:
        p = model.probabilities(context)
        assert abs(p.sum() - 1) < 1e-10
        assert p.min() > 0


def test_the_distribution_and_the_score_agree() -> None:
    train = corpus(6, 30, 30, 15)
    model = NGram.fit(train, 4, vocab_size=15, eos_id=EOS)
    heldout = corpus(7, 4, 20, 15)
    p = [model.probabilities(heldout[:i].tolist())[heldout[i]] for i in range(1, len(heldout))]
    np.testing.assert_allclose(model.nats(heldout), -np.log(p), rtol=1e-12)


def test_order_one_is_the_closed_form() -> None:
    """Discounted relative frequencies, and what was taken away spread evenly over the vocabulary."""
    train = np.array([EOS, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6, EOS])
    model = NGram.fit(train, 1, vocab_size=10, eos_id=EOS)
    n1, n2, n3, n4 = 3, 2, 1, 1  # {5, 6, EOS}, {3, 4}, {2}, {1}
    y = n1 / (n1 + 2 * n2)
    d = [0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
    counts = np.array([1, 4, 3, 2, 2, 1, 1, 0, 0, 0])
    taken = np.array([d[min(c, 3)] for c in counts])
    np.testing.assert_allclose(
        model.probabilities([1, 2, 3]), (counts - taken) / 14 + taken.sum() / 14 / 10, rtol=1e-12
    )


def test_no_ngram_crosses_a_document() -> None:
    """The order of the documents changes nothing: neither the fit nor the score of each."""
    a, b, c = [1, 2, 3, 4], [4, 3, 1], [2, 2, 5, 1, 3]

    def stream(*documents: list[int]) -> np.ndarray:
        return np.array([EOS, *(t for d in documents for t in (*d, EOS))])

    one = NGram.fit(stream(a, b, c), 4, vocab_size=8, eos_id=EOS)
    two = NGram.fit(stream(c, a, b), 4, vocab_size=8, eos_id=EOS)
    scores = one.nats(stream(a, c))
    np.testing.assert_array_equal(scores, two.nats(stream(a, c)))
    np.testing.assert_array_equal(scores[len(a) + 1 :], one.nats(stream(c)))


def test_documents_shorter_than_the_order() -> None:
    train = np.array([EOS, 1, EOS, 1, EOS, 2, EOS])
    model = NGram.fit(train, 5, vocab_size=4, eos_id=EOS)
    np.testing.assert_allclose(model.nats(train), BruteForce(train.tolist(), 5, 4).nats(train.tolist()), rtol=1e-12)
    assert len(model.nats(np.array([EOS]))) == 0


def test_repetition_becomes_cheap_and_noise_does_not() -> None:
    phrase = np.tile(np.arange(1, 21), 500)
    noise = np.random.default_rng(8).integers(1, 21, 10_000)
    for tokens, low, high in ((phrase, 0.0, 0.01), (noise, np.log(20) * 0.98, np.log(20) * 1.2)):
        model = NGram.fit(np.concatenate(([EOS], tokens, [EOS])), 5, vocab_size=21, eos_id=EOS)
        fresh = tokens[:2000] if low == 0 else np.random.default_rng(9).integers(1, 21, 2000)
        assert low <= model.nats(np.concatenate(([EOS], fresh)))[5:].mean() <= high


def test_large_vocabularies_do_not_overflow_the_packed_keys() -> None:
    rng = np.random.default_rng(10)
    words = rng.choice(250_000, 40, replace=False) + 1
    tokens = np.concatenate(([EOS], rng.choice(words, 3000))).astype(np.int32)
    _, small = np.unique(tokens, return_inverse=True)
    wide = NGram.fit(tokens, 5, vocab_size=250_001, eos_id=EOS)
    narrow = NGram.fit(small, 5, vocab_size=41, eos_id=EOS)
    for one, two in zip(wide.orders[1:], narrow.orders[1:], strict=True):
        np.testing.assert_array_equal(one.shares, two.shares)


def test_reports_its_progress() -> None:
    events: list[object] = []
    NGram.fit(corpus(0, 3, 9, 9), 3, vocab_size=9, eos_id=EOS, on_event=events.append)
    assert [e.done for e in events if isinstance(e, Progressed)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("tokens", "order", "said"),
    [
        ([1, 2, 3], 3, "opens a document"),
        ([EOS], 3, "at least two tokens"),
        ([], 3, "non-empty"),
        ([EOS, 9], 3, "token 9 lies outside the vocabulary of 9"),
        ([EOS, -1], 3, "token -1 lies outside"),
        ([EOS, 1, 2], 0, "order of at least 1"),
    ],
)
def test_bad_input_is_refused_in_one_line(tokens: list[int], order: int, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        NGram.fit(np.array(tokens, dtype=np.int32), order, vocab_size=9, eos_id=EOS)
    assert "\n" not in str(error.value)
