"""How are activations brought to one scale?

Layer normalization (Ba et al. 2016; the review's table 3, with its slips mended: see docs/review.md) and its
root-mean-square form (Zhang and Sennrich 2019).
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diptych.core.config import TransformerConfig


@final
class LayerNorm(nn.Module):
    """y = gamma (x - mean) / sqrt(variance + eps) + beta, over the last dimension; review table 3."""

    def __init__(self, width: int, *, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.weight.shape, self.weight.to(x.dtype), bias, self.eps)


@final
class RMSNorm(nn.Module):
    """y = gamma x / sqrt(mean(x^2) + eps), over the last dimension; Zhang and Sennrich 2019, equation 4.

    The mean square is taken in float32 and the result cast back, as Llama does.
    """

    def __init__(self, width: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return scaled.to(x.dtype) * self.weight.to(x.dtype)


@final
class PlainNorm(nn.Module):
    """Layer normalization, or its root-mean-square form, without weights of its own: a condition scales and shifts."""

    def __init__(self, *, centred: bool, eps: float = 1e-5) -> None:
        super().__init__()
        self.centred, self.eps = centred, eps

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        normalize = F.layer_norm if self.centred else F.rms_norm
        return normalize(x, x.shape[-1:], eps=self.eps)


def build_norm(config: TransformerConfig) -> LayerNorm | RMSNorm | nn.Identity:
    """The normalization that a configuration asks for."""
    match config.norm:
        case "layer":
            return LayerNorm(config.d_model, eps=config.norm_eps, bias=config.bias)
        case "rms":
            return RMSNorm(config.d_model, eps=config.norm_eps)
        case "none":
            return nn.Identity()


def build_plain_norm(config: TransformerConfig) -> PlainNorm | nn.Identity:
    """The same without weights."""
    return nn.Identity() if config.norm == "none" else PlainNorm(centred=config.norm == "layer", eps=config.norm_eps)
