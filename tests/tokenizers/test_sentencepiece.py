"""Are SentencePiece's models, alone, in GGUF files and as Marian's, read with the ids of SentencePiece itself?"""

from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import pytest
import sentencepiece

from diptych.tokenizers.base import end_of
from diptych.tokenizers.gguf import read_gguf
from diptych.tokenizers.hugging_face_folder import save_hugging_face
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.marian import MarianTokenizer
from diptych.tokenizers.protobuf import read_fields
from diptych.tokenizers.streaming import StreamDecoder

from .conftest import TEXTS, odd_text

generator = random.Random(0)
SAMPLES = ["Hello, world! It's don't", "the then these", "a b  c", " lead", "trail ", "", "  ", "naïve Straße 日本 🙂"]
SAMPLES += ["x=foo(bar)", "</s> <s>b", "\n\n\t x", "aaaaaaa aaaa", "aba ababaab", *TEXTS[:4]]
SAMPLES += [odd_text(generator, 10) for _ in range(30)]
PLAIN = [
    "Hello, world! It's don't",
    "the then  these ",
    " ﬁve ①",
    "naïve Straße 日本",
    "x=foo(bar)",
    "ＷＩＤＥ ½",
    "aaa",
]
"""Without the sequences in which the library's table of characters differs."""

KINDS = {
    "llama": {"model_type": "bpe", "byte_fallback": True, "remove_extra_whitespaces": False},
    "without a space before": {"model_type": "bpe", "byte_fallback": True, "add_dummy_prefix": False},
    "without bytes": {"model_type": "bpe"},
    "unigram": {"model_type": "unigram"},
    "unigram with bytes": {"model_type": "unigram", "byte_fallback": True, "remove_extra_whitespaces": False},
    "with symbols": {
        "model_type": "bpe",
        "byte_fallback": True,
        "remove_extra_whitespaces": False,
        "add_dummy_prefix": False,
        "user_defined_symbols": "<x>",
    },
}


def train(folder: Path, name: str = "tokenizer", **options: Any) -> sentencepiece.SentencePieceProcessor:
    folder.mkdir(exist_ok=True)
    (folder / "text.txt").write_text("\n".join(text.replace("\n", " ") for text in TEXTS))
    settings = {"normalization_rule_name": "identity", "hard_vocab_limit": False, "minloglevel": 9, **options}
    coverage, size = (0.98, 420) if options.get("byte_fallback") else (1.0, 200)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / name),
        vocab_size=size,
        character_coverage=coverage,
        **settings,
    )
    return sentencepiece.SentencePieceProcessor(str(folder / f"{name}.model"))


def unknown(text: str) -> str:
    """SentencePiece decodes the unknown token to a sign of its own."""
    return text.replace(" ⁇ ", "<unk>")


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    theirs = train(folder, **KINDS[request.param])
    return theirs, load_tokenizer(folder), folder


def test_ids_and_texts_are_sentencepieces(pair: Any, tmp_path: Path) -> None:
    theirs, ours, _ = pair
    ours.save(tmp_path / "tokenizer.json")
    again = load_tokenizer(tmp_path)
    for text in [*SAMPLES, "the<x>then <x>"]:
        ids = theirs.encode(text)
        assert ours.encode_list(text) == ids == again.encode_list(text)
        assert ours.decode(ids) == unknown(theirs.decode(ids))
        decoder = StreamDecoder(ours)
        assert "".join([*map(decoder.push, ids), decoder.finish()]) == ours.decode(ids)
    assert ours.vocab_size == theirs.vocab_size()
    assert end_of(ours) == theirs.eos_id()


