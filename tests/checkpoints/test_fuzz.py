"""Thousands of damaged folders: each opens, or is refused in one line, and none takes the memory that it claims."""

from __future__ import annotations

import json
import random
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from diptych.checkpoints.hugging_face import open_hugging_face
from tests.checkpoints import families

CASES = 5000
CONFIG, INDEX = "config.json", "model.safetensors.index.json"
EVIL: list[Any] = [
    *(0, -1, 1, 2, 3, 7, 16, 64, 10**6, 2**31, 2**63, 10**30, 10**400),
    *(0.5, -1.0, 1e308, float("nan"), float("inf"), True, False, None, "", "x", "../x", "a\nb", "\ud800", [], [[]], {}),
    {"rope_type": "llama3"},
    [0, 2**62],
    [1e9],
    "llama",
    "gpt2",
    "bert",
    "marian",
    "qwen3",
    "model-00001-of-00002.safetensors",
]


@contextmanager
def little_memory(room: int) -> Iterator[None]:
    """No more than `room` bytes beyond what the process has; what asks for more fails at once."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def evil_json(values: Any, rng: random.Random) -> Any:
    """The same JSON with one value, somewhere, replaced, repeated or gone."""
    if not isinstance(values, dict | list) or not values or rng.random() < 0.15:
        return rng.choice(EVIL)
    keys = list(values) if isinstance(values, dict) else list(range(len(values)))
    key = rng.choice(keys)
    changed = values.copy()
    match rng.randrange(6):
        case 0:
            del changed[key]
        case 1:
            changed[key] = values[rng.choice(keys)]
        case 2 if isinstance(changed, dict):
            changed[str(rng.choice(EVIL))] = values[key]
        case _:
            changed[key] = evil_json(values[key], rng)
    return changed


def evil_bytes(data: bytes, rng: random.Random) -> bytes:
    match rng.randrange(4):
        case 0:
            return data[: rng.randrange(len(data))]
        case 1:
            return data + rng.randbytes(rng.randrange(1, 40))
        case 2:
            place = rng.randrange(min(len(data), 600))
            return data[:place] + rng.randbytes(rng.randrange(1, 9)) + data[place + rng.randrange(9) :]
        case _:
            place = rng.randrange(len(data))
            return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]


def evil_file(name: str, data: bytes, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return evil_bytes(data, rng)
    if not name.endswith(".safetensors"):
        return json.dumps(evil_json(json.loads(data), rng)).encode()
    length = int.from_bytes(data[:8], "little")
    header = json.dumps(evil_json(json.loads(data[8 : 8 + length]), rng)).encode()
    claimed = len(header) if rng.random() < 0.95 else rng.choice([0, 1, len(header) + 9, 2**31, 2**63 - 1])
    return claimed.to_bytes(8, "little") + header + data[8 + length :]


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is a place for it: a disk would take most of the time."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.slow
def test_damaged_folders_open_or_are_refused_in_one_line(quick: Path) -> None:
    families.save(families._llama(num_hidden_layers=1, vocab_size=50), quick, max_shard_size="8KB")
    files = {path.name: path.read_bytes() for path in quick.iterdir() if path.name != "generation_config.json"}
    assert {CONFIG, INDEX} < set(files) and len(files) > 3
    open_hugging_face(quick)
    rng = random.Random(7)
    opened = refused = 0
    with little_memory(1 << 30):
        for case in range(CASES):
            names = rng.sample(sorted(files), rng.choice([1, 1, 1, 2]))
            for name in names:
                (quick / name).write_bytes(evil_file(name, files[name], rng))
            try:
                open_hugging_face(quick)
                opened += 1
            except (ValueError, FileNotFoundError) as error:
                message = str(error)
                assert len(message.splitlines()) == 1 and len(message) < 1000 and message.isprintable(), (case, message)
                refused += 1
            for name in names:
                (quick / name).write_bytes(files[name])
    assert opened + refused == CASES and min(opened, refused) > 200  # the mutations reach past the first check
