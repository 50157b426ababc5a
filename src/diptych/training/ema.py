"""Which weights are kept: the last ones, or their average over the recent past?

Two kinds of average: one whose memory is so many steps long, and some whose memory is a share of the run so far, which
need no tuning to the length of the run and from which any other share is made afterwards (`post_hoc.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, final

import numpy as np
import torch
from torch import Tensor, nn

from diptych.core.config import TrainConfig
from diptych.training.optimizers import place, whole

WIDEST = 12.0**-0.5
"""Relative width of the average over all steps alike, gamma = 0; wider ones would weigh the first steps most."""


class Average(Protocol):
    """What the trainer asks of an average of the parameters that learn."""

    def update(self, step: int) -> None:
        """Take in the parameters after step number `step`, counted from 1."""
        ...

    def swapped_in(self) -> AbstractContextManager[None]:
        """Within the block the model computes with the average."""
        ...

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Name and whole tensor of all that is averaged, gathered from all ranks."""
        ...

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        ...


@final
class MovingAverage:
    """Exponential moving average of the parameters that learn (Polyak and Juditsky 1992), updated once a step."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise ValueError(f"train.ema_decay={decay} lies outside (0, 1)")
        self.decay = decay
        self.parameters = _learnt(model)
        self.average = _copies(self.parameters)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """average <- decay average + (1 - decay) parameter, whatever the step."""
        del step
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1.0 - self.decay)

    def swapped_in(self) -> AbstractContextManager[None]:
        """Within the block the model computes with the average."""
        return _swapped(self.parameters, self.average)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Name and whole tensor of each average, gathered from all ranks."""
        for name, value in self.average.items():
            yield name, whole(value)

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for name, value in self.average.items():
            place(value, tensors[name])


@final
class PowerAverages:
    """Averages of the parameters that learn, in which step s of t weighs as (s/t)^gamma (Karras et al. 2024, "Analyzing
    and Improving the Training Dynamics of Diffusion Models", equation 4), one for each relative width in `lengths`.

    The first is what is swapped in. Raises ValueError for widths outside (0, 12^-1/2) or given twice.
    """

    def __init__(self, model: nn.Module, lengths: Sequence[float]) -> None:
        names = [length_name(length) for length in lengths]
        if not lengths or len(set(names)) < len(names):
            raise ValueError(f"train.ema_lengths={list(lengths)} must name different widths, such as [0.05, 0.1]")
        self.gammas = dict(zip(names, map(gamma_of, lengths), strict=True))
        self.parameters = _learnt(model)
        self.averages = {name: _copies(self.parameters) for name in names}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """average <- beta average + (1 - beta) parameter with beta = (1 - 1/step)^(gamma + 1): equation 5."""
        for name, average in self.averages.items():
            beta = (1.0 - 1.0 / step) ** (self.gammas[name] + 1.0)
            torch._foreach_lerp_(list(average.values()), list(self.parameters.values()), 1.0 - beta)

    def swapped_in(self) -> AbstractContextManager[None]:
        """Within the block the model computes with the first average."""
        return _swapped(self.parameters, next(iter(self.averages.values())))

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Name, behind the average's width and a slash, and whole tensor of each parameter's averages."""
        for length, average in self.averages.items():
            for name, value in average.items():
                yield f"{length}/{name}", whole(value)

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for length, average in self.averages.items():
            for name, value in average.items():
                place(value, tensors[f"{length}/{name}"])


def build_average(model: nn.Module, config: TrainConfig) -> Average | None:
    """The average that a recipe asks for. Raises ValueError where it asks for both kinds."""
    if config.ema_decay and config.ema_lengths:
        raise ValueError("train.ema_decay and train.ema_lengths are two kinds of average; set one of them")
    if config.ema_lengths:
        return PowerAverages(model, config.ema_lengths)
    return MovingAverage(model, config.ema_decay) if config.ema_decay else None


def length_name(length: float) -> str:
    """How a width is written in names, without loss: 0.10 -> "0.1"."""
    return repr(float(length))


def gamma_of(length: float) -> float:
    """The exponent whose profile has this standard deviation, as a share of the run so far (equation 6 and algorithm
    2): the positive root of (gamma + 2)^2 (gamma + 3) = (gamma + 1) / length^2.

    Raises ValueError outside (0, 12^-1/2), the widths of a positive gamma.
    """
    if not 0.0 < length < WIDEST:
        raise ValueError(
            f"an average of relative width {length} cannot be; choose one above 0 and below {WIDEST:.4f}, such as 0.1"
        )
    inverse = length**-2
    roots = np.roots([1.0, 7.0, 16.0 - inverse, 12.0 - inverse])
    return float(roots.real.max())


def length_of(gamma: float) -> float:
    """The relative width of an exponent: (gamma + 1)^1/2 (gamma + 2)^-1 (gamma + 3)^-1/2."""
    return math.sqrt((gamma + 1.0) / (gamma + 3.0)) / (gamma + 2.0)


def _learnt(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _copies(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}


@contextmanager
def _swapped(parameters: Mapping[str, nn.Parameter], average: Mapping[str, Tensor]) -> Iterator[None]:
    _swap(parameters, average)
    try:
        yield
    finally:
        _swap(parameters, average)


@torch.no_grad()
def _swap(parameters: Mapping[str, nn.Parameter], average: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        held = parameter.detach().clone()
        parameter.copy_(average[name])
        average[name].copy_(held)
