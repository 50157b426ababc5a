"""`diptych attention map MODEL TEXT`: what do the heads of a trained model attend to?"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diptych.cli.common import ModelOptions, open_model, parse

if TYPE_CHECKING:
    from diptych.checkpoints.open import OpenedModel
    from diptych.report.attention import AttentionMap

DESCRIPTION = """What every token of a text attends to in a trained decoder or encoder: the strongest of its keys in the
terminal, and, with --out, a picture: every head of every layer as a small panel, or one large with the tokens' names.

MODEL is a run folder, a Hugging Face folder or a GGUF file. Layers that are no softmax attention have no such weights;
of an encoder with a decoder, diptych translate --attention draws what its translation attends to.

examples:
  diptych attention map runs/mine "The sun rises from the east" --out heads.png
  diptych attention map runs/mine "The sun rises from the east" --layer 2 --head 1 --out head.png
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych attention map`."""

    model: tyro.conf.Positional[str]
    """A run folder, a Hugging Face folder or a GGUF file."""
    text: tyro.conf.Positional[str]
    """The text, of up to 512 tokens."""
    layer: int | None = None
    """A layer, the first being 1; None: the mean over all in the terminal, every layer and head in the picture."""
    head: int | None = None
    """A head of that layer, the first being 1; None: the mean over its heads."""
    top: int = 5
    """How many keys of every token are listed."""
    out: Path | None = None
    """Draw the picture here (.png)."""
    json: bool = False
    """Print one JSON object a token instead: its strongest keys and their weights."""
    options: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)


def main(arguments: list[str]) -> int:
    """Parse, read the text, print, draw."""
    options = parse(Options, arguments, "attention map", DESCRIPTION)
    if options.out is not None and options.out.suffix != ".png":
        raise ValueError(f"--out {options.out}: a picture is written as .png")
    if options.head is not None and options.layer is None:
        raise ValueError(f"--head {options.head} is one of which layer? give --layer too")
    if options.top < 1:
        raise ValueError(f"--top {options.top} lists nothing; give at least 1")
    opened = open_model(options.model, options.options)
    found = read(opened, options.model, options.text)
    if found.left_out:
        print(f"left out, as they hold no attention weights: {', '.join(found.left_out)}", file=sys.stderr)
    _list(options, found)
    if options.out is not None:
        from diptych.report.attention import head_figure, heads_figure
        from diptych.report.plots import save_png

        whole = options.layer is None
        save_png(heads_figure(found) if whole else head_figure(found, options.layer, options.head), options.out)
        print(f"drawn in {options.out}", file=sys.stderr)
    return 0


def read(opened: OpenedModel, name: str, text: str) -> AttentionMap:
    """What the model attends to in a text, which stands as a document does in its training.

    Raises ValueError for an encoder with a decoder, and for texts that cannot be drawn.
    """
    from diptych.models.language_model import LanguageModel
    from diptych.nn.masks import Causal, Full
    from diptych.report.attention import self_attention_map
    from diptych.tokenizers.base import document_ids

    model, tokenizer = opened.model, opened.tokenizer
    if not isinstance(model, LanguageModel):
        raise ValueError(
            f"{name} is an encoder with a decoder: diptych translate {name} --text '...' --attention attention.png "
            "draws what its translation attends to"
        )
    text_ids = tokenizer.encode_list(text)
    ids = document_ids(tokenizer, text) if opened.opens else text_ids
    begins = len(ids) > len(text_ids)
    if opened.objective == "masked_lm":
        from diptych.cli.fill import document_of

        return self_attention_map(model, tokenizer, document_of(tokenizer, text), Full(), opened=True)
    return self_attention_map(model, tokenizer, ids, Causal(), opened=begins)


def _list(options: Options, found: AttentionMap) -> None:
    weights = found.mean(options.layer, options.head)
    strongest = weights.topk(min(options.top, weights.shape[1]), dim=1)
    rows = [
        [(key, weight) for key, weight in zip(keys, values, strict=True) if weight > 0]
        for keys, values in zip(strongest.indices.tolist(), strongest.values.tolist(), strict=True)
    ]
    if options.json:
        for position, row in enumerate(rows):
            keys = [{"position": key, "token": found.source[key], "weight": weight} for key, weight in row]
            record = {"position": position, "token": found.target[position], "keys": keys}
            print(json.dumps(record, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from diptych.report.words import visible

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("", justify="right")
    table.add_column("token", no_wrap=True)
    table.add_column("attends to")
    for position, row in enumerate(rows):
        listed = Text("   ").join(
            Text.assemble((visible(found.source[key]), "bold"), f" ({key + 1}) {weight:.2f}") for key, weight in row
        )
        table.add_row(str(position + 1), Text(visible(found.target[position])), listed)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    console.print(table)
