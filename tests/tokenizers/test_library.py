"""Do tokenizers of all the families give the ids and texts of Hugging Face's library, and stand in its folders?"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tokenizers as hf
from diptych.core.config import TokenizerConfig
from diptych.tokenizers.base import EOS, end_of
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.hugging_face_folder import save_hugging_face
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.streaming import StreamDecoder
from diptych.tokenizers.train import train_tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from .conftest import TEXTS

SAMPLES = ["Hello, world! It's, don't do not .", "the then these", "a b  c", " lead", "trail ", "", "naïve Straße 🙂"]
SAMPLES += ["x=foo(bar)", "[CLS] a </s> <s>b [MASK]<mask>", "\n\n\t x", "日本語  the", *TEXTS[:4]]


def _around(before: str, behind: str, **ids: int) -> Any:
    tokens = [(name, ids[name.strip("[]<>/")]) for name in (before, behind) if name]
    return processors.TemplateProcessing(single=f"{before} $A {behind}".strip(), special_tokens=tokens)


def bert() -> hf.Tokenizer:
    tokenizer = hf.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*TEXTS, *SAMPLES], trainer)
    tokenizer.post_processor = _around("[CLS]", "[SEP]", CLS=2, SEP=3)
    return tokenizer


def t5() -> hf.Tokenizer:
    tokenizer = hf.Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(hf.Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = _around("", "</s>", s=1)
    return tokenizer


def llama(before: str) -> hf.Tokenizer:
    """Byte-pair merges of characters that fall back to bytes; before: how a space comes before a text."""
    tokenizer = hf.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    special = ["<unk>", "<s>", "</s>", *[f"<0x{byte:02X}>" for byte in range(256)]]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, limit_alphabet=40, show_progress=False)
    if before == "prepend":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.train_from_iterator([word for text in TEXTS for word in text.split()], trainer)
    values = json.loads(tokenizer.to_str())
    values["added_tokens"] = values["added_tokens"][:3]
    tokenizer = hf.Tokenizer.from_str(json.dumps(values))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    tokenizer.post_processor = _around("<s>", "", s=1)
    return tokenizer


def roberta() -> hf.Tokenizer:
    tokenizer = hf.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([hf.AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def llama3() -> hf.Tokenizer:
    """Byte-level, which the loops here encode; a beginning is put before texts."""
    tokenizer = hf.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), _around("<s>", "", s=0)])
    return tokenizer


FAMILIES: dict[str, tuple[Callable[[], hf.Tokenizer], str | None, str]] = {
    "bert": (bert, "[CLS]", "[SEP]"),
    "t5": (t5, None, "</s>"),
    "llama with a space before every part": (lambda: llama("prepend"), "<s>", "</s>"),
    "llama with a space at the beginning": (lambda: llama("first"), "<s>", "</s>"),
    "roberta": (roberta, "<s>", "</s>"),
    "llama3": (llama3, "<s>", "</s>"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    make, bos, eos = FAMILIES[request.param]
    theirs = make()
    folder = tmp_path_factory.mktemp("family")
    theirs.save(str(folder / "tokenizer.json"))
    return theirs, load_tokenizer(folder), bos, eos


def test_ids_and_texts_are_the_librarys(family: Any) -> None:
    theirs, ours, bos, eos = family
    assert ours.opening_id == theirs.token_to_id(bos or eos)
    assert ours.eos_id == theirs.token_to_id(eos)
    for text in SAMPLES:
        theirs.encode_special_tokens = True
        if ours.eos == "</s>" and ours.bos is None and "</s>" in text:
            continue  # the library's unigram makes special tokens of ordinary text, which is not done here
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text).tolist() == ids == ours.encode_list(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
        theirs.encode_special_tokens = False
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode(text, allowed_special="all").tolist() == ids
        if bos != "[CLS]":  # the library sets BERT's special tokens apart by spaces
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False)
    theirs.encode_special_tokens = True
    plain = [text for text in SAMPLES if "</s>" not in text]
    expected = [encoded.ids for encoded in theirs.encode_batch(plain, add_special_tokens=False)]
    assert [ids.tolist() for ids in ours.encode_batch(plain)] == expected
    theirs.encode_special_tokens = False


def test_some_special_tokens_are_text_and_others_are_not(family: Any) -> None:
    _, ours, _, eos = family
    others = [name for name in ours.special_tokens if name != eos]
    text = f"the{others[0]}then{eos}hen"
    ids = ours.encode(text, allowed_special={eos}).tolist()
    assert ids.count(ours.eos_id) == 1
    assert ours.special_tokens[others[0]] not in ids or others[0] in ("<unk>", "[UNK]")
    assert ours.eos_id not in ours.encode(text)
    with pytest.raises(ValueError, match="holds the special token"):
        ours.encode(text, disallowed_special="all")


def test_a_stream_shows_the_text(family: Any) -> None:
    _, ours, _, _ = family
    for text in SAMPLES:
        ids = ours.encode(text).tolist()
        decoder = StreamDecoder(ours)
        assert "".join([*map(decoder.push, ids), decoder.finish()]) == ours.decode(ids)
        pieces = b"".join(map(ours.token_bytes, ids))
        assert ours.decode_bytes(ids) == (pieces.removeprefix(b" ") if ours.drops_space else pieces)
        if len(ids) > 2:
            after = StreamDecoder(ours, continues=True)
            shown = ours.decode(ids[:2]) + "".join([*map(after.push, ids[2:]), after.finish()])
            assert "\ufffd" in shown or shown == ours.decode(ids)


def test_files_and_copies_give_the_same(family: Any, tmp_path: Path) -> None:
    _, ours, _, _ = family
    ours.save(tmp_path / "tokenizer.json")
    for again in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(ours))):
        assert (again.opening_id, again.eos_id, again.vocab_size) == (ours.opening_id, ours.eos_id, ours.vocab_size)
        assert [again.encode_list(text) for text in SAMPLES] == [ours.encode_list(text) for text in SAMPLES]


def test_transformers_opens_the_folder_with_the_same_ids(family: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    theirs, ours, bos, eos = family
    save_hugging_face(ours, tmp_path, chat_template="{{ bos_token }}", max_length=4321)
    opened, again = AutoTokenizer.from_pretrained(tmp_path), load_tokenizer(tmp_path)
    assert (again.opening_id, again.eos_id) == (ours.opening_id, ours.eos_id)
    assert (opened.bos_token, opened.eos_token) == (bos or eos, eos)
    assert opened.model_max_length == 4321
    assert opened.chat_template == "{{ bos_token }}"
    assert opened.pad_token == next((name for name in ("<pad>", "[PAD]") if name in ours.special_tokens), eos)
    for text in SAMPLES:
        assert opened(text)["input_ids"] == theirs.encode(text).ids
        plain = opened(text, add_special_tokens=False)["input_ids"]
        assert again.encode(text, allowed_special="all").tolist() == plain


@pytest.mark.parametrize("kind", ["byte", "bpe", "wordpiece", "unigram"])
def test_our_own_kinds_stand_in_a_folder(kind: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    config = TokenizerConfig(kind=kind, vocab_size=700, special_tokens=("<|mask|>",))
    ours = train_tokenizer(TEXTS, config)
    save_hugging_face(ours, tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    assert (opened.bos_token, opened.eos_token, opened.pad_token) == (EOS, EOS, EOS)
    assert opened.mask_token_id == ours.special_tokens["<|mask|>"]
    for text in [*SAMPLES, f"the{EOS}<|mask|>"]:
        assert opened(text)["input_ids"] == ours.encode(text, allowed_special="all").tolist()
        assert opened.decode(ours.encode(text)) == ours.decode(ours.encode(text))
    again = load_tokenizer(tmp_path)
    assert [again.encode_list(text) for text in SAMPLES] == [ours.encode_list(text) for text in SAMPLES]


@pytest.mark.parametrize("kind", ["character", "word", "sennrich"])
def test_what_has_no_such_form_is_refused_before_anything_is_written(kind: Any, tmp_path: Path) -> None:
    ours = train_tokenizer(TEXTS, TokenizerConfig(kind=kind, vocab_size=700))
    with pytest.raises(ValueError, match="cannot be written in Hugging Face's form"):
        save_hugging_face(ours, tmp_path)
    assert not any(tmp_path.iterdir())


def test_what_opens_and_closes_is_kept_without_the_configuration_that_named_it(
    bpe: BytePairTokenizer, tmp_path: Path
) -> None:
    names = {EOS: 379, "<|a|>": 380, "<|b|>": 381}
    pieces = [*bpe.pieces, b"<|a|>", b"<|b|>"]
    BytePairTokenizer(pieces, bpe.merges, bpe.split, names).save(tmp_path / "tokenizer.json")
    config = {"bos_token": "<|a|>", "add_bos_token": True, "eos_token": {"content": "<|b|>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    opened = load_tokenizer(tmp_path)
    assert (opened.opening_id, opened.eos_id) == (380, 381)
    opened.save(tmp_path / "alone" / "tokenizer.json")
    alone = load_tokenizer(tmp_path / "alone")
    assert (alone.opening_id, alone.eos_id) == (380, 381)
    assert hf.Tokenizer.from_file(str(tmp_path / "alone" / "tokenizer.json")).encode("the").ids[0] == 380
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|a|>", "add_bos_token": False}))
    assert load_tokenizer(tmp_path).opening_id == 379
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "<|a|>"}))
    assert load_tokenizer(tmp_path).eos_id == 380


def test_a_tokenizer_without_an_end_says_so(tmp_path: Path) -> None:
    tokenizer = hf.Tokenizer(models.WordLevel({"the": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    opened = load_tokenizer(tmp_path)
    assert opened.encode_list("the hen the") == [0, 1, 0]
    assert opened.decode([0, 1, 0]) == "the <unk> the"
    assert end_of(opened) is None


VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##n", "he", "##se", "n", ",", "na", "##ive", "日"]


@pytest.mark.parametrize("lower", [True, False])
def test_a_vocabulary_of_bert_gives_the_ids_of_transformers(lower: bool, tmp_path: Path) -> None:
    from transformers import BertTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    ours = load_tokenizer(tmp_path)
    theirs = BertTokenizer.from_pretrained(tmp_path, do_lower_case=lower)
    for text in ["The then, THEN these", "naïve 日本", "", "the\n\thesen", "[MASK] the"]:
        ids = [ours.opening_id, *ours.encode_list(text), ours.eos_id]
        if "[MASK]" in text:
            ids = [ours.opening_id, *ours.encode(text, allowed_special="all").tolist(), ours.eos_id]
        assert theirs(text)["input_ids"] == ids
    assert ours.decode(ours.encode("then, the")) == "then, the"


@pytest.mark.parametrize("content", [b"", b"the\n", b"[UNK]\n[CLS]\n[SEP]\nthe\nthe\n", b"\xff\xfe"])
def test_damaged_vocabularies_of_bert_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"vocab\.txt") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def _put(*path: str | int, value: object) -> Callable[[Any], None]:
    def change(values: Any) -> None:
        for name in path[:-1]:
            values = values[name]
        values[path[-1]] = value

    return change


DAMAGED = {
    "no vocabulary": _put("model", "vocab", value=None),
    "an empty vocabulary": _put("model", "vocab", value=[]),
    "a score that is none": _put("model", "vocab", 5, value=["a", "b"]),
    "an unknown token outside": _put("model", "unk_id", value=10**6),
    "an unknown token of no number": _put("model", "unk_id", value="x"),
    "a huge added id": _put("added_tokens", 0, "id", value=1 << 30),
    "an added token twice": lambda values: values["added_tokens"].append(dict(values["added_tokens"][0], id=7)),
    "an added token of no text": _put("added_tokens", 0, "content", value=3),
    "a normalizer of none": _put("normalizer", value={"type": "Nonsense"}),
    "a table of characters that is none": _put(
        "normalizer", value={"type": "Precompiled", "precompiled_charsmap": "AAAA////"}
    ),
    "a pattern without end": _put(
        "normalizer", value={"type": "Replace", "pattern": {"Regex": "((a{999}){999}){999}"}, "content": ""}
    ),
    "a pattern that calls itself": _put(
        "pre_tokenizer",
        value={"type": "Split", "pattern": {"Regex": "(?:a|(?R))+"}, "behavior": "Removed", "invert": False},
    ),
    "a decoder of none": _put("decoder", value=[1]),
    "a step that is none": _put("post_processor", value="x"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_end_in_one_line(damage: str, tmp_path: Path) -> None:
    values = json.loads(t5().to_str())
    DAMAGED[damage](values)
    (tmp_path / "tokenizer.json").write_text(json.dumps(values))
    try:
        opened = load_tokenizer(tmp_path)
        opened.decode(opened.encode("the é ☃"))
    except ValueError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 500 + len(str(tmp_path))
    else:
        # The library takes the first of two, and the id that a token of the vocabulary has.
        assert damage in ("an added token twice", "a huge added id")
