"""Are merges learnt as the algorithm defines them, and as Hugging Face and rustbpe learn them, ties included?"""

from __future__ import annotations

import json
import random
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import regex
import rustbpe
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers as hf
from diptych.core.config import ALL_TEXT, TokenizerConfig, TokenizerKind
from diptych.core.events import Event, Message, Progressed
from diptych.tokenizers import bpe_training, counts
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.bpe_training import first_bytes, train_bpe
from diptych.tokenizers.kernels import memory as loops
from diptych.tokenizers.letters import BYTE_ORDER, to_letters
from diptych.tokenizers.splitting import PATTERNS, Split
from diptych.tokenizers.train import train_tokenizer

from .conftest import TEXTS, some_text, source_texts

many = settings(max_examples=120, deadline=None)
ASSIGNED = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=60)
REPETITIVE = st.text(st.sampled_from("ab c"), min_size=1, max_size=60)
RUNS = st.text(st.sampled_from("ab"), min_size=1, max_size=200)


def by_definition(texts: list[str], n_tokens: int, min_count: int = 2) -> tuple[list[tuple[int, int]], list[bytes]]:
    """Sennrich et al. 2016, algorithm 1, all pairs counted anew for each merge; what is spelt alike is one token."""
    pieces = [bytes([byte]) for byte in BYTE_ORDER]
    words = [
        [BYTE_ORDER.index(b) for b in chunk.encode()]
        for text in texts
        for chunk in regex.findall(PATTERNS["gpt2"], text)
    ]
    merges: list[tuple[int, int]] = []
    while len(pieces) < n_tokens:
        counts = Counter(pair for word in words for pair in pairwise(word))
        if not counts or max(counts.values()) < min_count:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        joined = pieces[best[0]] + pieces[best[1]]
        if joined not in pieces:
            pieces.append(joined)
        token = pieces.index(joined)
        for word in words:
            i = 0
            while i < len(word) - 1:
                if (word[i], word[i + 1]) == best:
                    word[i : i + 2] = [token]
                i += 1
    return merges, pieces


def by_hugging_face(texts: list[str], n_tokens: int, pattern: str | None = None) -> hf.Tokenizer:
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pattern is not None:
        steps = [
            hf.pre_tokenizers.Split(hf.Regex(pattern), "isolated"),
            hf.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
        tokenizer.pre_tokenizer = hf.pre_tokenizers.Sequence(steps)
    trainer = hf.trainers.BpeTrainer(
        vocab_size=n_tokens,
        min_frequency=2,
        initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def assert_equals_hugging_face(ours: BytePairTokenizer, theirs: hf.Tokenizer) -> None:
    """Vocabulary and merges alike, in order."""
    values = hf_model(theirs)
    names = [to_letters(piece) for piece in ours.pieces[:-1]]
    assert names == sorted(values["vocab"], key=values["vocab"].__getitem__)
    assert ours.merges is not None
    assert [[names[left], names[right]] for left, right in ours.merges] == values["merges"]


def hf_model(tokenizer: hf.Tokenizer) -> dict:
    return json.loads(tokenizer.to_str())["model"]


@many
@given(texts=st.lists(REPETITIVE | RUNS | ASSIGNED, min_size=1, max_size=6), min_count=st.integers(1, 3))
def test_training_follows_its_definition(texts: list[str], min_count: int) -> None:
    if any(texts):
        ours = train_bpe(texts, 257 + 40, min_count=min_count)
        merges, pieces = by_definition(texts, 256 + 40, min_count)
        assert ours.merges == merges
        assert ours.pieces[:-1] == pieces


@many
@given(texts=st.lists(REPETITIVE | RUNS, min_size=1, max_size=6))
def test_training_equals_hugging_face_on_repetitions(texts: list[str]) -> None:
    assert_equals_hugging_face(train_bpe(texts, 257 + 60), by_hugging_face(texts, 256 + 60))


@pytest.mark.parametrize("n_tokens", [257, 300, 380, 5000])
def test_training_equals_hugging_face_on_many_scripts(n_tokens: int) -> None:
    """The last of them is more than the text gives."""
    assert_equals_hugging_face(train_bpe(TEXTS, n_tokens + 1), by_hugging_face(TEXTS, n_tokens))


@pytest.mark.parametrize("seed", range(20))
def test_no_token_is_made_twice(seed: int) -> None:
    """Between ends that no token crosses yet, equal bytes are cut alike: a token is made everywhere at once."""
    generator = random.Random(seed)
    words = ["".join(generator.choices("ab", [3, 1], k=generator.randint(2, 40))) for _ in range(60)]
    ours = train_bpe([" ".join(words)], 800)
    assert ours.merges is not None
    assert len(ours.merges) == len(ours.pieces) - 257 > 50
    assert len(set(ours.pieces)) == len(ours.pieces)
    assert_equals_hugging_face(ours, by_hugging_face([" ".join(words)], 799))


@pytest.mark.parametrize("name", ["gpt2", "llama3", "o200k"])
def test_training_equals_hugging_face_on_source_code(name: str) -> None:
    texts = source_texts(1_500_000)
    pattern = None if name == "gpt2" else PATTERNS[name]
    ours = train_bpe(texts, 4001, split=Split.named(name))
    assert_equals_hugging_face(ours, by_hugging_face(texts, 4000, pattern))


@pytest.mark.parametrize("name", ["gpt2", "llama3"])
def test_training_equals_rustbpe_on_source_code(name: str) -> None:
    """rustbpe merges down to pairs that occur once, takes bytes in their own order, and makes no token twice here."""
    texts = [*source_texts(1_000_000), *TEXTS]
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter(texts), 6000, pattern=PATTERNS[name])
    ranks = theirs.get_mergeable_ranks()
    ours = train_bpe(texts, 6000, split=Split.named(name), special_tokens=(), min_count=1, byte_order=range(256))
    assert len({bytes(piece) for piece, _ in ranks}) == 6000
    assert ours.pieces == [bytes(piece) for piece, _ in sorted(ranks, key=lambda item: item[1])]


@pytest.mark.parametrize("text", ["ab cd ab cd", "ba ab dc cd", "abab abab xyxy xyxy", "zy zy yz yz zz zz"])
def test_ties_equal_rustbpe(text: str) -> None:
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter([text]), 300, pattern=PATTERNS["gpt2"])
    ours = train_bpe([text], 300, special_tokens=(), min_count=1, byte_order=range(256))
    assert ours.pieces == [bytes(piece) for piece, _ in sorted(theirs.get_mergeable_ranks(), key=lambda item: item[1])]


