"""Are the yardsticks the programs that they name, in the units that they claim?"""

from __future__ import annotations

import lzma
import math
import random
import shutil
import subprocess
import sys

import pytest

from diptych.core.events import Message
from diptych.evaluation.yardsticks import compress_yardsticks, likelihood_yardstick, primed_xz_bytes

WORDS = ["sun", "rises", "from", "the", "east", "and", "sets", "in", "west", "while", "moon", "waits"]


def text(seed: int, words: int) -> bytes:
    rng = random.Random(seed)
    return " ".join(rng.choices(WORDS, k=words)).encode()


def test_each_row_has_consistent_bytes_and_bits() -> None:
    data = text(0, 4000)
    rows = compress_yardsticks(data, text(1, 4000))
    assert [row.name for row in rows] == ["xz -9e", "brotli 11", "primed xz -9e"]
    assert [row.primed for row in rows] == [False, False, True]
    for row in rows:
        assert row.bits_per_byte == pytest.approx(8 * row.bytes / len(data))
    entropy = math.log2(len(WORDS)) * 4000 / len(data)  # no code beats the source it was drawn from
    assert all(entropy < row.bits_per_byte < 3 for row in rows)


@pytest.mark.skipif(shutil.which("xz") is None, reason="the xz program is not installed")
def test_xz_is_the_program() -> None:
    data = text(2, 3000)
    piped = subprocess.run(["xz", "-9e", "--stdout", "--check=crc64"], input=data, capture_output=True, check=True)
    assert compress_yardsticks(data)[0].bytes == len(piped.stdout)


def test_xz_can_be_unpacked_again() -> None:
    data = text(3, 500)
    packed = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    assert lzma.decompress(packed) == data
    assert compress_yardsticks(data)[0].bytes == len(packed)


def test_priming_pays_for_what_was_read_and_for_nothing_else() -> None:
    noise = random.Random(4).randbytes(300_000)
    # A match of LZMA spans at most 273 bytes, so a copy of 50,000 costs some 183 matches of a few bytes each.
    assert primed_xz_bytes(noise[:50_000], noise) < 1000
    assert primed_xz_bytes(random.Random(5).randbytes(50_000), noise) >= 49_900


def test_a_likelihood_becomes_a_code_length() -> None:
    row = likelihood_yardstick("5-gram", nats=800 * math.log(2), n_bytes=400)
    assert (row.bytes, row.primed) == (100, True)
    assert row.bits_per_byte == pytest.approx(2.0)
    with pytest.raises(ValueError, match="at least one byte"):
        likelihood_yardstick("5-gram", nats=1.0, n_bytes=0)


def test_without_brotli_its_row_is_left_out_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "brotli", None)
    events: list[object] = []
    rows = compress_yardsticks(text(6, 100), on_event=events.append)
    assert [row.name for row in rows] == ["xz -9e"]
    assert [e.text for e in events if isinstance(e, Message) and "diptych[review]" in e.text]


def test_nothing_to_compress_is_refused() -> None:
    with pytest.raises(ValueError, match="no held-out text"):
        compress_yardsticks(b"")
