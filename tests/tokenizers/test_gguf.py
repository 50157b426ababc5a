"""Is a GGUF file read as its own library writes it, its tokenizer as Hugging Face has it, and a hostile one refused?"""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import tokenizers as hf
from diptych.core.gguf import read_header
from diptych.tokenizers.base import EOS
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.gguf import SPLITS, read_gguf
from diptych.tokenizers.letters import BYTE_TO_LETTER, to_letters
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.splitting import PATTERNS
from tokenizers import models, pre_tokenizers

from .conftest import TEXTS, some_text

CONTROL, USER_DEFINED, UNUSED = gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED, gguf.TokenType.UNUSED
SAMPLES = [*TEXTS[:6], "", EOS, "1234567 ٣٤٥ ½²", "I'LL it's  \n\n x", "HTMLParser a+b=<c>", some_text(77, 60)]


def write(path: Path, *, model: str | None = "gpt2", pre: str | None = "gpt-2", **others: Any) -> Path:
    """A file by GGUF's own library; `others`: tokens, types, merges, eos, and `add`, what else to write."""
    writer = gguf.GGUFWriter(path, "llama")
    if model is not None:
        writer.add_tokenizer_model(model)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    if "tokens" in others:
        writer.add_token_list(others["tokens"])
    if "types" in others:
        writer.add_token_types(others["types"])
    if "merges" in others:
        writer.add_token_merges(others["merges"])
    if "eos" in others:
        writer.add_eos_token_id(others["eos"])
    if "add" in others:
        others["add"](writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def parts(bpe: BytePairTokenizer) -> dict[str, Any]:
    """A tokenizer as GGUF holds it, with an unused token and a user-defined one."""
    tokens = [to_letters(piece) for piece in bpe.ordinary[:-1]]
    merges = [f"{tokens[left]} {tokens[right]}" for left, right in bpe.merges or ()]
    types = [gguf.TokenType.NORMAL] * len(tokens)
    return {
        "tokens": [*tokens, EOS, "[PAD380]", "<think>"],
        "types": [*types, CONTROL, UNUSED, USER_DEFINED],
        "merges": merges,
        "eos": len(tokens),
    }


@pytest.fixture(scope="module")
def file(bpe: BytePairTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "model.gguf", **parts(bpe))


def message(path: Path, split: str | None = None) -> str:
    """The refusal, which is one line and takes little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            read_gguf(path, split)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 400 + len(str(path))
    return text


def test_the_header_is_what_the_library_wrote(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    tensors = {
        "embedding": generator.standard_normal((7, 64)).astype(np.float32),
        "half": generator.standard_normal((2, 3, 32)).astype(np.float16),
        "one": np.ones(1, np.float32),
    }

    def add(writer: gguf.GGUFWriter) -> None:
        for bits in (8, 16, 32, 64):
            getattr(writer, f"add_uint{bits}")(f"u{bits}", 2**bits - 1)
            getattr(writer, f"add_int{bits}")(f"i{bits}", -(2 ** (bits - 1)))
        writer.add_float32("f32", 0.1)
        writer.add_float64("f64", -0.1)
        writer.add_bool("yes", True)
        writer.add_bool("no", False)
        writer.add_string("text", "naïve 日\n\0")
        writer.add_string("empty", "")
        writer.add_array("strings", ["", "a", "日"])
        writer.add_array("whole numbers", [1, -2, 3])
        writer.add_array("fractions", [0.5, -1.25])
        writer.add_array("truths", [True, False, True])
        for name, tensor in tensors.items():
            writer.add_tensor(name, tensor)
        quantized = gguf.quantize(tensors["embedding"], gguf.GGMLQuantizationType.Q8_0)
        writer.add_tensor("quantized", quantized, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    path = write(tmp_path / "all.gguf", add=add)
    header, theirs = read_header(path), gguf.GGUFReader(path)
    expected = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    found = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in header.metadata.items()}
    assert found == expected
    assert [type(found[key]) for key in ("yes", "u8", "f32")] == [bool, int, float]
    assert found["f32"] == float(np.float32(0.1))
    assert header.version == gguf.GGUF_VERSION
    assert {name: (t.shape, t.ggml_type, t.offset) for name, t in header.tensors.items()} == {
        tensor.name: (tuple(tensor.shape.tolist()[::-1]), int(tensor.tensor_type), tensor.data_offset)
        for tensor in theirs.tensors
    }
    data = path.read_bytes()
    for name, tensor in tensors.items():
        info = header.tensors[name]
        assert info.shape == tensor.shape
        assert data[info.offset : info.offset + tensor.nbytes] == tensor.tobytes()
    assert header.tensors["quantized"].shape == (7, 64)


def test_values_of_another_type_are_refused_by_name(tmp_path: Path) -> None:
    def add(writer: gguf.GGUFWriter) -> None:
        writer.add_bool("truth", True)
        writer.add_array("strings", ["a"])

    header = read_header(write(tmp_path / "some.gguf", add=add))
    wrong = {"truth": (header.whole, header.text, header.strings), "strings": (header.numbers,)}
    for read, key in [(read, key) for key, reads in wrong.items() for read in reads]:
        with pytest.raises(ValueError, match=f"{key} is not a"):
            read(key)
        assert read("nothing") is None


def split_of(pre: str) -> Any:
    """Hugging Face's steps for the models whose files have these names."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    match pre:
        case "gpt-2" | "olmo":
            return byte_level
        case "smollm" | "starcoder":
            return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
        case "default":
            steps = [r"[\p{P}\$\+<=>\^~\|]+", PATTERNS["gpt2"], r"\p{N}+", "[0-9][0-9][0-9]"]
        case _:
            names = {"llama-bpe": "llama3", "smaug-bpe": "llama3", "gpt-4o": "o200k", "llama4": "o200k"}
            steps = [PATTERNS[names.get(pre, pre)]]
    return pre_tokenizers.Sequence([*(pre_tokenizers.Split(hf.Regex(step), "isolated") for step in steps), cut])


@pytest.mark.parametrize(
    "pre", ["gpt-2", "olmo", "llama-bpe", "smaug-bpe", "qwen2", "smollm", "starcoder", "gpt-4o", "llama4", "default"]
)
def test_ids_equal_hugging_face_on_the_same_vocabulary(pre: str, bpe: BytePairTokenizer, tmp_path: Path) -> None:
    values = parts(bpe)
    values["tokens"][-3:-3], values["types"][-3:-3] = ["qxq"], [gguf.TokenType.NORMAL]  # which merges never make
    values["eos"] += 1
    ours = load_tokenizer(write(tmp_path / "model.gguf", pre=pre, **values))
    pairs = [tuple(merge.split(" ")) for merge in values["merges"]]
    vocab = {name: token for token, name in enumerate(values["tokens"][:-3])}
    theirs = hf.Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=pre == "llama-bpe"))
    theirs.pre_tokenizer = split_of(pre)
    for text in [*SAMPLES, "qxq"]:
        assert ours.encode_list(text) == theirs.encode(text).ids
        assert ours.decode(ours.encode(text)) == text
    assert ours.eos_id == values["eos"] == len(vocab)
    assert ours.special_tokens == {EOS: values["eos"], "<think>": values["eos"] + 2}
    assert ours.vocab_size == len(values["tokens"])
    assert ours.token_bytes(values["eos"] + 1) == b""
    assert ours.encode("a<think>", allowed_special="all").tolist()[-1] == values["eos"] + 2


