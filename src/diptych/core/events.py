"""What does a long operation report while it runs?

`fit` and its kin emit these values; the terminal, the JSON lines and TensorBoard consume them. Nothing below the
command line prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Message:
    """Something that the user should read once."""

    text: str
    level: str = "info"


@dataclass(frozen=True, kw_only=True)
class Started:
    """A run begins (or goes on, at `step` > 0). unit: what `bits_per_byte` of its other events are per, a byte of text
    or a dimension of an image."""

    run: Path
    step: int
    steps: int
    parameters: int
    peak_flops: float
    unit: Literal["byte", "dimension"] = "byte"


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """One optimizer step ended. `loss` in nats a term; speeds over the time since the last such event."""

    step: int
    steps: int
    loss: float
    bits_per_byte: float | None
    lr: float
    grad_norm: float
    tokens: int
    tokens_per_second: float
    mfu: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """The held-out data was scored. `loss` in nats a term."""

    step: int
    loss: float
    bits_per_byte: float | None
    best: bool


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint is on the disk."""

    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """A countable part of a longer operation is done: `done` of `total` (None where unknown) of `unit`."""

    what: str
    done: float
    total: float | None
    unit: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A run is over, finished or interrupted."""

    step: int
    steps: int
    reason: str


Event = Message | Started | Stepped | Evaluated | Saved | Progressed | Ended
Handler = Callable[[Event], None]


def ignore(event: Event) -> None:
    """A handler for callers who want no reports."""
    del event
