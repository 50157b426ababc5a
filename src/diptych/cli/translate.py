"""`diptych translate MODEL`: translate texts with an encoder-decoder."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diptych.cli.common import ModelOptions, encoder_decoder, open_model, parse, text_of
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from diptych.checkpoints.open import OpenedModel
    from diptych.evaluation.translation import Translation

DESCRIPTION = """Translate texts with an encoder-decoder, by beam search.

Every --text is one text; of a FILE, or of the standard input where neither is given, every line is one.

examples:
  diptych translate runs/translate --text "dreihundertfünfundvierzigtausend"
  diptych translate runs/translate --text "siebzehn" --attention attention.png
  diptych translate runs/translate german.txt --beams 8 --json > english.jsonl
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych translate`."""

    model: tyro.conf.Positional[str]
    """A run folder or a Hugging Face folder of an encoder-decoder."""
    file: tyro.conf.Positional[Path | None] = None
    """A file with a text on every line."""
    text: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A text to translate; may be given several times."""
    beams: int = 4
    """Beams of the search; 1 takes the likeliest token at every step."""
    length_penalty: float = 0.6
    """The search compares log-probability / ((5 + length) / 6)^length_penalty."""
    max_new_tokens: int | None = None
    """Longest translation in tokens; None: 50 more than the longest source of a batch."""
    batch_size: int = 32
    """Texts searched for at once."""
    attention: Path | None = None
    """Draw what each token of the first translation attended to in its source, as a PNG."""
    all_heads: bool = False
    """Draw every head of every layer, not the mean of the last layer's."""
    json: bool = False
    """One JSON object a text: source, translation, ids, log-probability in nats, score, whether it came to an end."""
    options: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)


def main(arguments: list[str]) -> int:
    """Parse, translate, print."""
    options = parse(Options, arguments, "translate", DESCRIPTION)
    if options.text and options.file is not None:
        raise ValueError("give either --text or a file, not both")
    if options.max_new_tokens is not None and options.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens {options.max_new_tokens} must be at least 1")
    if options.batch_size < 1:
        raise ValueError(f"--batch-size {options.batch_size} must be at least 1")
    from diptych.evaluation.translation import Search, translate

    opened = open_model(options.model, options.options)
    model = encoder_decoder(opened, options.model)
    texts = list(options.text) or _lines(options.file)
    search = Search(
        beams=options.beams,
        length_penalty=options.length_penalty,
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size,
    )
    with ConsoleHandler() as console:
        quiet = len(texts) <= options.batch_size
        translations = translate(model, opened.tokenizer, texts, search, *(() if quiet else (console,)))
    for translation in translations:
        print(json.dumps(vars(translation), ensure_ascii=False) if options.json else translation.text)
    if options.attention is not None:
        _draw(options, opened, translations)
    return 0


def _lines(file: Path | None) -> list[str]:
    data = sys.stdin.buffer.read() if file is None else file.read_bytes()
    text = text_of(data, "the standard input" if file is None else str(file))
    return text.removesuffix("\n").split("\n") if text else []


def _draw(options: Options, opened: OpenedModel, translations: list[Translation]) -> None:
    from diptych.report.attention import attention_figure, attention_map
    from diptych.report.plots import save_png

    if not translations or options.attention is None:
        raise ValueError("there is no text whose translation could be drawn; give one with --text")
    first = translations[0]
    found = attention_map(encoder_decoder(opened, options.model), opened.tokenizer, first.source, first.ids)
    save_png(attention_figure(found, all_heads=options.all_heads), options.attention)
    print(f"attention drawn in {options.attention}", file=sys.stderr)
