"""Do the tokenizer commands do what they say, and refuse in one line what they cannot?"""

from __future__ import annotations

import io
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from diptych.cli.console import ConsoleHandler
from diptych.cli.main import main
from diptych.core.events import Event, Progressed
from diptych.tokenizers.load import load_tokenizer

SENTENCE = "Sun rises from the east"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text and a tokenizer of every kind that needs no extra."""
    path = tmp_path_factory.mktemp("tokenizers")
    (path / "text.txt").write_text(f"{SENTENCE}, the naïve sun. 日本\n" * 40)
    for kind in ("byte", "character", "word", "sennrich", "bpe"):
        arguments = ["--kind", kind, "--vocab-size", "300", "--out", str(path / f"{kind}.json")]
        assert main(["tokenizer", "train", str(path / "text.txt"), *arguments]) == 0
    return path


@pytest.mark.parametrize("kind", ["byte", "character", "word", "sennrich", "bpe"])
def test_encode_and_decode_undo_each_other(kind: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, text = str(folder / f"{kind}.json"), f"{SENTENCE}  \n日本 🙂"
    assert main(["tokenizer", "encode", file, "--text", text]) == 0
    ids = capfd.readouterr().out.split()
    assert [int(i) for i in ids] == load_tokenizer(Path(file)).encode(text).tolist()
    assert main(["tokenizer", "decode", file, *ids]) == 0
    assert capfd.readouterr().out == text


def test_ids_go_through_files_and_pipes(
    folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file, text = str(folder / "bpe.json"), (folder / "text.txt").read_text()
    assert main(["tokenizer", "encode", file, str(folder / "text.txt"), "--out", str(tmp_path / "ids.npy")]) == 0
    expected = load_tokenizer(Path(file)).encode(text)
    assert np.array_equal(np.load(tmp_path / "ids.npy"), expected)
    capfd.readouterr()
    assert main(["tokenizer", "decode", file, "--file", str(tmp_path / "ids.npy")]) == 0
    assert capfd.readouterr().out == text
    assert main(["tokenizer", "encode", file, str(folder / "text.txt"), "--json"]) == 0
    printed = capfd.readouterr().out
    assert json.loads(printed) == expected.tolist()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(printed.encode())))
    assert main(["tokenizer", "decode", file]) == 0
    assert capfd.readouterr().out == text


def test_a_special_token_is_text_a_token_or_an_error(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = str(folder / "bpe.json")
    eos = load_tokenizer(Path(file)).eos_id
    for special, expected in (("text", False), ("allow", True)):
        assert main(["tokenizer", "encode", file, "--text", "a<|endoftext|>", "--special", special]) == 0
        assert (str(eos) in capfd.readouterr().out.split()) is expected
    assert main(["tokenizer", "encode", file, "--text", "a<|endoftext|>", "--special", "refuse"]) == 2
    assert "holds the special token '<|endoftext|>' at character 1" in capfd.readouterr().err


def test_show_prints_and_draws_every_token(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(folder / f"{kind}.json") for kind in ("word", "bpe")]
    picture = tmp_path / "tokens.png"
    assert main(["tokenizer", "show", *files, "--text", SENTENCE, "--out", str(picture), "--ids"]) == 0
    out = capsys.readouterr().out
    assert out.count(SENTENCE) == 2 and "5 tokens" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main(["tokenizer", "show", files[0], "--text", SENTENCE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == ["Sun", " rises", " from", " the", " east"]


def test_compare_counts_the_same_text(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(folder / "bpe.json"), "byte"]
    source = ["--source", str(folder / "text.txt")]
    assert main(["tokenizer", "compare", *files, *source, "--rounds", "1", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    size = (folder / "text.txt").stat().st_size
    assert [row["n_bytes"] for row in rows] == [size, size]
    assert rows[1]["n_tokens"] == size and rows[1]["attention_pairs"] == size**2
    assert rows[0]["n_tokens"] == len(load_tokenizer(Path(files[0])).encode((folder / "text.txt").read_text()))
    assert main(["tokenizer", "compare", *files, "--text", SENTENCE]) == 0
    out = capsys.readouterr().out
    assert "bytes/token" in out and "23 bytes in 1 documents, 5 words" in out


def test_a_rank_file_is_written_and_read(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ranks = tmp_path / "mine.tiktoken"
    assert main(["tokenizer", "train", str(folder / "text.txt"), "--vocab-size", "300", "--out", str(ranks)]) == 0
    capsys.readouterr()
    assert main(["tokenizer", "encode", str(ranks), "--split", "gpt2", "--text", SENTENCE]) == 0
    ids = [int(i) for i in capsys.readouterr().out.split()]
    assert load_tokenizer(folder / "bpe.json").encode(SENTENCE).tolist() == ids
    assert main(["tokenizer", "encode", str(ranks), "--text", SENTENCE]) == 2
    assert "name the split" in capsys.readouterr().err


REFUSED = [
    (["trian"], ["unknown command tokenizer trian", "did you mean train?"]),
    (["train"], ["name the text to learn from"]),
    (["train", "nowhere"], ["there is no file or folder nowhere"]),
    (["train", "{empty}", "--out", "{new}"], ["holds no text"]),
    (["train", "{latin}", "--out", "{new}"], ["is not UTF-8", "offset 3"]),
    (["train", "{text}", "--vocab-size", "10", "--out", "{new}"], ["at least 257 tokens"]),
    (["train", "{text}", "--kind", "word", "--vocab-size", "257", "--out", "{new}"], ["at least 258 tokens"]),
    (["train", "{text}", "--split", "gtp2", "--out", "{new}"], ["did you mean gpt2?"]),
    (["train", "{text}", "--split", "(", "--out", "{new}"], ["is no regular expression"]),
    (["train", "{text}", "--memory", "lots", "--out", "{new}"], ["--memory lots is no size"]),
    (["train", "{text}", "--memory", "1MB", "--out", "{new}"], ["too small to count in"]),
    (["train", "{text}", "--train-bytes", "0", "--out", "{new}"], ["leaves no text"]),
    (["train", "{text}", "--out", "{folder}"], ["is a folder; name the file"]),
    (["train", "{text}", "--kind", "word", "--out", "x.tiktoken"], ["a .tiktoken file holds byte-level"]),
    (["encode", "nowhere", "--text", "a"], ["nowhere"]),
    (["encode", "{text}", "--text", "a"], ["text.txt"]),
    (["encode", "byte", "{latin}"], ["is not UTF-8: byte 0xe9 at offset 3"]),
    (["encode", "byte", "{text}", "--text", "a"], ["either --text or files"]),
    (["encode", "byte", "{folder}/none"], ["none"]),
    (["decode", "byte", "999"], ["token id 999 does not stand in the vocabulary of 257"]),
    (["decode", "byte", "--file", "{text}"], ["is no .npy file of token ids"]),
    (["show", "--text", "a"], ["name a tokenizer"]),
    (["show", "byte", "--text", "a", "--out", "a.gif"], ["a picture is written as .png"]),
    (["compare"], ["name tokenizers to compare"]),
    (["compare", "byte", "--rounds", "0"], ["--rounds 0"]),
    (["compare", "byte", "--source", "nowhere"], ["there is no file or folder nowhere"]),
    (["compare", "byte", "--text", ""], ["no text to compare"]),
]


@pytest.mark.parametrize(("arguments", "fragments"), REFUSED)
def test_wrong_input_is_refused_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], fragments: list[str]
) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "latin").write_bytes("caf\xe9".encode("latin1"))
    places = {"folder": str(folder), "text": str(folder / "text.txt"), "new": str(tmp_path / "new.json")}
    places |= {name: str(tmp_path / name) for name in ("empty", "latin")}
    assert main(["tokenizer", *(a.format(**places) for a in arguments)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("diptych: ")
    for fragment in fragments:
        assert fragment in line
    assert not (tmp_path / "new.json").exists()


class Interrupting(ConsoleHandler):  # type: ignore[misc]
    """Presses Ctrl-C when it is told for the second time of progress."""

    told = 0

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        Interrupting.told += isinstance(event, Progressed)
        if Interrupting.told == 2:
            signal.raise_signal(signal.SIGINT)


def test_an_interrupted_training_goes_on_to_the_same_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    words = [f"{word}{number}" for word in ("sun", "moon", "star") for number in range(1000)]
    with (tmp_path / "text.jsonl").open("w") as file:
        for _ in range(100):
            file.write(json.dumps({"text": " ".join(draw.choice(words, 20_000))}) + "\n")

    def train(out: str) -> int:
        source = str(tmp_path / "text.jsonl")
        return main(["tokenizer", "train", source, "--vocab-size", "2000", "--out", str(tmp_path / out)])

    assert train("whole.json") == 0
    with monkeypatch.context() as patch:
        patch.setattr("diptych.cli.tokenizer.train.ConsoleHandler", Interrupting)
        assert train("parts.json") == 130
    assert not (tmp_path / "parts.json").exists()
    assert (tmp_path / "parts.json.counts.npz").exists()
    capsys.readouterr()
    assert train("parts.json") == 0
    assert "going on after" in capsys.readouterr().err
    assert not (tmp_path / "parts.json.counts.npz").exists()
    assert (tmp_path / "parts.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
