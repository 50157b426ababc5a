"""How is a byte-level byte-pair tokenizer exchanged? As Hugging Face's tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diptych.core.files import write_text
from diptych.tokenizers.base import EOS
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.splitting import BYTE_ORDER, to_letters

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_STEPS = {"truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"}
_NO_PARTS = {
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


def write(tokenizer: BytePairTokenizer, path: Path) -> None:
    """Write a tokenizer.json that Hugging Face `tokenizers` loads with the same ids."""
    names = [to_letters(piece) for piece in tokenizer.pieces[:-1]]
    special = {"id": tokenizer.eos_id, "content": EOS, "special": True, "normalized": False}
    model = {
        "type": "BPE",
        **_NO_PARTS,
        "vocab": {**{name: i for i, name in enumerate(names)}, EOS: tokenizer.eos_id},
        "merges": [[names[left], names[right]] for left, right in tokenizer.merges],
    }
    whole = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{**special, "single_word": False, "lstrip": False, "rstrip": False}],
        "normalizer": None,
        "pre_tokenizer": _BYTE_LEVEL,
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": model,
    }
    write_text(path, json.dumps(whole, ensure_ascii=False, indent=1) + "\n")


def read(values: dict[str, Any], path: Path) -> BytePairTokenizer:
    """The tokenizer of a parsed tokenizer.json. Raises ValueError naming the first part that is not understood."""
    _refuse_unknown(values, path)
    model = values["model"]
    try:
        return _from_vocabulary(model["vocab"], model["merges"])
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"{path}: vocabulary and merges do not fit together ({_brief(error)})") from None


def _refuse_unknown(values: dict[str, Any], path: Path) -> None:
    """Raise ValueError naming the first part that would make other ids than `BytePairTokenizer`."""
    if extra := sorted(values.keys() - _STEPS - {"version", "added_tokens", "model"}):
        raise ValueError(f"{path}: part {_brief(extra[0])} is not supported")
    model = values.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        raise ValueError(f"{path}: only byte-level BPE tokenizers are read, not {_kind(model)}")
    if extra := sorted(model.keys() - {"type", "vocab", "merges"} - _NO_PARTS.keys()):
        raise ValueError(f"{path}: model.{_brief(extra[0])} is not supported")
    for name, expected in _NO_PARTS.items():
        if model.get(name, expected) not in (expected, "" if expected is None else expected):
            raise ValueError(f"{path}: model.{name} = {_brief(model[name])} is not supported")
    for name in ("truncation", "padding", "normalizer"):
        if values.get(name) is not None:
            raise ValueError(f"{path}: {name} {_kind(values[name])} is not supported")
    for name in ("post_processor", "decoder"):
        if values.get(name) is not None and _kind(values[name]) != "ByteLevel":
            raise ValueError(f"{path}: {name} {_kind(values[name])} is not supported")
    split = values.get("pre_tokenizer")
    if not isinstance(split, dict) or {**_BYTE_LEVEL, **split, "trim_offsets": True} != _BYTE_LEVEL:
        raise ValueError(f"{path}: pre_tokenizer {_kind(split)} is not supported, only ByteLevel with GPT-2's split")
    added = values.get("added_tokens") or []
    for token in added if isinstance(added, list) else [added]:
        content = token.get("content") if isinstance(token, dict) else token
        if content != EOS:
            raise ValueError(f"{path}: added token {_brief(content)} is not supported, only {EOS}")


def _kind(part: object) -> str:
    return _brief(part.get("type") if isinstance(part, dict) else part)


def _brief(value: object) -> str:
    """One short line of what may be anything."""
    text = repr(value).strip("'")
    return text if len(text) < 100 else text[:97] + "..."


def _from_vocabulary(vocab: dict[str, int], merges: list[Any]) -> BytePairTokenizer:
    for token, byte in enumerate(BYTE_ORDER):
        if vocab[to_letters(bytes([byte]))] != token:
            raise ValueError("the first 256 tokens are not the bytes in their usual order")
    pairs = []
    for rank, merge in enumerate(merges):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if vocab[left + right] != 256 + rank:
            raise ValueError(f"merge {rank} makes token {vocab[left + right]}, not {256 + rank}")
        pairs.append((vocab[left], vocab[right]))
    if vocab.get(EOS, len(vocab)) != 256 + len(pairs) or len(vocab) > 257 + len(pairs):
        raise ValueError(f"the vocabulary is not 256 bytes, {len(pairs)} merges and {EOS}")
    return BytePairTokenizer(pairs)
