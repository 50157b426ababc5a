"""What must be made before the first step: tokenizer, token stores, network, objective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from diptych.checkpoints.run_folder import CONFIG, TOKENIZER, check_vocabulary, load_recipe
from diptych.core.config import RECIPE, RunConfig, TransformerConfig
from diptych.core.events import Handler
from diptych.core.random import Rng
from diptych.core.recipe import differences, save_json, save_toml
from diptych.core.types import Objective
from diptych.data.corpus import heldout_documents, training_documents
from diptych.data.packing import TokenStore, build_token_store
from diptych.data.stream import SequenceStream
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.objectives.autoregressive import Autoregressive
from diptych.objectives.cross_entropy import slice_loss
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.train import train_tokenizer
from diptych.training.distributed import World

MAY_CHANGE = {
    "out",
    "train.steps",
    "train.micro_batch_size",
    "train.compile",
    "train.checkpoint_activations",
    "train.eval_every",
    "train.save_every",
    "train.device",
    "train.distributed",
    "train.tensorboard",
}
"""Keys that an existing run may be continued with other values of."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A run made ready."""

    run: RunConfig
    out: Path
    tokenizer: Tokenizer
    train: SequenceStream
    heldout: SequenceStream
    model: LanguageModel


def prepare(run: RunConfig, world: World, on_event: Handler) -> Experiment:
    """Make or find everything that training needs; what is already in the run folder is used again.

    Raises ValueError where the folder holds a run of another recipe.
    """
    out = Path(run.out)
    run = _agree_with_folder(run, out)
    if world.first:
        out.mkdir(parents=True, exist_ok=True)
        save_toml(run, out / RECIPE)
        tokenizer = build_tokenizer(run, out, on_event)
        _stores(run, out, tokenizer, on_event)
    world.wait()
    tokenizer = load_tokenizer(out / TOKENIZER)
    config = fit_vocabulary(run.model, tokenizer, out)
    if world.first:
        save_json(config, out / CONFIG)
    train, heldout = _streams(run, _stores(run, out, tokenizer, on_event))
    model = LanguageModel(config)
    initialize(model, Rng(run.train.seed).generator("weights"))
    return Experiment(run=run, out=out, tokenizer=tokenizer, train=train, heldout=heldout, model=model)


def _agree_with_folder(run: RunConfig, out: Path) -> RunConfig:
    if not (out / RECIPE).is_file():
        return run
    if changed := sorted(set(differences(load_recipe(out), run)) - MAY_CHANGE):
        raise ValueError(
            f"{out} holds a run of another recipe (it differs in {', '.join(changed)}); choose another --out, "
            "delete the folder, or give the same recipe to continue"
        )
    return run


def build_objective(run: RunConfig, *, compiled: bool = False) -> Objective:
    """The paradigm's forward process."""
    match run.objective:
        case "autoregressive":
            kernel = torch.compile(slice_loss, dynamic=False) if compiled else slice_loss
            return Autoregressive(kernel, run.train.label_smoothing)
        case "masked_lm":
            raise NotImplementedError


def build_tokenizer(run: RunConfig, out: Path, on_event: Handler) -> Tokenizer:
    """The tokenizer of the run folder; else the recipe's file, copied there; else one trained on the training text."""
    path = out / TOKENIZER
    if path.is_file():
        return load_tokenizer(path)
    if run.tokenizer.path is not None:
        given = Path(run.tokenizer.path)
        # Of all files only ranks do not say how text is split.
        tokenizer = load_tokenizer(given, run.tokenizer.split if given.suffix == ".tiktoken" else None)
    else:
        texts = (document.text for document in training_documents(run.data, on_event))
        tokenizer = train_tokenizer(texts, run.tokenizer, on_event)
    tokenizer.save(path)
    return tokenizer


def _stores(run: RunConfig, out: Path, tokenizer: Tokenizer, on_event: Handler) -> tuple[TokenStore, TokenStore]:
    folder = out / "data"
    train = build_token_store(lambda: training_documents(run.data, on_event), tokenizer, folder / "train", on_event)
    heldout = build_token_store(lambda: heldout_documents(run.data, on_event), tokenizer, folder / "heldout", on_event)
    return train, heldout


def _streams(run: RunConfig, stores: tuple[TokenStore, TokenStore]) -> tuple[SequenceStream, SequenceStream]:
    length, seed = run.data.sequence_length, run.train.seed
    masked = run.data.document_mask
    train = SequenceStream(stores[0], length, seed=seed, shuffle=True, document_mask=masked)
    return train, SequenceStream(stores[1], length, seed=seed, shuffle=False, document_mask=masked)


def fit_vocabulary(config: TransformerConfig, tokenizer: Tokenizer, out: Path) -> TransformerConfig:
    """The network's configuration with a vocabulary for this tokenizer; 0 becomes the tokenizer's own size."""
    if config.vocab_size == 0:
        return replace(config, vocab_size=tokenizer.vocab_size)
    check_vocabulary(config, tokenizer, out)
    return config
