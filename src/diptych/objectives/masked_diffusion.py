"""Masked diffusion of text: being written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from diptych.core.random import Rng
from diptych.core.text_diffusion_config import TextDiffusionConfig
from diptych.core.types import Batch, Likelihood, Loss, TokenPredictor


@final
@dataclass(frozen=True)
class MaskedDiffusion:
    config: TextDiffusionConfig
    mask_id: int

    def loss(self, model: TokenPredictor, batch: Batch, rng: Rng) -> Loss:
        raise NotImplementedError

    def likelihood(self, model: TokenPredictor, batch: Batch, rng: Rng) -> Likelihood:
        raise NotImplementedError
