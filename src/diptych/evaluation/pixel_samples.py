"""Which images does a network over pixel tokens draw?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from diptych.core.events import Handler, Progressed, ignore
from diptych.core.random import Rng
from diptych.core.types import Frame, Mask, TokenPredictor
from diptych.data.images import ImageSet
from diptych.data.pixels import to_images
from diptych.nn.embedding import unembed
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest
from diptych.samplers.canvas import CanvasRequest
from diptych.samplers.masked_diffusion import MaskedDiffusionSampler
from diptych.samplers.uniform_diffusion import UniformDiffusionSampler

PixelSampler = AutoregressiveSampler | MaskedDiffusionSampler | UniformDiffusionSampler


@final
class LevelPredictor:
    """The same network, but that only the first `levels` tokens have a probability."""

    def __init__(self, model: TokenPredictor, levels: int) -> None:
        self.model, self.levels, self.vocab_size = model, levels, model.vocab_size

    def __call__(self, x: Int[Tensor, "b t"], *, mask: Mask, **others: Any) -> Float[Tensor, "b t v"]:
        """Logits of every position, minus infinity for all that is no level."""
        return unembed(self.states(x, mask=mask, **others), self.unembedding, self.output_bias)

    def states(self, x: Int[Tensor, "b t"], *, mask: Mask, **others: Any) -> Float[Tensor, "b t d"]:
        """Those of the network."""
        return self.model.states(x, mask=mask, **others)

    @property
    def unembedding(self) -> Float[Tensor, "v d"]:
        """That of the network."""
        return self.model.unembedding

    @property
    def output_bias(self) -> Float[Tensor, " v"]:
        """That of the network for levels, minus infinity for other tokens."""
        weight, own = self.model.unembedding, self.model.output_bias
        bias = weight.new_zeros(len(weight)) if own is None else own
        return bias.masked_fill(torch.arange(len(bias), device=bias.device) >= self.levels, -torch.inf)

    def new_cache(self, batch_size: int, max_length: int) -> Any:
        """That of the network."""
        return self.model.new_cache(batch_size, max_length)


@final
@dataclass(frozen=True, kw_only=True)
class PixelDrawer:
    """A network and how it draws images of `shape` (c, h, w) with so many `levels`.

    opening_id: the token before every image. mask_id: what marks a pixel that is not drawn yet, for the samplers that
    fill a canvas.
    """

    model: TokenPredictor
    sampler: PixelSampler
    shape: tuple[int, int, int]
    levels: int
    opening_id: int
    mask_id: int

    def draw(self, n: int, rng: Rng, *, batch_size: int = 64, on_event: Handler = ignore) -> ImageSet:
        """`n` images. The same seed draws the same images in batches of any size. Raises ValueError for n < 1."""
        if n < 1:
            raise ValueError(f"{n} images are none to draw; ask for at least 1")
        rows = []
        for start in range(0, n, batch_size):
            ids = range(start, min(n, start + batch_size))
            drawn: list[Tensor] = []
            for frame in self._frames(ids, rng):
                # One sampler tells the tokens one by one, the others the whole canvas again and again.
                drawn = [*drawn, frame.state] if isinstance(self.sampler, AutoregressiveSampler) else [frame.state]
                done = start + len(ids) * (frame.step + 1) / max(frame.of, frame.step + 1)
                on_event(Progressed(what="drawing images", done=int(done), total=n, unit="images"))
            whole = torch.stack(drawn, 1) if isinstance(self.sampler, AutoregressiveSampler) else drawn[0][:, 1:]
            rows.append(whole.cpu().numpy().astype(np.int64))
        return to_images(np.concatenate(rows), self.shape, self.levels)

    def _frames(self, ids: range, rng: Rng) -> Iterator[Frame]:
        count = prod(self.shape)
        if isinstance(self.sampler, AutoregressiveSampler):
            prompts = [[self.opening_id]] * len(ids)
            beginning = GenerationRequest(prompts=prompts, max_new_tokens=count, eos_id=None, sample_ids=ids)
            return self.sampler.sample(LevelPredictor(self.model, self.levels), beginning, rng)
        others = tuple(token for token in range(self.levels, self.model.vocab_size) if token != self.mask_id)
        canvas = [[self.opening_id, *[self.mask_id] * count]] * len(ids)
        request = CanvasRequest(canvas=canvas, mask_id=self.mask_id, forbidden=others, sample_ids=ids)
        return self.sampler.sample(self.model, request, rng)
