"""Does byte-pair encoding follow its definition, and agree with Hugging Face's `tokenizers`?"""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tokenizers as hf
from diptych.core.events import Event, Message
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.splitting import BYTE_ORDER, GPT2_SPLIT, to_letters

from .conftest import TEXTS, some_text

many = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
# No characters that are newer than one of the two Unicode tables, and no surrogates.
ASSIGNED = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=60)
REPETITIVE = st.text(st.sampled_from("ab c"), min_size=1, max_size=60)


def by_definition(texts: list[str], n_merges: int) -> list[tuple[int, int]]:
    """Sennrich et al. 2016, algorithm 1, all pairs counted anew for each merge."""
    words = [[BYTE_ORDER.index(b) for b in chunk.encode()] for text in texts for chunk in GPT2_SPLIT.findall(text)]
    merges: list[tuple[int, int]] = []
    for new in range(256, 256 + n_merges):
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts or max(counts.values()) < 2:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [new]
                i += 1
    return merges


def by_hugging_face(texts: list[str], vocab_size: int) -> list[str]:
    """Their trainer's vocabulary in order of id."""
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = hf.pre_tokenizers.ByteLevel.alphabet()
    trainer = hf.trainers.BpeTrainer(
        vocab_size=vocab_size - 1, min_frequency=2, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)


def reference(tokenizer: BytePairTokenizer, folder: Path) -> hf.Tokenizer:
    """The file that we wrote, as Hugging Face reads it; special tokens in text are text, as with us."""
    tokenizer.save(folder / "tokenizer.json")
    theirs = hf.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    return theirs


@pytest.fixture(scope="module")
def theirs(bpe: BytePairTokenizer, tmp_path_factory: pytest.TempPathFactory) -> hf.Tokenizer:
    return reference(bpe, tmp_path_factory.mktemp("hf"))


@many
@given(texts=st.lists(REPETITIVE | ASSIGNED, min_size=1, max_size=6))
def test_training_follows_its_definition(texts: list[str]) -> None:
    if any(texts):
        assert train_bpe(texts, 257 + 40).merges == by_definition(texts, 40)


@many
@given(texts=st.lists(REPETITIVE, min_size=1, max_size=6))
def test_training_equals_hugging_face_on_repetitions(texts: list[str]) -> None:
    ours = train_bpe(texts, 257 + 40)
    assert [to_letters(piece) for piece in ours.pieces[:-1]] == by_hugging_face(texts, 257 + 40)


def test_training_equals_hugging_face(bpe: BytePairTokenizer) -> None:
    assert [to_letters(piece) for piece in bpe.pieces[:-1]] == by_hugging_face(TEXTS, 380)


def test_training_equals_hugging_face_on_source_code() -> None:
    texts = [Path(module.__file__ or "").read_text() for module in (json.decoder, json.encoder, json.scanner)]
    ours = train_bpe(texts, 1200)
    assert ours.vocab_size == 1200
    assert [to_letters(piece) for piece in ours.pieces[:-1]] == by_hugging_face(texts, 1200)


@many
@given(text=ASSIGNED | REPETITIVE | st.integers(0, 10**6).map(lambda seed: some_text(seed, 12)))
def test_ids_equal_hugging_face(bpe: BytePairTokenizer, theirs: hf.Tokenizer, text: str) -> None:
    assert bpe.encode(text).tolist() == theirs.encode(text).ids


@pytest.mark.parametrize("text", ["<|endoftext|>", "a<|endoftext|>b", "aaaa" * 300, "the" * 200, " " * 500, "é" * 90])
def test_ids_equal_hugging_face_on_odd_texts(bpe: BytePairTokenizer, theirs: hf.Tokenizer, text: str) -> None:
    assert bpe.encode(text).tolist() == theirs.encode(text).ids


@many
@given(text=st.text(st.sampled_from("the naï"), min_size=2, max_size=120))
def test_long_and_short_chunks_merge_alike(bpe: BytePairTokenizer, text: str) -> None:
    ids = [bpe.byte_ids[byte] for byte in text.encode()]
    assert bpe._merge_long(list(ids)) == bpe._merge_short(list(ids))


def test_the_special_token_has_the_same_id_there(bpe: BytePairTokenizer, theirs: hf.Tokenizer) -> None:
    assert theirs.token_to_id("<|endoftext|>") == bpe.eos_id == theirs.get_vocab_size() - 1
    theirs.encode_special_tokens = False
    assert theirs.encode("<|endoftext|>").ids == [bpe.eos_id]
    theirs.encode_special_tokens = True
    assert theirs.decode(bpe.encode("the naïve 🙂").tolist()) == "the naïve 🙂"


def test_files_that_hugging_face_writes_are_read(bpe: BytePairTokenizer, theirs: hf.Tokenizer, tmp_path: Path) -> None:
    theirs.post_processor = hf.processors.ByteLevel(trim_offsets=False)
    theirs.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path).encode(TEXTS[0]).tolist() == bpe.encode(TEXTS[0]).tolist()


def test_merges_written_as_one_string_are_read(bpe: BytePairTokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path / "tokenizer.json")
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    values["model"]["merges"] = [" ".join(merge) for merge in values["model"]["merges"]]
    del values["model"]["type"]  # GPT-2's own file has none
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    again = load_tokenizer(tmp_path)
    assert isinstance(again, BytePairTokenizer)
    assert again.merges == bpe.merges


@pytest.mark.parametrize("vocab_size", [256, 0, -3])
def test_a_vocabulary_without_room_for_bytes_is_refused(vocab_size: int) -> None:
    with pytest.raises(ValueError, match=f"at least 257 tokens .* not {vocab_size}"):
        train_bpe(TEXTS, vocab_size)


def test_the_smallest_vocabulary_is_bytes() -> None:
    tokenizer = train_bpe(TEXTS, 257)
    assert tokenizer.vocab_size == 257
    assert len(tokenizer.encode("naïve")) == 6


def test_a_text_without_pairs_gives_a_smaller_vocabulary_and_says_so() -> None:
    events: list[Event] = []
    tokenizer = train_bpe(["abab"], 400, on_event=events.append)
    assert tokenizer.vocab_size == 258  # ab, once; then abab is a single pair
    messages = [event.text for event in events if isinstance(event, Message)]
    assert len(messages) == 1
    assert "258 tokens, not 400" in messages[0]


def test_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no text to learn from"):
        train_bpe([""], 300)


def test_only_the_first_bytes_are_learnt_from() -> None:
    assert (
        train_bpe(["abab" * 20 + "é" + "xyxy" * 90], 300, max_bytes=81).merges == train_bpe(["abab" * 20], 300).merges
    )
    assert train_bpe(["abab" * 20, "xyxy" * 90], 300, max_bytes=80).merges == train_bpe(["abab" * 20], 300).merges
