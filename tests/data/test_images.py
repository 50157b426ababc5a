"""Every source gives the images that it holds, the split keeps copies together, and wrong input is refused."""

from __future__ import annotations

import dataclasses
import gzip
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diptych.core.config import DataConfig
from diptych.core.diffusion_config import ImageConfig
from diptych.core.events import Event, Message
from diptych.data import image_sources
from diptych.data.image_sources import read_source
from diptych.data.images import (
    ImageSet,
    ImageStream,
    has_images,
    load_images,
    read_images,
    save_images,
    to_floats,
    to_levels,
)

Image = pytest.importorskip("PIL.Image")


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def config(*source: Path | str, **changes: object) -> DataConfig:
    return dataclasses.replace(DataConfig(source=tuple(map(str, source)), format="images"), **changes)


def picture(path: Path, pixels: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_levels_lie_at_the_centres_of_equal_intervals_and_come_back(levels: int) -> None:
    pixels = torch.arange(levels, dtype=torch.uint8)
    x = to_floats(pixels, levels)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x[0], torch.tensor(1 / levels - 1))
    torch.testing.assert_close(x.diff(), torch.full((levels - 1,), 2 / levels))
    assert torch.equal(to_levels(x, levels), pixels)
    assert torch.equal(to_levels(x + 0.98 / levels, levels), pixels)
    assert torch.equal(to_levels(x - 0.98 / levels, levels), pixels)
    assert to_levels(torch.tensor([-9.0, -1.0, 1.0, 9.0]), levels).tolist() == [0, 0, levels - 1, levels - 1]


def test_the_digits_are_those_of_scikit_learn_and_both_sides_hold_each_once() -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    train, heldout = read_images(config("digits", heldout_fraction=0.2))
    want = sklearn.load_digits()
    assert train.levels == 17 and train.shape == (1, 8, 8) and train.classes == tuple("0123456789")
    both = np.concatenate([train.pixels, heldout.pixels]).reshape(-1, 64)
    labels = np.concatenate([train.labels, heldout.labels])
    found = sorted((row.tobytes(), int(label)) for row, label in zip(both, labels, strict=True))
    assert found == sorted(
        (row.astype(np.uint8).tobytes(), int(label)) for row, label in zip(want.data, want.target, strict=True)
    )
    assert 0.15 < len(heldout) / 1797 < 0.25


def test_more_data_moves_no_image_and_copies_stand_on_one_side(tmp_path: Path) -> None:
    few, many = noise(200, 4, 4), noise(300, 4, 4, seed=1)
    np.save(tmp_path / "few.npy", few)
    np.save(tmp_path / "many.npy", np.concatenate([many, few, few]))
    train, heldout = read_images(config(tmp_path / "few.npy", heldout_fraction=0.3))
    train_2, heldout_2 = read_images(config(tmp_path / "many.npy", heldout_fraction=0.3))

    def keys(images: ImageSet) -> set[bytes]:
        return {image.tobytes() for image in images.pixels}

    assert len(train) + len(heldout) == 200 and len(train_2) + len(heldout_2) == 700
    assert keys(train) <= keys(train_2) and keys(heldout) <= keys(heldout_2)
    assert not keys(train_2) & keys(heldout_2)
    assert 0.2 < len(heldout) / 200 < 0.4


def idx(path: Path, array: NDArray[np.uint8]) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


def test_fashion_keeps_its_own_test_images_and_drops_their_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_sources, "FASHION", tmp_path)
    train, test = noise(30, 5, 5), noise(6, 5, 5, seed=1)
    train[7] = test[2]
    for part, images in (("train", train), ("t10k", test)):
        idx(tmp_path / f"{part}-images-idx3-ubyte.gz", images)
        idx(tmp_path / f"{part}-labels-idx1-ubyte.gz", np.arange(len(images), dtype=np.uint8) % 10)
    events: list[Event] = []
    found, heldout = read_images(config("fashion"), events.append)
    np.testing.assert_array_equal(found.pixels[:, 0], np.delete(train, 7, 0))
    np.testing.assert_array_equal(heldout.pixels[:, 0], test)
    assert found.labels is not None and found.labels.tolist() == [i % 10 for i in range(30) if i != 7]
    assert found.classes[9] == "Ankle boot"
    assert any(isinstance(e, Message) and "1 training images are copies" in e.text for e in events)
    labels = tmp_path / "t10k-labels-idx1-ubyte.gz"
    idx(labels, np.zeros((2, 2), np.uint8))
    with pytest.raises(ValueError, match="no idx file"):
        read_images(config("fashion"))
    labels.write_bytes(labels.read_bytes()[:-9])
    with pytest.raises(ValueError, match="damaged gzip"):
        read_images(config("fashion"))
    labels.unlink()
    with pytest.raises(FileNotFoundError, match="install"):
        read_images(config("fashion"))


