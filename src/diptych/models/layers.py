"""Which mask does a layer of a configuration have, how much of the past does it need, and over which positions?"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from diptych.core.config import TransformerConfig
from diptych.core.diffusion_config import PatchConfig
from diptych.core.types import Mask
from diptych.nn.mask_text import parse_mask
from diptych.nn.masks import Both, Full, Window
from diptych.nn.reach import Reach, reach_of

MOST_PATCHES = 1 << 16
"""Images of more are refused, before tables of their positions are made."""


def kinds_of_layers(config: TransformerConfig) -> int:
    """After how many layers their kinds and masks repeat; at most `n_layers`."""
    return min(config.n_layers, math.lcm(len(config.attention), max(1, len(config.mask))))


def repeated_layers(config: TransformerConfig) -> Iterator[tuple[int, int]]:
    """One layer of each kind and mask, and how many are like it; however many layers a file claims to have."""
    period = kinds_of_layers(config)
    for layer in range(period):
        yield layer, -(-(config.n_layers - layer) // period)


def sized_patches(config: TransformerConfig) -> PatchConfig:
    """The patches of a configuration. Raises ValueError where the shape of an image is unknown, or too large."""
    patches = config.patches
    if patches is None or not patches.is_sized:
        raise ValueError(
            "the shape of an image is unknown; set model.patches.channels, height and width, or train from a recipe "
            "with images"
        )
    rows, columns = patches.grid
    if rows * columns > MOST_PATCHES:
        raise ValueError(
            f"an image of more than {MOST_PATCHES:,} patches is too large for this network; set a larger "
            "model.patches.size, or use smaller images"
        )
    return patches


def positions_of(config: TransformerConfig, x: Tensor) -> int:
    """How many positions a network computes of a training batch: tokens that have a next one, or patches."""
    if config.patches is None:
        return x[:, 1:].numel()
    rows, columns = config.patches.grid
    return x.shape[0] * rows * columns


def mask_of(config: TransformerConfig, layer: int) -> Mask | None:
    """What a layer hides besides what the objective hides; None: nothing.

    Titans read their window themselves.
    """
    masks: list[Mask] = []
    if config.window is not None and config.attention_of(layer) == "softmax":
        masks.append(Window(config.window))
    if config.mask and (mask := parse_mask(config.mask[layer % len(config.mask)])) != Full():
        masks.append(mask)
    return None if not masks else masks[0] if len(masks) == 1 else Both(masks[0], masks[1])


def reach(config: TransformerConfig, layer: int) -> Reach | None:
    """What of the past an attention layer may look at when it generates; None: all of it."""
    mask = mask_of(config, layer)
    return None if mask is None else reach_of(mask)
