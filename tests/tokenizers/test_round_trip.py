"""Does every tokenizer give back every text, from memory, from the disk and token by token?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.tokenizers.base import EOS, Tokenizer
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.streaming import StreamDecoder

ANY_TEXT = st.text(max_size=80) | st.lists(
    st.sampled_from([" ", "\n", "a", "the", "é", "🙂", "'ll", "1", "\0", EOS])
).map("".join)
many = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(text=ANY_TEXT)
def test_decoding_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.eos_id not in ids
    assert sum(len(tokenizer.token_bytes(int(i))) for i in ids) == len(text.encode())


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
        assert again.encode(text).tolist() == tokenizer.encode(text).tolist()


@many
@given(data=st.data())
def test_a_stream_is_the_text_and_never_half_a_character(tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    decoder = StreamDecoder(tokenizer)
    assert "".join([decoder.push(i) for i in ids] + [decoder.finish()]) == tokenizer.decode(ids)


@many
@given(text=ANY_TEXT)
def test_a_stream_of_valid_text_shows_no_replacement(tokenizer: Tokenizer, text: str) -> None:
    text = text.replace("\ufffd", "")
    decoder, shown, read = StreamDecoder(tokenizer), "", b""
    for token in tokenizer.encode(text):
        shown += decoder.push(int(token))
        read += tokenizer.token_bytes(int(token))
        assert shown == read.decode("utf-8", "ignore")  # all that is certain, and nothing else
    assert shown == text
    assert decoder.finish() == ""


def test_batches_equal_single_texts(tokenizer: Tokenizer) -> None:
    texts = ["", "the naïve", "日本\n"]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == [tokenizer.encode(t).tolist() for t in texts]


def test_invalid_bytes_become_replacement_characters(tokenizer: Tokenizer) -> None:
    single = {tokenizer.token_bytes(i): i for i in range(256)}
    ids = [single[b"\xf0"], single[b"\x9f"], single[b"a"]]
    assert tokenizer.decode(ids) == b"\xf0\x9fa".decode("utf-8", "replace")


def test_a_lone_surrogate_becomes_a_replacement_character(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


@pytest.mark.parametrize("token", [-1, 10**6])
def test_ids_outside_the_vocabulary_are_refused(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(ValueError, match="outside the vocabulary"):
        tokenizer.decode([token])


def test_the_end_of_a_document_decodes_to_its_name(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode([tokenizer.eos_id]) == EOS
