"""How did GPT-2 publish its tokenizer? As vocab.json, the ids, and merges.txt, a merge a line."""

from __future__ import annotations

import json
from pathlib import Path

from diptych.tokenizers.base import EOS
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.hugging_face import from_vocabulary
from diptych.tokenizers.splitting import Split

VOCABULARY, MERGES = "vocab.json", "merges.txt"


def read_files(folder: Path, split: str | None = None) -> BytePairTokenizer:
    """The tokenizer of vocab.json and merges.txt in a folder; split: None takes GPT-2's.

    Entries of the form <|name|> are special tokens. Raises ValueError for files that are damaged or do not fit
    together.
    """
    try:
        vocab = json.loads((folder / VOCABULARY).read_bytes())
        lines = (folder / MERGES).read_text(encoding="utf-8").split("\n")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder}: {VOCABULARY} or {MERGES} is damaged ({error})") from None
    if not isinstance(vocab, dict):
        raise ValueError(f"{folder / VOCABULARY} is damaged: it holds no JSON object")
    special = {name: token for name, token in vocab.items() if name.startswith("<|") and name.endswith("|>")}
    merges = [line for line in lines[lines[0].startswith("#version") :] if line]
    try:
        return from_vocabulary(vocab, merges, Split.named(split or "gpt2"), special, eos=EOS)
    except ValueError as error:
        raise ValueError(f"{folder}: {VOCABULARY} and {MERGES} do not fit together ({error})") from None
