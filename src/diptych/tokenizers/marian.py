"""What is the tokenizer of a translation model of Marian (OPUS-MT)? Two SentencePiece models and one vocabulary.

A text of the source language is cut by source.spm, one of the target language by target.spm; vocab.json numbers the
pieces of both. `encode` takes the source side, `encode_target` the target side, and tokens decode the same on both.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from diptych.core.files import replacing, write_text
from diptych.tokenizers.base import Ids, utf8
from diptych.tokenizers.hugging_face import brief, count_ids
from diptych.tokenizers.vocabulary import VocabularyOfBytes

SOURCE, TARGET, VOCABULARY = "source.spm", "target.spm", "vocab.json"
_EOS, _UNKNOWN, _PAD = "</s>", "<unk>", "<pad>"
_MOST_BYTES = 1 << 26


@final
class MarianTokenizer(VocabularyOfBytes):
    """Pieces of two languages under one numbering.

    source, target: serialized SentencePiece models. vocab: pieces and their ids; those of the form >>name<< name the
    language to translate to, and are recognized in every text. What has no piece becomes <unk>, so text may be lost.
    Raises ValueError for parts that are damaged, ModuleNotFoundError without `sentencepiece`.
    """

    def __init__(self, source: bytes, target: bytes, vocab: Mapping[str, int]) -> None:
        self.source, self.target, self.vocab = source, target, dict(vocab)
        numbers = list(self.vocab.values())
        pieces = [b""] * count_ids(numbers, 0)
        if len(set(numbers)) < len(numbers):
            raise ValueError("two pieces have one id")
        languages = [name for name in self.vocab if name.startswith(">>") and name.endswith("<<")]
        names = [*(name for name in (_EOS, _UNKNOWN, _PAD) if name in self.vocab), *languages]
        if _EOS not in self.vocab or _UNKNOWN not in self.vocab:
            raise ValueError(f"{VOCABULARY} has no {_EOS} or no {_UNKNOWN}")
        special = {name: self.vocab[name] for name in names}
        for name, number in self.vocab.items():
            pieces[number] = utf8(name if name in special else name.replace("▁", " "))
        super().__init__(pieces, special, _EOS, always=languages, bos=_PAD if _PAD in self.vocab else None)
        self.drops_space = True
        self._source, self._target = _processor(source, SOURCE), _processor(target, TARGET)

    def encode_ordinary(self, text: str) -> Ids:
        """Ids of a text of the source language; what looks like a special token is ordinary text."""
        return self._ids(self._source, text)

    def encode_target(self, text: str) -> Ids:
        """Ids of a text of the target language; what looks like a special token is ordinary text."""
        return self._ids(self._target, text)

    def _ids(self, processor: Any, text: str) -> Ids:
        unknown = self.vocab[_UNKNOWN]
        pieces = processor.encode(utf8(text).decode(), out_type=str)
        return np.array([self.vocab.get(piece, unknown) for piece in pieces], np.int32)

    def save(self, path: Path) -> None:
        """Write all of it as one tokenizer.json of ours."""
        models = {"source": self.source, "target": self.target}
        values = {"diptych": "marian", "vocab": self.vocab}
        values |= {name: base64.b64encode(data).decode() for name, data in models.items()}
        write_text(path, json.dumps(values, ensure_ascii=False) + "\n")

    def save_folder(self, folder: Path) -> None:
        """Write source.spm, target.spm and vocab.json, as Hugging Face has them."""
        for name, data in ((SOURCE, self.source), (TARGET, self.target)):
            with replacing(folder / name) as temporary:
                temporary.write_bytes(data)
        write_text(folder / VOCABULARY, json.dumps(self.vocab, ensure_ascii=False, indent=2) + "\n")


def read_folder(folder: Path) -> MarianTokenizer:
    """The tokenizer of a folder with source.spm, target.spm and vocab.json. Raises ValueError for damaged files."""
    for name in (SOURCE, TARGET, VOCABULARY):
        if (folder / name).stat().st_size > _MOST_BYTES:
            raise ValueError(f"{folder / name} is too large for a part of a tokenizer")
    try:
        vocab = json.loads((folder / VOCABULARY).read_bytes())
    except (ValueError, RecursionError):
        vocab = None
    return _made((folder / SOURCE).read_bytes(), (folder / TARGET).read_bytes(), vocab, folder)


def from_json(values: Mapping[str, Any], path: Path) -> MarianTokenizer:
    """The tokenizer of a parsed tokenizer.json of ours. Raises ValueError for a damaged one."""
    try:
        source, target = (base64.b64decode(values[name], validate=True) for name in ("source", "target"))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path} is damaged: its models are no base64") from None
    return _made(source, target, values.get("vocab"), path)


def _made(source: bytes, target: bytes, vocab: object, path: Path) -> MarianTokenizer:
    if not isinstance(vocab, dict):
        raise ValueError(f"{path} is damaged: the vocabulary is no object of pieces and ids")
    try:
        return MarianTokenizer(source, target, vocab)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {brief(error)}") from None


def _processor(model: bytes, name: str) -> Any:
    try:
        import sentencepiece
    except ModuleNotFoundError:
        raise ModuleNotFoundError("Marian's tokenizers need sentencepiece; pip install 'diptych[subword]'") from None
    try:
        processor = sentencepiece.SentencePieceProcessor()
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise ValueError(f"{name} is no SentencePiece model ({' '.join(str(error).split())[:60]})") from None
    return processor
