"""What does the folder of a run hold, and how is its model opened?

`recipe.toml`, `config.json`, `tokenizer.json`, `model.safetensors` (the best weights so far), `metrics.jsonl`, `data/`
(the tokenized text) and `state/` (for going on with the training).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from diptych.checkpoints.weights import assign, load_tensors, save_tensors
from diptych.core.config import RECIPE, RunConfig, TransformerConfig
from diptych.core.recipe import load_json, load_toml, save_json
from diptych.models.language_model import LanguageModel
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.load import load_tokenizer

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


def load_config(path: Path) -> TransformerConfig:
    """The network's configuration in a run folder, without its weights."""
    if not path.is_dir():
        raise FileNotFoundError(f"there is no run folder {path}; train one with `diptych train`")
    if not (path / CONFIG).is_file():
        raise FileNotFoundError(f"{path} holds no {CONFIG}: it is no run folder, or its training has not begun")
    return load_json(TransformerConfig, path / CONFIG)


def load_recipe(path: Path) -> RunConfig:
    """The recipe that a run was trained by."""
    return load_toml(RunConfig, path / RECIPE)


def load_model(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[LanguageModel, Tokenizer]:
    """Open a run folder: its best weights, ready for use, and its tokenizer.

    Raises FileNotFoundError for a missing part, ValueError for a damaged one or a tokenizer of another vocabulary.
    """
    config = load_config(path)
    tokenizer = load_tokenizer(path / TOKENIZER)
    check_vocabulary(config, tokenizer, path)
    if not (path / WEIGHTS).is_file():
        raise FileNotFoundError(f"{path} holds no {WEIGHTS} yet; let its training reach a first score or its end")
    tensors = load_tensors(path / WEIGHTS)
    model = LanguageModel(config)
    assign(model, tensors, path / WEIGHTS)
    return model.to(device=device, dtype=dtype).eval().requires_grad_(False), tokenizer


def check_vocabulary(config: TransformerConfig, tokenizer: Tokenizer, path: Path) -> None:
    """Raises ValueError where the tokenizer can give ids that the network has no row for."""
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"{path}: the tokenizer has {tokenizer.vocab_size} tokens but the model embeds only {config.vocab_size}; "
            "use the tokenizer that the model was trained with"
        )


def save_weights(tensors: dict[str, Tensor], config: TransformerConfig, path: Path) -> None:
    """Replace the weights that a run folder offers, atomically."""
    save_tensors(tensors, path / WEIGHTS)
    save_json(config, path / CONFIG)
