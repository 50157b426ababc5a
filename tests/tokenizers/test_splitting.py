"""Do the compiled scanners cut text as their regular expressions do, in `regex` and in tiktoken?"""

from __future__ import annotations

import random
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import regex
import tiktoken
import tiktoken_ext.openai_public
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers as hf
from diptych.tokenizers.classes import Class, class_table
from diptych.tokenizers.splitting import _RULES, DIGITS_APART, PATTERNS, Split

from .conftest import ODD, PATTERN_OF_CLASS, TEXTS, odd_text, scanned, source_texts

NAMES = list(PATTERNS)


@cache
def agreed() -> str:
    """Characters that `regex` and our table take alike, as many of each class and of each length in UTF-8."""
    theirs = np.zeros(0x110000, np.uint8)
    text = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    for kind, pattern in PATTERN_OF_CLASS.items():
        theirs[[ord(c) for c in regex.findall(pattern, text)]] = kind
    generator = random.Random(0)
    sample = []
    for kind in Class:
        for low, high in ((0, 0x80), (0x80, 0x800), (0x800, 0x10000), (0x10000, 0x110000)):
            codes = np.arange(low, high)
            codes = codes[(theirs[low:high] == kind) & (class_table()[low:high] == kind)]
            codes = codes[(codes < 0xD800) | (codes >= 0xE000)]
            sample += generator.choices(codes.tolist(), k=60) if codes.size else []
    return "".join(map(chr, sample))


def every_substring(texts: list[str]) -> dict[bytes, int]:
    """Ranks under which each chunk is a token of its own, wherever the chunks end."""
    found = {bytes([byte]) for byte in range(256)}
    for text in texts:
        data = text.encode()
        found |= {data[i:j] for i in range(len(data)) for j in range(i + 1, len(data) + 1)}
    return {piece: rank for rank, piece in enumerate(sorted(found, key=lambda piece: (len(piece), piece)))}


def tiktoken_chunks(pattern: str, texts: list[str]) -> list[list[str]]:
    probe = tiktoken.Encoding("probe", pat_str=pattern, mergeable_ranks=every_substring(texts), special_tokens={})
    return [[piece.decode() for piece in probe.decode_tokens_bytes(probe.encode_ordinary(text))] for text in texts]


def fuzz(seed: int, n_texts: int, size: int) -> list[str]:
    generator = random.Random(seed)
    return [odd_text(generator, generator.randint(0, size), agreed()) for _ in range(n_texts)]


@pytest.mark.parametrize("pattern", _RULES, ids=range(len(_RULES)))
def test_scanners_cut_as_regex_does(pattern: str) -> None:
    split = Split((pattern,))
    expression = regex.compile(pattern.replace(r"\z", r"\Z"))
    assert split.rule is not None
    for text in [*fuzz(1, 150, 12), *fuzz(2, 30, 60), *ODD, *TEXTS[:2], "", *(c * 70 for c in "a A1.\n\0é")]:
        expected = [match.group() for match in expression.finditer(text)]
        assert "".join(expected) == text
        assert scanned(split, text) == expected, repr(text)


@pytest.mark.parametrize("pattern", _RULES, ids=range(len(_RULES)))
def test_scanners_cut_every_pair_and_triple_of_odd_strings_as_regex_does(pattern: str) -> None:
    split = Split((pattern,))
    expression = regex.compile(pattern.replace(r"\z", r"\Z"))
    generator = random.Random(3)
    texts = [a + b for a in ODD for b in generator.sample(ODD, 12)]
    texts += ["".join(generator.choices(ODD, k=3)) for _ in range(600)]
    for text in texts:
        assert scanned(split, text) == expression.findall(text), repr(text)


def test_digits_are_cut_apart_as_regex_does_it_in_two_steps() -> None:
    split = Split(DIGITS_APART)
    assert split.rule is not None
    generator = random.Random(4)
    odd = [*ODD, "1", " 2", "  34", "\t5", " \n6", "'7", "'s8", "٣", "²"]
    texts = [*fuzz(5, 300, 12), *fuzz(6, 60, 60), *("".join(generator.choices(odd, k=4)) for _ in range(1500))]
    for text in texts:
        assert scanned(split, text) == split.chunks(text), repr(text)


@pytest.mark.parametrize("name", NAMES)
def test_scanners_cut_as_tiktoken_does(name: str) -> None:
    """Over all characters there are, assigned or not: the table of classes is tiktoken's own."""
    generator = random.Random(name)
    everything = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for _ in range(6):
        others = "".join(generator.choices(everything, k=300)) + "".join(generator.choices(everything[:0x3000], k=600))
        texts = [odd_text(generator, generator.randint(1, 9), others + agreed()) for _ in range(60)]
        for text, expected in zip(texts, tiktoken_chunks(PATTERNS[name], texts), strict=True):
            assert scanned(Split.named(name), text) == expected, repr(text)


