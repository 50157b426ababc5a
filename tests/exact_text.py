"""A denoiser of text that is exact: every conditional probability of a table over all sequences."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from diptych.core.types import Mask

NEVER = -1e4
"""A logit of probability 0 that may be multiplied by 0."""


def random_text(vocab_size: int, length: int, seed: int = 0, spread: float = 1.5) -> Tensor:
    """Probabilities of all sequences, of shape (vocab_size,) * length: a log-normal table."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn((vocab_size,) * length, dtype=torch.float64, generator=generator)
    return logits.flatten().softmax(0).view(logits.shape)


class ExactText:
    """A `TokenPredictor` whose logits at a position are the log of its distribution given all that it sees.

    probabilities: one number for each sequence of n tokens, of shape (v,) * n, all positive; the tokens are 0 to v - 1
    and `mask_id` must be v. A query sees the keys that the mask allows it and that are not the mask token, whatever
    part of the input they stand in; `positions` say which token of the sequence each is. The logit of the mask token
    itself is 0, so that who does not exclude it gets wrong numbers.
    """

    output_bias = None

    def __init__(self, probabilities: Tensor, mask_id: int) -> None:
        self.tokens, self.length = probabilities.shape[0], probabilities.dim()
        assert mask_id == self.tokens and bool((probabilities > 0).all())
        self.table, self.mask_id, self.vocab_size = probabilities.double().flatten(), mask_id, self.tokens + 1
        texts = torch.tensor(list(product(range(self.tokens), repeat=self.length)))
        self.agrees = F.pad(F.one_hot(texts, self.tokens).double(), (0, 1), value=1.0).permute(1, 2, 0)
        self.unembedding = torch.eye(self.vocab_size, dtype=torch.float64)
        self.evaluations = 0

    def new_cache(self, batch_size: int, max_length: int) -> ExactCache:
        return ExactCache(batch_size, max_length)

    def __call__(self, x: Tensor, *, mask: Mask, positions: Tensor | None = None, cache: object = None) -> Tensor:
        return self.states(x, mask=mask, positions=positions, cache=cache)

    def states(
        self,
        x: Tensor,
        *,
        mask: Mask,
        time: Tensor | None = None,
        cond: Tensor | None = None,
        positions: Tensor | None = None,
        cache: ExactCache | None = None,
    ) -> Tensor:
        """(b, t, v + 1): logits, which the un-embedding leaves as they are."""
        self.evaluations += 1
        b, t = x.shape
        query = torch.arange(t).expand(b, t)
        keys, places = x, query if positions is None else positions.expand(b, t)
        if cache is not None:
            query, keys, places = cache.append(x, positions)
        seen = mask.allowed(query[:, :, None], torch.arange(keys.shape[1])[None, None, :]).expand(b, t, -1)
        seen = seen & (keys != self.mask_id)[:, None, :]
        known = torch.full((b, t, self.length), -1)
        for key in range(keys.shape[1]):
            at = places[:, key, None, None].expand(b, t, 1)
            old = known.gather(2, at)[..., 0]
            known.scatter_(2, at, torch.where(seen[:, :, key], keys[:, key, None], old)[..., None])
        weight = self.table
        for place in range(self.length):  # the last row of what agrees is that of a token not known
            weight = weight * self.agrees[place][known[:, :, place]]
        marginals = (weight @ self.agrees[:, :-1].flatten(0, 1).T).unflatten(2, (self.length, self.tokens))
        own = places[:, -t:, None, None].expand(-1, -1, 1, self.tokens)
        marginal = marginals.gather(2, own)[:, :, 0] / weight.sum(-1, keepdim=True)
        return F.pad(marginal.log().clamp(min=NEVER), (0, 1))

    def log_probability(self, x: Tensor, given: int = 1) -> Tensor:
        """log p(x[:, given:] | x[:, :given]) of whole sequences (b, n), exact."""
        table = self.table.view((self.tokens,) * self.length)
        whole = torch.stack([table[tuple(row)] for row in x.tolist()])
        return (whole / torch.stack([table[tuple(row[:given])].sum() for row in x.tolist()])).log()


class ExactCache:
    """Remembers the tokens themselves; what a sampler asks of a key-value cache."""

    def __init__(self, batch_size: int, max_length: int) -> None:
        self.tokens = torch.zeros(batch_size, max_length, dtype=torch.long)
        self.places = torch.zeros(batch_size, max_length, dtype=torch.long)
        self.lengths = torch.zeros(batch_size, dtype=torch.long)

    @property
    def longest(self) -> int:
        return int(self.lengths.max())

    def append(self, x: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Where the new tokens stand, and all tokens and their places up to the last of them; rows of one length."""
        assert bool((self.lengths == self.longest).all())
        first, end = self.longest, self.longest + x.shape[1]
        query = torch.arange(first, end).expand_as(x)
        self.tokens[:, first:end], self.places[:, first:end] = x, query if positions is None else positions
        self.lengths = torch.full_like(self.lengths, end)
        return query, self.tokens[:, :end], self.places[:, :end]

    def set_lengths(self, lengths: Tensor) -> None:
        self.lengths = lengths

    def select(self, rows: Tensor) -> None:
        self.tokens, self.places, self.lengths = self.tokens[rows], self.places[rows], self.lengths[rows]
