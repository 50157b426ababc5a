"""`diptych data lengths` as a user calls it: tables, JSON, files, Ctrl-C, and wrong input in one line."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from diptych.cli.data.lengths import short, sparkline
from diptych.cli.main import main
from diptych.data import sources
from diptych.data.sources import Document

TEXTS = ["the sun rises", "from the east " * 30, "x", "日本語"]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jsonl"
    path.write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    return path


def lengths(*arguments: str) -> int:
    return main(["data", "lengths", *arguments])


def test_json_holds_every_figure(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--text-field", "body", "--tokenizer", "byte", "--context", "8", "--json"]
    assert lengths(str(corpus), *options) == 0
    record = json.loads(capsys.readouterr().out)
    (row,) = record["corpora"]
    sizes = [len(text.encode()) for text in TEXTS]
    assert row["documents"] == 4 and row["complete"] and row["name"] == str(corpus)
    for unit, values in (("bytes", sizes), ("words", [3, 90, 1, 1]), ("tokens", sizes)):
        found = row[f"in_{unit}"]
        assert found["total"] == sum(values) and found["longest"] == max(values)
        assert found["median"] == np.median(values) and found["p95"] == pytest.approx(np.percentile(values, 95))
        assert sum(found["counts"]) == 4 and len(found["edges"]) == len(found["counts"]) + 1
    frequency = [sum(max(0, min(n, 8) - i) for n in sizes) for i in range(8)]
    assert row["positions"]["frequency"] == frequency and row["positions"]["pairs"] == sum(frequency)
    assert row["positions"]["near_share"] == pytest.approx(sum(frequency[:4]) / sum(frequency))
    assert len(record["published"]) == 5


def test_the_tables_fit_and_published_values_are_labelled(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lengths(str(corpus), "--text-field", "body", "--tokenizer", "byte", "--context", "8") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    assert "Books3 *" in out and "551k" in out and "* published, not measured here" in out and "Gao et al. 2020" in out
    assert "if all were full" in out and "█" in out
    assert lengths(str(corpus), "--text-field", "body") == 0
    out = capsys.readouterr().out
    assert "--tokenizer" in out and "tokens   " not in out and "f(L/2)" not in out


def test_files_are_written_once(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("some text")
    options = ["--text-field", "body", "--tokenizer", "byte", "--out", "made/lengths"]
    assert lengths("notes.jsonl", "folder", *options) == 0
    made = tmp_path / "made" / "lengths"
    assert sorted(path.name for path in made.iterdir()) == ["lengths.csv", "lengths.json", "lengths.png"]
    assert (made / "lengths.png").read_bytes().startswith(b"\x89PNG")
    assert [row["name"] for row in json.loads((made / "lengths.json").read_text())["corpora"]] == [
        "notes.jsonl",
        "folder",
    ]
    rows = list(csv.DictReader((made / "lengths.csv").read_text().splitlines()))
    assert [(row["corpus"], row["unit"]) for row in rows[2:4]] == [("notes.jsonl", "tokens"), ("folder", "bytes")]
    assert rows[4]["total"] == "2"
    before = (made / "lengths.json").read_bytes()
    assert lengths("folder", *options) == 2
    assert "exists" in capsys.readouterr().err and (made / "lengths.json").read_bytes() == before


def test_ctrl_c_reports_what_was_read(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sources.read_documents

    def interrupted(names: list[str], field: str, *rest: object) -> Iterator[Document]:
        for index, document in enumerate(plain(names, field, *rest)):  # type: ignore[arg-type]
            if index == 2:
                signal.raise_signal(signal.SIGINT)
            yield document

    monkeypatch.setattr(sources, "read_documents", interrupted)
    options = ["--text-field", "body", "--tokenizer", "byte", "--out", str(tmp_path / "made")]
    assert lengths(str(corpus), str(corpus), *options) == 130
    shown = capsys.readouterr()
    assert "(partial)" in shown.out.replace("\n", "") and "interrupted" in shown.err and "not read" in shown.err
    (row,) = json.loads((tmp_path / "made" / "lengths.json").read_text())["corpora"]
    assert not row["complete"] and row["documents"] == 3
    assert row["in_bytes"]["total"] == sum(len(text.encode()) for text in TEXTS[:3])


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ([], "name the corpora"),
        (["nowhere.txt"], "there is no file or folder nowhere.txt"),
        (["stdlib", "nowhere.txt"], "there is no file or folder nowhere.txt"),
        (["{empty}"], "holds no text"),
        (["{latin}"], "is not UTF-8: byte 0xe9 at offset 3"),
        (["{binary}"], "is binary"),
        (["{corpus}"], "there is no field text; set data.text_field to one of: body"),
        (["{corpus}", "--text-field", "body", "--context", "0"], "--context 0 is out of range"),
        (["{corpus}", "--text-field", "body", "--context", "99999999"], "--context 99999999 is out of range"),
        (["{corpus}", "--text-field", "body", "--out", "{corpus}"], "is a file; name a folder"),
    ],
)
def test_wrong_input_is_refused_in_one_line(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], fragment: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin1"))
    (tmp_path / "binary.txt").write_bytes(b"\x7fELF\0")
    names = {"empty": "empty", "latin": "latin.txt", "binary": "binary.txt", "corpus": "notes.jsonl"}
    places = {key: str(tmp_path / name) for key, name in names.items()}
    assert lengths(*(argument.format(**places) for argument in arguments)) == 2
    shown = capsys.readouterr()
    (line,) = (line for line in shown.err.splitlines() if line)
    assert line.startswith("diptych: ") and fragment in line and not shown.out


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (7, "7"),
        (99.94, "99.9"),
        (100.4, "100"),
        (9_999, "9,999"),
        (9_999.5, "10.0k"),
        (99_949, "99.9k"),
        (99_951, "100k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (33.04e9, "33.0G"),
        (2.5e12, "2.5T"),
    ],
)
def test_short_figures(value: float, expected: str) -> None:
    assert short(value) == expected


def test_sparklines_are_proportional() -> None:
    assert sparkline([0, 1, 50, 100]) == " ▁▅█"
