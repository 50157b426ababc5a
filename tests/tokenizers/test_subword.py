"""Do WordPiece and unigram follow their definitions, give every text back, and go to Hugging Face and return?"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers as hf
from diptych.core.events import Event, Message, Progressed
from diptych.tokenizers.base import EOS
from diptych.tokenizers.letters import BYTE_TO_LETTER, to_letters
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.splitting import Split
from diptych.tokenizers.subword import LONGEST, MARK, SubwordTokenizer, train_unigram, train_wordpiece

from .conftest import TEXTS, some_text

TRAINERS = {"wordpiece": train_wordpiece, "unigram": train_unigram}
SIZES = {"wordpiece": 640, "unigram": 330}
ODD = ["", " ", "\n \r\n\t", EOS, f"a{EOS}b", "#", "##", "##ing ## #a", "a#b##c", "\0\x7f\x80\xad", "[UNK]", "Ġ Ā ģ"]
ODD += ["the" * 200, "x" * 10_000, "#" * 300, " " * 300 + "x", "日本語" * 60, "🙂🙂🏽", "naïve\u0301 Å", "\U0010ffff"]
ANY_TEXT = st.text(max_size=40) | st.lists(
    st.sampled_from([" ", "\n", "a", "the", "#", "##", "é", "🙂", "'ll", "1", "\0", EOS, "x" * 60])
).map("".join)
many = settings(max_examples=150, deadline=None)


@pytest.fixture(scope="module", params=TRAINERS)
def subword(request: pytest.FixtureRequest) -> SubwordTokenizer:
    return TRAINERS[request.param](TEXTS, SIZES[request.param])


@pytest.fixture(scope="module")
def folder(subword: SubwordTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("subword")
    subword.save(folder / "tokenizer.json")
    return folder


@pytest.fixture(scope="module")
def theirs(folder: Path) -> hf.Tokenizer:
    theirs = hf.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.encode_special_tokens = True
    return theirs


def words(text: str) -> Iterator[str]:
    """GPT-2's chunks in the letters of bytes, cut at `#` and at the longest run."""
    for chunk in Split.named("gpt2").chunks(text):
        yield from re.findall(f"#|[^#]{{1,{LONGEST}}}", to_letters(chunk.encode()))


def longest_match(tokenizer: SubwordTokenizer, text: str) -> list[int]:
    """WordPiece by its definition (Devlin et al. 2019)."""
    ids = {entry: token for token, entry in enumerate(tokenizer.entries)}
    found = []
    for word in words(text):
        start = 0
        while start < len(word):
            mark = MARK if start else ""
            end = next(end for end in range(len(word), start, -1) if mark + word[start:end] in ids)
            found.append(ids[mark + word[start:end]])
            start = end
    return found


def best_score(tokenizer: SubwordTokenizer, text: str) -> float:
    """The largest sum of log probabilities over all cuts of every word (Kudo 2018, section 3.1)."""
    scores = dict(zip(tokenizer.entries, tokenizer.scores or [], strict=True))
    total = 0.0
    for word in words(text):
        best = [0.0]
        for end in range(1, len(word) + 1):
            cuts = [best[i] + scores[word[i:end]] for i in range(end) if word[i:end] in scores]
            best.append(max(cuts))
        total += best[-1]
    return total


def test_ids_follow_the_definition(subword: SubwordTokenizer) -> None:
    for text in [*TEXTS[:6], *ODD, some_text(99, 80)]:
        ids = subword.encode_list(text)
        if subword.scores is None:
            assert ids == longest_match(subword, text)
        else:
            assert sum(subword.scores[token] for token in ids) == pytest.approx(best_score(subword, text), rel=1e-9)


@many
@given(text=ANY_TEXT)
def test_every_text_comes_back(subword: SubwordTokenizer, text: str) -> None:
    ids = subword.encode(text)
    assert subword.decode(ids) == text
    assert b"".join(subword.token_bytes(int(token)) for token in ids) == text.encode()
    assert subword.eos_id not in ids


def test_odd_texts_come_back_and_words_are_found(subword: SubwordTokenizer) -> None:
    assert [subword.decode(subword.encode(text)) for text in ODD] == ODD
    assert subword.vocab_size == (640 if subword.scores is None else 330)
    assert len(subword.encode(" the these then")) <= 6
    assert subword.decode(subword.encode("a\ud800b")) == "a\ufffdb"
    assert [ids.tolist() for ids in subword.encode_batch([*ODD, "\ud800"])] == [
        subword.encode_list(text) for text in [*ODD, "\ud800"]
    ]
    assert subword.encode_batch([]) == []


def test_special_tokens_are_text_unless_allowed(subword: SubwordTokenizer) -> None:
    assert subword.special_tokens == {EOS: subword.vocab_size - 1}
    assert subword.encode(f"a{EOS}", allowed_special="all").tolist()[-1] == subword.eos_id
    assert subword.eos_id not in subword.encode(f"a{EOS}")
    with pytest.raises(ValueError, match=r"special token '<\|endoftext\|>' at character 1"):
        subword.encode(f"a{EOS}", disallowed_special="all")


