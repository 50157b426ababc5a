"""What does it take to train from a recipe, from start to end?"""

from __future__ import annotations

from pathlib import Path

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
        experiment = prepare(run, world, report)
        handlers: list[Handler] = [report]
        trainer = Trainer(experiment, world, lambda event: _spread(event, handlers))
        trainer.resume()
        if not world.first:
            return fit(trainer)
        metrics = MetricsFile(experiment.out / METRICS, trainer.counters.step)
        handlers.append(metrics)
        if run.train.tensorboard:
            handlers.append(tensorboard(Path(experiment.out) / "tensorboard"))
        try:
            return fit(trainer)
        finally:
            metrics.close()


def _spread(event: Event, handlers: list[Handler]) -> None:
    for handler in handlers:
        handler(event)
