"""How does a GGUF file hold a tokenizer? As llama.cpp reads it: byte-level byte-pair vocabularies, and SentencePiece's
byte-pair vocabularies with a token for every byte."""

from __future__ import annotations

import re
from typing import Any, TypeGuard

import numpy as np

from diptych.core.gguf import Value
from diptych.tokenizers.base import BYTES, Tokenizer
from diptych.tokenizers.bpe import BytePairTokenizer, merge_table
from diptych.tokenizers.engine import ChunkEncoder
from diptych.tokenizers.gguf import SPLITS, WHOLE_PIECES
from diptych.tokenizers.hugging_face import merges_of
from diptych.tokenizers.letters import to_letters
from diptych.tokenizers.library import LibraryTokenizer
from diptych.tokenizers.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED

_PREFERRED = ("gpt-2", "llama-bpe", "dbrx", "qwen2", "gpt-4o", "smollm")
"""Where several names mean one split, the best known of them."""

_BYTE = re.compile("<0x[0-9A-F]{2}>")


def gguf_metadata(tokenizer: Tokenizer, vocab_size: int, *, add_bos: bool) -> dict[str, Value]:
    """The key-value pairs under `tokenizer.ggml`.

    vocab_size: rows of the network's embedding; those that the tokenizer does not use are named [PAD0] and so on.
    add_bos: whether llama.cpp puts the opening token before a text. Unicode normalization cannot be said. Raises
    ValueError for a tokenizer that llama.cpp cannot run.
    """
    return {
        **(
            _sentencepiece(tokenizer, vocab_size)
            if _is_sentencepiece(tokenizer)
            else _byte_level(tokenizer, vocab_size)
        ),
        "tokenizer.ggml.bos_token_id": tokenizer.opening_id,
        "tokenizer.ggml.eos_token_id": tokenizer.eos_id,
        "tokenizer.ggml.add_bos_token": add_bos,
    }


def _byte_level(tokenizer: Tokenizer, vocab_size: int) -> dict[str, Value]:
    if not isinstance(tokenizer, BytePairTokenizer):
        scheme = type(tokenizer).__name__.removesuffix("Tokenizer").lower()
        if isinstance(tokenizer, LibraryTokenizer):
            scheme = str(tokenizer.values["model"].get("type"))
        raise ValueError(
            f"a GGUF file holds byte-level byte-pair tokenizers for llama.cpp, and this one is another ({scheme})"
            "; export a Hugging Face folder, or train with tokenizer.kind bpe"
        )
    special = {token: name for name, token in tokenizer.special_tokens.items()}
    letters = [to_letters(piece) for piece in tokenizer.ordinary]
    names, types = [], []
    for token in range(max(vocab_size, tokenizer.vocab_size)):
        name, kind = _unused(token), UNUSED
        if token in special:
            name, kind = special[token], USER_DEFINED if special[token] in tokenizer.always else CONTROL
        elif token < len(letters) and letters[token]:
            name, kind = letters[token], NORMAL
        names.append(name)
        types.append(kind)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": _pre(tokenizer),
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.merges": [f"{letters[left]} {letters[right]}" for left, right in merges_of(tokenizer)],
    }


def _unused(token: int) -> str:
    return f"[PAD{token}]"


def _is_sentencepiece(tokenizer: Tokenizer) -> TypeGuard[LibraryTokenizer]:
    """Whether it is byte-pair encoding of characters, with spaces as ▁ and a token for every byte."""
    if not isinstance(tokenizer, LibraryTokenizer):
        return False
    model, prepared = tokenizer.values["model"], _prepared(tokenizer)
    has_bytes = model.get("type") == "BPE" and model.get("byte_fallback") is True and "<0x00>" in model["vocab"]
    return has_bytes and any(kind in ("Replace", "Metaspace") for kind in prepared) and not prepared & _REWRITING


_REWRITING = {"Precompiled", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "BertNormalizer"}


def _prepared(tokenizer: LibraryTokenizer) -> set[str]:
    """The kinds of steps that texts go through before the merges."""
    steps: list[dict[str, Any]] = []
    for part in (tokenizer.values.get("normalizer"), tokenizer.values.get("pre_tokenizer")):
        steps += [] if part is None else part.get("normalizers", part.get("pretokenizers", [part]))
    never = {"prepend_scheme": "never"}.items()
    return {"Replace" if step["type"] == "Metaspace" and never <= step.items() else step["type"] for step in steps}


def _sentencepiece(tokenizer: LibraryTokenizer, vocab_size: int) -> dict[str, Value]:
    """Pieces whose scores are higher, the earlier they are merged: llama.cpp merges the best piece first."""
    model = tokenizer.values["model"]
    added = {token["id"]: token for token in tokenizer.values["added_tokens"]}
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    size = max(vocab_size, tokenizer.vocab_size)
    names, types = [_unused(token) for token in range(size)], np.full(size, UNUSED, np.int32)
    for name, token in {**model["vocab"], **{token["content"]: number for number, token in added.items()}}.items():
        names[token] = name
        types[token] = BYTE if _BYTE.fullmatch(name) else NORMAL
        if token in added:
            types[token] = CONTROL if added[token]["special"] else USER_DEFINED
        if name == model.get("unk_token"):
            types[token] = UNKNOWN
    scores = [-float(ranks.get(name, len(ranks))) for name in names]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.scores": np.array(scores, np.float32),
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.add_space_prefix": bool(_prepared(tokenizer) & {"Prepend", "Metaspace"}),
    }


def _pre(tokenizer: BytePairTokenizer) -> str:
    """The name by which llama.cpp knows the split. Raises ValueError where there is none."""
    found = [name for name in (*_PREFERRED, *SPLITS) if SPLITS[name] == tokenizer.split.patterns]
    rule = tokenizer.split.rule
    if not found and rule is not None:  # another spelling of the same rule
        found = [name for name in _PREFERRED if type(tokenizer.split)(SPLITS[name]).rule == rule]
    if not found:
        raise ValueError(
            f"llama.cpp does not know the split {tokenizer.split.name[:60]!r}; it knows those of gpt2, llama3, qwen2, "
            "o200k and smollm, with which a tokenizer can be trained (tokenizer.split)"
        )
    if _merges_suffice(tokenizer):
        return found[0]
    fitting = [name for name in found if (name in WHOLE_PIECES) == tokenizer.whole_pieces]
    if not fitting:
        raise ValueError(
            f"llama.cpp knows no split {tokenizer.split.name[:60]!r} in which words that are tokens are taken whole, "
            "as this tokenizer does; export a Hugging Face folder"
        )
    return fitting[0]


def _merges_suffice(tokenizer: BytePairTokenizer) -> bool:
    """Whether the merges alone make every token of its own bytes: then it does not matter if it is taken whole."""
    ids = {piece: token for token, piece in reversed(list(enumerate(tokenizer.ordinary))) if piece}
    lacking = [byte for byte in BYTES if byte not in ids]
    table = merge_table(merges_of(tokenizer), tokenizer.ordinary)
    encoder = ChunkEncoder([*tokenizer.ordinary, *lacking], table, tokenizer.split, whole_pieces=False)
    ends = np.cumsum([len(piece) for piece in ids], dtype=np.int64)
    return np.array_equal(encoder.encode_pieces(b"".join(ids), ends), np.array(list(ids.values())))