@many
@given(text=ANY_TEXT)
def test_the_file_gives_the_same_ids_here_and_in_hugging_face(
    subword: SubwordTokenizer, folder: Path, theirs: hf.Tokenizer, text: str
) -> None:
    ids = subword.encode_list(text)
    assert theirs.encode(text).ids == ids
    assert theirs.decode(ids, skip_special_tokens=False) == text


def test_the_file_comes_back(subword: SubwordTokenizer, folder: Path, theirs: hf.Tokenizer) -> None:
    again = load_tokenizer(folder)
    assert isinstance(again, SubwordTokenizer)
    assert (again.entries, again.scores, again.pieces) == (subword.entries, subword.scores, subword.pieces)
    assert [again.encode_list(text) for text in ODD] == [subword.encode_list(text) for text in ODD]
    assert theirs.token_to_id(EOS) == subword.eos_id == theirs.get_vocab_size() - 1
    theirs.save(str(folder / "theirs.json"))
    third = load_tokenizer(folder / "theirs.json")
    assert isinstance(third, SubwordTokenizer)
    assert (third.entries, third.scores) == (subword.entries, subword.scores)


@pytest.mark.parametrize("kind", TRAINERS)
def test_training_gives_the_same_file_in_every_process(kind: str) -> None:
    script = (
        "import sys, hashlib, json\n"
        "from diptych.tokenizers.subword import train_unigram, train_wordpiece\n"
        f"tokenizer = train_{kind}(json.load(sys.stdin), 700)\n"
        "print(hashlib.sha256(json.dumps([tokenizer.entries, tokenizer.scores]).encode()).hexdigest())\n"
    )
    texts = [some_text(seed, 400) + Path(json.decoder.__file__).read_text() for seed in range(3)]
    tokenizer = TRAINERS[kind](texts, 700)
    here = hashlib.sha256(json.dumps([tokenizer.entries, tokenizer.scores]).encode()).hexdigest()
    there = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here


@pytest.mark.parametrize("kind", TRAINERS)
def test_training_reports_and_refuses(kind: str) -> None:
    train, least = TRAINERS[kind], {"wordpiece": 513, "unigram": 257}[kind]
    events: list[Event] = []
    tokenizer = train(["abab abab abab"], 2000, events.append)
    assert tokenizer.vocab_size < 600
    assert [e.text for e in events if isinstance(e, Message)] == [
        f"the text gives a vocabulary of {tokenizer.vocab_size} tokens, not 2000"
    ]
    assert any(isinstance(event, Progressed) for event in events)
    assert train(TEXTS, least).vocab_size == least
    with pytest.raises(ValueError, match=f"at least {least} tokens"):
        train(TEXTS, least - 1)
    for nothing in ([], [""]):
        with pytest.raises(ValueError, match="no text to learn from"):
            train(nothing, 1000)
    assert train(["a\ud800b c"], 1000).decode([97]) != ""


@pytest.mark.parametrize("kind", TRAINERS)
def test_what_goes_wrong_with_the_texts_is_raised(kind: str) -> None:
    def texts() -> Iterator[str]:
        yield "the"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        TRAINERS[kind](texts(), 1000)


def test_ctrl_c_ends_the_training() -> None:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield some_text(read, 20)

    def interrupt(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_wordpiece(texts(), 1000, interrupt)


@pytest.mark.parametrize("letter", ["a", "#", "日", " "])
def test_long_runs_do_not_take_the_square_of_their_length(subword: SubwordTokenizer, letter: str) -> None:
    """Letters by the hundred thousand end before pytest's limit only where no word that long is searched through."""
    text = letter * (300_000 // len(letter.encode()))
    assert subword.decode(subword.encode(text)) == text


def _changed(subword: SubwordTokenizer, path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    subword.save(path)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    return path


def _vocab(value: object) -> Callable[[dict[str, Any]], object]:
    return lambda values: values["model"].update(vocab=value)


LETTERS = {letter: token for token, letter in enumerate(BYTE_TO_LETTER)}
DAMAGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "no vocabulary": lambda values: values["model"].pop("vocab"),
    "a number": _vocab(3),
    "numbers": _vocab([1, 2]),
    "letters only of words' starts": _vocab(LETTERS),
    "letters without one": _vocab([[letter, -1.0] for letter in BYTE_TO_LETTER[1:]]),
    "a letter twice": _vocab([[letter, -1.0] for letter in [*BYTE_TO_LETTER, "a"]]),
    "an infinite score": _vocab([[letter, float("-inf")] for letter in BYTE_TO_LETTER]),
    "a score that is text": _vocab([[letter, "x"] for letter in BYTE_TO_LETTER]),
    "no bytes": _vocab([*([letter, -1.0] for letter in BYTE_TO_LETTER), ["日", -1.0]]),
    "nothing": _vocab([*([letter, -1.0] for letter in BYTE_TO_LETTER), ["", -1.0]]),
    "huge ids": _vocab({letter: 10**12 * token for letter, token in LETTERS.items()}),
    "ids of text": _vocab(dict.fromkeys(BYTE_TO_LETTER, "a")),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_and_foreign_files_are_refused(damage: str, subword: SubwordTokenizer, tmp_path: Path) -> None:
    path = _changed(subword, tmp_path / "tokenizer.json", DAMAGED[damage])
    with pytest.raises(ValueError) as caught:
        load_tokenizer(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'diptych\[subword\]'"):
        train_unigram(TEXTS, 330)
