"""How does a network learn to write a text in any order, and what probability does it give one?

Masked diffusion (Sahoo et al. 2024, MDLM; Nie et al. 2025, LLaDA): the forward process hides each token behind a mask
with a probability that grows with time, and the network tells the hidden tokens from the visible ones on both sides.
-log p(x) is at most

    integral of -alpha'/(1 - alpha) E[sum over hidden i of -log p(x_i | visible)] dt
        =  sum over k = 1..n of E[mean over hidden i of -log p(x_i | visible)],  k of the n tokens hidden.

Block diffusion (Arriola et al. 2025, BD3-LM): the same within each block of a text, given the blocks before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.text_diffusion_config import TextDiffusionConfig
from diptych.core.types import Batch, Likelihood, Loss, TokenPredictor
from diptych.diffusion.discrete import build_alpha_schedule
from diptych.nn.masks import Full
from diptych.nn.patterns import BlockDiffusion
from diptych.objectives.cross_entropy import SliceLoss, cross_entropy_each, cross_entropy_sum, slice_loss

OVER_ROWS, OVER_BLOCKS = (math.sqrt(5.0) - 1.0) / 2.0, math.sqrt(2.0) - 1.0
"""Steps modulo 1 by which times are spread: multiples of a badly approximable number leave no large gaps."""


@dataclass(frozen=True, eq=False)
class Targets:
    """The tokens to tell of each row, by blocks: `length` of them in blocks of equal size, the last one padded.

    counted (b, blocks, size): which of them are targets at all. n (b, blocks): how many a block has.
    """

    length: int
    counted: Bool[Tensor, "b j s"]
    n: Int[Tensor, "b j"]

    def by_block(self, values: Tensor, fill: float) -> Tensor:
        """(b, length) as (b, blocks, size), `fill` where there is no target."""
        _, blocks, size = self.counted.shape
        padded = F.pad(values, (0, blocks * size - self.length), value=fill)
        return padded.view(-1, blocks, size).masked_fill(~self.counted, fill)

    def by_row(self, values: Tensor) -> Tensor:
        """(b, blocks, size) as (b, length)."""
        return values.flatten(1)[:, : self.length]

    def order(self, uniform: Float[Tensor, "b t"]) -> Int[Tensor, "b j s"]:
        """Each target's place, from 0, in a random order of those of its block."""
        return self.by_block(uniform, math.inf).argsort(-1).argsort(-1)


@final
class Dealt:
    """Subsets of each block's targets, each as good as drawn alone, and disjoint while there are targets left.

    Targets are dealt in a random order; where too few are left for a subset, all are dealt anew.
    """

    def __init__(self, targets: Targets, sample_ids: Int[Tensor, " b"], rng: Rng) -> None:
        self.targets, self.sample_ids, self.rng, self.calls = targets, sample_ids, rng, 0
        self.first = targets.n  # as if all had been dealt
        self.order = torch.zeros_like(targets.counted, dtype=torch.long)

    def next(self, k: Int[Tensor, "b j"]) -> Bool[Tensor, "b j s"]:
        """A subset of `k` of the targets of each block."""
        uniform = self.rng.uniform(f"order {self.calls}", self.sample_ids, self.targets.length)
        anew = self.first + k > self.targets.n
        self.order = torch.where(anew[..., None], self.targets.order(uniform), self.order)
        first = torch.where(anew, 0, self.first)
        self.first, self.calls = first + k, self.calls + 1
        return (self.order >= first[..., None]) & (self.order < self.first[..., None]) & self.targets.counted


