"""Which weights are kept: the last ones, or their average over the recent past?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import torch
from torch import Tensor, nn

from diptych.training.optimizers import place, whole


@final
class MovingAverage:
    """Exponential moving average of the parameters that learn (Polyak and Juditsky 1992), updated once a step."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"train.ema_decay={decay} lies outside (0, 1)")
        self.decay = decay
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """average <- decay average + (1 - decay) parameter."""
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1.0 - self.decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Within the block the model computes with the average."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.parameters.items():
            held = parameter.detach().clone()
            parameter.copy_(self.average[name])
            self.average[name].copy_(held)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Name and whole tensor of each average, gathered from all ranks."""
        for name, value in self.average.items():
            yield name, whole(value)

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for name, value in self.average.items():
            place(value, tensors[name])
