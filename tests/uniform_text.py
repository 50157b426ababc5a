"""Exactly solvable text under uniform noise, for the tests of its objective and of its sampler."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.text_diffusion_config import AlphaScheduleName
from diptych.diffusion.discrete import build_alpha_schedule


class ExactText:
    """A joint distribution over sequences of `length` of `vocab` tokens, as a network that knows it.

    What it gives at a position is the distribution of the clean token there given the noisy ones of all others, or
    given all with `leave_one_out=False`. Tokens at the `given` places are known to be clean.
    """

    output_bias = None

    def __init__(
        self,
        schedule: AlphaScheduleName = "linear",
        *,
        vocab: int = 3,
        length: int = 4,
        given: Sequence[int] = (0,),
        leave_one_out: bool = True,
        seed: int = 0,
    ) -> None:
        self.schedule, self.vocab_size, self.given = build_alpha_schedule(schedule), vocab, list(given)
        self.leave_one_out = leave_one_out
        self.unembedding = torch.eye(vocab, dtype=torch.float64)
        self.sequences = torch.tensor(list(product(range(vocab), repeat=length)))
        weights = Rng(seed).uniform("weights", torch.arange(1), len(self.sequences))[0].square() + 0.01
        self.p = weights / weights.sum()
        self.seen: list[Tensor] = []

    def conditional(self, row: Sequence[int]) -> Tensor:
        """The probability of every sequence given the row's tokens at the given places."""
        fits = (self.sequences[:, self.given] == torch.tensor(row)[self.given]).all(1)
        p = torch.where(fits, self.p, 0.0)
        return p / p.sum()

    def number(self, x: Tensor) -> Tensor:
        """Which of the sequences each row is."""
        return (x * self.vocab_size ** torch.arange(x.shape[1] - 1, -1, -1)).sum(1)

    def noise(self, t: Tensor) -> Tensor:
        """q(z | x) of an ordinary place at times t (b), as (b, vocab, vocab)."""
        alpha = self.schedule.alpha(t)[:, None, None]
        return alpha * torch.eye(self.vocab_size, dtype=torch.float64) + (1.0 - alpha) / self.vocab_size

    def __call__(self, x: Tensor, **given: Any) -> Tensor:
        return self.states(x, **given)

    def new_cache(self, batch_size: int, max_length: int) -> None:
        raise NotImplementedError

    def states(self, x: Tensor, *, mask: object, time: Tensor, positions: object = None) -> Tensor:
        self.seen.append(x)
        z, t, back = x, time, torch.arange(len(x))
        if len(x) > len(self.sequences) and bool((time == time[0]).all()):
            z, back = self.sequences, self.number(x)
            t = time[: len(z)]
        each = self.noise(t)[torch.arange(len(z))[:, None, None], z[:, None, :], self.sequences]  # (b, sequences, n)
        for place in self.given:
            each[:, :, place] = (z[:, None, place] == self.sequences[None, :, place]).double()
        logits = torch.empty(*z.shape, self.vocab_size, dtype=torch.float64)
        tokens = torch.nn.functional.one_hot(self.sequences, self.vocab_size).double()
        for place in range(z.shape[1]):
            others = each.clone()
            if self.leave_one_out:
                others[:, :, place] = 1.0
            logits[:, place] = ((others.prod(2) * self.p) @ tokens[:, place]).clamp_min(1e-300).log()
        return logits[back]