@final
@dataclass(frozen=True)
class MaskedDiffusion:
    """Predict hidden tokens of x[:, 1:], by blocks of `config.block_length` if it is given.

    x[:, 0] is given and never hidden, and so are targets that do not count. The network reads the whole row, and what
    it says at a position is about the token of that position. It gives the mask token no probability. Noise is keyed by
    the row's sample id; the times of a training step are spread evenly over its rows and their blocks.
    """

    config: TextDiffusionConfig
    mask_id: int
    slice_loss: SliceLoss = slice_loss

    def loss(self, model: TokenPredictor, batch: Batch, rng: Rng) -> Loss:
        """An unbiased estimate of the bound in nats, summed over rows, with gradients; its terms are the targets that
        count. Raises ValueError for a batch whose documents are kept apart."""
        targets = self._targets(batch, batch.counted)
        hidden, weight = self._hide(targets, batch, rng)
        states, tokens, at = self._hidden_states(model, batch.x, targets.by_row(hidden))
        total = cross_entropy_sum(
            states,
            model.unembedding,
            tokens,
            self.slice_loss,
            bias=self._bias(model),
            scale=targets.by_row(weight.expand(hidden.shape)).flatten()[at],
        )
        return Loss(total=total, count=int(targets.n.sum()))

    @torch.no_grad()
    def likelihood(
        self,
        model: TokenPredictor,
        batch: Batch,
        rng: Rng,
        counted: Bool[Tensor, "b t"] | None = None,
        *,
        draws: int = 16,
    ) -> Likelihood:
        """The bound on each row's negative log-likelihood in nats and its standard error; of the targets that are
        `counted`, if given. In blocks of one token it is exact.

        `draws` evaluations of the network a row, half of them for each of two independent estimates. The numbers of
        hidden tokens come in pairs from equal parts of 1..n, opposite each other in their part, so that what is linear
        in them cancels; and successive draws hide different tokens until all have been hidden. The standard error is
        half the difference of the two estimates, block by block: right on average over blocks and rows, and rough for a
        single one. Raises ValueError for `draws` that are no multiple of 4, or documents that are kept apart.
        """
        if draws < 4 or draws % 4:
            raise ValueError(
                f"draws={draws} must be a multiple of 4: two estimates by pairs of numbers of hidden tokens"
            )
        targets = self._targets(batch, batch.counted if counted is None else counted)
        count = targets.n.sum(1)
        if self.config.block_length == 1:
            nats = self.hidden_nats(model, batch.x, targets.by_row(targets.counted)).sum(1)
            return Likelihood(nats=nats, count=count, kind="exact")
        one, other = (self._bound(model, batch, targets, rng.fold("estimate", i), draws // 2) for i in (0, 1))
        error = (0.5 * (one - other)).square().sum(1).sqrt()
        return Likelihood(nats=(0.5 * (one + other)).sum(1), count=count, kind="bound", standard_error=error)

    def _bound(
        self, model: TokenPredictor, batch: Batch, targets: Targets, rng: Rng, draws: int
    ) -> Float[Tensor, "b j"]:
        """An unbiased estimate of each block's bound."""
        parts, n = draws // 2, targets.n
        places = rng.uniform("numbers", batch.sample_ids, parts, n.shape[1])
        dealt = Dealt(targets, batch.sample_ids, rng)
        total = torch.zeros_like(places[:, 0])
        for part in range(parts):
            for place in (places[:, part], 1.0 - places[:, part]):
                k = torch.minimum(((part + place) / parts * n).long() + 1, n.clamp(min=1))
                each = self.hidden_nats(model, batch.x, targets.by_row(dealt.next(k)))
                total += targets.by_block(each, 0.0).sum(-1) * n / k
        return total / draws

    @torch.no_grad()
    def hidden_nats(
        self, model: TokenPredictor, x: Int[Tensor, "b l"], hidden: Bool[Tensor, "b t"]
    ) -> Float[Tensor, "b t"]:
        """-log p(token | visible) in nats of each hidden target of x[:, 1:], 0 of the others; float64."""
        states, tokens, at = self._hidden_states(model, x, hidden)
        each = cross_entropy_each(states, model.unembedding, tokens, self._bias(model)).double()
        return each.new_zeros(hidden.numel()).index_copy(0, at, each).view(hidden.shape)

    def _targets(self, batch: Batch, counted: Tensor | None) -> Targets:
        if batch.documents is not None:
            raise ValueError("masked diffusion reads both sides, so documents cannot be kept apart in a row")
        b, length = batch.x.shape[0], batch.x.shape[1] - 1
        size = min(length, self.config.block_length or length)
        counted = torch.ones_like(batch.x[:, 1:], dtype=torch.bool) if counted is None else counted
        padded = F.pad(counted, (0, -length % size)).view(b, -1, size)
        return Targets(length, padded, padded.sum(-1))

    def _hide(self, targets: Targets, batch: Batch, rng: Rng) -> tuple[Tensor, Tensor]:
        """Which targets are hidden, (b, blocks, size), and what their losses are multiplied by, (b, blocks, 1)."""
        uniform = rng.uniform("hide", batch.sample_ids, targets.length)
        spread = self._spread(batch, rng, targets.n.shape[1])[..., None]
        n = targets.n[..., None]
        if self.config.estimator == "count":
            k = (spread * n).long() + 1
            return (targets.order(uniform) < k) & targets.counted, n.double() / k
        schedule = build_alpha_schedule(self.config.schedule)
        gone = 1.0 - schedule.alpha(spread)
        return targets.by_block(uniform, 1.0) < gone, -schedule.slope(spread) / gone

    def _spread(self, batch: Batch, rng: Rng, blocks: int) -> Float[Tensor, "b j"]:
        """Uniform numbers in [0, 1), each alone; together they leave no large gaps among the blocks of a row, nor among
        rows that have places in a step."""
        ids = batch.sample_ids
        if batch.places is None:
            first = rng.uniform("time", ids)
        else:
            first = rng.uniform("time", ids.new_zeros(1)) + batch.places * OVER_ROWS
        return (first[:, None] + torch.arange(blocks, device=ids.device) * OVER_BLOCKS) % 1.0

    def _hidden_states(
        self, model: TokenPredictor, x: Int[Tensor, "b l"], hidden: Bool[Tensor, "b t"]
    ) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"], Int[Tensor, " n"]]:
        """What the network makes of the hidden targets, their tokens, and where they stand among all b t targets."""
        tokens = x[:, 1:]
        noisy = tokens.masked_fill(hidden, self.mask_id)
        length, block = tokens.shape[1], self.config.block_length
        if block is None:
            states = model.states(torch.cat((x[:, :1], noisy), dim=1), mask=Full())[:, 1:]
        else:
            clean = torch.arange(length + 1, device=x.device)
            states = model.states(
                torch.cat((noisy, x), dim=1),
                mask=BlockDiffusion(block, length, given=1),
                positions=torch.cat((clean[1:], clean))[None],
            )[:, :length]
        at = hidden.flatten().nonzero()[:, 0]
        return states.flatten(0, 1)[at], tokens.flatten()[at], at

    def _bias(self, model: TokenPredictor) -> Float[Tensor, " v"]:
        """The network's own bias, without the mask token."""
        weight, own = model.unembedding, model.output_bias
        bias = weight.new_zeros(weight.shape[0]) if own is None else own
        excluded = torch.arange(len(bias), device=bias.device) == self.mask_id
        return bias.masked_fill(excluded, -math.inf)
