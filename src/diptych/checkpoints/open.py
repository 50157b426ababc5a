"""How is MODEL opened, whatever it is: a run folder, a Hugging Face folder, or a GGUF file?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from diptych.checkpoints.run_folder import load_config, load_model
from diptych.core.config import TransformerConfig
from diptych.models.network import Network
from diptych.tokenizers.base import Tokenizer


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A network ready for use, and what it takes to talk to it."""

    model: Network
    tokenizer: Tokenizer
    stop_ids: tuple[int, ...] = ()
    """Tokens besides the tokenizer's end of document that end a text."""
    chat_template: str | None = None
    """Jinja source that makes a prompt of a conversation."""


def open_model(path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> OpenedModel:
    """Open MODEL. dtype: precision of the weights; None: that of the file, or bfloat16 where they are quantized.

    Raises FileNotFoundError for a missing part, ValueError for a damaged one or a network that is not understood.
    """
    model, tokenizer = load_model(path, device=device, dtype=dtype or torch.float32)
    return OpenedModel(model=model, tokenizer=tokenizer)


def open_config(path: Path) -> TransformerConfig:
    """The network's configuration alone: nothing large is read."""
    return load_config(path)
