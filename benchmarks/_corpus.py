"""The text of the tokenizer benchmarks: what corpus.py gathered."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def load(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """All documents, and what the corpus is made of."""
    path = folder / "corpus.jsonl"
    if not path.is_file():
        raise SystemExit(f"there is no {path}; gather it first: python benchmarks/corpus.py {folder}")
    with path.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    return texts, json.loads((folder / "contents.json").read_text())


def one_core() -> None:
    """Keep this process, and all threads that it starts, on one core."""
    os.environ |= {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
