"""How well do runs of both paradigms predict the same held-out rows, and how far apart are they?

Every row is scored on its own, so that likelihoods that are exact and bounds that are estimated pair up row by row:
what makes a row hard for both falls out of their difference.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch

from diptych.core.events import Handler, Progressed, ignore
from diptych.core.random import Rng
from diptych.data.stream import windows
from diptych.evaluation.compare_runs import Contender
from diptych.objectives.autoregressive import Autoregressive
from diptych.training.prepare import text_diffusion


@dataclass(frozen=True, kw_only=True)
class RowScores:
    """Negative log-likelihood of each held-out row in nats, exact or a bound."""

    kind: Literal["exact", "bound"]
    nats: tuple[float, ...]
    standard_errors: tuple[float, ...]
    """Of each row's estimate; 0 where it is exact."""
    counts: tuple[int, ...]
    """Targets of each row."""
    n_bytes: tuple[int, ...]
    """Bytes of text that they stand for."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, kw_only=True)
class HeldoutScore:
    """A run's score on the rows, and its distance from autoregression."""

    run: str
    kind: Literal["exact", "bound"]
    n_rows: int
    n_tokens: int
    n_bytes: int
    nats_per_token: float
    bits_per_byte: float
    bits_per_byte_error: float
    """Of the estimate of a bound on these very rows; 0 where the likelihood is exact."""
    difference: Estimate | None
    """Nats a token more than the first autoregressive run, over rows; None: it is that run, or rows do not pair up."""
    bits_difference: Estimate | None
    """The same in bits per byte."""
    relative_gap: float | None
    """The difference as a share of the autoregressive run's nats a token."""


@dataclass(frozen=True)
class Published:
    """Test perplexities on LM1B of a diffusion of text and of autoregression on the same network."""

    name: str
    source: str
    perplexity: float
    autoregressive: float

    @property
    def relative_gap(self) -> float:
        """ln(perplexity / autoregressive) / ln autoregressive: nats a token more, as a share."""
        return math.log(self.perplexity / self.autoregressive) / math.log(self.autoregressive)


PUBLISHED: Final = (
    Published("masked diffusion (MDLM)", "Sahoo et al. 2024", 23.0, 20.1),
    Published("masked diffusion (MDLM)", "Arriola et al. 2025", 31.8, 22.8),
    Published("block diffusion, blocks of 4 (BD3-LM)", "Arriola et al. 2025", 28.2, 22.8),
)


