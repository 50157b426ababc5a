"""The masks of the review's figure 2, by their definitions and as the package's values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diptych.nn.mask_text import parse_mask
from diptych.reference.masks import figure_2

TEXTS = {
    "bidirectional": "full",
    "causal": "causal",
    "prefix": "prefix({third})",
    "documents": "causal & documents({third}, {rest})",
    "window": "causal & window({quarter})",
    "window and sinks": "causal & (window({quarter}) | sinks(2))",
    "window and global": "window({quarter}, {before}) | global(2)",
    "strided": "causal & (window({quarter}) | strided({quarter}))",
    "block diffusion": "block_causal({quarter})",
}


@pytest.mark.parametrize("l", [4, 12, 31])
def test_figure_2_equals_the_fast_masks(l: int) -> None:
    numbers = {"third": l // 3, "rest": l - l // 3, "quarter": l // 4, "before": l // 4 - 1}
    drawn = figure_2(l)
    assert set(drawn) == set(TEXTS)
    place = torch.arange(l)
    for name, mask in drawn.items():
        fast = parse_mask(TEXTS[name].format(**numbers)).allowed(place[None, :, None], place[None, None, :])[0]
        assert np.array_equal(mask, fast.numpy().T), name
