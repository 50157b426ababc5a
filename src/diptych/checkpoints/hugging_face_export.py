"""How is one of our networks written as a folder that Hugging Face's `transformers` loads with the same logits?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.checkpoints.hugging_face import CONFIG, GENERATION, WEIGHTS
from diptych.checkpoints.hugging_face_config import FAMILIES, Family, read_config
from diptych.checkpoints.hugging_face_names import Stored, pieces
from diptych.checkpoints.open import OpenedModel
from diptych.checkpoints.safetensors_file import TensorToWrite, write_tensors
from diptych.core.config import TransformerConfig
from diptych.core.events import Handler, Progressed, ignore
from diptych.core.files import write_folder, write_text
from diptych.models.network import Network, build_network
from diptych.tokenizers.base import Tokenizer, end_of
from diptych.tokenizers.hugging_face_folder import save_hugging_face

_UNGATED = ("relu", "gelu", "gelu_tanh", "silu")
_ALONE: dict[str, tuple[Any, ...]] = {
    "n_encoder_layers": (0,),
    "embedding_scale": (False,),
}
_PLAIN: dict[str, tuple[Any, ...]] = {"mask": ((),), "attention": (("softmax",),)}
_LLAMA = (
    _ALONE
    | _PLAIN
    | {
        "norm": ("rms",),
        "norm_placement": ("pre",),
        "position": ("rope",),
        "feed_forward": ("swiglu",),
        "embedding_norm": (False,),
        "head_transform": (False,),
        "output_bias": (False,),
    }
)
_LAYER_NORM = _PLAIN | {
    "norm": ("layer",),
    "feed_forward": _UNGATED,
    "window": (None,),
    "qk_norm": (False,),
    "heads that share keys, or of a width other than d_model / n_heads": (False,),
}

NEEDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "llama": _LLAMA | {"qkv_bias": (False,), "qk_norm": (False,), "window": (None,)},
    "mistral": _LLAMA | {"qkv_bias": (False,), "qk_norm": (False,), "bias": (False,)},
    "qwen2": _LLAMA | {"qkv_bias": (True,), "qk_norm": (False,), "bias": (False,)},
    "qwen3": _LLAMA | {"qkv_bias": (False,), "qk_norm": (True,), "bias": (False,)},
    "gpt2": _LAYER_NORM
    | _ALONE
    | {
        "norm_placement": ("pre",),
        "position": ("learned",),
        "embedding_norm": (False,),
        "head_transform": (False,),
        "output_bias": (False,),
    },
    "bert": _LAYER_NORM
    | _ALONE
    | {
        "norm_placement": ("post",),
        "position": ("learned",),
        "embedding_norm": (True,),
        "head_transform": (True,),
    },
    "marian": _LAYER_NORM
    | {
        "no encoder": (False,),
        "norm_placement": ("post",),
        "norm_eps": (1e-5,),
        "position": ("sinusoidal_halves", "sinusoidal"),
        "embedding_norm": (False,),
        "head_transform": (False,),
        "tied_embedding": (True,),
    },
}
"""What a network must be to have an architecture of each family, by the fields of `TransformerConfig`."""


def export_hugging_face(
    opened: OpenedModel, folder: Path, dtype: torch.dtype | None = None, on_event: Handler = ignore
) -> None:
    """Write config.json, generation_config.json, model.safetensors, the tokenizer and the chat template.

    dtype: precision of the weights; None: that of the network. The folder appears complete or not at all. Raises
    FileExistsError where it holds files, ValueError for a network or a tokenizer that Hugging Face has no form of.
    """
    refuse_existing(folder)
    config = opened.model.config
    kind = family_of(config)
    dtype = dtype or opened.model.unembedding.dtype
    values = {"architectures": [FAMILIES[kind].architectures[0]], "model_type": kind, **FAMILIES[kind].write(config)}
    values |= {"dtype": str(dtype).removeprefix("torch.")}
    tokens = _tokens(kind, opened.tokenizer)
    own_end = end_of(opened.tokenizer)
    ends = [*([] if own_end is None else [own_end]), *opened.stop_ids]
    generation: dict[str, Any] = {**tokens, "eos_token_id": ends if len(ends) > 1 else own_end}
    if kind == "marian" and opened.tokenizer.opening_id != own_end:
        generation["bad_words_ids"] = [[opened.tokenizer.opening_id]]  # it only ever begins a text

    def fill(temporary: Path) -> None:
        save_hugging_face(opened.tokenizer, temporary, chat_template=opened.chat_template, max_length=config.max_length)
        _save(temporary / CONFIG, values | tokens)
        if FAMILIES[kind].objective == "autoregressive":
            _save(temporary / GENERATION, generation)
        tensors = list(_tensors(opened.model, FAMILIES[kind], values))
        write_tensors(_counted(tensors, on_event), temporary / WEIGHTS, dtype)

    write_folder(folder, fill)


def refuse_existing(folder: Path) -> None:
    """Raises FileExistsError where there is already something under this name."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} is already there; name another --out, or remove it first")


