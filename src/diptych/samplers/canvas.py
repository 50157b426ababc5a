"""What is asked of a sampler that fills gaps, wherever they are?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class CanvasRequest:
    """Rows of tokens with gaps: where `canvas` holds `mask_id` a token is wanted, all else is given and never altered.

    canvas: b rows of n tokens each. mask_id: what marks a gap; no gap is ever filled with it. A sampler that shows its
    network no mask takes any number that is no token, such as -1. forbidden: tokens that are never filled in either.
    sample_ids: numbers of the rows for their random draws; None: 0, 1, 2, ...

    Raises ValueError where nothing is to be filled and for rows that do not fit together.
    """

    canvas: Sequence[Sequence[int]]
    mask_id: int
    forbidden: tuple[int, ...] = ()
    sample_ids: Sequence[int] | None = None

    def __post_init__(self) -> None:
        lengths = {len(row) for row in self.canvas}
        if len(lengths) > 1:
            raise ValueError(f"the rows of a canvas must be of one length, not {min(lengths)} to {max(lengths)} tokens")
        if not any(self.mask_id in row for row in self.canvas):
            raise ValueError("nothing is masked on the canvas; put a mask where a token is wanted")
        if any(token < 0 and token != self.mask_id for row in self.canvas for token in row):
            raise ValueError("the canvas holds a negative number that is not its mask")
        if self.sample_ids is not None and len(self.sample_ids) != len(self.canvas):
            raise ValueError(f"{len(self.sample_ids)} sample ids do not fit {len(self.canvas)} rows")

    def tokens(self, device: torch.device) -> Int[Tensor, "b n"]:
        """The canvas as a tensor."""
        return torch.tensor([list(row) for row in self.canvas], device=device)

    def ids(self, device: torch.device) -> Int[Tensor, " b"]:
        """The numbers of the rows."""
        return torch.tensor(
            list(range(len(self.canvas)) if self.sample_ids is None else self.sample_ids), device=device
        )

    def allowed(self, vocab_size: int, device: torch.device) -> Bool[Tensor, " v"]:
        """True for the tokens that may be filled in. Raises ValueError where there is none."""
        allowed = torch.ones(vocab_size, dtype=torch.bool, device=device)
        allowed[[token for token in (self.mask_id, *self.forbidden) if 0 <= token < vocab_size]] = False
        if not bool(allowed.any()):
            raise ValueError("every token is forbidden, so nothing can be filled in")
        return allowed