@pytest.mark.parametrize(("name", "package"), [("fashion", "dataset-fashion-mnist"), ("emoji", "noto-color-emoji")])
def test_a_missing_package_is_named(name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_sources, name.upper(), tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=package):
        read_source(name, ImageConfig())


def test_emoji_are_small_coloured_and_different() -> None:
    if not image_sources.EMOJI.is_file():
        pytest.skip("the font of emoji is not installed")
    images = read_source("emoji", ImageConfig(size=16)).images
    assert images.shape == (3, 16, 16) and len(images) > 3000
    assert len(np.unique(images.pixels.reshape(len(images), -1), axis=0)) == len(images)
    assert images.pixels[:, :, 0, 0].mean() > 240  # corners are white


def test_a_damaged_font_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_sources, "EMOJI", tmp_path / "font.ttf")
    (tmp_path / "font.ttf").write_bytes(b"no font at all")
    with pytest.raises(ValueError, match="no bitmaps"):
        read_source("emoji", ImageConfig())


@pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "gif"])
def test_a_folder_gives_pictures_whose_folders_are_classes(suffix: str, tmp_path: Path) -> None:
    grey = noise(6, 5, 5) // 64 * 64  # few colours: a GIF keeps them
    for i, pixels in enumerate(grey):
        path = tmp_path / ("cat", "dog")[i % 2] / "deeper" / f"{i}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == "webp" else {}))
    images = read_source(str(tmp_path), ImageConfig(channels=1)).images
    np.testing.assert_array_equal(images.pixels[:, 0], grey[[0, 2, 4, 1, 3, 5]])
    assert images.classes == ("cat", "dog") and images.labels is not None
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_colours_lie_on_white_and_one_coloured_picture_makes_all_three_channels(tmp_path: Path) -> None:
    red = np.zeros((2, 2, 4), np.uint8)
    red[0, 0] = (255, 0, 0, 255)
    picture(tmp_path / "a.png", red)
    picture(tmp_path / "b.png", np.full((2, 2), 7, np.uint8))
    images = read_source(str(tmp_path), ImageConfig()).images
    assert images.labels is None and images.classes == ()
    assert images.pixels[0, :, 0, 0].tolist() == [255, 0, 0] and images.pixels[0, :, 1, 1].tolist() == [255] * 3
    assert (images.pixels[1] == 7).all()
    grey = read_source(str(tmp_path), ImageConfig(channels=1)).images
    assert grey.pixels[0, 0, 0, 0] == round(0.299 * 255)


def test_sixteen_bits_become_eight(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257], [25700, 65535]], np.uint16)).save(tmp_path / "a.png")
    images = read_source(str(tmp_path), ImageConfig()).images
    assert images.pixels.flatten().tolist() == [0, 1, 100, 255]


def test_the_middle_square_is_averaged_over_areas(tmp_path: Path) -> None:
    pixels = noise(4, 8)
    picture(tmp_path / "a.png", pixels)
    images = read_source(str(tmp_path), ImageConfig(size=2)).images
    want = pixels[:, 2:6].reshape(2, 2, 2, 2).mean((1, 3))
    assert np.abs(images.pixels[0, 0] - want).max() <= 1.0  # rounded along rows, then along columns


def test_resizing_keeps_the_levels_of_digits() -> None:
    pytest.importorskip("sklearn")
    images = read_source("digits", ImageConfig(size=12)).images
    assert images.levels == 17 and images.shape == (1, 12, 12) and images.pixels.max() <= 16


