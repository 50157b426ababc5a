"""Conversations: read whole or refused by line, split by a hash, packed without a cut, and only answers count."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.config import DataConfig
from diptych.core.events import Event, Message
from diptych.data.chat_store import ConversationStore, ConversationStream, build_conversation_store, pack
from diptych.data.conversations import heldout_conversations, read_conversations, training_conversations
from diptych.data.sources import Document
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.chat import DEFAULT_SPECIAL_TOKENS


def talk(*contents: str) -> list[dict[str, str]]:
    """A conversation of user and assistant in turns."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]


TALKS = [talk(f"question {i}", f"answer {'!' * i}") for i in range(40)]


@pytest.fixture(scope="module")
def chat_tokenizer() -> Tokenizer:
    return train_bpe(
        ["question answer user assistant"] * 9, 290, special_tokens=("<|endoftext|>", *DEFAULT_SPECIAL_TOKENS)
    )


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "talks.jsonl"
    path.write_text("".join(json.dumps({"messages": t, "id": i}) + "\n" for i, t in enumerate(TALKS)))
    return path


def test_json_lines_parquet_and_bare_lists_give_the_same(lines: Path, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"messages": TALKS, "id": list(range(40))})
    folder = tmp_path / "folder"
    folder.mkdir()
    pyarrow.parquet.write_table(table, folder / "talks.parquet")
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps(t) + "\n" for t in TALKS))
    for source in (lines, folder, bare):
        assert [json.loads(c.text) for c in read_conversations(str(source), "messages")] == TALKS


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"messages": [', r"talks\.jsonl, line 2: no valid JSON"),
        ('{"dialog": []}', r"line 2: there is no field messages; set data\.messages_field to one of: dialog"),
        ('{"messages": []}', "line 2: a conversation is a list of messages"),
        ('{"messages": "hello"}', "line 2: a conversation is a list"),
        ('{"messages": [{"role": "user"}]}', "line 2: a message needs role and content"),
        ('{"messages": [{"role": "user", "content": null}]}', "line 2: a message needs role and content, both text"),
        ('{"messages": ["hi"]}', "line 2: a message needs"),
        ("7", "line 2: expected a JSON object or a list of messages, found int"),
    ],
)
def test_a_bad_record_is_named_in_one_line(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"
    path.write_text(json.dumps({"messages": TALKS[0]}) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=says) as caught:
        list(read_conversations(str(path), "messages"))
    assert "\n" not in str(caught.value)


def test_what_holds_no_conversations_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"holds no conversations: .*\.jsonl"):
        list(read_conversations(str(tmp_path / "a.txt"), "messages"))
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        list(read_conversations(str(tmp_path / "none"), "messages"))
    with pytest.raises(ValueError, match="holds no conversation to train on"):
        list(training_conversations(DataConfig(source=(str(tmp_path),))))


def test_sides_share_nothing_and_lose_nothing(lines: Path) -> None:
    config = DataConfig(source=(str(lines),), format="chat", heldout_fraction=0.3)
    train, heldout = (sorted(c.text for c in side(config)) for side in (training_conversations, heldout_conversations))
    assert not set(train) & set(heldout) and len(heldout) > 3
    assert sorted(train + heldout) == sorted(json.dumps(t) for t in TALKS)
    few = list(training_conversations(DataConfig(source=(str(lines),), heldout_fraction=0.3, max_bytes=500)))
    assert 0 < sum(len(c.text) for c in few) <= 500 and {c.text for c in few} < set(train)


def store_of(lengths: list[int]) -> ConversationStore:
    """Conversations whose tokens are their number, of which all but the first count."""
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.repeat(np.arange(len(lengths)), lengths) + 1
    counted = np.ones(len(tokens), np.bool_)
    counted[starts[:-1]] = False
    ones = np.ones(len(lengths) + 1, np.int64)
    return ConversationStore(tokens=tokens, counted=counted, starts=starts, token_lengths=ones, eos_id=0, n_bytes=0)


