"""How is a low-rank update kept apart from the weights that it belongs to?

`adapter.safetensors` holds A and B of every adapted layer, `adapter.json` says whose they are and at which scale. The
weights themselves stay where they were: opening the run reads them from there and adds the update.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from diptych.checkpoints.weights import load_tensors, save_tensors
from diptych.core.config import LoraConfig, TransformerConfig
from diptych.core.recipe import load_json, save_json
from diptych.models.lora import add_lora, lora_layers, merge_lora
from diptych.models.network import Network

ADAPTER, TENSORS, CONFIG = "adapter.json", "adapter.safetensors", "config.json"

SAMPLED = 64
"""Numbers of each adapted matrix by which its base is known again."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Whose weights an update belongs to."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    base: str
    """The run folder, Hugging Face folder or GGUF file with the weights."""
    fingerprint: str
    """A digest of some numbers of each adapted matrix of the base."""
    lora: LoraConfig
    """The update's shape and scale."""


def is_adapter(path: Path) -> bool:
    """Whether a folder holds an update instead of weights."""
    return (path / ADAPTER).is_file()


def describe_adapter(model: Network, lora: LoraConfig, base: Path) -> Adapter:
    """What `save_adapter` writes beside the update of `model`."""
    return Adapter(base=str(base.resolve()), fingerprint=_fingerprint(model), lora=lora)


def save_adapter(tensors: dict[str, Tensor], adapter: Adapter, config: TransformerConfig, path: Path) -> None:
    """Replace the update that a run folder offers, each file atomically."""
    save_tensors(tensors, path / TENSORS)
    save_json(config, path / CONFIG)
    save_json(adapter, path / ADAPTER)


def chain(path: Path) -> tuple[Path, list[Path]]:
    """The weights at the bottom of a folder's updates, and the folders whose updates come on top, in their order.

    Raises FileNotFoundError where the base is gone, ValueError where updates are based on one another in a circle.
    """
    folders: list[Path] = []
    while is_adapter(path):
        if any(path.samefile(folder) for folder in folders):
            raise ValueError(
                f"{path / ADAPTER} names a base that is an update of {path} itself; name its weights there"
            )
        folders.insert(0, path)
        base = Path(load_json(Adapter, path / ADAPTER).base)
        if not base.exists():
            raise FileNotFoundError(
                f"{base}, of whose weights {path} holds an update, is gone; put it back, or name its new place as base "
                f"in {path / ADAPTER}"
            )
        path = base
    return path, folders


def merge_adapter(model: Network, path: Path) -> None:
    """Add the update in a folder to the weights of its base.

    Raises FileNotFoundError where there is none yet, ValueError where it belongs to other weights or is damaged.
    """
    adapter = load_json(Adapter, path / ADAPTER)
    if not (path / TENSORS).is_file():
        raise FileNotFoundError(f"{path} holds no {TENSORS} yet; let its training reach a first score or its end")
    tensors = load_tensors(path / TENSORS)
    add_lora(model, adapter.lora, torch.Generator())
    learnt = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if found != {name: parameter.shape for name, parameter in learnt.items()}:
        raise ValueError(f"{path / TENSORS} does not fit the weights of {adapter.base}; it is an update of others")
    if _fingerprint(model) != adapter.fingerprint:
        raise ValueError(
            f"the weights of {adapter.base} have changed since {path} was trained on them; restore them, or train again"
        )
    with torch.no_grad():
        for name, parameter in learnt.items():
            parameter.copy_(tensors[name])
    merge_lora(model)


def _fingerprint(model: Network) -> str:
    """A digest of some numbers of each frozen matrix, rounded to bfloat16: in whatever precision it was opened, it is
    known again."""
    digest = hashlib.blake2b(digest_size=16)
    for layer in lora_layers(model).values():
        numbers = layer.base.weight.detach().flatten()
        some = numbers[:: max(1, numbers.numel() // SAMPLED)]
        digest.update(some.to(torch.float32).to(torch.bfloat16).view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()
