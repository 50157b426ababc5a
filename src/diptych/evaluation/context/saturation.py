"""Up to which length does more context still lower the loss?

The gain of L tokens of context over L/2 on the same targets, G(L) = E[loss(x | last L/2) - loss(x | last L)] in nats,
for lengths that double. The loss saturates at the longest L whose gain is surely above a threshold. It is no
effective context length: most of the loss is decided by near tokens (Khandelwal et al. 2018, section 3), and a model
may use far ones that a text hardly ever asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from diptych.core.events import Handler, Progressed, ignore
from diptych.core.random import Rng
from diptych.core.types import TokenPredictor
from diptych.evaluation.context.result import Gain, Saturation
from diptych.nn.embedding import unembed
from diptych.nn.masks import Causal

TARGETS = 64
"""Last tokens of a document whose loss is taken; a power of two."""

EPSILON = 0.005
"""Nats a token that a gain must surely exceed."""

FEWEST = 8
"""Documents: the bootstrap of fewer tells too narrow an interval."""

RESAMPLES = 2000

SHARE = 8
"""Targets that are scored in one pass of L tokens are at most L / 8, so that the nearest to its beginning has at least
7/8 L tokens before it. One pass for each would be 8 times slower and more."""

_TOKENS = 8192
"""Tokens in a batch of passes, at most, where one pass is not longer."""


@torch.inference_mode()
def loss_saturation(
    model: TokenPredictor,
    texts: Sequence[Sequence[int]],
    *,
    longest: int,
    shortest: int = 16,
    opening: int | None = None,
    seed: int = 0,
    on_event: Handler = ignore,
) -> Saturation:
    """Losses and gains at lengths that double up to `longest` tokens, from `shortest` on or a little below.

    texts: tokens of documents, of each of which the last `longest` + `TARGETS` are used; shorter ones are left out.
    opening:
    the token that opens documents, where a model expects one; it then takes the place of the farthest token of each
    context, so that every context is one that the model knows. Intervals are 95 % percentile bootstraps over documents.
    Raises ValueError where fewer than `FEWEST` documents are long enough, or for a loss that is no number.
    """
    if not 1 <= shortest <= longest // 2:
        raise ValueError(
            f"lengths that double from {shortest} to {longest} tokens: the longest must be twice the first"
        )
    needed = longest + TARGETS
    documents = [text[-needed:] for text in texts if len(text) >= needed]
    if len(documents) < FEWEST:
        raise ValueError(
            f"{len(documents)} documents have the {needed:,} tokens that losses after {longest:,} take, and at least "
            f"{FEWEST} are needed; give longer documents, or ask for a shorter context"
        )
    lengths = _doubling(shortest, longest)
    losses = torch.zeros(len(documents), len(lengths), dtype=torch.float64)
    for number, document in enumerate(documents):
        for column, length in enumerate(lengths):
            losses[number, column] = last_loss(model, document, length, opening)
        on_event(Progressed(what="loss by context", done=number + 1, total=len(documents), unit="documents"))
    if not bool(losses.isfinite().all()):
        raise ValueError("the model's loss is no finite number; its weights are damaged or its dtype too narrow")
    gains = _gains(losses, lengths, seed)
    above = [gain.length for gain in gains if gain.low > EPSILON]
    return Saturation(
        epsilon=EPSILON,
        n_documents=len(documents),
        lengths=lengths,
        losses=tuple(losses.mean(dim=0).tolist()),
        gains=gains,
        saturation=max(above, default=None),
        censored=longest in above,
    )


def _doubling(shortest: int, longest: int) -> tuple[int, ...]:
    """`longest`, and its halves down to the last that is at least `shortest`."""
    halvings = int(math.log2(longest / shortest))
    return tuple(longest >> step for step in range(halvings, -1, -1))


def last_loss(model: TokenPredictor, document: Sequence[int], length: int, opening: int | None) -> float:
    """Mean loss in nats of a document's last `TARGETS` tokens, each after the `length` tokens before it or up to one
    part in `SHARE` less."""
    together = min(TARGETS, 1 << max(0, (length // SHARE).bit_length() - 1))
    ends = range(len(document) - 1, len(document) - 1 - TARGETS, -together)
    rows = torch.tensor([document[end - length : end + 1] for end in ends], device=model.unembedding.device)
    if opening is not None:
        rows[:, 0] = opening
    parts = rows.split(max(1, _TOKENS // length))
    return sum(float(_nats(model, part, together).sum()) for part in parts) / TARGETS


def _nats(model: TokenPredictor, rows: Tensor, together: int) -> Float[Tensor, "n k"]:
    """Losses of the last `together` tokens of rows (n, length + 1)."""
    states = model.states(rows[:, :-1], mask=Causal())[:, -together:]
    logits = unembed(states, model.unembedding, model.output_bias)
    log_p = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
    return -log_p.gather(2, rows[:, -together:, None])[..., 0].double()


def _gains(losses: Float[Tensor, "n m"], lengths: Sequence[int], seed: int) -> tuple[Gain, ...]:
    """Mean differences of neighbouring columns, with their intervals over the rows."""
    n = len(losses)
    gains = losses[:, :-1] - losses[:, 1:]
    chosen = (Rng(seed).uniform("documents", torch.arange(RESAMPLES), n) * n).long()
    ends = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = (gains[chosen].mean(dim=1).quantile(end, dim=0) for end in ends)
    return tuple(
        Gain(length=length, gain=float(gains[:, column].mean()), low=float(low[column]), high=float(high[column]))
        for column, (_, length) in enumerate(pairwise(lengths))
    )
