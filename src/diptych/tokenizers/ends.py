"""Which special tokens open and close a text? What a tokenizer.json says, and the files beside it."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych.tokenizers.base import EOS

CONFIG, NAMES = "tokenizer_config.json", "special_tokens_map.json"
OPENS, CLOSES = "opens", "closes"
"""Marks of an added token in the files that are written here; Hugging Face's library reads past them."""

_KNOWN_ENDS = (EOS, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "[SEP]")


@dataclass(frozen=True, kw_only=True)
class Ends:
    """The special tokens that stand before and behind a document, where there are such."""

    bos: str | None = None
    eos: str | None = None


def find_ends(values: dict[str, Any], path: Path, special: Collection[str]) -> Ends:
    """The ends that a parsed tokenizer.json at `path` has.

    A beginning counts where the file puts it before texts, or tokenizer_config.json says add_bos_token. The end is what
    the files beside name as eos_token, else what the file puts behind texts, else the best known name. Raises
    ValueError for files beside it that are no JSON objects.
    """
    return _ends(values, {**read_object(path.with_name(NAMES)), **read_object(path.with_name(CONFIG))}, special)


def _ends(values: dict[str, Any], beside: dict[str, Any], special: Collection[str]) -> Ends:
    opening, closing = _around(values.get("post_processor"))
    bos = [name_of(beside.get("bos_token")) if beside.get("add_bos_token") is True else None]
    eos = [name_of(beside.get("eos_token")), *_marked(values, CLOSES), closing, *_KNOWN_ENDS]
    bos += [*_marked(values, OPENS), opening]
    return Ends(bos=_first(bos, special), eos=_first(eos, special))


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where there is no file. Raises ValueError for anything else."""
    try:
        values = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: no JSON object")
    return values


def name_of(token: object) -> str | None:
    """The name of a token that a configuration gives as a text or as an object with its content."""
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else None


def unmarked(values: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json without marks."""
    if not isinstance(values.get("added_tokens"), list):
        return values
    added = [
        {key: value for key, value in token.items() if key not in (OPENS, CLOSES)} if isinstance(token, dict) else token
        for token in values["added_tokens"]
    ]
    return {**values, "added_tokens": added}


def marked(values: dict[str, Any], ends: Ends) -> dict[str, Any]:
    """A tokenizer.json, what opens and closes a document marked in it where it would be mistaken without a mark."""
    plain = {"added_tokens": [], **unmarked(values)}
    found = _ends(plain, {}, {token["content"] for token in plain["added_tokens"]})
    marks = [(OPENS, ends.bos, found.bos), (CLOSES, ends.eos, found.eos)]
    for mark, name, otherwise in marks:
        for token in plain["added_tokens"]:
            if name != otherwise and token["content"] == name:
                token[mark] = True
    return plain


def _first(names: list[str | None], special: Collection[str]) -> str | None:
    return next((name for name in names if name is not None and name in special), None)


def _marked(values: dict[str, Any], mark: str) -> list[str | None]:
    added = values.get("added_tokens")
    tokens = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    return [name_of(token) for token in tokens if token.get(mark) is True]


def _around(part: object) -> tuple[str | None, str | None]:
    """The special tokens that a post-processor puts before and behind a single text."""
    match part:
        case {"type": "Sequence", "processors": list(steps)}:
            found = [_around(step) for step in steps]
            openings = (opening for opening, _ in found if opening is not None)
            return next(openings, None), next((closing for _, closing in found if closing is not None), None)
        case {"type": "BertProcessing" | "RobertaProcessing", "cls": [str(cls), *_], "sep": [str(sep), *_]}:
            return cls, sep
        case {"type": "TemplateProcessing", "single": list(pieces)}:
            names = [_piece(piece) for piece in pieces]
            place = names.index(None) if None in names else len(names)
            before, behind = names[:place], names[place + 1 :]
            return (before[0] if before else None), (behind[0] if behind else None)
        case _:
            return None, None


def _piece(piece: object) -> str | None:
    """The special token of a step of a template; None for the text."""
    match piece:
        case {"SpecialToken": {"id": str(name)}}:
            return name
        case _:
            return None
