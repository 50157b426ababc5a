"""`diptych compare RUN...`: the two paradigms side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import tyro

from diptych.cli.common import kind_named, parse
from diptych.cli.console import ConsoleHandler
from diptych.core.config import RECIPE

if TYPE_CHECKING:
    from diptych.evaluation.comparison import ComparisonConfig, ComparisonResult, Reservation, TrainedRun

R = TypeVar("R")

DESCRIPTION = """Put runs of autoregression and of text diffusion side by side: what differs in their training, bits per
byte of the same held-out rows, held-out loss against compute and epochs, and speed and quality of what they write.
Writes compare.json, drawings and a page. Ctrl-C is safe: the same command goes on.

RUN is the folder of a run; train them from one recipe that differs in the objective alone, with one tokenizer. Runs of
images have options of their own: diptych compare RUN... --help shows them.

examples:
  diptych compare runs/tiny runs/masked-diffusion runs/block-diffusion
  diptych compare runs/tiny runs/masked-diffusion --judge runs/large --tokens-per-step 1 2 4 8 16 --unmask confidence
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych compare`."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run folders; the others are compared with the first, and scores with the first autoregressive one."""
    out: Path = Path("runs/compare")
    """Folder of the results."""
    judge: str | None = None
    """Autoregressive model that judges texts; None: the first autoregressive run."""
    rows: int = 128
    """Held-out rows to score, each of the training length; 0: all."""
    draws: int = 8
    """Evaluations of a network that denoises text for each row's bound, a multiple of 4."""
    batch_size: int = 16
    """Rows in a forward pass."""
    tokens_per_step: tuple[int, ...] = (1, 2, 4, 8)
    """Tokens that diffusion reveals in a step."""
    unmask: Literal["random", "confidence"] = "random"
    """Which tokens masked diffusion reveals in a step: any, or the surest."""
    samples: int = 8
    """Texts that each run writes."""
    length: int | None = None
    """Tokens of a text; None: the shortest of the runs' training lengths."""
    rounds: int = 3
    """Timings of each way to write, taken in turns."""
    seed: int = 0
    """Seed of bounds, texts and resamples."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""
    json: bool = False
    """Print one JSON object instead of the tables."""


def main(arguments: list[str]) -> int:
    """Parse, measure, write, print; 130 where interrupted."""
    if _of_images(arguments):
        from diptych.cli.compare_images import main as compare_images

        return compare_images(arguments)
    options = parse(Options, arguments, "compare", DESCRIPTION)
    config = configured(options)
    from diptych.report.comparison import Comparison
    from diptych.training.distributed import choose_device

    def measure(console: ConsoleHandler) -> ComparisonResult:
        return Comparison(config, options.out, choose_device(options.device), console).run()

    return show(measure, _tables, options.out, as_json=options.json)


def show(measure: Callable[[ConsoleHandler], R], tables: Callable[[R], None], out: Path, *, as_json: bool) -> int:
    """Measure, and print the tables or one JSON object of the result, a dataclass; 130 where interrupted."""
    from diptych.report.comparison import COMPARISON

    try:
        with ConsoleHandler() as console:
            result = measure(console)
    except KeyboardInterrupt:
        print("\nthe same command goes on from here", file=sys.stderr)
        return 130
    if as_json:
        print(json.dumps(asdict(result)))  # type: ignore[call-overload]
        return 0
    tables(result)
    print(f"{out / COMPARISON}  {out / 'index.html'}")
    return 0


def _of_images(arguments: list[str]) -> bool:
    """Whether the runs that are named learnt images, whose comparison has options of its own. Raises ValueError where
    only some did."""
    runs = [text for text in arguments if not text.startswith("-") and (Path(text) / RECIPE).is_file()]
    of_images = {run: kind_named([run]) in ("gaussian", "pixels") for run in runs}
    if len(set(of_images.values())) > 1:
        images, texts = (next(run for run, found in of_images.items() if found == kind) for kind in (True, False))
        raise ValueError(f"{images} learnt images and {texts} text, which do not compare; name runs of one kind")
    return any(of_images.values())


def configured(options: Options) -> ComparisonConfig:
    """The comparison that the options describe. Raises ValueError for what is wrong with them."""
    from diptych.evaluation.comparison import ComparisonConfig

    return ComparisonConfig(
        runs=options.runs,
        judge=options.judge,
        rows=options.rows or None,
        draws=options.draws,
        batch_size=options.batch_size,
        tokens_per_step=options.tokens_per_step,
        unmask=options.unmask,
        samples=options.samples,
        length=options.length,
        rounds=options.rounds,
        seed=options.seed,
    )


def _tables(result: ComparisonResult) -> None:
    training_table(result.trained, result.reservations, seen="targets", row="a row")
    _likelihood_table(result)
    _generation_table(result)


def training_table(trained: Sequence[TrainedRun], reservations: Sequence[Reservation], *, seen: str, row: str) -> None:
    """Print what the training of each run took, and what differs. seen, row: what is learnt from, and where it lies."""
    table(
        "training",
        ("run", "paradigm", "parameters", seen, "epochs", f"positions {row}", "FLOPs", "weights of"),
        [
            (
                run.run,
                run.paradigm,
                f"{run.parameters:,}",
                f"{run.tokens:,}",
                f"{run.epochs:.2f}",
                f"{run.positions} for {run.row_targets}",
                f"{run.flops:.3g}",
                f"step {run.kept_step} of {run.steps}",
            )
            for run in trained
        ],
    )
    for reservation in reservations:
        print(f"{reservation.run}: {reservation.text}")


def _likelihood_table(result: ComparisonResult) -> None:
    from diptych.evaluation.compare_likelihood import PUBLISHED
    from diptych.report.comparison import sentence

    rows = []
    for score in result.heldout:
        bits = f"{score.bits_per_byte:.4f}"
        rows.append(
            (
                score.run,
                bits if score.kind == "exact" else f"≤ {bits} ± {score.bits_per_byte_error:.4f}",
                "" if score.difference is None else f"{score.difference.value:+.4f} ± {score.difference.error:.4f}",
                "" if score.relative_gap is None else f"{score.relative_gap:+.1%}",
            )
        )
    rows += [
        (f"published on LM1B: {paper.name}, {paper.source}", "", "", f"{paper.relative_gap:+.1%}")
        for paper in PUBLISHED
    ]
    beside = f"nats a token more than {result.reference or 'autoregression'}"
    table(
        f"held-out text, {result.heldout[0].n_rows:,} rows: exact, or a bound (≤) with its standard error",
        ("run", "bits per byte", beside, "relative gap"),
        rows,
    )
    for found in result.overtakings:
        print(sentence(found))


def _generation_table(result: ComparisonResult) -> None:
    judge = f"{result.judge}, one of the contenders" if result.judge_contends else result.judge
    heads = "tokens a step", "evaluations", "tokens/s", "bits per byte", "entropy", "price of parallel drawing"
    table(
        f"{result.config.samples} texts of {result.length} tokens ({result.machine}); the judge is {judge}",
        ("written by", *heads),
        [
            (
                score.run,
                "" if score.tokens_per_step is None else str(score.tokens_per_step),
                str(score.evaluations or ""),
                "" if score.tokens_per_second is None else f"{score.tokens_per_second:,.0f}",
                f"{score.bits_per_byte.value:.3f} ± {score.bits_per_byte.error:.3f}",
                f"{score.entropy.value:.3f} ± {score.entropy.error:.3f}",
                "" if score.price is None else f"{score.price.value:.3f} ± {score.price.error:.3f}",
            )
            for score in result.generation
        ],
    )


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table, its first column to the left and the others to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    drawn = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left")
    for number, head in enumerate(heads):
        drawn.add_column(head, justify="left" if number == 0 else "right")
    for row in rows:
        drawn.add_row(*map(Text, row))
    console.print(drawn)
