"""How does a network learn the next token?

The chain rule P(x) = prod_t P(x[t] | x[1:t-1]) (review equation 1): the forward process hides the future behind a
causal mask, and the loss is the negative log-likelihood of every next token at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.types import Batch, ConditionalPredictor, Likelihood, Loss, Mask, TokenPredictor
from diptych.nn.masks import Causal, Documents
from diptych.objectives.cross_entropy import SliceLoss, cross_entropy_each, cross_entropy_sum, slice_loss


@final
@dataclass(frozen=True)
class Autoregressive:
    """Predict x[:, 1:] from x[:, :-1]; the end-of-sequence token that opens the next document closes the last one.

    A batch with `cond` is a translation: P(x | cond) by the same rule, under a network that has read the source.
    `slice_loss` is the kernel of the cross-entropy, which the trainer may compile.
    """

    slice_loss: SliceLoss = slice_loss
    label_smoothing: float = 0.0

    def loss(self, model: TokenPredictor | ConditionalPredictor, batch: Batch, rng: Rng) -> Loss:
        """Sum over the next tokens that count of their negative log-likelihood in nats, smoothed in training."""
        del rng  # nothing is random in this forward process
        states, targets = self._states_and_targets(model, batch)
        states, targets = states.flatten(0, 1), targets.flatten()
        if batch.counted is not None:
            kept = batch.counted.flatten()
            states, targets = states[kept], targets[kept]
        total = cross_entropy_sum(
            states,
            model.unembedding,
            targets,
            self.slice_loss,
            bias=model.output_bias,
            smoothing=self.label_smoothing,
        )
        return Loss(total=total, count=targets.numel())

    def likelihood(
        self,
        model: TokenPredictor | ConditionalPredictor,
        batch: Batch,
        rng: Rng,
        counted: Bool[Tensor, "b t"] | None = None,
    ) -> Likelihood:
        """Exact negative log-likelihood of each row in nats; of the targets that are `counted`, if given."""
        del rng
        with torch.no_grad():
            states, targets = self._states_and_targets(model, batch)
            each = cross_entropy_each(states.flatten(0, 1), model.unembedding, targets.flatten(), model.output_bias)
        counted = batch.counted if counted is None else counted
        counted = torch.ones_like(targets, dtype=torch.bool) if counted is None else counted
        nats = torch.where(counted, each.view_as(targets).double(), 0.0).sum(1)
        return Likelihood(nats=nats, count=counted.sum(1), kind="exact")

    def _states_and_targets(self, model: TokenPredictor | ConditionalPredictor, batch: Batch) -> tuple[Tensor, Tensor]:
        mask: Mask = Causal()
        if batch.documents is not None:
            mask = Causal() & Documents(batch.documents[:, :-1])
        positions = None if batch.positions is None else batch.positions[:, :-1]
        if batch.cond is not None and batch.cond_lengths is not None:
            assert isinstance(model, ConditionalPredictor)
            model = model.given(batch.cond, batch.cond_lengths)
        assert isinstance(model, TokenPredictor)
        return model.states(batch.x[:, :-1], mask=mask, positions=positions), batch.x[:, 1:]
