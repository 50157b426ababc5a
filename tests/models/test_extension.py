"""Extended networks: caches, chunks and steps change nothing, the weights are shared, and what cannot be is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from diptych.core.config import TransformerConfig
from diptych.core.context_extension import METHODS, parse_extension
from diptych.models.attention_weights import self_attention_weights
from diptych.models.extension import extend
from diptych.models.language_model import LanguageModel
from diptych.models.network import build_network, initialize
from diptych.nn import one_row
from diptych.nn.masks import Causal, Documents, Full, Sinks
from diptych.nn.patterns import Cuts

L, N = 24, 70
SMALL = {"vocab_size": 31, "d_model": 24, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_ff": 32, "max_length": L}
EXTENSIONS = [
    "interpolation",
    "ntk",
    "dynamic_ntk",
    "yarn",
    "llama3",
    "string",
    "string:factor=1.5,window=2",
    "rerope",
    "self_extend",
    "self_extend:window=5,group=7",
    "dca",
    "dca:chunk=7,window=3",
    "streaming",
    "streaming:sinks=2,window=9",
]
RELATIONAL = [text for text in EXTENSIONS if text.split(":")[0] in ("string", "rerope", "self_extend", "dca")]


def make(**values: object) -> LanguageModel:
    model = build_network(TransformerConfig(**{**SMALL, "rope_theta": 100.0, **values}))
    assert isinstance(model, LanguageModel)
    generator = torch.Generator().manual_seed(3)
    initialize(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval().requires_grad_(False)


def extended(text: str, **values: object) -> LanguageModel:
    return extend(make(**values), parse_extension(text)).double()


def tokens(rows: int = 1, n: int = N) -> Tensor:
    return torch.randint(31, (rows, n), generator=torch.Generator().manual_seed(1))


def in_chunks(model: LanguageModel, x: Tensor, sizes: list[int], length: int) -> Tensor:
    cache = model.new_cache(len(x), length)
    return torch.cat([model(part, mask=Causal(), cache=cache) for part in x.split(sizes, dim=1)], dim=1)


@torch.inference_mode()
@pytest.mark.parametrize("text", EXTENSIONS)
def test_caches_chunks_and_steps_give_what_one_pass_gives(text: str) -> None:
    model, x = extended(text), tokens(2)
    expected = model(x, mask=Causal()).log_softmax(-1)
    for sizes in ([N], [40, 1, 29], [33, *[1] * (N - 33)]):
        found = in_chunks(model, x, sizes, N).log_softmax(-1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    plain = make()(x, mask=Causal()).log_softmax(-1)
    if text != "string" or L >= N:
        assert (plain - expected).abs().max() > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("text", EXTENSIONS)
def test_rows_of_different_lengths_give_what_each_alone_gives(text: str) -> None:
    model, x = extended(text), tokens(2)
    lengths = torch.tensor([50, 31])
    cache = model.new_cache(2, N)
    cache.expect(lengths)
    model(x[:, :50], mask=Causal(), cache=cache)
    step = torch.stack([x[0, 50:53], x[1, 31:34]])
    found = torch.cat([model(step[:, i : i + 1], mask=Causal(), cache=cache) for i in range(3)], dim=1)
    for row, length in enumerate(lengths):
        alone = in_chunks(model, x[row : row + 1, : length + 3], [int(length) + 3], N)
        torch.testing.assert_close(found[row], alone[0, -3:], rtol=0, atol=1e-10)


@torch.inference_mode()
@pytest.mark.parametrize("text", ["yarn", "dynamic_ntk", "string", "self_extend", "streaming"])
def test_float32_with_the_loop_of_one_row(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled loop multiplies what YaRN scales, and is not asked where near and far parts are."""
    model, x = extended(text).float(), tokens()
    used = []
    original = one_row.next_row
    monkeypatch.setattr("diptych.models.language_model.next_row", lambda *given: used.append(1) or original(*given))
    found = in_chunks(model, x, [60, *[1] * 10], N).log_softmax(-1)
    cache = model.new_cache(1, N)  # so that dynamic frequencies are the same
    torch.testing.assert_close(found, model(x, mask=Causal(), cache=cache).log_softmax(-1), rtol=0, atol=1e-5)
    assert bool(used) == (model.config.position_scheme is None)


class Rotating(TorchDispatchMode):
    """Counts the numbers that are made by what rotations are made of: products, cosines and sines."""

    made = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mul, torch.ops.aten.cos, torch.ops.aten.sin):
            self.made += result.numel()
        return result


@torch.inference_mode()
@pytest.mark.parametrize(("text", "max_length"), [*((text, L) for text in RELATIONAL), ("streaming", 1024)])
def test_a_step_rotates_no_more_where_more_is_cached(text: str, max_length: int) -> None:
    """Also with a streaming window that holds all."""
    model, x = extended(text, max_length=max_length), tokens(1, 513)
    made = []
    for length in (256, 512):  # both at the beginning of a block of keys, as the near part takes whole ones
        cache = model.new_cache(1, 513)
        model(x[:, :length], mask=Causal(), cache=cache)
        with Rotating() as seen:
            model(x[:, length : length + 1], mask=Causal(), cache=cache)
        made.append(seen.made)
    assert made[0] == made[1] > 0


