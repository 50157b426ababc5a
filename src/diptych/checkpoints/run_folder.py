"""What does the folder of a run hold, and how is its model opened?

`recipe.toml`, `config.json`, `tokenizer.json`, `model.safetensors` (the best weights so far; of a low-rank update
`adapter.safetensors` and `adapter.json` instead), `metrics.jsonl`, `data/` (the tokenized text) and `state/` (for going
on with the training). A run that began from another model also keeps its `chat_template.jinja` and
`generation_config.json` (the tokens that end an answer).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from diptych.checkpoints.safetensors_file import read_header
from diptych.checkpoints.weights import check_size, fill, save_tensors
from diptych.core.config import RECIPE, RunConfig, TransformerConfig
from diptych.core.files import write_text
from diptych.core.recipe import load_json, load_toml, save_json
from diptych.models.diffusion_transformer import DiffusionTransformer
from diptych.models.language_model import LanguageModel
from diptych.models.network import Network, TextNetwork, build_unfilled
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.load import load_tokenizer

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
CHAT_TEMPLATE, GENERATION = "chat_template.jinja", "generation_config.json"


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
) -> tuple[TextNetwork, Tokenizer]:
    """Open a run folder: its best weights, ready for use, and its tokenizer.

    Raises FileNotFoundError for a missing part, ValueError for a damaged one or a tokenizer of another vocabulary.
    """
    config = load_config(path)
    if config.patches is not None:
        raise ValueError(f"{path} makes images and knows no text; use diptych generate or diptych evaluate")
    tokenizer = load_tokenizer(path / TOKENIZER)
    check_vocabulary(config, tokenizer, path)
    model = _filled(path, config, device, dtype)
    assert not isinstance(model, DiffusionTransformer), "only a network over patches is one"
    return model, tokenizer


def load_network(path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Network:
    """The best weights of a run folder, ready for use. Raises FileNotFoundError for a missing part, ValueError for a
    damaged one."""
    return _filled(path, load_config(path), device, dtype)


def _filled(path: Path, config: TransformerConfig, device: torch.device | str, dtype: torch.dtype) -> Network:
    if not (path / WEIGHTS).is_file():
        raise FileNotFoundError(f"{path} holds no {WEIGHTS} yet; let its training reach a first score or its end")
    tensors = read_header(path / WEIGHTS)
    check_size(config, sum(tensor.count for tensor in tensors.values()), path / WEIGHTS)
    model = build_unfilled(config, device=device, dtype=dtype)
    fill(model, tensors, path / WEIGHTS)
    return model


def load_language_model(path: Path, *, device: torch.device | str = "cpu") -> tuple[LanguageModel, Tokenizer]:
    """`load_model` of a run that trained no encoder-decoder. Raises ValueError for one that did."""
    model, tokenizer = load_model(path, device=device)
    if not isinstance(model, LanguageModel):
        raise ValueError(f"{path} is an encoder-decoder, which reads a source before it writes; use diptych translate")
    return model, tokenizer


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


def save_chat_format(path: Path, template: str | None, stop_ids: tuple[int, ...]) -> None:
    """Keep how a run's model talks, as a Hugging Face folder does: its chat template, if it has one, and the tokens
    that end an answer."""
    if template is not None:
        write_text(path / CHAT_TEMPLATE, template)
    if stop_ids:
        write_text(path / GENERATION, json.dumps({"eos_token_id": list(stop_ids)}) + "\n")
