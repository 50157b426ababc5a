"""`diptych tokenizer compare TOKENIZER... --source SOURCE...`: tokenizers side by side on a text."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diptych.cli.common import open_tokenizer, parse, size
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from diptych.evaluation.tokenization import TokenizerScore

DESCRIPTION = """Tokenizers side by side on a text: tokens, bytes per token, the share of words that stay whole, speed
on one core, and what full attention over each document then costs (the square of its tokens).

TOKENIZER is a tokenizer.json, a .tiktoken or .gguf file, a folder with one, a run folder, or `byte`.
SOURCE is what data.source of a recipe takes: files, folders, JSONL, Parquet, hf:NAME, or stdlib.

examples:
  diptych tokenizer compare mine.json runs/mine byte --source my/texts
  diptych tokenizer compare mine.json byte --text "Sun rises from the east"
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych tokenizer compare`."""

    tokenizers: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="TOKENIZER...")]
    """The tokenizers."""
    source: tuple[str, ...] = ("stdlib",)
    """Text to compare on."""
    text: str | None = None
    """The text itself, instead of a source."""
    text_field: str = "text"
    """Field or column of the text in JSONL, Parquet and data sets."""
    max_bytes: str = "20MB"
    """Read at most this much of the source."""
    rounds: int = 3
    """Times that the text is encoded; the median counts."""
    split: str | None = None
    """The split of .tiktoken or .gguf files that do not say it."""
    json: bool = False
    """Print one JSON object a tokenizer instead of the table."""


def main(arguments: list[str]) -> int:
    """Parse, encode, count, print."""
    options = parse(Options, arguments, "tokenizer compare", DESCRIPTION)
    if not options.tokenizers:
        raise ValueError(
            "name tokenizers to compare, as in: diptych tokenizer compare mine.json byte --source my/texts"
        )
    if options.rounds < 1:
        raise ValueError(f"--rounds {options.rounds} encodes nothing; give at least 1")
    from diptych.core.config import DataConfig
    from diptych.data.corpus import training_documents
    from diptych.evaluation.tokenization import score_tokenizer

    tokenizers = [(name, open_tokenizer(name, options.split)) for name in options.tokenizers]
    with ConsoleHandler() as console:
        if options.text is not None:
            texts = [options.text]
        else:
            limit = size(options.max_bytes, "--max-bytes")
            data = DataConfig(
                source=options.source, text_field=options.text_field, heldout_fraction=0.0, max_bytes=limit
            )
            texts = [document.text for document in training_documents(data, console)]
        scores = [
            score_tokenizer(name, tokenizer, texts, rounds=options.rounds, on_event=console)
            for name, tokenizer in tokenizers
        ]
    if options.json:
        for score in scores:
            shares = {"bytes_per_token": score.bytes_per_token, "words_whole_share": score.words_whole_share}
            print(json.dumps({**asdict(score), **shares}))
    else:
        _table(scores)
    return 0


def _table(scores: list[TokenizerScore]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    first = scores[0]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("tokenizer", overflow="fold")
    for title in ("vocabulary", "tokens", "bytes/token", "whole words", "MB/s", "attention"):
        table.add_column(title, justify="right", no_wrap=True)
    least = min(score.attention_pairs for score in scores)
    names = [Path(score.name).name for score in scores]
    names = names if len(set(names)) == len(names) else [score.name for score in scores]
    for name, score in zip(names, scores, strict=True):
        table.add_row(
            name,
            f"{score.vocab_size:,}",
            f"{score.n_tokens:,}",
            f"{score.bytes_per_token:.3f}",
            f"{score.words_whole_share:.1%}",
            f"{score.megabytes_per_second:.1f}",
            f"{score.attention_pairs / max(1, least):.2f}x",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{first.n_bytes:,} bytes in {first.n_documents:,} documents, {first.n_words:,} words; attention: the sum over "
        f"documents of tokens squared, 1x is {least:,}"
    )
