"""How are SentencePiece's vocabularies used? Written as a tokenizer.json, which Hugging Face's library reads.

SentencePiece (Kudo and Richardson 2018) writes a space as ▁, puts one before a text, and knows pieces by their scores:
of byte-pair merges that of the higher score comes first, of unigram cuts the one of the highest sum is taken.
Characters without a piece become tokens of bytes where there are such, else the unknown token. Where a model rewrites
characters (its table of normalization), the library does so, which differs from SentencePiece in rare sequences: of
combining marks, of control characters, and of carriage returns before new lines.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diptych.tokenizers.ends import CONFIG, NAMES, Ends, name_of, read_object
from diptych.tokenizers.hugging_face import opening
from diptych.tokenizers.library import LibraryTokenizer
from diptych.tokenizers.protobuf import Fields, read_fields

SPACE = "▁"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Types of pieces, numbered alike by SentencePiece and by GGML."""

_LONGEST, _MOST_BYTES = 1000, 1 << 28
_UNIGRAM, _BPE = 1, 2


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What a SentencePiece model holds: pieces with scores and types, and how text is made ready for them.

    charsmap: the compiled table of characters that are rewritten, empty for none.
    """

    kind: Literal["bpe", "unigram"]
    pieces: Sequence[str]
    scores: Sequence[float]
    types: Sequence[int]
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = False
    charsmap: bytes = b""


def from_vocabulary(vocabulary: Vocabulary, ends: Ends) -> LibraryTokenizer:
    """The tokenizer of a vocabulary. Raises ValueError for parts that do not fit together."""
    _check(vocabulary)
    names = {piece: number for number, piece in enumerate(vocabulary.pieces)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    kinds = (CONTROL, UNKNOWN, USER_DEFINED)
    added = [
        {"id": number, "content": piece, **flags, "special": vocabulary.types[number] != USER_DEFINED}
        for piece, number in names.items()
        if vocabulary.types[number] in kinds and piece
    ]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    to_space = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoders = [to_space, {"type": "ByteFallback"}, {"type": "Fuse"}, *([strip] if vocabulary.add_dummy_prefix else [])]
    values = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(vocabulary)},
        "pre_tokenizer": None,
        "post_processor": None if ends.bos is None else opening(ends.bos, names[ends.bos]),
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _model(vocabulary, names),
    }
    return LibraryTokenizer(values, ends)


def _check(vocabulary: Vocabulary) -> None:
    pieces, types = vocabulary.pieces, vocabulary.types
    if not pieces or len(pieces) != len(vocabulary.scores) or len(pieces) != len(types):
        raise ValueError(f"{len(pieces)} pieces, {len(vocabulary.scores)} scores and {len(types)} types do not fit")
    if len(set(pieces)) < len(pieces):
        raise ValueError("a piece stands twice in the vocabulary")
    if not all(map(math.isfinite, vocabulary.scores)):
        raise ValueError("a score is no finite number")
    if not set(types) <= {NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE}:
        raise ValueError("a type of a piece is unknown")
    if max(map(len, pieces)) > _LONGEST:
        raise ValueError(f"a piece is longer than {_LONGEST} characters")


def _normalizers(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if vocabulary.charsmap:
        steps += [{"type": "Precompiled", "precompiled_charsmap": base64.b64encode(vocabulary.charsmap).decode()}]
    if vocabulary.remove_extra_whitespaces:
        steps += [{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]
        steps += [{"type": "Replace", "pattern": {"Regex": r"\A +| +\z"}, "content": ""}]
    if vocabulary.add_dummy_prefix:
        steps += [{"type": "Prepend", "prepend": SPACE}]
    return [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]


def _model(vocabulary: Vocabulary, names: Mapping[str, int]) -> dict[str, Any]:
    types = vocabulary.types
    unknown = next((number for number, kind in enumerate(types) if kind == UNKNOWN), None)
    byte_fallback = BYTE in types
    if vocabulary.kind == "unigram":
        least = min(vocabulary.scores)
        # What no text should give is as unlikely as can be said without making unknown characters unlikelier.
        scores = [
            score if kind in (NORMAL, UNKNOWN, USER_DEFINED) else least
            for score, kind in zip(vocabulary.scores, types, strict=True)
        ]
        vocab = [list(pair) for pair in zip(vocabulary.pieces, scores, strict=True)]
        return {"type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": byte_fallback}
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if unknown is None else vocabulary.pieces[unknown],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": byte_fallback,
        "vocab": dict(names),
        "merges": _merges(vocabulary, names),
    }


def _merges(vocabulary: Vocabulary, names: Mapping[str, int]) -> list[list[str]]:
    """Every cut of a piece into two others, by the piece's score: neighbours that make a piece merge, the piece of the
    highest score first."""
    known = {piece for piece, number in names.items() if vocabulary.types[number] == NORMAL}
    merges = []
    for piece in sorted(known, key=lambda piece: (-vocabulary.scores[names[piece]], names[piece])):
        for cut in range(1, len(piece)):
            if piece[:cut] in known and piece[cut:] in known:
                merges.append([piece[:cut], piece[cut:]])
    return merges


def read_model(path: Path) -> LibraryTokenizer:
    """The tokenizer of a tokenizer.model or spiece.model, the file of SentencePiece.

    What opens and closes a document tokenizer_config.json beside it says, else the file's own pieces do: its beginning
    where it is of byte-pair merges, as Llama's. Raises ValueError for a damaged file, or a model of words or of
    characters.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} is too large for a SentencePiece model")
    try:
        vocabulary, ids = _parsed(read_fields(path.read_bytes()))
        beside = {**read_object(path.with_name(NAMES)), **read_object(path.with_name(CONFIG))}
        own = [vocabulary.pieces[place] if 0 <= place < len(vocabulary.pieces) else None for place in ids]
        control = {p for p, kind in zip(vocabulary.pieces, vocabulary.types, strict=True) if kind == CONTROL}
        bos, eos = name_of(beside.get("bos_token")) or own[0], name_of(beside.get("eos_token")) or own[1]
        opens = beside.get("add_bos_token", vocabulary.kind == "bpe") is True and bos in control
        return from_vocabulary(vocabulary, Ends(bos=bos if opens else None, eos=eos if eos in control else None))
    except (ValueError, OverflowError) as error:
        if str(error).startswith(str(path.parent)):
            raise
        raise ValueError(f"{path} is no SentencePiece model that is read ({str(error)[:200]})") from None


