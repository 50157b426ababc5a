"""`diptych diffusion show | average` and `diptych generate` of a run that makes images, as a user calls them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from diptych.checkpoints.image_model import open_image_model
from diptych.checkpoints.run_folder import load_recipe, save_weights
from diptych.checkpoints.weights import load_tensors
from diptych.cli.main import main
from diptych.core.config import RunConfig, TransformerConfig
from diptych.core.diffusion_config import DiffusionConfig
from diptych.core.recipe import save_toml
from diptych.data.images import load_images
from diptych.diffusion.schedules import build_schedule
from diptych.models.network import build_network
from diptych.report.diffusion import SCHEDULES, forward_figure, level_loss, loss_figure, schedule_figure
from diptych.training.run import train

from ..image_runs import tiny_image_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that learnt for a second to tell upper halves from left ones."""
    folder = tmp_path_factory.mktemp("images")
    out = folder / "run"
    recipe = tiny_image_run(folder, out, count=120, heldout=0.3, lr=1e-2)
    longer = {"steps": 200, "batch_size": 32, "eval_every": 0, "eval_sequences": 16, "save_every": 20}
    assert train(dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **longer)))
    return out


def refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("diptych: ") and error.count("\n") == 1


def test_images_are_drawn_and_animated(run: Path, tmp_path: Path) -> None:
    assert main(["generate", str(run), "--samples", "6", "--steps", "5", "--device", "cpu"]) == 0
    with Image.open(run / "samples" / "seed-0.png") as picture, Image.open(run / "samples" / "seed-0.gif") as animation:
        # Both show the same images in the end.
        animation.seek(animation.n_frames - 1)
        difference = np.asarray(picture, int) - np.asarray(animation.convert("RGB"), int)
        assert animation.n_frames == 5 and np.abs(difference).max() <= 16  # a GIF has 256 colours
    drawn = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    for path, seed in zip(drawn, ("1", "1", "2"), strict=True):
        arguments = ["--samples", "4", "--steps", "4", "--seed", seed, "--out", str(path)]
        assert main(["generate", str(run), "--device", "cpu", *arguments]) == 0
    assert drawn[0].read_bytes() == drawn[1].read_bytes() != drawn[2].read_bytes()


