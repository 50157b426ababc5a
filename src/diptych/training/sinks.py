"""Where do a run's figures go?

`metrics.jsonl` always, one JSON object an event; TensorBoard where asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, final

from diptych.core.events import Evaluated, Event, Handler, Stepped
from diptych.core.files import write_text


def record_of(event: Event) -> dict[str, Any] | None:
    """The line of `metrics.jsonl` for an event; None where it has none."""
    match event:
        case Stepped():
            record = {"kind": "step", **vars(event), **event.metrics}
            del record["metrics"], record["steps"]
            return record
        case Evaluated():
            return {"kind": "eval", **vars(event)}
        case _:
            return None


@final
class MetricsFile:
    """Appends to `metrics.jsonl`; lines beyond the step that a run resumes from are cut first."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        if path.exists():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
            write_text(path, "".join(f"{line}\n" for line in lines))
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = path.open("a", encoding="utf-8", buffering=1)

    def __call__(self, event: Event) -> None:
        if record := record_of(event):
            self.file.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def _step_of(line: str) -> float:
    """The step of a line; a line cut short by a crash counts as beyond every step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def tensorboard(folder: Path) -> Handler:
    """A handler that writes TensorBoard events. Raises ModuleNotFoundError where the extra is missing."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ModuleNotFoundError("TensorBoard is not installed; pip install 'diptych[logging]'") from error
    writer = SummaryWriter(folder)

    def handle(event: Event) -> None:
        record = record_of(event)
        for name, value in (record or {}).items():
            if isinstance(value, float) and record is not None:
                writer.add_scalar(f"{record['kind']}/{name}", value, record["step"])
        if record is None:
            writer.flush()

    return handle
