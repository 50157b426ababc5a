"""`diptych tokenizer study SOURCE...`: how large should a vocabulary be?"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tyro

from diptych.cli.common import parse, size
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from diptych.core.config import RunConfig
    from diptych.evaluation.vocabulary import Row, Study, StudyConfig

T = TypeVar("T")

DESCRIPTION = """How large should a vocabulary be? The same network is trained with vocabularies of several sizes, with
equal compute by default, so that a larger vocabulary takes fewer steps, and scored in bits per byte on held-out text
(after Takase et al. 2024). Writes study.json and study.png. The defaults take about ten minutes on two cores. Ctrl-C is
safe: the same command goes on, and so does one with more --seeds.

SOURCE is what data.source of a recipe takes: files, folders, JSONL, Parquet, hf:NAME, or stdlib.

examples:
  diptych tokenizer study stdlib
  diptych tokenizer study my/texts --sizes 1000 4000 16000 64000 --model gpt2-mini --flops 1e16 --seeds 3
  diptych tokenizer study --model recipes/tiny.toml --equal tokens --out runs/equal-tokens
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych tokenizer study`."""

    source: tyro.conf.Positional[tuple[str, ...]]
    """Text to learn and to score on, a share of it held out; may be left out where the recipe names it."""
    out: Path = Path("vocabulary-study")
    """Folder of the results and of the trained runs."""
    sizes: tuple[int, ...] = (512, 1024, 2048, 4096, 8192, 16_384)
    """Sizes of the vocabularies, the special token included."""
    model: str = "llama-tiny"
    """The network: a preset, or a recipe file that gives data, split, optimizer and batches too."""
    equal: Literal["flops", "tokens", "bytes"] = "flops"
    """What every run gets the same amount of: training FLOPs, tokens, or bytes of text."""
    steps: int | None = None
    """Optimizer steps of the smallest vocabulary. None: the recipe's, or 800."""
    flops: float | None = None
    """Training FLOPs of the smallest vocabulary, as in 1e13, instead of --steps."""
    seeds: int = 1
    """Runs of each size; two or more show what is chance."""
    seed: int | None = None
    """The first seed. None: the recipe's, or 0."""
    split: str | None = None
    """Where tokens end: gpt2, llama3, qwen2, cl100k, o200k, or a regular expression. None: the recipe's, or gpt2."""
    train_bytes: str | None = None
    """How much of the training text the vocabularies are learnt from, as in 500MB. None: the recipe's, or 8MB."""
    text_field: str | None = None
    """Field or column of the text in JSONL, Parquet and data sets. None: the recipe's, or text."""
    max_bytes: str | None = None
    """Read at most this much text, as in 50MB. None: the recipe's, or all."""
    batch_size: int | None = None
    """Sequences in a step. None: the recipe's, or 8."""
    device: str | None = None
    """`auto`, `cpu`, `cuda`, ... None: the recipe's, or auto."""
    json: bool = False
    """Print one JSON object instead of the table."""


def main(arguments: list[str]) -> int:
    """Parse, train what is not trained yet, write, print; 130 where interrupted."""
    options = parse(Options, arguments, "tokenizer study", DESCRIPTION)
    config = configured(options)
    from diptych.evaluation.vocabulary import VocabularyStudy
    from diptych.report.plots import save_png
    from diptych.report.vocabulary import vocabulary_figure

    with ConsoleHandler() as console:
        study = VocabularyStudy(config, options.out, console).run()
    if study is None:
        print("the same command goes on from here", file=sys.stderr)
        return 130
    picture = options.out / "study.png"
    save_png(vocabulary_figure(study), picture)
    if options.json:
        print(json.dumps(record(study)))
        return 0
    _table(study)
    print(f"{options.out / 'study.json'}  {picture}")
    return 0


def configured(options: Options) -> StudyConfig:
    """The study that the options describe. Raises ValueError or FileNotFoundError for what is wrong with them."""
    if options.steps is not None and options.flops is not None:
        raise ValueError("give either --steps or --flops, not both")
    run = _template(options.model)
    if not options.source and not _is_recipe(options.model):
        raise ValueError("name the text to learn from, as in: diptych tokenizer study stdlib")
    from diptych.evaluation.vocabulary import StudyConfig

    limit = None if options.max_bytes is None else size(options.max_bytes, "--max-bytes")
    learnt = None if options.train_bytes is None else size(options.train_bytes, "--train-bytes")
    data = _with(run.data, source=options.source or None, text_field=options.text_field, max_bytes=limit)
    tokenizer = _with(run.tokenizer, split=options.split, train_bytes=learnt)
    train = _with(
        run.train, steps=options.steps, seed=options.seed, batch_size=options.batch_size, device=options.device
    )
    run = replace(run, data=data, tokenizer=tokenizer, train=train)
    return StudyConfig(
        sizes=tuple(sorted(options.sizes)), seeds=options.seeds, equal=options.equal, flops=options.flops, run=run
    )


def _is_recipe(name: str) -> bool:
    return name.endswith(".toml") or Path(name).is_file()


def _template(name: str) -> RunConfig:
    """What all runs share: a recipe file, or the study's own on a preset's body."""
    from diptych.evaluation.vocabulary import study_run
    from diptych.presets import load_run, preset

    if _is_recipe(name):
        run = load_run(name)
        return replace(run, model=replace(run.model, vocab_size=0))
    run, body = study_run(), replace(preset(name), vocab_size=0)
    length = min(run.data.sequence_length, body.max_length)
    return replace(run, model=body, data=replace(run.data, sequence_length=length))


def _with(value: T, **changes: Any) -> T:
    """The dataclass with the changes that are not None."""
    return replace(value, **{key: new for key, new in changes.items() if new is not None})  # type: ignore[type-var]


def record(study: Study) -> dict[str, Any]:
    """The study as JSON: what study.json holds, and what follows from it."""
    rows = [
        {"size": row.vocabulary.size, "bits_per_byte": row.mean, "deviation": row.deviation}
        | {"embedding_share": row.vocabulary.embedding_share}
        for row in study.rows
    ]
    return {
        **asdict(study),
        "rows": rows,
        "best": study.best.vocabulary.size,
        "spread": study.spread,
        "ties": [list(pair) for pair in study.ties],
    }


def _table(study: Study) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    titles = ("size", "bytes/\ntoken", "embedding\nparameters", "share", "tokens\nread", "steps", "bits per byte", "")
    for title in titles:
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    best = study.best
    for row in study.rows:
        mark = "optimum" if row == best else ""
        table.add_row(*_cells(row), mark, style="bold" if mark else None)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(table)
    for line in remarks(study):
        console.print(line, soft_wrap=True)


def _cells(row: Row) -> tuple[str, ...]:
    vocabulary = row.vocabulary
    deviation = "" if row.deviation is None else f" ± {row.deviation:.4f}"
    return (
        f"{vocabulary.size:,}",
        f"{vocabulary.bytes_per_token:.3f}",
        f"{vocabulary.embedding_parameters:,}",
        f"{vocabulary.embedding_share:.1%}",
        f"{vocabulary.tokens:,}",
        f"{vocabulary.steps:,}",
        f"{row.mean:.4f}{deviation}",
    )


def remarks(study: Study) -> list[str]:
    """What the table alone does not say: what was equal, whether the optimum lies inside, what is chance."""
    config, best = study.config, study.best.vocabulary.size
    amount = {
        "flops": f"{study.vocabularies[0].flops:.3g} training FLOPs, to the nearest step",
        "tokens": f"{study.vocabularies[0].tokens:,} tokens",
        "bytes": "as many bytes of text, to the nearest step",
    }
    lines = [f"every run has {amount[config.equal]}; share: of all parameters"]
    if best in (config.sizes[0], config.sizes[-1]):
        end, others = ("smallest", "smaller") if best == config.sizes[0] else ("largest", "larger")
        lines.append(f"the optimum is the {end} size tried; {others} ones may be better")
    if study.spread is None:
        lines.append("one seed does not say which differences are chance; the same command with --seeds 3 does")
    elif study.ties:
        pairs = ", ".join(f"{a:,} and {b:,}" for a, b in study.ties)
        lines.append(f"neighbours no further apart than the spread among seeds ({study.spread:.4f}): {pairs}")
    else:
        lines.append(f"all neighbours are further apart than the spread among seeds ({study.spread:.4f})")
    return lines
