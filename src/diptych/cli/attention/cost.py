"""`diptych attention cost [FORM...]`: how do the time and the memory of attention grow with the length?"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from diptych.cli.common import parse, size
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from diptych.evaluation.attention_cost import CostCell, CostConfig, CostResult
    from diptych.evaluation.power_law import PowerLaw

DESCRIPTION = """Measure the time and the peak memory of one layer against the length of the text, for every form of
attention, and fit the power of the length that they follow, with its 95 % interval. Writes cost.json, cost.csv and
cost.png. Ctrl-C is safe: the same command goes on, and so does one with further forms, lengths or repeats.

FORM is `naive` (the formula written out, with all n x n scores), a kind (linear, gated_delta, transformer_xl,
titans_context, titans_gate, titans_layer), or a mask such as `full` or `window(512)` (diptych attention show --help
lists them) under which softmax attention runs. All are causal. Without FORM several of them are measured.

examples:
  diptych attention cost
  diptych attention cost naive full "window(512)" linear --train --lengths 512 1024 2048 4096
  diptych attention cost full "window(512)" --lengths 4096 8192 16384 32768 --device cuda --dtype bfloat16
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych attention cost`."""

    forms: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="FORM...")] = ()
    """The forms; none: several."""
    lengths: tuple[int, ...] = (1024, 2048, 4096, 8192, 16_384)
    """Lengths of the text in tokens."""
    d_model: int = 256
    """Width of the layer."""
    n_heads: int = 4
    """Number of heads."""
    batch_size: int = 1
    """Texts at once."""
    train: bool = False
    """Forward and backward, not forward alone."""
    repeats: int = 5
    """Timings of every form at every length; their median counts."""
    fit_from: int = 0
    """Fit the exponents to this length and longer ones only."""
    memory_budget: str | None = None
    """Leave out what `naive` would hold beyond this, as in 8GB; None: half of the memory that is free."""
    seed: int = 0
    """Of weights and texts."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision; bfloat16 by autocast, as in training."""
    out: Path = Path("runs/attention-cost")
    """Folder of the results."""
    json: bool = False
    """Print one JSON object instead of the tables."""


def main(arguments: list[str]) -> int:
    """Parse, measure what is not measured yet, write, print; 130 where interrupted."""
    options = parse(Options, arguments, "attention cost", DESCRIPTION)
    budget = None if options.memory_budget is None else size(options.memory_budget, "--memory-budget")
    config = configured(options)
    from diptych.evaluation.attention_cost import measure_cost
    from diptych.report.attention_cost import cost_figure
    from diptych.report.plots import save_png

    try:
        with ConsoleHandler() as console:
            result = measure_cost(config, options.out, console, device=options.device, memory_budget=budget)
    except KeyboardInterrupt:
        print("\nthe same command goes on from here", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps(record(result, options.fit_from)))
    else:
        _tables(result, options.fit_from)
    if any(result.timed(form) for form in config.forms):
        picture = options.out / "cost.png"
        save_png(cost_figure(result, start=options.fit_from), picture)
        print(f"{options.out / 'cost.json'}  {picture}", file=sys.stderr if options.json else sys.stdout)
    return 0


def configured(options: Options) -> CostConfig:
    """The measurement that the options describe. Raises ValueError for what is wrong with them."""
    from diptych.evaluation.attention_cost import CostConfig
    from diptych.evaluation.attention_layers import LayerSize

    return CostConfig(
        forms=options.forms or CostConfig().forms,
        lengths=tuple(sorted(options.lengths)),
        repeats=options.repeats,
        size=LayerSize(
            d_model=options.d_model,
            n_heads=options.n_heads,
            batch_size=options.batch_size,
            train=options.train,
            dtype=options.dtype,
            seed=options.seed,
        ),
    )


def record(result: CostResult, start: int = 0) -> dict[str, object]:
    """The measurement as JSON: what cost.json holds, and the laws fitted to it."""
    laws = [
        {"form": form, "time": _law(result.time_law(form, start)), "memory": _law(result.memory_law(form, start))}
        for form in result.config.forms
    ]
    return {**asdict(result), "laws": laws}


def _law(law: PowerLaw | None) -> dict[str, object] | None:
    return None if law is None else asdict(law)


def _tables(result: CostResult, start: int) -> None:
    from diptych.report import words
    from diptych.report.attention_cost import seconds

    what = "forward and backward" if result.config.size.train else "forward"
    _table(result, f"time of a layer, {what}", lambda cell: seconds(cell.median), result.time_law, start)
    if any(cell.n_bytes for form in result.config.forms for cell in result.timed(form)):
        title = "peak memory, weights and input apart"
        _table(result, title, lambda cell: words.size(cell.n_bytes or 0), result.memory_law, start)
    used = [length for length in result.config.lengths if length >= start]
    about = result.config.size
    print(
        f"{result.machine}; d_model {about.d_model}, {about.n_heads} heads, {about.dtype}, batch {about.batch_size}; "
        f"exponent b of n^b by least squares on logarithms, with its 95 % interval, from the lengths measured between "
        f"{used[0] if used else start:,} and {result.config.lengths[-1]:,}"
    )


def _table(
    result: CostResult,
    title: str,
    shown: Callable[[CostCell], str],
    law: Callable[[str, int], PowerLaw | None],
    start: int,
) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("form", overflow="fold")
    for length in result.config.lengths:
        table.add_column(f"{length:,}", justify="right", no_wrap=True)
    table.add_column("exponent", justify="right", no_wrap=True)
    for form in result.config.forms:
        cells = [result.cell(form, length) for length in result.config.lengths]
        row = ["" if cell is None or not cell.seconds else shown(cell) for cell in cells]
        found = law(form, start)
        table.add_row(form, *row, "" if found is None else found.text)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(table, markup=False)
