"""`diptych data lengths SOURCE...`: how long the documents of corpora are."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from diptych.cli.common import open_tokenizer, parse
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from rich.table import Table

    from diptych.data.lengths import CorpusLengths, LengthDistribution

DESCRIPTION = """How long are the documents of corpora, in bytes, words and tokens? And how often does each distance
between two tokens of a document occur within a training context: f(i) = sum over documents of
max(0, min(length, context) - i), which says what a model can learn about distant text.

SOURCE is what data.source of a recipe takes: files, folders, JSONL, Parquet, hf:NAME, or stdlib. Each is a corpus.
A record is a document, and so is a text file. A word is a run of anything but white space, as `wc -w` counts.
Tokens, and the distances between them, need --tokenizer. Ctrl-C shows what was read until then.

examples:
  diptych data lengths stdlib my/texts
  diptych data lengths notes.jsonl --text-field body --tokenizer runs/tiny --context 4096 --out lengths
"""

FILES = ("lengths.json", "lengths.csv", "lengths.png")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych data lengths`."""

    source: tyro.conf.Positional[tuple[str, ...]]
    """Corpora, one each."""
    tokenizer: str | None = None
    """What counts tokens: a tokenizer.json, a .tiktoken or .gguf file, a folder with one, a run folder, or `byte`."""
    context: int = 2048
    """Training context L, in tokens, within which distances are counted."""
    text_field: str = "text"
    """Field or column of the text in JSONL, Parquet and data sets."""
    split: str | None = None
    """The split of a .tiktoken or .gguf file that does not say it."""
    out: Path | None = None
    """Folder to write lengths.json, lengths.csv and lengths.png to."""
    json: bool = False
    """Print one JSON object instead of the tables."""


def main(arguments: list[str]) -> int:
    """Parse, read, print; 130 where interrupted."""
    options = parse(Options, arguments, "data lengths", DESCRIPTION)
    _check(options)
    corpora = _measure(options)
    record = _record(corpora, options.tokenizer)
    if options.out is not None:
        _write(corpora, record, options.out)
    if options.json:
        print(json.dumps(record))
    else:
        _print(corpora)
    if options.out is not None:
        print(f"written: {', '.join(str(options.out / name) for name in FILES)}", file=sys.stderr)
    unread = options.source[len(corpora) :]
    if corpora[-1].complete and not unread:
        return 0
    tail = f"; not read: {', '.join(unread)}" if unread else ""
    print(f"interrupted: the figures of {corpora[-1].name} are those of a part of it{tail}", file=sys.stderr)
    return 130


def _check(options: Options) -> None:
    """Raises ValueError or OSError for what would fail only after a long time of reading."""
    from diptych.data.lengths import MOST_CONTEXT
    from diptych.data.sources import read_documents

    if not options.source:
        raise ValueError("name the corpora, as in: diptych data lengths stdlib my/texts")
    if not 1 <= options.context <= MOST_CONTEXT:
        raise ValueError(f"--context {options.context} is out of range; give 1 to {MOST_CONTEXT} tokens")
    if options.out is not None:
        if options.out.exists() and not options.out.is_dir():
            raise ValueError(f"--out {options.out} is a file; name a folder")
        if there := [name for name in FILES if (options.out / name).exists()]:
            raise ValueError(f"{options.out / there[0]} exists; choose another --out, or delete it")
    for source in options.source:
        if next(read_documents([source], options.text_field), None) is None:
            raise ValueError(f"{source} holds no text; name a source that does")


def _measure(options: Options) -> list[CorpusLengths]:
    """All sources, or those up to the one that was interrupted."""
    from diptych.core.interrupts import interruptible
    from diptych.data.lengths import measure_lengths
    from diptych.data.sources import read_documents, size_on_disk

    tokenizer = None if options.tokenizer is None else open_tokenizer(options.tokenizer, options.split)
    corpora: list[CorpusLengths] = []
    with ConsoleHandler() as console, interruptible() as interrupted:
        for source in options.source:
            corpora.append(
                measure_lengths(
                    source,
                    read_documents([source], options.text_field, console),
                    tokenizer=tokenizer,
                    context=options.context,
                    total_bytes=size_on_disk([source]),
                    on_event=console,
                    interrupted=interrupted,
                )
            )
            if interrupted.is_set():
                break
    return corpora


def _record(corpora: Sequence[CorpusLengths], tokenizer: str | None) -> dict[str, Any]:
    from diptych.data.lengths import PUBLISHED

    rows = []
    for corpus in corpora:
        row = asdict(corpus)
        if (positions := corpus.positions) is not None:
            row["positions"] |= {
                "pairs": positions.pairs,
                "near_share": positions.near_share,
                "half_distance": positions.half_distance,
            }
        rows.append(row)
    return {"tokenizer": tokenizer, "corpora": rows, "published": [asdict(row) for row in PUBLISHED]}


def _write(corpora: Sequence[CorpusLengths], record: dict[str, Any], folder: Path) -> None:
    from diptych.core.files import write_text
    from diptych.report.lengths import drawing
    from diptych.report.plots import save_png

    write_text(folder / "lengths.json", json.dumps(record, indent=1) + "\n")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    figures = ("total", "mean", "p5", "p25", "median", "p75", "p95", "p99", "longest")
    writer.writerow(["corpus", "complete", "documents", "unit", *figures])
    for corpus in corpora:
        for unit, lengths in _units(corpus):
            values = [getattr(lengths, name) for name in figures]
            writer.writerow([corpus.name, corpus.complete, corpus.documents, unit, *values])
    write_text(folder / "lengths.csv", table.getvalue())
    save_png(drawing(corpora), folder / "lengths.png")


