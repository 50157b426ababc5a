r"""What are sub-words without byte-pair merges? WordPiece and unigram, through Hugging Face's `tokenizers`.

WordPiece (Schuster and Nakajima 2012; Devlin et al. 2019, section 3) takes the longest token that fits, again and
again, and marks those within a word by `##`; unigram (Kudo 2018) takes the most probable cut under a table of log
probabilities.

Both are byte-level here: text is cut as GPT-2 cuts it, its bytes are written as letters, and all 256 of them are
tokens (for WordPiece twice, at the start of a word and within one), so that every text has tokens, which give it back.
BERT's WordPiece and SentencePiece's unigram lose text where these do not: BERT drops white space, rewrites characters
and knows some words only as [UNK]. Runs longer than 48 letters are cut, for the longest match takes the square of
their length. A `#` stands alone, so that `##` at the start of a token always is the mark.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np

from diptych.core.events import Handler, Message, Progressed, ignore
from diptych.core.files import write_text
from diptych.tokenizers.base import EOS, Ids, utf8
from diptych.tokenizers.letters import BYTE_TO_LETTER, from_letters
from diptych.tokenizers.library import encode_slabs, import_library
from diptych.tokenizers.vocabulary import VocabularyOfBytes, numbered

MARK = "##"
"""What begins a WordPiece token that continues a word (Devlin et al. 2019)."""

LONGEST = 48
"""Letters of a word that are looked at together: a multiple of the 2, 3 or 4 that a character takes."""

_CUT = f"#|[^#]{{1,{LONGEST}}}"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_SPLIT = {"type": "Split", "pattern": {"Regex": _CUT}, "behavior": "Isolated", "invert": False}
_UNMARKED = {"type": "Replace", "pattern": {"Regex": f"^{MARK}"}, "content": ""}


@final
class SubwordTokenizer(VocabularyOfBytes):
    """WordPiece, or unigram where there are scores.

    entries: the tokens but the special ones, in the letters of bytes, those of WordPiece that continue a word with
    `##` before them. scores: natural logarithms of their probabilities; None: WordPiece. special_tokens: those besides
    the end of document. Raises ValueError for entries that are no bytes, stand twice, or leave out a byte;
    ModuleNotFoundError without the library.
    """

    def __init__(
        self, entries: Sequence[str], scores: Sequence[float] | None = None, special_tokens: Sequence[str] = ()
    ) -> None:
        self.entries, self.scores = list(entries), None if scores is None else list(scores)
        if len(set(entries)) < len(entries):
            raise ValueError("the vocabulary names a token twice")
        needed = {*BYTE_TO_LETTER} if scores is not None else {*BYTE_TO_LETTER, *(MARK + c for c in BYTE_TO_LETTER)}
        if missing := needed - set(entries):
            raise ValueError(f"the vocabulary lacks the byte {min(missing)!r}")
        marks = scores is None
        pieces = [from_entry(entry, marks=marks) for entry in entries]
        special = numbered(len(pieces), special_tokens)
        super().__init__([*pieces, *map(utf8, special)], special)
        self._library = _library_tokenizer(self.entries, self.scores)

    def encode_ordinary(self, text: str) -> Ids:
        """Ids of the text; what looks like a special token is ordinary text."""
        return np.array(self._library.encode(utf8(text).decode(), add_special_tokens=False).ids, np.int32)

    def encode_batch(self, texts: Iterable[str]) -> list[Ids]:
        """Ids of each text, on all cores unless the library is told otherwise."""
        return list(encode_slabs(self._library, texts))

    def save(self, path: Path) -> None:
        """Write a tokenizer.json that the library loads with the same ids."""
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        values = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": token, "content": name, **flags} for name, token in self.special_tokens.items()],
            **_parts(self.scores is None),
            "model": json.loads(self._library.to_str())["model"],
        }
        write_text(path, json.dumps(values, ensure_ascii=False, indent=1) + "\n")


def from_entry(entry: str, *, marks: bool) -> bytes:
    """The bytes of a vocabulary entry. Raises ValueError for one that has none."""
    letters = entry.removeprefix(MARK) if marks else entry
    try:
        if letters and (len(letters) == 1 or "#" not in letters):
            return from_letters(letters)
    except KeyError:
        pass
    raise ValueError(f"token {entry[:60]!r} is not written in the letters of bytes")


def is_written_here(values: dict[str, Any]) -> bool:
    """Whether a parsed tokenizer.json of WordPiece or unigram has the byte-level form that loses no text."""
    parts = _parts(values["model"]["type"] == "WordPiece")
    return all(values.get(name) == part for name, part in parts.items())


def read(values: dict[str, Any], path: Path) -> SubwordTokenizer:
    """The tokenizer of a parsed tokenizer.json in the form that is written here. Raises ValueError for damage."""
    model = values["model"]
    kind = model["type"]
    marks = kind == "WordPiece"
    vocab = model.get("vocab")
    try:
        if marks and isinstance(vocab, dict):
            entries, scores = sorted(vocab, key=vocab.__getitem__), None
            if [vocab[entry] for entry in entries] != list(range(len(entries))):
                raise ValueError("the ids are not the numbers from 0 on")
        else:
            entries, scores = [entry for entry, _ in vocab], [float(score) for _, score in vocab]
            if not all(isinstance(entry, str) for entry in entries) or not all(map(math.isfinite, scores)):
                raise ValueError("an entry is no token with a score")
        return SubwordTokenizer(entries, scores, _special(values, len(entries)))
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: no {kind} vocabulary ({' '.join(str(error).split())[:100]})") from None


def _special(values: dict[str, Any], first: int) -> list[str]:
    """The special tokens besides the end of document, which follow the vocabulary and it."""
    found = {token["content"]: token["id"] for token in values.get("added_tokens") or [{"content": EOS, "id": first}]}
    if found != numbered(first, names := [name for name in found if name != EOS]):
        raise ValueError("the special tokens do not follow the vocabulary")
    return names


def _parts(marks: bool) -> dict[str, Any]:
    """The steps of a tokenizer.json before and behind the model."""
    decoder = {"type": "Sequence", "decoders": [_UNMARKED, _BYTE_LEVEL]} if marks else _BYTE_LEVEL
    pre_tokenizer = {"type": "Sequence", "pretokenizers": [_BYTE_LEVEL, _SPLIT]}
    return {"normalizer": None, "pre_tokenizer": pre_tokenizer, "post_processor": None, "decoder": decoder}


def _empty_tokenizer(model: Any) -> Any:
    library = import_library()
    tokenizer = library.Tokenizer(model)
    byte_level = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut = library.pre_tokenizers.Split(library.Regex(_CUT), "isolated")
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence([byte_level, cut])
    return tokenizer


def _library_tokenizer(entries: list[str], scores: list[float] | None) -> Any:
    models = import_library().models
    if scores is not None:
        return _empty_tokenizer(models.Unigram(list(zip(entries, scores, strict=True))))
    vocab = {entry: token for token, entry in enumerate(entries)}
    return _empty_tokenizer(
        models.WordPiece(vocab, unk_token="[UNK]", continuing_subword_prefix=MARK, max_input_chars_per_word=LONGEST)
    )


def train_wordpiece(
    texts: Iterable[str], vocab_size: int, on_event: Handler = ignore, special_tokens: Sequence[str] = ()
) -> SubwordTokenizer:
    """Learn `vocab_size` tokens, special ones included, by the library's trainer: the most frequent pair of tokens is
    joined, again and again. Raises ValueError for an empty text or a vocabulary without room for the bytes."""
    letters = sorted(BYTE_TO_LETTER)
    # As special tokens they get their ids before the library meets the words, whose order is random there.
    alphabet = [*letters, *(MARK + letter for letter in letters)]
    n_learnt = _n_learnt(vocab_size, len(alphabet), special_tokens)
    library = import_library()
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=n_learnt, special_tokens=alphabet, continuing_subword_prefix=MARK, show_progress=False
    )
    tokenizer = _empty_tokenizer(library.models.WordPiece(unk_token="[UNK]"))
    vocab = _train(tokenizer, trainer, texts, on_event)
    made = SubwordTokenizer(sorted(vocab, key=vocab.__getitem__), None, special_tokens)
    return _announced(made, vocab_size, on_event)


def train_unigram(
    texts: Iterable[str], vocab_size: int, on_event: Handler = ignore, special_tokens: Sequence[str] = ()
) -> SubwordTokenizer:
    """Learn `vocab_size` tokens, special ones included, by the library's trainer: expectation maximization from all
    frequent strings, the least useful of which are left out (Kudo 2018, section 3.2).

    Scores are rounded to a millionth, since the library adds them up in an order that changes from run to run. Raises
    ValueError for an empty text or a vocabulary without room for the bytes.
    """
    n_learnt = _n_learnt(vocab_size, 256, special_tokens)
    library = import_library()
    trainer = library.trainers.UnigramTrainer(
        vocab_size=n_learnt, initial_alphabet=sorted(BYTE_TO_LETTER), show_progress=False
    )
    vocab = _train(_empty_tokenizer(library.models.Unigram()), trainer, texts, on_event)
    scores = _in_fixed_order(vocab, n_learnt)
    return _announced(SubwordTokenizer([*scores], [*scores.values()], special_tokens), vocab_size, on_event)


def _in_fixed_order(vocab: list[tuple[str, float]], size: int) -> dict[str, float]:
    """The vocabulary by score and name: all bytes, and the best of the rest.

    Bytes that the text lacks, 0xff among them always, get the lowest score and steps of 0.0001 above it from the
    library, in a random order; here all of them get the lowest.
    """
    lowest = min(score for _, score in vocab)
    scores = {}
    for entry, score in vocab:
        steps = (score - lowest) / 1e-4
        is_absent = len(entry) == 1 and steps < 256 and abs(steps - round(steps)) < 1e-3
        scores[entry] = round(lowest if is_absent else score, 6)
    ranked = sorted(scores, key=lambda entry: (-scores[entry], entry))
    kept = {*BYTE_TO_LETTER, *[entry for entry in ranked if len(entry) > 1][: size - 256]}
    return {entry: scores[entry] for entry in ranked if entry in kept}


def _n_learnt(vocab_size: int, n_bytes: int, special_tokens: Sequence[str]) -> int:
    """How many tokens are no special ones. Raises ValueError for a vocabulary without room for the bytes."""
    n_special = len(numbered(0, special_tokens))
    if vocab_size < n_bytes + n_special:
        raise ValueError(
            f"this vocabulary needs at least {n_bytes + n_special} tokens for the bytes and {n_special} special"
        )
    return vocab_size - n_special


def _announced(tokenizer: SubwordTokenizer, wanted: int, on_event: Handler) -> SubwordTokenizer:
    if tokenizer.vocab_size < wanted:
        on_event(Message(text=f"the text gives a vocabulary of {tokenizer.vocab_size} tokens, not {wanted}"))
    return tokenizer


def _train(tokenizer: Any, trainer: Any, texts: Iterable[str], on_event: Handler) -> Any:
    """The vocabulary that the library learns, in a thread of its own, so that progress is shown and Ctrl-C heard."""
    reader = _Reader(texts)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            tokenizer.train_from_iterator(reader.texts(), trainer)
        except BaseException as error:  # the thread that waits raises it
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    started = time.perf_counter()
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.1)
            reader.report(on_event, time.perf_counter() - started)
        reader.report(on_event, time.perf_counter() - started)
    finally:
        reader.stopped = True
    if reader.failure is not None:
        raise reader.failure
    if reader.n_bytes == 0:
        raise ValueError("the tokenizer has no text to learn from; name a source that holds some")
    if failures:
        raise ValueError(f"the library could not learn from this text: {' '.join(str(failures[0]).split())[:200]}")
    return json.loads(tokenizer.to_str())["model"]["vocab"]


class _Reader:
    """Texts for the library, which hides what goes wrong while it reads them."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.source = texts
        self.n_bytes, self.stopped, self.at_end = 0, False, False
        self.failure: BaseException | None = None

    def texts(self) -> Iterator[str]:
        try:
            for text in self.source:
                if self.stopped:
                    return
                data = utf8(text)
                self.n_bytes += len(data)
                yield data.decode()
        except BaseException as error:
            self.failure = error
        self.at_end = True

    def report(self, on_event: Handler, seconds: float) -> None:
        if self.at_end:
            on_event(Progressed(what="training the tokenizer", done=seconds, total=None, unit="s"))
        else:
            what = "reading text for the tokenizer"
            on_event(Progressed(what=what, done=self.n_bytes / 1e6, total=None, unit="MB"))
