"""Patches lie where the text says, nothing is lost on the way, and rotations tell differences of rows and columns."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed

from diptych.nn.patches import angles_of_grid, patchify, places, sinusoids_of_grid, unpatchify
from diptych.nn.positions import rotate


@pytest.mark.parametrize(("size", "height", "width"), [(1, 3, 2), (2, 4, 6), (4, 8, 4)])
def test_patches_and_back(size: int, height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width)
    patches = patchify(x, size)
    assert torch.equal(unpatchify(patches, size, (height // size, width // size)), x)
    for index, (row, column) in enumerate(zip(*places((height // size, width // size)), strict=True)):
        own = x[:, :, row * size : (row + 1) * size, column * size : (column + 1) * size]
        assert torch.equal(patches[:, index], own.flatten(1))


def test_a_patch_embedding_is_a_convolution() -> None:
    x, convolution = torch.randn(2, 3, 6, 4), torch.nn.Conv2d(3, 5, 2, stride=2)
    ours = torch.nn.functional.linear(patchify(x, 2), convolution.weight.flatten(1), convolution.bias)
    torch.testing.assert_close(ours, convolution(x).flatten(2).transpose(1, 2), rtol=0, atol=1e-5)


def test_sinusoids_equal_those_of_dit() -> None:
    theirs = get_2d_sincos_pos_embed(24, 5, base_size=5, output_type="pt").float()
    torch.testing.assert_close(sinusoids_of_grid((5, 5), 24), theirs, rtol=0, atol=1e-6)


def test_rotated_scores_depend_on_differences_of_row_and_column_alone() -> None:
    grid = (5, 7)
    angles = angles_of_grid(grid, 16, 100.0)
    angle = torch.cat((angles, angles), dim=-1)[None, :, None, :].double()
    query, key = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64).expand(2, 1, 35, 1, 16)
    turned = [rotate(vectors, (angle.cos(), angle.sin()))[0, :, 0] for vectors in (query, key)]
    scores = (turned[0] @ turned[1].T).view(*grid, *grid)
    torch.testing.assert_close(scores[1, 2, 3, 1], scores[2, 5, 4, 4], rtol=0, atol=1e-6)
    torch.testing.assert_close(scores[0, 0, 1, 2], scores[3, 4, 4, 6], rtol=0, atol=1e-6)
    assert abs(scores[1, 2, 3, 1] - scores[1, 2, 2, 1]) > 1e-3  # the row counts
    assert abs(scores[1, 2, 3, 1] - scores[1, 2, 3, 2]) > 1e-3  # the column counts
