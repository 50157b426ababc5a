"""How does a network learn text from noise of other tokens?

Uniform diffusion (Austin et al. 2021; Schiff et al. 2024): the forward process leaves a token with probability alpha(t)
and else puts one there that is drawn evenly from the whole vocabulary; the loss is the continuous-time bound on
-log p(x). Nothing marks what was replaced, so whatever stands on the canvas may be revised until the end.

The softmax at position i is read as the distribution x_theta of x_i given all *other* positions of z; what z_i itself
tells of x_i, alpha(t) being known, the formulas add. The bound is tight where x_theta is that leave-one-out posterior
(Gourevitch et al. 2026), not where it is the posterior given all of z.
"""

from __future__ import annotations

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
from diptych.nn.precision import matmul_dtype
from diptych.objectives.cross_entropy import CHUNK_ELEMENTS, SliceLoss, cross_entropy_sum
from diptych.objectives.masked_diffusion import OVER_ROWS

EARLIEST = 1e-4
"""Times are clipped to [EARLIEST, 1 - EARLIEST], for a replaced token weighs 1 / (1 - alpha). Below, the integrand
grows by at most -alpha' log(1 / t) a token, so that the bound comes out too small by at most 1.6e-4 nats a token (1e-4
under the linear schedule, 1e-8 under the square one); above, it falls to zero, and the bound comes out larger, by 1e-6
to 1e-3 nats a token, the more tokens there are."""


