"""How does an image become a row of vectors, and a row of vectors an image?

Square patches from left to right and from top to bottom, as in the vision transformer (Dosovitskiy et al. 2021), and
what tells where each stands: coordinates of row and column, told by sines and cosines (Peebles and Xie 2023) or by
rotations (Su et al. 2021), half of the width for each of the two.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from diptych.nn.positions import rope_frequencies, sinusoids


def patchify(x: Float[Tensor, "b c h w"], size: int) -> Float[Tensor, "b n p"]:
    """The patches of `size` x `size` pixels, one after the other; p = c size^2, by channel, row and column.

    Both sides must be multiples of `size`.
    """
    b, c, h, w = x.shape
    cut = x.view(b, c, h // size, size, w // size, size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, (h // size) * (w // size), c * size * size)


def unpatchify(patches: Float[Tensor, "b n p"], size: int, grid: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """The images of which `patchify` makes these patches, `grid` of them from top to bottom and from left to right."""
    rows, columns = grid
    b, _, p = patches.shape
    cut = patches.view(b, rows, columns, p // size**2, size, size)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(b, p // size**2, rows * size, columns * size)


def places(grid: tuple[int, int]) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Row and column of each patch, on the processor even while a network is described on the meta device."""
    rows, columns = (torch.arange(count, device="cpu") for count in grid)
    return rows.repeat_interleave(len(columns)), columns.repeat(len(rows))


def sinusoids_of_grid(grid: tuple[int, int], d_model: int) -> Float[Tensor, "n d"]:
    """Sines, then cosines, of a patch's column in the first half of the width, of its row in the second: the table that
    DiT adds to its patches."""
    row, column = (sinusoids(place.double(), d_model // 2) for place in places(grid))
    table = torch.cat((column[:, 0::2], column[:, 1::2], row[:, 0::2], row[:, 1::2]), dim=1)
    return table.float()


def angles_of_grid(grid: tuple[int, int], d_head: int, theta: float) -> Float[Tensor, "n d_half"]:
    """The angle of each pair of a head's dimensions: half of the pairs turn by the patch's row, half by its column, so
    that a score depends on the difference of both alone."""
    frequencies = rope_frequencies(d_head // 2, theta, None)
    row, column = places(grid)
    return torch.cat((row[:, None] * frequencies, column[:, None] * frequencies), dim=1)
