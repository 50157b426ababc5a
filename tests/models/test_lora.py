"""Low-rank updates: equal to the matrices that they stand for, and of them only A and B learn."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from diptych.core.config import LoraConfig, TransformerConfig
from diptych.models.cost import matmul_parameters, training_flops_per_token
from diptych.models.language_model import LanguageModel
from diptych.models.lora import LoraLinear, add_lora, learning_flops_per_token, lora_layers, merge_lora
from diptych.models.network import build_network, initialize
from diptych.nn.linear import Linear
from diptych.nn.masks import Causal, Full

SHAPES = {
    "llama": TransformerConfig(vocab_size=40, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, max_length=12),
    "gpt2": TransformerConfig(
        vocab_size=40,
        d_model=16,
        n_layers=2,
        n_heads=2,
        norm="layer",
        position="learned",
        feed_forward="gelu",
        bias=True,
    ),
}


def adapted(config: TransformerConfig, lora: LoraConfig) -> tuple[LanguageModel, LanguageModel]:
    """A network in float64 and itself with an update of random A and B."""
    base = LanguageModel(config).double()
    initialize(base, torch.Generator().manual_seed(1))
    model = copy.deepcopy(base)
    add_lora(model, lora, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(3)
    for layer in lora_layers(model).values():
        with torch.no_grad():
            layer.up.normal_(generator=generator)
    return base, model


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layers", ["attention", "feed_forward", "all"])
def test_merged_logits_equal_the_adapters_and_those_of_the_summed_matrices(shape: str, layers: str) -> None:
    config = SHAPES[shape]
    lora = LoraConfig(rank=3, alpha=5.0, layers=layers)  # type: ignore[arg-type]
    base, model = adapted(config, lora)
    x = torch.randint(0, 40, (2, 12))
    before, plain = model(x, mask=Causal()), base(x, mask=Causal())
    assert (before - plain).abs().max() > 1e-3
    # By hand: the update added to a copy of the base's own matrices.
    by_hand = copy.deepcopy(base)
    matrices = dict(by_hand.named_parameters())
    for name, layer in lora_layers(model).items():
        matrices[f"{name}.weight"].data += 5.0 / 3 * torch.einsum("or,ri->oi", layer.up.data, layer.down.data)
    merge_lora(model)
    assert not lora_layers(model)
    assert model.state_dict().keys() == base.state_dict().keys()
    for other in (model, by_hand):
        torch.testing.assert_close(other(x, mask=Causal()), before, rtol=0, atol=1e-10)


def test_an_update_begins_at_the_base_itself_and_adapts_what_it_should() -> None:
    model = LanguageModel(SHAPES["llama"])
    initialize(model, torch.Generator().manual_seed(1))
    x = torch.randint(0, 40, (1, 8))
    before = model(x, mask=Causal())
    add_lora(model, LoraConfig(rank=2), torch.Generator().manual_seed(0))
    assert torch.equal(model(x, mask=Causal()), before)
    names = [
        f"blocks.{i}.{part}.{end}"
        for i in range(2)
        for part in ("attention", "feed_forward")
        for end in ("input", "output")
    ]
    assert list(lora_layers(model)) == names
    learns = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learns == {f"{name}.{matrix}" for name in names for matrix in ("down", "up")}
    for layer in lora_layers(model).values():
        assert 0.5 * layer.base.in_features**-0.5 < layer.down.abs().max() <= layer.base.in_features**-0.5
        assert layer.down.shape == (2, layer.base.in_features) and layer.up.shape == (layer.base.out_features, 2)


def test_gradients_equal_those_through_the_summed_matrix() -> None:
    base = Linear(7, 5, bias=True).double()
    layer = LoraLinear(copy.deepcopy(base), LoraConfig(rank=3, alpha=2.0), torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.up.normal_()
    x = torch.randn(4, 7, dtype=torch.float64)
    layer(x).pow(3).sum().backward()
    down, up = (p.detach().clone().requires_grad_() for p in (layer.down, layer.up))
    F.linear(x, base.weight.detach() + 2.0 / 3 * up @ down, base.bias.detach()).pow(3).sum().backward()
    torch.testing.assert_close(layer.down.grad, down.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(layer.up.grad, up.grad, rtol=1e-12, atol=1e-12)
    assert layer.base.weight.grad is None and layer.base.bias is not None and layer.base.bias.grad is None


def test_with_full_rank_it_reaches_what_full_training_reaches() -> None:
    """Least squares in a layer of 6 x 6, whose closed form is its target."""
    target = torch.randn(6, 6, dtype=torch.float64)
    layer = LoraLinear(
        Linear(6, 6, bias=False).double(), LoraConfig(rank=6, alpha=6.0), torch.Generator().manual_seed(0)
    )
    start = layer.base.weight.clone()
    optimizer = torch.optim.LBFGS(
        [layer.down, layer.up], max_iter=400, line_search_fn="strong_wolfe", tolerance_change=0
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (layer(torch.eye(6, dtype=torch.float64)) - target.T).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    torch.testing.assert_close(layer.weight.detach(), target, rtol=0, atol=1e-4)
    assert torch.equal(layer.base.weight, start)


def test_dropout_falls_on_the_input_of_a_alone_and_only_in_training() -> None:
    layer = LoraLinear(Linear(64, 8, bias=False), LoraConfig(rank=2, dropout=0.5), torch.Generator().manual_seed(0))
    x = torch.randn(1, 64)
    assert torch.equal(layer(x), layer.base(x))  # B is zero: what is dropped cannot be seen
    with torch.no_grad():
        layer.up.fill_(1.0)
    torch.manual_seed(5)
    noisy = layer(x)
    torch.manual_seed(5)
    kept = F.dropout(x, 0.5)
    torch.testing.assert_close(noisy, layer.base(x) + kept @ layer.down.T @ layer.up.T * layer.scale)
    assert torch.equal(layer.eval()(x), layer(x))


def test_attention_to_an_encoder_is_adapted_too() -> None:
    config = TransformerConfig(
        vocab_size=30, d_model=16, n_layers=1, n_encoder_layers=1, n_heads=2, position="sinusoidal", max_length=8
    )
    model = build_network(config).double()
    initialize(model, torch.Generator().manual_seed(1))
    with pytest.raises(ValueError, match=r"lora\.dropout=0\.1 .* set it to 0"):
        add_lora(copy.deepcopy(model), LoraConfig(dropout=0.1), torch.Generator())
    add_lora(model, LoraConfig(rank=2), torch.Generator().manual_seed(2))
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.up)
    source, lengths, x = torch.randint(0, 30, (2, 6)), torch.tensor([6, 4]), torch.randint(0, 30, (2, 5))
    before = model.given(source, lengths)(x, mask=Causal())  # type: ignore[union-attr]
    before.sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    merge_lora(model)
    after = model.given(source, lengths)(x, mask=Causal())  # type: ignore[union-attr]
    torch.testing.assert_close(after, before, rtol=0, atol=1e-10)


def test_merging_keeps_the_precision_of_the_base() -> None:
    base = Linear(8, 8, bias=False).to(torch.bfloat16)
    layer = LoraLinear(base, LoraConfig(rank=2), torch.Generator().manual_seed(0))
    assert layer.down.dtype == torch.float32
    with torch.no_grad():
        layer.up.normal_()
    wanted = base.weight.float() + layer.up @ layer.down * layer.scale
    assert torch.equal(layer.merged().weight, wanted.to(torch.bfloat16))


def test_a_step_costs_no_gradients_of_frozen_matrices() -> None:
    _, model = adapted(SHAPES["llama"], LoraConfig(rank=2))
    config = model.config
    update = sum(p.numel() for p in model.parameters() if p.requires_grad)
    scores = training_flops_per_token(config, 10) - 6 * matmul_parameters(config)
    assert learning_flops_per_token(model, 10) == 4 * matmul_parameters(config) + 6 * update + scores
    head = config.vocab_size * config.d_model
    assert learning_flops_per_token(model, 10, 0.25) == learning_flops_per_token(model, 10) - 4 * 0.75 * head
    merge_lora(model)
    assert learning_flops_per_token(model, 10) == training_flops_per_token(config, 10)
    assert learning_flops_per_token(model, 10, 0.25) == training_flops_per_token(config, 10) - 6 * 0.75 * head
    assert model(torch.zeros(1, 2, dtype=torch.int64), mask=Full()).isfinite().all()


def test_an_impossible_update_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lora\.rank=0"):
        LoraConfig(rank=0)
    with pytest.raises(ValueError, match=r"lora\.dropout=1"):
        LoraConfig(dropout=1.0)
