"""How do the time and the memory of attention grow with the length of a text?

One layer of every form (see `attention_layers`) is run at every length. Its time is the median of repeats that take
turns among forms and lengths, so that a busy moment of the machine meets no cell in most of its repeats; its memory is
the peak over what was there before (see `peak_memory`). To both a power of the length is fitted. Layers are not
compiled as a whole.
"""

from __future__ import annotations

import csv
import io
import re
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, final

import torch

from diptych.core.events import Handler, Message, Progressed, ignore
from diptych.core.files import write_text
from diptych.core.recipe import differences, load_json, save_json
from diptych.evaluation.attention_layers import NAIVE, FormLayer, LayerSize, check_form, score_bytes
from diptych.evaluation.peak_memory import PeakMemory
from diptych.evaluation.power_law import PowerLaw, fit_power_law
from diptych.training.distributed import choose_device

COST, TABLE = "cost.json", "cost.csv"

SHORTEST = 0.05
"""Seconds that one timing takes at least: what is faster is run several times in it."""

_GRID = {"forms", "lengths", "repeats"}
"""Keys that a measurement may be continued with other values of."""


@dataclass(frozen=True, kw_only=True)
class CostConfig:
    """What is measured."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    forms: tuple[str, ...] = (
        "naive",
        "full",
        "window(512)",
        "window(128) | strided(128)",
        "linear",
        "gated_delta",
        "transformer_xl",
        "titans_gate",
    )
    """`naive`, kinds of `model.attention`, and masks."""
    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16_384)
    """Positions, rising."""
    repeats: int = 5
    """Timings of every form at every length."""
    size: LayerSize = field(default_factory=LayerSize)
    """The layers."""

    def __post_init__(self) -> None:
        for name in ("forms", "lengths"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} is empty; give at least one")
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names a value twice; give each once")
        if self.lengths[0] < 1 or list(self.lengths) != sorted(self.lengths):
            raise ValueError("lengths must be at least 1 and rise")
        if self.repeats < 1:
            raise ValueError(f"repeats={self.repeats} measures nothing; give at least 1")
        for form in self.forms:
            check_form(form)


@dataclass(frozen=True, kw_only=True)
class CostCell:
    """One form at one length."""

    form: str
    length: int
    seconds: tuple[float, ...] = ()
    """Of every timing so far."""
    n_bytes: int | None = None
    """Peak memory over what was there before; None where it could not be told."""

    @property
    def median(self) -> float:
        """Median of the timings."""
        return statistics.median(self.seconds)


@dataclass(frozen=True, kw_only=True)
class CostResult:
    """What has been measured so far, and on what."""

    config: CostConfig
    machine: str
    cells: tuple[CostCell, ...] = ()

    def cell(self, form: str, length: int) -> CostCell | None:
        """The cell of a form at a length; None where it was not measured."""
        return next((cell for cell in self.cells if (cell.form, cell.length) == (form, length)), None)

    def timed(self, form: str, start: int = 0) -> list[CostCell]:
        """The cells of a form that have a time, from length `start` on."""
        cells = [self.cell(form, length) for length in self.config.lengths if length >= start]
        return [cell for cell in cells if cell is not None and cell.seconds]

    def time_law(self, form: str, start: int = 0) -> PowerLaw | None:
        """The power of the length that the time follows, from length `start` on; None for fewer than two lengths."""
        cells = self.timed(form, start)
        if len(cells) < 2:
            return None
        return fit_power_law([cell.length for cell in cells], [cell.median for cell in cells])

    def memory_law(self, form: str, start: int = 0) -> PowerLaw | None:
        """The same of the peak memory."""
        cells = [cell for cell in self.timed(form, start) if cell.n_bytes]
        if len(cells) < 2:
            return None
        return fit_power_law([cell.length for cell in cells], [float(cell.n_bytes or 0) for cell in cells])


def review_cost_config() -> CostConfig:
    """A measurement for the living review: about a quarter of a minute on two cores."""
    return CostConfig(
        forms=("naive", "full", "window(128)", "linear"),
        lengths=(1024, 2048, 4096, 8192),
        repeats=3,
        size=LayerSize(d_model=128, n_heads=2),
    )


def measure_cost(
    config: CostConfig,
    out: Path | None = None,
    on_event: Handler = ignore,
    *,
    device: str = "auto",
    memory_budget: int | None = None,
) -> CostResult:
    """Measure whatever is not measured yet; `out`/cost.json is written whole after every measurement.

    out: None keeps nothing. device: `auto`, `cpu`, `cuda`, ... memory_budget: bytes beyond which the naive form's
    scores are left out; None: half of the memory that is free. Ctrl-C (KeyboardInterrupt) loses the measurement of
    that moment alone. Raises ValueError where the folder holds a measurement of other layers or of another machine;
    other forms, lengths and repeats may be added.
    """
    place = choose_device(device)
    budget = _free_memory(place) // 2 if memory_budget is None else memory_budget
    return _Measurement(config, out, on_event, place, budget).run()


def machine_of(device: torch.device) -> str:
    """What a measurement is only comparable on."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def _free_memory(device: torch.device) -> int:
    """Bytes that may still be taken; where that cannot be told, 8 GB are assumed."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    known = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+) kB", known.read_text()) if known.exists() else None
    return 1024 * int(found[1]) if found else 8 * 10**9


@final
class _Measurement:
    def __init__(
        self, config: CostConfig, out: Path | None, on_event: Handler, device: torch.device, budget: int
    ) -> None:
        self.config, self.out, self.on_event, self.device, self.budget = config, out, on_event, device, budget
        self.memory = PeakMemory(config.size, device)
        self.cells = {(cell.form, cell.length): cell for cell in self._opened()}
        self.done = 0

    def _opened(self) -> tuple[CostCell, ...]:
        out = self.out
        if out is not None and out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file; name a folder for the measurement")
        if out is None or not (out / COST).is_file():
            return ()
        kept = load_json(CostResult, out / COST)
        changed = sorted(set(differences(kept.config, self.config)) - _GRID)
        changed += ["machine"] if kept.machine != machine_of(self.device) else []
        if changed:
            raise ValueError(
                f"{out} holds a measurement of another kind (it differs in {', '.join(changed)}); choose another "
                "--out, delete the folder, or give the same settings to go on"
            )
        return kept.cells

    @property
    def result(self) -> CostResult:
        return CostResult(config=self.config, machine=machine_of(self.device), cells=tuple(self.cells.values()))

    def run(self) -> CostResult:
        if not self.memory.possible:
            self.on_event(Message(text=f"peak memory cannot be told on {self.device.type} here; only times are taken"))
        with self.memory:
            cells = [self._with_memory(form, length) for length in self.config.lengths for form in self.config.forms]
        self._time([cell for cell in cells if cell is not None])
        self._keep()
        return self.result

    def _time(self, cells: list[CostCell]) -> None:
        """In rounds, each of which times every cell that lacks timings."""
        timers = {(cell.form, cell.length): _Timer(cell, self.config, self.device) for cell in cells}
        for number in range(self.config.repeats):
            for (form, length), timer in timers.items():
                cell = self.cells[form, length]
                if len(cell.seconds) <= number:
                    self._record(replace(cell, seconds=(*cell.seconds, timer.seconds())))

    def _with_memory(self, form: str, length: int) -> CostCell | None:
        """A cell that lacks timings, its memory measured; None for one that is complete, or whose memory does not
        suffice."""
        cell = self.cells.get((form, length), CostCell(form=form, length=length))
        missing = self.config.repeats - len(cell.seconds)
        if missing <= 0 or not self._fits(cell):
            self._progress(1 + self.config.repeats)
            return None
        return cell

    def _fits(self, cell: CostCell) -> bool:
        if cell.form == NAIVE and (wanted := score_bytes(cell.length, self.config.size)) > self.budget:
            self.on_event(
                Message(
                    text=f"naive is left out at {cell.length:,} positions: its scores take {wanted / 1e9:.1f} GB, more "
                    f"than the budget of {self.budget / 1e9:.1f} GB"
                )
            )
            return False
        try:
            n_bytes = self.memory.measure(cell.form, cell.length) if cell.n_bytes is None else cell.n_bytes
        except MemoryError as error:
            self.on_event(Message(text=str(error), level="warning"))
            return False
        self._record(replace(cell, n_bytes=n_bytes))
        for _ in cell.seconds:
            self._progress(1)
        return True

    def _record(self, cell: CostCell) -> None:
        self.cells[cell.form, cell.length] = cell
        self._keep()
        self._progress(1)

    def _progress(self, steps: int) -> None:
        self.done += steps
        total = len(self.config.forms) * len(self.config.lengths) * (1 + self.config.repeats)
        self.on_event(Progressed(what="attention", done=self.done, total=total, unit="measurements"))

    def _keep(self) -> None:
        if self.out is not None:
            save_json(self.result, self.out / COST)
            write_text(self.out / TABLE, "".join(table(self.result)))


def table(result: CostResult) -> Iterator[str]:
    """The measurements as lines of CSV."""
    for row in (("form", "length", "seconds", "bytes"), *_rows(result)):
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(row)
        yield line.getvalue()


def _rows(result: CostResult) -> Iterator[tuple[str, int, float, int | None]]:
    for form in result.config.forms:
        for cell in result.timed(form):
            yield form, cell.length, cell.median, cell.n_bytes


@final
class _Timer:
    """Times one form at one length; what is fast is run several times in one timing."""

    def __init__(self, cell: CostCell, config: CostConfig, device: torch.device) -> None:
        self.layer = FormLayer(cell.form, config.size, device)
        self.x, self.given, self.device = self.layer.input(cell.length), self.layer.given(cell.length), device
        first = self._run(1)  # may compile, and fills caches
        self.runs = 1 if first > 20 * SHORTEST else max(1, round(SHORTEST / self._run(1)))

    def seconds(self) -> float:
        """Of one run."""
        return self._run(self.runs) / self.runs

    def _run(self, runs: int) -> float:
        self._wait()
        start = time.perf_counter()
        for _ in range(runs):
            self.layer.run(self.x, self.given)
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