def test_another_pattern_is_learnt_from_through_the_library() -> None:
    split = Split.named(r"\d|[^\d\s]+|\s")
    texts = source_texts(60_000)
    assert split.rule is None
    assert_equals_hugging_face(train_bpe(texts, 900, split=split), by_hugging_face(texts, 899, split.patterns[0]))


def test_chunks_of_megabytes_are_learnt_from() -> None:
    texts = ["a" * 1_000_003, "ab" * 300_000, " " * 70_001]
    ours = train_bpe(texts, 400)
    assert b"a" * 524_288 in ours.pieces
    assert ours.decode_bytes(ours.encode(texts[0])) == texts[0].encode()


@pytest.mark.parametrize("vocab_size", [256, 0, -3])
def test_a_vocabulary_without_room_for_bytes_is_refused(vocab_size: int) -> None:
    with pytest.raises(ValueError, match=f"at least 257 tokens .* not {vocab_size}"):
        train_bpe(TEXTS, vocab_size)


def test_the_smallest_vocabulary_is_bytes() -> None:
    tokenizer = train_bpe(TEXTS, 257)
    assert tokenizer.vocab_size == 257
    assert tokenizer.merges == []
    assert len(tokenizer.encode("naïve")) == 6


def test_a_text_without_pairs_gives_a_smaller_vocabulary_and_says_so() -> None:
    events: list[Event] = []
    tokenizer = train_bpe(["abab"], 400, on_event=events.append)
    assert tokenizer.vocab_size == 258  # ab, once; then abab is a single pair
    messages = [event.text for event in events if isinstance(event, Message)]
    assert len(messages) == 1
    assert "258 tokens, not 400" in messages[0]


def test_no_text_is_refused() -> None:
    for texts in ([""], [], ["", ""]):
        with pytest.raises(ValueError, match="no text to learn from"):
            train_bpe(texts, 300)


@pytest.mark.parametrize("byte_order", [range(255), [0] * 256, [*range(255), 256]])
def test_a_byte_order_that_is_none_is_refused(byte_order: list[int]) -> None:
    with pytest.raises(ValueError, match="each of the 256 bytes once"):
        train_bpe(TEXTS, 300, byte_order=byte_order)


def test_only_the_first_bytes_are_learnt_from() -> None:
    expected = train_bpe(["abab" * 20], 300).merges
    assert train_bpe(["abab" * 20 + "é" + "xyxy" * 90], 300, max_bytes=81).merges == expected
    assert train_bpe(["abab" * 20, "xyxy" * 90], 300, max_bytes=80).merges == expected


def test_special_tokens_come_last_and_text_never_gives_them() -> None:
    special = ["<|endoftext|>", "<|pad|>", "<|pad|>", "the"]
    tokenizer = train_bpe(TEXTS, 400, special_tokens=special)
    assert dict(tokenizer.special_tokens) == {"<|endoftext|>": 397, "<|pad|>": 398, "the": 399}
    assert b"the" in tokenizer.pieces[:397]
    assert 399 not in tokenizer.encode("the then<|pad|>")


