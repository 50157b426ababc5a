"""The review's diffusion of digits in small: does it show what it says it shows?"""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from diptych.checkpoints.image_model import images_of_run
from diptych.core.config import DataConfig, RunConfig
from diptych.core.events import Event, Message
from diptych.data.images import read_images
from diptych.report import image_diffusion
from diptych.report.image_diffusion import can_learn_images, measure_image_diffusion
from diptych.report.results import ImageDiffusionResult
from diptych.report.review import Review
from diptych.training.distributed import World, choose_device

WORLD = World(0, 1, choose_device("cpu"))


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_digits: Callable[[pytest.MonkeyPatch], Callable[[Path, int], RunConfig]],
) -> tuple[Path, ImageDiffusionResult]:
    with pytest.MonkeyPatch.context() as patch:
        run = tiny_digits(patch)(tmp_path_factory.mktemp("review"), 3)
        return Path(run.out), measure_image_diffusion(run, WORLD, lambda event: None)


def levels(text: str) -> NDArray[np.float64]:
    """The pixels of a picture as numbers from 0 to 1."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
        return np.asarray(picture, np.float64) / 255


def test_the_forward_process_begins_with_real_digits(measured: tuple[Path, ImageDiffusionResult]) -> None:
    folder, result = measured
    _, heldout = images_of_run(folder)
    first, last = result.forward[0], result.forward[-1]
    assert (first.sigma, last.sigma) == (pytest.approx(0.002), pytest.approx(80))
    for picture, noise, pixels in zip(first.images, last.images, heldout.pixels[:3], strict=True):
        # A level v of 17 lies at (v + 1/2) / 17; the picture has 256 of them.
        np.testing.assert_allclose(levels(picture), (pixels[0] + 0.5) / 17, atol=0.01)
        assert abs(np.corrcoef(levels(noise).ravel(), pixels.ravel())[0, 1]) < 0.5


def test_the_backward_process_ends_in_the_digits_that_were_drawn(measured: tuple[Path, ImageDiffusionResult]) -> None:
    _, result = measured
    assert [place.name for place in result.generated] == [str(digit) for digit in range(10)]
    assert {len(place.images) for place in result.generated} == {6}
    assert len(result.backward) == result.evaluations == 4 and result.backward[-1].sigma == 0
    end = result.backward[-1].images
    for digit, state, belief in zip(image_diffusion.FOLLOWED, end[:2], end[2:], strict=True):
        assert state == belief  # the last step goes to the clean image
        drawn = levels(result.generated[digit].images[0])
        assert np.abs(levels(state) - drawn).max() <= 1.01 / 17
        others = [np.abs(levels(state) - levels(one.images[1])).max() for one in result.generated]
        assert min(others) > 0.2


def test_what_was_learnt_from_is_counted(measured: tuple[Path, ImageDiffusionResult]) -> None:
    _, result = measured
    train, heldout = read_images(DataConfig(format="images", source=("digits",), heldout_fraction=0.2))
    assert (result.train_images, result.steps, result.quality.n_images) == (len(train), 9, 60)
    assert len(train) + len(heldout) == 1797
    assert {"FD(clf)", "accuracy", "nearest", "precision", "recall"} <= {one.name for one in result.quality.measures}
    assert (result.bound.kind, result.flow.kind, result.bound.n_images) == ("bound", "exact", 2)


@pytest.mark.parametrize("package", ["sklearn", "PIL"])
def test_without_its_packages_the_sections_are_left_out(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert can_learn_images()
    monkeypatch.setitem(sys.modules, package, None)
    events: list[Event] = []
    review = Review(tmp_path, budget_seconds=1.0, seed=0, command="diptych review", on_event=events.append)
    assert review._image_diffusion(WORLD) is None and not review.stages.seconds
    assert [event.text for event in events if isinstance(event, Message)] == [
        "diffusion of images is left out: it needs pip install 'diptych[images]'"
    ]
