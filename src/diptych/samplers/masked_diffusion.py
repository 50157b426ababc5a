"""How are the gaps of a canvas filled by a network that predicts what is masked?

The backward process of masked diffusion (Sahoo et al. 2024; Nie et al. 2025): in each step all that is still masked is
predicted given the rest, and some of it is drawn and stays. The whole canvas at once, or block by block from left to
right with what is finished in a cache (Arriola et al. 2025). A row's draws are keyed by its sample id, the step and the
position, so they do not depend on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.text_diffusion_config import AlphaScheduleName
from diptych.core.types import Frame, Mask, TokenPredictor
from diptych.nn.embedding import unembed
from diptych.nn.masks import Full
from diptych.nn.patterns import BlockCausal
from diptych.samplers.canvas import CanvasRequest
from diptych.samplers.unmasking import UnmaskName, above, first_by, set_sizes, within_entropy

CHUNK_ELEMENTS = 4 * 1024 * 1024
"""Logits held at once."""


@final
@dataclass(frozen=True, kw_only=True)
class MaskedDiffusionSampler:
    """Reveals masked positions, several a step; what is revealed stays. Raises ValueError for what does not fit.

    unmask: by which rule positions are chosen. `random` and `confidence` (the largest probability first) take `steps`
    steps, a block's each, which share its gaps by `schedule`; None: one position a step. `threshold` takes every
    position whose largest probability reaches `threshold`, `entropy` as many as `entropy_bound` nats allow: see
    `diptych.samplers.unmasking`. Rules judge by the network's distribution, which `temperature` changes only for the
    draws; 0: the likeliest token. block_length: as the network was trained; None: one block. eos_id: a row ends with
    the block in which this token is drawn, and what follows stays masked.
    """

    steps: int | None = None
    unmask: UnmaskName = "confidence"
    temperature: float = 1.0
    threshold: float | None = None
    entropy_bound: float | None = None
    schedule: AlphaScheduleName = "linear"
    block_length: int | None = None
    eos_id: int | None = None

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature={self.temperature} must not be negative")
        for name, number in (("steps", self.steps), ("block_length", self.block_length)):
            if number is not None and number < 1:
                raise ValueError(f"{name}={number} must be at least 1")
        if self.threshold is not None and not 0.0 <= self.threshold <= 1.0:
            raise ValueError(f"threshold={self.threshold} lies outside [0, 1]")
        if self.entropy_bound is not None and not self.entropy_bound >= 0.0:
            raise ValueError(f"entropy_bound={self.entropy_bound} must not be negative")
        if self.steps is not None and not self.by_steps:
            raise ValueError(f"with unmask={self.unmask} the text decides how many steps there are; leave out steps")
        for rule, name, value in (
            ("threshold", "threshold", self.threshold),
            ("entropy", "entropy_bound", self.entropy_bound),
        ):
            if value is None and self.unmask == rule:
                raise ValueError(f"unmask={rule} needs a number for {name}")
            if value is not None and self.unmask != rule:
                raise ValueError(f"{name} goes with unmask={rule} only, and this is unmask={self.unmask}")

    @property
    def by_steps(self) -> bool:
        """Whether the number of positions a step is fixed beforehand."""
        return self.unmask in ("random", "confidence")

    @property
    def mask(self) -> Mask:
        """Under which the network reads a canvas: what each position is predicted from."""
        return Full() if self.block_length is None else BlockCausal(self.block_length, given=1)

    def sizes(self, gaps: int) -> list[int]:
        """How many of a block's gaps each step reveals; at least so many where the text decides."""
        return set_sizes(gaps, self.steps if self.by_steps else None, self.schedule)

    def score(self, log_p: Float[Tensor, "m v"]) -> Float[Tensor, " m"]:
        """What the rule judges a position by, from its distribution: its entropy in nats or its largest probability.

        `random` judges by no distribution, but by a random number.
        """
        p = log_p.exp()
        return torch.special.entr(p).sum(-1) if self.unmask == "entropy" else p.amax(-1)

    def choose(
        self, score: Float[Tensor, "b n"], left: Bool[Tensor, "b n"], count: Int[Tensor, " b"]
    ) -> Bool[Tensor, "b n"]:
        """Which of the positions that are `left` are revealed next, by their scores.

        `count`: how many in each row, where the number of steps is fixed.
        """
        if self.entropy_bound is not None:
            return within_entropy(score, left, self.entropy_bound)
        return first_by(score, left, count) if self.threshold is None else above(score, left, self.threshold)

    @torch.inference_mode()
    def sample(self, model: TokenPredictor, request: CanvasRequest, rng: Rng) -> Iterator[Frame]:
        """Yield a frame a step: `state` (b, n) is the canvas so far; there are at most `of`.

        `info` holds what the step has `revealed` (b, n), and there the `probability` (b, n), float64, of the token that
        was drawn under the network's own distribution over the tokens that are not forbidden. A row that is finished,
        with its block or as a whole, no longer changes. Raises ValueError where the canvas does not fit the network, or
        for blocks of one that has a layer without a full cache.
        """
        if not 0 <= request.mask_id < model.vocab_size:
            raise ValueError(f"the mask {request.mask_id} is none of the network's {model.vocab_size} tokens")
        device = model.unembedding.device
        canvas, sample_ids = request.tokens(device), request.ids(device)
        allowed = request.allowed(model.vocab_size, device)
        rows, length = canvas.shape
        ended = torch.zeros(rows, dtype=torch.bool, device=device)
        cache = None if self.block_length is None else model.new_cache(rows, length)
        blocks = self._blocks(length)
        of = sum(self._table(canvas[:, start:end] == request.mask_id).shape[1] for start, end in blocks)
        step = 0
        for start, end in blocks:
            wanted = left = (canvas[:, start:end] == request.mask_id) & ~ended[:, None]
            table = self._table(left)
            for turn in range(table.shape[1]):
                if not bool(left.any()):
                    break
                begin = 0 if cache is None else cache.longest
                states = model.states(canvas[:, begin:end], mask=self.mask, cache=cache)[:, start - end :]
                if cache is not None:  # the blocks before stay, and what this one still holds is forgotten
                    cache.set_lengths(torch.full((rows,), start, device=device))
                keyed = rng.fold("step", turn)
                if self.unmask == "random":
                    score = keyed.uniform("order", sample_ids, length)[:, start:end]
                else:
                    score = self._scores(model, states, left, allowed)
                chosen = self.choose(score, left, table[:, turn])
                uniform = keyed.uniform("token", sample_ids, length)[:, start:end][chosen]
                tokens, log_p = self._draw(model, states[chosen], allowed, uniform)
                revealed = torch.zeros_like(canvas, dtype=torch.bool)
                revealed[:, start:end] = chosen
                canvas = canvas.masked_scatter(revealed, tokens)
                left = left & ~chosen
                probability = torch.zeros(canvas.shape, dtype=torch.float64, device=device)
                info = {"revealed": revealed, "probability": probability.masked_scatter(revealed, log_p.exp())}
                yield Frame(step, of, canvas, info)
                step += 1
            if self.eos_id is not None:
                ended = ended | (wanted & (canvas[:, start:end] == self.eos_id)).any(1)

    def _blocks(self, length: int) -> list[tuple[int, int]]:
        """Where blocks begin and end; the first position of a row is one of its own."""
        if self.block_length is None:
            return [(0, length)]
        starts = [0, *range(1, length, self.block_length)]
        return list(zip(starts, [*starts[1:], length], strict=True))

    def _table(self, left: Bool[Tensor, "b n"]) -> Int[Tensor, "b s"]:
        """How many positions each step reveals in each row."""
        gaps, rows = left.sum(1).unique(return_inverse=True)
        sizes = [self.sizes(number) for number in gaps.tolist()]
        most = max(map(len, sizes))
        return torch.tensor([row + [0] * (most - len(row)) for row in sizes], device=left.device).long()[rows]

    def _scores(self, model: TokenPredictor, states: Tensor, left: Tensor, allowed: Tensor) -> Float[Tensor, "b n"]:
        parts = states[left].split(max(1, CHUNK_ELEMENTS // model.vocab_size))
        scores = torch.cat([self.score(allowed_logits(model, part, allowed).log_softmax(-1)) for part in parts])
        return torch.zeros(left.shape, dtype=scores.dtype, device=left.device).masked_scatter(left, scores)

    def _draw(
        self, model: TokenPredictor, states: Tensor, allowed: Tensor, uniform: Tensor
    ) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
        """Tokens for states (m, d), and their log-probabilities."""
        size, tokens, log_p = max(1, CHUNK_ELEMENTS // model.vocab_size), [], []
        for part, numbers in zip(states.split(size), uniform.split(size), strict=True):
            logits = allowed_logits(model, part, allowed).double()
            tokens.append(draw(logits, self.temperature, numbers))
            log_p.append(logits.log_softmax(-1).gather(1, tokens[-1][:, None])[:, 0])
        return torch.cat(tokens), torch.cat(log_p)


def draw(logits: Float[Tensor, "m v"], temperature: float, uniform: Float[Tensor, " m"]) -> Int[Tensor, " m"]:
    """The tokens at which each row's distribution function reaches the number in (0, 1); temperature 0: the likeliest.

    In float64: in float32 neither the sums nor the random numbers would tell a probability of 1e-8 from none, which
    sharpens what is drawn (Zheng et al. 2025). A token of probability zero is never the first to reach it.
    """
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.double()
    cumulative = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:])[:, 0]


def allowed_logits(
    model: TokenPredictor, states: Float[Tensor, "m d"], allowed: Bool[Tensor, " v"]
) -> Float[Tensor, "m v"]:
    """Logits of states in at least float32; -inf for what is not allowed."""
    logits = unembed(states, model.unembedding, model.output_bias)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits.masked_fill(~allowed, -torch.inf)
