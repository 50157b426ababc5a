"""How probable does a network over pixel tokens hold images to be?

In bits per dimension of the discrete levels. Gaussian diffusion's (`diptych.evaluation.diffusion_likelihood`) are in
the same unit, a density over intervals of width 1 for each level, but of uniformly dequantized images, which bounds
the discrete likelihood from above; and a network that was told classes scores p(image | class), which over C equally
frequent classes is up to log2(C) bits an image below p(image).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from diptych.core.events import Handler, ignore
from diptych.core.types import Batch, Likelihood
from diptych.data.pixels import PixelStream
from diptych.evaluation.diffusion_likelihood import in_batches


@dataclass(frozen=True, kw_only=True)
class PixelScore:
    """Likelihood of images in bits per dimension.

    standard_error: that of the mean over the images, as an estimate of the distribution's; it holds the error of a
    bound's own estimate too. estimate_error: the latter alone, for these very images; None: the likelihood is exact.
    """

    bits_per_dimension: float
    standard_error: float
    estimate_error: float | None
    n_images: int
    kind: Literal["exact", "bound"]


@torch.no_grad()
def score_pixels(
    score: Callable[[Batch], Likelihood],
    stream: PixelStream,
    *,
    device: torch.device,
    n_images: int | None = None,
    batch_size: int = 64,
    on_event: Handler = ignore,
) -> PixelScore:
    """The mean over the first `n_images` of a stream that is not shuffled; None: over all. `score` gives nats a row.

    Raises ValueError where there is none, or a likelihood is no finite number.
    """
    n = len(stream) if n_images is None else min(n_images, len(stream))
    if n < 1:
        raise ValueError("there is no image to score; give at least one")
    whole = stream.batch(0, n)
    found = in_batches(
        lambda part: score(whole.rows(part.start, part.stop).to(device)), n, batch_size=batch_size, on_event=on_event
    )
    nats, bits = found.nats.double(), 1.0 / (math.log(2.0) * int(found.count[0]))
    if not bool(nats.isfinite().all()):
        raise ValueError("the model's likelihood is no finite number; its weights are damaged or its dtype too narrow")
    noise = None if found.standard_error is None else float(found.standard_error.double().square().sum().sqrt()) / n
    return PixelScore(
        bits_per_dimension=float(nats.mean()) * bits,
        standard_error=(float(nats.std()) / math.sqrt(n) if n > 1 else math.inf) * bits,
        estimate_error=None if noise is None else noise * bits,
        n_images=n,
        kind=found.kind,
    )
