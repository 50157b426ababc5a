"""What does the encoder-decoder of 2017 learn of a task whose truth is known? (Review section 2.1.)

Numbers below a million, written out in German and in English: every answer is right or wrong, and those that are held
out were never seen.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from diptych.checkpoints.open import open_model
from diptych.core.config import RunConfig
from diptych.core.events import Handler
from diptych.data.parallel import heldout_pairs
from diptych.evaluation.translation import Search, numbers_run, score_translations
from diptych.models.encoder_decoder import EncoderDecoder
from diptych.report.attention import AttentionMap, attention_figure, attention_map
from diptych.report.results import Attention, ReviewResults, TranslationExample, TranslationResult
from diptych.training.distributed import World
from diptych.training.loop import Trainer
from diptych.training.prepare import prepare
from diptych.training.run import train_experiment

TASK = "German number words to English ones"
WIDE, NARROW = 7.4, 3.9
"""Inches of a drawing on a wide page, and on a phone."""

SCORED, SHOWN = 200, 4
"""Held-out pairs that are translated, and of these shown."""


def can_translate() -> bool:
    """Whether the libraries that write numbers out and measure translations are here."""
    return all(find_spec(name) is not None for name in ("num2words", "sacrebleu"))


def translation_run(out: Path, seed: int) -> RunConfig:
    """The numbers of `recipes/translate.toml`, in a third of its steps."""
    run = numbers_run(str(out / "translation"), steps=500, max_bytes=1_500_000, seed=seed)
    return replace(run, train=replace(run.train, ema_decay=0.98))


def measure_translation(run: RunConfig, world: World, on_event: Handler) -> TranslationResult:
    """Train it, or go on with its training, and measure it. Raises KeyboardInterrupt where that is interrupted."""
    experiment = prepare(run, world, on_event)
    if not train_experiment(Trainer(experiment, world, on_event)):
        raise KeyboardInterrupt
    opened = open_model(experiment.out, device=world.device)
    model, tokenizer = opened.model, opened.tokenizer
    assert isinstance(model, EncoderDecoder)
    pairs = list(heldout_pairs(run.data))[:SCORED]
    score, found = score_translations(model, tokenizer, pairs, Search(beams=1), on_event)
    examples = [
        TranslationExample(source=pair.source, translation=done.text, reference=pair.target)
        for pair, done in zip(pairs, found, strict=True)
    ]
    longest = max(range(min(SHOWN, len(found))), key=lambda row: len(tokenizer.encode(found[row].source)))
    weights = attention_map(model, tokenizer, found[longest].source, found[longest].ids)
    return TranslationResult(
        task=TASK,
        parameters=sum(p.numel() for p in model.parameters()),
        steps=run.train.steps,
        train_pairs=len(experiment.train),
        score=score,
        examples=tuple(examples[:SHOWN]),
        attention=Attention(
            source=weights.source,
            target=weights.target,
            weights=tuple(tuple(row) for row in weights.mean_of_last_layer().tolist()),
        ),
    )


def drawing(results: ReviewResults, *, narrow: bool = False) -> Figure:
    """The attention of an example's translation over its source."""
    assert results.translation is not None
    found = results.translation.attention
    figure = attention_figure(
        AttentionMap(source=found.source, target=found.target, weights=torch.tensor(found.weights)[None, None])
    )
    width, height = figure.get_size_inches()
    whole = NARROW if narrow else WIDE
    figure.set_size_inches(whole, height * min(1.0, whole / width))
    # The picture is cut to what is drawn and then stretched to the page: few tokens must not become large ones.
    figure.add_artist(Rectangle((0, 0), 1, 1, fill=False, linewidth=0, transform=figure.transFigure))
    return figure
