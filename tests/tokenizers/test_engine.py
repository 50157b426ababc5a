"""Does the encoder follow ranked merges exactly, at every length of chunk, and as tiktoken does?"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from diptych.tokenizers import engine
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.engine import ChunkEncoder, MergeTable
from diptych.tokenizers.kernels.encoding import MAX_LENGTH, MAX_TOKENS, REMEMBERED, SHORT
from diptych.tokenizers.splitting import Split

from .conftest import merged_by_definition, odd_text, pairs_by_definition, random_pieces, some_text

WHOLE = Split((r"(?s).+",))
"""The whole text is one chunk."""
THRESHOLDS = [1, 2, 7, 8, 9, 15, 16, 17, 18, 24, 25, SHORT - 1, SHORT, SHORT + 1, REMEMBERED, REMEMBERED + 1, 1000]


def of_ranks(pieces: Sequence[bytes], split: Split = WHOLE) -> BytePairTokenizer:
    return BytePairTokenizer(pieces, None, split, {}, eos=None)


def tiktoken_of(pieces: Sequence[bytes], pattern: str = r"(?s).+") -> tiktoken.Encoding:
    ranks = {piece: rank for rank, piece in enumerate(pieces) if piece}
    return tiktoken.Encoding("theirs", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})


@pytest.mark.parametrize("seed", range(6))
def test_any_ranks_give_what_the_definition_and_tiktoken_give(seed: int) -> None:
    """Ranks in an order at random, by which a later merge may come first, and tokens that no merges reach."""
    generator = random.Random(seed)
    alphabet = [b"ab", b"abc", b"ab\xc3\xa9", bytes(range(97, 110)), b"a", b"0 \n"][seed]
    pieces = random_pieces(generator, 420 if seed != 4 else 262, alphabet, longest=40)
    strangers = {generator.randbytes(generator.randint(2, 9)) for _ in range(30)} - set(pieces)
    pieces += sorted(strangers)
    ids = {piece: token for token, piece in enumerate(pieces)}
    pairs = pairs_by_definition(pieces)
    ours = of_ranks(pieces)
    letters = bytes(b for b in alphabet if b < 0x80).decode() + ("é" if 0xC3 in alphabet else "")
    texts = ["".join(generator.choices(letters, k=length)) for length in THRESHOLDS for _ in range(8)]
    texts += [piece.decode() for piece in pieces if piece.isascii()]
    theirs = tiktoken_of(pieces)
    for text in texts:
        got = ours.encode(text).tolist()
        assert got == theirs.encode_ordinary(text), text
        if len(text) <= 300:
            data = text.encode()
            expected = [ids[data]] if data in ids else merged_by_definition(data, ids, pairs)
            assert got == expected, text
    assert [ours.encode(text).tolist() for text in texts] == [theirs.encode_ordinary(text) for text in texts]


def merges_of(pieces: Sequence[bytes], generator: random.Random) -> list[tuple[int, int]]:
    """One cut of each token, in an order at random, and some further cuts: a token may have several merges."""
    pairs = list(pairs_by_definition(pieces))
    generator.shuffle(pairs)
    return pairs[: max(1, 3 * len(pairs) // 4)]


@pytest.mark.parametrize("whole_pieces", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_any_merges_give_what_the_definition_gives(seed: int, whole_pieces: bool) -> None:
    generator = random.Random(seed)
    pieces = random_pieces(generator, 380, b"abc"[: 2 + seed % 2], longest=30)
    merges = merges_of(pieces, generator)
    ours = BytePairTokenizer(pieces, merges, WHOLE, {}, eos=None, whole_pieces=whole_pieces)
    ids = {piece: token for token, piece in enumerate(pieces)}
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    for length in THRESHOLDS[:-1]:
        for _ in range(10):
            text = "".join(generator.choices("abc", [5, 5, 1], k=length))
            data = text.encode()
            expected = [ids[data]] if whole_pieces and data in ids else merged_by_definition(data, ids, ranks)
            assert ours.encode(text).tolist() == expected, text


@settings(max_examples=300, deadline=None)
@given(text=st.text(st.sampled_from("ab"), min_size=SHORT - 3, max_size=SHORT + 4))
def test_scanning_and_the_heap_agree(text: str) -> None:
    ids = {piece: token for token, piece in enumerate(PIECES)}
    expected = merged_by_definition(text.encode(), ids, pairs_by_definition(PIECES))
    assert TOKENIZER.encode(text).tolist() == expected


PIECES = random_pieces(random.Random(5), 330, b"ab", longest=12)
TOKENIZER = of_ranks(PIECES)


@pytest.mark.parametrize("length", [200, 254, 255, 256, 257, 1000, MAX_LENGTH - 1, MAX_LENGTH])
def test_tokens_of_any_length_are_found(length: int) -> None:
    """As whole chunks, and by merges within longer ones."""
    run = [b"a" * 2**k for k in range(1, 17) if 2**k < length]
    pieces = [*(bytes([byte]) for byte in range(256)), *run, b"b" * length, b"a" * length]
    ours, theirs = of_ranks(pieces), tiktoken_of(pieces)
    for text in [
        "a" * length,
        "b" * length,
        "a" * (length + 1),
        "a" * (length - 1),
        "c" + "a" * length,
        "b" * (length + 1),
    ]:
        assert ours.encode(text).tolist() == theirs.encode_ordinary(text)
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        " " * 1_000_000,
        "\n" * 999_999,
        "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=1_000_000)),
        "".join(random.Random(1).choices("日本語文字種中国話題時間", k=333_333)),
        "0123456789" * 100_000,
        "ab" * 500_000,
        "\0" * 500_000,
        "é" * 500_000,
        "'" * 500_000,
        "aA" * 500_000,
        "\u0301" * 300_000,
    ],
    ids=["a", "spaces", "lines", "letters", "CJK", "digits", "ab", "NUL", "é", "apostrophes", "aA", "marks"],
)
@pytest.mark.parametrize("name", ["gpt2", "o200k"])
def test_a_megabyte_of_one_kind(name: str, text: str) -> None:
    """As one chunk or as a great many. Time that grew with the square of the length would not end here."""
    ours = TRAINED[name]
    ids = ours.encode(text)
    assert ours.decode(ids) == text
    # tiktoken's search gives up in that much white space, which is one chunk.
    pattern = r"(?s).+" if text.isspace() else ours.split.patterns[0]
    assert ids.tolist() == tiktoken_of(ours.pieces, pattern).encode_ordinary(text)


def trained(name: str) -> BytePairTokenizer:
    from diptych.tokenizers.bpe_training import train_bpe

    texts = [some_text(seed, 300) for seed in range(5)] + [
        "a" * 500,
        " " * 500,
        "aA" * 90,
        "日本語" * 30,
        "0123456789" * 9,
    ]
    learnt = train_bpe(texts, 500, split=Split.named(name), special_tokens=())
    return of_ranks(learnt.pieces, learnt.split)


TRAINED = {name: trained(name) for name in ("gpt2", "o200k", "cl100k")}


@pytest.mark.parametrize("name", TRAINED)
def test_odd_texts_equal_tiktoken(name: str) -> None:
    generator = random.Random(4)
    everything = "".join(chr(c) for c in generator.choices(range(0x30000), k=3000) if not 0xD800 <= c < 0xE000)
    ours = TRAINED[name]
    theirs = tiktoken_of(ours.pieces, ours.split.patterns[0])
    texts = [odd_text(generator, generator.randint(0, 30), everything) for _ in range(400)]
    for text in texts:
        assert ours.encode(text).tolist() == theirs.encode_ordinary(text), repr(text)
    assert [ids.tolist() for ids in ours.encode_batch(texts)] == theirs.encode_ordinary_batch(texts)


def test_ids_may_be_unused_and_spellings_occur_twice() -> None:
    """Of tokens spelt alike the first is given; a hole is never given, and decoding one is refused."""
    order = list(range(256))
    random.Random(0).shuffle(order)
    single = [bytes([byte]) for byte in order]
    pieces = [*single[:100], b"", b"ab", b"", *single[100:], b"abab", b"ab", b"abab", b"a", b""]
    ours = of_ranks(pieces)
    first = {piece: token for token, piece in reversed(list(enumerate(pieces))) if piece}
    for text, parts in {"ab": [b"ab"], "abab": [b"abab"], "aab": [b"a", b"ab"], "ababab": [b"abab", b"ab"]}.items():
        assert ours.encode(text).tolist() == [first[part] for part in parts]
        assert ours.decode([pieces.index(part) for part in parts]) == text
    assert ours.decode([len(pieces) - 2]) == "a"
    for hole in (100, 102, len(pieces) - 1):
        with pytest.raises(ValueError, match=f"token id {hole} does not stand in the vocabulary"):
            ours.decode([0, hole])


def test_special_tokens_may_stand_between_others() -> None:
    single = [bytes([byte]) for byte in range(256)]
    pieces = [b"<s>", *single[:50], b"</s>", *single[50:], b"ab", b"<s>a", b"ab"]
    special = {"<s>": 0, "</s>": 51, "ab": 260}
    ours = BytePairTokenizer(pieces, None, WHOLE, special, eos="</s>")
    text = "<s>ab</s><s>"
    assert ours.decode(ours.encode(text)) == text
    assert not set(ours.encode(text).tolist()) & set(special.values())
    assert ours.encode(text, allowed_special={"<s>", "</s>"}).tolist() == [0, 258, 51, 0]
    theirs = tiktoken.Encoding(
        "theirs",
        pat_str=r"(?s).+",
        mergeable_ranks={piece: i for i, piece in enumerate(pieces) if i not in special.values()},
        special_tokens={"<s>": 0, "</s>": 51},
    )
    assert ours.encode(text, allowed_special={"<s>", "</s>"}).tolist() == theirs.encode(text, allowed_special="all")
    assert ours.encode(text).tolist() == theirs.encode(text, disallowed_special=())


@pytest.mark.parametrize("whole_pieces", [False, True])
def test_the_memory_of_chunks_grows_and_starts_afresh(whole_pieces: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(6)
    known = sorted({"".join(generator.choices("abcdethn", k=5)) for _ in range(50)})
    pieces = [*TRAINED["gpt2"].pieces, *(word.encode() for word in known)]  # merges do not make these
    parts: tuple[Any, ...] = (pieces, None, Split.named("gpt2"))
    expected = ChunkEncoder(*parts, whole_pieces=whole_pieces)
    monkeypatch.setattr(engine, "LEAST_ROWS", 1 << 11)
    monkeypatch.setattr(engine, "MOST_ROWS", 1 << 13)
    encoder = ChunkEncoder(*parts, whole_pieces=whole_pieces)
    sizes: list[int] = []
    make_room = ChunkEncoder._make_room

    def watched(self: ChunkEncoder, work: engine._Workspace) -> None:
        make_room(self, work)
        if self is encoder:
            sizes.append(len(work.rows))

    monkeypatch.setattr(ChunkEncoder, "_make_room", watched)
    for _ in range(40):
        words = [
            "".join(generator.choices("abcdethn é日", k=generator.choice([2, 3, 5, 20, 80, 200]))) for _ in range(600)
        ]
        text = "\n".join(words + generator.choices(known, k=20))
        assert encoder.encode(text).tolist() == expected.encode(text).tolist()
    assert set(sizes) == {1 << 12, 1 << 13}
    assert sizes.count(1 << 13) > 3  # made once, then emptied


def test_chunks_that_differ_in_a_single_place_are_told_apart() -> None:
    """Among chunks that are remembered, of every length at which they are kept in another way."""
    words = []
    for length in [*range(1, 42), 63, 64, 65, 255, 256]:
        for place in range(length):
            words += ["a" * place + letter + "a" * (length - place - 1) for letter in "b\0"]
    text = " ".join(words)
    for _ in range(2):
        assert TRAINED["gpt2"].decode(TRAINED["gpt2"].encode(text)) == text


def test_more_chunks_than_are_scanned_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of chunks that end within documents, between them, and on the last chunk."""
    learnt = TRAINED["gpt2"]
    for n_chunks in (engine.CHUNKS - 1, engine.CHUNKS, engine.CHUNKS + 1, 2 * engine.CHUNKS):
        text = "a " * (n_chunks // 2) + "b" * (n_chunks % 2)
        assert learnt.decode(learnt.encode(text)) == text
        documents = ["", text, "", "", "the", "a " * (n_chunks // 2), ""]
        assert [learnt.decode(ids) for ids in learnt.encode_batch(documents)] == documents


def test_output_beyond_the_workspaces_own_room() -> None:
    for size in (engine.SMALL - 1, engine.SMALL, engine.SMALL + 1, 3 * engine.SMALL):
        text = "\x01" * size  # a token a byte
        ids = TRAINED["gpt2"].encode(text)
        assert len(ids) == size
        assert TRAINED["gpt2"].decode(ids) == text


def test_what_is_returned_belongs_to_the_caller() -> None:
    """Changing an answer does not change the next one, for short texts, long ones and batches."""
    ours = of_ranks(TRAINED["gpt2"].pieces, TRAINED["gpt2"].split)
    for text in ["the", "", "the then these hen " * 90]:
        expected = ours.encode(text).tolist()
        for _ in range(3):
            ids, numbers = ours.encode(text), ours.encode_list(text)
            assert ids.tolist() == numbers == expected
            assert ids.dtype == np.int32
            assert all(type(number) is int for number in numbers)
            ids[:] = 7
            numbers[:] = [7] * (len(numbers) + 1)
    first, second = ours.encode_batch(["the", "the"])
    first[:] = 7
    assert second.tolist() == ours.encode("the").tolist()


def test_the_memory_of_short_texts_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from diptych.tokenizers import bpe

    monkeypatch.setattr(bpe, "SHORT_TEXTS", 50)
    ours = of_ranks(TRAINED["gpt2"].pieces, TRAINED["gpt2"].split)
    for i in range(500):
        assert ours.decode(ours.encode(f"{i % 130} the")) == f"{i % 130} the"
        assert len(ours._short) <= 50


def test_an_encoder_without_merges_gives_bytes() -> None:
    nothing = np.empty(0, np.int32)
    encoder = ChunkEncoder(
        [bytes([byte]) for byte in range(256)],
        MergeTable(nothing, nothing, nothing, nothing),
        Split.named("gpt2"),
        whole_pieces=False,
    )
    for text in ("", "naïve", "x" * 1000):
        assert encoder.encode(text).tolist() == list(text.encode())


def test_pieces_end_where_they_are_told_to() -> None:
    data = bytes(random.Random(2).choices(b"ab", k=5000))
    ends = sorted({*random.Random(3).sample(range(1, 5000), 700), 5000})
    got = TOKENIZER._encoder.encode_pieces(data, np.array(ends)).tolist()
    parts = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert got == [token for part in parts for token in TOKENIZER.encode(part.decode()).tolist()]
    assert list(accumulate(len(part) for part in parts)) == ends


def test_vocabularies_that_cannot_be_handled_are_refused() -> None:
    single = [bytes([byte]) for byte in range(256)]
    with pytest.raises(ValueError, match="byte 0x41 has no token"):
        of_ranks([piece for piece in single if piece != b"A"])
    with pytest.raises(ValueError, match="is too large; at most"):
        ChunkEncoder([b"a"] * (MAX_TOKENS + 1), None, WHOLE, whole_pieces=True)
    with pytest.raises(ValueError, match=r"merge \(3, 256\) names a token that does not exist"):
        BytePairTokenizer(single, [(3, 256)], WHOLE, {}, eos=None)
    with pytest.raises(ValueError, match=r"merge \(97, 98\) makes b'ab', which is no token"):
        BytePairTokenizer(single, [(97, 98)], WHOLE, {}, eos=None)
    with pytest.raises(ValueError, match="special token 'a' does not stand at id 98"):
        BytePairTokenizer(single, None, WHOLE, {"a": 98}, eos=None)


def test_the_largest_vocabulary_keeps_its_last_pairs() -> None:
    """Ids up to the last one that a table of pairs can name."""
    single = [bytes([byte]) for byte in range(256)]
    pieces = [*single, *[b""] * (MAX_TOKENS - 258), b"xy", b"xyz"]
    assert len(pieces) == MAX_TOKENS
    merges = [(120, 121), (MAX_TOKENS - 2, 122)]
    ours = ChunkEncoder(
        pieces,
        MergeTable(
            np.array([left for left, _ in merges], np.int32),
            np.array([right for _, right in merges], np.int32),
            np.arange(2, dtype=np.int32),
            np.array([MAX_TOKENS - 2, MAX_TOKENS - 1], np.int32),
        ),
        WHOLE,
        whole_pieces=False,
    )
    assert ours.encode("xyzxy").tolist() == [MAX_TOKENS - 1, MAX_TOKENS - 2]


def test_short_texts_take_the_quick_way_and_long_ones_the_other_to_the_same_ids(bpe: BytePairTokenizer) -> None:
    text = "the naïve 日本語 hen aaaa " * 2000
    whole = bpe.encode(text).tolist()
    for size in (1, 17, engine.CHUNKS // 2, engine.CHUNKS - 1, engine.CHUNKS, engine.CHUNKS + 1, 3 * engine.CHUNKS):
        cut = text.encode()[:size].decode("utf-8", "ignore")
        chunks = [chunk.encode() for chunk in bpe.split.chunks(cut)]
        ends = np.cumsum([len(chunk) for chunk in chunks])
        assert bpe.encode(cut).tolist() == bpe._encoder.encode_pieces(cut.encode(), ends).tolist()
    assert bpe.encode(text).tolist() == whole


def test_short_texts_that_never_repeat_make_the_tables_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "LEAST_ROWS", 256)
    monkeypatch.setattr(engine, "MOST_ROWS", 1024)
    tokenizer = BytePairTokenizer([bytes([i]) for i in range(256)], [], Split.named("gpt2"), {}, eos=None)
    for number in range(3000):
        text = f"word{number} w{number * 7919}"
        assert tokenizer.encode(text).tolist() == [tokenizer._encoder.byte_ids[byte] for byte in text.encode()]
