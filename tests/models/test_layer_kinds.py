"""Every way to mix positions, in a whole network: what it remembers, what it costs, and that generation equals
reading."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from diptych.core.config import SegmentConfig, TransformerConfig
from diptych.core.random import Rng
from diptych.core.types import Batch
from diptych.models.cost import cost_of
from diptych.models.language_model import LanguageModel
from diptych.models.network import build_network, initialize
from diptych.nn.masks import Causal, Documents, Window
from diptych.objectives.autoregressive import Autoregressive
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest, prefill

BASE = TransformerConfig(
    vocab_size=31,
    d_model=16,
    n_layers=3,
    n_heads=4,
    n_kv_heads=2,
    max_length=200,
    segment=SegmentConfig(length=8, memory_length=5),
)
BOUNDED = {
    "window": {"window": 7},
    "window and sinks": {"mask": ("window(7) | sinks(2)",)},
    "blocks": {"mask": ("blocks(8)",)},
    "window, ALiBi": {"mask": ("window(9)",), "position": "alibi"},
    "linear": {"attention": ("linear",)},
    "gated delta": {"attention": ("gated_delta",)},
    "Transformer-XL": {"attention": ("transformer_xl",)},
    "Titans, context": {"attention": ("titans_context",)},
    "Titans, gate": {"attention": ("titans_gate",), "window": 6},
    "Titans, layer": {"attention": ("titans_layer",), "window": 6},
    "gated delta and windows": {"attention": ("gated_delta", "softmax"), "mask": ("window(5)",)},
}
GROWING = {
    "full": {},
    "strided": {"mask": ("strided(5) | window(5)",)},
    "global": {"mask": ("window(5) | global(2)", "full")},
    "two windows and full": {"mask": ("window(7) | sinks(2)", "full", "blocks(8)")},
    "gated delta and full": {"attention": ("gated_delta", "softmax")},
}
KINDS = BOUNDED | GROWING


def _config(name: str) -> TransformerConfig:
    kinds = {"attention": ("softmax",), **KINDS[name]}
    if kinds["attention"] == ("gated_delta", "softmax") and "mask" in kinds:
        kinds["mask"] = ("full", *kinds["mask"])  # type: ignore[misc]  # a recurrence takes no window
    return dataclasses.replace(BASE, **kinds)  # type: ignore[arg-type]


def _model(config: TransformerConfig, dtype: torch.dtype = torch.float64) -> LanguageModel:
    model = build_network(config)
    assert isinstance(model, LanguageModel)
    generator = torch.Generator().manual_seed(1)
    initialize(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.to(dtype).eval()


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_generation_with_a_cache_equals_reading_the_whole(name: str) -> None:
    """Prompts of different lengths, padded, then token by token; and by pieces of several tokens."""
    model = _model(_config(name))
    ids = torch.randint(31, (3, 90), generator=torch.Generator().manual_seed(0))
    whole = model(ids, mask=Causal())
    lengths = torch.tensor([40, 23, 31])
    padded = ids[:, :40].masked_fill(torch.arange(40) >= lengths[:, None], 7)
    cache = model.new_cache(3, 90)
    logits = prefill(model, padded, lengths, cache)
    rows = torch.arange(3)
    for place in range(40):
        torch.testing.assert_close(logits, whole[rows, lengths + place - 1], atol=1e-10, rtol=1e-10)
        logits = model(ids.gather(1, (lengths + place)[:, None]), mask=Causal(), cache=cache)[:, 0]
    cache, pieces = model.new_cache(3, 90), []
    for piece in ids.split([1, 30, 2, 17, 40], dim=1):
        pieces.append(model(piece, mask=Causal(), cache=cache))
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_rows_of_a_cache_can_be_chosen(name: str) -> None:
    model = _model(_config(name))
    ids = torch.randint(31, (2, 30), generator=torch.Generator().manual_seed(0))
    cache = model.new_cache(2, 40)
    model(ids, mask=Causal(), cache=cache)
    cache.select(torch.tensor([1, 0, 1]))
    next_ones = torch.tensor([[3], [4], [5]])
    got = model(next_ones, mask=Causal(), cache=cache)[:, 0]
    expected = model(torch.cat((ids[[1, 0, 1]], next_ones), dim=1), mask=Causal())[:, -1]
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", KINDS)
def test_nothing_later_moves_an_output_by_one_bit(name: str) -> None:
    model = _model(_config(name), torch.float32)
    ids = torch.randint(31, (2, 70), generator=torch.Generator().manual_seed(0))
    changed = ids.clone()
    changed[:, 41:] = (changed[:, 41:] + 1) % 31
    with torch.no_grad():
        before, after = model(ids, mask=Causal()), model(changed, mask=Causal())
    assert torch.equal(before[:, :41], after[:, :41])
    assert not torch.equal(before[:, 41:], after[:, 41:])


@pytest.mark.parametrize("name", BOUNDED)
@torch.no_grad()
def test_what_is_remembered_stops_growing(name: str) -> None:
    config = dataclasses.replace(_config(name), d_model=8, n_layers=2, n_heads=1, n_kv_heads=1)
    model = _model(config, torch.float32)
    cache = model.new_cache(1, 1000)
    model(torch.randint(31, (1, 100)), mask=Causal(), cache=cache)
    after_prompt = cache.n_bytes
    for token in range(300):
        model(torch.tensor([[token % 31]]), mask=Causal(), cache=cache)
    assert cache.n_bytes == after_prompt and cache.longest == 400


@torch.no_grad()
def test_a_window_generates_20000_tokens_in_constant_memory() -> None:
    config = TransformerConfig(vocab_size=9, d_model=8, n_layers=1, n_heads=1, mask=("window(16) | sinks(2)",))
    model = _model(config, torch.float32)
    sizes = set()
    cache = model.new_cache(1, 20_004)
    request = GenerationRequest(prompts=[[1, 2, 3]], max_new_tokens=20_000, eos_id=None)
    for frame in AutoregressiveSampler(temperature=0.0).sample(model, request, Rng(0), cache=cache):
        if frame.step % 500 == 0:
            sizes.add(cache.n_bytes)
    assert frame.step == 19_999 and len(sizes) == 1
    assert sizes.pop() <= 2 * 4 * 8 * (16 + 2 + 1) + 8 * 19, "keys, values and their places"


@pytest.mark.parametrize("name", KINDS)
def test_costs_are_what_the_network_has(name: str) -> None:
    model = _model(_config(name), torch.float32)
    cost = cost_of(model.config, 64, 4)
    assert cost.total == sum(p.numel() for p in model.parameters())
    cache = model.new_cache(1, 64)
    with torch.no_grad():
        model(torch.zeros(1, 64, dtype=torch.long), mask=Causal(), cache=cache)
    stated = 64 * cost.cache_bytes_per_token + cost.cache_bytes_fixed
    # A ring has a slot besides and knows where its keys stand, 8 bytes each, which the statement leaves out.
    assert stated <= cache.n_bytes <= 1.2 * stated + 400 * len(cache.bounded)


@pytest.mark.parametrize("name", [name for name in KINDS if "Titans" not in name and "XL" not in name])
def test_documents_in_one_row_are_read_as_if_alone(name: str) -> None:
    """Titans refuse them, and Transformer-XL's segments count places in the row."""
    model = _model(_config(name))
    ids = torch.randint(31, (2, 61), generator=torch.Generator().manual_seed(0))
    begins = torch.tensor([25, 33])
    documents = (torch.arange(61) >= begins[:, None]).long()
    positions = torch.arange(61) - documents * begins[:, None]
    with torch.no_grad():
        together = model.states(ids, mask=Causal() & Documents(documents), positions=positions)
        for row, begin in enumerate(begins.tolist()):
            parts = [model.states(part[None], mask=Causal()) for part in ids[row].split([begin, 61 - begin])]
            torch.testing.assert_close(together[row : row + 1], torch.cat(parts, dim=1), atol=1e-10, rtol=1e-10)


