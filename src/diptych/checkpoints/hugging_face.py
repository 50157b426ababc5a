"""How does the folder of a Hugging Face checkpoint become one of our networks?

config.json says which network it is, model.safetensors (or several files and an index of them) holds its weights, which
go from the disk straight to where the network keeps them.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diptych.checkpoints.hugging_face_config import Family, read_config
from diptych.checkpoints.hugging_face_names import Names, Stored, pieces
from diptych.checkpoints.json_object import brief, read_object
from diptych.checkpoints.safetensors_file import FLOATS, StoredTensor, read_header, read_into
from diptych.checkpoints.weights import check_size
from diptych.core.config import TransformerConfig
from diptych.models.diffusion_transformer import DiffusionTransformer
from diptych.models.network import TextNetwork, build_unfilled

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
GENERATION, TOKENIZER_CONFIG, TEMPLATE = "generation_config.json", "tokenizer_config.json", "chat_template.jinja"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
LONGEST_TEMPLATE = 1 << 20


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder's config.json names a model_type. Raises ValueError for a damaged one."""
    return (folder / CONFIG).is_file() and "model_type" in read_object(folder / CONFIG)


def hugging_face_config(folder: Path) -> tuple[Family, TransformerConfig]:
    """What config.json describes. Raises FileNotFoundError, or ValueError for what is not understood."""
    return read_config(read_object(folder / CONFIG), folder / CONFIG)


def open_hugging_face(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> TextNetwork:
    """The network in a folder, ready for use. dtype None: that of most weights, on a CPU float32 for float16.

    Raises FileNotFoundError for a missing part, ValueError for a damaged one or a network that is not understood.
    """
    family, config = hugging_face_config(folder)
    tensors, source = stored_tensors(folder)
    tensors = _renamed(tensors, family.names, source)
    check_size(config, sum(tensor.count for tensor in tensors.values()), source)
    dtype = dtype or _own_dtype(tensors.values(), torch.device(device))
    model = build_unfilled(config, device=device, dtype=dtype)
    assert not isinstance(model, DiffusionTransformer), "no such folder holds a network over patches"
    used: set[str] = set()
    for name, parameter in model.named_parameters():
        used |= _fill(parameter, family.names.stored(name), config, tensors, source)
    tied = family.names.tied if config.tied_embedding else ()
    for name in sorted(set(tensors) - used - set(tied)):
        if not any(re.fullmatch(pattern, name) for pattern in family.names.ignored):
            raise ValueError(f"{source} holds a tensor {brief(name)} that the network of its config.json does not have")
    return model


def stored_tensors(folder: Path) -> tuple[dict[str, StoredTensor], Path]:
    """All tensors of a folder by name, none of them read, and the file that says which there are.

    Raises FileNotFoundError where there are no weights, ValueError for damaged files, or an index that leaves the
    folder.
    """
    if (folder / WEIGHTS).is_file():
        return read_header(folder / WEIGHTS), folder / WEIGHTS
    if (folder / INDEX).is_file():
        return _sharded(folder), folder / INDEX
    if any((folder / name).is_file() for name in PICKLES):
        raise ValueError(
            f"{folder} holds its weights only as a pickle, which can run any program when opened and never is; convert "
            "it where you trust it: transformers' from_pretrained, then save_pretrained, writes safetensors"
        )
    raise FileNotFoundError(f"{folder} holds neither {WEIGHTS} nor {INDEX}")


def _sharded(folder: Path) -> dict[str, StoredTensor]:
    index = folder / INDEX
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} is damaged: weight_map is no object of tensors and files")
    tensors: dict[str, StoredTensor] = {}
    for name in sorted(set(places.values())):
        for tensor in read_header(_shard(folder, name)).values():
            if tensor.name in tensors:
                raise ValueError(f"{index}: {brief(tensor.name)} stands in two of its files")
            tensors[tensor.name] = tensor
    for name, file in places.items():
        if name not in tensors or tensors[name].path.name != file:
            raise ValueError(f"{index} says that {brief(name)} stands in {brief(file)}, which does not hold it")
    return tensors


def _shard(folder: Path, name: str) -> Path:
    """A file that an index names, which must lie in the folder itself: others are not its to name."""
    path = folder / name
    if name in ("", ".", "..") or any(character in name for character in "/\\\0:") or not name.endswith(".safetensors"):
        raise ValueError(f"{folder / INDEX} names {brief(name)}, which is no safetensors file in its folder; refused")
    if not path.is_file():
        raise FileNotFoundError(f"{folder / INDEX} names {brief(name)}, which is missing; download it again")
    # Hugging Face's cache keeps a snapshot's files as links to its own store of them.
    inside = [folder.resolve()]
    inside += [folder.resolve().parent.parent / "blobs"] if folder.resolve().parent.name == "snapshots" else []
    if path.resolve().parent not in inside:
        raise ValueError(f"{folder / INDEX} names {brief(name)}, a link that leads out of its folder; refused")
    return path


