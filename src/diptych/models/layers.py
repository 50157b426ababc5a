"""Which mask does a layer of a configuration have, and how much of the past does it need?"""

from __future__ import annotations

import math
from collections.abc import Iterator

from diptych.core.config import TransformerConfig
from diptych.core.types import Mask
from diptych.nn.mask_text import parse_mask
from diptych.nn.masks import Both, Full, Window
from diptych.nn.reach import Reach, reach_of


def kinds_of_layers(config: TransformerConfig) -> int:
    """After how many layers their kinds and masks repeat; at most `n_layers`."""
    return min(config.n_layers, math.lcm(len(config.attention), max(1, len(config.mask))))


def repeated_layers(config: TransformerConfig) -> Iterator[tuple[int, int]]:
    """One layer of each kind and mask, and how many are like it; however many layers a file claims to have."""
    period = kinds_of_layers(config)
    for layer in range(period):
        yield layer, -(-(config.n_layers - layer) // period)


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
