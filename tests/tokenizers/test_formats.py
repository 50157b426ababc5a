"""Do tokenizers go to Hugging Face's `tokenizers` and to tiktoken, and come from there, with the same ids?"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rustbpe
import tiktoken
import tiktoken.load
from hypothesis import given, settings
from hypothesis import strategies as st

import tokenizers as hf
from diptych.tokenizers.base import EOS
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.letters import BYTE_TO_LETTER
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.splitting import PATTERNS, Split
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from .conftest import TEXTS, some_text

SPLITS = ["gpt2", "llama3", "qwen2", "cl100k", "o200k", "words"]
ODD = ["", " ", "\n \r\n\t", EOS, f"a{EOS}b", "1234567 ٣٤٥ ½²Ⅷ", "é é", "I'LL 'll DON'Tx", "HTMLParser", "aaaa" * 90]
ODD += ["the" * 200, " " * 300 + "x", "日本語" * 40, "🙂🙂🏽", "\0\x7f\x80\xad", "==!!??//\n\n", "naïve\u0301 Å"]
# No characters that are newer than one of the Unicode tables, and no surrogates.
ASSIGNED = st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=40)
Three = tuple[BytePairTokenizer, hf.Tokenizer, tiktoken.Encoding]
some = settings(max_examples=100, deadline=None)


def texts() -> list[str]:
    """Odd texts, repetitive ones, and characters of all planes that have been assigned for long."""
    generator = random.Random(5)
    blocks = [(0x20, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x5D0, 0x5EA), (0x4E00, 0x9FA0), (0x1F600, 0x1F640)]
    mixed = ["".join(chr(generator.randint(*generator.choice(blocks))) for _ in range(60)) for _ in range(40)]
    return [*ODD, *mixed, *(some_text(seed, 40) for seed in range(100, 130))]


def differences(ours: BytePairTokenizer, theirs: Callable[[str], list[int]]) -> list[str]:
    """Texts that get other ids, or do not come back."""
    return [text for text in texts() if ours.encode_list(text) != theirs(text) or ours.decode(theirs(text)) != text]


def hugging_face(path: Path) -> hf.Tokenizer:
    """The file as they read it; special tokens in text are text, as with us."""
    theirs = hf.Tokenizer.from_file(str(path))
    theirs.encode_special_tokens = True
    return theirs


def opened(path: Path, split: str | None = None) -> BytePairTokenizer:
    tokenizer = load_tokenizer(path, split)
    assert isinstance(tokenizer, BytePairTokenizer)
    return tokenizer


def write_lines(ranks: dict[bytes, int], path: Path) -> None:
    """A file as `tiktoken.load.dump_tiktoken_bpe` writes it, which asks for a library of its own."""
    lines = (base64.b64encode(piece) + b" " + str(rank).encode() for piece, rank in ranks.items())
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def theirs_trained(pre_tokenizer: Any, **parts: Any) -> hf.Tokenizer:
    tokenizer = hf.Tokenizer(models.BPE(**parts))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.encode_special_tokens = True
    return tokenizer


@pytest.fixture(scope="module", params=SPLITS)
def trained(request: pytest.FixtureRequest) -> BytePairTokenizer:
    return train_bpe(TEXTS, 420, split=Split.named(request.param), special_tokens=[EOS, "<|pad|>"])


def test_a_tokenizer_trained_here_gives_the_same_ids_in_hugging_face(
    trained: BytePairTokenizer, tmp_path: Path
) -> None:
    trained.save(tmp_path / "tokenizer.json")
    theirs = hugging_face(tmp_path / "tokenizer.json")
    assert theirs.get_vocab_size() == trained.vocab_size
    assert {name: theirs.token_to_id(name) for name in trained.special_tokens} == trained.special_tokens
    assert differences(trained, lambda text: theirs.encode(text).ids) == []
    assert [theirs.decode(trained.encode_list(text)) for text in ODD] == ODD
    theirs.encode_special_tokens = False
    text = f"the{EOS}hen<|pad|>{EOS}"
    assert trained.encode(text, allowed_special="all").tolist() == theirs.encode(text).ids
    again = opened(tmp_path)
    assert again.split.rule == trained.split.rule
    assert again.pieces == trained.pieces
    assert again.merges == trained.merges
    assert again.special_tokens == trained.special_tokens


def test_a_tokenizer_trained_here_gives_the_same_ids_in_tiktoken(
    trained: BytePairTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    trained.save(tmp_path / "mine.tiktoken")
    theirs = tiktoken.Encoding(
        "mine",
        pat_str=trained.split.patterns[0],
        mergeable_ranks=tiktoken.load.load_tiktoken_bpe(str(tmp_path / "mine.tiktoken")),
        special_tokens=dict(trained.special_tokens),
    )
    assert differences(trained, theirs.encode_ordinary) == []
    again = opened(tmp_path / "mine.tiktoken", trained.split.patterns[0])
    assert differences(again, theirs.encode_ordinary) == []


@pytest.fixture(scope="module")
def all_three(tmp_path_factory: pytest.TempPathFactory) -> Three:
    ours = train_bpe(TEXTS, 420, split=Split.named("o200k"))
    path = tmp_path_factory.mktemp("o200k") / "tokenizer.json"
    ours.save(path)
    ranks = {piece: rank for rank, piece in enumerate(ours.ordinary) if piece}
    third = tiktoken.Encoding("mine", pat_str=PATTERNS["o200k"], mergeable_ranks=ranks, special_tokens={})
    return ours, hugging_face(path), third


@some
@given(text=ASSIGNED)
def test_ids_equal_in_all_three(all_three: Three, text: str) -> None:
    ours, theirs, third = all_three
    assert ours.encode_list(text) == theirs.encode(text).ids == third.encode_ordinary(text)


PARTS: dict[str, tuple[Any, Any, Any]] = {
    "gpt2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False), processors.ByteLevel(trim_offsets=False)),
    "llama3": (
        None,
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(hf.Regex(PATTERNS["llama3"]), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        processors.Sequence(
            [
                processors.ByteLevel(trim_offsets=False),
                processors.TemplateProcessing(single=f"{EOS} $A", special_tokens=[(EOS, 0)]),
            ]
        ),
    ),
    "qwen2": (
        normalizers.NFC(),
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(hf.Regex(PATTERNS["qwen2"]), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        None,
    ),
    "digits": (
        normalizers.NFKD(),
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
        processors.TemplateProcessing(single=f"$A {EOS}", special_tokens=[(EOS, 0)]),
    ),
    "runs of digits": (
        None,
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=False),
                pre_tokenizers.Split(hf.Regex("[a-f]+"), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("ignore_merges", [False, True])
def test_a_tokenizer_trained_by_hugging_face_gives_the_same_ids_here(
    name: str, ignore_merges: bool, tmp_path: Path
) -> None:
    normalizer, pre_tokenizer, processor = PARTS[name]
    theirs = theirs_trained(pre_tokenizer, ignore_merges=ignore_merges)
    if normalizer is not None:
        theirs.normalizer = normalizer
    if processor is not None:
        theirs.post_processor = processor
    theirs.save(str(tmp_path / "tokenizer.json"))
    if ignore_merges:  # a token that merges never make, so that it is seen whether they are ignored
        values = json.loads((tmp_path / "tokenizer.json").read_text())
        values["model"]["vocab"]["zzqz"] = theirs.get_vocab_size()
        (tmp_path / "tokenizer.json").write_text(json.dumps(values))
        theirs = hugging_face(tmp_path / "tokenizer.json")
    ours = opened(tmp_path)
    assert ours.eos_id == theirs.token_to_id(EOS) == 0
    assert ours.whole_pieces == ignore_merges
    for text in [*texts(), "zzqz", "zzqzz"]:
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode_list(text) == ids
        assert ours.decode(ids) == (text if normalizer is None else normalizer.normalize_str(text))
    assert len(ours.encode("zzqz")) == (1 if ignore_merges else 4)
    ours.save(tmp_path / "again.json")
    again = hugging_face(tmp_path / "again.json")
    plain = [again.encode(text, add_special_tokens=False).ids for text in texts()]
    assert plain == [ours.encode_list(text) for text in texts()]


def test_merges_are_read_as_lines_and_as_pairs(bpe: BytePairTokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path / "tokenizer.json")
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    assert all(isinstance(merge, list) for merge in values["model"]["merges"])
    values["model"]["merges"] = [" ".join(merge) for merge in values["model"]["merges"]]
    del values["model"]["type"]  # GPT-2's own file has none
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    assert opened(tmp_path).merges == bpe.merges


def test_the_end_of_a_document_is_what_the_configuration_beside_names(bpe: BytePairTokenizer, tmp_path: Path) -> None:
    train_bpe(TEXTS, 300, special_tokens=[EOS, "</s>"]).save(tmp_path / "tokenizer.json")
    assert opened(tmp_path).eos_id == 298
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    assert opened(tmp_path).eos_id == 299
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"tokenizer_config\.json is damaged"):
        load_tokenizer(tmp_path)


def without(bpe: BytePairTokenizer, letters: str, path: Path) -> None:
    """The tokenizer with some bytes left out of its vocabulary."""
    bpe.save(path)
    values = json.loads(path.read_text())
    for letter in letters:
        del values["model"]["vocab"][letter]
    path.write_text(json.dumps(values))


def test_bytes_that_a_vocabulary_leaves_out_are_dropped_as_there(bpe: BytePairTokenizer, tmp_path: Path) -> None:
    without(bpe, BYTE_TO_LETTER[4] + BYTE_TO_LETTER[0xF1], tmp_path / "tokenizer.json")
    ours, theirs = opened(tmp_path), hugging_face(tmp_path / "tokenizer.json")
    assert ours.vocab_size == bpe.vocab_size
    draw = random.Random(0)
    odd = ["".join(draw.choices(["the", "hen", "\4", "\U00040000", " ", "é"], k=12)) for _ in range(300)]
    expected = [theirs.encode(text).ids for text in odd]
    assert [ours.encode(text).tolist() for text in odd] == expected
    assert [ids.tolist() for ids in ours.encode_batch(odd)] == expected == [ours.encode_list(text) for text in odd]
    assert differences(ours, lambda text: theirs.encode(text).ids) == []
    assert ours.decode(ours.encode("t\4he")) == "the"
    assert ours.encode_bytes(b"\xf1t\xf1").tolist() == bpe.encode("t").tolist()
    assert ours.encode("\4\4").size == 0


def test_a_vocabulary_without_a_printable_letter_is_refused(bpe: BytePairTokenizer, tmp_path: Path) -> None:
    without(bpe, "q", tmp_path / "tokenizer.json")
    with pytest.raises(ValueError, match="byte 0x71 has no token"):
        load_tokenizer(tmp_path)


def test_added_tokens_that_are_not_special_are_recognized_in_every_text(bpe: BytePairTokenizer, tmp_path: Path) -> None:
    bpe.save(tmp_path / "tokenizer.json")
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    for name in ("<think>", "   ", "<tool>"):
        token = {"id": len(values["model"]["vocab"]), "content": name, "special": name == "<tool>"}
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        values["added_tokens"].append({**flags, **token})
        values["model"]["vocab"][name] = token["id"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    for _ in range(2):
        ours, theirs = opened(tmp_path), hugging_face(tmp_path / "tokenizer.json")
        assert ours.always == {"<think>", "   "}
        texts = ["a<think>the   hen<tool> x", "<think>", "   ", "    ", "<tool>", "the", f"a{EOS}"]
        expected = [theirs.encode(text).ids for text in texts]
        ours.encode_ordinary("<think>")
        assert [ours.encode(text).tolist() for text in texts] == expected
        assert [ours.encode_list(text) for text in texts] == expected
        assert [ids.tolist() for ids in ours.encode_batch(texts)] == expected
        ours.save(tmp_path / "tokenizer.json")  # and what is written is the same again


@pytest.mark.parametrize("split", ["gpt2", "cl100k", "o200k"])
def test_ranks_learnt_by_rustbpe_give_the_same_ids_as_in_tiktoken(split: str, tmp_path: Path) -> None:
    learner = rustbpe.Tokenizer()
    learner.train_from_iterator(iter(TEXTS), 420, pattern=PATTERNS[split])
    ranks = {bytes(piece): rank for piece, rank in learner.get_mergeable_ranks()}
    write_lines(ranks, tmp_path / "theirs.tiktoken")
    theirs = tiktoken.Encoding("theirs", pat_str=PATTERNS[split], mergeable_ranks=ranks, special_tokens={EOS: 420})
    ours = opened(tmp_path / "theirs.tiktoken", split)
    assert ours.special_tokens == {EOS: 420}
    assert differences(ours, theirs.encode_ordinary) == []
    text = f"the{EOS}then"
    assert ours.encode(text, allowed_special="all").tolist() == theirs.encode(text, allowed_special="all")
    # and on to Hugging Face
    ours.save(tmp_path / "tokenizer.json")
    third = hugging_face(tmp_path / "tokenizer.json")
    assert differences(ours, lambda text: third.encode(text).ids) == []


def test_ranks_with_gaps_keep_their_ids(bpe: BytePairTokenizer, tmp_path: Path) -> None:
    ranks = {piece: rank + 3 * (rank > 300) for rank, piece in enumerate(bpe.ordinary) if piece}
    write_lines(ranks, tmp_path / "gaps.tiktoken")
    theirs = tiktoken.Encoding("gaps", pat_str=PATTERNS["gpt2"], mergeable_ranks=ranks, special_tokens={})
    ours = opened(tmp_path / "gaps.tiktoken", "gpt2")
    assert ours.vocab_size == max(ranks.values()) + 2
    assert differences(ours, theirs.encode_ordinary) == []


def test_what_ranks_cannot_say_is_not_written(tmp_path: Path) -> None:
    a, b = 97, 98
    pieces = [*(bytes([byte]) for byte in range(256)), b"abb", b"ab", EOS.encode()]
    shuffled = BytePairTokenizer(pieces, [(a, b), (257, b)], Split.named("gpt2"), {EOS: 258})
    assert shuffled.encode_list("abb") == [256]
    with pytest.raises(ValueError, match="order of the merges"):
        shuffled.save(tmp_path / "some.tiktoken")
    small = [*pieces[:256], EOS.encode()]
    normalizing = BytePairTokenizer(small, [], Split.named("gpt2"), {EOS: 256}, normalization="NFC")
    with pytest.raises(ValueError, match="NFC"):
        normalizing.save(tmp_path / "some.tiktoken")
    assert not any(tmp_path.iterdir())


def test_vocab_and_merges_are_read_as_by_hugging_face_and_transformers(tmp_path: Path) -> None:
    from transformers import GPT2Tokenizer

    theirs = theirs_trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    theirs.model.save(str(tmp_path))
    assert (tmp_path / "merges.txt").read_text().startswith("#version")
    ours = opened(tmp_path)
    assert ours.special_tokens == {EOS: 0}
    assert differences(ours, lambda text: theirs.encode(text).ids) == []
    third = GPT2Tokenizer.from_pretrained(tmp_path)
    assert third.eos_token_id == ours.eos_id
    ordinary = [text for text in texts() if EOS not in text]
    assert [third(text)["input_ids"] for text in ordinary] == [ours.encode_list(text) for text in ordinary]
    (tmp_path / "merges.txt").write_text((tmp_path / "merges.txt").read_text().split("\n", 1)[1])
    assert opened(tmp_path).merges == ours.merges