def test_classes_are_drawn_as_asked_and_guidance_sharpens_them(run: Path, tmp_path: Path) -> None:
    def brightness(*arguments: str) -> tuple[float, float]:
        """Upper right and lower left quarter of what is drawn of one class."""
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.png"
        shown = ["--classes", "0", "--samples", "1", "--steps", "8", "--out", str(out)]
        assert main(["generate", str(run), "--device", "cpu", *shown, *arguments]) == 0
        with Image.open(out) as picture:
            cells = np.asarray(picture.convert("L"), float)
        half = len(cells) // 2
        return float(cells[:half, half:].mean()), float(cells[half:, :half].mean())

    for arguments in ((), ("--guidance", "2"), ("--guidance", "2", "--guidance-interval", "0.1", "5")):
        upper, lower = brightness(*arguments)
        assert upper > lower + 60
    assert brightness("--guidance", "2", "--guide", str(run)) == brightness()  # its own equal guides nowhere


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--classes", "00"], "unknown class 00; did you mean 0?"),
        (["--solver", "rk4"], "no solver 'rk4'"),
        (["--samples", "0"], "at least 1"),
        (["--steps", "0"], "steps=0 must be at least 1"),
        (["--guidance", "nan"], "guidance weight=nan"),
        (["--out", "a.jpg"], "must end in .png"),
        (["--animation", "a.mp4"], "must end in .gif"),
        (["--guidance-interval", "0", "1"], "does not guide"),
        (["--guide", "nowhere", "--guidance", "2"], "nowhere"),
    ],
)
def test_wrong_options_are_refused(
    run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    refused(["generate", str(run), *arguments], message, capsys)


def test_an_average_of_another_length_is_a_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "longer"
    assert main(["diffusion", "average", str(run), "--length", "0.2", "--out", str(out)]) == 0
    stored = load_tensors(run / "averages" / "step-00000200.safetensors")
    for name, parameter in open_image_model(out).model.named_parameters():
        torch.testing.assert_close(parameter.detach(), stored[f"0.2/{name}"], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(parameter, stored[f"0.1/{name}"], rtol=1e-5, atol=1e-6)
    assert main(["generate", str(out), "--samples", "2", "--steps", "3", "--device", "cpu"]) == 0
    assert load_recipe(out) == dataclasses.replace(load_recipe(run), out=str(out))
    capsys.readouterr()
    refused(["diffusion", "average", str(run), "--length", "0.2", "--out", str(out)], "exists already", capsys)
    elsewhere = ["--out", str(tmp_path / "other")]
    refused(["diffusion", "average", str(run), "--length", "2", *elsewhere], "choose one above 0", capsys)
    refused(["diffusion", "average", str(out), "--length", "0.2", *elsewhere], "no snapshots", capsys)
    assert not (tmp_path / "other").exists()


def test_info_says_what_a_run_of_images_is(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(run), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    stored = load_tensors(run / "model.safetensors")
    assert record["parameters"]["total"] == sum(tensor.numel() for tensor in stored.values())
    assert record["memory_bytes"] == 4 * record["parameters"]["total"]
    assert record["image"] == {"channels": 1, "height": 4, "width": 4, "classes": ["0", "1"]}
    assert record["patches"] == {"size": 2, "rows": 2, "columns": 2}
    assert record["diffusion"]["schedule"] == "edm"
    training = record["training"]
    assert training["counters"]["step"] == 200 and training["states"] == [180, 200]
    assert training["averages"] == {"0.1": list(range(20, 201, 20)), "0.2": list(range(20, 201, 20))}
    opened = open_image_model(run)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        opened.denoiser(torch.zeros(8, dtype=torch.int64))(torch.zeros(8, 1, 4, 4), torch.ones(8))
    assert 8 * record["forward_flops_per_image"] == pytest.approx(counter.get_total_flops(), rel=1e-3)

    assert main(["info", str(run)]) == 0
    text = capsys.readouterr().out
    for said in (
        "images of 4 x 4 pixels of 1 channel, 2 classes (0, 1)",
        "2 x 2 patches of 2 x 2 pixels",
        "schedule edm, parameterization edm, weighting simple",
        "trained 200 of 200 steps",
        "average of relative width 0.1 kept 10 times, from step 20 to 200",
    ):
        assert said in text
    assert not any(word in text for word in ("vocabulary", "token", "cache"))
    refused(["info", str(run), "--context", "8"], "an image here has 4 patches", capsys)


def test_a_run_of_text_draws_no_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TransformerConfig(vocab_size=8, d_model=8, n_layers=1, n_heads=1)
    out = tmp_path / "text"
    out.mkdir()
    save_toml(RunConfig(out=str(out), model=config), out / "recipe.toml")
    save_weights(dict(build_network(config).state_dict()), config, out)
    for arguments in (["show", str(out)], ["average", str(out), "--length", "0.1", "--out", str(tmp_path / "new")]):
        message = "makes no images" if arguments[0] == "show" else "no snapshots of averages"
        refused(["diffusion", *arguments], message, capsys)
    assert not (tmp_path / "new").exists()


def test_info_needs_neither_images_nor_states(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "recipe.toml", "model.safetensors"):
        (bare / name).write_bytes((run / name).read_bytes())
    assert main(["info", str(bare), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["training"] is None and record["image"]["classes"] == ["0", "1"]
    (bare / "state" / "step-00000003").mkdir(parents=True)
    for text in ("[1]", "{", '{"counters": {"stride": 3}}'):
        (bare / "state" / "step-00000003" / "state.json").write_text(text)
        refused(["info", str(bare)], "step-00000003/state.json is damaged", capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ["chat"],
        ["fill", "--text", "a <|mask|> b"],
        ["translate", "--text", "a"],
        ["export", "--out", "exported"],
        ["attention", "map", "a text"],
    ],
)
def test_commands_for_text_refuse_a_run_of_images(
    run: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    at = 2 if arguments[0] == "attention" else 1
    refused([*arguments[:at], str(run), *arguments[at:]], "makes images and knows no text", capsys)


@pytest.mark.parametrize(
    "arguments",
    [["encode", "--text", "a"], ["decode", "1"], ["show", "--text", "a"], ["compare", "--text", "a"]],
)
def test_a_run_of_images_has_no_tokenizer(run: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    refused(["tokenizer", arguments[0], str(run), *arguments[1:]], "there is no tokenizer in", capsys)


def test_the_process_is_shown_with_and_without_a_run(run: Path, tmp_path: Path) -> None:
    assert main(["diffusion", "show", "--out", str(tmp_path / "plain")]) == 0
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == ["forward.png", "schedules.png"]
    for name in ("a", "b"):
        assert main(["diffusion", "show", str(run), "--out", str(tmp_path / name)]) == 0
    for name in ("forward", "schedules", "loss"):
        first, second = ((tmp_path / folder / f"{name}.png").read_bytes() for folder in "ab")
        assert first == second and first.startswith(b"\x89PNG")


def test_losses_by_noise_level_keep_their_order(run: Path) -> None:
    """What no denoiser can be: better than the exact one. At high noise each tells the mean, whose error is the
    variance; at low noise the exact one knows its own images and no others."""
    opened, train_set, heldout = (
        open_image_model(run),
        load_images(run / "data/train"),
        load_images(run / "data/heldout"),
    )
    loss = level_loss(opened, train_set, heldout, levels=7)
    assert loss.sigmas[0] == pytest.approx(0.005) and loss.sigmas[-1] == pytest.approx(80)
    variance = float((heldout.floats().double() - train_set.floats().double().mean(0)).square().mean())
    assert loss.linear[-1] == pytest.approx(variance, rel=0.02) == pytest.approx(loss.memory[-1], rel=0.02)
    assert loss.floor[0] < 1e-12 < loss.memory[0] and loss.network[0] < loss.memory[0]
    assert loss.linear[0] == pytest.approx(loss.sigmas[0] ** 2, rel=0.1)  # nothing to gain, so the noise stays
    # The network, told the class, may be better than a denoiser that is not.
    assert all(value < 2 * variance for value in loss.network)
    figure = loss_figure(loss)
    labels = [
        text.get_text() for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis) for text in axis.get_ticklabels()
    ]
    assert labels and not any("$" in text for text in labels)


def test_figures_show_what_they_say() -> None:
    figure = schedule_figure()
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines[: len(SCHEDULES)]] == list(SCHEDULES)
    time, snr = (np.asarray(values) for values in lines[3].get_data())  # the straight path: sigma = t / (1 - t)
    np.testing.assert_allclose(snr, 2 * np.log((1 - time) / time), atol=1e-9)


def test_the_forward_process_begins_with_images_and_ends_in_noise(run: Path) -> None:
    images = load_images(run / "data" / "train")
    config = DiffusionConfig(schedule="cosine")
    cells = forward_figure(images, config).axes
    first = np.asarray(cells[0].get_images()[0].get_array())
    np.testing.assert_allclose(first, (images.floats()[0, 0].numpy() + 1) / 2, atol=0.01)
    sigmas = [float(cell.get_title()) for cell in cells[:9]]
    schedule = build_schedule(config)
    ends = schedule.time(torch.tensor([config.sigma_min, config.sigma_max], dtype=torch.float64).log())
    middle = float(schedule.log_sigma(ends.mean()).exp())
    assert sigmas[0] == 0.002 and sigmas[-1] == 80 and sigmas[4] == pytest.approx(middle, rel=0.05)
