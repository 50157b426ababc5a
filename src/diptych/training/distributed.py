"""How do several processes train one model?

By PyTorch's own engines under `torchrun`: DistributedDataParallel keeps a whole copy on each rank, FSDP2 shards the
parameters. One process needs neither and goes through the same code.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from diptych.core.random import Rng
from diptych.core.types import Batch, Loss, Objective
from diptych.models.network import Network
from diptych.nn.block import Block


@final
@dataclass(frozen=True)
class World:
    """This process among the others: `rank` of `size`, computing on `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this rank writes the files and reports."""
        return self.rank == 0

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the ranks, in float64."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return tensor.tolist()

    def wait(self) -> None:
        """Until every rank has come here."""
        if self.size > 1:
            dist.barrier()


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is a CUDA device where there is one. Raises ValueError for a device that is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{local_rank}" if name == "cuda" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try cpu") from None
    return device


@contextmanager
def joined(device_name: str) -> Iterator[World]:
    """Join the other processes that `torchrun` started, if it did; leave them at the end."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(device_name, int(os.environ.get("LOCAL_RANK", "0")))
    if size == 1:
        yield World(0, 1, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), size, device)
    finally:
        dist.destroy_process_group()


@final
class LossModule(nn.Module):
    """An objective's loss on a network as one module, which is what the engines wrap."""

    def __init__(self, model: Network, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, rng: Rng) -> tuple[torch.Tensor, int, dict[str, float]]:
        # A tuple, since FSDP2 hooks the backward pass on the tensors that it finds in plain containers.
        loss = self.objective.loss(self.model, batch, rng)
        return loss.total, loss.count, dict(loss.metrics)


def distribute(module: LossModule, world: World, engine: Literal["auto", "ddp", "fsdp"]) -> Any:
    """Wrap the loss for several ranks: `auto` is DistributedDataParallel."""
    if world.size == 1:
        return module
    if engine == "fsdp":
        mesh = init_device_mesh(world.device.type, (world.size,))
        for block in module.model.modules():
            if isinstance(block, Block):
                fully_shard(block, mesh=mesh)
        return fully_shard(module, mesh=mesh)
    device_ids = [world.device.index] if world.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=device_ids)


def loss_of(wrapped: Any, batch: Batch, rng: Rng) -> Loss:
    """The loss through whatever engine wraps it."""
    total, count, metrics = wrapped(batch, rng)
    return Loss(total=total, count=count, metrics=metrics)


def without_sync(wrapped: Any, last: bool) -> Any:
    """Exchange gradients only after the last micro-batch of a step."""
    if isinstance(wrapped, DistributedDataParallel) and not last:
        return wrapped.no_sync()
    return nullcontext()