@pytest.mark.parametrize(("name", "encoding"), [("gpt2", "gpt2"), ("cl100k", "cl100k_base"), ("o200k", "o200k_base")])
def test_the_patterns_are_tiktokens_own(name: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their spelling too has a scanner, and it cuts as they do."""
    for loader in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):
        monkeypatch.setattr(tiktoken_ext.openai_public, loader, lambda *a, **k: {})
    theirs = getattr(tiktoken_ext.openai_public, encoding)()["pat_str"]
    assert Split.named(theirs).rule == Split.named(name).rule
    texts = fuzz(5, 60, 10)
    for text, expected in zip(texts, tiktoken_chunks(theirs, texts), strict=True):
        assert scanned(Split.named(name), text) == expected, repr(text)


@pytest.mark.parametrize("name", NAMES)
def test_patterns_mean_the_same_to_hugging_face(name: str) -> None:
    theirs = hf.pre_tokenizers.Split(hf.Regex(PATTERNS[name]), "isolated")
    for text in [*source_texts(20_000), *TEXTS[:3], *(t for t in ODD if t.isascii())]:
        assert scanned(Split.named(name), text) == [part for part, _ in theirs.pre_tokenize_str(text)]


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=50), name=st.sampled_from(NAMES))
def test_chunks_join_to_the_text_and_the_library_agrees_on_lengths(text: str, name: str) -> None:
    split = Split.named(name)
    assert "".join(scanned(split, text)) == text == "".join(split.chunks(text))
    data, start, parts = text.encode(), 0, []
    for end in split.chunk_ends(text).tolist():
        parts.append(data[start:end].decode())
        start = end
    assert parts == split.chunks(text)


GAPS = [
    r"[a-z]+",
    r"x(?!x)",
    r"(?=[A-Z])",
    r"(?<=e)",
    r"\b",
    r"q",
    r"(?i)the|\s+$",
    r"",
    r"()|a",
    r"a*",
    r"(.)\1|(?<=b)c",
]


@pytest.mark.parametrize("pattern", GAPS)
def test_what_a_pattern_leaves_out_is_a_chunk_and_empty_matches_only_cut(pattern: str) -> None:
    split = Split((pattern,))
    for text in ["", *TEXTS[:3], *fuzz(7, 40, 8), "theTheABbccaaxx xxq"]:
        cuts = {0, len(text)} | {at for match in regex.finditer(pattern, text) for at in match.span()}
        bounds = sorted(cuts)
        expected = [text[a:b] for a, b in pairwise(bounds)]
        assert split.chunks(text) == expected


def test_patterns_in_a_row_cut_within_the_chunks_of_those_before() -> None:
    split = Split((r"\d{1,3}", r" ?\p{L}+|\s+(?!\S)|\s+", r"."))
    assert split.rule is None
    assert Split((r"\d{1,3}", r"\p{L}+")).chunks("ab12345c,d") == ["ab", "123", "45", "c", ",", "d"]
    theirs = hf.pre_tokenizers.Sequence(
        [hf.pre_tokenizers.Split(hf.Regex(pattern), "isolated") for pattern in split.patterns[:2]]
    )
    for text in [*TEXTS[:4], *source_texts(5_000)]:
        assert Split(split.patterns[:2]).chunks(text) == [part for part, _ in theirs.pre_tokenize_str(text)]


def test_the_end_of_the_text_is_written_either_way() -> None:
    for pattern in (r"\s+\z|\S+|\s", r"\s+\Z|\S+|\s"):
        assert Split.named(pattern).chunks("a  b  ") == ["a", " ", " ", "b", "  "]
    assert Split.named(r"\\z|.").chunks(r"a\z\Z") == ["a", r"\z", "\\", "Z"]  # an escaped stroke, and then a z


@pytest.mark.parametrize("pattern", ["(?P<n", "a{99999999999}", "[", "a**", r"\p{Foo}", "(?r)a|b", "(" * 5000, "\\"])
def test_no_regular_expression_is_refused_in_one_line(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"regular expression|backwards") as caught:
        Split.named(pattern)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_name_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean gpt2"):
        Split.named("gtp2")
    with pytest.raises(ValueError, match="cl100k"):
        Split.named("")


def test_documents_in_one_buffer_are_cut_alone() -> None:
    """The end of a document is the end of the text, whatever follows."""
    from diptych.tokenizers.kernels.scanning import split as scan

    documents = ["a  ", "  b", "", "c'", "s", "\n", "\n ", "1", "234", "\u0301", "Ab", "b" * 30, "B"] * 3
    data = [document.encode() for document in documents]
    offsets = np.cumsum([0, *map(len, data)])
    for name in NAMES:
        split = Split.named(name)
        ends, cursor = np.empty(1000, np.int64), np.zeros(2, np.int64)
        n = scan(np.frombuffer(b"".join(data), np.uint8), offsets, class_table(), split.rule, cursor, ends)
        expected = [chunk for document in documents for chunk in scanned(split, document)]
        assert ends[:n].tolist() == np.cumsum([len(chunk.encode()) for chunk in expected]).tolist()
