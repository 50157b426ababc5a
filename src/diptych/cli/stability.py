"""`diptych stability [SOURCE...]`: where does training diverge?"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from diptych.cli.common import parse, size
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from rich.text import Text

    from diptych.evaluation.stability import Column, StabilityConfig, StabilityResult

DESCRIPTION = """Where does training diverge? A small decoder is trained for every normalization, its place, depth and
learning rate, and the gradients at initialization are measured layer by layer (after Xiong et al. 2020). Writes
stability.json and stability.png. The defaults take five to ten minutes on two cores. Ctrl-C is safe: the same command
goes on, and so does one with further norms, placements, depths, learning rates or seeds.

SOURCE is what data.source of a recipe takes: files, folders, JSONL, Parquet, hf:NAME, or stdlib.

examples:
  diptych stability
  diptych stability --norms layer --warmup 60 --out runs/stability-warmup
  diptych stability my/texts --depths 2 6 12 --learning-rates 1e-3 1e-2 --steps 40 --d-model 32
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych stability`."""

    source: tyro.conf.Positional[tuple[str, ...]] = ("stdlib",)
    """Text to learn from, byte by byte."""
    out: Path = Path("runs/stability")
    """Folder of the results."""
    norms: tuple[Literal["layer", "rms", "none"], ...] = ("layer", "rms", "none")
    """Layer normalization, root-mean-square normalization, none."""
    placements: tuple[Literal["post", "pre"], ...] = ("post", "pre")
    """After each residual sum, before each sublayer; without a normalization there is no placement."""
    depths: tuple[int, ...] = (2, 4, 8, 16)
    """Numbers of blocks."""
    learning_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
    """Peak learning rates of Adam."""
    steps: int = 120
    """Optimizer steps of a run."""
    warmup: int = 0
    """Steps of linear warm-up."""
    seeds: int = 1
    """Runs of every cell."""
    seed: int = 0
    """The first seed."""
    d_model: int = 64
    """Width of the residual stream."""
    n_heads: int = 4
    """Number of heads."""
    sequence_length: int = 64
    """Bytes in a sequence."""
    batch_size: int = 8
    """Sequences in a step."""
    text_field: str = "text"
    """Field or column of the text in JSONL, Parquet and data sets."""
    max_bytes: str = "1MB"
    """Read at most this much text."""
    json: bool = False
    """Print one JSON object instead of the tables."""


def main(arguments: list[str]) -> int:
    """Parse, train what is not trained yet, write, print; 130 where interrupted."""
    options = parse(Options, arguments, "stability", DESCRIPTION)
    from diptych.evaluation.stability import STABILITY, run_stability
    from diptych.report.plots import save_png
    from diptych.report.stability import drawing

    config = configured(options)
    try:
        with ConsoleHandler() as console:
            result = run_stability(config, options.out, console)
    except KeyboardInterrupt:
        print("\nthe same command goes on from here", file=sys.stderr)
        return 130
    picture = options.out / "stability.png"
    save_png(drawing(result), picture)
    if options.json:
        print(json.dumps(asdict(result)))
        return 0
    _tables(result)
    print(f"{options.out / STABILITY}  {picture}")
    return 0


def configured(options: Options) -> StabilityConfig:
    """The sweep that the options describe. Raises ValueError for what is wrong with them."""
    from diptych.core.config import DataConfig
    from diptych.evaluation.stability import StabilityConfig

    limit = size(options.max_bytes, "--max-bytes")
    return StabilityConfig(
        norms=options.norms,
        placements=options.placements,
        depths=tuple(sorted(options.depths)),
        learning_rates=tuple(sorted(options.learning_rates)),
        steps=options.steps,
        warmup_steps=options.warmup,
        seeds=options.seeds,
        seed=options.seed,
        d_model=options.d_model,
        n_heads=options.n_heads,
        sequence_length=options.sequence_length,
        batch_size=options.batch_size,
        data=DataConfig(source=options.source, text_field=options.text_field, max_bytes=limit),
    )


def _tables(result: StabilityResult) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    for column in result.config.columns:
        table = Table(box=box.SIMPLE_HEAD, title=f"normalization: {column.name}", title_justify="left")
        table.add_column("depth", justify="right")
        for rate in result.config.learning_rates:
            table.add_column(f"{rate:g}", justify="right", no_wrap=True)
        table.add_column("gradient of the first and of the last block", no_wrap=True)
        for depth in result.config.depths:
            norms = result.gradient(column, depth)
            cells = [_cell(result, column, depth, rate) for rate in result.config.learning_rates]
            table.add_row(str(depth), *cells, f"{norms[0]:.3g}  {norms[-1]:.3g}")
        console.print(table)
    for line in legend(result):
        console.print(line, soft_wrap=True)


def _cell(result: StabilityResult, column: Column, depth: int, rate: float) -> Text:
    from rich.text import Text

    cell = result.cell(column, depth, rate)
    if cell is None:
        return Text("")
    loss = "" if cell.final_loss is None else f"{cell.final_loss:.2f}" if cell.final_loss < 1000 else ">1000"
    match cell.outcome:
        case "diverged":
            return Text(f"{loss} ×".strip(), style="red")
        case "frequencies":
            return Text(f"{loss} ○", style="yellow")
        case "learnt":
            return Text(f"{loss}  ")


def legend(result: StabilityResult) -> list[str]:
    """What the tables' numbers and signs mean."""
    return [
        "numbers: training loss in nats a byte, the mean of the last tenth of the steps; columns: learning rates",
        f"× diverged: no finite loss, or one above a uniform guess ({result.uniform:.2f})",
        f"○ no better than the frequencies of the bytes ({result.unigram:.2f}): nothing learnt from context",
    ]
