"""How is a passage cut into chunks, and which parts of a chunk know of which?

A recurrence over chunks of positions is a few large matrix products a chunk instead of a small one a position: what
lies in the same chunk meets in a square of scores, everything earlier in the state that a chunk hands to the next.
Where a document ends inside a chunk, a square of zeros and ones, and two columns, keep it apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def chunk_length(longest: int, positions: int) -> int:
    """Positions of a chunk: `longest`, a power of two, or the next power of two where fewer are there."""
    return min(longest, 1 << (positions - 1).bit_length())


def cut(x: Float[Tensor, "b t h d"], length: int, groups: int) -> Float[Tensor, "n b g r d"]:
    """Chunks of `length` positions, the last filled up with zeros; chunks come first, so that each lies in one piece.

    The h / g heads of a group become rows, head by head: r = (h / g) length.
    """
    b, t, h, d = x.shape
    if t % length:
        x = F.pad(x, (0, 0, 0, 0, 0, -t % length))
    parts = x.view(b, -1, length, groups, h // groups, d)
    return parts.permute(1, 0, 3, 4, 2, 5).reshape(-1, b, groups, h // groups * length, d)


def join(x: Float[Tensor, "n b g r d"], length: int, positions: int) -> Float[Tensor, "b t h d"]:
    """The inverse of `cut`, without what the last chunk was filled up with."""
    n, b, groups, rows, d = x.shape
    parts = x.view(n, b, groups, rows // length, length, d).permute(1, 0, 4, 2, 3, 5)
    return parts.reshape(b, n * length, -1, d)[:, :positions]


@final
@dataclass(frozen=True, eq=False)
class Cuts:
    """Zeros and ones that keep documents apart; where there is only one, the last four are None.

    together (n b 1 c c): whether a position reads another of its chunk, the reader's row by the other's column.
    continues (n b 1 c 1): whether it belongs to the document in which the chunk before ends.
    lasts (n b 1 c 1): whether it belongs to the document in which its chunk ends.
    goes_on (n b): whether these two are the same document.
    """

    together: Float[Tensor, "#n #b 1 c c"]
    continues: Float[Tensor, "n b 1 c 1"] | None = None
    lasts: Float[Tensor, "n b 1 c 1"] | None = None
    goes_on: Float[Tensor, "n b"] | None = None


def cuts(documents: Int[Tensor, "b t"] | None, length: int, *, causal: bool, like: Float[Tensor, "..."]) -> Cuts:
    """What `Cuts` says, in the type and on the device of `like`. Before the first chunk stood the first document."""
    if causal:
        order = torch.ones(length, length, dtype=torch.bool, device=like.device).tril()
    else:
        order = torch.ones(length, length, dtype=torch.bool, device=like.device)
    if documents is None:
        return Cuts(order.to(like.dtype)[None, None, None])
    runs = runs_of(documents)
    if runs.shape[1] % length:
        runs = F.pad(runs[:, None].float(), (0, -runs.shape[1] % length), mode="replicate")[:, 0].long()
    runs = runs.view(len(runs), -1, length).transpose(0, 1)  # (n, b, c)
    last = runs[..., -1]
    before = torch.cat((torch.zeros_like(last[:1]), last[:-1]))
    together: Bool[Tensor, "n b c c"] = (runs[..., :, None] == runs[..., None, :]) & order
    return Cuts(
        together=together[:, :, None].to(like.dtype),
        continues=(runs == before[..., None])[:, :, None, :, None].to(like.dtype),
        lasts=(runs == last[..., None])[:, :, None, :, None].to(like.dtype),
        goes_on=(last == before).to(like.dtype),
    )


def runs_of(documents: Int[Tensor, "b t"]) -> Int[Tensor, "b t"]:
    """How often the number of the document has changed so far, from zero."""
    changes = documents[:, 1:] != documents[:, :-1]
    return F.pad(changes.long().cumsum(1), (1, 0))
