"""How is text shown while its tokens still come?"""

from __future__ import annotations

import codecs
from typing import final

from diptych.tokenizers.base import Tokenizer


@final
class StreamDecoder:
    """Turns tokens into text one by one, never emitting half a UTF-8 character.

    continues: whether text stands before, after which a tokenizer that puts a space before texts shows that of the
    first token.
    """

    def __init__(self, tokenizer: Tokenizer, *, continues: bool = False) -> None:
        self.tokenizer = tokenizer
        self.drops_space = tokenizer.drops_space and not continues
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that is certain after one more token; may be empty."""
        piece = self.tokenizer.token_bytes(token)
        if self.drops_space and piece:
            self.drops_space = False
            piece = piece.removeprefix(b" ")
        return self.decoder.decode(piece)

    def finish(self) -> str:
        """What is left: an unfinished character becomes U+FFFD."""
        return self.decoder.decode(b"", final=True)