def divergence(
    logits: Float[Tensor, "n v"], x: Int[Tensor, " n"], z: Int[Tensor, " n"], odds: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """How far the model's rates of going back from z are from the true ones given x, in units of one forward rate.

    Of tokens j = 1, ..., N, the true rate z -> j is b_j = q(j | x) / q(z | x) with q(j | x) ~ 1 + odds [j = x], and the
    model's is r_j = (1 + odds p_j) / (1 + odds p_z) with p = softmax(logits). The sum over j != z of
    r_j - b_j + b_j log(b_j / r_j) is the Kullback-Leibler divergence of the two jump processes in unit time. All of it
    but sum_j log(1 + odds p_j) needs p at x and z only.

    logits: (n, v), v = N. odds: N alpha / (1 - alpha), float64. Returns (n), float64.
    """
    n = logits.shape[1]
    p = (logits if logits.dtype == torch.float64 else logits.float()).softmax(-1)
    # Sums of nonnegative terms that scale with odds: float32 keeps their relative precision at both ends of time, and
    # log(alpha N p + 1 - alpha) would not.
    total = torch.log1p(odds.to(p.dtype)[:, None] * p).sum(-1).double()
    p_z, p_x = p.gather(1, z[:, None])[:, 0].double(), p.gather(1, x[:, None])[:, 0].double()
    at_z, at_x, at_truth = torch.log1p(odds * p_z), torch.log1p(odds * p_x), torch.log1p(odds)
    share = 1.0 / (1.0 + odds * p_z)
    kept = ((n + odds) * odds * (1.0 - p_z) * share - (n - 1) * at_truth - total + n * at_z) / (1.0 + odds)
    replaced = (1.0 + odds) * at_truth - (n + odds) * odds * p_z * share - total + n * at_z - odds * (at_x - at_z)
    return torch.where(x == z, kept, replaced)


@final
@dataclass(frozen=True)
class UniformDiffusion:
    """Denoise x[:, 1:] of `vocab_size` tokens; x[:, 0], and whatever does not count, is given and never replaced.

    The network sees the whole noisy row from both sides, and its output at a position predicts that position.
    """

    config: TextDiffusionConfig
    vocab_size: int

    def loss(self, model: TokenPredictor, batch: Batch, rng: Rng) -> Loss:
        """An unbiased estimate of the bound in nats, summed over the targets of all rows, at one time a row.

        Times of rows that have places in a step leave no large gaps. Raises ValueError where the network's vocabulary
        is another one.
        """
        ids, places = batch.sample_ids, batch.places
        t = rng.uniform("time", ids)
        if places is not None:
            t = (rng.uniform("time", ids.new_zeros(1)) + places * OVER_ROWS) % 1.0
        states, told = self._noisy(model, batch, t, rng)
        if torch.is_grad_enabled():
            rows = torch.arange(len(states), device=states.device)
            total = cross_entropy_sum(states, model.unembedding, rows, told.slice_loss(), bias=model.output_bias)
        else:
            total = told.each(states, model.unembedding, model.output_bias).sum()
        return Loss(total=total, count=len(states))

    @torch.no_grad()
    def likelihood(self, model: TokenPredictor, batch: Batch, rng: Rng, *, draws: int = 32) -> Likelihood:
        """The bound of each row in nats, an estimate from `draws` evaluations with its standard error.

        Two times at random lie in each of draws / 2 equal parts of [0, 1]: half their difference is that part's
        standard error. Raises ValueError for odd or no `draws`.
        """
        if draws < 2 or draws % 2:
            raise ValueError(f"draws={draws} must be even and at least 2: two in each part of the times")
        ids, parts = batch.sample_ids, draws // 2
        at = rng.uniform("times", ids, parts, 2)
        counted = _counted(batch)
        nats = torch.zeros(len(ids), dtype=torch.float64, device=batch.x.device)
        variance = torch.zeros_like(nats)
        for part in range(parts):
            pair = []
            for i in (0, 1):
                states, told = self._noisy(model, batch, (part + at[:, part, i]) / parts, rng.fold(part, i))
                each = told.each(states, model.unembedding, model.output_bias)
                pair.append(torch.zeros(counted.shape, dtype=each.dtype, device=each.device))
                pair[i][counted] = each
            first, second = pair[0].sum(1), pair[1].sum(1)
            nats += (first + second) / draws
            variance += ((first - second) / draws).square()
        return Likelihood(nats=nats, count=counted.sum(1), kind="bound", standard_error=variance.sqrt())

    def corrupt(
        self, x: Int[Tensor, "b t"], alpha: Float[Tensor, " b"], sample_ids: Int[Tensor, " b"], rng: Rng
    ) -> Int[Tensor, "b t"]:
        """The forward process: each token stays with probability alpha, else one drawn evenly from all takes its
        place."""
        stays = rng.uniform("stays", sample_ids, x.shape[1]) < alpha[:, None]
        return torch.where(stays, x, (rng.uniform("token", sample_ids, x.shape[1]) * self.vocab_size).long())

    def _noisy(self, model: TokenPredictor, batch: Batch, t: Tensor, rng: Rng) -> tuple[Tensor, _Told]:
        """The network's states at the targets that count, of the rows at times t (b), and what is to be told there."""
        n = self.vocab_size
        if len(model.unembedding) != n:
            raise ValueError(f"the network predicts {len(model.unembedding)} tokens and the noise draws from {n}")
        schedule, counted = build_alpha_schedule(self.config.schedule), _counted(batch)
        t = t.clamp(EARLIEST, 1.0 - EARLIEST)
        alpha, x = schedule.alpha(t), batch.x[:, 1:]
        z = torch.where(counted, self.corrupt(x, alpha, batch.sample_ids, rng), x)
        states = model.states(torch.cat([batch.x[:, :1], z], 1), mask=Full(), time=t, positions=batch.positions)[:, 1:]
        rate, odds = -schedule.slope(t) / (n * alpha), n * alpha / (1.0 - alpha)
        told = _Told(
            x[counted], z[counted], odds[:, None].expand(x.shape)[counted], rate[:, None].expand(x.shape)[counted]
        )
        return states[counted], told


@dataclass(frozen=True)
class _Told:
    """What is to be told at each of n positions: the token x given z, at the odds and the forward rate of its time."""

    x: Int[Tensor, " n"]
    z: Int[Tensor, " n"]
    odds: Float[Tensor, " n"]
    rate: Float[Tensor, " n"]

    def nats(self, logits: Float[Tensor, "m v"], rows: Int[Tensor, " m"] | slice) -> Float[Tensor, " m"]:
        """The bound's integrand at some of the positions."""
        return self.rate[rows] * divergence(logits, self.x[rows], self.z[rows], self.odds[rows])

    def slice_loss(self) -> SliceLoss:
        """The kernel of `cross_entropy_sum`, whose targets are numbers of positions."""

        def slice_loss(logits: Tensor, rows: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
            del smoothing
            with torch.enable_grad():
                leaf = logits.detach().requires_grad_()
                each = self.nats(leaf, rows)
                (gradient,) = torch.autograd.grad(each.sum(), leaf)
            return each.detach(), gradient

        return slice_loss

    def each(
        self, states: Float[Tensor, "n d"], weight: Float[Tensor, "v d"], bias: Float[Tensor, " v"] | None
    ) -> Float[Tensor, " n"]:
        """The integrand at every position, without gradients, chunk by chunk."""
        dtype = matmul_dtype(states)
        matrix, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
        size = max(64, CHUNK_ELEMENTS // len(weight))
        chunks = [slice(start, start + size) for start in range(0, len(states), size)]
        losses = [self.nats(F.linear(states[rows].to(dtype), matrix, offset), rows) for rows in chunks]
        return torch.cat(losses) if losses else torch.zeros(0, dtype=torch.float64, device=states.device)


def _counted(batch: Batch) -> Bool[Tensor, "b t"]:
    targets = batch.x[:, 1:]
    return torch.ones_like(targets, dtype=torch.bool) if batch.counted is None else batch.counted
