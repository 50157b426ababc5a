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

from diptych.core.config import RunConfig
from diptych.core.events import Handler, ignore
from diptych.core.random import Rng
from diptych.core.types import Batch, Likelihood, TokenPredictor
from diptych.data.pixels import PixelStream
from diptych.evaluation.diffusion_likelihood import check_finite, in_batches
from diptych.objectives.autoregressive import Autoregressive
from diptych.tokenizers.base import Tokenizer
from diptych.training.prepare import text_diffusion


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


def likelihood_of_run(
    run: RunConfig, model: TokenPredictor, tokenizer: Tokenizer, rng: Rng, *, draws: int
) -> Callable[[Batch], Likelihood]:
    """The nats of each image of a batch, by the objective of the run. draws: evaluations of a network that denoises for
    each image's bound."""
    if run.objective == "autoregressive":
        return lambda batch: Autoregressive().likelihood(model, batch, rng)
    objective = text_diffusion(run, tokenizer)
    return lambda batch: objective.likelihood(model, batch, rng, draws=draws)


@torch.no_grad()
def pixel_nats(
    score: Callable[[Batch], Likelihood],
    stream: PixelStream,
    *,
    device: torch.device,
    n_images: int | None = None,
    batch_size: int = 64,
    on_event: Handler = ignore,
) -> Likelihood:
    """The nats of the first `n_images` of a stream that is not shuffled; None: of all. `score` gives those of a batch.

    Raises ValueError where there is none, or a likelihood is no finite number.
    """
    n = len(stream) if n_images is None else min(n_images, len(stream))
    if n < 1:
        raise ValueError("there is no image to score; give at least one")
    whole = stream.batch(0, n)
    found = in_batches(
        lambda part: score(whole.rows(part.start, part.stop).to(device)), n, batch_size=batch_size, on_event=on_event
    )
    check_finite(found.nats)
    return found


def score_pixels(
    score: Callable[[Batch], Likelihood],
    stream: PixelStream,
    *,
    device: torch.device,
    n_images: int | None = None,
    batch_size: int = 64,
    on_event: Handler = ignore,
) -> PixelScore:
    """The mean of `pixel_nats` over the images."""
    found = pixel_nats(score, stream, device=device, n_images=n_images, batch_size=batch_size, on_event=on_event)
    nats, n, bits = found.nats.double(), len(found.nats), 1.0 / (math.log(2.0) * int(found.count[0]))
    noise = None if found.standard_error is None else float(found.standard_error.double().square().sum().sqrt()) / n
    return PixelScore(
        bits_per_dimension=float(nats.mean()) * bits,
        standard_error=(float(nats.std()) / math.sqrt(n) if n > 1 else math.inf) * bits,
        estimate_error=None if noise is None else noise * bits,
        n_images=n,
        kind=found.kind,
    )
