"""Which network does a configuration describe, and with which weights does its training begin?"""

from __future__ import annotations

import torch

from diptych.core.config import TransformerConfig
from diptych.models.language_model import LanguageModel

Network = LanguageModel


def build_network(config: TransformerConfig) -> Network:
    """The network of a configuration, its weights not yet set. Raises ValueError for a vocabulary of no tokens."""
    return LanguageModel(config)


def initialize(model: Network, generator: torch.Generator) -> None:
    """Draw the starting weights as GPT-2 does (Radford et al. 2019, section 2.3).

    Normal with deviation 0.02, the projections that write into the residual stream divided by sqrt(2 n_layers) so that
    its variance does not grow with depth; biases zero, normalization weights one.
    """
    residual = 0.02 / (2 * model.config.n_layers) ** 0.5
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                std = residual if name.endswith("output.weight") else 0.02
                parameter.normal_(0.0, std, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.fill_(1.0)
