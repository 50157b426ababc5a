"""The sweep of stability: gradients against torch's own layers, the rule of divergence, going on where it stopped."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from diptych.core.config import DataConfig
from diptych.core.events import Event, Progressed
from diptych.core.random import Rng
from diptych.core.types import Batch
from diptych.evaluation.stability import (
    STABILITY,
    Column,
    StabilityConfig,
    StabilityResult,
    feed_forward_gradients,
    network,
    outcome,
    review_stability_config,
    run_stability,
    unigram_entropy,
    xavier,
)
from diptych.models.language_model import LanguageModel
from diptych.nn.masks import Causal
from diptych.objectives.autoregressive import Autoregressive
from diptych.reference.decoder import sinusoid

POST, PRE = Column(norm="layer", placement="post"), Column(norm="layer", placement="pre")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"the sun rises from the east on day {day}\n" for day in range(200)))
    return path


def tiny(text: Path, **changes: object) -> StabilityConfig:
    config = StabilityConfig(
        norms=("layer", "none"),
        depths=(1, 2),
        learning_rates=(1e-3, 1e-2),
        steps=6,
        d_model=16,
        n_heads=2,
        sequence_length=16,
        batch_size=2,
        data=DataConfig(source=(str(text),)),
    )
    return dataclasses.replace(config, **changes)


def built(column: Column, depth: int, seed: int = 0, d_model: int = 64) -> LanguageModel:
    model = LanguageModel(network(StabilityConfig(d_model=d_model), column, depth)).double()
    xavier(model, Rng(seed).generator("weights"))
    return model


def initial(column: Column, depth: int) -> tuple[np.ndarray, float]:
    """Gradients of all blocks and the root mean square of what the last one gives, over four networks."""
    rows, scales = [], []
    for seed in range(4):
        model, x = (
            built(column, depth, seed),
            torch.randint(257, (8, 65), generator=torch.Generator().manual_seed(seed)),
        )
        taken: list[float] = []
        hook = model.blocks[-1].register_forward_hook(
            lambda module, args, out, taken=taken: taken.append(float(out.detach().square().mean().sqrt()))
        )
        loss = Autoregressive().loss(model, Batch(x=x, sample_ids=torch.arange(8)), Rng(0))
        (loss.total / loss.count).backward()
        hook.remove()
        rows.append(feed_forward_gradients(model))
        scales += taken
    return np.mean(rows, axis=0), float(np.mean(scales))


@pytest.mark.parametrize("column", [POST, PRE])
def test_gradients_before_the_first_step_equal_those_of_torchs_layers(column: Column) -> None:
    model, pre = built(column, 3), column == PRE
    layers = []
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(
            64, 4, 256, dropout=0.0, batch_first=True, norm_first=pre, dtype=torch.float64
        )
        pairs = [
            (layer.self_attn.in_proj_weight, block.attention.input.weight),
            (layer.self_attn.in_proj_bias, block.attention.input.bias),
            (layer.self_attn.out_proj.weight, block.attention.output.weight),
            (layer.linear1.weight, block.feed_forward.input.weight),
            (layer.linear2.weight, block.feed_forward.output.weight),
        ]
        with torch.no_grad():
            for theirs, ours in pairs:
                theirs.copy_(ours)
            for zero in (layer.self_attn.out_proj.bias, layer.linear1.bias, layer.linear2.bias):
                zero.zero_()
        layers.append(layer)
    x = torch.randint(257, (4, 33), generator=torch.Generator().manual_seed(1))
    weight = model.embedding.weight.detach()
    positions = torch.tensor(np.stack([sinusoid(t, 64) for t in range(32)]))
    h, causal = weight[x[:, :-1]] * 8 + positions, nn.Transformer.generate_square_subsequent_mask(32).double()
    for layer in layers:
        h = layer(h, src_mask=causal, is_causal=True)
    h = F.layer_norm(h, (64,)) if pre else h
    F.cross_entropy((h @ weight.T).flatten(0, 1), x[:, 1:].flatten()).backward()
    theirs = [float(layer.linear2.weight.grad.norm()) for layer in layers]

    loss = Autoregressive().loss(model, Batch(x=x, sample_ids=torch.arange(4)), Rng(0))
    (loss.total / loss.count).backward()
    np.testing.assert_allclose(feed_forward_gradients(model), theirs, rtol=1e-6)


def test_gradients_scale_with_depth_as_xiong_et_al_derive() -> None:
    """Theorem 1: of the last block the gradient does not depend on the depth after the sums, and is divided by the
    scale of the residual stream, which grows as the root of the depth, before the sublayers. Within a quarter, at
    depths 4 and 16; in shallower networks the embedding, which is the un-embedding too, outweighs the blocks."""
    (post_4, _), (post_16, _) = initial(POST, 4), initial(POST, 16)
    (pre_4, scale_4), (pre_16, scale_16) = initial(PRE, 4), initial(PRE, 16)
    assert post_16[-1] == pytest.approx(post_4[-1], rel=0.25)
    assert scale_16 / scale_4 == pytest.approx(2.0, rel=0.25)
    assert pre_16[-1] * scale_16 == pytest.approx(pre_4[-1] * scale_4, rel=0.25)
    assert post_16[-1] > 2.5 * pre_16[-1]
    assert pre_16[0] > pre_16[-1] and np.all(post_16 > 0.5 * post_16.max())


def test_without_a_normalization_gradients_grow_with_every_block() -> None:
    none = Column(norm="none", placement=None)
    (two, _), (eight, _) = initial(none, 2), initial(none, 8)
    assert eight[0] > 100 * two[0] and eight[0] > eight[-1]


def test_xavier_is_that_of_torch() -> None:
    """The same deviations as `xavier_normal_` of each single matrix, within 5 standard errors."""
    model = built(POST, 2, d_model=128)
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            assert set(parameter.unique().tolist()) == {0.0 if name.endswith("bias") else 1.0}
            continue
        matrices = parameter.chunk(3) if name.endswith("attention.input.weight") else [parameter]
        for matrix in matrices:
            theirs = nn.init.xavier_normal_(torch.empty(matrix.shape))
            wanted = 128**-0.5 if "embedding" in name else float(theirs.std())
            assert float(matrix.detach().std()) == pytest.approx(wanted, rel=5 * (2 / matrix.numel()) ** 0.5)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([5.5] * 30, "frequencies"),
        ([5.5, 4.0, 3.0] + [2.0] * 27, "learnt"),
        ([5.5, 4.0, 3.0] + [5.6] * 27, "diverged"),
        ([5.5, 2.0, math.nan], "diverged"),
        ([5.5, 2.0, math.inf], "diverged"),
        ([5.7, 9.0, 80.0] + [2.5] * 27, "learnt"),  # a spike that is recovered from
        ([2.0] * 27 + [6.0] * 3, "diverged"),  # only the last tenth counts
        ([9.0] * 27 + [2.0] * 3, "learnt"),
        ([3.3] * 30, "frequencies"),
        ([3.25] * 30, "frequencies"),  # within 2 % of the entropy
        ([3.20] * 30, "learnt"),
        ([2.0], "learnt"),
    ],
)
def test_the_rule_of_divergence_on_made_curves(losses: list[float], expected: str) -> None:
    assert outcome(losses, uniform=5.55, unigram=3.3) == expected


def test_entropies_in_closed_form() -> None:
    assert unigram_entropy(np.array([0, 0, 7, 7], np.uint16)) == pytest.approx(math.log(2))
    tokens = np.array([1] * 6 + [2] * 3 + [3], np.uint16)
    assert unigram_entropy(tokens) == pytest.approx(-0.6 * math.log(0.6) - 0.3 * math.log(0.3) - 0.1 * math.log(0.1))


def test_an_interrupted_sweep_goes_on_to_the_same_result(text: Path, tmp_path: Path) -> None:
    config, done = tiny(text), 0
    whole = run_stability(config)
    assert len(whole.runs) == 3 * 2 * 2 and whole.uniform == math.log(257)

    def interrupt(event: Event) -> None:
        nonlocal done
        if isinstance(event, Progressed) and event.what == "training":
            done += 1
            if done == 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stability(config, tmp_path / "s", interrupt)
    reported: list[Event] = []
    assert run_stability(config, tmp_path / "s", reported.append) == whole
    progress = [e for e in reported if isinstance(e, Progressed) and e.what == "training"]
    assert [e.done for e in progress] == [1, 2, 3, 4, 5, 6, 7] and progress[-1].total == 7
    # Nothing is left to do, and nothing is trained again.
    before = (tmp_path / "s" / STABILITY).read_text()
    assert run_stability(config, tmp_path / "s") == whole
    assert (tmp_path / "s" / STABILITY).read_text() == before


def test_a_sweep_may_grow_and_other_settings_are_refused(text: Path, tmp_path: Path) -> None:
    small = tiny(text, norms=("none",), depths=(1,), learning_rates=(1e-3,))
    first = run_stability(small, tmp_path / "s")
    grown = run_stability(tiny(text, norms=("none",), depths=(1, 2), seeds=2), tmp_path / "s")
    assert first.runs[0] in grown.runs and len(grown.runs) == 8
    assert len({run.first_loss for run in grown.runs}) == 4  # of two depths and two seeds, not of learning rates
    with pytest.raises(ValueError, match=r"differs in steps, warmup_steps"):
        run_stability(dataclasses.replace(small, steps=7, warmup_steps=2), tmp_path / "s")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        run_stability(small, tmp_path / "file")


def test_a_cell_is_the_mean_and_the_worst_of_its_seeds(text: Path) -> None:
    result = run_stability(tiny(text, norms=("none",), depths=(1,), learning_rates=(1e-3, 1e9), seeds=2))
    none = Column(norm="none", placement=None)
    losses = [r.final_loss for r in result.runs if r.learning_rate == 1e-3 and r.final_loss is not None]
    cell = result.cell(none, 1, 1e-3)
    assert cell is not None and cell.final_loss == pytest.approx(sum(losses) / 2)
    broken = result.cell(none, 1, 1e9)
    assert broken is not None and broken.outcome == "diverged"
    assert result.cell(none, 2, 1e-3) is None
    bad = dataclasses.replace(result.runs[0], outcome="diverged", final_loss=None)
    mixed = dataclasses.replace(result, runs=(bad, *result.runs[1:])).cell(none, 1, 1e-3)
    assert mixed is not None and mixed.outcome == "diverged" and mixed.final_loss is None


def test_warm_up_and_depth_reach_the_network(text: Path) -> None:
    warm = run_stability(tiny(text, norms=("none",), depths=(1,), warmup_steps=6))
    cold = run_stability(tiny(text, norms=("none",), depths=(1,)))
    assert warm.runs[0].first_loss == cold.runs[0].first_loss and warm.runs[0].final_loss != cold.runs[0].final_loss
    assert len(cold.gradient(Column(norm="none", placement=None), 1)) == 1
    model = LanguageModel(network(StabilityConfig(), PRE, 3))
    xavier(model, torch.Generator().manual_seed(0))
    assert len(model.blocks) == 3 and model(torch.zeros(1, 4, dtype=torch.long), mask=Causal()).isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norms": ()}, "norms is empty"),
        ({"placements": ()}, "placements is empty"),
        ({"depths": (2, 2)}, "depths names a value twice"),
        ({"depths": (0, 2)}, "depths must be at least 1"),
        ({"depths": (4, 2)}, "rise"),
        ({"learning_rates": (0.0, 1.0)}, "learning rates must be positive"),
        ({"learning_rates": (math.nan,)}, "learning rates must be positive"),
        ({"steps": 0}, "at least 1"),
        ({"warmup_steps": 7}, "warmup_steps=7"),
        ({"warmup_steps": -1}, "warmup_steps=-1"),
    ],
)
def test_what_it_refuses(text: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(text, **changes)


def test_the_reviews_sweep_is_one() -> None:
    config = review_stability_config()
    assert len(config.columns) == 5 and config.steps * len(config.depths) * len(config.learning_rates) < 1000
    assert isinstance(StabilityResult(config=config, uniform=1.0, unigram=1.0), StabilityResult)
