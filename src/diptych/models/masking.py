"""What is each layer given of the mask of a passage?"""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from diptych.core.config import TransformerConfig
from diptych.core.types import Mask
from diptych.models.cache import KeyValueCache
from diptych.models.layers import kinds_of_layers, mask_of
from diptych.nn.lowering import lower
from diptych.nn.masks import Both, Within
from diptych.nn.mixer import Given, read_in_order
from diptych.nn.precision import matmul_dtype
from diptych.nn.reach import is_relative


def given_to_layers(
    config: TransformerConfig,
    mask: Mask,
    h: Tensor,
    *,
    cache: KeyValueCache | None = None,
    places: Int[Tensor, "b t"] | None = None,
    slopes: Tensor | None = None,
) -> list[Given]:
    """The mask of an objective or a sampler joined to each layer's own, lowered for attention or as a passage to read.

    One for each layer until kinds and masks repeat. h: states (b, t, d) of the passage. places: their positions in
    documents that share a row, from which a layer's mask counts. slopes: ALiBi's. Raises ValueError for a mask that a
    recurrence cannot obey.
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
            )
        given.append(known[own, reads])
    return given


def _joined(mask: Mask, own: Mask | None, places: Tensor | None) -> Mask:
    if own is None:
        return mask
    return Both(mask, own if places is None or is_relative(own) else Within(own, places))


def _lowered(mask: Mask, layer: int, h: Tensor, cache: KeyValueCache | None, slopes: Tensor | None) -> Given:
    count = h.shape[1]
    return lower(
        mask,
        queries=count,
        keys=count if cache is None else cache.longest + count,
        offset=0 if cache is None else cache.offset,
        slopes=slopes,
        key_positions=None if cache is None else cache.key_positions(layer, count),
        device=h.device,
    ).in_precision(matmul_dtype(h))
