"""How is text shown while its tokens still come?"""

from __future__ import annotations

import codecs
from typing import final

from diptych.tokenizers.base import Tokenizer


@final
class StreamDecoder:
    """Turns tokens into text one by one, never emitting half a UTF-8 character."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that is certain after one more token; may be empty."""
        return self.decoder.decode(self.tokenizer.token_bytes(token))

    def finish(self) -> str:
        """What is left: an unfinished character becomes U+FFFD."""
        return self.decoder.decode(b"", final=True)