def _units(corpus: CorpusLengths) -> list[tuple[str, LengthDistribution]]:
    units = [("bytes", corpus.in_bytes), ("words", corpus.in_words), ("tokens", corpus.in_tokens)]
    return [(unit, lengths) for unit, lengths in units if lengths is not None]


def _print(corpora: Sequence[CorpusLengths]) -> None:
    from rich.console import Console

    from diptych.data.lengths import PUBLISHED

    console = Console(highlight=False)
    console.print(_lengths_table(corpora))
    for source in dict.fromkeys(row.source for row in PUBLISHED):
        console.print(f"* published, not measured here: {source}", style="dim", markup=False)
    console.print(_histograms(corpora))
    measured = [corpus.positions for corpus in corpora if corpus.positions is not None]
    if not measured:
        console.print("Give --tokenizer for lengths in tokens and the distances between them.", style="dim")
        return
    console.print(_positions_table(corpora))
    console.print(
        f"f(i): pairs of tokens of one document that are i apart, within a context of L = {measured[0].context:,}, as "
        "a share of f(0), the tokens themselves. Half of all pairs are less than the median distance apart. Last row: "
        "if every document had L tokens or more.",
        style="dim",
        markup=False,
    )


def _table(text: Sequence[str], figures: Sequence[str]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for title in text:
        table.add_column(title, overflow="fold")
    for title in figures:
        table.add_column(title, justify="right", no_wrap=True)
    return table


def _lengths_table(corpora: Sequence[CorpusLengths]) -> Table:
    from rich.text import Text

    from diptych.data.lengths import PUBLISHED

    figures = ("mean", "5%", "25%", "median", "75%", "95%", "99%", "longest")
    table = _table(("corpus", "in"), figures)
    for corpus in corpora:
        labels = (_name(corpus), f"{corpus.documents:,} documents", "")
        for label, (unit, d) in zip(labels, _units(corpus), strict=False):
            values = (d.mean, d.p5, d.p25, d.median, d.p75, d.p95, d.p99, d.longest)
            table.add_row(Text(label), unit, *map(short, values))
        table.add_section()
    for row in PUBLISHED:
        table.add_row(Text(f"{row.corpus} *"), "bytes", short(row.mean_bytes), *["-"] * (len(figures) - 1))
    return table


def _name(corpus: CorpusLengths) -> str:
    """The corpus in a table: a path by its last part."""
    name = Path(corpus.name).name or corpus.name
    return name if corpus.complete else f"{name} (partial)"


def short(value: float) -> str:
    """A length in at most six characters: 23.4, 1,234, 56.7k, 8.9M."""
    if value < 100:
        return f"{value:.3g}"
    for limit, size, word in ((9_999.5, 1, ""), (999_500, 1e3, "k"), (999.5e6, 1e6, "M"), (999.5e9, 1e9, "G")):
        if value < limit:
            scaled = value / size
            return f"{scaled:,.0f}{word}" if size == 1 or scaled >= 99.95 else f"{scaled:.1f}{word}"
    return f"{value / 1e12:,.1f}T"


def _histograms(corpora: Sequence[CorpusLengths]) -> Table:
    from rich.text import Text

    table = _table(("corpus", "in"), ("from",))
    table.add_column("documents by length, each column a factor of 1.4", no_wrap=True)
    table.add_column("to", no_wrap=True)
    for corpus in corpora:
        for index, (unit, d) in enumerate(_units(corpus)):
            used = [k for k, count in enumerate(d.counts) if count]
            first, last = used[0], used[-1]
            bars = sparkline(d.counts[first : last + 1])
            name = _name(corpus) if index == 0 else ""
            table.add_row(Text(name), unit, short(d.edges[first]), bars, short(d.edges[last + 1]))
    return table


def sparkline(counts: Sequence[int]) -> str:
    """A bar of eighths a count; what is not zero is never blank."""
    highest = max(counts)
    return "".join("▁▂▃▄▅▆▇█"[min(7, 8 * count // highest)] if count else " " for count in counts)


def _positions_table(corpora: Sequence[CorpusLengths]) -> Table:
    import numpy as np
    from rich.text import Text

    from diptych.data.lengths import relative_positions

    table = _table(("corpus",), ("pairs", "under L/2 apart", "median distance", "f(L/4)", "f(L/2)", "f(3L/4)"))
    rows = [(_name(corpus), corpus.positions) for corpus in corpora if corpus.positions is not None]
    context = rows[0][1].context
    rows.append(("if all were full", relative_positions(np.array([context]), context)))
    for index, (name, p) in enumerate(rows):
        if index == len(rows) - 1:
            table.add_section()
        table.add_row(
            Text(name),
            short(p.pairs) if index < len(rows) - 1 else "-",
            f"{p.near_share:.1%}",
            f"{p.half_distance:,}",
            *(f"{p.frequency[k * context // 4] / p.frequency[0]:.3f}" for k in (1, 2, 3)),
        )
    return table
