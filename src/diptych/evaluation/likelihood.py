"""How well does a model predict a text?

Negative log-likelihood in nats by the objective's own `likelihood`, over overlapping windows in which every token is
scored exactly once; in bits per byte it compares across tokenizers, compressors and paradigms.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from diptych.core.events import Handler, Progressed, ignore
from diptych.core.random import Rng
from diptych.core.types import Batch, Likelihood, TokenPredictor
from diptych.data.packing import TokenStore
from diptych.data.stream import windows
from diptych.objectives.autoregressive import Autoregressive


@dataclass(frozen=True, kw_only=True)
class TextScore:
    """Likelihood of a corpus: its documents' tokens and ends in nats, and their size in bytes."""

    nats: float
    n_tokens: int
    n_bytes: int
    kind: Literal["exact", "bound"]

    @property
    def bits_per_byte(self) -> float:
        """nats / ln 2 / bytes; infinite for a text of no bytes."""
        return self.nats / math.log(2) / self.n_bytes if self.n_bytes else math.inf

    @property
    def perplexity(self) -> float:
        """exp(nats / tokens), which depends on the tokenizer."""
        return math.exp(min(700.0, self.nats / self.n_tokens))


@dataclass(frozen=True, kw_only=True)
class TextBound(TextScore):
    """A bound of a corpus's likelihood, of which `nats` is an estimate with this standard error in nats."""

    standard_error: float

    @property
    def bits_per_byte_error(self) -> float:
        """The standard error in bits per byte."""
        return self.standard_error / math.log(2) / self.n_bytes if self.n_bytes else math.inf


class BoundedObjective(Protocol):
    """An objective whose bound takes a number of evaluations a row."""

    def likelihood(self, model: TokenPredictor, batch: Batch, rng: Rng, *, draws: int) -> Likelihood:
        """The bound of each row with its standard error."""
        ...


@torch.no_grad()
def score_bound(
    model: TokenPredictor,
    store: TokenStore,
    objective: BoundedObjective,
    *,
    context: int,
    draws: int,
    batch_size: int = 16,
    seed: int = 0,
    on_event: Handler = ignore,
) -> TextBound:
    """Bound every token of a store once, in sequences of `context` tokens that know nothing of one another.

    Raises ValueError for an empty store.
    """
    if store.n_tokens < 2:
        raise ValueError("there is no text to score; name data that holds some")
    device, rng = model.unembedding.device, Rng(seed)
    kind: Literal["exact", "bound"] = "bound"
    nats, variance, count, total = 0.0, 0.0, 0, store.n_tokens - 1
    for window in windows(store, context, context, batch_size, document_mask=False):
        likelihood = objective.likelihood(model, window.batch.to(device), rng, draws=draws)
        nats += float(likelihood.nats.sum())
        if likelihood.standard_error is not None:  # blocks of one token are exact
            variance += float(likelihood.standard_error.square().sum())
        count, kind = count + int(likelihood.count.sum()), likelihood.kind
        on_event(Progressed(what="scoring", done=count, total=total, unit="tokens"))
    if not math.isfinite(nats):
        raise ValueError("the model's likelihood is no finite number; its weights are damaged or its dtype too narrow")
    return TextBound(nats=nats, n_tokens=count, n_bytes=store.n_bytes, kind=kind, standard_error=math.sqrt(variance))


def score_store(
    model: TokenPredictor,
    store: TokenStore,
    *,
    context: int,
    stride: int,
    batch_size: int = 16,
    document_mask: bool = True,
    on_event: Handler = ignore,
) -> TextScore:
    """Score every token of a store once, with at least `context - stride` tokens before it where there are any.

    With `document_mask` no document sees the one before it. Raises ValueError for an empty store or a stride outside
    1..context.
    """
    if store.n_tokens < 2:
        raise ValueError("there is no text to score; name data that holds some")
    device = model.unembedding.device
    objective, rng = Autoregressive(), Rng(0)
    openings = 0 if store.opening_id is None else store.n_documents - 1
    nats, count, total = 0.0, 0, store.n_tokens - 1 - openings
    last_report = 0.0
    for window in windows(store, context, stride, batch_size, document_mask=document_mask):
        likelihood = objective.likelihood(model, window.batch.to(device), rng, window.counted.to(device))
        nats += float(likelihood.nats.sum())
        count += int(likelihood.count.sum())
        if time.monotonic() - last_report > 0.2 or count == total:
            last_report = time.monotonic()
            on_event(Progressed(what="scoring", done=count, total=total, unit="tokens"))
    if not math.isfinite(nats):
        raise ValueError("the model's likelihood is no finite number; its weights are damaged or its dtype too narrow")
    return TextScore(nats=nats, n_tokens=count, n_bytes=store.n_bytes, kind="exact")
