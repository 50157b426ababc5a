"""`diptych evaluate MODEL DATA...`: how well does a model predict a text?"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diptych.cli.common import ModelOptions, open_language_model, parse
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diptych.data.sources import Document
    from diptych.evaluation.likelihood import TextScore
    from diptych.evaluation.yardsticks import Yardstick

DESCRIPTION = """Score a model on data: exact bits per byte, nats per token and perplexity.

DATA is what data.source of a recipe takes: files, folders, JSONL, Parquet, hf:NAME, or stdlib.
The texts count as they are; nothing is held out or left out.

examples:
  diptych evaluate runs/tiny my/texts
  diptych evaluate runs/tiny notes.jsonl --text-field body --stride 64 --yardsticks
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych evaluate`."""

    model: tyro.conf.Positional[str]
    """A run folder, a Hugging Face folder, or a GGUF file."""
    data: tyro.conf.Positional[tuple[str, ...]]
    """Text to score."""
    text_field: str = "text"
    """Field or column of the text in JSONL, Parquet and data sets."""
    context: int | None = None
    """Tokens in a window; None: the model's max_length."""
    stride: int | None = None
    """New tokens in a window, the rest being context; smaller is slower and scores better. None: half a window."""
    batch_size: int = 16
    """Windows in a forward pass."""
    yardsticks: bool = False
    """Also compress the same text with xz and brotli."""
    json: bool = False
    """Print one JSON object."""
    options: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)


def main(arguments: list[str]) -> int:
    """Parse, score, print."""
    options = parse(Options, arguments, "evaluate", DESCRIPTION)
    if not options.data:
        raise ValueError("name the data to score, as in: diptych evaluate runs/tiny my/texts")
    from diptych.data.corpus import all_documents
    from diptych.data.packing import build_token_store
    from diptych.evaluation.likelihood import score_store

    opened = open_language_model(options.model, options.options)
    model, tokenizer = opened.model, opened.tokenizer
    context = options.context or model.config.max_length
    with ConsoleHandler() as console, tempfile.TemporaryDirectory() as folder:

        def documents() -> Iterator[Document]:
            return all_documents(options.data, options.text_field, console)

        store = build_token_store(documents, tokenizer, Path(folder) / "text", console)
        score = score_store(
            model,
            store,
            context=context,
            stride=options.stride or max(1, context // 2),
            batch_size=options.batch_size,
            on_event=console,
        )
        rows: list[Yardstick] = []
        if options.yardsticks:
            from diptych.evaluation.yardsticks import compress_yardsticks

            text = "".join(d.text for d in all_documents(options.data, options.text_field)).encode()
            rows = compress_yardsticks(text, on_event=console)
    _show(options, score, rows)
    return 0


def _show(options: Options, score: TextScore, rows: list[Yardstick]) -> None:
    if options.json:
        record = {
            "model": options.model,
            "data": list(options.data),
            **vars(score),
            "bits_per_byte": score.bits_per_byte,
            "perplexity": score.perplexity,
            "yardsticks": {row.name: row.bits_per_byte for row in rows},
        }
        print(json.dumps(record))
        return
    print(f"{score.bits_per_byte:.4f} bits per byte ({score.kind})")
    print(f"{score.nats / score.n_tokens:.4f} nats per token, perplexity {score.perplexity:.2f}")
    print(f"{score.n_tokens:,} tokens, {score.n_bytes:,} bytes")
    for row in rows:
        print(f"{row.bits_per_byte:.4f} bits per byte: {row.name}")
