"""Which tokenizer does a file hold?"""

from __future__ import annotations

import json
from pathlib import Path

from diptych.tokenizers import hugging_face
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.simple import ByteTokenizer, CharacterTokenizer


def load_tokenizer(path: Path) -> Tokenizer:
    """Read tokenizer.json, or the one in a folder.

    Raises FileNotFoundError where there is none, ValueError for a damaged file or one that is not understood.
    """
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"there is no tokenizer {path}")
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: no valid JSON ({error})") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is no tokenizer: it holds no JSON object")
    match values.get("diptych"):
        case None:
            return hugging_face.read(values, path)
        case "byte":
            return ByteTokenizer()
        case "character" if isinstance(values.get("alphabet"), str):
            return _character(values["alphabet"], path)
        case kind:
            raise ValueError(f"{path}: tokenizer kind {str(kind)[:60]!r} is unknown or incomplete")


def _character(alphabet: str, path: Path) -> CharacterTokenizer:
    try:
        return CharacterTokenizer(alphabet)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
