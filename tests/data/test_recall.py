"""Can the recall task be solved, exactly, by whoever reads all of it, and by nobody else?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.core.config import DataConfig, RecallConfig
from diptych.data.recall import HAYSTACK, HELD_OUT, RecallStream, key_words, recall_tokenizer, value_words
from diptych.tokenizers.simple import ByteTokenizer

SMALL = RecallConfig(n_needles=4, n_queries=3, n_keys=6, n_values=5)


def stream_of(config: RecallConfig, length: int, *, seed: int = 0, purpose: str = "train") -> RecallStream:
    data = DataConfig(format="recall", sequence_length=length, recall=config)
    return RecallStream(data, recall_tokenizer(config), seed=seed, purpose=purpose)


@st.composite
def tasks(draw: st.DrawFn) -> tuple[RecallConfig, int]:
    queries = draw(st.integers(1, 5))
    needles = draw(st.integers(queries, 8))
    nearest = draw(st.integers(2, 20))
    config = RecallConfig(
        n_needles=needles,
        n_queries=queries,
        n_keys=draw(st.integers(needles, 40)),
        n_values=draw(st.integers(2, 40)),
        nearest=nearest,
    )
    return config, 2 * (needles + queries) + nearest - 2 + draw(st.integers(0, 60))


@settings(max_examples=60, deadline=None)
@given(task=tasks(), seed=st.integers(0, 9))
def test_a_reader_of_the_text_answers_every_question(task: tuple[RecallConfig, int], seed: int) -> None:
    config, length = task
    stream, tokenizer = stream_of(config, length, seed=seed), recall_tokenizer(config)
    batch, documents = stream.batch(1, 3), stream.documents(3, 3)
    assert batch.x.shape == (3, length + 1) and batch.sample_ids.tolist() == [3, 4, 5]
    assert batch.counted is not None and batch.counted.shape == (3, length)
    assert torch.equal(batch.x, documents.tokens)
    keys, values = set(key_words(config)), set(value_words(config))
    for row, counted, distances in zip(batch.x.tolist(), batch.counted, documents.distances.tolist(), strict=True):
        words = [tokenizer.decode([token]) for token in row]
        assert words[0] == "<|endoftext|>"
        places = [place for place, word in enumerate(words) if word in keys]
        hidden, asked = places[: config.n_needles], places[config.n_needles :]
        assert len(asked) == config.n_queries and len({words[place] for place in hidden}) == config.n_needles
        known = {words[place]: place for place in hidden}
        for place, distance in zip(asked, distances, strict=True):
            needle = known[words[place]]
            assert words[place + 1] == words[needle + 1] and words[needle + 1] in values
            assert distance == place - needle >= config.nearest
        # The loss counts the answers, and nothing else.
        assert counted.nonzero().flatten().tolist() == asked
        around = [word for word in words[1:] if word not in keys | values]
        assert set(around) <= set(HAYSTACK) and len(around) == length - 2 * (config.n_needles + config.n_queries)


def test_the_text_reads_as_text() -> None:
    stream, tokenizer = stream_of(SMALL, 40), recall_tokenizer(SMALL)
    text = tokenizer.decode(stream.batch(0, 1).x[0, 1:].tolist())
    assert tokenizer.encode(text).tolist() == stream.batch(0, 1).x[0, 1:].tolist()
    assert any(piece in text for piece in (" the grass", " is green", " the sky", " the sun", " is yellow"))


def test_words_differ_and_are_one_token_each() -> None:
    config = RecallConfig(n_keys=80, n_values=80)
    words = [*key_words(config), *value_words(config), *dict.fromkeys(HAYSTACK)]
    assert len(set(words)) == len(words)
    assert all(len(ids) == 1 for ids in recall_tokenizer(config).encode_batch(words))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_batch_depends_on_its_step_alone_and_ranks_share_it(ranks: int) -> None:
    first, second = stream_of(SMALL, 40), stream_of(SMALL, 40)
    in_order = [first.batch(step, 6) for step in range(4)]
    for step in (2, 0, 3, 1):
        parts = [second.batch(step, 6, rank, ranks) for rank in range(ranks)]
        assert torch.equal(torch.cat([part.x for part in parts]), in_order[step].x)
        assert torch.equal(torch.cat([part.sample_ids for part in parts]), in_order[step].sample_ids)
    with pytest.raises(ValueError, match="batch_size=5 is no multiple of the 2"):
        first.batch(0, 5, 0, 2)


def test_seeds_and_purposes_give_other_documents() -> None:
    streams = [(0, "train"), (1, "train"), (0, HELD_OUT)]
    seen = {tuple(row) for s, p in streams for row in stream_of(SMALL, 60, seed=s, purpose=p).batch(0, 50).x.tolist()}
    assert len(seen) == 150


def test_every_place_pairing_and_question_is_as_likely() -> None:
    config = RecallConfig(n_needles=2, n_queries=1, n_keys=3, n_values=4)
    documents = stream_of(config, 8).documents(0, 6000)  # two needles in six places before the one question
    tokens = documents.tokens
    is_key = torch.isin(tokens[:, :7], stream_of(config, 8).words.keys)
    arrangements = (is_key.long() * 2 ** torch.arange(7)).sum(1).unique(return_counts=True)[1]
    assert len(arrangements) == 6  # ways to lay 2 dominoes on a row of 6: 4 over 2
    answers = documents.answers[:, 0].unique(return_counts=True)[1]
    asked = tokens[:, 7].unique(return_counts=True)[1]
    for counts in (arrangements, answers, asked):
        expected = 6000 / len(counts)
        assert ((counts - expected).abs() < 5 * expected**0.5).all()


def test_an_answer_is_independent_of_the_other_values() -> None:
    config = RecallConfig(n_needles=2, n_queries=2, n_keys=2, n_values=2)
    first, second = stream_of(config, 8).documents(0, 4000).answers.T
    assert abs(float((first == second).double().mean()) - 0.5) < 0.04  # five standard deviations


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_needles": 40}, "n_queries, n_needles and n_keys"),
        ({"n_queries": 9}, "n_queries, n_needles and n_keys"),
        ({"n_queries": 0}, "n_queries, n_needles and n_keys"),
        ({"n_values": 1}, "at least 2"),
        ({"nearest": 1}, "at least 2"),
    ],
)
def test_impossible_tasks_are_refused(change: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(RecallConfig(), **change)


def test_what_does_not_fit_says_what_to_do() -> None:
    assert stream_of(SMALL, 14).batch(0, 1).x.shape == (1, 15)
    with pytest.raises(ValueError, match=r"data\.sequence_length=13; it must be at least 14"):
        stream_of(SMALL, 13)
    with pytest.raises(ValueError, match=r"it must be at least 24"):
        stream_of(replace(SMALL, nearest=12), 23)
    assert stream_of(replace(SMALL, nearest=12), 24).documents(0, 1).distances.min() >= 12
    with pytest.raises(ValueError, match=r"n_values=500 is more than the \d+ words"):
        stream_of(replace(SMALL, n_values=500), 40)
    with pytest.raises(ValueError, match=r"leave \[tokenizer\] out"):
        RecallStream(DataConfig(format="recall", sequence_length=40, recall=SMALL), ByteTokenizer())
