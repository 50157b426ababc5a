"""`diptych fill MODEL`: fill masked words in."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diptych.cli.common import ModelOptions, open_model, parse
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diptych.checkpoints.open import OpenedModel
    from diptych.data.sources import Document
    from diptych.evaluation.masked import MaskedScore
    from diptych.models.language_model import LanguageModel
    from diptych.samplers.fill import FillRequest
    from diptych.tokenizers.base import Tokenizer

DESCRIPTION = """Fill masked words in with an encoder, or score its guesses on data. Write a mask as <|mask|> or [MASK].
Several masks of a text are filled one at a time, the surest first, each seeing those before it.

examples:
  diptych fill runs/bert --text "The <|mask|> rises in the east"
  diptych fill runs/bert --text "for i in [MASK](10):" --candidates 10 --json
  diptych fill runs/bert --heldout
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych fill`."""

    model: tyro.conf.Positional[str]
    """A run folder, a Hugging Face folder, or a GGUF file."""
    text: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Text with masks; may be given several times."""
    data: tuple[str, ...] = ()
    """Score guesses at masked tokens of this text instead: what data.source of a recipe takes."""
    heldout: bool = False
    """Score on the text that the run itself held out of its training."""
    text_field: str = "text"
    """Field or column of the text in JSONL, Parquet and data sets."""
    candidates: int = 5
    """How many candidates are shown of each mask."""
    seed: int = 0
    """Seed of the masks in --data."""
    json: bool = False
    """One JSON object a text (or score)."""
    options: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A token that may stand at a mask, and its probability there."""

    token: str
    id: int
    probability: float


@dataclass(frozen=True, kw_only=True)
class Filled:
    """A text without masks, and the candidates of each mask in the order of the text."""

    text: str
    masks: list[list[Candidate]]


def main(arguments: list[str]) -> int:
    """Parse, fill, print."""
    options = parse(Options, arguments, "fill", DESCRIPTION)
    if sum(map(bool, (options.text, options.data, options.heldout))) != 1:
        raise ValueError(
            "give one of --text with masks, --data to score on, and --heldout, as in: --text 'The <|mask|> rises'"
        )
    if options.candidates < 1:
        raise ValueError("--candidates must be at least 1")
    opened = open_model(options.model, options.options)
    if opened.objective != "masked_lm":
        raise ValueError(f"{options.model} was not trained to fill masks; it continues texts: diptych generate")
    if not options.text:
        _show_score(options, _score(options, opened))
        return 0
    for text in options.text:
        filled = fill(opened, text, options.candidates)
        if options.json:
            masks = [[vars(candidate) for candidate in row] for row in filled.masks]
            print(json.dumps({"text": text, "filled": filled.text, "masks": masks}, ensure_ascii=False))
        else:
            _show(filled)
    return 0


def fill(opened: OpenedModel, text: str, candidates: int = 5) -> Filled:
    """Fill the masks of one text. Raises ValueError where nothing is masked or the text is too long."""
    from diptych.core.random import Rng
    from diptych.samplers.fill import FillSampler

    model, tokenizer = _encoder(opened), opened.tokenizer
    request, start = request_of(tokenizer, text)
    found, state = {}, None
    for frame in FillSampler(candidates=candidates).sample(model, request, Rng(0)):
        rows = zip(frame.info["candidates"][0].tolist(), frame.info["candidate_probabilities"][0].tolist(), strict=True)
        found[int(frame.info["position"])] = [
            Candidate(token=tokenizer.decode([token]), id=token, probability=p) for token, p in rows
        ]
        state = frame.state
    assert state is not None
    end = None if tokenizer.opening_id == tokenizer.eos_id else -1
    return Filled(text=tokenizer.decode(state[0, start:end].tolist()), masks=[found[at] for at in sorted(found)])


def request_of(tokenizer: Tokenizer, text: str) -> tuple[FillRequest, int]:
    """The tokens of a text with masks, as a document of training looks, and how many stand before it."""
    from diptych.objectives.masked_lm import mask_id_of, ordinary_tokens
    from diptych.samplers.fill import FillRequest

    ordinary = ordinary_tokens(tokenizer.vocab_size, tokenizer.special_tokens.values())
    return FillRequest(ids=document_of(tokenizer, text), mask_id=mask_id_of(tokenizer), ordinary=ordinary), 1


def document_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens of a text, which may hold masks, as a document of an encoder's training looks.

    The space before a mask goes to the mask where tokens begin with their space.
    """
    from diptych.objectives.masked_lm import MASK_NAMES, mask_id_of

    mask_id = mask_id_of(tokenizer)
    pieces = map(tokenizer.token_bytes, range(tokenizer.vocab_size))
    spaced = any(piece.startswith(b" ") and piece.strip() for piece in pieces)
    names = "|".join(map(re.escape, MASK_NAMES))
    parts = re.split(f" ?(?:{names})" if spaced else names, text)
    ids = [tokenizer.opening_id, *tokenizer.encode(parts[0]).tolist()]
    for part in parts[1:]:
        ids += [mask_id, *tokenizer.encode(part).tolist()]
    if tokenizer.opening_id != tokenizer.eos_id:
        ids.append(tokenizer.eos_id)
    return ids


def _encoder(opened: OpenedModel) -> LanguageModel:
    from diptych.models.language_model import LanguageModel

    assert isinstance(opened.model, LanguageModel)
    return opened.model


def _score(options: Options, opened: OpenedModel) -> MaskedScore:
    from diptych.checkpoints.run_folder import load_recipe
    from diptych.data.corpus import all_documents, heldout_documents
    from diptych.data.packing import build_token_store
    from diptych.evaluation.masked import score_masked
    from diptych.objectives.masked_lm import masked_language_model

    model, tokenizer = _encoder(opened), opened.tokenizer
    objective = masked_language_model(tokenizer)
    with ConsoleHandler() as console, tempfile.TemporaryDirectory() as folder:

        def documents() -> Iterator[Document]:
            if options.heldout:
                return heldout_documents(load_recipe(Path(options.model)).data, console)
            return all_documents(options.data, options.text_field, console)

        store = build_token_store(documents, tokenizer, Path(folder) / "text", console)
        length = model.config.max_length
        return score_masked(model, objective, store, sequence_length=length, seed=options.seed, on_event=console)


def _show_score(options: Options, score: MaskedScore) -> None:
    if options.json:
        print(json.dumps({"model": options.model, "data": list(options.data), **vars(score)}))
        return
    print(f"{score.right / score.count:.1%} of {score.count:,} masked tokens guessed right")
    print(f"{score.most_frequent / score.count:.1%} by always guessing the most frequent token")
    print(f"{score.nats / score.count:.4f} nats a masked token; {score.unigram_nats / score.count:.4f} by frequencies")


def _show(filled: Filled) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for number, row in enumerate(filled.masks, 1):
        title = f"mask {number}" if len(filled.masks) > 1 else None
        table = Table(title=title, title_justify="left", box=None, show_header=False)
        for candidate in row:
            bar = "█" * max(1, round(40 * candidate.probability))
            table.add_row(candidate.token, f"{candidate.probability:.3f}", bar)
        console.print(table, markup=False)
    console.print(filled.text, markup=False, soft_wrap=True)
