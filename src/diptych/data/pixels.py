"""How does an image become a row of tokens, and a row an image?

A row is the end-of-document token, which is given, and then the level of every number of the image: pixels in raster
order, the channels of one pixel side by side (red, green, blue), as van den Oord et al. 2016 ("Pixel Recurrent Neural
Networks", section 3) factorize an image. Token v is level v. Nothing else is predicted, not even an end: all images of
a data set have one size. So nats over the numbers of an image, over ln 2, are its bits per dimension.
"""

from __future__ import annotations

from math import prod
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from diptych.core.config import DataConfig
from diptych.core.types import Batch
from diptych.data.images import ImageSet, shape_text
from diptych.data.stream import RowOrder, places
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.simple import LevelTokenizer

MASK = "<|mask|>"
"""The token that hides a level, for those who learn by hiding."""


def pixel_tokenizer(levels: int) -> LevelTokenizer:
    """A tokenizer whose token v is level v of so many, beside the end of document and the mask."""
    return LevelTokenizer(levels, (MASK,))


def check_pixels(config: DataConfig, images: ImageSet, tokenizer: Tokenizer) -> None:
    """Raises ValueError where the recipe's sequences are no images, or a tokenizer's tokens no levels."""
    if config.sequence_length != (count := prod(images.shape)):
        raise ValueError(
            f"the images are {shape_text(images)}, {count} numbers each, but data.sequence_length is "
            f"{config.sequence_length}; set data.sequence_length = {count}"
        )
    last = images.levels - 1
    if tokenizer.vocab_size <= last or any(tokenizer.token_bytes(v) != bytes([v]) for v in range(images.levels)):
        raise ValueError(
            f"token v of the tokenizer does not stand for level v of 0 to {last}; leave [tokenizer] out of the recipe, "
            "and let init name a run on pixels"
        )


def to_tokens(pixels: NDArray[np.uint8], opening_id: int) -> NDArray[np.int64]:
    """Rows (n, 1 + h w c) of images (n, c, h, w), `opening_id` first."""
    levels = pixels.transpose(0, 2, 3, 1).reshape(len(pixels), -1).astype(np.int64)
    return np.concatenate([np.full((len(levels), 1), opening_id, np.int64), levels], axis=1)


def to_images(levels: NDArray[np.int64], shape: tuple[int, int, int], n_levels: int) -> ImageSet:
    """Images of `shape` (c, h, w) from their levels (n, h w c), the opening token left out.

    Raises ValueError for a row of another length, or a token that is no level.
    """
    channels, height, width = shape
    if levels.ndim != 2 or levels.shape[1] != prod(shape):
        raise ValueError(
            f"an image of shape {shape} has {prod(shape)} numbers, but the tokens have shape {levels.shape}"
        )
    if levels.size and not 0 <= levels.min() <= levels.max() < n_levels:
        wrong = levels[(levels < 0) | (levels >= n_levels)][0]
        raise ValueError(f"token {wrong} is none of the {n_levels} levels of a pixel")
    pixels = levels.astype(np.uint8).reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    return ImageSet(pixels=pixels, levels=n_levels)


@final
class PixelStream:
    """Images as rows of tokens, every one once an epoch. `opening_id` stands before each."""

    def __init__(self, images: ImageSet, opening_id: int, *, seed: int = 0, shuffle: bool = True) -> None:
        self.images, self.opening_id = images, opening_id
        self._order = RowOrder(len(images), seed, shuffle=shuffle)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, step: int, batch_size: int, rank: int = 0, ranks: int = 1) -> Batch:
        """This rank's part of the `batch_size` images of a step: `x` is (b, 1 + h w c), and `n_bytes` how many numbers
        they have, so that bits per byte are bits per dimension. Raises ValueError where it is no whole part.

        `sample_ids` number the images, the same in every epoch.
        """
        rows = self._order.rows(step, batch_size, rank, ranks)
        tokens = to_tokens(self.images.pixels[rows], self.opening_id)
        return Batch(
            x=torch.from_numpy(tokens),
            sample_ids=torch.from_numpy(rows),
            places=torch.from_numpy(places(step, batch_size, rank, ranks)),
            n_bytes=tokens[:, 1:].size,
        )
