"""What does a position make of what it gathered?

The position-wise feed-forward layer (Vaswani et al. 2017, section 3.3) with ReLU, GELU (Hendrycks and Gimpel 2016),
SiLU (Swish; Ramachandran et al. 2017), or gated by SwiGLU (Shazeer 2020).
"""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diptych.core.config import TransformerConfig
from diptych.nn.linear import Linear


def activate(x: Float[Tensor, "... d"], activation: str) -> Float[Tensor, "... d"]:
    """The activation of a name; the gate's for swiglu."""
    match activation:
        case "relu":
            return F.relu(x)
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case _:
            return F.silu(x)


@final
class FeedForward(nn.Module):
    """output(activation(input(x))); for swiglu `input` stacks gate and value in its rows and they are multiplied."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = config.feed_forward
        width = config.inner_width
        rows = 2 * width if self.activation == "swiglu" else width
        self.input = Linear(config.d_model, rows, bias=config.bias)
        self.output = Linear(width, config.d_model, bias=config.bias)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        inner = self.input(x)
        if self.activation == "swiglu":
            gate, value = inner.chunk(2, dim=-1)
            inner = F.silu(gate) * value
        else:
            inner = activate(inner, self.activation)
        out: Tensor = self.output(inner)
        return out
