"""Is the table of character classes what other tables of Unicode say?"""

from __future__ import annotations

import sys
import unicodedata

import numpy as np
import pytest
import regex
import tiktoken

from diptych.tokenizers.classes import N_CODE_POINTS, Class, class_table

from .conftest import PATTERN_OF_CLASS

OF_CATEGORY = {"Lu": Class.UPPER, "Lt": Class.UPPER, "Ll": Class.LOWER, "Lm": Class.LETTER, "Lo": Class.LETTER}


def by_unicodedata(character: str) -> Class:
    """Python's own table; its isspace takes four control characters more than Unicode's White_Space."""
    if character in "\r\n":
        return Class.NEWLINE
    if character.isspace() and character not in "\x1c\x1d\x1e\x1f":
        return Class.SPACE
    category = unicodedata.category(character)
    return OF_CATEGORY.get(category) or {"M": Class.MARK, "N": Class.NUMBER}.get(category[0], Class.OTHER)


def test_ascii_and_latin_1_are_as_python_has_them() -> None:
    assert [Class(k) for k in class_table()[:256]] == [by_unicodedata(chr(c)) for c in range(256)]


def test_every_character_that_python_knows_and_did_not_move_has_its_class() -> None:
    table = class_table()
    characters = [chr(c) for c in range(N_CODE_POINTS) if not 0xD800 <= c < 0xE000]
    regex_says = np.zeros(N_CODE_POINTS, np.uint8)
    text = "".join(characters)
    for kind, pattern in PATTERN_OF_CLASS.items():
        regex_says[[ord(c) for c in regex.findall(pattern, text)]] = kind
    known = [
        c for c in characters if unicodedata.category(c) not in ("Cn", "Co") and regex_says[ord(c)] == by_unicodedata(c)
    ]
    wrong = [c for c in known if table[ord(c)] != regex_says[ord(c)]]
    assert len(known) > 140_000
    assert wrong == []
    assert (table[0xE000:0xF900] == Class.OTHER).all()  # private use


@pytest.mark.parametrize("kind", PATTERN_OF_CLASS)
def test_the_table_is_tiktokens(kind: Class) -> None:
    """What its pattern does not match, tiktoken leaves out of its output."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    probe = tiktoken.Encoding("probe", pat_str=PATTERN_OF_CLASS[kind], mergeable_ranks=ranks, special_tokens={})
    text = "".join(chr(c) for c in range(0x3500) if not 0xD800 <= c < 0xE000) + "".join(map(chr, range(0xA000, 0xD000)))
    text += "".join(map(chr, range(0xF900, 0x20000)))
    expected = "".join(c for c in text if class_table()[ord(c)] == kind)
    assert probe.decode(probe.encode_ordinary(text)) == expected


def test_the_table_has_a_class_for_every_code_point() -> None:
    table = class_table()
    assert table.shape == (sys.maxunicode + 1,)
    assert set(np.unique(table).tolist()) == {int(kind) for kind in Class}
    assert not table.flags.writeable
