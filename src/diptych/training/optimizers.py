"""How do gradients move parameters?

Fused AdamW with decoupled weight decay on matrices only, or Muon on the blocks' matrices and AdamW on the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from diptych.core.config import OptimConfig


@final
class Optimizer:
    """The optimizers of what learns, under one learning-rate factor, with a state that is plain named tensors."""

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        self.names: dict[Tensor, str] = {parameter: name for name, parameter in _learnt(model)}
        self.parts = _build(model, config)
        self.peaks = [[float(group["lr"]) for group in part.param_groups] for part in self.parts]

    def step(self, factor: float) -> None:
        """Move the parameters, at `factor` times each group's peak learning rate; then drop the gradients."""
        for part, peaks in zip(self.parts, self.peaks, strict=True):
            for group, peak in zip(part.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            part.step()
            part.zero_grad(set_to_none=True)

    def state(self) -> Iterator[tuple[str, Tensor]]:
        """Name and whole tensor of everything that the optimizers remember, gathered from all ranks."""
        for index, part in enumerate(self.parts):
            for parameter, memory in part.state.items():
                for key, value in memory.items():
                    yield f"{index}/{self.names[parameter]}/{key}", whole(value)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `state` gave, sharded as the parameters are now."""
        parameters = {name: parameter for parameter, name in self.names.items()}
        for full_name, value in tensors.items():
            index, name, key = full_name.split("/")
            parameter = parameters[name]
            if isinstance(parameter, DTensor) and value.dim():
                placed: Tensor = distribute_tensor(value, parameter.device_mesh, parameter.placements)
            else:
                placed = value.clone() if key == "step" else value.to(parameter.device, copy=True)
            self.parts[int(index)].state[parameter][key] = placed


def _build(model: nn.Module, config: OptimConfig) -> list[torch.optim.Optimizer]:
    matrices = [p for _, p in _learnt(model) if p.dim() >= 2]
    vectors = [p for _, p in _learnt(model) if p.dim() < 2]
    match config.name:
        case "adamw":
            return [_adamw(matrices, vectors, config)]
        case "muon":
            hidden = [p for n, p in _learnt(model) if p.dim() == 2 and "blocks." in n]
            if any(isinstance(p, DTensor) for p in hidden):
                raise ValueError(
                    "Muon needs whole matrices, which fsdp shards; set train.distributed = 'ddp', or use adamw"
                )
            inside = set(hidden)
            outer = [p for p in matrices if p not in inside]
            muon = torch.optim.Muon(hidden, lr=config.muon_lr, weight_decay=config.weight_decay)
            return [muon, _adamw(outer, vectors, config)]


def _learnt(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def _adamw(matrices: list[nn.Parameter], vectors: list[nn.Parameter], config: OptimConfig) -> torch.optim.AdamW:
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def whole(tensor: Tensor) -> Tensor:
    """A tensor gathered from all ranks, where it is sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def place(target: Tensor, source: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    if isinstance(target, DTensor):
        source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
    target.copy_(source)


def clip_and_scale(parameters: Sequence[Tensor], scale: float, clip_norm: float) -> float:
    """Multiply all gradients by `scale`, then clip their common norm; returns the norm before clipping."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    total = torch.nn.utils.get_total_norm(gradients)
    norm = float(whole(total)) * scale
    clip = min(1.0, clip_norm / (norm + 1e-6)) if clip_norm else 1.0
    torch._foreach_mul_(gradients, scale * clip)
    return norm
