"""Pairs come out of every kind of file, no source stands on both sides, and what is no pair is refused in one line."""

from __future__ import annotations

import dataclasses
import datetime
import gettext
import io
import json
import struct
from pathlib import Path

import pytest
from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import write_po
from num2words import num2words

from diptych.core.config import DataConfig
from diptych.core.events import Message
from diptych.data.catalogues import read_mo, read_po
from diptych.data.parallel import Pair, all_pairs, heldout_pairs, read_pairs, training_pairs
from diptych.data.written_out import written_out

FIELDS = ("source", "target")
PAIRS = [("one", "eins"), ("a \u2028 line", "eine Zeile"), ("naïve 🙂", "naiv 🙂")]


def read(*sources: Path | str, fields: tuple[str, str] = FIELDS) -> list[tuple[str, str]]:
    return [(p.source, p.target) for p in read_pairs(map(str, sources), fields)]


def test_every_kind_of_file_gives_the_pairs(tmp_path: Path) -> None:
    (tmp_path / "x.en").write_text("".join(f"{a}\n" for a, _ in PAIRS))
    (tmp_path / "x.de").write_bytes("".join(f"{b}\r\n" for _, b in PAIRS).encode())
    (tmp_path / "x.tsv").write_text("".join(f"{a}\t{b}\tnote\n" for a, b in PAIRS))
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in PAIRS))
    nested = [json.dumps({"id": 1, "translation": {"en": a, "de": b}}) + "\n" for a, b in PAIRS]
    (tmp_path / "nested.jsonl").write_text("".join(nested))
    assert read(f"{tmp_path}/x.en+{tmp_path}/x.de") == PAIRS
    assert read(tmp_path / "x.tsv") == PAIRS
    assert read(tmp_path / "x.jsonl") == PAIRS
    assert read(tmp_path / "nested.jsonl", fields=("en", "de")) == PAIRS
    (tmp_path / "nested.jsonl").unlink()
    assert read(tmp_path) == PAIRS + PAIRS
    assert read(f"{tmp_path}/*.tsv") == PAIRS
    assert [(p.source, p.target) for p in all_pairs([str(tmp_path)], FIELDS)] == PAIRS, "copies are left out"


def catalogue() -> Catalog:
    made = Catalog(locale="de", charset="iso-8859-1")
    made.add("Open", "Öffnen")
    made.add("Close", "Schließen", context="door")
    made.add(("%(n)d file", "%(n)d files"), ("%(n)d Datei", "%(n)d Dateien"))
    made.add('a "quoted"\n\tline \\ end', 'eine "zitierte"\n\tZeile \\ Ende')
    made.add("Untranslated", "")
    made.add("Doubtful", "Zweifelhaft", flags=["fuzzy"])
    made.add("x" * 200 + " long", "lang " * 40)
    made.obsolete["Gone"] = made.add("Gone", "Weg")
    del made._messages["Gone"]
    return made


CATALOGUE = [
    ("Open", "Öffnen"),
    ("Close", "Schließen"),
    ("%(n)d file", "%(n)d Datei"),
    ("%(n)d files", "%(n)d Dateien"),
    ('a "quoted"\n\tline \\ end', 'eine "zitierte"\n\tZeile \\ Ende'),
    ("x" * 200 + " long", "lang " * 40),
]


def test_catalogues_written_by_babel_are_read(tmp_path: Path) -> None:
    po, mo = tmp_path / "a.po", tmp_path / "a.mo"
    with po.open("wb") as file:
        write_po(file, catalogue())
    with mo.open("wb") as file:
        write_mo(file, catalogue())
    assert "charset=iso-8859-1" in po.read_bytes().decode("latin-1") and b"#~ msgid" in po.read_bytes()
    assert sorted(read_po(po)) == sorted(CATALOGUE)
    assert sorted(read_mo(mo)) == sorted(CATALOGUE)
    theirs = gettext.GNUTranslations(io.BytesIO(mo.read_bytes()))
    for source, target in read_mo(mo):
        if "file" not in source and source != "Close":
            assert theirs.gettext(source) == target


def test_big_endian_catalogues_and_one_form_for_all_numbers(tmp_path: Path) -> None:
    texts = [(b"", b"Content-Type: text/plain; charset=utf-8"), (b"day\0days", "日".encode())]
    tables, strings, at = [], b"", 28 + 16 * len(texts)
    for column in (0, 1):
        for pair in texts:
            tables.append(struct.pack(">2I", len(pair[column]), at + len(strings)))
            strings += pair[column] + b"\0"
    header = struct.pack(">7I", 0x950412DE, 0, len(texts), 28, 28 + 8 * len(texts), 0, 0)
    (tmp_path / "a.mo").write_bytes(header + b"".join(tables) + strings)
    assert list(read_mo(tmp_path / "a.mo")) == [("day", "日"), ("days", "日")]


def test_damaged_binary_catalogues_are_refused_whatever_the_damage(tmp_path: Path) -> None:
    good, path = io.BytesIO(), tmp_path / "a.mo"
    write_mo(good, catalogue())
    data = good.getvalue()
    for size in range(0, len(data) - 1, 7):  # the last byte closes a string that has ended
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"a\.mo"):
            list(read_mo(path))
    for place in range(4, 160):
        for value in (0, 127, 255):
            path.write_bytes(data[:place] + bytes([value]) + data[place + 1 :])
            try:
                list(read_mo(path))
            except ValueError as error:
                assert "a.mo" in str(error) and "\n" not in str(error)
    path.write_bytes(struct.pack("<7I", 0x950412DE, 0, 2**32 - 1, 28, 28, 0, 0))
    with pytest.raises(ValueError, match="damaged"):
        list(read_mo(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('msgid "a"\nmsgstr b\n', "line 2: expected msgid"),
        ('"a"\n', "line 1: expected msgid"),
        ('msgid ""\nmsgstr "Content-Type: text/plain; charset=klingon\\n"\n', "character set klingon"),
        ('msgid ""\nmsgstr "Content-Type: text/plain; charset=ascii\\n"\nmsgid "ä"\nmsgstr "b"\n', "is not ascii"),
    ],
)
def test_what_is_no_catalogue_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.po").write_text(text)
    with pytest.raises(ValueError, match=message):
        list(read_po(tmp_path / "a.po"))


def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("1\n2\n3\n")
    (tmp_path / "a.de").write_text("1\n2\n")
    (tmp_path / "a.tsv").write_text("a\tb\nno tab\n")
    (tmp_path / "a.jsonl").write_text('{"en": "a", "de": "b"}\n')
    (tmp_path / "b.jsonl").write_text('{"source": "a", "target": 3}\n')
    cases = {
        f"{tmp_path}/a.en+{tmp_path}/a.de": "3 lines and .*a.de 2;",
        f"{tmp_path}/a.en+{tmp_path}/gone": "there is no file .*gone",
        f"{tmp_path}/a.tsv": "line 2: expected two columns",
        f"{tmp_path}/a.jsonl": "no field source; set data.pair_fields",
        f"{tmp_path}/b.jsonl": "field target holds int",
        f"{tmp_path}/a.en": "none of the files that hold pairs",
        f"{tmp_path}/nothing": "there is no file or folder",
        "numbers:en": "names no two languages",
        "numbers:en-xx": "does not know the language xx",
        "dates:en-qq": "does not know the language qq",
    }
    for source, message in cases.items():
        with pytest.raises((ValueError, OSError), match=message) as refused:
            read(source)
        assert "\n" not in str(refused.value)
    events: list[object] = []
    assert list(read_pairs([str(tmp_path)], FIELDS, events.append)) == []
    assert [e.text.partition(";")[0] for e in events if isinstance(e, Message)] == ["3 files were left out"]
    with pytest.raises(ValueError, match="no pairs to score"):
        list(all_pairs([str(tmp_path)], FIELDS))


def test_numbers_and_dates_are_written_out() -> None:
    numbers = written_out("numbers:en-de")
    first = [next(numbers) for _ in range(500)]
    assert len(set(first)) == 500 and first[0] == ("zero", "null")
    small = sum("thousand" not in source for source, _ in first)
    whole = sum(source.endswith("thousand") for source, _ in first)
    assert 95 <= small <= 105 and 95 <= whole <= 105, "of every kind"
    words = {num2words(n, lang="en"): num2words(n, lang="de") for n in range(1000)}
    assert {s: t for s, t in first if "thousand" not in s}.items() <= words.items()
    dates = list(zip(range(3), written_out("dates:en-de"), strict=False))
    day = datetime.date(1900, 1, 1)
    assert dates[0][1] == ("Monday, January 1, 1900", "Montag, 1. Januar 1900") and day.weekday() == 0


def test_sources_are_split_by_their_hash_and_never_stand_on_both_sides(tmp_path: Path) -> None:
    lines = [f"source {i % 300}\ttarget {i}\n" for i in range(900)]
    (tmp_path / "a.tsv").write_text("".join(lines) + lines[0])
    config = DataConfig(source=(str(tmp_path / "a.tsv"),), format="pairs", heldout_fraction=0.2)
    train, heldout = list(training_pairs(config)), list(heldout_pairs(config))
    assert len(train) + len(heldout) == 900 and len(set(train + heldout)) == 900
    assert not {p.source for p in train} & {p.source for p in heldout}
    assert 0.1 < len(heldout) / 900 < 0.3
    assert [p.target for p in train] != sorted((p.target for p in train), key=lambda t: int(t.split()[1])), "mixed"
    (tmp_path / "a.tsv").write_text("".join(lines[:600]))
    assert set(heldout_pairs(config)) <= set(heldout)
    few = dataclasses.replace(config, max_bytes=500)
    size = sum(len(p.source) + len(p.target) for p in training_pairs(few))
    assert 470 < size <= 500
    (tmp_path / "test.tsv").write_text("source 7\tother\n")
    named = dataclasses.replace(config, heldout=str(tmp_path / "test.tsv"))
    assert list(heldout_pairs(named)) == [Pair("source 7", "other")]
    assert not [p for p in training_pairs(named) if p.source == "source 7"]
    with pytest.raises(ValueError, match=r"no pair of .* falls into the held-out share"):
        list(heldout_pairs(dataclasses.replace(config, heldout_fraction=0.0)))
