"""What is BERT's tokenizer? WordPiece over words that are cleaned first (Devlin et al. 2019).

Much of a text is lost on the way: white space becomes single spaces, characters are rewritten or dropped, case and
accents too where the model knows none, and a word without pieces becomes [UNK].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diptych.tokenizers.ends import CONFIG, Ends, read_object
from diptych.tokenizers.library import LibraryTokenizer

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_MOST_BYTES = 1 << 26


def read_vocabulary(path: Path) -> LibraryTokenizer:
    """The tokenizer of a vocab.txt, a piece a line; do_lower_case, strip_accents and tokenize_chinese_chars as
    tokenizer_config.json beside it says. [CLS] opens a text and [SEP] closes it.

    Raises ValueError for a damaged file or one without BERT's special tokens.
    """
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path} is too large for a vocabulary")
    try:
        pieces = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is damaged: it is not UTF-8") from None
    names = [piece.rstrip("\r") for piece in (pieces[:-1] if pieces[-1] == "" else pieces)]
    vocab = {name: number for number, name in enumerate(names)}
    if missing := [name for name in ("[UNK]", "[CLS]", "[SEP]") if name not in vocab]:
        raise ValueError(f"{path} is no vocabulary of BERT: it has no {missing[0]}")
    if len(vocab) < len(names):
        raise ValueError(f"{path} is damaged: it names a piece twice")
    config = read_object(path.with_name(CONFIG))
    return LibraryTokenizer(_values(vocab, config), Ends(bos="[CLS]", eos="[SEP]"))


def _values(vocab: dict[str, int], config: dict[str, Any]) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    around = ["[CLS]", "[SEP]"]
    steps = [{"SpecialToken": {"id": name, "type_id": 0}} for name in around]
    text, other = ({"Sequence": {"id": which, "type_id": number}} for number, which in enumerate("AB"))
    end = {"SpecialToken": {"id": "[SEP]", "type_id": 1}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocab[name], "content": name, **flags} for name in _SPECIAL if name in vocab],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": config.get("tokenize_chinese_chars", True) is not False,
            "strip_accents": config.get("strip_accents") if isinstance(config.get("strip_accents"), bool) else None,
            "lowercase": config.get("do_lower_case", True) is not False,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [steps[0], text, steps[1]],
            "pair": [steps[0], text, steps[1], other, end],
            "special_tokens": {name: {"id": name, "ids": [vocab[name]], "tokens": [name]} for name in around},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }
