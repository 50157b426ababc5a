"""The network equals diffusers' DiT on copied weights, begins as zero, and learns from noise level and class."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import DiTTransformer2DModel
from torch.utils.flop_counter import FlopCounterMode

from diptych.core.config import TransformerConfig
from diptych.core.diffusion_config import PatchConfig
from diptych.models.cost import cost_of, parameters_by_part, training_flops_per_token
from diptych.models.diffusion_transformer import DiffusionTransformer
from diptych.models.lora import learning_flops_per_token
from diptych.models.network import build_network, build_unfilled, initialize
from diptych.nn.masks import Full

PATCHES = PatchConfig(size=2, channels=3, height=8, width=8, n_classes=4)
CONFIG = TransformerConfig(
    d_model=32,
    n_layers=2,
    n_heads=2,
    norm="layer",
    norm_eps=1e-6,
    position="sinusoidal",
    feed_forward="gelu_tanh",
    bias=True,
    patches=PATCHES,
)


def make(config: TransformerConfig = CONFIG, *, noise: float = 0.1) -> DiffusionTransformer:
    model, generator = build_network(config), torch.Generator().manual_seed(0)
    assert isinstance(model, DiffusionTransformer)
    initialize(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return model


def dit_weights(model: DiffusionTransformer) -> dict[str, torch.Tensor]:
    """Our weights under diffusers' names."""
    state, p = {}, PATCHES.size
    # Their last layer orders the numbers of a patch by row, column and channel, ours by channel, row and column.
    order = torch.arange(PATCHES.channels * p * p).view(PATCHES.channels, p, p).permute(1, 2, 0).flatten()
    for part in ("weight", "bias"):
        modulation = getattr(model.modulation, part).split([192, 192, 64])
        embedding = getattr(model.patch_embedding, part)
        state[f"pos_embed.proj.{part}"] = embedding.view(-1, 3, p, p) if part == "weight" else embedding
        state[f"proj_out_1.{part}"] = modulation[-1]
        state[f"proj_out_2.{part}"] = getattr(model.final, part)[order]
        for i, block in enumerate(model.blocks):
            prefix = f"transformer_blocks.{i}."
            emb = prefix + "norm1.emb."
            state[f"{emb}timestep_embedder.linear_1.{part}"] = getattr(model.time_embedding.input, part)
            state[f"{emb}timestep_embedder.linear_2.{part}"] = getattr(model.time_embedding.output, part)
            state[f"{emb}class_embedder.embedding_table.weight"] = model.class_embedding.weight
            state[f"{prefix}norm1.linear.{part}"] = modulation[i]
            for name, value in zip("qkv", getattr(block.attention.input, part).chunk(3), strict=True):
                state[f"{prefix}attn1.to_{name}.{part}"] = value
            state[f"{prefix}attn1.to_out.0.{part}"] = getattr(block.attention.output, part)
            state[f"{prefix}ff.net.0.proj.{part}"] = getattr(block.feed_forward.input, part)
            state[f"{prefix}ff.net.2.{part}"] = getattr(block.feed_forward.output, part)
    return state


def test_it_equals_diffusers_dit() -> None:
    ours = make().double().eval()  # so that only what differs in the mathematics differs
    theirs = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=3,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=4,
        norm_eps=1e-6,
    )
    theirs = theirs.double().eval()
    theirs.load_state_dict(dit_weights(ours), strict=True)
    # A thousandth of these steps is exact in binary: the features' angles are float32 in both.
    steps, labels = torch.tensor([-875, 0, 125, 500, 1000]), torch.tensor([0, 1, 2, 3, 4])
    x = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        wanted = theirs(x, timestep=steps, class_labels=labels).sample
        got = ours(x, mask=Full(), time=steps / 1000, cond=labels)
    assert wanted.std() > 0.1
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("position", ["learned", "sinusoidal", "rope", "none"])
def test_it_begins_as_zero_and_its_blocks_as_the_identity(position: str) -> None:
    model = make(dataclasses.replace(CONFIG, position=position), noise=0.0)
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, given, out: seen.append(torch.equal(given[0], out)))
    out = model(torch.randn(2, 3, 8, 8), mask=Full(), time=torch.tensor([0.1, -1.0]))
    assert not out.any() and seen == [True, True]


