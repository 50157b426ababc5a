"""What do the commands that open a model share?"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import tyro

if TYPE_CHECKING:
    from diptych.checkpoints.open import OpenedModel
    from diptych.core.config import ObjectiveName
    from diptych.models.encoder_decoder import EncoderDecoder
    from diptych.models.language_model import LanguageModel
    from diptych.tokenizers.base import Tokenizer

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Where and in which precision a model computes."""

    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the weights; `auto`: that of the file, or bfloat16 where they are quantized."""


def kind_named(arguments: list[str]) -> ObjectiveName | Literal["pixels"]:
    """What the run learnt that the first argument names, its objective, or `pixels` where it learnt images as sequences
    by any; runs of some kinds have options of their own."""
    from diptych.core.config import RECIPE

    folder = Path(arguments[0]) if arguments and not arguments[0].startswith("-") else None
    if folder is None or not (folder / RECIPE).is_file():
        return "autoregressive"
    from diptych.checkpoints.run_folder import load_recipe

    run = load_recipe(folder)
    return "pixels" if run.data.format == "pixels" else run.objective


def open_model(path: str, options: ModelOptions) -> OpenedModel:
    """MODEL: a run folder, a Hugging Face folder or a GGUF file."""
    import torch

    from diptych.checkpoints import open as checkpoints
    from diptych.training.distributed import choose_device

    dtype = None if options.dtype == "auto" else getattr(torch, options.dtype)
    return checkpoints.open_model(Path(path), device=choose_device(options.device), dtype=dtype)


def open_language_model(path: str, options: ModelOptions) -> OpenedModel:
    """MODEL, which must continue text. Raises ValueError for an encoder, alone or with a decoder."""
    opened = open_model(path, options)
    check_continues(opened, path)
    return opened


def check_continues(opened: OpenedModel, path: str) -> None:
    """Raises ValueError for a model that does not continue text: an encoder, alone or with a decoder, or a denoiser."""
    if opened.objective in ("masked_diffusion", "uniform_diffusion"):
        raise ValueError(f"{path} denoises text, many tokens at once; use diptych generate {path}, or evaluate")
    if opened.objective == "masked_lm":
        raise ValueError(
            f"{path} is an encoder: it guesses masked words and does not continue text; use diptych fill {path}"
        )
    language_model(opened)


def language_model(opened: OpenedModel) -> LanguageModel:
    """The network of a model that continues text. Raises ValueError for an encoder with a decoder."""
    from diptych.models.language_model import LanguageModel

    if not isinstance(opened.model, LanguageModel):
        raise ValueError("the model is an encoder with a decoder: it continues no text; use diptych translate")
    return opened.model


def encoder_decoder(opened: OpenedModel, path: str) -> EncoderDecoder:
    """The network of a model that translates. Raises ValueError for one that continues text."""
    from diptych.models.encoder_decoder import EncoderDecoder

    if not isinstance(opened.model, EncoderDecoder):
        raise ValueError(f"{path} has no encoder and a decoder, so it cannot translate; use diptych generate {path}")
    return opened.model


def open_tokenizer(name: str, split: str | None = None) -> Tokenizer:
    """The tokenizer of TOKENIZER: `byte`, or whatever `load_tokenizer` opens."""
    from diptych.tokenizers.load import load_tokenizer
    from diptych.tokenizers.simple import ByteTokenizer

    return ByteTokenizer() if name == "byte" else load_tokenizer(Path(name), split)


def given_text(text: str | None, files: tuple[Path, ...]) -> str:
    """What --text says, else what stands in the files, else in the standard input. ValueError for what is no UTF-8."""
    if text is not None:
        if files:
            raise ValueError("give either --text or files, not both")
        return text
    if files:
        return "".join(text_of(path.read_bytes(), str(path)) for path in files)
    return text_of(sys.stdin.buffer.read(), "the standard input")


def text_of(data: bytes, name: str) -> str:
    """UTF-8 text of what was read from `name`. Raises ValueError naming the first byte that is none."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}; convert it first, "
            "for example with iconv -f latin1 -t utf-8"
        ) from None


def size(text: str, option: str) -> int:
    """Bytes of a size such as 500MB or 2GB. Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMGT]?)B?", text.strip())
    if match is None:
        raise ValueError(f"{option} {text} is no size; write it as 800000, 500MB or 2GB")
    return int(float(match[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[match[2]])


def parse(kind: type[T], arguments: list[str], command: str, description: str) -> T:
    """Options of a command as a dataclass; `--help` shows `description`."""
    flat = (tyro.conf.OmitArgPrefixes,)
    return tyro.cli(kind, args=arguments, prog=f"diptych {command}", description=description, config=flat)


def one_line(text: str, limit: int = 60) -> str:
    """A text on one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