def test_a_tokenizer_trained_here_comes_back(bpe: BytePairTokenizer, file: Path) -> None:
    ours = load_tokenizer(file.parent)
    assert [ours.encode_list(text) for text in SAMPLES] == [bpe.encode_list(text) for text in SAMPLES]
    assert ours.eos_id == bpe.eos_id


def test_bytes_that_the_vocabulary_leaves_out_are_dropped(bpe: BytePairTokenizer, tmp_path: Path) -> None:
    values = parts(bpe)
    values["types"][values["tokens"].index(BYTE_TO_LETTER[4])] = UNUSED
    ours = load_tokenizer(write(tmp_path / "model.gguf", **values))
    assert ours.vocab_size == len(values["tokens"])
    assert ours.encode_list("\4") == [] and ours.decode(ours.encode("t\4he")) == "the"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": None}, "holds no tokenizer"),
        ({"model": "rwkv"}, "'rwkv' (RWKV's greedy)"),
        ({"model": "bert"}, "'bert' (WordPiece)"),
        ({"model": "rwkv"}, "'rwkv'"),
        ({"model": "none\n\x1b[31m"}, "not 'none\\n"),
        ({"pre": "deepseek-v3"}, "'deepseek-v3', which is not known here; name the split, as in --split gpt2"),
        ({"pre": None}, "--split gpt2"),
        ({"tokens": None}, "holds no tokens"),
        ({"types": [1, 1]}, "2 types of tokens"),
        ({"types": [9] * 382}, "token 0 has the type 9"),
        ({"tokens": ["a"] * 382}, "tokens 0 and 1 are the same"),
        ({"tokens": ["a b"] * 382, "types": [1] + [UNUSED] * 381}, "letters of bytes"),
        ({"merges": None}, "no list of merges"),
        ({"merges": ["a"]}, "first merge is no pair"),
        ({"merges": ["a b", "q \u00e9\u00e9"]}, "makes"),
        ({"merges": [f"a {EOS}"]}, "first merge is no pair"),
    ],
)
def test_what_is_not_read_is_refused_by_name(
    changes: dict[str, Any], reason: str, bpe: BytePairTokenizer, tmp_path: Path
) -> None:
    values = {**parts(bpe), **changes}
    missing = [name for name, value in values.items() if value is None and name not in ("model", "pre")]
    for name in missing:
        del values[name]
    if "merges" in changes and changes["merges"] and "q" in changes["merges"][-1]:
        values["merges"] = [*parts(bpe)["merges"], "q Q"]
    assert reason in message(write(tmp_path / "model.gguf", **values))


