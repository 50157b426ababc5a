"""How is any other tokenizer.json used? Through Hugging Face's `tokenizers`, which reads them all.

These are BERT's WordPiece, the unigram vocabularies of T5 and XLM-R, byte-pair encoding with normalizers and splits of
many kinds. Unlike the tokenizers learnt here, many of them lose text: they rewrite characters, drop accents, case or
white space, and know some words only as [UNK] or <unk>. Decoding gives what the library's decoder gives, and for that
every token is asked once what it adds to a text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, final

import numpy as np

from diptych.core.files import write_text
from diptych.tokenizers.base import Ids, utf8
from diptych.tokenizers.ends import Ends, find_ends, marked, unmarked
from diptych.tokenizers.hugging_face import check_pattern, count_ids
from diptych.tokenizers.letters import from_letters
from diptych.tokenizers.vocabulary import VocabularyOfBytes, any_of

T = TypeVar("T")

TEXTS = 256
"""Texts that the library gets at a time: it answers with objects many times their size."""

_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
_ANCHOR = re.compile("▁?[A-Za-z]+")
_NO_CHARACTER = "\U0010ffff"


@final
class LibraryTokenizer(VocabularyOfBytes):
    """The tokenizer of a parsed tokenizer.json, as Hugging Face's library understands it.

    Texts are encoded without the special tokens that the file puts around them. WordPiece's tokens that continue a word
    are joined to it (`##` is no text); a space that the tokenizer puts before a text is taken away again by decoding.
    Raises ValueError for a file that the library does not read, ModuleNotFoundError without the library.
    """

    def __init__(self, values: dict[str, Any], ends: Ends | None = None) -> None:
        self.values = {**unmarked(values), "truncation": None, "padding": None}
        self._whole = _opened(self.values)
        added = guarded(lambda: dict(self._whole.get_added_tokens_decoder()))
        special = {token.content: number for number, token in added.items() if token.special}
        self._plain = _opened(_without_names(self.values, special))
        self._plain.encode_special_tokens = True
        pieces = _pieces(self._whole, self.values.get("decoder"))
        for number, token in added.items():
            pieces[number] = utf8(token.content)
        ends = ends or Ends()
        super().__init__(pieces, special, ends.eos, bos=ends.bos)
        self.drops_space = self._drops_space()

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._plain.encode_special_tokens = True  # which the library does not keep in copies

    def encode_ordinary(self, text: str) -> Ids:
        """Ids of the text; what looks like a special token is ordinary text. Added tokens that are not special are
        recognized. Raises ValueError where the library cannot encode it, as without an unknown token."""
        return _ids(guarded(lambda: self._plain.encode(utf8(text).decode(), add_special_tokens=False)))

    def encode_with(self, text: str, allowed: Collection[str]) -> Ids:
        """Ids of the text, in which the allowed names are special tokens."""
        others = self.special_tokens.keys() - set(allowed)
        if others and any_of(others).search(text):
            return super().encode_with(text, allowed)
        # The library sees the whole text: what it does to the beginning of a text it does once.
        return _ids(guarded(lambda: self._whole.encode(utf8(text).decode(), add_special_tokens=False)))

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Ids of each text, on all cores unless the library is told otherwise."""
        return list(encode_slabs(self._plain, texts))

    def save(self, path: Path) -> None:
        """Write the tokenizer.json again; what opens and closes a document is kept in it."""
        values = marked(self.values, Ends(bos=self.bos, eos=self.eos))
        write_text(path, json.dumps(values, ensure_ascii=False, indent=1) + "\n")

    def _drops_space(self) -> bool:
        """Whether the library takes away a space with which a text begins."""
        numbers = [number for number, piece in enumerate(self.pieces) if piece.startswith(b" ") and len(piece) > 1]
        return bool(numbers) and not guarded(lambda: self._whole.decode(numbers[:1])).startswith(" ")


def read(values: dict[str, Any], path: Path) -> LibraryTokenizer:
    """The tokenizer of a parsed tokenizer.json. Raises ValueError in one line for one that the library does not read,
    or that takes memory without end; ModuleNotFoundError without the library."""
    for pattern in _patterns(values):
        check_pattern(pattern, path)
    model = values.get("model")
    if isinstance(model, dict) and model.get("dropout"):
        raise ValueError(f"{path}: model.dropout makes ids a matter of chance; set it to null")
    try:
        opened = LibraryTokenizer(values)
        ends = find_ends(values, path, opened.special_tokens)
        opened.eos, opened.bos = ends.eos, ends.bos
    except ValueError as error:
        text = str(error)
        raise (error if text.startswith(str(path.parent)) else ValueError(f"{path} is not read: {text}")) from None
    return opened


