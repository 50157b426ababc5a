"""How is a large network adapted by training a small part?

Low-rank adaptation (Hu et al. 2022): beside each frozen matrix W of the blocks stands an update (alpha / rank) B A, of
which only A and B learn. Merged, W + (alpha / rank) B A is a matrix like any other and costs nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diptych.core.config import LoraConfig
from diptych.models.cost import matmul_parameters, training_flops_per_token
from diptych.models.network import Network
from diptych.nn.block import Block
from diptych.nn.linear import Linear


@final
class LoraLinear(nn.Module):
    """base(x) + (alpha / rank) B A x, the base frozen (section 4.1).

    A (`down`, rank x inputs) starts uniform within 1 / sqrt(inputs), B (`up`, outputs x rank) at zero, so that training
    begins from the base itself. Where the base stacks several projections in its rows, they share A.
    """

    def __init__(self, base: Linear, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.dropout, self.scale = config.dropout, config.alpha / config.rank
        wide = torch.float64 if base.weight.dtype == torch.float64 else torch.float32
        down = torch.empty(config.rank, base.in_features, dtype=wide)
        bound = base.in_features**-0.5
        down.uniform_(-bound, bound, generator=generator)
        device = base.weight.device
        self.down = nn.Parameter(down.to(device))
        self.up = nn.Parameter(torch.zeros(base.out_features, config.rank, dtype=wide, device=device))

    def forward(self, x: Float[Tensor, "... i"]) -> Float[Tensor, "... o"]:
        low = F.linear(F.dropout(x, self.dropout, self.training), self.down)
        out: Tensor = self.base(x) + F.linear(low, self.up) * self.scale
        return out

    @property
    def weight(self) -> Float[Tensor, "o i"]:
        """W + (alpha / rank) B A, for layers that use only some of its rows."""
        return self.base.weight + (self.up @ self.down) * self.scale

    @property
    def bias(self) -> Float[Tensor, " o"] | None:
        """The base's bias, which stays as it is."""
        return self.base.bias

    @torch.no_grad()
    def merged(self) -> Linear:
        """The base with the update added to its matrix, in the base's precision."""
        weight = self.base.weight
        wide = torch.promote_types(weight.dtype, self.up.dtype)
        weight.copy_(weight.to(wide) + (self.up.to(wide) @ self.down.to(wide)) * self.scale)
        return self.base


def add_lora(model: Network, config: LoraConfig, generator: torch.Generator) -> None:
    """Put an update beside the linear layers of every block that `config.layers` names; nothing else learns from now.

    The frozen layers keep their precision. Raises ValueError for dropout where a decoder attends to an encoder.
    """
    model.requires_grad_(False)
    for place, name, layer in list(_linear_layers(model, config)):
        setattr(place, name, LoraLinear(layer, config, generator))


def _linear_layers(model: Network, config: LoraConfig) -> Iterator[tuple[nn.Module, str, Linear]]:
    """Where each layer to adapt stands, in the order of the network."""
    for block in (module for module in model.modules() if isinstance(module, Block)):
        if block.cross_attention is not None and config.dropout:
            raise ValueError(
                f"lora.dropout={config.dropout} does not reach the attention to an encoder, of whose matrix rows are "
                "used apart; set it to 0"
            )
        parts: list[nn.Module | None] = []
        if config.layers != "feed_forward":
            parts += [block.attention, block.cross_attention]
        if config.layers != "attention":
            parts += [block.feed_forward]
        for part in parts:
            if part is not None:
                children = part.named_children()
                yield from ((part, name, layer) for name, layer in children if isinstance(layer, Linear))


def lora_layers(model: nn.Module) -> dict[str, LoraLinear]:
    """The adapted layers by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def merge_lora(model: Network) -> None:
    """Turn every adapted layer into a plain one of the sum; nothing learns any more."""
    for name, layer in lora_layers(model).items():
        place, _, last = name.rpartition(".")
        setattr(model.get_submodule(place), last, layer.merged())


def learning_flops_per_token(model: Network, sequence_length: int, predicted: float = 1.0) -> float:
    """FLOPs of a training step a token: `training_flops_per_token` less what is not computed.

    Of a frozen parameter these are 4 (forward, and backward to the inputs), of one of A and B 6. predicted: the share
    of the positions whose logits are taken, where not all count.
    """
    config = model.config
    update = sum(layer.down.numel() + layer.up.numel() for layer in lora_layers(model).values())
    unpredicted = (1.0 - predicted) * config.vocab_size * config.d_model
    full = training_flops_per_token(config, sequence_length) - 6.0 * unpredicted
    return full - 2.0 * (matmul_parameters(config) - unpredicted) + 6.0 * update if update else full
