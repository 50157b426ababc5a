"""`diptych evaluate MODEL DATA...`: how well does a model predict a text, or translate?"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from diptych.cli.common import (
    ModelOptions,
    check_continues,
    encoder_decoder,
    kind_named,
    language_model,
    open_model,
    parse,
)
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diptych.checkpoints.open import OpenedModel
    from diptych.core.config import RunConfig
    from diptych.core.events import Handler
    from diptych.data.packing import TokenStore
    from diptych.data.parallel import Pair
    from diptych.data.sources import Document
    from diptych.evaluation.likelihood import TextScore
    from diptych.evaluation.recall import RecallScore, Share
    from diptych.evaluation.yardsticks import Yardstick

DESCRIPTION = """Score a model on data: exact bits per byte, nats per token and perplexity; of an encoder-decoder BLEU,
chrF, exact matches and nats per token; of a run that denoises text a bound in bits per byte; of a run that learnt to
recall needles the share of right answers by distance.

DATA is what data.source of a recipe takes: files, folders, JSONL, Parquet, hf:NAME, or stdlib; for an encoder-decoder
pairs: A.en+A.de, .tsv, .jsonl, .po, .mo, folders, hf:NAME, numbers:en-de. The data count as they are; nothing is held
out or left out. Without DATA a run that translates is scored on the pairs that it held out itself, and one that recalls
on documents that nothing was learnt from.

examples:
  diptych evaluate runs/tiny my/texts
  diptych evaluate runs/tiny notes.jsonl --text-field body --stride 64 --yardsticks
  diptych evaluate runs/translate --beams 1
  diptych evaluate runs/recall
"""


MOST_CONTEXT = 2048
"""Tokens of a window where none are asked for, however long a context the model claims."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych evaluate`."""

    model: tyro.conf.Positional[str]
    """A run folder, a Hugging Face folder, or a GGUF file."""
    data: tyro.conf.Positional[tuple[str, ...]] = ()
    """Text, or pairs, to score on."""
    text_field: str = "text"
    """Field or column of the text in JSONL, Parquet and data sets."""
    pair_fields: tuple[str, str] = ("source", "target")
    """Fields or columns of a pair, in JSONL and data sets."""
    context: int | None = None
    """Tokens in a window; None: the model's max_length, at most 2048."""
    stride: int | None = None
    """New tokens in a window, the rest being context; smaller is slower and scores better. None: half a window."""
    batch_size: int = 16
    """Windows, pairs or documents in a forward pass."""
    beams: int = 4
    """Beams of the search for translations; 1 takes the likeliest token at every step."""
    length_penalty: float = 0.6
    """The search compares log-probability / ((5 + length) / 6)^length_penalty."""
    max_pairs: int | None = None
    """Score at most so many pairs."""
    recall_documents: int = 256
    """Documents in which needles are asked for."""
    draws: int = 8
    """Evaluations of a network that denoises text for each sequence's bound, a multiple of 4."""
    yardsticks: bool = False
    """Also compress the same text with xz and brotli."""
    json: bool = False
    """Print one JSON object."""
    options: Annotated[ModelOptions, tyro.conf.arg(name="")] = field(default_factory=ModelOptions)


def main(arguments: list[str]) -> int:
    """Parse, score, print."""
    match kind_named(arguments):
        case "gaussian":
            from diptych.cli.evaluate_images import main as evaluate_images

            return evaluate_images(arguments)
        case "pixels":
            from diptych.cli.evaluate_pixels import main as evaluate_pixels

            return evaluate_pixels(arguments)
    options = parse(Options, arguments, "evaluate", DESCRIPTION)
    opened = open_model(options.model, options.options)
    if opened.model.config.n_encoder_layers:
        return _translation(options, opened)
    if opened.objective in ("masked_diffusion", "uniform_diffusion"):
        return _bound(options, opened)
    check_continues(opened, options.model)
    if not options.data and (recipe := _recipe(options.model)) is not None and recipe.data.format == "recall":
        return _recall(options, opened, recipe)
    return _likelihood(options, opened)


