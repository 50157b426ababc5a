"""What did each token of a translation look at in its source?

The cross-attention of an encoder-decoder, softmax(Q K^T / sqrt(d)), as a picture: a column for each token of the
source, a row for each token of the translation, as it was when that token was predicted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from diptych.models.encoder_decoder import EncoderDecoder, cross_attention_weights
from diptych.report.plots import PALETTE, style
from diptych.report.words import visible
from diptych.tokenizers.base import Tokenizer

END = "(end)"
"""How the end-of-sequence token is written."""


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """Weights of every layer and head, (l, h, t, s), between the tokens of a source and of its translation."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: Float[Tensor, "l h t s"]

    def mean_of_last_layer(self) -> Float[Tensor, "t s"]:
        """The mean over the heads of the last layer; rows sum to one."""
        return self.weights[-1].mean(0)


def attention_map(model: EncoderDecoder, tokenizer: Tokenizer, source: str, target: Sequence[int]) -> AttentionMap:
    """Who attended to whom when the tokens `target` were predicted from `source`."""
    device, eos_id = model.unembedding.device, tokenizer.eos_id
    read = [*tokenizer.encode_list(source), eos_id]
    written = [tokenizer.opening_id, *target]
    weights = cross_attention_weights(model, torch.tensor(read, device=device), torch.tensor(written, device=device))
    return AttentionMap(
        source=tuple(_label(tokenizer, token) for token in read),
        target=tuple(_label(tokenizer, token) for token in (*target, eos_id)),
        weights=weights.float().cpu(),
    )


def attention_figure(found: AttentionMap, *, all_heads: bool = False) -> Figure:
    """The mean over the heads of the last layer, or every head of every layer."""
    layers, heads = found.weights.shape[:2]
    rows, columns = (layers, heads) if all_heads else (1, 1)
    scale = 0.17 if all_heads else 0.3
    width = max(0.75, scale * len(found.source))  # of a panel, with room for its name
    size = (1.2 + width * columns, 1.2 + (0.4 + scale * len(found.target)) * rows)
    with style():
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False)
        for layer in range(rows):
            for head in range(columns):
                axes = panels[layer][head]
                weights = found.weights[layer, head] if all_heads else found.mean_of_last_layer()
                _draw(axes, weights, found, labels=(layer == 0, head == 0), size=6.0 if all_heads else 9.0)
                if all_heads:
                    axes.set_xlabel(f"layer {layer + 1}\nhead {head + 1}", fontsize=7.0)
    return figure


def _draw(
    axes: Axes, weights: Float[Tensor, "t s"], found: AttentionMap, *, labels: tuple[bool, bool], size: float
) -> None:
    for y, row in enumerate(weights.tolist()):
        for x, weight in enumerate(row):
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=PALETTE["model"], alpha=weight, linewidth=0))
    axes.set_xlim(-0.5, len(found.source) - 0.5)
    axes.set_ylim(len(found.target) - 0.5, -0.5)
    axes.set_aspect("equal")
    above, beside = labels
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(found.source)), map(visible, found.source) if above else [], rotation=90, fontsize=size)
    axes.set_yticks(range(len(found.target)), map(visible, found.target) if beside else [], fontsize=size)
    axes.tick_params(length=0, labelcolor=PALETTE["ink"])
    for edge in axes.spines.values():
        edge.set_visible(False)
    axes.set_xticks([i - 0.5 for i in range(1, len(found.source))], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, len(found.target))], minor=True)
    axes.grid(which="minor", linewidth=0.4)
    axes.tick_params(which="minor", length=0)


def _label(tokenizer: Tokenizer, token: int) -> str:
    return END if token == tokenizer.eos_id else tokenizer.decode([token])
