"""Where a source is known exactly, so are the losses after any context, and the length from which on none is saved."""

from __future__ import annotations

import math
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diptych.core.config import TransformerConfig
from diptych.core.events import Event, Progressed
from diptych.core.types import Mask
from diptych.evaluation.context.result import Saturation
from diptych.evaluation.context.saturation import FEWEST, TARGETS, loss_saturation
from diptych.models.language_model import LanguageModel
from diptych.nn.masks import Causal

FLIP = 0.1
"""How often a bit of the lagged source differs from the one `lag` before it."""
SAVED = math.log(2) + FLIP * math.log(FLIP) + (1 - FLIP) * math.log(1 - FLIP)
"""Nats a token that the bit `lag` before tells."""


class Predictor:
    """A `TokenPredictor` over bits by a rule: log-probabilities (b, t, 2) of the next one, un-embedded as they are."""

    vocab_size = 2
    unembedding = torch.eye(2, dtype=torch.float64)
    output_bias = None

    def __init__(self, window: int) -> None:
        self.window = window
        self.reads: list[tuple[int, ...]] = []

    def states(self, x: Int[Tensor, "b t"], *, mask: Mask, **_: Any) -> Float[Tensor, "b t v"]:
        assert isinstance(mask, Causal)
        self.reads.append(tuple(x.shape))
        return self.log_p(x)

    def log_p(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def new_cache(self, batch_size: int, max_length: int) -> None:
        raise AssertionError("every context is read anew")

    def __call__(self, x: Tensor, *, mask: Mask, **_: Any) -> Tensor:
        return self.states(x, mask=mask)


class Lagged(Predictor):
    """The exact predictor of bits that repeat those `lag` before them but for flips: a Markov source of order `lag`."""

    def __init__(self, lag: int, window: int = 10**9) -> None:
        super().__init__(window)
        self.lag = lag

    def log_p(self, x: Tensor) -> Tensor:
        p = torch.full((*x.shape, 2), 0.5, dtype=torch.float64)
        if self.lag <= min(self.window, x.shape[1]):
            known = torch.nn.functional.one_hot(x[:, : x.shape[1] - self.lag + 1], 2).double()
            p[:, self.lag - 1 :] = FLIP + (1 - 2 * FLIP) * known
        return p.log()

    def draw(self, count: int, length: int) -> list[list[int]]:
        rng = np.random.default_rng(0)
        bits = rng.integers(2, size=(count, length))
        flips = rng.random((count, length)) < FLIP
        for place in range(self.lag, length):
            bits[:, place] = bits[:, place - self.lag] ^ flips[:, place]
        return bits.tolist()


class Markov(Predictor):
    """The exact predictor of a stationary Markov source of order `order` with random probabilities: what it has not
    read it sums over."""

    order = 6

    def __init__(self, window: int = 10**9) -> None:
        super().__init__(window)
        rng = np.random.default_rng(1)
        self.one = {past: float(rng.uniform(0.05, 0.95)) for past in product((0, 1), repeat=self.order)}
        states = [*self.one]
        step = np.zeros((len(states), len(states)))
        for i, past in enumerate(states):
            for bit, p in ((0, 1 - self.one[past]), (1, self.one[past])):
                step[i, states.index((*past[1:], bit))] += p
        values, vectors = np.linalg.eig(step.T)
        stationary = np.real(vectors[:, np.argmax(np.real(values))])
        self.share = dict(zip(states, stationary / stationary.sum(), strict=True))

    @cache  # noqa: B019  # of a test's lifetime
    def one_after(self, past: tuple[int, ...]) -> float:
        """P(1 | the last bits)."""
        past = past[-min(self.order, self.window) :]
        mass = {state: p for state, p in self.share.items() if state[self.order - len(past) :] == past}
        return sum(p * self.one[state] for state, p in mass.items()) / sum(mass.values())

    def entropy(self, known: int) -> float:
        """H(x | the last `known` bits) in nats."""
        total = 0.0
        for past in product((0, 1), repeat=min(known, self.order)):
            share = sum(p for state, p in self.share.items() if state[self.order - len(past) :] == past)
            one = self.one_after(past)
            total -= share * (one * math.log(one) + (1 - one) * math.log(1 - one))
        return total

    def log_p(self, x: Tensor) -> Tensor:
        one = torch.zeros(x.shape, dtype=torch.float64)
        for place in range(x.shape[1]):
            past = x[:, max(0, place - self.order + 1) : place + 1]
            table = torch.tensor([self.one_after(bits) for bits in product((0, 1), repeat=past.shape[1])])
            one[:, place] = table[(past * 2 ** torch.arange(past.shape[1]).flip(0)).sum(dim=1)]
        return torch.stack((1 - one, one), dim=-1).log()

    def draw(self, count: int, length: int) -> list[list[int]]:
        rng = np.random.default_rng(2)
        states = [*self.share]
        texts = []
        for _ in range(count):
            bits = list(states[rng.choice(len(states), p=list(self.share.values()))])
            while len(bits) < length:
                bits.append(int(rng.random() < self.one[tuple(bits[-self.order :])]))
            texts.append(bits)
        return texts


def measure(model: Any, texts: list[list[int]], longest: int = 128, shortest: int = 2, **options: Any) -> Saturation:
    return loss_saturation(model, texts, longest=longest, shortest=shortest, **options)


@pytest.mark.parametrize(("lag", "saturation"), [(2, None), (3, 4), (4, 4), (5, 8), (13, 16), (27, 32), (57, 64)])
def test_loss_saturates_at_the_first_length_that_holds_the_lag(lag: int, saturation: int | None) -> None:
    model = Lagged(lag)
    found = measure(model, model.draw(40, 128 + TARGETS))
    assert found.saturation == saturation and not found.censored
    assert found.lengths == (2, 4, 8, 16, 32, 64, 128) and found.n_documents == 40
    for gain in found.gains:
        if gain.length == saturation:
            assert gain.low < SAVED < gain.high and gain.high - gain.low < 0.1
        else:
            assert (gain.gain, gain.low, gain.high) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)
    for length, loss in zip(found.lengths, found.losses, strict=True):
        assert loss == pytest.approx(math.log(2) - SAVED * (length >= lag), abs=0.04)


