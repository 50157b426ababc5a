"""`diptych export MODEL`: write a model where other programs read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from diptych.cli.common import ModelOptions, open_model, parse
from diptych.cli.console import ConsoleHandler

if TYPE_CHECKING:
    from diptych.checkpoints.gguf_export import FileType
    from diptych.checkpoints.open import OpenedModel
    from diptych.core.events import Handler

DESCRIPTION = """Write a model as a Hugging Face folder that transformers loads with the same logits, or as a GGUF file
that llama.cpp runs. A low-rank update is merged into the weights that it belongs to.

examples:
  diptych export runs/tiny --out tiny-hf
  diptych export runs/tiny --out tiny.gguf --dtype q8_0
  diptych export SmolLM2-135M-Instruct.Q4_1.gguf --out smollm --dtype bfloat16
"""

FOLDER_TYPES = ("float32", "float16", "bfloat16")
FILE_TYPES: dict[str, FileType] = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "q8_0": "Q8_0",
    "q4_0": "Q4_0",
    "q4_1": "Q4_1",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `diptych export`."""

    model: tyro.conf.Positional[str]
    """A run folder, a Hugging Face folder or a GGUF file."""
    out: Path
    """The folder or file to write; nothing is overwritten."""
    format: Literal["auto", "hf", "gguf"] = "auto"
    """A Hugging Face folder or a GGUF file; `auto`: GGUF where --out ends in .gguf."""
    dtype: Literal["auto", "float32", "float16", "bfloat16", "q8_0", "q4_0", "q4_1"] = "auto"
    """Precision of the weights; the last three, which are quantized, for GGUF alone. `auto`: that of the model."""


def main(arguments: list[str]) -> int:
    """Parse, open, write."""
    options = parse(Options, arguments, "export", DESCRIPTION)
    is_file = options.format == "gguf" or (options.format == "auto" and options.out.suffix == ".gguf")
    if not is_file and options.dtype not in ("auto", *FOLDER_TYPES):
        raise ValueError(f"--dtype {options.dtype} is for GGUF; a Hugging Face folder takes {', '.join(FOLDER_TYPES)}")
    from diptych.checkpoints.hugging_face_export import refuse_existing

    refuse_existing(options.out)
    # Rounded once, from all that the model's file says.
    precision = options.dtype if options.dtype in ("auto", "bfloat16") else "float32"
    opened = open_model(options.model, ModelOptions(device="cpu", dtype=precision))
    with ConsoleHandler() as console:
        (_file if is_file else _folder)(options, opened, console)
    print(f"wrote {options.out}")
    return 0


def _folder(options: Options, opened: OpenedModel, on_event: Handler) -> None:
    import torch

    from diptych.checkpoints.hugging_face_export import export_hugging_face

    dtype = None if options.dtype == "auto" else getattr(torch, options.dtype)
    export_hugging_face(opened, options.out, dtype, on_event)


def _file(options: Options, opened: OpenedModel, on_event: Handler) -> None:
    from diptych.checkpoints.gguf_export import write_gguf

    own = str(opened.model.unembedding.dtype).removeprefix("torch.")
    kind = FILE_TYPES.get(own if options.dtype == "auto" else options.dtype, "F32")  # GGUF has no wider one
    write_gguf(
        options.out,
        opened.model,
        opened.tokenizer,
        file_type=kind,
        chat_template=opened.chat_template,
        on_event=on_event,
    )