def interrupting(texts: list[str], after: int) -> Iterator[str]:
    """Ctrl-C while a text is read, as the terminal sends it."""
    for i, text in enumerate(texts):
        if i == after:
            signal.raise_signal(signal.SIGINT)
        yield text


def test_training_goes_on_after_an_interruption_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpe_training, "SLAB", 2000)
    texts = [some_text(seed, 300) for seed in range(12)]
    expected = train_bpe(texts, 400)
    path = tmp_path / "counts.npz"
    for after in (2, 7):
        with pytest.raises(KeyboardInterrupt):
            train_bpe(interrupting(texts, after), 400, checkpoint=path, fingerprint="x")
        assert path.exists()
    events: list[Event] = []
    again = train_bpe(texts, 400, checkpoint=path, fingerprint="x", on_event=events.append)
    assert any("going on after" in event.text for event in events if isinstance(event, Message))
    assert again.merges == expected.merges
    assert again.pieces == expected.pieces
    assert not path.exists()


def test_counts_are_kept_where_merging_is_interrupted(tmp_path: Path) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, Progressed) and event.what == "training the tokenizer":
            raise KeyboardInterrupt

    read = []

    def watched() -> Iterator[str]:
        for text in TEXTS:
            read.append(text)
            yield text

    path = tmp_path / "counts.npz"
    with pytest.raises(KeyboardInterrupt):
        train_bpe(watched(), 380, checkpoint=path, fingerprint="x", on_event=stop)
    assert path.exists()
    events: list[Event] = []
    again = train_bpe(TEXTS, 380, checkpoint=path, fingerprint="x", on_event=events.append)
    assert any("going on after" in event.text for event in events if isinstance(event, Message))
    assert again.merges == train_bpe(TEXTS, 380).merges


@pytest.mark.parametrize("change", [{"fingerprint": "y"}, {"max_bytes": 9000}, {"split": Split.named("o200k")}])
def test_counts_of_something_else_are_not_gone_on_from(
    change: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpe_training, "SLAB", 2000)
    path = tmp_path / "counts.npz"
    with pytest.raises(KeyboardInterrupt):
        train_bpe(interrupting(TEXTS, 9), 380, checkpoint=path, fingerprint="x")
    arguments = {"fingerprint": "x", **change}
    again = train_bpe(TEXTS, 380, checkpoint=path, **arguments)
    assert again.merges == train_bpe(TEXTS, 380, **change).merges


def test_tokenizers_train_side_by_side() -> None:
    """Training in one thread does not hold up another."""
    expected = [train_bpe(TEXTS[i:], 380).merges for i in range(3)]
    results: dict[int, object] = {}

    def work(i: int) -> None:
        results[i] = train_bpe(TEXTS[i:], 380).merges

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results[i] for i in range(3)] == expected


def test_only_compiling_is_announced_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting and merging may take long: while they do, other threads get on, and nothing is said to be compiled."""
    waiting: list[str] = []

    def watch(module: ModuleType, name: str) -> None:
        loop = getattr(module, name)

        def watched(*arguments: Any) -> Any:
            if arguments[0].size > 10_000:  # text, or what it was laid out as; not the first call on nothing
                with ThreadPoolExecutor(1) as other:
                    free = other.submit(loops._first.acquire, blocking=False).result()
                    waiting.append(f"{name} {free}")
                    if free:
                        other.submit(loops._first.release).result()
            return loop(*arguments)

        monkeypatch.setattr(module, name, watched)

    watch(counts, "scan")
    watch(bpe_training, "learn_merges")
    train_bpe(source_texts(100_000), 500)
    assert set(waiting) == {"scan True", "learn_merges True"}


@settings(deadline=None)
@given(texts=st.lists(st.text("aé日🙂", max_size=8), max_size=6), size=st.integers(1, 60))
def test_only_the_first_bytes_are_read_and_no_character_is_halved(texts: list[str], size: int) -> None:
    whole = "".join(texts).encode()
    read = "".join(first_bytes(texts, size)).encode()
    assert whole.startswith(read) and len(read) <= size
    assert len(read) == len(whole[:size].decode("utf-8", "ignore").encode())
    assert list(first_bytes(texts, None)) == texts


@pytest.mark.parametrize(
    ("kind", "size", "expected"), [("bpe", ALL_TEXT, None), ("sennrich", ALL_TEXT, None), ("bpe", 500, 500 / 1e6)]
)
def test_the_progress_names_no_size_that_nobody_knows(kind: TokenizerKind, size: int, expected: float | None) -> None:
    events: list[Event] = []
    train_tokenizer(TEXTS, TokenizerConfig(kind=kind, vocab_size=500, train_bytes=size), events.append)
    reading = [event for event in events if isinstance(event, Progressed) and event.what.startswith("reading")]
    assert reading and {event.total for event in reading} == {expected}
