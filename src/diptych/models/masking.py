"""What is each layer given of the mask of a passage?"""

from __future__ import annotations

from typing import TypedDict

import torch
from jaxtyping import Int
from torch import Tensor

from diptych.core.config import TransformerConfig
from diptych.core.types import Mask
from diptych.models.cache import KeyValueCache
from diptych.models.layers import kinds_of_layers, mask_of
from diptych.nn.lowering import lower
from diptych.nn.masks import Both, Within
from diptych.nn.mixer import Given, read_in_order
from diptych.nn.near_far import Turn, near_far
from diptych.nn.precision import matmul_dtype
from diptych.nn.reach import is_relative


class Places(TypedDict):
    """What `lower` and `near_far` are told of queries and keys."""

    queries: int
    keys: int
    offset: Tensor | int
    key_positions: Tensor | None
    device: torch.device


def given_to_layers(
    config: TransformerConfig,
    mask: Mask,
    h: Tensor,
    *,
    cache: KeyValueCache | None = None,
    places: Int[Tensor, "b t"] | None = None,
    slopes: Tensor | None = None,
    turn: Turn | None = None,
    positions: Int[Tensor, "#b t"] | None = None,
) -> list[Given]:
    """The mask of an objective or a sampler joined to each layer's own, lowered for attention or as a passage to read.

    One for each layer until kinds and masks repeat. h: states (b, t, d) of the passage. places: their positions in
    documents that share a row, from which a layer's mask counts. slopes: ALiBi's. turn: the rotation of positions,
    which near and far parts take themselves where the configuration has a `position_scheme`; positions: those of the
    passage, where they do not count on from what the cache holds. Raises ValueError for a mask that a recurrence or
    such a scheme cannot obey.
    """
    known: dict[tuple[object, bool], Given] = {}
    given = []
    for layer in range(kinds_of_layers(config)):
        own, reads = mask_of(config, layer), config.attention_of(layer) != "softmax"
        if (own, reads) not in known:
            whole = _joined(mask, own, places)
            known[own, reads] = (
                read_in_order(
                    whole,
                    lengths=None if cache is None else cache.expected,
                    offset=0 if cache is None else cache.offset,
                )
                if reads
                else _lowered(whole, layer, h, cache, slopes)
                if config.position_scheme is None or turn is None
                else near_far(whole, config.position_scheme, turn, **_places(layer, h, cache), positions=positions)
            )
        given.append(known[own, reads])
    return given


def _joined(mask: Mask, own: Mask | None, places: Tensor | None) -> Mask:
    if own is None:
        return mask
    return Both(mask, own if places is None or is_relative(own) else Within(own, places))


def _lowered(mask: Mask, layer: int, h: Tensor, cache: KeyValueCache | None, slopes: Tensor | None) -> Given:
    return lower(mask, **_places(layer, h, cache), slopes=slopes).in_precision(matmul_dtype(h))


def _places(layer: int, h: Tensor, cache: KeyValueCache | None) -> Places:
    """Where the queries of a passage and a layer's keys stand."""
    count = h.shape[1]
    return {
        "queries": count,
        "keys": count if cache is None else cache.longest + count,
        "offset": 0 if cache is None else cache.offset,
        "key_positions": None if cache is None else cache.key_positions(layer, count),
        "device": h.device,
    }