def test_what_opens_a_text(pair: Any) -> None:
    theirs, ours, folder = pair
    is_bpe = ours.values["model"]["type"] == "BPE"
    assert ours.opening_id == (theirs.bos_id() if is_bpe else theirs.eos_id())
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": not is_bpe, "bos_token": "<s>"}))
    assert load_tokenizer(folder).opening_id == (theirs.eos_id() if is_bpe else theirs.bos_id())
    (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("extra", [True, False])
def test_characters_are_rewritten(kind: str, extra: bool, tmp_path: Path) -> None:
    options = {"model_type": kind, "normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": extra}
    theirs = train(tmp_path, byte_fallback=True, **options)
    ours = load_tokenizer(tmp_path)
    for text in PLAIN:
        assert ours.encode_list(text) == theirs.encode(text)
        assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))


def test_transformers_opens_the_folder_with_the_same_ids(pair: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    _, ours, _ = pair
    save_hugging_face(ours, tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    for text in SAMPLES:
        expected = ours.encode(text, allowed_special="all").tolist()
        assert opened(text, add_special_tokens=False)["input_ids"] == expected
        bos = [ours.opening_id] if ours.bos else []
        assert opened(text)["input_ids"] == bos + expected


def write_gguf(path: Path, model: str, theirs: Any, **options: Any) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(model)
    numbers = range(theirs.vocab_size())
    kinds = [
        (theirs.is_unknown, gguf.TokenType.UNKNOWN),
        (theirs.is_control, gguf.TokenType.CONTROL),
        (theirs.is_unused, gguf.TokenType.UNUSED),
        (theirs.is_byte, gguf.TokenType.BYTE),
        (lambda token: theirs.id_to_piece(token) == "<x>", gguf.TokenType.USER_DEFINED),
        (lambda _: True, gguf.TokenType.NORMAL),
    ]
    writer.add_token_list(options.pop("tokens", [theirs.id_to_piece(token) for token in numbers]))
    writer.add_token_scores(options.pop("scores", [theirs.get_score(token) for token in numbers]))
    writer.add_token_types([next(kind for holds, kind in kinds if holds(token)) for token in numbers])
    writer.add_bos_token_id(theirs.bos_id())
    writer.add_eos_token_id(theirs.eos_id())
    for name, value in options.items():
        getattr(writer, f"add_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_gives_the_ids_of_the_model_that_it_was_made_of(pair: Any, tmp_path: Path) -> None:
    theirs, original, _ = pair
    model = "llama" if original.values["model"]["type"] == "BPE" else "t5"
    options = {"add_space_prefix": original.drops_space}
    extra = theirs.encode("a  b") == theirs.encode("a b")
    path = write_gguf(tmp_path / "model.gguf", model, theirs, remove_extra_whitespaces=extra, **options)
    ours = read_gguf(path)
    for text in SAMPLES:
        assert ours.encode_list(text) == theirs.encode(text)
        assert ours.decode(theirs.encode(text)) == unknown(theirs.decode(theirs.encode(text)))
    assert ours.eos_id == theirs.eos_id()
    assert ours.opening_id == (theirs.bos_id() if model == "llama" else theirs.eos_id())
    other = write_gguf(tmp_path / "other.gguf", model, theirs, add_bos_token=model == "t5", **options)
    assert read_gguf(other).opening_id == (theirs.eos_id() if model == "llama" else theirs.bos_id())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tokens": ["a"]}, "do not fit"),
        ({"tokens": ["a"] * 420}, "twice"),
        ({"scores": [float("nan")] * 420}, "no finite number"),
        ({"scores": [1.0]}, "do not fit"),
        ({"tokens": [f"{n}" * 600 for n in range(420)]}, "longer than 1000"),
    ],
)
def test_damaged_gguf_vocabularies_are_refused(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    theirs = train(tmp_path, **KINDS["llama"])
    path = write_gguf(tmp_path / "model.gguf", "llama", theirs, **changes)
    with pytest.raises(ValueError, match=reason) as caught:
        read_gguf(path)
    assert "\n" not in str(caught.value)


def test_merges_of_equal_scores_go_from_the_left(tmp_path: Path) -> None:
    theirs = train(tmp_path, **KINDS["llama"])
    flat = [0.0 if score < 0 else score for score in map(theirs.get_score, range(theirs.vocab_size()))]
    ours = read_gguf(write_gguf(tmp_path / "flat.gguf", "llama", theirs, scores=flat))
    assert ours.decode(ours.encode("the then")) == "the then"


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_changed_or_cut_a_model_loads_or_is_refused(seed: int, tmp_path: Path) -> None:
    train(tmp_path, **KINDS["unigram"])
    path = tmp_path / "tokenizer.model"
    data, draw = bytearray(path.read_bytes()), random.Random(seed)
    for _ in range(20):
        changed = bytearray(data)
        for _ in range(draw.choice([1, 1, 3])):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
        path.write_bytes(changed[: draw.choice([len(changed), len(changed), draw.randrange(len(changed))])])
        tracemalloc.start()
        try:
            tokenizer = load_tokenizer(path)
            tokenizer.decode(tokenizer.encode("the é ☃"))
        except ValueError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 500 + len(str(path))
        finally:
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
            tracemalloc.stop()


@pytest.mark.parametrize(
    "data", [b"\x0b", b"\x0a\xff\xff\xff\xff\x0fa", b"\x08" + b"\xff" * 11, b"\0", b"\x0d\0", b"\x08"]
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_fields(data)


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import MarianTokenizer as Theirs

    folder = tmp_path_factory.mktemp("marian")
    options = {"model_type": "unigram", "normalization_rule_name": "nmt_nfkc"}
    source = train(folder, "source", **options)
    target = train(folder, "target", user_defined_symbols="thi", **options)
    pieces = sorted({model.id_to_piece(n) for model in (source, target) for n in range(3, model.vocab_size())})
    names = ["</s>", "<unk>", *pieces[:-1], ">>fra<<", "<pad>"]  # one piece has no id
    (folder / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    for name in ("source", "target"):
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
    (folder / "text.txt").unlink()
    return Theirs.from_pretrained(folder), load_tokenizer(folder)


def test_marians_ids_are_those_of_transformers(marian: Any, tmp_path: Path) -> None:
    theirs, ours = marian
    assert isinstance(ours, MarianTokenizer)
    ours.save(tmp_path / "tokenizer.json")
    for tokenizer in (ours, load_tokenizer(tmp_path)):
        assert tokenizer.eos_id == theirs.eos_token_id
        assert tokenizer.opening_id == theirs.pad_token_id  # which begins what is decoded
        for text in [*PLAIN, *TEXTS[:3], ">>fra<< the then", "", "☃ thi", "the then these hen"]:
            ids = theirs(text)["input_ids"]
            assert [*tokenizer.encode_list(text), tokenizer.eos_id] == ids
            target = theirs(text_target=text)["input_ids"][:-1]
            if ">>" not in text:
                assert tokenizer.encode_target(text).tolist() == target
            if theirs.unk_token_id not in target:  # which transformers sets apart by spaces
                assert tokenizer.decode(target) == theirs.decode(target, clean_up_tokenization_spaces=False)


def test_marians_folder_is_opened_by_transformers(marian: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    theirs, ours = marian
    save_hugging_face(ours, tmp_path, max_length=55)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "marian"}))
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert (type(opened), opened.model_max_length) == (type(theirs), 55)
    for text in [*PLAIN, ">>fra<< the"]:
        assert opened(text)["input_ids"] == theirs(text)["input_ids"]
        assert opened(text_target=text)["input_ids"] == theirs(text_target=text)["input_ids"]


@pytest.mark.parametrize("damage", ["source.spm", "vocab.json", "ids", "no end"])
def test_damaged_parts_of_marian_are_refused(damage: str, marian: Any, tmp_path: Path) -> None:
    _, ours = marian
    ours.save_folder(tmp_path)
    vocab = {"ids": {**ours.vocab, "x": 10**9}, "no end": {"a": 0}}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab.get(damage, ours.vocab)))
    if damage in ("source.spm", "vocab.json"):
        (tmp_path / damage).write_bytes(b"\xff[" * 100)
    with pytest.raises(ValueError, match="is damaged") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
