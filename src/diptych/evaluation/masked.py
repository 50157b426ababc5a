"""How well does an encoder guess masked words?

Its loss and its share of right guesses at the positions that its own training would select, beside what the frequencies
of tokens alone give: a network that has learnt nothing from context is no better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diptych.core.events import Handler, Progressed, ignore
from diptych.core.random import Rng
from diptych.core.types import TokenPredictor
from diptych.data.packing import TokenStore
from diptych.data.stream import SequenceStream
from diptych.objectives.masked_lm import MaskedLanguageModel


@dataclass(frozen=True, kw_only=True)
class MaskedScore:
    """Guesses at selected tokens: a share of them, of which most are masked, some replaced and some left."""

    nats: float
    """Sum of the negative log-likelihoods of the tokens."""
    right: int
    """Tokens to which the network gives the largest probability."""
    count: int
    unigram_nats: float
    """The same sum by the frequencies of the tokens in this very text, which is the best that frequencies can do."""
    most_frequent: int
    """How many of the tokens are the most frequent one of this text."""


def score_masked(
    model: TokenPredictor,
    objective: MaskedLanguageModel,
    store: TokenStore,
    *,
    sequence_length: int,
    batch_size: int = 16,
    seed: int = 0,
    on_event: Handler = ignore,
) -> MaskedScore:
    """Every whole sequence of the store once, its positions selected by `seed`. ValueError where there is none."""
    stream = SequenceStream(store, sequence_length, shuffle=False)
    counts = np.bincount(store.tokens, minlength=objective.ordinary.shape[0])
    counts = np.where(objective.ordinary.numpy(), counts[: objective.ordinary.shape[0]], 0)
    surprise = -np.log(np.maximum(counts, 1) / counts.sum())
    nats = unigram = 0.0
    right = count = frequent = 0
    rows = len(stream)
    for start in range(0, rows, batch_size):
        size = min(batch_size, rows - start)
        # The rows from `start` on: a whole batch, or the last rows one by one.
        steps = [(start // batch_size, batch_size)] if size == batch_size else [(start + i, 1) for i in range(size)]
        for step, of in steps:
            batch = stream.batch(step, of).to(model.unembedding.device)
            losses, guesses, tokens = objective.scores(model, batch, Rng(seed))
            truth = tokens.cpu().numpy()
            nats += float(losses.double().sum())
            right += int((guesses == tokens).sum())
            unigram += float(surprise[truth].sum())
            frequent += int((truth == counts.argmax()).sum())
            count += len(truth)
        on_event(Progressed(what="scoring", done=start + size, total=rows, unit="sequences"))
    return MaskedScore(nats=nats, right=right, count=count, unigram_nats=unigram, most_frequent=frequent)