@torch.no_grad()
def score_rows(
    contender: Contender,
    *,
    rows: int | None,
    draws: int,
    batch_size: int = 16,
    seed: int = 0,
    on_event: Handler = ignore,
) -> RowScores:
    """Score the first `rows` rows of a run's held-out text (None: all), each of its training length, without overlap.

    A row's targets are the same in both paradigms. Documents are kept apart where they were in training. draws:
    evaluations of the network for a row's bound.
    """
    store, device, rng = contender.heldout, contender.model.unembedding.device, Rng(seed)
    diffusion = None if contender.is_autoregressive else text_diffusion(contender.run, contender.tokenizer)
    whole = -(-(store.n_tokens - 1) // contender.length)
    total = whole if rows is None else min(rows, whole)
    nats, errors, counts, sizes = list[float](), list[float](), list[int](), list[int]()
    kind: Literal["exact", "bound"] = "exact"
    masked = contender.run.data.document_mask
    for window in windows(store, contender.length, contender.length, batch_size, document_mask=masked):
        batch = window.batch.rows(0, total - len(nats))
        counted = window.counted[: total - len(nats)]
        placed = batch.to(device)
        if diffusion is None:
            likelihood = Autoregressive().likelihood(contender.model, placed, rng, counted.to(device))
        else:
            likelihood = diffusion.likelihood(contender.model, placed, rng, draws=draws)
        kind = likelihood.kind  # of blocks of one token it is exact too
        nats += likelihood.nats.tolist()
        error = likelihood.standard_error
        errors += [0.0] * len(counted) if error is None else error.tolist()
        counts += likelihood.count.tolist()
        sizes += store.token_lengths[batch.x[:, 1:].numpy()].sum(1).tolist()
        on_event(Progressed(what=f"scoring {contender.path}", done=len(nats), total=total, unit="rows"))
        if len(nats) == total:
            break
    if not all(map(math.isfinite, nats)):
        raise ValueError(f"{contender.path}: the likelihood is no finite number; the weights are damaged")
    return RowScores(
        kind=kind,
        nats=tuple(nats),
        standard_errors=tuple(errors),
        counts=tuple(counts),
        n_bytes=tuple(sizes),
    )


@torch.no_grad()
def training_score_noise(contender: Contender, *, repeats: int = 8, seed: int = 0) -> float:
    """Standard deviation in bits per byte of a held-out score as training takes them, of one draw a row, over `repeats`
    draws with the weights that were kept; 0 for autoregression, which draws nothing."""
    if contender.is_autoregressive:
        return 0.0
    objective, stream = text_diffusion(contender.run, contender.tokenizer), contender.heldout_stream
    rows, size = min(len(stream), contender.run.train.eval_sequences), contender.run.train.batch_size
    batch = stream.batch(0, rows).to(contender.model.unembedding.device)
    nats = []
    for repeat in range(repeats):
        rng = Rng(seed).fold("noise", repeat)
        parts = (batch.rows(start, start + size) for start in range(0, rows, size))
        nats.append(sum(float(objective.loss(contender.model, part, rng).total) for part in parts))
    return statistics.stdev(nats) / math.log(2) / batch.n_bytes


def heldout_score(run: str, scores: RowScores, reference: RowScores | None) -> HeldoutScore:
    """A run's score from its rows, beside those of the autoregressive run that they pair up with, if any.

    Raises ValueError where the rows do not pair up.
    """
    nats, n_tokens, n_bytes = sum(scores.nats), sum(scores.counts), sum(scores.n_bytes)
    to_bits = 1 / math.log(2) / n_bytes
    difference = bits = gap = None
    if reference is not None:
        difference = paired_difference(scores, reference)
        factor = n_tokens * to_bits
        bits = Estimate(value=difference.value * factor, error=difference.error * factor)
        gap = difference.value * n_tokens / sum(reference.nats)
    return HeldoutScore(
        run=run,
        kind=scores.kind,
        n_rows=len(scores.nats),
        n_tokens=n_tokens,
        n_bytes=n_bytes,
        nats_per_token=nats / n_tokens,
        bits_per_byte=nats * to_bits,
        bits_per_byte_error=math.hypot(*scores.standard_errors) * to_bits,
        difference=difference,
        bits_difference=bits,
        relative_gap=gap,
    )


def paired_difference(scores: RowScores, reference: RowScores) -> Estimate:
    """Mean difference in nats a token over paired rows, with the standard error of that mean.

    The error holds the differences between rows and, in them, that of the bounds' estimates. Raises ValueError for rows
    that do not pair up.
    """
    if scores.counts != reference.counts:
        raise ValueError("the rows of two runs do not have the same targets, so they do not pair up")
    return ratio([a - b for a, b in zip(scores.nats, reference.nats, strict=True)], scores.counts)


def ratio(values: Sequence[float], sizes: Sequence[float]) -> Estimate:
    """sum(values) / sum(sizes) over rows and its standard error: that of a mean where all sizes are equal, else of the
    ratio to first order (Cochran 1977, section 6.4). One row has none: nan."""
    v, s = np.asarray(values, np.float64), np.asarray(sizes, np.float64)
    value = v.sum() / s.sum()
    spread = ((v - value * s) ** 2).sum()
    error = math.sqrt(spread * len(v) / (len(v) - 1)) / s.sum() if len(v) > 1 else math.nan
    return Estimate(value=float(value), error=float(error))