def import_library() -> Any:
    """Hugging Face's `tokenizers`. Raises ModuleNotFoundError with the remedy."""
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "WordPiece, unigram and other tokenizers than byte-level byte-pair ones need Hugging Face's tokenizers; "
            "pip install 'diptych[subword]'"
        ) from None
    return tokenizers


def guarded(call: Callable[[], T]) -> T:
    """What the call gives; ValueError in one line for whatever the library raises, its panics included."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # a panic of the library is no Exception
        raise ValueError(f"Hugging Face's tokenizers says: {' '.join(str(error).split())[:200]}") from None


def encode_slabs(library: Any, texts: Iterable[str]) -> Iterator[Ids]:
    """Ids of each text, many at a time."""
    rest = iter(texts)
    while slab := [utf8(text).decode() for text in islice(rest, TEXTS)]:
        yield from map(_ids, _batch(library, slab))


def _batch(library: Any, slab: list[str]) -> list[Any]:
    return guarded(lambda: list(library.encode_batch_fast(slab, add_special_tokens=False)))


def _ids(encoded: Any) -> Ids:
    return np.array(encoded.ids, np.int32)


def _opened(values: dict[str, Any]) -> Any:
    library = import_library()
    return guarded(lambda: library.Tokenizer.from_str(json.dumps(values)))


def _without_names(values: dict[str, Any], special: Mapping[str, int]) -> dict[str, Any]:
    """The same tokenizer, its special tokens under names that no text has.

    A unigram vocabulary would make them of ordinary text, since they stand in it as pieces.
    """
    model = values.get("model")
    if not isinstance(model, dict) or model.get("type") != "Unigram":
        return values
    hidden = {name: f"{_NO_CHARACTER}{number}" for name, number in special.items()}
    vocab = [[hidden.get(piece, piece), score] for piece, score in model["vocab"]]
    added = values.get("added_tokens") or []
    renamed = [{**token, "content": hidden.get(token["content"], token["content"])} for token in added]
    return {**values, "added_tokens": renamed, "model": {**model, "vocab": vocab}, "post_processor": None}


def _patterns(part: object) -> Iterator[str]:
    """All regular expressions of a file."""
    rest = [part]
    while rest:
        match rest.pop():
            case {"Regex": str(pattern)}:
                yield pattern
            case dict() as values:
                rest += [value for name, value in values.items() if name != "vocab"]
            case list() as values if not values or not isinstance(values[0], str):
                rest += values


def _pieces(library: Any, decoder: object) -> list[bytes]:
    """The bytes that every token adds within a text: what the library decodes more with it than without."""
    vocabulary = guarded(lambda: dict(library.get_vocab()))
    if not vocabulary:
        raise ValueError("the vocabulary is empty")
    pieces = [b""] * count_ids(list(vocabulary.values()), 0)
    kinds = set(_kinds(decoder))
    if "ByteLevel" in kinds:
        for name, number in vocabulary.items():
            try:
                pieces[number] = from_letters(name)
            except KeyError:
                pieces[number] = utf8(name)
        return pieces
    anchor = next(([number] for name, number in vocabulary.items() if _ANCHOR.fullmatch(name)), [])
    one, two = (guarded(lambda n=n: library.decode(anchor * n)) for n in (1, 2))  # type: ignore[misc]
    behind = len(two) - len(one)
    numbers = list(vocabulary.values())
    rows = [[*anchor, number, *anchor] for number in numbers]
    texts = guarded(lambda: library.decode_batch(rows, skip_special_tokens=False))
    for number, text in zip(numbers, texts, strict=True):
        pieces[number] = utf8(text[len(one) : len(text) - behind])
    if "ByteFallback" in kinds:
        for name, number in vocabulary.items():
            if byte := _BYTE.fullmatch(name):
                pieces[number] = bytes([int(byte[1], 16)])
    return pieces


def _kinds(decoder: object) -> Iterator[str]:
    match decoder:
        case {"type": "Sequence", "decoders": list(steps)}:
            for step in steps:
                yield from _kinds(step)
        case {"type": str(kind)}:
            yield kind
