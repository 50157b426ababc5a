"""How do drawn tokens become text, and when does it stop?

Frames are decoded as they come, never half a character; a stop string ends a text even where it spans tokens, and
nothing of it is ever shown.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, final

from diptych.core.random import Rng
from diptych.core.types import TokenPredictor
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest


class Decoder(Protocol):
    """Turns tokens into text one by one."""

    def push(self, token: int) -> str:
        """The text that is certain after one more token."""
        ...

    def finish(self) -> str:
        """What is left."""
        ...


@dataclass(frozen=True, kw_only=True)
class Generation:
    """One finished text: its tokens, their log-probabilities in nats, and why it ended."""

    text: str
    ids: list[int]
    log_probabilities: list[float]
    reason: Literal["eos", "stop", "length"]


@final
class StopFilter:
    """Passes text on up to the first of the stop strings, holding back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = [stop for stop in stops if stop]
        self.held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The part of the text so far that is certain to be shown."""
        if self.stopped:
            return ""
        self.held += text
        places = [(at, stop) for stop in self.stops if (at := self.held.find(stop)) >= 0]
        if places:
            shown, self.held, self.stopped = self.held[: min(places)[0]], "", True
            return shown
        keep = max((_overlap(self.held, stop) for stop in self.stops), default=0)
        shown, self.held = self.held[: len(self.held) - keep], self.held[len(self.held) - keep :]
        return shown

    def finish(self) -> str:
        """What was held back and turned out to be no stop string."""
        shown, self.held = self.held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Length of the longest beginning of `stop` that ends `text`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


@dataclass
class _Row:
    decoder: Decoder
    stop: StopFilter
    text: str = ""
    ids: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    reason: Literal["eos", "stop", "length"] | None = None

    def take(self, token: int, log_probability: float, ends: Collection[int]) -> str:
        """Add a token; returns the text to show for it."""
        self.ids.append(token)
        self.log_probabilities.append(log_probability)
        if token in ends:
            return self.end("eos")
        shown = self.stop.push(self.decoder.push(token))
        self.text += shown
        if self.stop.stopped:
            self.reason = "stop"
        return shown

    def end(self, reason: Literal["eos", "length"]) -> str:
        """Close the row; returns the text that was still held back."""
        shown = self.stop.push(self.decoder.finish())
        shown += self.stop.finish()
        self.text += shown
        self.reason = "stop" if self.stop.stopped else reason
        return shown


def generate_text(
    model: TokenPredictor,
    sampler: AutoregressiveSampler,
    request: GenerationRequest,
    rng: Rng,
    *,
    new_decoder: Callable[[], Decoder],
    stops: Sequence[str] = (),
    on_text: Callable[[int, str], None] | None = None,
    cache: Any = None,
) -> list[Generation]:
    """Continue every prompt of the request; `on_text(row, text)` is called as text becomes certain.

    cache: one that holds a beginning of the only prompt.
    """
    rows = [_Row(new_decoder(), StopFilter(stops)) for _ in request.prompts]
    known = {} if cache is None else {"cache": cache}
    for frame in sampler.sample(model, request, rng, **known):
        drawn = zip(rows, frame.state.tolist(), frame.info["log_probability"].tolist(), strict=True)
        for index, (row, token, log_probability) in enumerate(drawn):
            if row.reason is None and (shown := row.take(token, log_probability, request.ends)) and on_text:
                on_text(index, shown)
        if all(row.reason for row in rows):
            break
    for index, row in enumerate(rows):
        if row.reason is None and (shown := row.end("length")) and on_text:
            on_text(index, shown)
    return [
        Generation(text=r.text, ids=r.ids, log_probabilities=r.log_probabilities, reason=r.reason or "length")
        for r in rows
    ]
