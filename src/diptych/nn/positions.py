"""How does a transformer know where a token stands?

Sinusoids added to the embedding (Vaswani et al. 2017, section 3.5), a learned table added to it (GPT-2), rotations of
queries and keys (Su et al. 2021) with Llama 3's stretching, or a bias on the scores (ALiBi, Press et al. 2022).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diptych.core.config import RopeScaling, TransformerConfig

Rotation = tuple[Float[Tensor, "#b t 1 d_head"], Float[Tensor, "#b t 1 d_head"]]
"""Cosines and sines for each position, the halves of the head width repeated."""


def sinusoidal_table(length: int, d_model: int, *, halves: bool = False) -> Float[Tensor, "t d"]:
    """PE[pos, 2i] = sin(pos / 10000^(2i/d)), PE[pos, 2i+1] = cos of the same (Vaswani et al. 2017, section 3.5).

    halves: all sines, then all cosines, as in the authors' code.
    """
    table = sinusoids(torch.arange(length, dtype=torch.float64), d_model)
    return (torch.cat((table[:, 0::2], table[:, 1::2]), dim=1) if halves else table).float()


def sinusoids(position: Float[Tensor, " t"], d_model: int) -> Float[Tensor, "t d"]:
    """sin(position / 10000^(2i/d)) in column 2i, cos of the same in column 2i + 1, in float64."""
    frequency = torch.arange(0, d_model, 2, dtype=torch.float64, device=position.device)
    frequency = torch.exp(frequency * (-math.log(10_000.0) / d_model))
    angle = position.double()[:, None] * frequency
    table = torch.zeros(len(position), d_model, dtype=torch.float64, device=position.device)
    table[:, 0::2] = torch.sin(angle)
    table[:, 1::2] = torch.cos(angle[:, : d_model // 2])
    return table


def rope_frequencies(d_head: int, theta: float, scaling: RopeScaling | None) -> Float[Tensor, " d_half"]:
    """Angle a position of each pair of dimensions, theta^(-2i/d), stretched for long contexts where asked."""
    # On the processor even while a network is described on the meta device, whose arange takes a second to import.
    frequency = theta ** (-torch.arange(0, d_head, 2, dtype=torch.float64, device="cpu") / d_head)
    if scaling is None:
        return frequency.float()
    wavelength = 2 * math.pi / frequency
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    smooth = ((scaling.original_max_length / wavelength - low) / (high - low)).clamp(0.0, 1.0)
    return ((1 - smooth) * frequency / scaling.factor + smooth * frequency).float()


def rotation(positions: Int[Tensor, "#b t"], frequencies: Float[Tensor, " d_half"], dtype: torch.dtype) -> Rotation:
    """Cosines and sines of position x frequency, taken in float32 and returned in `dtype`."""
    angle = positions[..., None].float() * frequencies
    angle = torch.cat((angle, angle), dim=-1)[:, :, None, :]
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Float[Tensor, "b t h d_head"], by: Rotation) -> Float[Tensor, "b t h d_head"]:
    """Rotate each pair (x[i], x[i + d/2]) by its angle: the half-split layout of Llama's published weights."""
    cos, sin = by
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def alibi_slopes(n_heads: int) -> Float[Tensor, " h"]:
    """Slope of each head's penalty on distance: 2^(-8/n), 2^(-16/n), ... (Press et al. 2022, section 3).

    Where `n_heads` is no power of two, the missing slopes are every second one of the next power's, as in the authors'
    code.
    """
    power = 2 ** math.floor(math.log2(n_heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    slopes += [2.0 ** (-4.0 * (i + 1) / power) for i in range(0, 2 * (n_heads - power), 2)]
    return torch.tensor(slopes)


def alibi_bias(
    slopes: Float[Tensor, " h"],
    query: Int[Tensor, "#b q 1"],
    key: Int[Tensor, "#b 1 k"],
    allowed: Bool[Tensor, "#b 1 q k"],
) -> Float[Tensor, "b h q k"]:
    """What is added to the scores: -slope times the distance, -inf where a query may not attend (Press et al. 2022)."""
    bias = -slopes[:, None, None] * (query - key).abs()[:, None]
    return bias.masked_fill(~allowed, -math.inf)


def position_tables(config: TransformerConfig) -> dict[str, Tensor | None]:
    """The tables, float32, by which a configuration tells positions; None for each that it does not use."""
    halves = config.position == "sinusoidal_halves"
    is_sinusoidal = config.position.startswith("sinusoidal")
    is_rotary, is_alibi = config.position == "rope", config.position == "alibi"
    return {
        "rope": rope_frequencies(config.head_width, config.rope_theta, config.rope_scaling) if is_rotary else None,
        "slopes": alibi_slopes(config.n_heads) if is_alibi else None,
        "sinusoids": sinusoidal_table(config.max_length, config.d_model, halves=halves) if is_sinusoidal else None,
    }


def check_reach(config: TransformerConfig, end: int) -> None:
    """Raises ValueError where a sequence of `end` tokens outgrows a table that is added to the embedding."""
    if config.position.startswith(("learned", "sinusoidal")) and end > config.max_length:
        raise ValueError(
            f"{end} tokens are more than the {config.max_length} that this model's {config.position} positions reach; "
            "use shorter text, or a model with rotary positions"
        )
