"""How is a text put together so that it is known at which token each of its parts begins?

Parts are encoded one by one and their tokens joined. Each begins with a space or a sign, where tokens begin anyhow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import final

from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.simple import WordTokenizer

_ANCHORS = ("a", ".", "0")
"""What a part may stand behind while it is encoded, where the beginning of a text is encoded in a way of its own."""

_N_BYTES = 256


@dataclass(frozen=True)
class Piece:
    """A part of a text and its tokens in the middle of a text."""

    text: str
    ids: tuple[int, ...]

    def __add__(self, other: Piece) -> Piece:
        return Piece(self.text + other.text, self.ids + other.ids)


NOTHING = Piece("", ())


def opened(opening: int | None, pieces: Sequence[Piece] = ()) -> tuple[int, ...]:
    """The tokens of the pieces, behind the one that opens a document, where a model expects one."""
    ids = tuple(token for piece in pieces for token in piece.ids)
    return ids if opening is None else (opening, *ids)


@final
class Writer:
    """Encodes pieces, each of them once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._pieces: dict[str, Piece] = {"": NOTHING}
        self._templates: dict[str, list[tuple[Piece, str | None]]] = {}

    def piece(self, text: str) -> Piece:
        """The text as it is encoded in the middle of others. Raises ValueError for a tokenizer that changes it."""
        if text not in self._pieces:
            self._pieces[text] = Piece(text, self._encode(text))
        return self._pieces[text]

    def fill(self, template: str, **words: Piece) -> Piece:
        """A template such as ` The code of{key} is{value}.` with its words. ValueError as `piece` and `literal`."""
        if template not in self._templates:
            parts = Formatter().parse(template)
            self._templates[template] = [(self.literal(text), field) for text, field, _, _ in parts]
        text, ids = "", list[int]()
        for part, field in self._templates[template]:
            word = NOTHING if field is None else words[field]
            text += part.text + word.text
            ids += part.ids + word.ids
        return Piece(text, tuple(ids))

    def literal(self, text: str) -> Piece:
        """`piece` of a text in plain English. Raises ValueError for a vocabulary of words that lacks one of them."""
        piece = self.piece(text)
        if isinstance(self.tokenizer, WordTokenizer) and any(token < _N_BYTES for token in piece.ids):
            raise ValueError(
                f"the tokenizer's vocabulary does not hold all words of {text!r}; use the style 'pairs', which needs "
                "no words but those of the vocabulary"
            )
        return piece

    def text(self, pieces: Sequence[Piece]) -> str:
        """The pieces joined to a text from its beginning on, as the tokenizer decodes them."""
        text = "".join(piece.text for piece in pieces)
        return text.removeprefix(" ") if self.tokenizer.drops_space else text

    def _encode(self, text: str) -> tuple[int, ...]:
        encode = self.tokenizer.encode_list
        for anchor in _ANCHORS if self.tokenizer.drops_space else ("", *_ANCHORS):
            head, whole = encode(anchor), encode(anchor + text)
            if whole[: len(head)] == head and self.tokenizer.decode(whole) == anchor + text:
                return tuple(whole[len(head) :])
        raise ValueError(f"the tokenizer does not give {text!r} back as it was; the tasks need one that loses nothing")
