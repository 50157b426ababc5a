"""Is text read from every kind of source, and is what is no text refused in one line?"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.core.events import Event, Message
from diptych.data import sources
from diptych.data.sources import Document, line_end_before, read_documents, text_file

RECORDS = ["one", "two\nlines", "naïve 🙂", ""]


def texts(*names: str | Path, field: str = "text") -> list[str]:
    return [document.text for document in read_documents([str(name) for name in names], field)]


def refusal(*names: str | Path, field: str = "text", kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        texts(*names, field=field)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_any_file_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.anything").write_bytes("naïve\r\n".encode())
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbfmarked")
    (tmp_path / "empty").touch()
    assert texts(tmp_path / "a.anything", tmp_path / "b", tmp_path / "empty") == ["naïve\r\n", "marked"]


def test_a_folder_is_read_through_without_hidden_and_binary_files(tmp_path: Path) -> None:
    contents = {
        "one.py": b"one",
        "deep/er/two": b"two",
        "three.jsonl": b'{"text": "three"}\n',
        ".hidden": b"no",
        ".git/config": b"no",
        "deep/.venv/lib.py": b"no",
        "picture": b"\x89PNG\0\0",
        "latin": "naïve".encode("latin1"),
    }
    for name, data in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    events: list[Event] = []
    documents = list(read_documents([str(tmp_path)], "text", events.append))
    assert sorted(document.text for document in documents) == ["one", "three", "two"]
    assert [event.text for event in events if isinstance(event, Message)] == [
        f"{tmp_path}: 2 files are no UTF-8 text and were left out"
    ]
    assert list(read_documents([str(tmp_path)], "text")) == documents


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"abc\xff\xfe", "not UTF-8: byte 0xff at offset 3"),
        (b"\xef\xbb\xbfab\xe9", "not UTF-8: byte 0xe9 at offset 5"),
        (b"abc\xe2\x82", "not UTF-8: byte 0xe2 at offset 3"),
        (b"ab\0c", "binary (byte 0 at offset 2)"),
        ("text".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_named_file_that_is_no_text_is_refused(data: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(data)
    message = refusal(tmp_path / "bad.txt")
    assert says in message
    assert "bad.txt" in message


def test_the_offset_is_right_behind_the_first_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "PIECE", 50)
    (tmp_path / "bad.txt").write_bytes("é\n".encode() * 100 + b"\xff")
    assert "byte 0xff at offset 300" in refusal(tmp_path / "bad.txt")
    (tmp_path / "good.txt").write_bytes(b"good")
    assert texts(tmp_path) == ["good"]  # in a folder no piece of a bad file is used


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from("ab\né🙂"), max_size=200), share=st.floats(0, 1))
def test_long_files_come_in_pieces_that_make_them_up(
    text: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PIECE", 16)
    path = tmp_path / "long.txt"
    path.write_bytes(text.encode())
    pieces = [document.text for document in text_file(path)]
    assert "".join(pieces) == text
    assert all(0 < len(piece.encode()) <= 32 for piece in pieces)
    cut = line_end_before(path, share)
    assert abs(cut - len(text.encode()) * share) <= 16
    parts = [[document.text for document in text_file(path, *span)] for span in ((0, cut), (cut,))]
    assert "".join(parts[0] + parts[1]) == text


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.ndjson", "A.JSONL"])
def test_json_lines(name: str, tmp_path: Path) -> None:
    data = "".join(json.dumps({"id": i, "text": text}) + "\n\n" for i, text in enumerate(RECORDS)).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert texts(tmp_path / name) == RECORDS[:3]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"content": "x", "url": "y"}', "no field text; set data.text_field to one of: content"),
        ('{"texts": "x", "url": "y"}', "no field text; set data.text_field to one of: texts"),
        ('{"text": 3}', "field text holds int, not text"),
        ("[1]", "expected a JSON object or string, found list"),
        ('{"text": ', "no valid JSON"),
        ("[" * 100_000, "no valid JSON"),
        ('"\udc80"', "no valid JSON"),
    ],
)
def test_bad_json_lines_name_their_line(line: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n' + line.encode("utf-8", "surrogateescape") + b"\n")
    message = refusal(tmp_path / "a.jsonl")
    assert says in message
    assert "a.jsonl, line 2" in message


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"text": "good"}\n' * 1000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "flipped.jsonl.gz").write_bytes(whole[:12] + bytes(255 - b for b in whole[12:20]) + whole[20:])
    for name in ("cut.jsonl.gz", "none.jsonl.gz", "flipped.jsonl.gz"):
        assert name in refusal(tmp_path / name)


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": [*RECORDS, None], "n": range(5)}), path, row_group_size=2)
    assert texts(path, field="body") == RECORDS[:3]
    assert "set data.text_field to one of: body" in refusal(path, field="bodies")
    assert "column n holds int, not text" in refusal(path, field="n")
    path.write_bytes(path.read_bytes()[:-9])
    assert "a.parquet is no valid Parquet file" in refusal(path, field="body")
    path.write_bytes(b"")
    assert "a.parquet is no valid Parquet file" in refusal(path, field="body")


def test_saved_data_sets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"text": RECORDS, "title": ["t"] * 4})
    table.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(train=table, test=table.select([0])).save_to_disk(str(tmp_path / "two"))
    assert texts(f"hf:{tmp_path}/one") == texts(f"hf:{tmp_path}/two") == RECORDS[:3]
    assert texts(f"hf:{tmp_path}/two:test") == ["one"]
    assert texts(f"hf:{tmp_path}/one", field="title") == ["t"] * 4
    assert "one of: title" in refusal(f"hf:{tmp_path}/one", field="titel")
    assert "cannot be opened" in refusal(f"hf:{tmp_path}/two:nothing")


@pytest.mark.parametrize(("source", "module"), [("a.parquet", "pyarrow"), ("hf:name", "datasets")])
def test_a_missing_extra_is_named(source: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.parquet").touch()
    monkeypatch.setitem(sys.modules, module, None)
    message = refusal(source, kind=ModuleNotFoundError)
    assert f"needs {module}; pip install 'diptych[data]'" in message


def test_a_missing_path_is_named() -> None:
    assert "there is no file or folder nowhere/at/all" in refusal("nowhere/at/all", kind=FileNotFoundError)


def test_the_standard_library_is_always_at_hand() -> None:
    documents = list(read_documents(["stdlib"], "text"))
    names = [document.name for document in documents]
    assert len(set(names)) == len(names)
    assert "stdlib:json/decoder.py" in names
    assert "topic:assert" in names
    assert not any("site-packages" in name or "/test/" in name for name in names)
    assert 5e6 < sum(len(document.text) for document in documents) < 1e8
    assert documents == list(read_documents(["stdlib"], "text"))
    assert Document(Path(json.decoder.__file__).read_text(encoding="utf-8"), "stdlib:json/decoder.py") in documents


def test_what_runs_write_into_a_source_is_no_text_of_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text")
    for name in ("runs/one", "two"):
        (tmp_path / name / "state").mkdir(parents=True)
        (tmp_path / name / "recipe.toml").write_text("out = 1")
        (tmp_path / name / "state" / "tokenizer.json").write_text("{}")
    assert [d.text for d in read_documents([str(tmp_path)], "text")] == ["text"]
    # A run folder that is named itself is read.
    assert {d.text for d in read_documents([str(tmp_path / "two")], "text")} == {"out = 1", "{}"}
