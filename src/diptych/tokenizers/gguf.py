"""Which tokenizer does a GGUF file hold? Byte-level byte-pair vocabularies are read, and those of SentencePiece.

The file names its split by `tokenizer.ggml.pre`, a name that only llama.cpp's source gives a meaning to (its
`llama-vocab.cpp`); the names below are those that mean a split known here. A file says nothing about Unicode
normalization, so none is done, as in llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from diptych.core.gguf import GgufHeader, read_header
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.ends import Ends
from diptych.tokenizers.hugging_face import from_vocabulary
from diptych.tokenizers.library import LibraryTokenizer
from diptych.tokenizers.splitting import DIGITS_APART, PATTERNS, Split

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = range(1, 6)
"""GGML's types of tokens."""

_GPT2, _LLAMA3, _QWEN2, _O200K = ((PATTERNS[name],) for name in ("gpt2", "llama3", "qwen2", "o200k"))
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", *_GPT2, r"\p{N}+", "[0-9][0-9][0-9]")
SPLITS: dict[str, tuple[str, ...]] = {
    "default": _DEFAULT,
    **dict.fromkeys(["gpt-2", "phi-2", "mpt", "olmo", "jais", "gigachat", "a.x-4.0", "exaone4", "trillion"], _GPT2),
    **dict.fromkeys(["jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de", "jina-v2-code"], _GPT2),
    **dict.fromkeys(["roberta-bpe", "mellum", "modern-bert", "granite-docling"], _GPT2),
    **dict.fromkeys(["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral"], _LLAMA3),
    **dict.fromkeys(["midm-2.0", "lfm2", "jina-v5-nano", "dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], _LLAMA3),
    **dict.fromkeys(["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan"], _QWEN2),
    **dict.fromkeys(["gpt-4o", "llama4", "kanana2", "talkie"], _O200K),
    **dict.fromkeys(["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"], DIGITS_APART),
}
"""Name in `tokenizer.ggml.pre` -> the patterns that cut text, one after another."""

WHOLE_PIECES = frozenset(
    ["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"]
)
"""Those under which a chunk that is a token is taken whole, whatever the merges make of it."""

_SENTENCEPIECE: dict[str, Literal["bpe", "unigram"]] = {"llama": "bpe", "t5": "unigram"}
_OTHER_MODELS = {
    "gemma4": "byte-pair encoding of characters",
    "bert": "WordPiece",
    "rwkv": "RWKV's greedy",
    "plamo2": "PLaMo's",
}


def read_gguf(path: Path, split: str | None = None) -> BytePairTokenizer | LibraryTokenizer:
    """The tokenizer of a GGUF file.

    split: a name or a regular expression that takes the place of what the file says. Control, unknown and user-defined
    tokens are special; unused ones have no bytes. Raises ValueError for a damaged file, one without a tokenizer, and
    for a vocabulary or split that is not known here.
    """
    header = read_header(path)
    model = header.text("tokenizer.ggml.model")
    if model is None:
        raise ValueError(f"{path} holds no tokenizer: it has no tokenizer.ggml.model")
    if model in _SENTENCEPIECE:
        return _sentencepiece(header, _SENTENCEPIECE[model])
    if model != "gpt2":
        kind = f"{model[:40]!r} ({_OTHER_MODELS[model]})" if model in _OTHER_MODELS else repr(model[:40])
        raise ValueError(
            f"{path}: only byte-level byte-pair tokenizers (gpt2) and SentencePiece's (llama, t5) are read, not {kind}"
        )
    pre = header.text("tokenizer.ggml.pre")
    cut = _split(path, pre) if split is None else Split.named(split)
    vocabulary, special, always = _tokens(header)
    ends = _ends(header, special, adds_bos=False)
    try:
        return from_vocabulary(
            vocabulary,
            header.strings("tokenizer.ggml.merges"),
            cut,
            special,
            eos=ends.eos,
            bos=ends.bos,
            whole_pieces=pre in WHOLE_PIECES,
            size=len(header.strings("tokenizer.ggml.tokens") or []),
            always=always,
        )
    except ValueError as error:
        raise ValueError(f"{path}: vocabulary and merges do not fit together ({error})") from None


def _ends(header: GgufHeader, special: Mapping[str, int], *, adds_bos: bool) -> Ends:
    """What opens and closes a document; adds_bos: whether a beginning is put where the file does not say."""
    named = header.metadata.get("tokenizer.ggml.add_bos_token", adds_bos)
    names = {token: name for name, token in special.items()}
    bos, eos = (header.whole(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos"))
    opens = named is True and bos is not None
    return Ends(bos=names.get(bos) if opens and bos is not None else None, eos=None if eos is None else names.get(eos))


def _sentencepiece(header: GgufHeader, kind: Literal["bpe", "unigram"]) -> LibraryTokenizer:
    """The tokenizer of SentencePiece's pieces, scores and types, as llama.cpp reads them."""
    from diptych.tokenizers import sentencepiece

    pieces = header.strings("tokenizer.ggml.tokens") or []
    scores, types = (header.numbers(f"tokenizer.ggml.{name}") for name in ("scores", "token_type"))
    charsmap = header.numbers("tokenizer.ggml.precompiled_charsmap")
    kinds = [NORMAL] * len(pieces) if types is None else types.tolist()
    for end in ("bos", "eos"):  # some files type them as ordinary
        place = header.whole(f"tokenizer.ggml.{end}_token_id")
        if place is not None and 0 <= place < len(kinds) and kinds[place] == NORMAL:
            kinds[place] = CONTROL
    control = {p: n for n, (p, k) in enumerate(zip(pieces, kinds, strict=False)) if k in (CONTROL, UNKNOWN)}
    try:
        vocabulary = sentencepiece.Vocabulary(
            kind=kind,
            pieces=pieces,
            scores=[0.0] * len(pieces) if scores is None else scores.tolist(),
            types=kinds,
            add_dummy_prefix=header.metadata.get("tokenizer.ggml.add_space_prefix", True) is True,
            remove_extra_whitespaces=header.metadata.get("tokenizer.ggml.remove_extra_whitespaces", False) is True,
            charsmap=b"" if charsmap is None else charsmap.astype(np.uint8).tobytes(),
        )
        return sentencepiece.from_vocabulary(vocabulary, _ends(header, control, adds_bos=kind == "bpe"))
    except ValueError as error:
        raise ValueError(f"{header.path}: the vocabulary does not fit together ({error})") from None


def _split(path: Path, pre: str | None) -> Split:
    if pre is None:
        raise ValueError(f"{path} does not say how text is split; name the split, as in --split gpt2")
    if pre not in SPLITS:
        raise ValueError(
            f"{path} splits text by {pre[:60]!r}, which is not known here; name the split, as in --split gpt2 "
            f"(names: {', '.join(PATTERNS)}, or a regular expression)"
        )
    return Split(SPLITS[pre])


def _tokens(header: GgufHeader) -> tuple[dict[str, int], dict[str, int], list[str]]:
    """(ordinary tokens in GPT-2's letters, special tokens as text), by name; and the user-defined among these."""
    names = header.strings("tokenizer.ggml.tokens")
    if not names:
        raise ValueError(f"{header.path} holds no tokens: it has no tokenizer.ggml.tokens")
    found = header.numbers("tokenizer.ggml.token_type")
    types = [NORMAL] * len(names) if found is None else found.tolist()
    if len(types) != len(names):
        raise ValueError(f"{header.path} is damaged: {len(names):,} tokens, but {len(types):,} types of tokens")
    ends = {header.whole(f"tokenizer.ggml.{kind}_token_id") for kind in ("bos", "eos")}
    vocabulary: dict[str, int] = {}
    special: dict[str, int] = {}
    for token, (name, kind) in enumerate(zip(names, types, strict=True)):
        if kind == UNUSED:
            continue
        if kind not in (NORMAL, UNKNOWN, CONTROL, USER_DEFINED):
            raise ValueError(f"{header.path}: token {token} has the type {kind}, which is not read")
        chosen = vocabulary if kind == NORMAL and token not in ends else special
        if name in chosen:
            raise ValueError(f"{header.path} is damaged: tokens {chosen[name]} and {token} are the same")
        chosen[name] = token
    return vocabulary, special, [name for name, token in special.items() if types[token] == USER_DEFINED]
