"""Are images as tokens the images, and the bits per dimension of a network over them those of a known distribution?"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from diptych.checkpoints.open import open_model
from diptych.cli.main import main
from diptych.core.config import DataConfig, ObjectiveName, OptimConfig, RunConfig, TrainConfig, TransformerConfig
from diptych.core.events import Evaluated, Event, Started
from diptych.core.random import Rng
from diptych.core.recipe import load_toml, save_toml
from diptych.core.text_diffusion_config import TextDiffusionConfig
from diptych.core.types import Mask
from diptych.data.images import ImageSet, load_images
from diptych.data.pixels import PixelStream, check_pixels, pixel_tokenizer, to_images, to_tokens
from diptych.evaluation.pixel_likelihood import score_pixels
from diptych.evaluation.pixel_samples import LevelPredictor, PixelDrawer
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.nn.masks import Causal
from diptych.objectives.autoregressive import Autoregressive
from diptych.objectives.masked_diffusion import MaskedDiffusion
from diptych.samplers.autoregressive import AutoregressiveSampler
from diptych.samplers.masked_diffusion import MaskedDiffusionSampler
from diptych.tokenizers.load import load_tokenizer
from diptych.tokenizers.simple import CharacterTokenizer
from diptych.training.run import train

from ..exact_text import NEVER, ExactText

EOS = 256

PAIRS = {(0, 0): 1 / 2, (0, 1): 1 / 4, (1, 0): 1 / 8, (1, 1): 1 / 8}
"""Images of two pixels of two levels, and their probabilities."""


class Pairs:
    """A network that knows `PAIRS`: the first pixel's distribution, and the second's given the first."""

    vocab_size = 258
    output_bias = None

    def __init__(self) -> None:
        self.unembedding = torch.eye(self.vocab_size, dtype=torch.float64)

    def __call__(self, x: Tensor, *, mask: Mask, **others: object) -> Tensor:
        return self.states(x, mask=mask)

    def states(self, x: Tensor, *, mask: Mask, **others: object) -> Tensor:
        logits = torch.full((*x.shape, self.vocab_size), NEVER, dtype=torch.float64)
        ones = torch.tensor([1 / 3, 1 / 2, 1 / 4], dtype=torch.float64)[x.clamp(max=2)]  # after 0, after 1, at first
        logits[..., 0], logits[..., 1] = (1 - ones).log(), ones.log()
        return logits

    def new_cache(self, batch_size: int, max_length: int) -> None:
        raise NotImplementedError


def pairs(counts: dict[tuple[int, int], int]) -> ImageSet:
    pixels = [pair for pair, count in counts.items() for _ in range(count)]
    return ImageSet(pixels=np.array(pixels, np.uint8).reshape(-1, 1, 1, 2), levels=2)


def test_bits_per_dimension_are_those_of_a_known_distribution() -> None:
    stream = PixelStream(pairs({pair: int(8 * p) for pair, p in PAIRS.items()}), EOS, shuffle=False)
    batch = stream.batch(0, 8)
    assert batch.x.tolist() == [[EOS, *pair] for pair, p in PAIRS.items() for _ in range(int(8 * p))]
    assert batch.n_bytes == 16 and batch.counted is None and batch.documents is None
    loss = Autoregressive().loss(Pairs(), batch, Rng(0))
    assert loss.count == 16
    # The entropy is 1/2 * 1 + 1/4 * 2 + 1/4 * 3 = 1.75 bits an image of two dimensions.
    assert float(loss.total) / math.log(2) / batch.n_bytes == pytest.approx(0.875, abs=1e-12)
    score = score_pixels(
        lambda some: Autoregressive().likelihood(Pairs(), some, Rng(0)),
        stream,
        device=torch.device("cpu"),
        batch_size=3,
    )
    # Bits an image: 1 four times, 2 twice, 3 twice; their variance is 5.5 / 7.
    assert score.bits_per_dimension == pytest.approx(0.875, abs=1e-12)
    assert score.standard_error == pytest.approx(math.sqrt(5.5 / 7 / 8) / 2, abs=1e-12)
    assert score.kind == "exact" and score.n_images == 8 and score.estimate_error is None


@pytest.mark.parametrize("block_length", [None, 1])
def test_the_bound_of_one_who_knows_the_distribution_is_its_entropy(block_length: int | None) -> None:
    opening, mask = 2, 3
    table = torch.full((3, 3, 3), 1e-30, dtype=torch.float64)
    for pair, p in PAIRS.items():
        table[(opening, *pair)] = p
    objective = MaskedDiffusion(TextDiffusionConfig(block_length=block_length), mask)
    score = score_pixels(
        lambda some: objective.likelihood(ExactText(table, mask), some, Rng(0), draws=64),
        PixelStream(pairs({pair: int(8 * p) for pair, p in PAIRS.items()}), opening, shuffle=False),
        device=torch.device("cpu"),
    )
    if block_length == 1:  # the chain rule, of which nothing is estimated
        assert score.kind == "exact" and score.estimate_error is None
        assert score.bits_per_dimension == pytest.approx(0.875, abs=1e-9)
    else:
        assert score.kind == "bound" and score.estimate_error is not None and score.estimate_error < 0.05
        assert score.bits_per_dimension == pytest.approx(0.875, abs=4 * score.estimate_error + 1e-9)


def test_the_first_images_alone_are_scored() -> None:
    stream = PixelStream(pairs({(1, 1): 2, (0, 0): 5}), EOS, shuffle=False)
    score = score_pixels(
        lambda some: Autoregressive().likelihood(Pairs(), some, Rng(0)), stream, device=torch.device("cpu"), n_images=2
    )
    assert score.bits_per_dimension == pytest.approx(1.5) and score.n_images == 2 and score.standard_error == 0.0
    with pytest.raises(ValueError, match="no image to score"):
        score_pixels(lambda _: pytest.fail(), stream, device=torch.device("cpu"), n_images=0)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    levels=st.integers(2, 256),
    seed=st.integers(0, 99),
)
def test_images_become_tokens_and_images_again(shape: tuple[int, int, int, int], levels: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, levels, shape).astype(np.uint8)
    tokens = to_tokens(pixels, EOS)
    assert tokens.shape == (shape[0], 1 + shape[1] * shape[2] * shape[3]) and (tokens[:, 0] == EOS).all()
    again = to_images(tokens[:, 1:], shape[1:], levels)
    assert again.levels == levels and np.array_equal(again.pixels, pixels)


def test_the_channels_of_a_pixel_stand_side_by_side() -> None:
    red, green = [[1, 2], [3, 4]], [[5, 6], [7, 8]]
    tokens = to_tokens(np.array([[red, green]], np.uint8), EOS)
    assert tokens.tolist() == [[EOS, 1, 5, 2, 6, 3, 7, 4, 8]]


@pytest.mark.parametrize("levels", [2, 17, 256])
def test_a_token_is_a_level(tmp_path: Path, levels: int) -> None:
    tokenizer = pixel_tokenizer(levels)
    tokenizer.save(tmp_path / "tokenizer.json")
    read = load_tokenizer(tmp_path / "tokenizer.json")
    assert read.vocab_size == levels + 2 and read.opening_id == levels == read.special_tokens["<|endoftext|>"]
    assert read.special_tokens["<|mask|>"] == levels + 1
    assert all(read.token_bytes(level) == bytes([level]) for level in range(levels))
    assert read.encode("\x00\x01\x00").tolist() == [0, 1, 0]
    if levels == 17:
        with pytest.raises(ValueError, match="byte 18 of the text is none of the 17 levels"):
            read.encode("\x01\x12")
    with pytest.raises(ValueError, match="2 to 256 levels, not 257"):
        pixel_tokenizer(257)


def test_every_image_comes_once_an_epoch() -> None:
    images = ImageSet(pixels=np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1), levels=12)
    stream = PixelStream(images, EOS, seed=1)
    epoch = [stream.batch(step, 4) for step in range(3)]
    assert sorted(int(x) for batch in epoch for x in batch.x[:, 1]) == list(range(12))
    whole, parts = stream.batch(4, 4), [stream.batch(4, 4, rank, 2) for rank in range(2)]
    assert torch.equal(whole.x, torch.cat([part.x for part in parts]))
    assert torch.equal(whole.sample_ids, whole.x[:, 1]) and sum(part.n_bytes for part in parts) == whole.n_bytes == 4


def test_what_does_not_fit_is_refused() -> None:
    images = ImageSet(pixels=np.zeros((2, 3, 2, 4), np.uint8), levels=256)
    check_pixels(DataConfig(sequence_length=24), images, pixel_tokenizer(256))
    with pytest.raises(ValueError, match=r"2 x 4 pixels of 3 channels, 24 numbers each.*set data.sequence_length = 24"):
        check_pixels(DataConfig(sequence_length=8), images, pixel_tokenizer(256))
    letters = CharacterTokenizer("abc", ("<|mask|>",))
    letters.pieces[0] = b"x"
    with pytest.raises(ValueError, match="token v of the tokenizer does not stand for level v of 0 to 255"):
        check_pixels(DataConfig(sequence_length=24), images, letters)
    with pytest.raises(ValueError, match="has 24 numbers, but the tokens have shape \\(1, 8\\)"):
        to_images(np.zeros((1, 8), np.int64), (3, 2, 4), 256)
    with pytest.raises(ValueError, match="token 2 is none of the 2 levels"):
        to_images(np.array([[0, 2]]), (1, 1, 2), 2)


def small_model(seed: int = 0) -> LanguageModel:
    config = TransformerConfig(vocab_size=258, d_model=16, n_layers=1, n_heads=2, max_length=9, position="learned")
    model = LanguageModel(config)
    initialize(model, torch.Generator().manual_seed(seed))
    return model.eval()


def test_only_levels_have_a_probability() -> None:
    model = small_model()
    x = torch.tensor([[EOS, 0, 2, 1]])
    with torch.inference_mode():
        levels = LevelPredictor(model, 3)(x, mask=Causal()).softmax(-1)
        expected = model(x, mask=Causal())[..., :3].softmax(-1)
    torch.testing.assert_close(levels[..., :3], expected)
    assert bool((levels[..., 3:] == 0).all())


@pytest.mark.parametrize("sampler", [AutoregressiveSampler(), MaskedDiffusionSampler(unmask="random", steps=3)])
def test_images_are_drawn_whatever_the_batch(sampler: AutoregressiveSampler | MaskedDiffusionSampler) -> None:
    drawer = PixelDrawer(
        model=small_model(), sampler=sampler, shape=(2, 1, 4), levels=3, opening_id=EOS, mask_id=EOS + 1
    )
    images = drawer.draw(7, Rng(0))
    assert images.pixels.shape == (7, 2, 1, 4) and images.levels == 3 and set(np.unique(images.pixels)) == {0, 1, 2}
    assert np.array_equal(drawer.draw(7, Rng(0), batch_size=3).pixels, images.pixels)
    with pytest.raises(ValueError, match="ask for at least 1"):
        drawer.draw(0, Rng(0))


def recipe(folder: Path, objective: ObjectiveName) -> RunConfig:
    """Images of 2 x 2 pixels, each of which is one level all over."""
    generator = np.random.default_rng(0)
    pixels = np.repeat(generator.integers(0, 256, (200, 1, 1, 1)), 4, 1).reshape(200, 2, 2, 1).astype(np.uint8)
    np.savez(folder / "images.npz", image=pixels)
    return RunConfig(
        out=str(folder / "run"),
        objective=objective,
        model=TransformerConfig(d_model=16, n_layers=1, n_heads=2, max_length=5, position="learned"),
        data=DataConfig(format="pixels", source=(str(folder / "images.npz"),), heldout_fraction=0.3, sequence_length=4),
        optim=OptimConfig(lr=1e-2, warmup_steps=2),
        train=TrainConfig(steps=6, batch_size=8, eval_every=0, eval_sequences=10**6, compile="off", dtype="float32"),
    )


@pytest.mark.parametrize("objective", ["autoregressive", "masked_diffusion", "uniform_diffusion"])
def test_a_run_is_trained_scored_and_drawn_from(
    tmp_path: Path, objective: ObjectiveName, capsys: pytest.CaptureFixture[str]
) -> None:
    run, events = recipe(tmp_path, objective), list[Event]()
    assert train(run, events.append)
    assert [event.unit for event in events if isinstance(event, Started)] == ["dimension"]
    (evaluated,) = [event for event in events if isinstance(event, Evaluated)]
    assert evaluated.bits_per_byte == pytest.approx(evaluated.loss / math.log(2))
    assert main(["evaluate", run.out, "--json", "--device", "cpu"]) == 0
    score = json.loads(capsys.readouterr().out)
    heldout = load_images(Path(run.out) / "data" / "heldout")
    assert score["n_images"] == len(heldout) > 30
    if objective == "autoregressive":
        opened = open_model(Path(run.out))
        x = torch.from_numpy(to_tokens(heldout.pixels, EOS))
        with torch.inference_mode():
            log_p = opened.model(x[:, :-1], mask=Causal()).log_softmax(-1).gather(2, x[:, 1:, None])
        assert score["kind"] == "exact"
        assert score["bits_per_dimension"] == pytest.approx(-float(log_p.mean()) / math.log(2), rel=1e-5)
        assert score["bits_per_dimension"] == pytest.approx(evaluated.bits_per_byte, rel=1e-5)
    else:
        # The trainer's is an estimate of the same bound by one draw instead of eight.
        assert score["kind"] == "bound" and score["estimate_error"] > 0
        difference = abs(score["bits_per_dimension"] - evaluated.bits_per_byte)
        assert difference < 4 * math.sqrt(1 + 8) * score["estimate_error"]
    picture = tmp_path / "drawn.png"
    assert main(["generate", run.out, "--samples", "4", "--out", str(picture), "--device", "cpu"]) == 0
    with Image.open(picture) as image:
        assert image.size[0] > 2
    assert main(["evaluate", run.out]) == 0
    text = capsys.readouterr().out
    assert "bits per dimension" in text and ("at most" in text) == (objective != "autoregressive")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "masked_lm"}, "masked words are learnt from running text"),
        ({"data.sequence_length": 3}, "set data.sequence_length = 4"),
        ({"tokenizer.kind": "byte"}, "brings a tokenizer of its own levels; leave [tokenizer] out"),
        ({"data.source": "nowhere"}, "there is no file or folder nowhere"),
        ({"objective": "gaussian"}, "data.format = 'images'"),
    ],
)
def test_wrong_recipes_are_refused_in_one_line(
    tmp_path: Path, change: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_toml(recipe(tmp_path, "autoregressive"), tmp_path / "recipe.toml")
    arguments = [str(part) for name, value in change.items() for part in (f"--{name}", value)]
    assert main(["train", str(tmp_path / "recipe.toml"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("diptych: ") and error.count("\n") == 1


def test_options_of_another_paradigm_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = recipe(tmp_path, "autoregressive")
    assert train(replace(run, train=replace(run.train, steps=1)))
    for arguments, message in (
        (["--steps", "4"], "draws number by number"),
        (["--unmask", "confidence"], "this is autoregressive"),
        (["--samples", "0"], "must be at least 1"),
        (["--out", "a.gif"], "must end in .png"),
    ):
        capsys.readouterr()
        assert main(["generate", run.out, *arguments]) == 2
        assert message in capsys.readouterr().err


def test_the_recipes_share_network_data_and_training() -> None:
    folder = Path(__file__).parents[2] / "recipes"
    one, other = (load_toml(RunConfig, folder / f"pixels-{name}.toml") for name in ("autoregressive", "masked"))
    assert one == replace(other, out=one.out, objective="autoregressive")
    assert other.objective == "masked_diffusion" and other.text_diffusion == TextDiffusionConfig()
    gaussian = load_toml(RunConfig, folder / "digits.toml")
    assert replace(gaussian.model, patches=None, max_length=65) == one.model
    assert (gaussian.data.source, gaussian.data.heldout_fraction) == (one.data.source, one.data.heldout_fraction)