def test_a_named_split_takes_the_place_of_an_unknown_one(bpe: BytePairTokenizer, tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", **{**parts(bpe), "pre": "deepseek-v3"})
    ours = load_tokenizer(path, "gpt2")
    assert ours.encode_list(TEXTS[0]) == bpe.encode_list(TEXTS[0])
    assert "deepseek-v3" not in SPLITS


def key(name: str) -> bytes:
    return struct.pack("<Q", len(name)) + name.encode()


def head(tensors: int, pairs: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)


def tensor(name: str, shape: tuple[int, ...], offset: int = 0) -> bytes:
    return key(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no GGUF file"),
    "three letters": (b"GGU", "no GGUF file"),
    "magic alone": (b"GGUF", "ends before its version"),
    "version 1": (head(0, 0, 1), "version 1"),
    "version 4": (head(0, 0, 4), "version 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "tensors": (head(2**63, 0) + bytes(99), "claims 9,223,372,036,854,775,808 tensors"),
    "pairs": (head(0, 2**64 - 1) + bytes(99), "key-value pairs"),
    "a few pairs too many": (head(0, 9) + bytes(99), "key-value pairs"),
    "long key": (head(0, 1) + struct.pack("<Q", 2**60) + bytes(99), "more than the file can hold"),
    "key of 70 kB": (head(0, 1) + key("k" * 70_000) + bytes(99), "a key of 70,000 bytes"),
    "key is no UTF-8": (head(0, 1) + struct.pack("<Q", 2) + b"\xff\xfe" + bytes(99), "a key is not UTF-8"),
    "key twice": (head(0, 2) + (key("a") + struct.pack("<IB", 0, 1)) * 2, "stands twice: a"),
    "unknown type": (head(0, 1) + key("a") + struct.pack("<IQ", 13, 0), "type 13"),
    "no value": (head(0, 1) + key("a") + struct.pack("<I", 10) + b"123", "ends within a"),
    "neither true nor false": (head(0, 1) + key("a") + struct.pack("<IB", 7, 2), "neither true nor false"),
    "string beyond the end": (head(0, 1) + key("a") + struct.pack("<IQ", 8, 2**40) + b"x", "ends within a"),
    "string is no UTF-8": (head(0, 1) + key("a") + struct.pack("<IQ", 8, 1) + b"\xff", "a is not UTF-8"),
    "array of arrays": (head(0, 1) + key("a") + struct.pack("<IIQ", 9, 9, 1) + bytes(20), "array of arrays"),
    "array of unknown type": (head(0, 1) + key("a") + struct.pack("<IIQ", 9, 77, 1) + bytes(20), "type 77"),
    "long array": (head(0, 1) + key("a") + struct.pack("<IIQ", 9, 12, 2**61) + bytes(20), "values of a"),
    "long array of strings": (head(0, 1) + key("a") + struct.pack("<IIQ", 9, 8, 2**61) + bytes(20), "values of a"),
    "cut array": (head(0, 1) + key("a") + struct.pack("<IIQQ", 9, 8, 2, 3) + b"abcdefgh1", "ends within a"),
    "alignment": (head(0, 1) + key("general.alignment") + struct.pack("<II", 4, 0), "multiple of 8"),
    "alignment is text": (head(0, 1) + key("general.alignment") + struct.pack("<I", 8) + key("8"), "multiple of 8"),
    "far": (head(1, 1) + key("general.alignment") + struct.pack("<II", 4, 2**31) + tensor("t", ()), "outside"),
    "dimensions": (head(1, 0) + tensor("t", (1,) * 5), "5 dimensions"),
    "huge tensor": (head(1, 0) + tensor("t", (2**40, 2**40, 2**40)) + bytes(99), "larger than the file"),
    "tensor behind the end": (head(1, 0) + tensor("t", (1,), 3200) + bytes(99), "outside the file"),
    "tensor not aligned": (head(1, 0) + tensor("t", (1,), 4) + bytes(99), "not aligned"),
    "tensor twice": (head(2, 0) + tensor("t", (1,)) * 2 + bytes(99), "stands twice: t"),
    "cut tensor": (head(1, 0) + tensor("t", (1,))[:-4] + b"", "ends before"),
    "line feed in a name": (head(0, 2) + (key("a\nb") + struct.pack("<IB", 0, 1)) * 2, "stands twice: a\\nb"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    content, reason = HOSTILE[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert reason in message(path)


def test_a_string_array_as_long_as_a_hostile_file_allows_is_refused_early(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(head(0, 1) + key("a") + struct.pack("<IIQ", 9, 8, 2**27))
        file.truncate(2**30 + 1000)
    assert "134,217,728 strings" in message(path)


def test_the_tensors_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(head(1, 0) + tensor("t", (2**30,)))
        file.truncate(2**32 + 4096)
    tracemalloc.start()
    info = read_header(path).tensors["t"]
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
    assert (info.shape, info.offset) == ((2**30,), 64)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.gguf", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            read_header(path)


def mutated(data: bytes, generator: random.Random) -> bytes:
    """A file with a few bytes changed, put in or taken out, or with a number that is out of all bounds."""
    changed = bytearray(data)
    for _ in range(generator.choice([1, 1, 1, 3, 10])):
        place = generator.randrange(len(changed))
        match generator.randrange(5):
            case 0:
                changed[place] = generator.randrange(256)
            case 1:
                changed[place] ^= 1 << generator.randrange(8)
            case 2:
                del changed[place : place + generator.randrange(1, 40)]
            case 3:
                changed[place:place] = generator.randbytes(generator.randrange(1, 12))
            case _:
                number = generator.choice([0, 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1])
                changed[place : place + 8] = struct.pack("<Q", number)
    return bytes(changed)


def small_file(path: Path, bpe: BytePairTokenizer) -> bytes:
    """Few tokens, so that the structure is a large part of the file, and a tensor."""
    values = parts(bpe)
    tokens = [to_letters(bytes([byte])) for byte in range(256)] + ["ab", EOS]
    values |= {"tokens": tokens, "types": [1] * 257 + [CONTROL], "merges": ["a b"], "eos": 257}
    values["add"] = lambda writer: writer.add_tensor("weight", np.ones((4, 32), np.float32))
    return write(path, **values).read_bytes()


def test_whatever_is_changed_or_cut_a_file_loads_or_is_refused(bpe: BytePairTokenizer, tmp_path: Path) -> None:
    data = small_file(tmp_path / "whole.gguf", bpe)
    structure = data.index(b"tokenizer.ggml.tokens")
    generator = random.Random(11)
    path = tmp_path / "model.gguf"
    loaded = refused = 0
    cut = [data[:size] for size in range(0, len(data), 11)]
    starts = [mutated(data[: structure + 60], generator) + data[structure + 60 :] for _ in range(1400)]
    everywhere = [mutated(data, generator) for _ in range(700)]
    for content in [*cut, *starts, *everywhere]:
        path.write_bytes(content)
        try:
            tokenizer = read_gguf(path)
            assert tokenizer.decode(tokenizer.encode("abc é")) == "abc é"
            loaded += 1
        except ValueError as error:
            text = str(error)
            assert str(path) in text
            assert "\n" not in text
            assert len(text) < 400 + len(str(path))
            refused += 1
    assert loaded > 20
    assert refused > 1000
    assert loaded + refused >= 2000