LENGTHS = st.lists(st.integers(2, 30), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(lengths=LENGTHS, width=st.integers(30, 60))
def test_rows_hold_every_item_once_and_are_no_more_than_twice_as_many_as_needed(lengths: list[int], width: int) -> None:
    items = [10 * i for i in range(len(lengths))]
    rows = pack(items, np.array(lengths), width)
    assert sorted(item for row in rows for item in row) == items
    sizes = [sum(lengths[item // 10] for item in row) for row in rows]
    assert max(sizes) <= width
    # All rows but one are more than half full, or two of them would have been one.
    assert sum(size <= width / 2 for size in sizes) <= 1


@settings(max_examples=50, deadline=None)
@given(lengths=LENGTHS, seed=st.integers(0, 3), steps=st.permutations(range(6)), ranks=st.sampled_from([1, 2, 3]))
def test_a_batch_depends_on_its_step_alone_and_conversations_stay_apart(
    lengths: list[int], seed: int, steps: list[int], ranks: int
) -> None:
    store = store_of(lengths)
    streams = [ConversationStream(store, 31, seed=seed) for _ in range(2)]
    in_order = [streams[0].batch(step, 6) for step in range(6)]
    for step in steps:
        parts = [streams[1].batch(step, 6, rank, ranks) for rank in range(ranks)]
        for name in ("x", "counted", "documents", "positions", "sample_ids"):
            joined = torch.cat([getattr(part, name) for part in parts])
            assert torch.equal(joined, getattr(in_order[step], name))
        assert sum(part.n_bytes for part in parts) == in_order[step].n_bytes == int(in_order[step].counted.sum())  # type: ignore[union-attr]
    epoch = [streams[0].batch(i, 1) for i in range(len(streams[0]))]
    # Of every conversation all but its first token is predicted once in an epoch.
    assert sum(int(batch.counted.sum()) for batch in epoch) == sum(lengths) - len(lengths)  # type: ignore[union-attr]
    for batch in epoch:
        assert batch.documents is not None and batch.positions is not None and batch.counted is not None
        for token, document, position in zip(batch.x[0], batch.documents[0], batch.positions[0], strict=True):
            same = batch.documents[0] == document
            assert (batch.x[0][same] == token).all()
            assert int(position) == 0 or bool(batch.positions[0][same][int(position) - 1] == position - 1)
        predicted, given_ = batch.x[0, 1:][batch.counted[0]], batch.x[0, :-1][batch.counted[0]]
        assert torch.equal(predicted, given_)  # nothing is predicted from another conversation


def test_long_conversations_are_left_out_and_counted() -> None:
    events: list[Event] = []
    stream = ConversationStream(store_of([5, 9, 10, 20]), 8, on_event=events.append)
    assert sorted(i for row in stream.rows for i in row) == [0, 1]
    (message,) = events
    assert (
        isinstance(message, Message) and "2 of 4 conversations are longer than data.sequence_length=8" in message.text
    )
    with pytest.raises(ValueError, match=r"every conversation is longer than data\.sequence_length=3 .*shortest has 5"):
        ConversationStream(store_of([5, 9]), 3)


def documents(*talks: list[dict[str, str]]) -> list[Document]:
    return [Document(json.dumps(t), f"talk {i}") for i, t in enumerate(talks)]


def test_only_answers_and_their_ends_count(chat_tokenizer: Tokenizer, tmp_path: Path) -> None:
    talks = [talk("a question", "an answer", "more", "less"), talk("only", "one")]
    store = build_conversation_store(lambda: documents(*talks), chat_tokenizer, None, tmp_path / "train")
    text = chat_tokenizer.decode(store.tokens[store.counted].tolist())
    assert text == "an answer<|im_end|>less<|im_end|>one<|im_end|>"
    assert store.n_bytes == len("an answerlessone")
    assert store.n_documents == 2 and store.n_tokens == len(store.counted)
    batch = ConversationStream(store, 200, shuffle=False).batch(0, 1)
    assert batch.counted is not None
    assert chat_tokenizer.decode(batch.x[0, 1:][batch.counted[0]].tolist()) == text
    assert batch.n_bytes == store.n_bytes
    whole = chat_tokenizer.decode(batch.x[0].tolist())
    assert whole.startswith("<|im_start|>user\na question<|im_end|>\n<|im_start|>assistant\nan answer<|im_end|>\n")
    assert whole.endswith("<|endoftext|>")  # the rest of the row


def test_a_finished_store_is_used_again_and_another_template_makes_it_again(
    chat_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    def never() -> list[Document]:
        raise AssertionError("the conversations are read again")

    path, events = tmp_path / "train", list[Event]()
    first = build_conversation_store(lambda: documents(*TALKS), chat_tokenizer, None, path)
    again = build_conversation_store(never, chat_tokenizer, None, path)
    assert np.array_equal(first.tokens, again.tokens) and np.array_equal(first.counted, again.counted)
    turns = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|im_end|>{% endfor %}"
    template = turns + "{% if add_generation_prompt %}assistant: {% endif %}"
    other = build_conversation_store(lambda: documents(*TALKS), chat_tokenizer, template, path, events.append)
    assert other.n_tokens < first.n_tokens and any("made again" in getattr(e, "text", "") for e in events)
    for part in ("tokens", "counted", "starts"):
        file = path.with_suffix(f".{part}")
        data = file.read_bytes()
        file.write_bytes(data[:-8])
        with pytest.raises(ValueError, match=r"damaged .*delete"):
            build_conversation_store(never, chat_tokenizer, template, path)
        file.write_bytes(data)


def test_conversations_without_an_answer_are_left_out_and_a_refusal_names_its_place(
    chat_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    events: list[Event] = []
    store = build_conversation_store(
        lambda: documents(talk("one", "two"), talk("alone")), chat_tokenizer, None, tmp_path / "a", events.append
    )
    assert store.n_documents == 1
    assert any("1 conversations for a hold no answer" in getattr(e, "text", "") for e in events)
    with pytest.raises(ValueError, match="none of the conversations for b"):
        build_conversation_store(lambda: documents(talk("alone")), chat_tokenizer, None, tmp_path / "b")
    refusing = "{{ raise_exception('no system message') }}"
    with pytest.raises(ValueError, match=r"talk 0: .*no system message"):
        build_conversation_store(lambda: documents(TALKS[0]), chat_tokenizer, refusing, tmp_path / "c")
    assert not list(tmp_path.glob("c.*"))
