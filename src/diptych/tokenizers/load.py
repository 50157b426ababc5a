"""Which tokenizer does a file or folder hold?"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diptych.core.gguf import MAGIC
from diptych.tokenizers.base import Tokenizer

UNDERSTOOD = (
    "a tokenizer.json, a .tiktoken file of ranks, a .gguf file, a tokenizer.model, vocab.json with merges.txt, "
    "a vocab.txt, or a run folder"
)
MODELS = ("tokenizer.model", "spiece.model", "sentencepiece.model")
"""Names under which SentencePiece's files come."""


def load_tokenizer(path: Path, split: str | None = None) -> Tokenizer:
    """Open a tokenizer: a tokenizer.json (of Hugging Face's `tokenizers` or ours), a rank file of tiktoken, a GGUF
    file, SentencePiece's tokenizer.model, BERT's vocab.txt, or a folder with one of these, with vocab.json and
    merges.txt, or with Marian's source.spm, target.spm and vocab.json.

    split: where tokens end, by a name or a regular expression, for the files that do not say it; tokenizer.json always
    does. Raises FileNotFoundError where there is none, ValueError for a damaged file or one that is not understood.
    """
    if path.is_dir():
        return _in_folder(path, split)
    if not path.is_file():
        raise FileNotFoundError(f"there is no tokenizer {path}")
    with path.open("rb") as file:
        start = file.read(4096)
    if path.suffix == ".tiktoken":
        from diptych.tokenizers.tiktoken_file import read_ranks

        return read_ranks(path, split)
    if path.suffix == ".gguf" or start.startswith(MAGIC):
        from diptych.tokenizers.gguf import read_gguf

        return read_gguf(path, split)
    if path.name in MODELS:
        from diptych.tokenizers.sentencepiece import read_model

        return read_model(path)
    if path.name == "vocab.txt":
        from diptych.tokenizers.bert import read_vocabulary

        return read_vocabulary(path)
    if not start.lstrip().startswith(b"{"):
        raise ValueError(f"{path} is no tokenizer: it holds no JSON object; understood are {UNDERSTOOD}")
    return _from_json(path)


def _in_folder(folder: Path, split: str | None) -> Tokenizer:
    if (folder / "tokenizer.json").is_file():
        return load_tokenizer(folder / "tokenizer.json", split)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        from diptych.tokenizers.gpt2_files import read_files

        return read_files(folder, split)
    if all((folder / name).is_file() for name in ("source.spm", "target.spm", "vocab.json")):
        from diptych.tokenizers.marian import read_folder

        return read_folder(folder)
    for name in (*MODELS, "vocab.txt"):
        if (folder / name).is_file():
            return load_tokenizer(folder / name, split)
    found = sorted(file for file in folder.iterdir() if file.suffix in (".tiktoken", ".gguf"))
    if len(found) > 1:
        raise ValueError(f"{folder} holds several tokenizers; name one, for example {found[0]}")
    if not found:
        raise FileNotFoundError(f"there is no tokenizer in {folder}; understood are {UNDERSTOOD}")
    return load_tokenizer(found[0], split)


def _from_json(path: Path) -> Tokenizer:
    try:
        values = json.loads(path.read_bytes(), object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: no valid JSON ({str(error)[:200]})") from None
    match values:
        case {"diptych": kind}:
            return _own(kind, values, path)
        case {"model": {"type": "WordPiece" | "Unigram"}}:
            from diptych.tokenizers import library, subword

            return subword.read(values, path) if subword.is_written_here(values) else library.read(values, path)
        case {"model": dict()}:
            return _pairs_or_other(values, path)
        case _:
            raise ValueError(f"{path} is no tokenizer: the JSON object has no model; understood are {UNDERSTOOD}")


def _pairs_or_other(values: dict[str, Any], path: Path) -> Tokenizer:
    """Byte-level byte-pair encoding by the loops here, whatever else there is by Hugging Face's library."""
    from diptych.tokenizers import hugging_face

    try:
        return hugging_face.read(values, path)
    except hugging_face.NotReadHereError as error:
        refusal = str(error)
    from diptych.tokenizers import library

    try:
        return library.read(values, path)
    except (ValueError, ModuleNotFoundError) as error:
        remedy = type(error)
        raise remedy(f"{refusal}; {str(error).removeprefix(f'{path} is not read: ')}") from None


def _own(kind: object, values: dict[str, Any], path: Path) -> Tokenizer:
    """The tokenizers that only this project has."""
    from diptych.tokenizers.simple import ByteTokenizer, CharacterTokenizer, LevelTokenizer, WordTokenizer
    from diptych.tokenizers.vocabulary import special_names

    match kind, values:
        case "byte", _:
            return _undamaged(lambda: ByteTokenizer(special_names(values)), path)
        case "level", {"levels": int(levels)}:
            return _undamaged(lambda: LevelTokenizer(levels, special_names(values)), path)
        case "character", {"alphabet": str(alphabet)}:
            return _undamaged(lambda: CharacterTokenizer(alphabet, special_names(values)), path)
        case "word", {"words": list(words)} if all(isinstance(word, str) for word in words):
            return _undamaged(lambda: WordTokenizer(words, special_names(values)), path)
        case "marian", _:
            from diptych.tokenizers.marian import from_json as marian

            return marian(values, path)
        case "sennrich", _:
            from diptych.tokenizers.sennrich import from_json

            return from_json(values, path)
        case _:
            raise ValueError(f"{path}: tokenizer kind {str(kind)[:60]!r} is unknown or incomplete")


def _undamaged(make: Callable[[], Tokenizer], path: Path) -> Tokenizer:
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; ValueError where a name stands twice, of which one would be lost."""
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"the name {twice[:60]!r} stands twice")
    return values
