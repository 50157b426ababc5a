"""How are events shown in a terminal, or in a log that is none?"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import final

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from diptych.core.events import Ended, Evaluated, Event, Message, Progressed, Saved, Started, Stepped

QUIET_SECONDS = 10.0
"""Without a terminal, a line of progress at most this often."""


@final
class ConsoleHandler:
    """Shows the events of a run: a live bar on a terminal, a line now and then in a log."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())
        self.live = self.console.is_terminal
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            transient=False,
            disable=not self.live,
        )
        self.tasks: dict[str, TaskID] = {}
        self.last_line = 0.0
        self.smoothed: float | None = None
        self.unit = "byte"

    def __enter__(self) -> ConsoleHandler:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        match event:
            case Message(text=text, level=level):
                self.console.print(text, style="yellow" if level == "warning" else None, markup=False)
            case Started():
                self.smoothed = None  # of the run before, if a command trains several
                self.tasks.pop("training", None)
                self.unit = event.unit
                verb = f"going on from step {event.step} of" if event.step else "training for"
                peak = f"{event.peak_flops / 1e9:,.0f} GFLOP/s"
                self.console.print(
                    f"{event.run}: {event.parameters:,} parameters, {verb} {event.steps} steps (matmul peak {peak})",
                    markup=False,
                )
            case Stepped():
                self._advance("training", event.step, event.steps, self._figures(event))
            case Progressed():
                of = f" of {event.total:,.0f}" if event.total else ""
                self._advance(event.what, event.done, event.total, f"{event.done:,.0f}{of} {event.unit}")
            case Evaluated():
                bits = "" if event.bits_per_byte is None else f", {event.bits_per_byte:.3f} bits per {self.unit}"
                best = ", the best so far" if event.best else ""
                self.console.print(f"step {event.step}: held-out loss {event.loss:.4f} nats{bits}{best}", markup=False)
            case Saved():
                pass
            case Ended(step=step, steps=steps, reason=reason):
                tail = "; the same command goes on from here" if reason == "interrupted" else ""
                self.console.print(f"{reason} at step {step} of {steps}{tail}", markup=False)

    def _figures(self, event: Stepped) -> str:
        kept = 0.95 if self.smoothed is not None else 0.0
        self.smoothed = kept * (self.smoothed or 0.0) + (1 - kept) * event.loss
        short = "bpb" if self.unit == "byte" else "bits/dim"
        bits = (
            "" if event.bits_per_byte is None else f"  {event.bits_per_byte * self.smoothed / event.loss:.3f} {short}"
        )
        speed = f"{event.tokens_per_second:,.0f} tok/s  MFU {event.mfu:.0%}"
        return f"step {event.step}/{event.steps}  loss {self.smoothed:.3f}{bits}  {speed}"

    def _advance(self, what: str, done: float, total: float | None, figures: str) -> None:
        if self.live:
            if what not in self.tasks:
                self.tasks[what] = self.progress.add_task(what, total=total, figures="")
            self.progress.update(self.tasks[what], completed=done, total=total, figures=figures)
            return
        now = time.monotonic()
        if now - self.last_line >= QUIET_SECONDS or (total is not None and done >= total):
            self.last_line = now
            self.console.print(f"{what}: {figures}", markup=False)
