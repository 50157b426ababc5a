"""What does a Gaussian diffusion learn of handwritten digits? (Review sections 3.1 and 3.2.)

A network small enough for a review learns to denoise them; the forward process is shown on real digits, the backward
process on those that it draws, and both are measured.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from diptych.checkpoints.image_model import images_of_run, open_image_model
from diptych.core.config import DataConfig, OptimConfig, RunConfig, TrainConfig, TransformerConfig
from diptych.core.diffusion_config import PatchConfig
from diptych.core.events import Handler, Message
from diptych.core.random import Rng
from diptych.data.images import ImageSet, to_levels
from diptych.evaluation.diffusion_likelihood import heldout_scores
from diptych.evaluation.image_quality import image_quality
from diptych.evaluation.image_samples import ImageDrawer, build_sampler, labels_in_turn
from diptych.report.diffusion import forward_process, level_loss, loss_figure, schedule_figure, seen
from diptych.report.images import encoded
from diptych.report.results import ClassImages, ImageDiffusionResult, ImagesAtLevel, ReviewResults
from diptych.training.distributed import World
from diptych.training.loop import Trainer
from diptych.training.prepare import prepare
from diptych.training.run import train_experiment

SOLVER, STEPS = "unipc_3", 12

FORWARD_IMAGES, FORWARD_LEVELS = 3, 9
"""Real digits that are shown under noise, and at how many levels."""

FOLLOWED = (3, 8)
"""Drawn digits whose backward process is shown."""

SHOWN = 6
"""Drawn digits of each class that are shown."""

DRAWN = 348
"""Digits that are drawn and measured: as many as are held out."""

SCORED, PROBES = 32, 2
"""Held-out digits whose likelihood is taken, and the directions by which the flow's divergence is estimated."""


def can_learn_images() -> bool:
    """Whether the digits, and what writes pictures, are here."""
    return all(find_spec(name) is not None for name in ("sklearn", "PIL"))


def image_run(out: Path, seed: int) -> RunConfig:
    """A smaller and shorter form of `recipes/digits.toml`."""
    return RunConfig(
        out=str(out / "digits"),
        objective="gaussian",
        model=TransformerConfig(
            d_model=96,
            n_layers=4,
            n_heads=4,
            norm="layer",
            position="learned",
            feed_forward="gelu_tanh",
            bias=True,
            patches=PatchConfig(size=2),
        ),
        data=DataConfig(format="images", source=("digits",), heldout_fraction=0.2),
        optim=OptimConfig(lr=3e-3, betas=(0.9, 0.99), weight_decay=0.0, schedule="cosine", final_lr_fraction=0.02),
        train=TrainConfig(seed=seed, steps=900, batch_size=128, ema_lengths=(0.1,), eval_every=0, save_every=100),
    )


def measure_image_diffusion(run: RunConfig, world: World, on_event: Handler) -> ImageDiffusionResult:
    """Train it, or go on with its training, and measure it. Raises KeyboardInterrupt where that is interrupted."""
    experiment = prepare(run, world, on_event)
    if not train_experiment(Trainer(experiment, world, on_event)):
        raise KeyboardInterrupt
    seed, folder = run.train.seed, experiment.out
    opened = open_image_model(folder, device=world.device)
    train, heldout = images_of_run(folder)
    drawer = ImageDrawer(opened=opened, sampler=build_sampler(run.diffusion, SOLVER, STEPS))
    on_event(Message(text="drawing and measuring digits"))
    drawn = drawer.draw(labels_in_turn(opened, DRAWN), DRAWN, Rng(seed), on_event=on_event)
    flow, bound = heldout_scores(opened, folder, SCORED, probes=PROBES, seed=seed, on_event=on_event)
    return ImageDiffusionResult(
        parameters=sum(p.numel() for p in opened.model.parameters()),
        steps=run.train.steps,
        train_images=len(train),
        schedule=run.diffusion.schedule,
        forward=_forward(heldout.take(slice(0, FORWARD_IMAGES)), run, seed),
        loss=level_loss(opened, train, heldout, seed=seed, on_event=on_event),
        solver=SOLVER,
        evaluations=drawer.sampler.evaluations,
        backward=_backward(drawer, seed),
        generated=_by_class(drawn),
        quality=image_quality(drawn, train, heldout, seed, on_event),
        bound=bound,
        flow=flow,
    )


def schedules_drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """All schedules; they are known without a measurement."""
    del results
    return schedule_figure(narrow=narrow)


def loss_drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """The error of a review's network at each noise level."""
    assert results.image_diffusion is not None
    return loss_figure(results.image_diffusion.loss, narrow=narrow)


def _forward(images: ImageSet, run: RunConfig, seed: int) -> tuple[ImagesAtLevel, ...]:
    sigmas, noisy = forward_process(images, run.diffusion, columns=FORWARD_LEVELS, seed=seed)
    return tuple(ImagesAtLevel(sigma=float(sigma), images=_pictures(z)) for sigma, z in zip(sigmas, noisy, strict=True))


def _backward(drawer: ImageDrawer, seed: int) -> tuple[ImagesAtLevel, ...]:
    """The same images that stand among those drawn: their noise is keyed by their numbers."""
    device = next(drawer.opened.model.parameters()).device
    ids = torch.tensor(FOLLOWED, device=device)
    labels = ids % len(drawer.opened.classes) if drawer.opened.classes else None
    return tuple(
        ImagesAtLevel(
            sigma=drawer.sampler.sigmas[frame.step + 1],
            images=_pictures(seen(frame.state)) + _pictures(frame.info["denoised"]),
        )
        for frame in drawer.frames(labels, ids, Rng(seed))
    )


def _by_class(drawn: ImageSet) -> tuple[ClassImages, ...]:
    assert drawn.labels is not None
    return tuple(
        ClassImages(name=name, images=encoded(drawn.take(drawn.labels == place).take(slice(0, SHOWN))))
        for place, name in enumerate(drawn.classes)
    )


def _pictures(x: Tensor) -> tuple[str, ...]:
    return encoded(ImageSet(pixels=to_levels(x, 256).cpu().numpy()))
