"""How do the layers make a denoiser of images?

The diffusion transformer (Peebles and Xie 2023): patches, blocks modulated by noise level and class, and a modulated
linear layer back to pixels. It begins as the function that is zero everywhere.
"""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from diptych.core.config import TransformerConfig
from diptych.core.types import Mask
from diptych.models.layers import sized_patches
from diptych.models.masking import given_to_layers
from diptych.nn.block import Block
from diptych.nn.conditioning import ClassEmbedding, TimeEmbedding, modulate
from diptych.nn.embedding import TokenEmbedding
from diptych.nn.linear import Linear
from diptych.nn.normalization import build_plain_norm
from diptych.nn.patches import angles_of_grid, patchify, sinusoids_of_grid, unpatchify
from diptych.nn.positions import Rotation
from diptych.nn.precision import matmul_dtype


@final
class DiffusionTransformer(nn.Module):
    """A `Predictor` over images, told the time ln(sigma) / 4 and, where it knows any, a class. Weights start from
    `initialize`. Raises ValueError for images of unknown shape."""

    sinusoids: Tensor | None
    angles: Tensor | None

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        patches = sized_patches(config)
        self.config, self.patches = config, patches
        self.checkpoint_activations = False
        numbers = patches.channels * patches.size**2
        self.patch_embedding = Linear(numbers, config.d_model)
        rows, columns = patches.grid
        learned = config.position == "learned"
        self.position_embedding = TokenEmbedding(rows * columns, config.d_model) if learned else None
        self.time_embedding = TimeEmbedding(config.d_model)
        self.class_embedding = ClassEmbedding(patches.n_classes, config.d_model) if patches.n_classes else None
        # One product gives the modulations of all blocks, six rows each, and shift and scale before the last layer.
        self.modulation = Linear(config.d_model, (6 * config.n_layers + 2) * config.d_model)
        self.blocks = nn.ModuleList(Block(config, layer=i, modulated=True) for i in range(config.n_layers))
        self.final_norm = build_plain_norm(config)
        self.final = Linear(config.d_model, numbers)
        self.add_tables()

    def add_tables(self) -> None:
        """Make the tables by which positions are told, float32."""
        config, grid = self.config, self.patches.grid
        added, turned = config.position == "sinusoidal", config.position == "rope"
        sinusoids = sinusoids_of_grid(grid, config.d_model) if added else None
        angles = angles_of_grid(grid, config.head_width, config.rope_theta) if turned else None
        self.register_buffer("sinusoids", sinusoids, persistent=False)
        self.register_buffer("angles", angles, persistent=False)

    def start(self, generator: torch.Generator) -> None:
        """Set modulation and last layer to zero, so that every block is the identity and the output zero."""
        del generator
        for layer in (self.modulation, self.final):
            nn.init.zeros_(layer.weight)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        *,
        mask: Mask,
        time: Float[Tensor, " b"] | None = None,
        cond: Int[Tensor, " b"] | None = None,
        positions: Tensor | None = None,
        cache: object = None,
    ) -> Float[Tensor, "b c h w"]:
        """The network's output at noisy images. cond: a class each, `n_classes` for none in particular; None: that for
        all. Raises ValueError for images of another shape, a missing time, or classes where it knows none."""
        del positions, cache  # patches stand where they stand, and all are seen at once
        patches, h = self.patches, self._embed(x)
        *rows, shift, scale = self._modulations(time, cond, len(x))
        given = given_to_layers(self.config, mask, h)
        turn = self._rotation(h)
        for index, block in enumerate(self.blocks):
            lowered, modulation = given[index % len(given)], rows[index]
            if self.checkpoint_activations and self.training:
                h = checkpoint(block, h, lowered, turn, modulation=modulation, use_reentrant=False)
            else:
                h = block(h, lowered, turn, modulation=modulation)
        pixels = self.final(modulate(self.final_norm(h), shift, scale))
        return unpatchify(pixels, patches.size, patches.grid).to(x.dtype)

    def _embed(self, x: Tensor) -> Tensor:
        patches, dtype = self.patches, self.patch_embedding.weight.dtype
        if tuple(x.shape[1:]) != (patches.channels, patches.height, patches.width):
            raise ValueError(
                f"this network denoises images of {patches.channels} x {patches.height} x {patches.width} (channels, "
                f"height, width), not {' x '.join(map(str, x.shape[1:]))}"
            )
        # In the weights' precision even under autocast, as the sums over many layers are.
        h = self.patch_embedding(patchify(x.to(dtype), patches.size)).to(dtype)
        if self.position_embedding is not None:
            h = h + self.position_embedding.weight
        if self.sinusoids is not None:
            h = h + self.sinusoids.to(dtype)
        return F.dropout(h, self.config.dropout, self.training)

    def _modulations(self, time: Tensor | None, cond: Tensor | None, count: int) -> list[Tensor]:
        """(b, 6, d) for each block, then shift and scale (b, 1, d) before the last layer."""
        if time is None:
            raise ValueError("a diffusion transformer must be told the time, ln(sigma) / 4")
        vector = self.time_embedding(time)
        if self.class_embedding is not None:
            if cond is None:
                cond = torch.full((count,), self.class_embedding.n_classes, device=time.device)
            vector = vector + self.class_embedding(cond)
        elif cond is not None:
            raise ValueError("this network was not taught classes; leave cond out")
        rows = self.modulation(F.silu(vector)).unflatten(1, (-1, self.config.d_model))
        return list(rows.split([6] * self.config.n_layers + [1, 1], dim=1))

    def _rotation(self, h: Tensor) -> Rotation | None:
        if self.angles is None:
            return None
        angle = torch.cat((self.angles, self.angles), dim=-1)[None, :, None, :]
        return angle.cos().to(matmul_dtype(h)), angle.sin().to(matmul_dtype(h))
