"""What does each token attend to?

softmax(Q K^T / sqrt(d) + mask) as a picture. Of an encoder-decoder: a column for each token of the source, a row for
each token of the translation, as it was when that token was predicted. Of a decoder or an encoder alone: a column and
a row for each token of the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from diptych.core.types import Mask
from diptych.models.attention_weights import self_attention_weights
from diptych.models.encoder_decoder import EncoderDecoder, cross_attention_weights
from diptych.models.language_model import LanguageModel
from diptych.report.plots import PALETTE, style
from diptych.report.words import visible
from diptych.tokenizers.base import EOS, Tokenizer

END, BEGIN = "(end)", "(begin)"
"""How the end-of-sequence token is written, and the token that opens a text."""

LONGEST = 512
"""Most tokens of a text whose attention is drawn."""

SEPARATE = 64
"""Up to so many tokens, each cell is drawn with its border."""


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """Weights of every layer and head, (l, h, t, s), between the tokens that are attended to and those that attend."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: Float[Tensor, "l h t s"]
    layers: tuple[int, ...] = ()
    """Numbers of the layers, the first being 1; empty: all that the network has."""
    left_out: tuple[str, ...] = ()
    """Layers that mix positions in another way, as in `layer 2 (linear)`."""

    def mean(self, layer: int | None = None, head: int | None = None) -> Float[Tensor, "t s"]:
        """A head of a layer, numbered from 1; without a head the mean over all, without a layer too.

        Raises ValueError for numbers that there are not.
        """
        numbers = self.layers or tuple(range(1, len(self.weights) + 1))
        if layer is not None and layer not in numbers:
            raise ValueError(f"there is no attention in layer {layer}; layers: {', '.join(map(str, numbers))}")
        heads = self.weights.shape[1]
        if head is not None and not 1 <= head <= heads:
            raise ValueError(f"there is no head {head}; heads: 1 to {heads}")
        chosen = self.weights if layer is None else self.weights[numbers.index(layer)][None]
        chosen = chosen if head is None else chosen[:, head - 1][:, None]
        return chosen.mean((0, 1))

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


def self_attention_map(
    model: LanguageModel, tokenizer: Tokenizer, ids: Sequence[int], mask: Mask, *, opened: bool
) -> AttentionMap:
    """Who attends to whom in a text under `mask`. opened: the first token is none of the text.

    Raises ValueError for more than `LONGEST` tokens, and where no layer is softmax attention.
    """
    if len(ids) > LONGEST:
        raise ValueError(f"the text has {len(ids)} tokens; attention is drawn of up to {LONGEST}: shorten it")
    if not ids:
        raise ValueError("the text is empty; give one with at least one token")
    found = self_attention_weights(model, torch.tensor(ids, device=model.unembedding.device), mask)
    left_out = tuple(f"layer {layer + 1} ({kind})" for layer, kind in found.others.items())
    if not found.by_layer:
        raise ValueError(f"no layer of this model has attention weights to draw: {', '.join(left_out)}")
    labels = [_token(tokenizer, token) for token in ids]
    labels[:1] = [BEGIN] if opened and ids[0] not in _named(tokenizer) else labels[:1]
    return AttentionMap(
        source=tuple(labels),
        target=tuple(labels),
        weights=torch.stack(list(found.by_layer.values())).float().cpu(),
        layers=tuple(layer + 1 for layer in found.by_layer),
        left_out=left_out,
    )