@pytest.mark.parametrize(
    "changes", [{}, {"position": "rope", "norm": "rms", "feed_forward": "swiglu"}, {"attention": ("linear",)}]
)
def test_it_learns_from_noise_level_and_class(changes: dict[str, object]) -> None:
    model = make(dataclasses.replace(CONFIG, **changes), noise=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(1)
    x, time = torch.randn(8, 3, 8, 8, generator=generator), torch.linspace(-1.5, 1.0, 8)
    labels = torch.arange(8) % 5
    target = x * time[:, None, None, None] + labels[:, None, None, None]
    losses = []
    for _ in range(30):
        loss = (model(x, mask=Full(), time=time, cond=labels) - target).square().mean()
        loss.backward()
        losses.append(loss.item())
        learning = {name for name, parameter in model.named_parameters() if parameter.grad.any()}
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < 0.5 * losses[0]
    assert learning == {name for name, _ in model.named_parameters()}
    with torch.no_grad():
        told = model(x[:1], mask=Full(), time=time[:1], cond=labels[:1])
        assert (model(x[:1], mask=Full(), time=time[7:], cond=labels[:1]) - told).abs().max() > 0.01
        assert (model(x[:1], mask=Full(), time=time[:1], cond=labels[3:4]) - told).abs().max() > 0.01
        no_class = model(x[:1], mask=Full(), time=time[:1], cond=torch.tensor([4]))
        assert torch.equal(model(x[:1], mask=Full(), time=time[:1]), no_class)


@pytest.mark.parametrize("position", ["learned", "rope"])
@pytest.mark.parametrize("n_classes", [0, 4])
@pytest.mark.parametrize("attention", ["softmax", "linear"])
def test_parameters_by_part_are_those_of_the_network(position: str, n_classes: int, attention: str) -> None:
    patches = dataclasses.replace(PATCHES, n_classes=n_classes, width=12)
    config = dataclasses.replace(CONFIG, position=position, patches=patches, attention=(attention,), bias=False)
    model = build_network(config)
    assert sum(parameters_by_part(config).values()) == sum(p.numel() for p in model.parameters())


def test_flops_equal_the_counter() -> None:
    model, x = make(), torch.randn(1, 3, 8, 8)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss = model(x, mask=Full(), time=torch.zeros(1)).sum()
        assert counter.get_total_flops() == 16 * cost_of(CONFIG, 16, 4).forward_flops_per_token
        loss.backward()
    # What is fed in needs no gradient.
    assert counter.get_total_flops() == pytest.approx(16 * training_flops_per_token(CONFIG, 16), rel=0.05)
    assert learning_flops_per_token(model, 16) == training_flops_per_token(CONFIG, 16)


def test_a_cost_is_found_at_once_however_large_the_network_claims_to_be() -> None:
    cost = cost_of(dataclasses.replace(CONFIG, n_layers=10**12), 16, 4)
    assert cost.total > 10**15 and cost.cache_bytes_per_token == cost.cache_bytes_fixed == 0


def test_it_is_opened_in_another_precision() -> None:
    trained = make(dataclasses.replace(CONFIG, position="rope")).eval()
    model = build_unfilled(trained.config, device="cpu", dtype=torch.bfloat16)
    model.load_state_dict(trained.state_dict())
    x, time = torch.randn(2, 3, 8, 8), torch.tensor([0.1, -1.0])
    with torch.no_grad():
        wanted, got = (network(x, mask=Full(), time=time) for network in (trained, model))
    assert got.dtype == torch.float32
    assert (got - wanted).norm() < 0.03 * wanted.norm()


def test_recomputed_activations_give_the_same_gradients() -> None:
    model, x, gradients = make(), torch.randn(2, 3, 8, 8), []
    for model.checkpoint_activations in (False, True):
        loss = model(x, mask=Full(), time=torch.tensor([0.1, -1.0])).square().sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(ValueError, match="shape of an image is unknown"):
        build_network(dataclasses.replace(CONFIG, patches=PatchConfig()))
    with pytest.raises(ValueError, match="more than 65,536 patches"):
        build_network(dataclasses.replace(CONFIG, patches=dataclasses.replace(PATCHES, height=2**40)))
    model, x, time = make(), torch.randn(2, 3, 8, 8), torch.zeros(2)
    with pytest.raises(ValueError, match="3 x 8 x 8"):
        model(x[:, :, :4], mask=Full(), time=time)
    with pytest.raises(ValueError, match="must be told the time"):
        model(x, mask=Full())
    without = make(dataclasses.replace(CONFIG, patches=dataclasses.replace(PATCHES, n_classes=0)))
    with pytest.raises(ValueError, match="not taught classes"):
        without(x, mask=Full(), time=time, cond=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="no vocabulary"):
        dataclasses.replace(CONFIG, embedding_norm=True)
