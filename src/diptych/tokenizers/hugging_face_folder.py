"""How does a tokenizer stand in a Hugging Face folder? As tokenizer.json and tokenizer_config.json.

`transformers`' AutoTokenizer opens it as a PreTrainedTokenizerFast with the same ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from diptych.core.files import write_text
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.ends import CONFIG, read_object, unmarked
from diptych.tokenizers.library import LibraryTokenizer
from diptych.tokenizers.marian import MarianTokenizer
from diptych.tokenizers.simple import ByteTokenizer
from diptych.tokenizers.splitting import Split
from diptych.tokenizers.subword import SubwordTokenizer

_ROLES: dict[str, tuple[str, ...]] = {
    "pad_token": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>"),
    "mask_token": ("<|mask|>", "[MASK]", "<mask>"),
    "unk_token": ("<unk>", "[UNK]"),
    "cls_token": ("[CLS]",),
    "sep_token": ("[SEP]",),
}
"""Roles that transformers gives to special tokens, and the names by which they are known."""


_MARIAN = {"unk_token": "<unk>", "pad_token": "<pad>", "separate_vocabs": False}


def save_hugging_face(
    tokenizer: Tokenizer, folder: Path, *, chat_template: str | None = None, max_length: int | None = None
) -> None:
    """Write tokenizer.json and tokenizer_config.json into a folder.

    chat_template: its Jinja source. max_length: tokens that the model takes. Raises ValueError for a tokenizer that
    Hugging Face's form cannot hold, before anything is written.
    """
    if isinstance(tokenizer, MarianTokenizer):
        tokenizer.save_folder(folder)
        _write_config(folder, {"tokenizer_class": "MarianTokenizer", "eos_token": "</s>", **_MARIAN}, max_length)
        return
    form = _representable(tokenizer)
    path = folder / "tokenizer.json"
    form.save(path)
    # The configuration says what the marks say, and transformers would remark on these.
    write_text(path, json.dumps(unmarked(read_object(path)), ensure_ascii=False, indent=1) + "\n")
    _write_config(folder, _config(form) | {"chat_template": chat_template}, max_length)


def _write_config(folder: Path, values: dict[str, Any], max_length: int | None) -> None:
    kept = {name: value for name, value in {**values, "model_max_length": max_length}.items() if value is not None}
    write_text(folder / CONFIG, json.dumps(kept, ensure_ascii=False, indent=2) + "\n")


Form = BytePairTokenizer | SubwordTokenizer | LibraryTokenizer


def _representable(tokenizer: Tokenizer) -> Form:
    """The same tokenizer in a form whose file Hugging Face's library reads."""
    match tokenizer:
        case BytePairTokenizer() | SubwordTokenizer() | LibraryTokenizer():
            return tokenizer
        case ByteTokenizer():  # byte-pair encoding without any merges
            return BytePairTokenizer(tokenizer.pieces, [], Split.named("gpt2"), tokenizer.special_tokens)
        case _:
            raise ValueError(
                f"a {type(tokenizer).__name__} cannot be written in Hugging Face's form, which has no such tokens; "
                "train with tokenizer.kind = bpe, wordpiece, unigram or byte"
            )


def _config(tokenizer: Form) -> dict[str, Any]:
    special = tokenizer.special_tokens
    values: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokenizer.eos if tokenizer.bos is None else tokenizer.bos,
        "eos_token": tokenizer.eos,
        **{role: _first(names, special) for role, names in _ROLES.items()},
        "clean_up_tokenization_spaces": False,
    }
    values["pad_token"] = values["pad_token"] or tokenizer.eos
    if not isinstance(tokenizer, LibraryTokenizer):
        # Said of a file that puts other tokens around texts, it would make transformers forget these.
        values["add_bos_token"] = tokenizer.bos is not None
    return values


def _first(names: Iterable[str], special: Iterable[str]) -> str | None:
    known = set(special)
    return next((name for name in names if name in known), None)
