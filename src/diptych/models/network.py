"""Which network does a configuration describe, and with which weights does its training begin?"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import nn

from diptych.core.config import TransformerConfig
from diptych.models.diffusion_transformer import DiffusionTransformer
from diptych.models.encoder_decoder import EncoderDecoder
from diptych.models.language_model import LanguageModel

TextNetwork = LanguageModel | EncoderDecoder
Network = TextNetwork | DiffusionTransformer


@runtime_checkable
class _Starter(Protocol):
    """A network, or a part of one, some of whose weights do not begin as all others do."""

    def start(self, generator: torch.Generator) -> None: ...


def build_network(config: TransformerConfig) -> Network:
    """The network of a configuration, its weights not yet set. Raises ValueError for a vocabulary of no tokens, or
    images of no size."""
    if config.patches is not None:
        return DiffusionTransformer(config)
    return EncoderDecoder(config) if config.n_encoder_layers else LanguageModel(config)


def build_unfilled(config: TransformerConfig, *, device: torch.device | str, dtype: torch.dtype) -> Network:
    """The network of a configuration for use, whose weights are memory that nobody has written to yet: fill them all.

    Its tables of positions stay float32, whatever the weights' precision, so that angles stay exact.
    """
    with torch.device("meta"):
        model = build_network(config)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            empty = torch.empty(parameter.shape, device=device, dtype=dtype)
            module.register_parameter(name, nn.Parameter(empty, requires_grad=False))
    model.add_tables()
    return model.to(device).eval()


def initialize(model: Network, generator: torch.Generator) -> None:
    """Draw the starting weights: biases zero, normalization weights one, matrices normal.

    As GPT-2 does (Radford et al. 2019, section 2.3): deviation 0.02, the projections that write into the residual
    stream divided by sqrt(2 n_layers) so that its variance does not grow with depth. An encoder-decoder: deviation
    1 / sqrt(columns), by which a product keeps the variance of its input (LeCun et al. 1998, equation 16) and an
    embedding scaled by sqrt(d_model) has variance one; a diffusion transformer too, but for what its `start` sets.
    """
    residual = 0.02 / (2 * model.config.n_layers) ** 0.5
    keeps_variance = isinstance(model, EncoderDecoder | DiffusionTransformer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                std = residual if name.endswith("output.weight") else 0.02
                std = parameter.shape[1] ** -0.5 if keeps_variance else std
                parameter.normal_(0.0, std, generator=generator)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.fill_(1.0)
        for module in model.modules():
            if isinstance(module, _Starter):
                module.start(generator)