def family_of(config: TransformerConfig) -> str:
    """The model_type of a network. Raises ValueError naming what no architecture of Hugging Face has."""
    obstacles = {kind: list(_obstacles(config, needs)) for kind, needs in NEEDS.items()}
    kind = min(obstacles, key=lambda kind: len(obstacles[kind]))
    if obstacles[kind]:
        raise ValueError(
            f"no architecture of Hugging Face that is written here has {' and '.join(obstacles[kind])} together with "
            f"the rest of this network (the nearest is {kind}); export it as GGUF, or keep the run folder"
        )
    return kind


def _obstacles(config: TransformerConfig, needs: dict[str, tuple[Any, ...]]) -> Iterator[str]:
    for name, allowed in needs.items():
        match name:
            case "no encoder":
                if not config.n_encoder_layers:
                    yield name
            case _ if hasattr(config, name):
                if getattr(config, name) not in allowed:
                    yield f"{name}={getattr(config, name)}"
            case _:
                if config.kv_heads != config.n_heads or config.n_heads * config.head_width != config.d_model:
                    yield name


def _tokens(kind: str, tokenizer: Tokenizer) -> dict[str, int | None]:
    """The ids that config.json names. Raises ValueError for a translator whose tokenizer has no token to begin with."""
    end = end_of(tokenizer)
    match kind:
        case "marian":
            first = tokenizer.opening_id
            return {
                "bos_token_id": None,
                "eos_token_id": end,
                "forced_eos_token_id": end,
                "pad_token_id": first,
                "decoder_start_token_id": first,
            }
        case "bert":
            return {"pad_token_id": tokenizer.special_tokens.get("[PAD]", end)}
        case _:
            return {"bos_token_id": end if end is None else tokenizer.opening_id, "eos_token_id": end}


def _tensors(model: Network, family: Family, values: dict[str, Any]) -> Iterator[TensorToWrite]:
    """The tensors that the written config.json asks for, from the network; biases that it lacks are zero."""
    described = read_config(values, Path(CONFIG))[1]
    with torch.device("meta"):
        wanted = dict(build_network(described).named_parameters())
    own = dict(model.named_parameters())
    # Sines and cosines in turn become two halves by another order of the residual stream's dimensions, in which all
    # else is blind to order.
    regroup = model.config.position == "sinusoidal" and described.position == "sinusoidal_halves"
    for name, shape_of in wanted.items():
        stored = family.names.stored(name)
        if stored is None:
            raise ValueError(f"{name} has no name in Hugging Face's files")
        parameter = own.get(name, torch.zeros(shape_of.shape) if name.endswith("bias") else None)
        if parameter is None:
            raise ValueError(f"the network has no {name}, which Hugging Face's files hold")
        tensor = _halves(name, parameter.detach()) if regroup else parameter.detach()
        yield from _pieces(described, stored, tensor)


def _pieces(config: TransformerConfig, stored: Stored, tensor: Tensor) -> Iterator[TensorToWrite]:
    tensor = tensor.T if stored.transposed else tensor
    tensor = tensor[None] if stored.leading else tensor
    rows = pieces(config, len(stored.names))
    parts = [tensor] if rows is None else tensor.split(rows)
    for name, part in zip(stored.names, parts, strict=True):
        yield TensorToWrite(name=name, shape=tuple(part.shape), make=_given(part))
    if stored.added is not None:
        nothing = tensor.new_zeros(2, tensor.shape[1])
        yield TensorToWrite(name=stored.added, shape=tuple(nothing.shape), make=_given(nothing))


def _given(tensor: Tensor) -> Callable[[], Tensor]:
    return lambda: tensor


def _halves(name: str, tensor: Tensor) -> Tensor:
    """The parameter with even dimensions of the residual stream before odd ones."""
    module, _, kind = name.rpartition(".")
    if kind == "weight" and module.endswith(("embedding", "input")):
        return torch.cat((tensor[:, 0::2], tensor[:, 1::2]), dim=1)
    if module.endswith(("norm", "output")):
        return torch.cat((tensor[0::2], tensor[1::2]))
    return tensor


def _counted(tensors: list[TensorToWrite], on_event: Handler) -> Iterator[TensorToWrite]:
    def telling(done: int, make: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def made() -> Tensor:
            on_event(Progressed(what="writing the weights", done=done, total=len(tensors), unit="tensors"))
            return make()

        return made

    for index, tensor in enumerate(tensors):
        yield TensorToWrite(name=tensor.name, shape=tensor.shape, make=telling(index + 1, tensor.make))


def _save(path: Path, values: dict[str, Any]) -> None:
    write_text(path, json.dumps(values, indent=2) + "\n")
