"""How does a transformer know where a token stands?

Sinusoids added to the embedding (Vaswani et al. 2017, section 3.5), a learned table added to it (GPT-2), rotations of
queries and keys (Su et al. 2021), stretched for long texts in one of five ways, or a bias on the scores (ALiBi, Press
et al. 2022).
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


def rope_frequencies(
    d_head: int, theta: float, scaling: RopeScaling | None, length: int | None = None
) -> Float[Tensor, " d_half"]:
    """Angle a position of each pair of dimensions, theta^(-2i/d), stretched for long contexts where asked.

    length: of the text that is read, by which dynamic stretching goes; None: not beyond the training's.
    """
    if scaling is not None:
        theta = stretched_theta(d_head, theta, scaling, length)
    # On the processor even while a network is described on the meta device, whose arange takes a second to import.
    frequency = theta ** (-torch.arange(0, d_head, 2, dtype=torch.float64, device="cpu") / d_head)
    if scaling is None or scaling.kind in ("ntk", "dynamic"):
        return frequency.float()
    kept = _kept(frequency, d_head, theta, scaling)
    return ((1 - kept) * frequency / scaling.factor + kept * frequency).float()


def stretched_theta(d_head: int, theta: float, scaling: RopeScaling, length: int | None = None) -> float:
    """The base by which NTK-aware stretching replaces theta: theta s^(d / (d - 2)), so that the lowest frequency is
    divided by s and the highest stays (bloc97 2023).

    s is the factor; of `dynamic` it is factor * length / original - (factor - 1) where the text is longer than the
    training's (emozilla 2023). Other kinds keep theta.
    """
    match scaling.kind:
        case "ntk":
            ratio = scaling.factor
        case "dynamic" if length is not None and length > scaling.original_max_length:
            ratio = scaling.factor * length / scaling.original_max_length - (scaling.factor - 1)
        case _:
            return theta
    return float(theta * ratio ** (d_head / (d_head - 2)))


def _kept(frequency: Tensor, d_head: int, theta: float, scaling: RopeScaling) -> Tensor:
    """1 where a frequency stays, 0 where it is divided by the factor, and between."""
    match scaling.kind:
        case "llama3":
            wavelength = 2 * math.pi / frequency
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            return ((scaling.original_max_length / wavelength - low) / (high - low)).clamp(0.0, 1.0)
        case "yarn":
            # The pair that turns `beta` times within the training's length; whole numbers, as in the authors' code.
            first, last = (
                d_head * math.log(scaling.original_max_length / (beta * 2 * math.pi)) / (2 * math.log(theta))
                for beta in (scaling.beta_fast, scaling.beta_slow)
            )
            start, end = max(math.floor(first), 0), min(math.ceil(last), d_head - 1)
            pair = torch.arange(len(frequency), dtype=torch.float64, device="cpu")
            return 1 - ((pair - start) / max(end - start, 0.001)).clamp(0.0, 1.0)
        case _:
            return torch.zeros_like(frequency)


def rotation(
    positions: Int[Tensor, "#b t"], frequencies: Float[Tensor, " d_half"], dtype: torch.dtype, scale: float = 1.0
) -> Rotation:
    """Cosines and sines of position x frequency, taken in float32, times YaRN's `scale`, and returned in `dtype`."""
    angle = positions[..., None].float() * frequencies
    angle = torch.cat((angle, angle), dim=-1)[:, :, None, :]
    cos, sin = angle.cos(), angle.sin()
    if scale != 1.0:
        cos, sin = cos * scale, sin * scale
    return cos.to(dtype), sin.to(dtype)


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
