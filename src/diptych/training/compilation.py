"""Can this machine compile the network, and is it worth it?

Blocks are compiled one by one: they share their code, so one compilation of a few seconds serves all layers.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal

import torch

from diptych.core.events import Handler, Message
from diptych.models.network import Network
from diptych.nn.block import Block


def worth_compiling(choice: Literal["auto", "on", "off"], device: torch.device, on_event: Handler) -> bool:
    """Whether to compile: where wanted and possible. Raises ValueError where `on` is not possible."""
    if choice == "off":
        return False
    if reason := why_not(device.type):
        if choice == "on":
            raise ValueError(f"train.compile = 'on', but torch.compile does not work here: {reason}")
        on_event(Message(text=f"torch.compile is not used ({reason}); training is slower, its results are the same"))
        return False
    return True


def compile_blocks(model: Network) -> None:
    """Compile the blocks in place."""
    # Pairs come in many widths; one compilation serves all of them, at the price of some speed.
    dynamic = model.config.n_encoder_layers > 0
    for block in model.modules():
        if isinstance(block, Block):
            block.compile(dynamic=dynamic)


@cache
def why_not(device: str) -> str | None:
    """What keeps torch.compile from working, found by compiling a trifle; None where it works."""
    logging.getLogger("torch._inductor").setLevel(logging.ERROR)
    try:
        torch.compile(_trifle, dynamic=False)(torch.ones(16, device=device))
    except Exception as error:  # whatever fails in a compiler's chain of tools, training goes on without it
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return lines[0][:120] if lines else type(error).__name__
    finally:
        torch.compiler.reset()
    return None


def _trifle(x: torch.Tensor) -> torch.Tensor:
    return (x * 2.0 + 1.0).sin()