def test_titans_refuse_documents_and_recurrences_refuse_windows() -> None:
    model = _model(_config("Titans, gate"))
    ids = torch.zeros(1, 9, dtype=torch.long)
    batch = Batch(x=ids, sample_ids=torch.zeros(1), documents=torch.zeros_like(ids))
    with pytest.raises(ValueError, match=r"set data\.document_mask = false"):
        Autoregressive().loss(model, batch, Rng(0))
    with pytest.raises(ValueError, match="give such layers the mask full"):
        dataclasses.replace(BASE, attention=("softmax", "linear"), mask=("window(3)",))
    reads = _model(dataclasses.replace(BASE, attention=("linear",)))
    with pytest.raises(ValueError, match="leave the mask out"):
        reads(ids, mask=Causal() & Window(3))


def test_a_bounded_cache_cannot_be_cut() -> None:
    model = _model(_config("window"))
    cache = model.new_cache(1, 50)
    with torch.no_grad():
        model(torch.zeros(1, 20, dtype=torch.long), mask=Causal(), cache=cache)
    cache.set_lengths(torch.tensor([20]))
    with pytest.raises(ValueError, match="cannot be cut"):
        cache.set_lengths(torch.tensor([10]))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"mask": ("windw(3)",)}, "did you mean window?"),
        ({"attention": ()}, "attention names no kind"),
        ({"attention": ("titans_gate",), "position": "alibi"}, "takes no ALiBi"),
        ({"attention": ("linear",), "n_encoder_layers": 1}, "an encoder-decoder is made of attention"),
    ],
)
def test_faulty_choices_are_refused(change: dict[str, object], part: str) -> None:
    with pytest.raises(ValueError, match=part.replace("?", r"\?")):
        dataclasses.replace(BASE, **change)  # type: ignore[arg-type]