def test_broken_pictures_are_counted_and_bombs_refused(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png", noise(4, 4))
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:40])
    (tmp_path / "text.jpg").write_text("no picture")
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + b"0000")
    (tmp_path / "notes.txt").write_text("left alone")
    events: list[Event] = []
    images = read_source(str(tmp_path), ImageConfig(), events.append).images
    assert len(images) == 1
    assert [e.level for e in events if isinstance(e, Message) and "3 files such as bomb.png" in e.text] == ["warning"]
    good.unlink()
    with pytest.raises(ValueError, match="holds no picture"):
        read_source(str(tmp_path), ImageConfig())


def test_folders_that_make_no_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no picture"):
        read_source(str(tmp_path), ImageConfig())
    picture(tmp_path / "a" / "1.png", noise(4, 4))
    picture(tmp_path / "b" / "2.png", noise(5, 4))
    with pytest.raises(ValueError, match=r"1\.png is 4 x 4, .*2\.png is 5 x 4; set data\.images\.size"):
        read_source(str(tmp_path), ImageConfig())
    assert read_source(str(tmp_path), ImageConfig(size=3)).images.shape == (1, 3, 3)
    picture(tmp_path / "3.png", noise(4, 4))
    with pytest.raises(ValueError, match="lies beside the folders"):
        read_source(str(tmp_path), ImageConfig(size=3))
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        read_source(str(tmp_path / "none"), ImageConfig())


def test_arrays_with_and_without_channels_and_labels(tmp_path: Path) -> None:
    grey, colour = noise(5, 3, 4), noise(5, 3, 4, 3)
    np.save(tmp_path / "grey.npy", grey)
    images = read_source(str(tmp_path / "grey.npy"), ImageConfig()).images
    np.testing.assert_array_equal(images.pixels, grey[:, None])
    assert images.labels is None
    np.savez(tmp_path / "colour.npz", image=colour, label=np.array([0, 2, 1, 2, 0]))
    images = read_source(str(tmp_path / "colour.npz"), ImageConfig()).images
    np.testing.assert_array_equal(images.pixels, colour.transpose(0, 3, 1, 2))
    assert images.labels is not None and images.labels.tolist() == [0, 2, 1, 2, 0]
    assert images.classes == ("0", "1", "2")
    np.savez_compressed(tmp_path / "words.npz", x=grey, y=np.array(["b", "a", "b", "c", "a"]))
    images = read_source(str(tmp_path / "words.npz"), ImageConfig(image_field="x", label_field="y")).images
    assert images.labels is not None and images.labels.tolist() == [1, 0, 1, 2, 0]
    assert images.classes == ("a", "b", "c")