@torch.inference_mode()
@pytest.mark.parametrize("text", RELATIONAL)
def test_branches_of_a_text_give_what_each_alone_gives(text: str) -> None:
    model, x = extended(text), tokens(1, 50)
    branches = [tokens(1, 3) + 0, (tokens(1, 4) + 1) % 31]
    cache = model.new_cache(1, 57)
    model(x, mask=Causal(), cache=cache)
    mask = Causal() & (Sinks(50) | Cuts((50, 3, 4)))
    positions = torch.tensor([[*range(50, 53), *range(50, 54)]])
    found = model(torch.cat(branches, dim=1), mask=mask, positions=positions, cache=cache)
    for branch, ours in zip(branches, found.split([3, 4], dim=1), strict=True):
        alone = model(torch.cat((x, branch), dim=1), mask=Causal())[:, 50:]
        torch.testing.assert_close(ours, alone, rtol=0, atol=1e-10)


@torch.inference_mode()
def test_streaming_keeps_sinks_and_window_alone() -> None:
    model = extended("streaming:sinks=2,window=9")
    cache = model.new_cache(1, 1000)
    assert not cache.is_whole and cache.n_bytes < make().new_cache(1, 1000).n_bytes / 50
    wide = make(mask=("window(9) | sinks(2)",))  # the same pairs, but the sinks at their true distances
    x = tokens()
    short, long = slice(0, 11), slice(11, N)
    ours, theirs = (net(x, mask=Causal())[0] for net in (model, wide))
    torch.testing.assert_close(ours[short], theirs[short], rtol=0, atol=1e-10)
    assert (ours[long] - theirs[long]).abs().max() > 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("text", RELATIONAL)
def test_a_text_within_the_near_part_is_read_as_before(text: str) -> None:
    scheme = extended(text).config.position_scheme
    assert scheme is not None
    n = {"string": scheme.shift, "dca": scheme.chunk}.get(scheme.kind, scheme.window)
    x = tokens(1, n + 1)
    ours, plain = (model(x, mask=Causal()) for model in (extended(text), make()))
    torch.testing.assert_close(ours[:, :n], plain[:, :n], rtol=0, atol=1e-10)


@torch.inference_mode()
def test_window_of_the_model_still_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model with a sliding window keeps a ring of keys, all of which the near part may rotate further."""
    model, x = extended("self_extend:window=5,group=7", window=12), tokens()
    expected = model(x, mask=Causal())
    torch.testing.assert_close(in_chunks(model, x, [20, *[1] * 50], N), expected, rtol=0, atol=1e-10)
    changed = x.clone()
    changed[0, : N - 2 * 11 - 1] = 0  # two layers look back 11 each
    torch.testing.assert_close(model(changed, mask=Causal())[:, -1], expected[:, -1], rtol=0, atol=1e-10)


@torch.inference_mode()
def test_weights_for_pictures_are_those_of_the_scheme() -> None:
    model, x = extended("dca:chunk=7,window=3"), tokens()
    weights = self_attention_weights(model, x[0], Causal()).by_layer[0]
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, N).double(), rtol=0, atol=1e-10)
    assert torch.equal(weights, weights.tril())
    block = model.blocks[0]
    seen: list[Tensor] = []
    hook = block.attention.register_forward_hook(lambda _, arguments, out: seen.extend((*arguments[:1], out)))
    given: list[object] = []
    other = block.attention.register_forward_pre_hook(lambda _, arguments: given.extend(arguments[1:3]))
    model(x, mask=Causal())
    hook.remove(), other.remove()
    torch.testing.assert_close(block.attention.written_out(seen[0], *given)[0], seen[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize("text", ["yarn", "string"])
def test_weights_are_shared_and_the_old_network_is_as_it_was(text: str) -> None:
    model, x = make(), tokens()
    before = model(x, mask=Causal())
    longer = extend(model, parse_extension(text))
    ours, theirs = dict(model.named_parameters()), dict(longer.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)
    assert torch.equal(model(x, mask=Causal()), before)
    assert longer.training == model.training and longer.rope is not None and longer.rope.device.type == "cpu"


def test_dynamic_frequencies_go_by_the_length_a_cache_is_made_for() -> None:
    model, x = extended("dynamic_ntk"), tokens(1, 30)
    within = make()(x[:, :L], mask=Causal())
    torch.testing.assert_close(model(x[:, :L], mask=Causal()), within, rtol=0, atol=1e-12)
    longer = in_chunks(model, x, [20, 10], 30)
    torch.testing.assert_close(longer, model(x, mask=Causal()), rtol=0, atol=1e-10)
    assert (in_chunks(model, x, [30], 90) - longer).abs().max() > 1e-3


def test_gradients_reach_the_weights_through_near_and_far_parts() -> None:
    model = extended("string").requires_grad_(True)
    model(tokens(), mask=Causal()).pow(2).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    "values",
    [
        {"position": "alibi"},
        {"position": "learned"},
        {"attention": ("softmax", "gated_delta")},
        {"n_encoder_layers": 1},
    ],
)
def test_networks_that_cannot_be_extended_are_refused(name: str, values: dict[str, object]) -> None:
    network = build_network(TransformerConfig(**{**SMALL, **values}))
    with pytest.raises(ValueError, match=rf"^{name} [^\n]+$"):
        extend(network, parse_extension(name))  # type: ignore[arg-type]


def test_packed_documents_and_other_masks_are_refused() -> None:
    model, x = extended("string"), tokens()
    places = torch.cat((torch.arange(30), torch.arange(40)))[None]
    for given in (
        {"mask": Causal(), "positions": places},
        {"mask": Causal() & Documents(torch.zeros(1, N, dtype=torch.long))},
        {"mask": Full()},
    ):
        with pytest.raises(ValueError, match=r"^the positions of string [^\n]+$"):
            model(x, **given)
    streaming = extended("streaming")
    cache = streaming.new_cache(1, N)
    streaming(x[:, :60], mask=Causal(), cache=cache)
    with pytest.raises(ValueError, match="one by one"):
        streaming(x[:, 60:], mask=Causal(), positions=torch.arange(60, N)[None], cache=cache)