def _parsed(model: Fields) -> tuple[Vocabulary, tuple[int, int]]:
    """(vocabulary, (id of the beginning, id of the end)) of a sentencepiece_model.proto."""
    pieces = [read_fields(piece) for piece in model.messages(1)]
    trainer, normalizer = (read_fields(model.last_bytes(number, b"")) for number in (2, 3))
    kind = trainer.last_int(3, _UNIGRAM)
    if kind not in (_UNIGRAM, _BPE):
        raise ValueError("it is of words or characters, not of byte-pair merges or unigrams")
    if trainer.last_int(24, 0) or not normalizer.last_int(5, 1):
        raise ValueError("its spaces are not written as ▁ before words")
    vocabulary = Vocabulary(
        kind="bpe" if kind == _BPE else "unigram",
        pieces=[piece.last_bytes(1, b"").decode() for piece in pieces],
        scores=[piece.last_float(2, 0.0) for piece in pieces],
        types=[piece.last_int(3, NORMAL) for piece in pieces],
        add_dummy_prefix=bool(normalizer.last_int(3, 1)),
        remove_extra_whitespaces=bool(normalizer.last_int(4, 1)),
        charsmap=normalizer.last_bytes(2, b""),
    )
    return vocabulary, (trainer.last_int(41, 1), trainer.last_int(42, 2))
