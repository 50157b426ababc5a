"""How is MODEL opened, whatever it is: a run folder, a Hugging Face folder, or a GGUF file?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from diptych.checkpoints import hugging_face as hf
from diptych.checkpoints.adapter import chain, merge_adapter
from diptych.checkpoints.gguf import chat_template_of, config_of, open_gguf, stop_ids_of
from diptych.checkpoints.run_folder import check_vocabulary, load_config, load_model, load_recipe
from diptych.core.config import RECIPE, ObjectiveName, TransformerConfig
from diptych.core.gguf import MAGIC, read_header
from diptych.models.network import TextNetwork
from diptych.tokenizers.base import Tokenizer, end_of
from diptych.tokenizers.load import load_tokenizer

Kind = Literal["run folder", "Hugging Face folder", "GGUF file"]

KINDS = "a run folder, a Hugging Face folder (config.json with model_type), a GGUF file, or a folder with one GGUF file"


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A network ready for use, and what it takes to talk to it."""

    model: TextNetwork
    tokenizer: Tokenizer
    stop_ids: tuple[int, ...] = ()
    """Tokens besides the tokenizer's end of document that end a text."""
    chat_template: str | None = None
    """Jinja source that makes a prompt of a conversation."""
    opens: bool = True
    """Whether a text begins with the tokenizer's opening token. It does in all that is trained here; others' networks
    expect one only where their tokenizer has a token of its own for that."""
    objective: ObjectiveName = "autoregressive"
    """What it was trained for: to continue text, to guess masked words as an encoder, or to denoise text."""


def open_model(path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> OpenedModel:
    """Open MODEL. dtype: precision of the weights; None: that of the file, or bfloat16 where they are quantized;
    float16, in which processors are slow, becomes float32 there.

    Raises FileNotFoundError for a missing part, ValueError for a damaged one or a network that is not understood.
    """
    base, updates = chain(path)
    opened = _open(base, device, dtype)
    for folder in updates:
        merge_adapter(opened.model, folder)
    return opened


def open_config(path: Path) -> TransformerConfig:
    """The network's configuration alone: nothing large is read."""
    kind, place = find(path)
    match kind:
        case "run folder":
            return load_config(place)
        case "Hugging Face folder":
            return hf.hugging_face_config(place)[1]
        case "GGUF file":
            return config_of(read_header(place))


def objective_of(path: Path) -> ObjectiveName:
    """What MODEL was trained for; nothing large is read."""
    kind, place = find(path)
    match kind:
        case "run folder":
            # A folder of weights without a recipe is taken for what most are.
            return load_recipe(place).objective if (place / RECIPE).is_file() else "autoregressive"
        case "Hugging Face folder":
            return hf.hugging_face_config(place)[0].objective
        case "GGUF file":
            return "autoregressive"


def find(path: Path) -> tuple[Kind, Path]:
    """What MODEL is, and its folder or file.

    Raises FileNotFoundError where there is nothing, ValueError for what is no model.
    """
    if path.is_dir():
        return _in_folder(path)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no run folder {path}, nor a Hugging Face folder or GGUF file of that name; train one with "
            "`diptych train`"
        )
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return "GGUF file", path
    hint = f"; name its folder, {path.parent}" if path.suffix in (".safetensors", ".json") else ""
    raise ValueError(f"{path} is no model: MODEL is {KINDS}{hint}")


def _in_folder(folder: Path) -> tuple[Kind, Path]:
    if (folder / RECIPE).is_file():
        return "run folder", folder
    quantized = sorted(file for file in folder.iterdir() if file.suffix == ".gguf" and file.is_file())
    if (folder / hf.CONFIG).is_file():
        if not hf.is_hugging_face(folder):
            return "run folder", folder
        if len(quantized) != 1 or any((folder / name).is_file() for name in (hf.WEIGHTS, hf.INDEX)):
            return "Hugging Face folder", folder
    if not quantized:
        raise FileNotFoundError(f"{folder} holds no model: MODEL is {KINDS}")
    if len(quantized) > 1:
        raise ValueError(f"{folder} holds several GGUF files; name one, for example {quantized[0]}")
    return "GGUF file", quantized[0]


def _open(path: Path, device: torch.device | str, dtype: torch.dtype | None) -> OpenedModel:
    kind, place = find(path)
    match kind:
        case "run folder":
            opened = _open_run(place, device, dtype)
        case "Hugging Face folder":
            opened = _open_hugging_face(place, device, dtype)
        case "GGUF file":
            model, header = open_gguf(place, device=device, dtype=dtype)
            tokenizer = load_tokenizer(place)
            check_vocabulary(model.config, tokenizer, place)
            opened = OpenedModel(
                model=model,
                tokenizer=tokenizer,
                stop_ids=stop_ids_of(header),
                chat_template=chat_template_of(header),
            )
    end = end_of(opened.tokenizer)
    others = tuple(token for token in opened.stop_ids if token != end)
    opens = kind == "run folder" or end is None or opened.tokenizer.opening_id != end
    return dataclasses.replace(opened, stop_ids=others, opens=opens)


def _open_run(folder: Path, device: torch.device | str, dtype: torch.dtype | None) -> OpenedModel:
    model, tokenizer = load_model(folder, device=device, dtype=dtype or torch.float32)
    return OpenedModel(
        model=model,
        tokenizer=tokenizer,
        stop_ids=hf.stop_ids(folder, model.config.vocab_size),
        chat_template=hf.chat_template(folder),
        objective=objective_of(folder),
    )


def _open_hugging_face(folder: Path, device: torch.device | str, dtype: torch.dtype | None) -> OpenedModel:
    family, config = hf.hugging_face_config(folder)
    # The small parts first: a tokenizer that does not fit is no reason to have read all weights.
    tokenizer = load_tokenizer(folder)
    check_vocabulary(config, tokenizer, folder)
    template, ends = hf.chat_template(folder), hf.stop_ids(folder, config.vocab_size)
    return OpenedModel(
        model=hf.open_hugging_face(folder, device=device, dtype=dtype),
        tokenizer=tokenizer,
        stop_ids=ends,
        chat_template=template,
        objective=family.objective,
    )
