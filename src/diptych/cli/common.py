"""What do the commands that open a model share?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import tyro

if TYPE_CHECKING:
    from diptych.models.language_model import LanguageModel
    from diptych.tokenizers.base import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Where and in which precision a model computes."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the weights."""


def open_model(path: str, options: ModelOptions) -> tuple[LanguageModel, Tokenizer]:
    """The model and tokenizer of MODEL."""
    import torch

    from diptych.checkpoints.run_folder import load_model
    from diptych.training.distributed import choose_device

    return load_model(Path(path), device=choose_device(options.device), dtype=getattr(torch, options.dtype))


def parse(kind: type[T], arguments: list[str], command: str, description: str) -> T:
    """Options of a command as a dataclass; `--help` shows `description`."""
    flat = (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(kind, args=arguments, prog=f"diptych {command}", description=description, config=flat)


def one_line(text: str, limit: int = 60) -> str:
    """A text on one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
