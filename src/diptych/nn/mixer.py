"""What is a layer that mixes positions given, and what does it remember?

Attention takes a mask lowered to scores (`diptych.nn.lowering.Lowered`), or near and far parts of one
(`diptych.nn.near_far.NearFar`). A recurrence reads a passage from left to right,
and obeys only the masks that say where to begin anew: `Passage`. Instead of all keys and values it remembers a state of
fixed size: `LayerState`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from diptych.core.types import Mask
from diptych.nn.lowering import Lowered
from diptych.nn.masks import Causal, Documents, Full, Keys
from diptych.nn.near_far import NearFar
from diptych.nn.positions import Rotation
from diptych.nn.reach import conditions


@final
@dataclass(frozen=True, eq=False)
class Passage:
    """What a recurrence reads at once.

    causal: from left to right; else every position reads the whole. Where the number in `documents` (b, t) changes, it
    begins anew. The first `lengths` (b) positions are read, the others are padding, which leaves no trace. The first
    position stands at `offset` in its sequence, one number for all rows or one a row (b).
    """

    causal: bool = True
    documents: Int[Tensor, "b t"] | None = None
    lengths: Int[Tensor, " b"] | None = None
    offset: Int[Tensor, " b"] | int = 0

    def valid(self, x: Float[Tensor, "b t m"]) -> Bool[Tensor, "b t"] | None:
        """Which positions are no padding; None: all."""
        if self.lengths is None:
            return None
        return torch.arange(x.shape[1], device=x.device) < self.lengths[:, None]


@final
class LayerState:
    """What one layer remembers between calls: tensors of its own choice whose first dimension is the rows."""

    def __init__(self) -> None:
        self.value: tuple[Tensor, ...] | None = None

    def select(self, rows: Int[Tensor, " b"]) -> None:
        """Row i becomes a copy of row `rows[i]`."""
        if self.value is not None:
            self.value = tuple(tensor[rows] for tensor in self.value)

    @property
    def n_bytes(self) -> int:
        """Memory of the state."""
        return sum(tensor.nbytes for tensor in self.value or ())


@runtime_checkable
class Recurrence(Protocol):
    """A layer that mixes positions in an order of reading. Attention is the other kind."""

    def __call__(
        self,
        x: Float[Tensor, "b t m"],
        mask: Passage,
        rotation: Rotation | None = None,
        cache: LayerState | None = None,
    ) -> Float[Tensor, "b t m"]:
        """What each position makes of those read up to it."""
        ...

    def start(self, generator: torch.Generator) -> None:
        """Draw those starting weights that are not drawn as all matrices, biases and scales of a network are."""
        ...


def read_in_order(mask: Mask, *, lengths: Int[Tensor, " b"] | None, offset: Int[Tensor, " b"] | int) -> Passage:
    """A mask as a recurrence can obey it: causal or full, with documents or padded keys.

    Raises ValueError for any other mask, which hides what a state has already taken in.
    """
    parts = conditions(mask)
    documents = [part.ids for part in parts if isinstance(part, Documents)]
    padded = [part.lengths for part in parts if isinstance(part, Keys)]
    for part in parts:
        if not isinstance(part, Causal | Full | Documents | Keys):
            raise ValueError(
                f"a recurrence takes all that it has read into one state, so no mask such as {part} can hide a part of "
                "it; leave the mask out, or set model.attention = ['softmax'] for that layer"
            )
    if len(documents) > 1 or len(padded) > 1 or (padded and lengths is not None):
        raise ValueError("a recurrence obeys one numbering of documents and one padding")
    return Passage(
        causal=any(isinstance(part, Causal) for part in parts),
        documents=documents[0] if documents else None,
        lengths=padded[0] if padded else lengths,
        offset=offset,
    )


Given = Lowered | NearFar | Passage
"""What a block hands to its mixing layer."""
