"""What does it take to train from a recipe, from start to end?"""

from __future__ import annotations

from diptych.core.config import RunConfig
from diptych.core.events import Event, Handler, ignore
from diptych.training.distributed import joined
from diptych.training.loop import Trainer, fit
from diptych.training.prepare import prepare
from diptych.training.sinks import MetricsFile, tensorboard

METRICS = "metrics.jsonl"


def train(run: RunConfig, on_event: Handler = ignore) -> bool:
    """Train, or go on training, the run that a recipe describes; returns whether it finished.

    Raises ValueError, OSError or ModuleNotFoundError with one clear line for whatever the user must mend.
    """
    with joined(run.train.device) as world:
        report = on_event if world.first else ignore
        return train_experiment(Trainer(prepare(run, world, report), world, report))


def train_experiment(trainer: Trainer) -> bool:
    """Go on from the run folder's state, writing `metrics.jsonl` beside the trainer's own reports."""
    trainer.resume()
    if not trainer.world.first:
        return fit(trainer)
    report, out = trainer.on_event, trainer.experiment.out
    metrics = MetricsFile(out / METRICS, trainer.counters.step)
    handlers: list[Handler] = [report, metrics]
    if trainer.run.train.tensorboard:
        handlers.append(tensorboard(out / "tensorboard"))

    def spread(event: Event) -> None:
        for handler in handlers:
            handler(event)

    trainer.on_event = spread
    try:
        return fit(trainer)
    finally:
        trainer.on_event = report
        metrics.close()
