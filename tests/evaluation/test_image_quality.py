"""Distances of samples agree with closed forms and brute force, and the report tells good images from bad ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from diptych.core.config import DataConfig
from diptych.core.events import Event, Message
from diptych.data.images import ImageSet, read_images
from diptych.evaluation.image_classifier import ClassifierFeatures, PixelFeatures, fit_features
from diptych.evaluation.image_metrics import (
    density_coverage,
    frechet,
    frechet_distance,
    mmd,
    precision_recall,
    resampled,
    share,
    squared_mmd,
)
from diptych.evaluation.image_quality import ImageQuality, image_quality, nearest_distances

Points = NDArray[np.float64]


def normal(count: int, width: int = 3, seed: int = 0) -> Points:
    return np.random.default_rng(seed).normal(size=(count, width))


def with_moments(points: Points, mean: Points, covariance: Points) -> Points:
    """The points moved so that their mean and covariance are exactly these."""
    centred = points - points.mean(0)
    white = centred @ np.linalg.inv(np.linalg.cholesky(np.cov(centred, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def test_the_frechet_distance_of_normals_with_a_common_basis_is_a_sum_over_axes() -> None:
    first = with_moments(normal(50), np.zeros(3), np.diag([1.0, 4.0, 9.0]))
    second = with_moments(normal(70, seed=1), np.array([1.0, 0.0, -2.0]), np.diag([4.0, 4.0, 1.0]))
    assert frechet_distance(first, second) == pytest.approx(1 + 4 + (1 - 2) ** 2 + 0 + (3 - 1) ** 2)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-9)


def test_the_frechet_distance_equals_scipys_root_of_a_product() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    first, second = normal(80, 6) @ normal(6, 6, 1), normal(90, 6, 2) @ normal(6, 6, 3) + 1.0
    cov_1, cov_2 = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    shift = first.mean(0) - second.mean(0)
    want = shift @ shift + np.trace(cov_1 + cov_2 - 2 * linalg.sqrtm(cov_1 @ cov_2).real)
    assert frechet_distance(first, second) == pytest.approx(want)
    assert frechet_distance(second, first) == pytest.approx(want)


def test_the_frechet_distance_stands_singular_covariances() -> None:
    flat = np.concatenate([normal(30, 2), np.zeros((30, 2))], 1)
    assert frechet_distance(flat, flat + np.array([0, 0, 3, 0])) == pytest.approx(9.0)


def test_the_frechet_interval_covers_the_distance_of_large_samples() -> None:
    truth = 4.0
    hits = 0
    for seed in range(20):
        moved = normal(400, 2, 100 + seed) + np.array([2, 0])
        found = frechet(normal(400, 2, seed), moved, np.random.default_rng(0), 40)
        hits += found.low <= truth <= found.high
    assert hits >= 16  # of a binomial with 0.95: fewer happen once in 400 times


def test_the_discrepancy_equals_a_double_loop() -> None:
    first, second = normal(7), normal(5, seed=1)

    def kernel(x: Points, y: Points) -> float:
        return float((x @ y / 3 + 1) ** 3)

    want = sum(kernel(x, y) for i, x in enumerate(first) for j, y in enumerate(first) if i != j) / (7 * 6)
    want += sum(kernel(x, y) for i, x in enumerate(second) for j, y in enumerate(second) if i != j) / (5 * 4)
    want -= 2 * sum(kernel(x, y) for x in first for y in second) / 35
    assert squared_mmd(first, second) == pytest.approx(want)


def test_the_discrepancy_has_no_bias_and_finds_a_shift() -> None:
    values = np.array([squared_mmd(normal(20, 2, 2 * s), normal(20, 2, 2 * s + 1)) for s in range(1000)])
    assert abs(values.mean()) < 3 * values.std() / math.sqrt(1000)
    assert (values < 0).mean() > 0.3  # a biased estimate never is
    found = mmd(normal(300), normal(300, seed=1) + 0.7, np.random.default_rng(0))
    assert found.low > 0
    same = mmd(normal(300), normal(300, seed=1), np.random.default_rng(0))
    assert same.low < 0 < same.high


def test_the_discrepancys_interval_is_no_narrower_than_its_spread() -> None:
    found = [mmd(normal(100, 2, 2 * s), normal(100, 2, 2 * s + 1) + 0.5, np.random.default_rng(s)) for s in range(60)]
    spread = np.std([each.value for each in found])
    assert np.mean([(each.high - each.low) / 4 for each in found]) > 0.9 * spread


def brute(real: Points, made: Points, k: int) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage, word by word."""

    def ball(points: Points, i: int) -> float:
        others = sorted(float(np.linalg.norm(points[i] - p)) for j, p in enumerate(points) if j != i)
        return others[k - 1]

    real_balls = [ball(real, i) for i in range(len(real))]
    made_balls = [ball(made, i) for i in range(len(made))]
    inside = [[np.linalg.norm(r - m) <= radius for m in made] for r, radius in zip(real, real_balls, strict=True)]
    back = [[np.linalg.norm(r - m) <= radius for r in real] for m, radius in zip(made, made_balls, strict=True)]
    return (
        float(np.mean(np.any(inside, 0))),
        float(np.mean(np.any(back, 0))),
        float(np.sum(inside) / (k * len(made))),
        float(np.mean(np.any(inside, 1))),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_density_and_coverage_equal_brute_force(k: int) -> None:
    real, made = normal(40, 2), normal(30, 2, 1) * 1.5 + 1.0
    precision, recall = precision_recall(real, made, k)
    density, coverage = density_coverage(real, made, k)
    found = [each.value for each in (precision, recall, density, coverage)]
    assert found == pytest.approx(brute(real, made, k))
    assert len(set(found)) == 4 and min(found) > 0.0
    assert all(each.low < each.value <= each.high for each in (precision, recall, density, coverage))


def test_equal_samples_are_precise_and_covered_and_distant_ones_are_not() -> None:
    points = normal(60, 2)
    assert [each.value for each in precision_recall(points, points)] == [1.0, 1.0]
    density, coverage = density_coverage(points, points)
    # A ball of 5 neighbours holds these and its centre: 6 points of 5.
    assert (density.value, coverage.value) == (pytest.approx(6 / 5), 1.0)
    far = points + 100.0
    assert [each.value for each in (*precision_recall(points, far), *density_coverage(points, far))] == [0.0] * 4
    with pytest.raises(ValueError, match="at least 4 points"):
        precision_recall(points[:3], points)


def test_a_collapsed_sample_is_precise_and_covers_little() -> None:
    real = normal(200, 2)
    made = real[:1] + normal(200, 2, 1) * 1e-3
    precision, recall = precision_recall(real, made)
    assert precision.value == 1.0 and recall.value < 0.05
    assert density_coverage(real, made)[1].value < 0.1


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (3, 10), (10, 10), (477, 500)])
def test_wilsons_interval_ends_where_the_score_test_does(successes: int, count: int) -> None:
    found = share(successes, count)
    assert found.value == successes / count
    for end in (found.low, found.high):
        if 0.0 < end < 1.0:  # the defining equation: (share - p)^2 = z^2 p (1 - p) / n
            assert (found.value - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / count, rel=1e-4)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0


