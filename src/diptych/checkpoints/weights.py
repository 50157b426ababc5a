"""How do tensors get to the disk and back?

As safetensors, read whole, checked by name and shape before anything is overwritten. Pickled files are never opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diptych.core.files import replacing


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to `path` atomically. Raises OSError where the disk is full."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(contiguous, temporary, metadata={"format": "pt", **(metadata or {})})
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file. Raises ValueError where it is damaged."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return load_file(path)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}); restore it from a copy") from error


def assign(model: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy tensors into the parameters of `model`. Raises ValueError at the first name or shape that does not fit."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if name not in tensors:
            raise ValueError(f"{source} lacks the tensor {name}; its config.json describes another network")
        if tensors[name].shape != parameter.shape:
            found, wanted = tuple(tensors[name].shape), tuple(parameter.shape)
            raise ValueError(f"{source}: {name} has shape {found}, but config.json asks for {wanted}")
    if unknown := sorted(set(tensors) - set(parameters)):
        raise ValueError(f"{source} holds a tensor {unknown[0]} that the network of its config.json does not have")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
