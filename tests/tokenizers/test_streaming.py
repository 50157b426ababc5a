"""Is a stream of tokens shown as the text it becomes, and never half a character?"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.streaming import StreamDecoder

many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PIECES = ["a", "é", "日", "🙂", "\0", " the", "👩‍👩‍👧", "\U0010ffff", "\u0800", "\u07ff"]
BROKEN = [
    b"\xff",
    b"\xc3",
    b"\xa9",
    b"\xe6\x97",
    b"\xf0\x9f\x99",
    b"\x80\x80",
    b"\xed\xa0\x80",
    b"\xf5",
    b"a",
    "é".encode(),
]


def certain(data: bytes) -> str:
    """What no later byte can change: all but a last part that some bytes would complete to a character.

    By trial: the shortest end of at most three bytes without which decoding does not depend on what follows.
    """
    for cut in range(min(3, len(data)), 0, -1):
        tail = data[len(data) - cut :]
        completions = [
            b"\x80",
            b"\x80\x80",
            b"\x90\x80\x80",
            b"\x90\x80",
            b"\xa0\x80",
            b"\x90",
            b"\xa0",
            b"\x80\x80\x80",
        ]
        if tail[0] >= 0xC0 and any(is_character(tail + completion) for completion in completions):
            return data[: len(data) - cut].decode("utf-8", "replace")
    return data.decode("utf-8", "replace")


def is_character(data: bytes) -> bool:
    try:
        return len(data.decode("utf-8", "surrogatepass")) == 1  # Python waits for the third byte of surrogates too
    except UnicodeDecodeError:
        return False


@many
@given(data=st.data())
def test_a_stream_is_the_text(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    decoder = StreamDecoder(tokenizer)
    assert "".join([decoder.push(i) for i in ids] + [decoder.finish()]) == tokenizer.decode(ids)


@many
@given(text=st.text(max_size=60))
def test_a_stream_of_valid_text_shows_all_that_is_certain_and_no_replacement(tokenizer: Tokenizer, text: str) -> None:
    text = text.replace("\ufffd", "")
    decoder, shown, read = StreamDecoder(tokenizer), "", b""
    for token in tokenizer.encode(text).tolist():
        shown += decoder.push(token)
        read += tokenizer.token_bytes(token)
        assert shown == read.decode("utf-8", "ignore")
    assert shown == text
    assert decoder.finish() == ""


@pytest.mark.parametrize("seed", range(30))
def test_at_every_cut_what_is_shown_is_what_is_certain(bpe: BytePairTokenizer, seed: int) -> None:
    """Byte by byte, of bytes that are text, broken text, or none: as an oracle says that tries all continuations."""
    generator = random.Random(seed)
    parts = [generator.choice([part.encode() for part in PIECES] + BROKEN) for _ in range(30)]
    single = {bpe.token_bytes(i): i for i in range(256)}
    decoder, shown, read = StreamDecoder(bpe), "", b""
    for byte in b"".join(parts):
        shown += decoder.push(single[bytes([byte])])
        read += bytes([byte])
        assert shown == certain(read), read
    assert shown + decoder.finish() == b"".join(parts).decode("utf-8", "replace")


def test_all_ways_to_cut_a_text_into_tokens_show_the_same(bpe: BytePairTokenizer) -> None:
    text = "naïve 日本語 🙂🙂 the"
    data = text.encode()
    ids = {piece: token for token, piece in enumerate(bpe.ordinary) if piece}
    generator = random.Random(0)
    for _ in range(200):
        at, decoder, shown = 0, StreamDecoder(bpe), ""
        while at < len(data):
            ends = [end for end in range(at + 1, len(data) + 1) if data[at:end] in ids]
            end = generator.choice(ends)
            shown += decoder.push(ids[data[at:end]])
            assert text.startswith(shown)
            at = end
        assert shown + decoder.finish() == text


def test_an_unfinished_character_becomes_one_replacement_at_the_end(bpe: BytePairTokenizer) -> None:
    single = {bpe.token_bytes(i): i for i in range(256)}
    decoder = StreamDecoder(bpe)
    assert [decoder.push(single[bytes([byte])]) for byte in b"a\xf0\x9f\x99"] == ["a", "", "", ""]
    assert decoder.finish() == "\ufffd"
    assert decoder.push(single[b"b"]) == "b"  # and nothing is left for another stream


@pytest.mark.parametrize("token", [-1, 10**6])
def test_a_token_outside_the_vocabulary_is_refused(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(ValueError, match=f"token id {token} lies outside"):
        StreamDecoder(tokenizer).push(token)
