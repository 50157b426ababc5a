"""In which precision do matrix products come out?"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def matmul_dtype(x: Tensor) -> torch.dtype:
    """Autocast's type where it is on for the device of `x`, else the type of `x`."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of sums and states beside activations of this one: float32 at least."""
    return torch.promote_types(dtype, torch.float32)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """What is computed within keeps the precision of its inputs. The meta device, where nothing is computed, knows no
    autocast."""
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
