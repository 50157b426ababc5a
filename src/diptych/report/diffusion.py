"""What does Gaussian diffusion look like? Its forward process, its schedules, and the loss at each noise level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from diptych.checkpoints.image_model import OpenedImageModel
from diptych.core.diffusion_config import DiffusionConfig
from diptych.core.events import Handler, Progressed, ignore
from diptych.core.random import Rng
from diptych.core.types import Denoiser
from diptych.data.images import ImageSet
from diptych.diffusion.exact import EmpiricalData, GaussianData
from diptych.diffusion.grids import uniform_time
from diptych.diffusion.parameterization import column
from diptych.diffusion.schedules import Cosine, LogNormal, Schedule, StraightPath, VPLinear, build_schedule
from diptych.report.plots import PALETTE, style
from diptych.report.results import LevelLoss

SCHEDULES: dict[str, Schedule] = {
    "linear": VPLinear(),
    "cosine": Cosine(),
    "EDM": LogNormal(),
    "straight path": StraightPath(),
}
_COLOURS = ("model", "second", "ink", "muted")


def level_loss(
    opened: OpenedImageModel,
    train: ImageSet,
    heldout: ImageSet,
    *,
    levels: int = 13,
    n_images: int = 256,
    seed: int = 0,
    on_event: Handler = ignore,
) -> LevelLoss:
    """Measure all denoisers with the same noise. `n_images`: most images of each side that are denoised."""
    config = opened.run.diffusion
    sigmas = np.geomspace(max(config.sigma_min, 0.005), config.sigma_max, levels)
    device = next(opened.model.parameters()).device
    known, held = train.floats().double(), heldout.take(slice(0, n_images)).floats().double()
    flat = known.flatten(1)
    covariance = torch.cov(flat.T) + 1e-6 * torch.eye(flat.shape[1], dtype=torch.float64)
    gaussian, memory = GaussianData(known.mean(0), covariance=covariance), EmpiricalData(known)
    labels = None
    if opened.classes and heldout.labels is not None:
        labels = torch.from_numpy(np.asarray(heldout.labels[:n_images])).to(device)
    network = opened.denoiser(labels)

    found: dict[str, list[float]] = {"network": [], "linear": [], "memory": [], "floor": []}
    for index, sigma in enumerate(sigmas):
        rng = Rng(seed).fold("level", index)
        found["network"].append(_error(network, held.to(device), float(sigma), rng))
        found["linear"].append(_error(gaussian, held, float(sigma), rng))
        found["memory"].append(_error(memory, held, float(sigma), rng))
        found["floor"].append(_error(memory, known[:n_images], float(sigma), rng))
        on_event(Progressed(what="denoising", done=index + 1, total=levels, unit="noise levels"))
    return LevelLoss(
        sigmas=tuple(float(sigma) for sigma in sigmas), **{name: tuple(values) for name, values in found.items()}
    )


@torch.inference_mode()
def _error(denoiser: Denoiser, x_0: Tensor, sigma: float, rng: Rng) -> float:
    ids = torch.arange(len(x_0), device=x_0.device)
    x = x_0 + sigma * rng.normal("noise", ids, *x_0.shape[1:])
    return float((denoiser(x, torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)) - x_0).square().mean())


def forward_process(
    images: ImageSet, config: DiffusionConfig, *, columns: int, seed: int = 0
) -> tuple[Float[Tensor, " s"], Float[Tensor, "s n c h w"]]:
    """Noise levels, even in the schedule's time, and the images under them as its own process scales them:
    z = alpha (x + sigma eps), each with the same noise at all levels, brought to a range that the eye can see."""
    x = images.floats().double()
    schedule = build_schedule(config)
    down = uniform_time(schedule, columns - 1, config.sigma_min, config.sigma_max, to_zero=False)
    sigmas = torch.tensor(down[::-1], dtype=torch.float64)
    noise = Rng(seed).normal("noise", torch.arange(len(x)), *x.shape[1:])
    return sigmas, torch.stack([seen(schedule.alpha(sigma) * (x + sigma * noise)) for sigma in sigmas])


def seen(z: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
    """Each example divided by its root mean square where that exceeds 1: of a process that does not scale the signal
    the eye sees something only then."""
    return z / column(torch.sqrt(z.square().flatten(1).mean(1)).clamp(min=1.0), z)


def forward_figure(images: ImageSet, config: DiffusionConfig, *, seed: int = 0, narrow: bool = False) -> Figure:
    """Three images in the course of `forward_process`."""
    columns, rows = (5, 3) if narrow else (9, 3)
    sigmas, noisy = forward_process(images.take(slice(0, rows)), config, columns=columns, seed=seed)
    with style():
        figure = Figure(figsize=(3.9 if narrow else 7.4, 1.6 if narrow else 2.9), layout="constrained")
        cells = figure.subplots(noisy.shape[1], columns, squeeze=False)
        for column_index, (sigma, z) in enumerate(zip(sigmas, noisy, strict=True)):
            for row, one in enumerate(z):
                _image(cells[row][column_index], one)
            cells[0][column_index].set_title(f"{float(sigma):.2g}", color=PALETTE["muted"], fontsize=8)
        figure.supxlabel("noise level sigma, from the image to nothing but noise", color=PALETTE["muted"], fontsize=9)
    return figure


def _image(axes: Axes, pixels: Tensor) -> None:
    picture = ((pixels + 1.0) / 2.0).clamp(0.0, 1.0).permute(1, 2, 0).numpy()
    grey = picture.shape[2] == 1
    axes.imshow(picture[:, :, 0] if grey else picture, cmap="gray" if grey else None, vmin=0, vmax=1)
    axes.set_axis_off()


def schedule_figure(*, narrow: bool = False) -> Figure:
    """log-SNR against time, of all schedules."""
    time = torch.linspace(0.002, 0.998, 400, dtype=torch.float64)
    with style():
        figure = Figure(figsize=(3.9 if narrow else 7.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for (name, schedule), colour in zip(SCHEDULES.items(), _COLOURS, strict=True):
            axes.plot(time, -2.0 * schedule.log_sigma(time), label=name, color=PALETTE[colour], linewidth=1.6)
        axes.axhline(0.0, color=PALETTE["line"], linewidth=1, zorder=0)
        axes.set_xlim(0, 1)
        axes.set_ylim(-12, 14)
        axes.tick_params(length=0)
        axes.grid(axis="y")
        axes.set_xlabel("time")
        axes.set_ylabel("log-SNR, -2 ln sigma")
        figure.legend(frameon=False, loc="outside upper left", ncols=2 if narrow else 4)
    return figure


def loss_figure(loss: LevelLoss, *, narrow: bool = False) -> Figure:
    """Square error against the noise level, both on logarithmic axes."""
    lines: Sequence[tuple[str, tuple[float, ...], str, str]] = (
        ("the network, held-out images", loss.network, "model", "-"),
        ("best linear denoiser, held-out", loss.linear, "second", "-"),
        ("training images by heart, held-out", loss.memory, "muted", "-"),
        ("Bayes-optimal floor, training images", loss.floor, "ink", "--"),
    )
    with style():
        figure = Figure(figsize=(3.9 if narrow else 7.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for name, values, colour, dash in lines:
            axes.plot(loss.sigmas, values, dash, label=name, color=PALETTE[colour], linewidth=1.6)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(max(1e-6, 0.5 * min(loss.network)), 2.0 * max(*loss.network, *loss.linear))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(length=0, which="both")
        axes.grid(axis="y")
        axes.set_xlabel("noise level sigma")
        axes.set_ylabel("square error a pixel")
        figure.legend(frameon=False, loc="outside upper left", ncols=1 if narrow else 2)
    return figure