def test_a_lag_of_the_longest_length_is_censored() -> None:
    model = Lagged(115)
    found = measure(model, model.draw(40, 128 + TARGETS))
    assert found.saturation == 128 and found.censored


def test_gains_of_a_markov_source_are_differences_of_its_entropies() -> None:
    model = Markov()
    found = measure(model, model.draw(60, 32 + TARGETS), longest=32, shortest=1)
    for gain in found.gains:
        exact = model.entropy(gain.length // 2) - model.entropy(gain.length)
        # The interval is 4 standard errors wide.
        assert gain.gain == pytest.approx(exact, abs=max(1e-9, gain.high - gain.low))
    assert found.saturation == 8  # the first that holds all six
    assert [gain.gain for gain in found.gains[-2:]] == pytest.approx([0.0, 0.0], abs=1e-12)
    assert found.losses == pytest.approx([model.entropy(length) for length in found.lengths], abs=0.03)


@pytest.mark.parametrize(("window", "saturation"), [(8, None), (20, 32), (64, 32)])
def test_a_model_that_sees_a_window_saturates_within_it(window: int, saturation: int | None) -> None:
    model = Lagged(19, window)
    assert measure(model, model.draw(40, 128 + TARGETS)).saturation == saturation


def test_losses_of_a_network_are_those_of_reading_each_context_alone() -> None:
    config = TransformerConfig(vocab_size=17, d_model=16, n_layers=2, n_heads=2, max_length=64)
    model = LanguageModel(config).requires_grad_(False).double()
    for parameter in model.parameters():
        parameter.normal_(0.0, 0.4, generator=torch.Generator().manual_seed(parameter.numel()))
    tokens = torch.randint(1, 17, (FEWEST, 40 + TARGETS), generator=torch.Generator().manual_seed(0))
    found = measure(model, tokens.tolist(), longest=40, shortest=8, opening=0)
    assert found.lengths == (10, 20, 40)
    for length, together, loss in zip(found.lengths, (1, 2, 4), found.losses, strict=True):
        total = 0.0
        for ahead in range(together):  # the last of those that are read together has the whole context
            places = range(len(tokens[0]) - 1 - ahead, len(tokens[0]) - 1 - TARGETS, -together)
            read = torch.cat([tokens[:, place - length + ahead : place] for place in places])
            read[:, 0] = 0
            log_p = model(read, mask=Causal())[:, -1].log_softmax(-1)
            total -= float(log_p.gather(1, torch.cat([tokens[:, place, None] for place in places])).sum())
        assert loss == pytest.approx(total / (FEWEST * TARGETS), rel=1e-9)


def test_the_end_of_documents_is_used_at_a_cost_linear_in_the_length() -> None:
    model, events = Lagged(3), list[Event]()
    texts = model.draw(FEWEST, 1024 + TARGETS)
    exact = measure(model, texts, longest=1024, on_event=events.append)
    reads = sum(math.prod(shape) for shape in model.reads)
    assert reads <= FEWEST * sum(max(length, 2 * 8 * TARGETS) for length in exact.lengths)
    assert isinstance(events[-1], Progressed) and events[-1].done == events[-1].total == FEWEST
    longer = [[0, 1] * 50 + text for text in texts]
    assert measure(model, [*longer, [0] * 900], longest=1024) == exact


def test_intervals_are_those_of_documents() -> None:
    """Documents that are all alike tell no more than one: with each three times over, intervals do not shrink to
    those of three times as many."""
    model = Lagged(3)
    texts = model.draw(20, 16 + TARGETS)
    few, same = measure(model, texts, longest=16), measure(model, texts, longest=16, seed=1)
    widths = [found.gains[0].high - found.gains[0].low for found in (few, same)]
    gains = [measure(model, [text] * FEWEST, longest=16).gains[0] for text in texts]
    assert all(gain.low == pytest.approx(gain.gain) == gain.high for gain in gains)
    normal = 2 * 1.96 * np.std([gain.gain for gain in gains]) / math.sqrt(20)
    assert widths == pytest.approx([normal] * 2, rel=0.15) and few != same


def test_refused_too_few_documents_and_lengths_that_cannot_double() -> None:
    model = Lagged(3)
    with pytest.raises(ValueError, match=r"^7 documents have the 192 tokens .* at least 8 are needed"):
        measure(model, [*model.draw(7, 192), *model.draw(30, 191)])
    with pytest.raises(ValueError, match="must be twice the first"):
        measure(model, model.draw(8, 192), longest=3, shortest=2)


def test_refused_a_loss_that_is_no_number() -> None:
    model = Lagged(3)
    model.unembedding = torch.full((2, 2), math.nan, dtype=torch.float64)
    with pytest.raises(ValueError, match="no finite number"):
        measure(model, model.draw(FEWEST, 192))
