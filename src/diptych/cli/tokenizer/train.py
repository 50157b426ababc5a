"""`diptych tokenizer train SOURCE... --out tokenizer.json`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from diptych.cli.common import parse, size
from diptych.cli.console import ConsoleHandler
from diptych.core.config import TokenizerKind

DESCRIPTION = """Learn a tokenizer from text, which may be larger than memory: it is read once and only the counts of
its distinct chunks are kept. Ctrl-C is safe: byte-pair encoding keeps the counts so far, and the same command goes on.

SOURCE is what data.source of a recipe takes: files, folders, JSONL, Parquet, hf:NAME, or stdlib.

examples:
  diptych tokenizer train my/texts --out mine.json --vocab-size 32000 --split cl100k
  diptych tokenizer train notes.jsonl --text-field body --out mine.tiktoken
  diptych tokenizer train stdlib --kind sennrich --vocab-size 1000 --out words.json
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych tokenizer train`."""

    source: tyro.conf.Positional[tuple[str, ...]]
    """Text to learn from."""
    out: Path = Path("tokenizer.json")
    """Where to write the tokenizer: Hugging Face's format, or a rank file where the name ends in .tiktoken."""
    kind: TokenizerKind = "bpe"
    """Scheme: raw bytes; characters; words; word-level byte-pair encoding with end-of-word marks; WordPiece and unigram
    (extra `subword`); byte-level byte-pair encoding."""
    vocab_size: int = 32_000
    """Size of the vocabulary, special tokens included; of bytes and characters the text decides it."""
    split: str = "gpt2"
    """Where byte-level byte-pair tokens end: gpt2, llama3, qwen2, cl100k, o200k, or a regular expression."""
    train_bytes: str | None = None
    """Read at most this much text, as in 500MB; None: all of it."""
    memory: str = "2GB"
    """Memory that counting and merging may take; where the counts would take more, the rarest are left out."""
    text_field: str = "text"
    """Field or column of the text in JSONL, Parquet and data sets."""


def main(arguments: list[str]) -> int:
    """Parse, learn, write."""
    options = parse(Options, arguments, "tokenizer train", DESCRIPTION)
    if not options.source:
        raise ValueError("name the text to learn from, as in: diptych tokenizer train my/texts --out mine.json")
    from diptych.core.config import ALL_TEXT, DataConfig, TokenizerConfig
    from diptych.data.corpus import training_documents
    from diptych.data.sources import size_on_disk
    from diptych.tokenizers.train import train_tokenizer

    if options.out.is_dir():
        raise ValueError(f"{options.out} is a folder; name the file to write, as in --out {options.out}/tokenizer.json")
    if options.out.suffix == ".tiktoken" and options.kind != "bpe":
        raise ValueError(f"a .tiktoken file holds byte-level byte-pair encoding, not --kind {options.kind}")
    limit = ALL_TEXT if options.train_bytes is None else size(options.train_bytes, "--train-bytes")
    data = DataConfig(source=options.source, text_field=options.text_field, heldout_fraction=0.0)
    config = TokenizerConfig(kind=options.kind, vocab_size=options.vocab_size, split=options.split, train_bytes=limit)
    checkpoint = options.out.with_name(f"{options.out.name}.counts.npz")
    with ConsoleHandler() as console:
        try:
            tokenizer = train_tokenizer(
                (document.text for document in training_documents(data, console)),
                config,
                console,
                memory=size(options.memory, "--memory"),
                total_bytes=size_on_disk(options.source),
                checkpoint=checkpoint,
                fingerprint=f"{options.source}\0{options.text_field}\0{limit}",
            )
        except KeyboardInterrupt:
            print("interrupted; nothing was written" if not checkpoint.exists() else "interrupted", file=sys.stderr)
            return 130
        tokenizer.save(options.out)
    print(
        f"{options.out}: {tokenizer.vocab_size:,} tokens  (try: diptych tokenizer show {options.out} --text 'The sun')"
    )
    return 0
