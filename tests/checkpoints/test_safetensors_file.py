"""The safetensors reader and writer, beside the reference library and against files that lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych.checkpoints import safetensors_file
from diptych.checkpoints.safetensors_file import TensorToWrite, read_header, read_into, write_tensors

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1.5, -2.0]), "c": torch.zeros(0, 4)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def header_of(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    return dict(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]))


def with_header(path: Path, header: dict[str, Any] | bytes) -> None:
    data = path.read_bytes()
    body = data[8 + int.from_bytes(data[:8], "little") :]
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


@pytest.mark.parametrize("stored", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_numbers_are_those_of_the_reference_library(
    stored: torch.dtype, wanted: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensors_file, "AT_ONCE", 64)  # so that it takes several steps
    path = tmp_path / "x.safetensors"
    save_file({"x": torch.randn(7, 9).to(stored), "y": torch.randn(3, 1).to(stored)}, path)
    header, expected = read_header(path), load_file(path)
    for name, tensor in expected.items():
        for memory in (torch.empty(tensor.shape, dtype=wanted), torch.empty(tensor.T.shape, dtype=wanted).T):
            read_into(header[name], memory)
            assert torch.equal(memory, tensor.to(wanted))


def test_what_is_written_is_read_by_the_reference_library(tmp_path: Path) -> None:
    def given(tensor: Tensor) -> Callable[[], Tensor]:
        return lambda: tensor

    tensors = {**TENSORS, "é": torch.randn(5, 2).T}
    entries = [TensorToWrite(name=name, shape=tuple(t.shape), make=given(t)) for name, t in tensors.items()]
    for dtype in (torch.float32, torch.bfloat16):
        write_tensors(entries, tmp_path / "x.safetensors", dtype)
        read = load_file(tmp_path / "x.safetensors")
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[name], tensor.to(dtype)) for name, tensor in tensors.items())
        assert (8 + int.from_bytes((tmp_path / "x.safetensors").read_bytes()[:8], "little")) % 8 == 0


def change(name: str, **values: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda header: {**header, name: {**header[name], **values}}


@pytest.mark.parametrize(
    ("lie", "fragment"),
    [
        (change("a", shape=[2, 4]), "its header says"),
        (change("a", shape=[2**40, 2**40]), "its header says"),
        (change("a", shape=[-2, -3]), "has the shape"),
        (change("a", shape=[2.0, 3]), "has the shape"),
        (change("a", shape=[True, 6]), "has the shape"),
        (change("a", shape=3), "no type, shape and place"),
        (change("a", dtype="F64"), "its header says"),
        (change("a", dtype="F3"), "not understood"),
        (change("a", data_offsets=[0, 2**62]), "its header says"),
        (change("a", data_offsets=[-24, 0]), "its header says"),
        (change("a", data_offsets=[8, 32]), "overlaps|leaves a gap"),
        (change("b", data_offsets=[16, 24]), "overlaps"),
        (change("b", data_offsets=[32, 40]), "leaves a gap"),
        (change("a", data_offsets=[0]), "no type, shape and place"),
        (lambda header: {"a": header["a"]}, "its tensors end"),
        (lambda header: [], "no JSON object"),
        (lambda header: b'{"a": 1, "a": 2}', "stands twice"),
        (lambda header: b"[" * 100_000, "no valid JSON"),
        (lambda header: b'{"a": {"dtype": "F32"', "no valid JSON"),
        (lambda header: b"\xff\xfe{", "no valid JSON"),
        (lambda header: b'{"\\ud800": 1}', "no type, shape and place"),
    ],
)
def test_a_header_that_lies_is_refused_in_one_line(lie: Callable[[Any], Any], fragment: str, path: Path) -> None:
    with_header(path, lie(header_of(path)))
    with pytest.raises(ValueError, match=fragment) as caught:
        read_header(path)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.parametrize("length", [2**63, 2**31, 1 << 26, 4000])
def test_an_absurd_header_length_allocates_nothing(length: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_file, "parse_object", pytest.fail)
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ValueError, match="a header of"):
        read_header(path)


@pytest.mark.parametrize("count", [0, 7, 8, 60, -1])
def test_a_truncated_file_is_refused(count: int, path: Path) -> None:
    path.write_bytes(path.read_bytes()[:count])
    with pytest.raises(ValueError, match=r"x\.safetensors is damaged"):
        read_header(path)


def test_a_file_that_shrinks_after_its_header_was_read_is_refused(path: Path) -> None:
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="it ends within"):
        for name, tensor in TENSORS.items():
            read_into(header[name], torch.empty(tensor.shape))


def test_what_is_missing_or_of_another_shape_is_named(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_header(path.with_name("y.safetensors"))
    with pytest.raises(ValueError, match=r"'a' has shape \(2, 3\), but config.json asks for \(3, 2\)"):
        read_into(read_header(path)["a"], torch.empty(3, 2))
