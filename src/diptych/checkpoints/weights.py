"""How do tensors get to the disk and back?

As safetensors, checked by name and shape. Pickled files are never opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diptych.checkpoints.json_object import brief
from diptych.checkpoints.safetensors_file import StoredTensor, read_into
from diptych.core.config import TransformerConfig
from diptych.core.files import replacing
from diptych.models.cost import parameters_by_part
from diptych.models.network import Network

MOST_SAID = 10**18
"""A number of parameters above this is not written out."""

SMALL_TABLE = 1 << 24
"""A table of positions of so many numbers is nothing to ask about."""


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


def fill(model: Network, tensors: Mapping[str, StoredTensor], source: Path) -> None:
    """Read the parameters of `model` from where they stand under its own names.

    Raises ValueError at the first name or shape that does not fit.
    """
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        if name not in tensors:
            raise ValueError(f"{source} lacks the tensor {name}; its config.json describes another network")
        read_into(tensors[name], parameter.data)
    if unknown := sorted(set(tensors) - set(parameters)):
        raise ValueError(
            f"{source} holds a tensor {brief(unknown[0])} that the network of its config.json does not have"
        )


def check_size(config: TransformerConfig, available: int, source: Path) -> None:
    """Raises ValueError where a network of `config` takes more numbers than the `available` ones of its file, before
    anything of that size is made."""
    parameters = sum(parameters_by_part(config).values())
    if parameters > available:
        wanted = f"{parameters:,}" if parameters < MOST_SAID else f"more than {MOST_SAID:,}"
        raise ValueError(f"{source} holds {available:,} numbers, but its config.json describes a network of {wanted}")
    if config.position.startswith("sinusoidal") and config.max_length * config.d_model > max(available, SMALL_TABLE):
        raise ValueError(
            f"{source}: the table of positions that its config.json describes is larger than the whole network"
        )