class Hostile:
    """A pickle that would write a file where it was opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_pickled_objects_are_never_opened(tmp_path: Path) -> None:
    objects = np.array([Hostile(tmp_path / "owned")], dtype=object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", image=objects)
    np.savez(tmp_path / "b.npz", image=noise(1, 2, 2), label=objects)
    (tmp_path / "c.npy").write_bytes(b"\x80\x04N.")
    for name in ("a.npy", "a.npz", "b.npz", "c.npy"):
        with pytest.raises(ValueError, match="pickled objects, which are never opened"):
            read_source(str(tmp_path / name), ImageConfig())
    assert not (tmp_path / "owned").exists()


def test_arrays_that_are_no_images_are_refused(tmp_path: Path) -> None:
    def refused(match: str, array: object = None, config: ImageConfig | None = None, **arrays: object) -> None:
        path = tmp_path / ("x.npz" if arrays else "x.npy")
        np.savez(path, **arrays) if arrays else np.save(path, array)
        with pytest.raises(ValueError, match=match) as error:
            read_source(str(path), config or ImageConfig())
        assert "\n" not in str(error.value)

    good = noise(4, 3, 3)
    refused("dtype uint8", good.astype(np.float32))
    refused("dtype uint8", good > 9)
    refused("channels last", noise(4, 3, 8, 8))
    refused("channels last", noise(4, 3))
    refused("no images", noise(0, 3, 3))
    refused("set data.images.image_field to one of: images", images=good)
    refused("set data.images.label_field to one of: label", None, ImageConfig(label_field="class"), image=good, label=1)
    refused("labels of shape", image=good, label=np.arange(3))
    refused("count classes from 0", image=good, label=np.array([0, -1, 0, 0]))
    refused("count classes from 0", image=good, label=np.array([0, 2**40, 0, 0]))
    refused("whole numbers or words", image=good, label=np.zeros(4))


def test_damaged_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", noise(9, 9, 9))
    np.savez(tmp_path / "a.npz", image=noise(9, 9, 9))
    for name in ("a.npy", "a.npz"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:300])
        with pytest.raises(ValueError, match="that can be read"):
            read_source(str(path), ImageConfig())
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 1000000, 1000), }\n"
        archive.writestr("image.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head)
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "b.npy", noise(9, 9, 9))
    (tmp_path / "b.npy").rename(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="one array and no archive"):
        read_source(str(tmp_path / "b.npz"), ImageConfig())
    for name in ("huge.npz", "empty.npy"):
        with pytest.raises(ValueError, match="that can be read"):
            read_source(str(tmp_path / name), ImageConfig())
    (tmp_path / "a.csv").write_text("1,2")
    with pytest.raises(ValueError, match="neither a folder"):
        read_source(str(tmp_path / "a.csv"), ImageConfig())


def test_a_saved_data_set_gives_its_images_and_labels(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pixels = noise(5, 4, 4)
    rows = {"image": [Image.fromarray(p) for p in pixels], "label": [1, 0, 1, 0, 2]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    images = read_source(f"hf:{tmp_path / 'set'}", ImageConfig()).images
    np.testing.assert_array_equal(images.pixels[:, 0], pixels)
    assert images.labels is not None and images.labels.tolist() == [1, 0, 1, 0, 2]
    files = [(tmp_path / f"{i}.png") for i in range(5)]
    encoded = [{"bytes": picture(f, p).read_bytes(), "path": None} for f, p in zip(files, pixels, strict=True)]
    datasets.Dataset.from_dict({"picture": encoded}).save_to_disk(str(tmp_path / "raw"))
    images = read_source(f"hf:{tmp_path / 'raw'}", ImageConfig(image_field="picture")).images
    np.testing.assert_array_equal(images.pixels[:, 0], pixels)
    assert images.labels is None
    with pytest.raises(ValueError, match=r"data\.images\.image_field to one of: picture"):
        read_source(f"hf:{tmp_path / 'raw'}", ImageConfig())
    datasets.Dataset.from_dict({"image": [1, 2]}).save_to_disk(str(tmp_path / "numbers"))
    with pytest.raises(ValueError, match="record 0: field image holds no picture"):
        read_source(f"hf:{tmp_path / 'numbers'}", ImageConfig())


def test_classes_of_a_data_set_are_called_as_it_calls_them(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")

    def images(labels: list[int | None], *names: str) -> ImageSet:
        rows = {"image": [Image.fromarray(p) for p in noise(len(labels), 4, 4)], "label": labels}
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(names))})
        path = tmp_path / "-".join(names)
        datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(path))
        return read_source(f"hf:{path}", ImageConfig()).images

    # In the data set's order, with those of which there are no images.
    found = images([1, 0, 1], "wolf", "cat", "ant")
    assert found.classes == ("wolf", "cat", "ant")
    assert found.labels is not None and found.labels.tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="count classes from 0"):
        images([0, -1, 1], "a", "b")
    with pytest.raises(ValueError, match="whole numbers or words"):
        images([0, None, 1], "a", "c")


def test_several_sources_go_together_only_where_they_are_of_one_kind(tmp_path: Path) -> None:
    for i in range(2):
        np.save(tmp_path / f"{i}.npy", noise(50, 4, 4, seed=i))
    train, heldout = read_images(config(tmp_path / "0.npy", tmp_path / "1.npy", heldout_fraction=0.3))
    assert len(train) + len(heldout) == 100
    np.save(tmp_path / "large.npy", noise(50, 5, 5))
    with pytest.raises(ValueError, match=r"set data\.images\.size"):
        read_images(config(tmp_path / "0.npy", tmp_path / "large.npy"))
    np.savez(tmp_path / "classes.npz", image=noise(50, 4, 4), label=np.zeros(50, int))
    with pytest.raises(ValueError, match="different classes"):
        read_images(config(tmp_path / "0.npy", tmp_path / "classes.npz"))


def test_heldout_images_from_elsewhere_take_the_classes_of_the_training_images(tmp_path: Path) -> None:
    for i in range(8):
        picture(tmp_path / "train" / "abcd"[i % 4] / f"{i}.png", noise(4, 4, seed=i))
    for i in range(8, 11):
        picture(tmp_path / "test" / "bd"[i % 2] / f"{i}.png", noise(4, 4, seed=i))
    train, heldout = read_images(config(tmp_path / "train", heldout=str(tmp_path / "test")))
    assert len(train) == 8 and heldout.classes == train.classes == tuple("abcd")
    assert heldout.labels is not None and heldout.labels.tolist() == [1, 1, 3]
    picture(tmp_path / "test" / "e" / "12.png", noise(4, 4))
    with pytest.raises(ValueError, match="has a class 'e' that the training images lack"):
        read_images(config(tmp_path / "train", heldout=str(tmp_path / "test")))


def test_empty_sides_are_refused_with_a_remedy(tmp_path: Path) -> None:
    np.save(tmp_path / "same.npy", np.zeros((20, 4, 4), np.uint8))
    np.save(tmp_path / "some.npy", noise(20, 4, 4))
    with pytest.raises(ValueError, match=r"raise data\.heldout_fraction"):
        read_images(config(tmp_path / "some.npy", heldout_fraction=0.0))
    with pytest.raises(ValueError, match="no image to train on"):
        read_images(config(tmp_path / "same.npy", heldout=str(tmp_path / "same.npy")))
    with pytest.raises(ValueError, match="empty"):
        read_images(config())


def test_a_set_kept_on_the_disk_comes_back(tmp_path: Path) -> None:
    images = ImageSet(pixels=noise(6, 1, 3, 3) % 9, labels=np.arange(6) % 2, levels=9, classes=("é", "b"))
    assert not has_images(tmp_path / "train")
    save_images(images, tmp_path / "train")
    assert has_images(tmp_path / "train")
    back = load_images(tmp_path / "train")
    assert isinstance(back.pixels, np.memmap) and back.levels == 9 and back.classes == ("é", "b")
    np.testing.assert_array_equal(back.pixels, images.pixels)
    np.testing.assert_array_equal(back.labels, images.labels)
    (tmp_path / "train" / "pixels.npy").write_bytes(b"cut")
    with pytest.raises(ValueError, match="damaged"):
        load_images(tmp_path / "train")
    (tmp_path / "train" / "pixels.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"pixels\.npy"):
        load_images(tmp_path / "train")


def test_parts_of_a_set_must_fit_together() -> None:
    pixels = noise(3, 1, 2, 2)
    for match, changes in (
        ("bytes of shape", {"pixels": pixels[0]}),
        ("labels of shape", {"labels": np.zeros(2, np.int64)}),
        ("outside the 0 classes", {"labels": np.zeros(3, np.int64)}),
        ("levels", {"levels": 300}),
    ):
        with pytest.raises(ValueError, match=match):
            ImageSet(**{"pixels": pixels, **changes})


def test_a_stream_shows_every_image_once_an_epoch_and_ranks_share_a_batch() -> None:
    images = ImageSet(pixels=noise(12, 3, 2, 2), labels=np.arange(12) % 5, classes=tuple("abcde"))
    stream = ImageStream(images, seed=3)
    assert len(stream) == 12
    ids = torch.cat([stream.batch(step, 4).sample_ids for step in range(6)])
    assert sorted(ids[:12].tolist()) == sorted(ids[12:].tolist()) == list(range(12))
    assert ids[:12].tolist() != ids[12:].tolist()
    batch = stream.batch(5, 4)
    assert torch.equal(batch.x, images.floats()[batch.sample_ids]) and batch.x.dtype == torch.float32
    assert batch.cond is not None and batch.cond.tolist() == [int(i) % 5 for i in batch.sample_ids]
    parts = [stream.batch(5, 4, rank, 2) for rank in range(2)]
    assert torch.equal(torch.cat([part.x for part in parts]), batch.x)
    unlabelled = ImageStream(ImageSet(pixels=noise(12, 3, 2, 2)), shuffle=False).batch(0, 3)
    assert unlabelled.cond is None and unlabelled.sample_ids.tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="multiple"):
        stream.batch(0, 5, 0, 2)
