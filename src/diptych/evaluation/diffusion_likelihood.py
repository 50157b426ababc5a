"""How probable does a denoiser hold images to be?

By the probability-flow equation, whose density is exact up to its steps (Song et al. 2021, section 4.3), or by the
variational bound, `diptych.diffusion.bound`; both in nats, and in bits per dimension for images of whole numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diptych.checkpoints.image_model import OpenedImageModel, images_of_run
from diptych.core.events import Handler, Progressed, ignore
from diptych.core.random import Rng
from diptych.core.types import Batch, Denoiser, Likelihood
from diptych.data.images import ImageStream
from diptych.objectives.gaussian import GaussianDiffusion

_RHO = 7.0
"""The flow is followed in t = sigma^(1/7), in which its steps are even (Karras et al. 2022, equation 5)."""


def flow_likelihood(
    denoiser: Denoiser,
    x: Float[Tensor, "b ..."],
    sample_ids: Int[Tensor, " b"],
    rng: Rng,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    steps: int = 64,
    probes: int | None = None,
    on_event: Handler = ignore,
) -> Likelihood:
    """-ln p(x) in nats under the density that the flow dx / d sigma = (x - D) / sigma carries from N(0, sigma_max^2).

    x: (b, ...). p is the density at noise sigma_min, so the data's own up to details of that size. Four evaluations a
    step of Runge and Kutta's fourth order, each with the divergence of D: exact, by one derivative a dimension, where
    `probes` is None; else Hutchinson's estimate by so many random signs an example (Grathwohl et al. 2019), unbiased
    and with the standard error of the probes' mean, which holds nothing of the steps' error. The prior knows nothing of
    the data's mean m: an error of standard deviation |m| / sigma_max nats between examples, of mean
    |m|^2 / (2 sigma_max^2). Raises ValueError for fewer than one step or two probes.
    """
    if steps < 1 or (probes is not None and probes < 2):
        raise ValueError(f"steps={steps} must be at least 1 and probes={probes} at least 2, whose spread is the error")
    x = x.detach().double()
    directions = _directions(x, sample_ids, rng, probes)
    start, end = sigma_min ** (1.0 / _RHO), sigma_max ** (1.0 / _RHO)
    step, gained = (end - start) / steps, x.new_zeros(len(directions), len(x))
    for i in range(steps):
        t = start + i * step
        v_1, g_1 = _flow(denoiser, x, t, directions)
        v_2, g_2 = _flow(denoiser, x + 0.5 * step * v_1, t + 0.5 * step, directions)
        v_3, g_3 = _flow(denoiser, x + 0.5 * step * v_2, t + 0.5 * step, directions)
        v_4, g_4 = _flow(denoiser, x + step * v_3, t + step, directions)
        x = x + step / 6.0 * (v_1 + 2.0 * v_2 + 2.0 * v_3 + v_4)
        gained = gained + step / 6.0 * (g_1 + 2.0 * g_2 + 2.0 * g_3 + g_4)
        on_event(Progressed(what="following the flow", done=i + 1, total=steps, unit="steps"))
    dims = x[0].numel()
    prior = -0.5 * (x.flatten(1).square().sum(1) / sigma_max**2 + dims * math.log(2.0 * math.pi * sigma_max**2))
    # Exact directions add up to the divergence; random ones each estimate it.
    change = gained.sum(0) if probes is None else gained.mean(0)
    error = None if probes is None else gained.std(0) / math.sqrt(probes)
    return Likelihood(
        nats=-(prior + change), count=torch.full_like(sample_ids, dims), kind="exact", standard_error=error
    )


def in_batches(
    score: Callable[[slice], Likelihood], n: int, *, batch_size: int = 64, on_event: Handler = ignore
) -> Likelihood:
    """The likelihood of `n` examples, `score` taking so many of them at a time as a slice of 0..n."""
    if n < 1 or batch_size < 1:
        raise ValueError("there is nothing to score; give at least one example and a batch_size of at least 1")
    parts = []
    for i in range(0, n, batch_size):
        parts.append(score(slice(i, min(n, i + batch_size))))
        on_event(Progressed(what="scoring", done=min(n, i + batch_size), total=n, unit="images"))
    errors = [part.standard_error for part in parts if part.standard_error is not None]
    return Likelihood(
        nats=torch.cat([part.nats for part in parts]),
        count=torch.cat([part.count for part in parts]),
        kind=parts[0].kind,
        standard_error=torch.cat(errors) if errors else None,
    )


def bits_per_dimension(nats: float, dims: int, levels: int) -> float:
    """nats / dims / ln 2 + log2(levels / 2): nats of x = 2 (v + u) / levels - 1, whose levels are 2 / levels apart.

    With u uniform in [0, 1) this bounds the discrete v's bits from above, in expectation over u: ln P(v) is the
    logarithm of a mean of p's, and no less than the mean of their logarithms (Theis et al. 2016, section 3.1). So under
    uniform dequantization even the flow's exact density gives a bound on the discrete likelihood.
    """
    return nats / dims / math.log(2.0) + math.log2(levels / 2)


@dataclass(frozen=True, kw_only=True)
class ImageScore:
    """Likelihood of images in bits per dimension, and its standard error as an estimate of the distribution's.

    The error is that of the mean over the images, each with its own draw of noise, so it holds both sources of chance.
    """

    bits_per_dimension: float
    standard_error: float
    n_images: int
    kind: Literal["exact", "bound"]


def image_score(likelihood: Likelihood, levels: int) -> ImageScore:
    """The mean over all images, which have one size. Raises ValueError where a likelihood is no finite number."""
    nats, dims = likelihood.nats.double(), int(likelihood.count[0])
    check_finite(nats)
    error = float(nats.std()) / math.sqrt(len(nats)) if len(nats) > 1 else math.inf
    return ImageScore(
        bits_per_dimension=bits_per_dimension(float(nats.mean()), dims, levels),
        standard_error=error / dims / math.log(2.0),
        n_images=len(nats),
        kind=likelihood.kind,
    )


def check_finite(nats: Float[Tensor, " n"]) -> None:
    """Raises ValueError where a likelihood is no finite number."""
    if not bool(nats.isfinite().all()):
        raise ValueError("the model's likelihood is no finite number; its weights are damaged or its dtype too narrow")


def _directions(x: Tensor, sample_ids: Tensor, rng: Rng, probes: int | None) -> Tensor:
    """Unit vectors (d, 1, ...), or random signs (probes, b, ...), the same along the whole path."""
    if probes is None:
        dims = x[0].numel()
        return torch.eye(dims, dtype=x.dtype, device=x.device).view(dims, 1, *x.shape[1:])
    uniform = rng.uniform("probes", sample_ids, probes, *x.shape[1:]).to(x)
    return torch.where(uniform < 0.5, -1.0, 1.0).to(x).transpose(0, 1)


def _flow(denoiser: Denoiser, x: Tensor, t: float, directions: Tensor) -> tuple[Tensor, Tensor]:
    """dx / dt = rho (x - D) / t at sigma = t^rho, and v . (d/dx dx/dt) v for every direction v, (directions, b)."""
    sigma = x.new_full((len(x),), t**_RHO)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        velocity = _RHO / t * (x - denoiser(x, sigma))
        products = []
        for i, direction in enumerate(directions):
            keep = i + 1 < len(directions)
            (gradient,) = torch.autograd.grad((velocity * direction).sum(), x, retain_graph=keep)
            products.append((gradient * direction).flatten(1).sum(1))
    return velocity.detach(), torch.stack(products)


def image_flow(
    opened: OpenedImageModel, batch: Batch, rng: Rng, *, probes: int = 8, on_event: Handler = ignore
) -> Likelihood:
    """`flow_likelihood` of the images of a batch under a run's network, each spread once over its levels.

    batch.x: (b, c, h, w) at the centres of the levels; batch.cond: the classes (b), where the network knows any.
    """
    config = opened.run.diffusion
    return flow_likelihood(
        opened.denoiser(batch.cond if opened.classes else None),
        _dequantizing(opened).spread(batch, rng),
        batch.sample_ids,
        rng,
        sigma_min=config.sigma_min,
        sigma_max=config.sigma_max,
        probes=probes,
        on_event=on_event,
    )


def _dequantizing(opened: OpenedImageModel) -> GaussianDiffusion:
    """The objective of a run, its images spread over their levels whether its training spread them or not."""
    return GaussianDiffusion(replace(opened.run.diffusion, dequantize=True), opened.levels, len(opened.classes))


def heldout_scores(
    opened: OpenedImageModel,
    folder: Path,
    count: int,
    *,
    probes: int = 8,
    seed: int = 0,
    on_event: Handler = ignore,
) -> tuple[ImageScore, ImageScore]:
    """Likelihood of the first `count` held-out images of a run, each dequantized once: by the flow and by the bound."""
    _, heldout = images_of_run(folder)
    n, rng, device = min(count, len(heldout)), Rng(seed), next(opened.model.parameters()).device
    whole = ImageStream(heldout, shuffle=False).batch(0, n).to(device)
    objective = _dequantizing(opened)

    def by_flow(part: slice) -> Likelihood:
        return image_flow(opened, whole.rows(part.start, part.stop), rng, probes=probes, on_event=on_event)

    def by_bound(part: slice) -> Likelihood:
        with torch.inference_mode():
            return objective.likelihood(opened.model, whole.rows(part.start, part.stop), rng)

    flow, bound = (in_batches(score, n, on_event=on_event) for score in (by_flow, by_bound))
    return image_score(flow, opened.levels), image_score(bound, opened.levels)