def test_the_bootstrap_of_a_mean_is_as_wide_as_its_standard_error_says() -> None:
    values = normal(400, 1)[:, 0]
    found = resampled(values, np.mean, np.random.default_rng(0), 2000)
    assert found.value == pytest.approx(values.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_nearest_distances_are_brute_force_and_exactly_nothing_for_copies() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 4), dtype=np.uint8)
    train, others = ImageSet(pixels=pixels[:40]), ImageSet(pixels=pixels[30:])
    want = [
        min(np.linalg.norm((p.astype(float) - q.astype(float)).ravel()) * 2 / 256 for q in train.pixels)
        for p in others.pixels
    ]
    found = nearest_distances(others, train)
    assert found == pytest.approx(want, rel=1e-6)
    assert (found[:10] == 0.0).all() and (found[10:] > 0.0).all()


@pytest.fixture(scope="module")
def digits() -> tuple[ImageSet, ImageSet]:
    pytest.importorskip("sklearn")
    return read_images(DataConfig(source=("digits",), format="images", heldout_fraction=0.2))


@pytest.fixture(scope="module")
def features(digits: tuple[ImageSet, ImageSet]) -> ClassifierFeatures:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = fit_features(digits[0], 0)
    torch.set_num_threads(threads)
    assert isinstance(found, ClassifierFeatures)
    return found


