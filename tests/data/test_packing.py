"""Does a token store hold its documents, whole or not at all?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diptych.core.events import Event, Message, Progressed
from diptych.data.packing import build_token_store
from diptych.data.sources import Document
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.simple import ByteTokenizer, CharacterTokenizer

from .conftest import TEXTS, MakeStore

DOCUMENTS = [Document(text, "") for text in TEXTS]


def never() -> Iterator[Document]:
    raise AssertionError("the documents are read again")


def test_documents_lie_between_their_boundaries(make_store: MakeStore, tokenizer: Tokenizer) -> None:
    store = make_store()
    expected = [i for text in TEXTS for i in (tokenizer.eos_id, *tokenizer.encode(text).tolist())]
    assert store.tokens.tolist() == [*expected, tokenizer.eos_id]
    assert store.tokens.dtype == np.uint16
    assert (store.n_tokens, store.n_documents) == (len(expected) + 1, len(TEXTS))
    assert store.n_bytes == sum(len(text.encode()) for text in TEXTS) == store.token_lengths[store.tokens].sum()


def test_where_another_token_opens_documents_each_is_opened_and_closed(opening: Tokenizer, tmp_path: Path) -> None:
    store = build_token_store(lambda: DOCUMENTS, opening, tmp_path / "text")
    bos, eos = opening.opening_id, opening.eos_id
    assert bos != eos
    assert store.tokens.tolist() == [i for text in TEXTS for i in (bos, *opening.encode(text).tolist(), eos)]
    assert (store.opening_id, store.n_documents) == (bos, len(TEXTS))
    assert store.n_bytes == sum(len(text.encode()) for text in TEXTS) == store.token_lengths[store.tokens].sum()
    assert store.n_text_tokens == sum(len(opening.encode(text)) for text in TEXTS)
    again = build_token_store(never, opening, tmp_path / "text")
    assert (again.n_tokens, again.opening_id) == (store.n_tokens, bos)


def test_text_tokens_are_those_between_the_boundaries(make_store: MakeStore, tokenizer: Tokenizer) -> None:
    store = make_store()
    assert store.opening_id is None
    assert store.n_text_tokens == sum(len(tokenizer.encode(text)) for text in TEXTS)


def test_a_large_vocabulary_takes_wider_numbers(tmp_path: Path) -> None:
    tokenizer = CharacterTokenizer("".join(map(chr, range(0x10000, 0x20000))))
    store = build_token_store(lambda: [Document("\U0001ffff", "")], tokenizer, tmp_path / "text")
    assert store.tokens.dtype == np.uint32
    assert store.tokens.tolist() == [tokenizer.eos_id, 256 + 0xFFFF, tokenizer.eos_id]


def test_a_finished_store_is_used_again(make_store: MakeStore, tokenizer: Tokenizer, tmp_path: Path) -> None:
    first = make_store()
    again = build_token_store(never, tokenizer, tmp_path / "text")
    assert again.tokens.tolist() == first.tokens.tolist()
    assert (again.n_documents, again.n_bytes) == (first.n_documents, first.n_bytes)


def test_another_tokenizer_or_other_data_make_it_again(make_store: MakeStore, tmp_path: Path) -> None:
    make_store()
    events: list[Event] = []
    one = build_token_store(lambda: DOCUMENTS, ByteTokenizer(), tmp_path / "text", events.append)
    assert one.n_tokens == sum(len(text.encode()) + 1 for text in TEXTS) + 1
    two = build_token_store(
        lambda: DOCUMENTS[:1], ByteTokenizer(), tmp_path / "text", events.append, fingerprint="other"
    )
    assert two.n_documents == 1
    assert sum(isinstance(event, Message) and "made again" in event.text for event in events) == 2
    build_token_store(never, ByteTokenizer(), tmp_path / "text", fingerprint="other")


def test_an_interrupted_build_leaves_nothing_that_looks_whole(tokenizer: Tokenizer, tmp_path: Path) -> None:
    def broken() -> Iterator[Document]:
        yield DOCUMENTS[0]
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        build_token_store(broken, tokenizer, tmp_path / "text")
    assert list(tmp_path.iterdir()) == []
    assert build_token_store(lambda: DOCUMENTS, tokenizer, tmp_path / "text").n_documents == len(DOCUMENTS)


@pytest.mark.parametrize("damage", ["cut", "longer", "empty", "gone", "sidecar", "list", "dtype", "field"])
def test_damage_is_seen(damage: str, make_store: MakeStore, tokenizer: Tokenizer, tmp_path: Path) -> None:
    make_store()
    data, sidecar = tmp_path / "text.tokens", tmp_path / "text.json"
    record = json.loads(sidecar.read_text())
    match damage:
        case "cut":
            data.write_bytes(data.read_bytes()[:-2])
        case "longer":
            data.write_bytes(data.read_bytes() + b"\0\0")
        case "empty":
            data.write_bytes(b"")
        case "gone":
            data.unlink()
        case "sidecar":
            sidecar.write_text('{"dtype": "uint')
        case "list":
            sidecar.write_text("[]")
        case "dtype":
            sidecar.write_text(json.dumps({**record, "dtype": "unknown"}))
        case "field":
            del record["n_tokens"]
            sidecar.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"text\.tokens is damaged .*delete .* to make it again") as caught:
        build_token_store(never, tokenizer, tmp_path / "text")
    assert "\n" not in str(caught.value)


def test_progress_is_told_in_megabytes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    events: list[Event] = []
    texts = ["some text " * 10_000] * 12
    build_token_store(lambda: [Document(text, "") for text in texts], tokenizer, tmp_path / "text", events.append)
    done = [event.done for event in events if isinstance(event, Progressed)]
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1.2)
    assert 3 <= len(done) <= 6
