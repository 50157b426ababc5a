"""With which network does a run begin: a fresh one, the weights of a checkpoint, or an update of them?"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import torch

from diptych.checkpoints.open import OpenedModel, open_config, open_model
from diptych.checkpoints.run_folder import TOKENIZER, load_recipe
from diptych.core.config import RECIPE, RunConfig, TokenizerConfig, TransformerConfig
from diptych.core.random import Rng
from diptych.models.lora import add_lora, lora_layers
from diptych.models.network import Network, build_network, initialize
from diptych.training.state import has_state


def with_network_of_init(run: RunConfig, out: Path) -> RunConfig:
    """The recipe with the network of the checkpoint that it starts from, under the recipe's own dropout.

    Raises ValueError where the recipe asks for another network or tokenizer, or lacks a checkpoint that it needs.
    """
    if run.init is None:
        if run.lora is not None:
            raise ValueError("lora trains an update of the weights of a checkpoint; name one with --init")
        if run.data.format == "chat":
            raise ValueError("conversations need a tokenizer and a template that mark turns; name a model with --init")
        return run
    found = _network_of(run.init, run, out)
    _check_agreement(run, found)
    length = run.data.sequence_length
    if length > found.max_length:
        raise ValueError(
            f"data.sequence_length={length} is longer than the {found.max_length} tokens that {run.init} was made for; "
            "set a smaller one"
        )
    return replace(run, model=found)


def _network_of(init: str, run: RunConfig, out: Path) -> TransformerConfig:
    """A run that has begun knows its network: the checkpoint itself may be gone."""
    begun = load_recipe(out) if (out / RECIPE).is_file() else None
    found = begun.model if begun is not None and begun.init == init else open_config(Path(init))
    return replace(found, dropout=run.model.dropout)


def _check_agreement(run: RunConfig, found: TransformerConfig) -> None:
    """What the recipe says of the network, beyond the defaults, must be so."""
    default = TransformerConfig()
    for field in fields(TransformerConfig):
        wanted, value = getattr(run.model, field.name), getattr(found, field.name)
        if wanted not in (getattr(default, field.name), value):
            raise ValueError(
                f"the recipe asks for model.{field.name} = {wanted}, but {run.init} has {value}; leave the network out "
                "of the recipe: it is that of init"
            )
    if run.tokenizer != TokenizerConfig():
        raise ValueError(f"the tokenizer is that of {run.init}; leave [tokenizer] out of the recipe")


def open_init(run: RunConfig, out: Path) -> OpenedModel | None:
    """The checkpoint that a run starts from; None where there is none, or where the run's own state says it all."""
    if run.init is None or (run.lora is None and has_state(out / "state") and (out / TOKENIZER).is_file()):
        return None
    # Frozen weights keep their own precision; those that learn are float32.
    return open_model(Path(run.init), dtype=torch.float32 if run.lora is None else None)


def first_network(run: RunConfig, config: TransformerConfig, opened: OpenedModel | None) -> Network:
    """The network at step 0; its matrices that do not learn are kept in the precision of the products."""
    rng = Rng(run.train.seed)
    if opened is None:
        model = build_network(config)
        initialize(model, rng.generator("weights"))
        return model
    model = _with_dropout(opened.model, config)
    if run.lora is None:
        return model.requires_grad_(True)
    add_lora(model, run.lora, rng.generator("lora"))
    matrices = {layer.base for layer in lora_layers(model).values()}
    for module in model.modules():
        dtype = getattr(torch, run.train.dtype) if module in matrices else torch.float32
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.to(dtype)
    return model


def _with_dropout(model: Network, config: TransformerConfig) -> Network:
    """The network itself, or one of the same weights under another dropout."""
    if model.config == config:
        return model
    other = build_network(config)
    other.load_state_dict(model.state_dict(), assign=True)
    return other