def _likelihood(options: Options, opened: OpenedModel) -> int:
    from diptych.data.corpus import all_documents
    from diptych.evaluation.likelihood import score_store

    model = language_model(opened)
    context = options.context or min(model.config.max_length, MOST_CONTEXT)
    recipe = _recipe(options.model)
    with ConsoleHandler() as console, tempfile.TemporaryDirectory() as folder:
        store = _store(options, opened, Path(folder), console)
        score = score_store(
            model,
            store,
            context=context,
            stride=options.stride or max(1, context // 2),
            batch_size=options.batch_size,
            document_mask=recipe is None or recipe.data.document_mask,
            on_event=console,
        )
        rows: list[Yardstick] = []
        if options.yardsticks:
            from diptych.evaluation.yardsticks import compress_yardsticks

            text = "".join(d.text for d in all_documents(options.data, options.text_field)).encode()
            rows = compress_yardsticks(text, on_event=console)
    _show(options, score, rows)
    return 0


def _store(options: Options, opened: OpenedModel, folder: Path, console: ConsoleHandler) -> TokenStore:
    """The tokens of the data to score."""
    if not options.data:
        raise ValueError("name the data to score, as in: diptych evaluate runs/tiny my/texts")
    from diptych.data.corpus import all_documents
    from diptych.data.packing import build_token_store

    def documents() -> Iterator[Document]:
        return all_documents(options.data, options.text_field, console)

    return build_token_store(documents, opened.tokenizer, folder / "text", console)


def _bound(options: Options, opened: OpenedModel) -> int:
    from diptych.checkpoints.run_folder import load_recipe
    from diptych.evaluation.likelihood import score_bound
    from diptych.training.prepare import text_diffusion

    run = load_recipe(Path(options.model))
    with ConsoleHandler() as console, tempfile.TemporaryDirectory() as folder:
        score = score_bound(
            language_model(opened),
            _store(options, opened, Path(folder), console),
            text_diffusion(run, opened.tokenizer),
            context=options.context or run.data.sequence_length,
            draws=options.draws,
            batch_size=options.batch_size,
            on_event=console,
        )
    if options.json:
        record = {
            "model": options.model,
            "data": list(options.data),
            **vars(score),
            "bits_per_byte": score.bits_per_byte,
        }
        print(json.dumps(record))
        return 0
    most = "at most " if score.kind == "bound" else ""
    print(f"{most}{score.bits_per_byte:.4f} ± {score.bits_per_byte_error:.4f} bits per byte ({score.kind})")
    print(f"{most}{score.nats / score.n_tokens:.4f} nats per token")
    print(f"{score.n_tokens:,} tokens, {score.n_bytes:,} bytes")
    return 0


def _translation(options: Options, opened: OpenedModel) -> int:
    from itertools import islice

    from diptych.evaluation.translation import Search, score_translations

    search = Search(beams=options.beams, length_penalty=options.length_penalty, batch_size=options.batch_size)
    with ConsoleHandler() as console:
        pairs = list(islice(_pairs(options, console), options.max_pairs))
        model = encoder_decoder(opened, options.model)
        score, _ = score_translations(model, opened.tokenizer, pairs, search, console)
    if options.json:
        record = {"model": options.model, "data": list(options.data), **vars(search), **vars(score)}
        print(json.dumps(record))
        return 0
    print(f"BLEU {score.bleu:.1f}  ({score.bleu_signature})")
    print(f"chrF {score.chrf:.1f}  ({score.chrf_signature})")
    print(f"{score.exact:.2f} % of {score.n_pairs:,} translations match their reference exactly")
    print(f"{score.nats_per_token:.4f} nats per token of the references")
    return 0


def _pairs(options: Options, on_event: Handler) -> Iterator[Pair]:
    from diptych.data.parallel import all_pairs, heldout_pairs

    if options.data:
        return all_pairs(options.data, options.pair_fields, on_event)
    recipe = _recipe(options.model)
    if recipe is None or recipe.data.format != "pairs":
        raise ValueError(f"name the pairs to score on, as in: diptych evaluate {options.model} test.en+test.de")
    return heldout_pairs(recipe.data, on_event)


def _recipe(model: str) -> RunConfig | None:
    """The recipe of a run folder; None for any other model."""
    from diptych.checkpoints.run_folder import load_recipe
    from diptych.core.config import RECIPE

    return load_recipe(Path(model)) if (Path(model) / RECIPE).is_file() else None


def _recall(options: Options, opened: OpenedModel, recipe: RunConfig) -> int:
    from diptych.data.recall import HELD_OUT, RecallStream
    from diptych.evaluation.recall import attention_reach, score_recall

    model = language_model(opened)
    stream = RecallStream(recipe.data, opened.tokenizer, seed=recipe.train.seed, purpose=HELD_OUT)
    with ConsoleHandler() as console:
        score = score_recall(
            model,
            stream,
            n_documents=options.recall_documents,
            batch_size=options.batch_size,
            reach=attention_reach(model.config),
            on_event=console,
        )
    _show_recall(options, score)
    return 0


def _show_recall(options: Options, score: RecallScore) -> None:
    if options.json:
        record = {
            "model": options.model,
            "documents": score.n_documents,
            "chance": score.chance,
            "reach": score.reach,
            "whole": _share_record(score.whole),
            "beyond_reach": None if score.beyond_reach is None else _share_record(score.beyond_reach),
            "bins": [_share_record(share) for share in score.bins()],
        }
        print(json.dumps(record))
        return
    for share in score.bins():
        print(f"recall at a distance of {f'{share.first}-{share.last}':>9} tokens: {_share_text(share)}")
    print(f"recall at any distance: {_share_text(score.whole)}; by chance {score.chance:.1%}")
    if score.beyond_reach is not None:
        print(
            f"attention alone carries a needle {score.reach} tokens; recall beyond: {_share_text(score.beyond_reach)}"
        )


def _share_record(share: Share) -> dict[str, object]:
    return {**vars(share), "accuracy": share.accuracy, "interval": share.interval}


def _share_text(share: Share) -> str:
    low, high = share.interval
    return f"{share.accuracy:6.1%} of {share.count:,} (95 % interval {low:.1%} to {high:.1%})"


def _show(options: Options, score: TextScore, rows: list[Yardstick]) -> None:
    if options.json:
        record = {
            "model": options.model,
            "data": list(options.data),
            **vars(score),
            "bits_per_byte": score.bits_per_byte,
            "perplexity": score.perplexity,
            "yardsticks": {row.name: row.bits_per_byte for row in rows},
        }
        print(json.dumps(record))
        return
    print(f"{score.bits_per_byte:.4f} bits per byte ({score.kind})")
    print(f"{score.nats / score.n_tokens:.4f} nats per token, perplexity {score.perplexity:.2f}")
    print(f"{score.n_tokens:,} tokens, {score.n_bytes:,} bytes")
    for row in rows:
        print(f"{row.bits_per_byte:.4f} bits per byte: {row.name}")
