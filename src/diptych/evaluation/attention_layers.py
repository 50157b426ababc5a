"""Which layer is meant by a form of attention?

A form is `naive` (the formula written out, with all n x n scores), a kind of `model.attention` such as `linear`, or a
mask such as `window(512)` under which softmax attention runs. All are causal, as in a decoder, and are told no
positions, so that nothing but the mixing of positions is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, final, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from diptych.core.config import AttentionKind, TransformerConfig
from diptych.core.random import Rng
from diptych.core.types import Mask
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.nn.attention import MultiHeadAttention
from diptych.nn.lowering import Lowered, lower
from diptych.nn.mask_text import parse_mask
from diptych.nn.masks import Causal, Full
from diptych.nn.mixer import Given, Passage

NAIVE = "naive"
KINDS: tuple[AttentionKind, ...] = tuple(kind for kind in get_args(AttentionKind) if kind != "softmax")


@dataclass(frozen=True, kw_only=True)
class LayerSize:
    """The layers that are compared, and what they are given."""

    __pydantic_config__: ClassVar[dict[str, object]] = {"extra": "forbid"}

    d_model: int = 256
    """Width of the residual stream."""
    n_heads: int = 4
    """Number of heads."""
    batch_size: int = 1
    """Sequences."""
    train: bool = False
    """Forward and backward, not forward alone."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision; bfloat16 by autocast, as in training."""
    seed: int = 0
    """Of weights and input."""

    def __post_init__(self) -> None:
        if min(self.d_model, self.n_heads, self.batch_size) < 1 or self.d_model % self.n_heads:
            raise ValueError(
                f"d_model={self.d_model}, n_heads={self.n_heads} and batch_size={self.batch_size} must be at least 1, "
                "and d_model a multiple of n_heads"
            )


def check_form(form: str) -> None:
    """Raises ValueError for what is no form."""
    if form == NAIVE or form in KINDS:
        return
    try:
        parse_mask(form)
    except ValueError as error:
        raise ValueError(f"{form} is no form: {NAIVE}, one of {', '.join(KINDS)}, or a mask ({error})") from None


def score_bytes(length: int, size: LayerSize) -> int:
    """Memory of the n x n tensors that the naive form holds at once: the scores and their softmax, in training two
    gradients more, in float32."""
    return 4 * (4 if size.train else 2) * size.batch_size * size.n_heads * length**2


@final
class FormLayer:
    """One layer of a form, ready to be run."""

    def __init__(self, form: str, size: LayerSize, device: torch.device) -> None:
        kind: AttentionKind = form if form in KINDS else "softmax"
        config = TransformerConfig(
            vocab_size=1,
            d_model=size.d_model,
            n_heads=size.n_heads,
            n_layers=1,
            max_length=2**31,
            position="none",
            attention=(kind,),
        )
        model = LanguageModel(config)
        initialize(model, Rng(size.seed).generator("weights"))
        layer = model.blocks[0].attention
        assert isinstance(layer, nn.Module)
        self.layer = layer.to(device)
        self.mask = None if kind != "softmax" else _mask(form)
        self.size, self.device, self.naive = size, device, form == NAIVE

    def input(self, length: int) -> Float[Tensor, "b n d"]:
        """What the layer reads."""
        generator = Rng(self.size.seed).generator("input")
        x = torch.randn(self.size.batch_size, length, self.size.d_model, generator=generator)
        return x.to(self.device).requires_grad_(self.size.train)

    def given(self, length: int) -> Given:
        """The mask as the layer takes it; a network makes it once for all its layers."""
        if self.mask is None:
            return Passage()
        return lower(self.mask, queries=length, keys=length, offset=0, device=self.device)

    def run(self, x: Float[Tensor, "b n d"], given: Given) -> None:
        """Once forward, in training back to the weights and the input."""
        if not self.size.train:
            with torch.no_grad():
                self._forward(x, given)
            return
        y = self._forward(x, given)
        y.backward(torch.ones_like(y))
        x.grad = None
        self.layer.zero_grad(set_to_none=True)

    def _forward(self, x: Tensor, given: Given) -> Tensor:
        reduced = self.size.dtype == "bfloat16"
        call: Callable[[Tensor, Given], Tensor] = self._naive if self.naive else self.layer
        with torch.autocast(self.device.type, torch.bfloat16, enabled=reduced):
            return call(x, given)

    def _naive(self, x: Tensor, given: Given) -> Tensor:
        assert isinstance(self.layer, MultiHeadAttention) and isinstance(given, Lowered)
        return self.layer.written_out(x, given)[0]


def _mask(form: str) -> Mask:
    mask = Full() if form == NAIVE else parse_mask(form)
    return Causal() if isinstance(mask, Full | Causal) else Causal() & mask