def _renamed(tensors: Mapping[str, StoredTensor], names: Names, source: Path) -> dict[str, StoredTensor]:
    """The tensors under the names of the family's table."""
    renamed: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        full = name if name.startswith(names.roots) else names.prefix + name
        # BERT's normalization as it was first released.
        full = full.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        if full in renamed:
            raise ValueError(f"{source} holds {brief(full)} under two names")
        renamed[full] = tensor
    for other, name in names.aliases.items():
        if other in renamed and name not in renamed:
            renamed[name] = renamed[other]
    return renamed


def _own_dtype(tensors: Iterable[StoredTensor], device: torch.device) -> torch.dtype:
    """The type of most bytes of weights; float16 is slow on a CPU, so there it becomes float32."""
    sizes = dict.fromkeys(("F32", *FLOATS), 0)
    for tensor in tensors:
        if tensor.kind in sizes:
            sizes[tensor.kind] += tensor.n_bytes
    dtype = FLOATS[max(sizes, key=sizes.__getitem__)]
    return torch.float32 if dtype == torch.float16 and device.type == "cpu" else dtype


def _fill(
    parameter: nn.Parameter,
    stored: Stored | None,
    config: TransformerConfig,
    tensors: Mapping[str, StoredTensor],
    source: Path,
) -> set[str]:
    """Read one parameter; returns the names of the tensors that it came from."""
    if stored is None:
        raise ValueError(f"{source}: the network of config.json has a part that its family's files do not hold")
    names = [*stored.names, *([stored.added] if stored.added else [])]
    for name in names:
        if name not in tensors:
            raise ValueError(f"{source} lacks the tensor {name}; its config.json describes another network")
    out = parameter.data.T if stored.transposed else parameter.data
    out = out[None] if stored.leading else out
    rows = pieces(config, len(stored.names))
    parts = [out] if rows is None else list(out.split(rows))
    for name, part in zip(stored.names, parts, strict=True):
        read_into(tensors[name], part)
    if stored.added:
        out += _first_row(tensors[stored.added], out)
    return set(names)


def _first_row(stored: StoredTensor, like: Tensor) -> Tensor:
    if len(stored.shape) != 2 or stored.shape[0] < 1 or stored.shape[1] != like.shape[1]:
        raise ValueError(f"{stored.path}: {stored.name} has shape {stored.shape}, which does not fit its network")
    row = torch.empty(1, stored.shape[1], dtype=like.dtype)
    read_into(dataclasses.replace(stored, shape=(1, stored.shape[1])), row)
    return row.to(like.device)


def stop_ids(folder: Path, vocab_size: int) -> tuple[int, ...]:
    """The ends of a text that generation_config.json and config.json name, those of the vocabulary."""
    found: list[Any] = []
    for name in (GENERATION, CONFIG):
        if (folder / name).is_file():
            ends = read_object(folder / name).get("eos_token_id")
            found += ends if isinstance(ends, list) else [ends]
    return tuple(dict.fromkeys(end for end in found if type(end) is int and 0 <= end < vocab_size))


def chat_template(folder: Path) -> str | None:
    """Jinja source from chat_template.jinja, else from tokenizer_config.json. Raises ValueError for a damaged file."""
    if (folder / TEMPLATE).is_file():
        if (folder / TEMPLATE).stat().st_size > LONGEST_TEMPLATE:
            raise ValueError(f"{folder / TEMPLATE} is larger than {LONGEST_TEMPLATE:,} bytes, which no template is")
        try:
            return (folder / TEMPLATE).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{folder / TEMPLATE} is not UTF-8: {error}") from None
    if not (folder / TOKENIZER_CONFIG).is_file():
        return None
    return _template_of(read_object(folder / TOKENIZER_CONFIG))


def _template_of(values: Mapping[str, Any]) -> str | None:
    """A template, or of several by name the one named `default`."""
    match values.get("chat_template"):
        case str(template):
            return template
        case list(several):
            for one in several:
                if isinstance(one, dict) and one.get("name") == "default" and isinstance(one.get("template"), str):
                    return str(one["template"])
    return None
