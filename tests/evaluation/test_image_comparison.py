"""Numbers of a comparison of images equal closed forms, and what the single measurements give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.image_runs import train_image_runs

from diptych.core.diffusion_config import PatchConfig
from diptych.core.random import Rng
from diptych.core.types import Frame
from diptych.data.images import ImageSet, ImageStream
from diptych.data.pixels import PixelStream, to_tokens
from diptych.evaluation import diffusion_likelihood
from diptych.evaluation.diffusion_likelihood import bits_per_dimension, flow_likelihood, image_flow
from diptych.evaluation.image_comparison import (
    image_reservations,
    image_score,
    image_scores,
    packed,
    trained_image_run,
)
from diptych.evaluation.image_contenders import (
    GaussianContender,
    ImageComparisonConfig,
    ImageContender,
    ImageNats,
    PixelContender,
    open_image_contender,
)
from diptych.evaluation.pixel_likelihood import likelihood_of_run, score_pixels
from diptych.nn.masks import Causal
from diptych.samplers.autoregressive import AutoregressiveSampler
from diptych.samplers.gaussian import GaussianSampler
from diptych.samplers.masked_diffusion import MaskedDiffusionSampler
from diptych.samplers.uniform_diffusion import UniformDiffusionSampler

CPU = torch.device("cpu")
CONFIG = ImageComparisonConfig(runs=("a", "b"), images=5, dequantizations=3, probes=2, batch_size=4, samples=5, steps=3)


@pytest.fixture(scope="module")
def contenders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ImageContender]:
    folders = train_image_runs(tmp_path_factory.mktemp("runs"))
    return {name: open_image_contender(folder, CPU) for name, folder in folders.items()}


def trained(contender: ImageContender, name: str, tokens: int = 960) -> Any:
    return trained_image_run(contender, name, steps=12, kept_step=8, tokens=tokens)


def test_a_score_and_a_paired_difference_by_hand() -> None:
    beside = ImageNats(kind="exact", nats=(8.0, 4.0, 6.0), standard_errors=(0.0,) * 3)
    own = ImageNats(kind="flow", nats=(9.0, 6.0, 6.0), standard_errors=(0.3, 0.4, 0.0))
    found, bits = image_score("g", own, 4, beside), 4 * math.log(2)
    assert found.bits_per_dimension == pytest.approx(7 / bits)
    assert found.estimate_error == pytest.approx(0.5 / 3 / bits)
    assert found.standard_error == pytest.approx(math.sqrt(3) / math.sqrt(3) / bits)  # 9, 6, 6 deviate by sqrt(3)
    assert found.difference is not None and found.difference.value == pytest.approx(1 / bits)
    assert found.difference.error == pytest.approx(1 / math.sqrt(3) / bits)  # 1, 2, 0 deviate by 1
    alone = image_score("a", beside, 4, None)
    assert alone.difference is None and alone.estimate_error == 0.0 and alone.kind == "exact"


def test_exact_nats_are_those_of_the_chain_rule(contenders: dict[str, ImageContender]) -> None:
    contender = contenders["ar"]
    assert isinstance(contender, PixelContender)
    found = contender.nats(CONFIG)
    x = torch.from_numpy(to_tokens(contender.heldout.pixels[:5], contender.tokenizer.opening_id))
    with torch.inference_mode():
        log_p = contender.model(x[:, :-1], mask=Causal()).log_softmax(-1).gather(2, x[:, 1:, None])
    assert found.kind == "exact" and found.standard_errors == (0.0,) * 5
    assert found.nats == pytest.approx((-log_p.sum((1, 2))).tolist(), rel=1e-5)


@pytest.mark.parametrize("kind", ["masked", "block", "uniform"])
def test_bounds_are_those_of_the_single_measurement(contenders: dict[str, ImageContender], kind: str) -> None:
    contender = contenders[kind]
    assert isinstance(contender, PixelContender)
    found = image_score("m", contender.nats(replace(CONFIG, images=None)), 16, None)
    score = likelihood_of_run(contender.run, contender.model, contender.tokenizer, Rng(0), draws=8)
    whole = score_pixels(
        score, PixelStream(contender.heldout, contender.tokenizer.opening_id, shuffle=False), device=CPU
    )
    assert found.kind == whole.kind == "bound" and found.n_images == len(contender.heldout)
    assert found.bits_per_dimension == pytest.approx(whole.bits_per_dimension, rel=1e-6)
    assert found.estimate_error == pytest.approx(whole.estimate_error, rel=1e-5)
    assert found.standard_error == pytest.approx(whole.standard_error, rel=1e-5)


def test_the_flow_is_averaged_over_dequantizations(
    contenders: dict[str, ImageContender], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diffusion_likelihood, "flow_likelihood", partial(flow_likelihood, steps=3))
    contender = contenders["gaussian"]
    assert isinstance(contender, GaussianContender)
    found = contender.nats(CONFIG)
    batch = ImageStream(contender.heldout, shuffle=False).batch(0, 5)
    each = np.stack(
        [image_flow(contender.opened, batch, Rng(0).fold("dequantization", k), probes=2).nats.numpy() for k in range(3)]
    )
    assert found.kind == "flow" and (each.std(0) > 0).all()
    assert found.standard_errors == pytest.approx(each.std(0, ddof=1) / math.sqrt(3), rel=1e-6)
    # The constant turns a density over [-1, 1] into one over intervals of width 1 for each level.
    expected = bits_per_dimension(float(each.mean()), 16, 256)
    assert image_score("g", found, 16, None).bits_per_dimension == pytest.approx(expected, rel=1e-9)


def test_the_training_of_runs_over_pixels_and_over_patches(contenders: dict[str, ImageContender]) -> None:
    ar, block, gaussian = (trained(contenders[name], name) for name in ("ar", "block", "gaussian"))
    n = len(contenders["ar"].train)
    # 960 levels are 60 images, 960 patches of four numbers are 240.
    assert (ar.tokens, ar.positions, ar.row_targets) == (960, 16, 16) and ar.epochs == pytest.approx(60 / n)
    assert (gaussian.tokens, gaussian.positions, gaussian.row_targets) == (3840, 4, 16)
    assert gaussian.epochs == pytest.approx(240 / n) and block.positions == 33
    for name, run in (("ar", ar), ("gaussian", gaussian)):
        assert run.parameters == sum(p.numel() for p in contenders[name].network.parameters())
        assert run.flops == pytest.approx(run.flops_per_target * run.tokens, rel=1e-12)


def test_runs_that_differ_in_the_paradigm_alone_have_no_reservations(contenders: dict[str, ImageContender]) -> None:
    some = [contenders[name] for name in ("ar", "masked", "gaussian")]
    runs = tuple(replace(trained(c, c.path.name), flops=1.0) for c in some)
    assert image_reservations(some, runs, CONFIG) == ()


def test_each_difference_is_a_line(contenders: dict[str, ImageContender]) -> None:
    first, other = contenders["ar"], contenders["told"]
    others = replace(
        other,
        run=replace(other.run, optim=replace(other.run.optim, lr=1e-4)),
        heldout=other.heldout.take(slice(1, None)),
        train=other.train.take(slice(0, 20)),
    )
    runs = (replace(trained(first, "ar"), flops=1.0), replace(trained(others, "told"), flops=2.0))
    found = image_reservations([first, others], runs, CONFIG)
    assert [line.run for line in found] == ["told"] * 5
    assert [line.text for line in found] == [
        "other held-out images: bits per dimension do not compare (beside ar)",
        f"other training images: 20 instead of {len(first.train)} (beside ar)",
        "trained by another recipe: optim.lr (beside ar)",
        "2.00 times the training FLOPs (beside ar)",
        "is told the class of an image, in scoring too: that may be worth 0.0625 bits per dimension, the logarithm of "
        "2 classes",
    ]
    wide = contenders["gaussian"]
    assert isinstance(wide, GaussianContender)
    coarse = replace(wide.opened.model.config, n_heads=1, patches=PatchConfig(size=4, channels=1, height=4, width=4))
    model = type(wide.opened.model)(coarse)
    changed = replace(wide, opened=replace(wide.opened, model=model))
    (line,) = image_reservations([wide, changed], (runs[0], replace(runs[0], run="c")), CONFIG)
    assert line.text.startswith("another network: n_heads, patches.") and line.run == "c"


def test_images_that_are_others_do_not_pair_up(contenders: dict[str, ImageContender]) -> None:
    ar, masked = contenders["ar"], contenders["masked"]
    nats = [ImageNats(kind="exact", nats=(1.0, 2.0), standard_errors=(0.0, 0.0))] * 2
    names = ["ar", "masked"]
    assert image_scores([ar, masked], names, nats, ar, CONFIG)[1].difference is not None
    other = replace(masked, heldout=masked.heldout.take(slice(1, None)))
    finer = replace(masked, heldout=replace(masked.heldout, levels=255)) if _fits(masked.heldout) else other
    for one in (other, finer):
        assert image_scores([ar, one], names, nats, ar, CONFIG)[1].difference is None


def _fits(images: ImageSet) -> bool:
    return int(images.pixels.max()) < 255


@pytest.mark.parametrize("kind", ["ar", "masked", "block", "uniform", "gaussian", "told"])
def test_every_paradigm_draws_by_as_many_evaluations_as_it_says(
    contenders: dict[str, ImageContender], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    contender, config = contenders[kind], replace(CONFIG, pixels_per_step=2)
    frames = list[Frame]()
    for sampler in (AutoregressiveSampler, MaskedDiffusionSampler, UniformDiffusionSampler, GaussianSampler):
        monkeypatch.setattr(sampler, "sample", kept(sampler.sample, frames))
    images = contender.draw(config)
    assert contender.evaluations(config) == len(frames) == {"ar": 16, "block": 9}.get(kind, len(frames))
    assert images.pixels.shape == (5, 1, 4, 4) and images.levels == 256
    assert np.array_equal(contender.draw(config).pixels, images.pixels)
    assert not np.array_equal(contender.draw(replace(config, seed=1)).pixels, images.pixels)


def kept(sample: Callable[..., Iterator[Frame]], frames: list[Frame]) -> Callable[..., Iterator[Frame]]:
    """The same, but that each frame is kept."""

    def keep(*arguments: Any) -> Iterator[Frame]:
        for frame in sample(*arguments):
            frames.append(frame)
            yield frame

    return keep


def test_images_as_text_are_the_images(contenders: dict[str, ImageContender]) -> None:
    for images in (contenders["ar"].heldout, ImageSet(pixels=np.arange(24, dtype=np.uint8).reshape(1, 3, 2, 4))):
        again = packed(images).unpacked()
        assert np.array_equal(again.pixels, images.pixels) and again.levels == images.levels


def wrong() -> Iterator[tuple[dict[str, object], str]]:
    yield {"runs": ("a",)}, "at least two different runs"
    yield {"runs": ("a", "a")}, "at least two different runs"
    yield {"draws": 6}, "draws=6 must be a multiple of 4"
    yield {"images": 1}, "images must be at least 2"
    yield {"dequantizations": 1}, "dequantizations and probes must be at least 2"
    yield {"pixels_per_step": 0}, "at least 1"


@pytest.mark.parametrize(("changes", "message"), list(wrong()))
def test_wrong_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageComparisonConfig(**{"runs": ("a", "b"), **changes})  # type: ignore[arg-type]


def test_a_run_that_holds_out_one_image_is_refused(tmp_path: Path, contenders: dict[str, ImageContender]) -> None:
    import shutil

    from diptych.data.images import save_images

    copy = Path(shutil.copytree(contenders["ar"].path, tmp_path / "copy"))
    shutil.rmtree(copy / "data" / "heldout")
    save_images(contenders["ar"].heldout.take(slice(0, 1)), copy / "data" / "heldout")
    with pytest.raises(ValueError, match="holds out one image, which tells no error"):
        open_image_contender(copy, CPU)