@pytest.fixture
def measured(features: ClassifierFeatures, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classifier is trained once for all these tests."""
    monkeypatch.setattr("diptych.evaluation.image_quality.fit_features", lambda *_: features)


def test_the_classifier_knows_held_out_digits_and_standardizes(
    digits: tuple[ImageSet, ImageSet], features: ClassifierFeatures
) -> None:
    train, heldout = digits
    assert (features.classes(heldout) == heldout.labels).mean() > 0.96
    found = features(train)
    assert found.shape == (len(train), 64)
    assert np.abs(found.mean(0)).max() < 1e-6
    assert found.std(0) == pytest.approx(np.ones(64))


def test_the_classifier_is_its_seeds_and_leaves_torchs_generator_alone(
    digits: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("diptych.evaluation.image_classifier.STEPS", 3)
    before = torch.get_rng_state()
    hashes = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(hashes))
        state = torch.get_rng_state()
        found = fit_features(digits[0], seed)
        assert torch.equal(torch.get_rng_state(), state)
        assert isinstance(found, ClassifierFeatures) and found.hash in found.description
        hashes.append(found.hash)
    torch.set_rng_state(before)
    assert hashes[0] == hashes[1] != hashes[2]


def values(found: ImageQuality) -> dict[str, float]:
    return {measure.name: measure.value for measure in found.measures}


@pytest.mark.usefixtures("measured")
def test_held_out_images_stand_at_the_floor_exactly(digits: tuple[ImageSet, ImageSet]) -> None:
    train, heldout = digits
    events: list[Event] = []
    found = image_quality(heldout, train, heldout, 0, events.append)
    assert [m.name for m in found.measures] == [
        "FD(clf)", "MMD(clf)", "precision", "recall", "density", "coverage", "accuracy", "nearest",
    ]  # fmt: skip
    assert found.n_images == len(heldout)
    assert any(isinstance(e, Message) and "weights" in e.text for e in events)
    for measure in found.measures:
        assert measure.value == pytest.approx(measure.floor, rel=1e-6)
        assert measure.low <= measure.value <= measure.high
        assert measure.floor_low <= measure.floor <= measure.floor_high


@pytest.mark.usefixtures("measured")
def test_memorized_images_look_perfect_but_for_their_nearest_neighbour(digits: tuple[ImageSet, ImageSet]) -> None:
    train, heldout = digits
    found = image_quality(train.take(slice(0, 400)), train, heldout)
    assert found["FD(clf)"].value < found["FD(clf)"].floor_high
    assert found["accuracy"].value > 0.99
    nearest = found["nearest"]
    assert nearest.value == nearest.high == 0.0 < 1.0 < nearest.floor_low


@pytest.mark.usefixtures("measured")
def test_noise_and_wrong_classes_are_found(digits: tuple[ImageSet, ImageSet]) -> None:
    train, heldout = digits
    assert train.labels is not None
    noise = np.random.default_rng(0).integers(0, 17, train.pixels[:300].shape, dtype=np.uint8)
    found = image_quality(
        ImageSet(pixels=noise, labels=train.labels[:300], levels=17, classes=train.classes), train, heldout
    )
    for name in ("FD(clf)", "MMD(clf)", "nearest"):
        assert found[name].low > 2 * found[name].floor_high
    for name in ("precision", "recall", "density", "coverage", "accuracy"):
        assert found[name].high < 0.5 * found[name].floor_low
    swapped = ImageSet(
        pixels=heldout.pixels,
        labels=(np.asarray(heldout.labels) + 1) % 10,
        levels=17,
        classes=heldout.classes,
    )
    found = image_quality(swapped, train, heldout)
    assert found["accuracy"].high < 0.1
    assert found["FD(clf)"].value == pytest.approx(found["FD(clf)"].floor)


@pytest.mark.usefixtures("measured")
def test_generated_images_without_classes_have_no_accuracy(digits: tuple[ImageSet, ImageSet]) -> None:
    train, heldout = digits
    found = image_quality(ImageSet(pixels=heldout.pixels, levels=17), train, heldout)
    assert "accuracy" not in values(found) and "FD(clf)" in values(found)
    with pytest.raises(KeyError):
        found["accuracy"]


def test_images_without_classes_are_compared_by_principal_components() -> None:
    rng = np.random.default_rng(0)
    shades = rng.integers(0, 256, (300, 3, 1, 1)) * np.ones((1, 1, 20, 20))
    pixels = np.clip(shades + rng.integers(-9, 10, shades.shape), 0, 255).astype(np.uint8)
    sets = [ImageSet(pixels=pixels[start : start + 100]) for start in (0, 100, 200)]
    features = fit_features(sets[1], 0)
    assert isinstance(features, PixelFeatures) and "principal components" in features.description
    assert np.cov(features(sets[1]), rowvar=False) == pytest.approx(np.eye(64), abs=1e-6)
    found = image_quality(*sets)
    assert "FD(pixels)" in values(found) and "accuracy" not in values(found)
    assert found["FD(pixels)"].low < found["FD(pixels)"].floor
    dark = ImageSet(pixels=(pixels[:100] // 8).astype(np.uint8))
    assert image_quality(dark, *sets[1:])["FD(pixels)"].low > found["FD(pixels)"].high


def test_images_of_another_kind_and_too_few_are_refused(digits: tuple[ImageSet, ImageSet]) -> None:
    train, heldout = digits
    with pytest.raises(ValueError, match="only 5 generated images; a comparison needs at least 40"):
        image_quality(heldout.take(slice(0, 5)), train, heldout)
    with pytest.raises(ValueError, match="compare images of one kind"):
        image_quality(ImageSet(pixels=np.zeros((50, 1, 9, 9), np.uint8), levels=17), train, heldout)
    with pytest.raises(ValueError, match="compare images of one kind"):
        image_quality(ImageSet(pixels=np.zeros((50, 1, 8, 8), np.uint8)), train, heldout)
