"""Images as one picture and as an animation, read back by Pillow."""

from __future__ import annotations

import base64
import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diptych.data.images import ImageSet
from diptych.report.images import BACKGROUND, encoded, grid, save_animation, save_grid


def images(n: int, channels: int = 1, levels: int = 17, seed: int = 0) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, levels, (n, channels, 4, 3))
    return ImageSet(pixels=pixels.astype(np.uint8), levels=levels)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pixel_is_a_square_at_its_place(channels: int) -> None:
    some = images(5, channels)
    canvas = grid(some, columns=3)
    height, width, _ = canvas.shape
    scale = next(side for side in range(1, 99) if 2 * 4 * side + 3 * (side // 2) == height)
    gap = scale // 2
    assert width == 3 * 3 * scale + 4 * gap and max(height, width) > 300
    for index in range(5):
        top = gap + index // 3 * (4 * scale + gap)
        left = gap + index % 3 * (3 * scale + gap)
        square = canvas[top : top + 4 * scale, left : left + 3 * scale]
        for y in range(4):
            for x in range(3):
                cell = square[y * scale : (y + 1) * scale, x * scale : (x + 1) * scale].reshape(-1, 3)
                expected = np.rint(some.pixels[index, :, y, x] * (255 / 16)).astype(np.uint8)
                assert (cell == (expected if channels == 3 else expected.repeat(3))).all()
    assert (canvas[:gap] == BACKGROUND).all() and (canvas[-4 * scale :, -3 * scale :] == BACKGROUND).all()  # none left
    with pytest.raises(ValueError, match="at least 1"):
        grid(some, columns=0)


def test_a_picture_reads_back_and_its_bytes_are_the_same(tmp_path: Path) -> None:
    some = images(7, 3, 256)
    for name in ("a.png", "b.png"):
        save_grid(some, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert (np.asarray(picture) == grid(some)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_in_a_page_has_the_pixels_as_they_are(channels: int) -> None:
    some = images(2, channels, 256)
    for text, pixels in zip(encoded(some), some.pixels, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True))) as picture:
            assert picture.format == "PNG"
            assert (np.asarray(picture).reshape(4, 3, channels).transpose(2, 0, 1) == pixels).all()


@pytest.mark.parametrize("suffix", ["gif", "apng"])
def test_an_animation_has_all_frames_and_holds_the_last(tmp_path: Path, suffix: str) -> None:
    frames = [images(4, seed=seed) for seed in range(3)]
    for name in ("a", "b"):
        save_animation(frames, tmp_path / f"{name}.{suffix}", milliseconds=120, hold=2000)
    path = tmp_path / f"a.{suffix}"
    assert path.read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    with Image.open(path) as animation:
        durations = []
        for index, frame in enumerate(frames):
            animation.seek(index)
            assert (np.asarray(animation.convert("RGB")) == grid(frame)).all()  # 17 greys need no rounding in a GIF
            durations.append(animation.info["duration"])
        assert animation.n_frames == 3 and durations == [120, 120, 2000] and animation.info["loop"] == 0


def test_what_cannot_be_animated_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"end in \.gif"):
        save_animation([images(1)], tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="at least one frame"):
        save_animation([], tmp_path / "a.gif")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"diptych\[images\]"):
        save_grid(images(1), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