def heads_figure(found: AttentionMap) -> Figure:
    """Every head of every layer as a small panel: a row of pixels for each token that attends."""
    layers, heads = found.weights.shape[:2]
    numbers = found.layers or range(1, layers + 1)
    side = min(1.1, max(0.5, 11 / heads))
    shades = LinearSegmentedColormap.from_list("weights", ["white", PALETTE["model"]])
    with style():
        figure = Figure(figsize=(0.5 + side * heads, 0.6 + side * layers), layout="constrained")
        panels = figure.subplots(layers, heads, squeeze=False)
        for row, layer in enumerate(numbers):
            for head in range(heads):
                axes = panels[row][head]
                axes.imshow(found.weights[row, head].numpy(), cmap=shades, norm=PowerNorm(0.5, 0, 1), aspect="auto")
                axes.set_xticks([])
                axes.set_yticks([])
                for edge in axes.spines.values():
                    edge.set(visible=True, linewidth=0.6)
            panels[row][0].set_ylabel(f"layer {layer}", fontsize=7.5, rotation=0, ha="right", va="center")
        for head in range(heads):
            panels[0][head].set_title(f"head {head + 1}", fontsize=7.5, color=PALETTE["muted"])
        about = f"{len(found.target)} tokens; a row: what a token attends to; ink: square root of the weight"
        figure.supxlabel(about, fontsize=7.5, color=PALETTE["muted"])
    return figure


def head_figure(found: AttentionMap, layer: int | None = None, head: int | None = None) -> Figure:
    """One head of a layer with the tokens' names; without a number, the mean. Raises ValueError for other numbers."""
    weights, count = found.mean(layer, head), len(found.target)
    scale = min(0.3, 14 / count)
    names = [f"layer {layer}" if layer else "mean over layers", f"head {head}" if head else "mean over heads"]
    with style():
        side = 1.2 + max(1.6, scale * count)
        figure = Figure(figsize=(side, side + 0.3), layout="constrained")
        axes = figure.add_subplot()
        every = max(1, round(0.11 / scale))  # names need so many inches
        _draw(axes, weights, found, labels=(True, True), size=max(5.0, 9.0 * scale / 0.3), every=every)
        names += ["ink: square root of the weight"] if count > SEPARATE else []
        axes.set_xlabel(", ".join(names), fontsize=8)
    return figure


def attention_figure(found: AttentionMap, *, all_heads: bool = False) -> Figure:
    """The mean over the heads of the last layer, or every head of every layer, with the tokens' names."""
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
    axes: Axes,
    weights: Float[Tensor, "t s"],
    found: AttentionMap,
    *,
    labels: tuple[bool, bool],
    size: float,
    every: int = 1,
) -> None:
    rows, columns = weights.shape
    if max(rows, columns) <= SEPARATE:
        _draw_cells(axes, weights)
    else:
        shades = LinearSegmentedColormap.from_list("weights", ["white", PALETTE["model"]])
        axes.imshow(weights.numpy(), cmap=shades, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_aspect("equal")
    above, beside = labels
    axes.xaxis.tick_top()
    across, down = range(0, columns, every), range(0, rows, every)
    axes.set_xticks(across, [visible(found.source[i]) for i in across] if above else [], rotation=90, fontsize=size)
    axes.set_yticks(down, [visible(found.target[i]) for i in down] if beside else [], fontsize=size)
    axes.tick_params(length=0, labelcolor=PALETTE["ink"])
    for edge in axes.spines.values():
        edge.set_visible(False)


def _draw_cells(axes: Axes, weights: Float[Tensor, "t s"]) -> None:
    for y, row in enumerate(weights.tolist()):
        for x, weight in enumerate(row):
            axes.add_patch(Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=PALETTE["model"], alpha=weight, linewidth=0))
    rows, columns = weights.shape
    axes.set_xticks([i - 0.5 for i in range(1, columns)], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, rows)], minor=True)
    axes.grid(which="minor", linewidth=0.4)
    axes.tick_params(which="minor", length=0)


def _label(tokenizer: Tokenizer, token: int) -> str:
    return END if token == tokenizer.eos_id else tokenizer.decode([token])


def _token(tokenizer: Tokenizer, token: int) -> str:
    """The token's text, a special one by its name."""
    return _named(tokenizer).get(token) or tokenizer.token_bytes(token).decode("utf-8", "backslashreplace")


def _named(tokenizer: Tokenizer) -> dict[int, str]:
    """Special tokens by their ids, those whose sign says nothing left out."""
    return {token: name for name, token in tokenizer.special_tokens.items() if name != EOS}
