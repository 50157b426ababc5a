"""Does every tokenizer give back every text and every byte, from memory and from the disk, and refuse what is no id?"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.tokenizers.base import EOS, Tokenizer, utf8
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.load import load_tokenizer

ANY_TEXT = st.text(max_size=80) | st.lists(
    st.sampled_from([" ", "\n", "a", "the", "é", "🙂", "'ll", "1", "\0", EOS])
).map("".join)
ANY_BYTES = st.binary(max_size=80) | st.lists(
    st.sampled_from(
        [b"the", b" ", b"\xc3", b"\xa9", b"\xf0\x9f", b"\x99\x82", b"\xff", b"\xed\xa0\x80", b"\0", b"\xc0\x80"]
    )
).map(b"".join)
SURROGATES = st.text(st.sampled_from("a\ud800\udbff\udc00\udfff\ufeff\U0001f642é"), max_size=12)
many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(text=ANY_TEXT)
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.encode_list(text) == ids.tolist()
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.eos_id not in ids
    assert sum(len(tokenizer.token_bytes(int(i))) for i in ids) == len(text.encode())


@many
@given(data=ANY_BYTES)
def test_every_byte_string_comes_back(bpe: BytePairTokenizer, data: bytes) -> None:
    ids = bpe.encode_bytes(data)
    assert ids.dtype == np.int32
    assert bpe.decode_bytes(ids) == data
    assert bpe.decode(ids) == data.decode("utf-8", "replace")


@many
@given(text=ANY_TEXT)
def test_bytes_that_are_text_give_the_ids_of_the_text(bpe: BytePairTokenizer, text: str) -> None:
    assert bpe.encode_bytes(text.encode()).tolist() == bpe.encode(text).tolist()


def test_all_bytes_and_megabytes_at_random_come_back(bpe: BytePairTokenizer) -> None:
    generator = random.Random(0)
    for data in (bytes(range(256)), generator.randbytes(100_000), b"\xff" * 100_000, b"a\xff" * 2000):
        assert bpe.decode_bytes(bpe.encode_bytes(data)) == data


def without_lone_surrogates(text: str) -> str:
    """Pairs of surrogates are the character they stand for, and single ones U+FFFD."""
    characters: list[str] = []
    for character in text:
        if "\udc00" <= character <= "\udfff" and characters and "\ud800" <= characters[-1] <= "\udbff":
            characters[-1] = chr(0x10000 + ((ord(characters[-1]) - 0xD800) << 10) + ord(character) - 0xDC00)
        else:
            characters.append(character)
    return "".join("\ufffd" if "\ud800" <= character <= "\udfff" else character for character in characters)


@many
@given(text=SURROGATES)
def test_lone_surrogates_become_replacement_characters(tokenizer: Tokenizer, text: str) -> None:
    expected = without_lone_surrogates(text)
    assert utf8(text) == expected.encode()
    assert tokenizer.decode(tokenizer.encode(text)) == expected
    assert tokenizer.encode(text).tolist() == tokenizer.encode(expected).tolist()
    assert [ids.tolist() for ids in tokenizer.encode_batch([text, text])] == [tokenizer.encode(text).tolist()] * 2


@many
@given(text=ANY_TEXT)
def test_the_file_holds_the_whole_tokenizer(
    tokenizer: Tokenizer, text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"saved-{type(tokenizer).__name__}"
    if not folder.exists():
        folder.mkdir()
        tokenizer.save(folder / "tokenizer.json")
        assert [file.name for file in folder.iterdir()] == ["tokenizer.json"]
        for again in (load_tokenizer(folder), load_tokenizer(folder / "tokenizer.json")):
            assert again.vocab_size == tokenizer.vocab_size
            assert again.special_tokens == tokenizer.special_tokens == {EOS: tokenizer.vocab_size - 1}
            READ_AGAIN[folder.name] = again
    assert READ_AGAIN[folder.name].encode(text).tolist() == tokenizer.encode(text).tolist()


READ_AGAIN: dict[str, Tokenizer] = {}


@many
@given(data=st.data())
def test_any_ids_decode_to_the_bytes_of_their_tokens(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=60))
    expected = b"".join(tokenizer.token_bytes(i) for i in ids)
    assert tokenizer.decode_bytes(ids) == expected
    assert tokenizer.decode(ids) == expected.decode("utf-8", "replace")


FORMS: dict[str, Any] = {
    "list": list,
    "tuple": tuple,
    "range": lambda ids: range(65, 90) if ids == list(range(65, 90)) else ids,
    "int32": lambda ids: np.array(ids, np.int32),
    "int64": lambda ids: np.array(ids, np.int64),
    "uint8": lambda ids: np.array(ids, np.uint8),
    "int8": lambda ids: np.array(ids, np.int8),
    "uint16": lambda ids: np.array(ids, np.uint16),
    "uint64": lambda ids: np.array(ids, np.uint64),
    "big-endian": lambda ids: np.array(ids, ">i4"),
    "every other": lambda ids: np.repeat(np.array(ids, np.int32), 2)[::2],
    "backwards": lambda ids: np.array(ids[::-1], np.int32)[::-1],
    "a column": lambda ids: np.array([ids, ids], np.int32).T[:, 1],
    "read-only": lambda ids: np.frombuffer(np.array(ids, np.int32).tobytes(), np.int32),
    "NumPy numbers": lambda ids: [np.int64(i) for i in ids],
    "unaligned": lambda ids: np.frombuffer(b"x" + np.array(ids, np.int32).tobytes(), np.int32, offset=1),
}


@pytest.mark.parametrize("form", FORMS)
def test_ids_may_come_in_any_form(tokenizer: Tokenizer, form: str) -> None:
    ids = list(range(65, 90))
    given_ids = FORMS[form](ids)
    before = list(given_ids)
    expected = b"".join(tokenizer.token_bytes(i) for i in ids)
    assert tokenizer.decode_bytes(given_ids) == expected
    assert tokenizer.decode(given_ids) == expected.decode("utf-8", "replace")
    assert list(given_ids) == before


@pytest.mark.parametrize("nothing", [[], (), np.empty(0, np.int32), np.empty(0, np.int64), np.empty(0), range(0)])
def test_no_ids_are_no_text(tokenizer: Tokenizer, nothing: Any) -> None:
    assert tokenizer.decode(nothing) == ""
    assert tokenizer.decode_bytes(nothing) == b""


WRONG: list[Any] = [
    [1.0],
    (True, False),
    ["a"],
    [None],
    [[1, 2]],
    [[1], [2, 3]],
    5,
    np.array(5),
    np.zeros((2, 2), np.int32),
]
WRONG += [None, "the", np.array([1.5]), [2**70], np.array([1], bool), np.array([1j]), {1: 2}, iter([1])]


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_what_are_no_ids_is_refused_in_one_line(tokenizer: Tokenizer, wrong: Any) -> None:
    for call in (tokenizer.decode, tokenizer.decode_bytes):
        with pytest.raises(ValueError, match="token ids must be a row of whole numbers") as caught:
            call(wrong)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", [list, np.array, lambda ids: np.array(ids)[::1], lambda ids: np.repeat(ids, 2)[::2]])
@pytest.mark.parametrize("token", [-1, 10**6, -(2**31) - 5, 2**31, 2**32 + 65, 2**62, -(2**62), "size"])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer, token: Any, form: Any) -> None:
    """By name, though they would fit if only their lowest bits were looked at."""
    token = tokenizer.vocab_size if token == "size" else token
    for ids in ([token], [65, 66, token, 67, token + 1]):
        with pytest.raises(ValueError, match=f"token id {token} does not stand in the vocabulary"):
            tokenizer.decode(form(ids))
    with pytest.raises(ValueError, match=f"token id {token} lies outside the vocabulary"):
        tokenizer.token_bytes(token)


def test_small_number_types_are_refused_where_they_lie_outside(bpe: BytePairTokenizer) -> None:
    with pytest.raises(ValueError, match="token id -3 does not"):
        bpe.decode(np.array([1, -3], np.int8))
    with pytest.raises(ValueError, match="token id 65535 does not"):
        bpe.decode(np.array([65535], np.uint16))
    with pytest.raises(ValueError, match=f"token id {2**64 - 1} does not"):
        bpe.decode(np.array([2**64 - 1], np.uint64))


def test_batches_equal_single_texts(tokenizer: Tokenizer) -> None:
    texts = ["", "the naïve", "日本\n"]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == [tokenizer.encode(t).tolist() for t in texts]


def test_invalid_bytes_become_replacement_characters(tokenizer: Tokenizer) -> None:
    single = {tokenizer.token_bytes(i): i for i in range(256)}
    ids = [single[b"\xf0"], single[b"\x9f"], single[b"a"]]
    assert tokenizer.decode(ids) == b"\xf0\x9fa".decode("utf-8", "replace")


def test_the_end_of_a_document_decodes_to_its_name(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([tokenizer.eos_id]) == EOS
