"""How are masked words filled in?

Where several are masked, one at a time, the surest first: in each step the network predicts all masks that are left,
the likeliest of all its guesses is taken, and the next step sees it (the easy-first order of Goldberg and Elhadad 2010;
Mask-Predict, Ghazvininejad et al. 2019, and MaskGIT, Chang et al. 2022, take several of the surest in a step). A guess
at one mask thus agrees with the others, which independent guesses need not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.types import Frame, TokenPredictor
from diptych.nn.embedding import unembed
from diptych.nn.masks import Full


@dataclass(frozen=True, kw_only=True, eq=False)
class FillRequest:
    """A text with masks. `ordinary` (v) is True for tokens that may be filled in: special ones are no words.

    Raises ValueError where nothing is masked.
    """

    ids: Sequence[int]
    mask_id: int
    ordinary: Bool[Tensor, " v"]

    def __post_init__(self) -> None:
        if self.mask_id not in self.ids:
            raise ValueError("nothing is masked in the text; put a mask where a word is wanted")


@final
@dataclass(frozen=True, kw_only=True)
class FillSampler:
    """Fills masks with the likeliest tokens, the surest first; `candidates` are shown of each."""

    candidates: int = 5

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise ValueError(f"candidates={self.candidates} must be at least 1")

    @torch.inference_mode()
    def sample(self, model: TokenPredictor, request: FillRequest, rng: Rng) -> Iterator[Frame]:
        """Yield a frame a mask: `state` (1, t) is the text so far.

        `info` holds the `position` (1,) just filled, its `candidates` (1, k), likeliest first and the first of them
        filled in, and their `candidate_probabilities` (1, k) under the network's distribution over all tokens.
        """
        del rng  # nothing is drawn
        device = model.unembedding.device
        canvas = torch.tensor([list(request.ids)], device=device)
        allowed = torch.zeros(model.vocab_size, dtype=torch.bool, device=device)
        allowed[: len(request.ordinary)] = request.ordinary.to(device)
        count = list(request.ids).count(request.mask_id)
        for step in range(count):
            left = (canvas[0] == request.mask_id).nonzero()[:, 0]
            states = model.states(canvas, mask=Full())[0, left]
            logits = unembed(states, model.unembedding, model.output_bias)
            logits = logits if logits.dtype == torch.float64 else logits.float()
            probabilities = logits.softmax(-1).masked_fill(~allowed, -1.0)
            surest = int(probabilities.amax(-1).argmax())
            shown = min(self.candidates, int(allowed.sum()))
            best = probabilities[surest].topk(shown)
            canvas = canvas.clone()
            canvas[0, left[surest]] = best.indices[0]
            info = {
                "position": left[surest][None],
                "candidates": best.indices[None],
                "candidate_probabilities": best.values[None],
            }
            yield Frame(step, count, canvas, info)
