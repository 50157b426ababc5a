"""How good are generated images, with nothing downloaded?

Each measure stands beside its floor: the same measure of as many held-out images, which no model can be asked to beat.
No measure alone is enough: a model that repeats its training images has the best distances, and the nearest training
image tells on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from diptych.core.events import Handler, Message, Progressed, ignore
from diptych.core.random import derive_seed
from diptych.data.images import ImageSet
from diptych.evaluation.image_classifier import ClassifierFeatures, Features, fit_features
from diptych.evaluation.image_metrics import (
    Estimate,
    density_coverage,
    frechet,
    mmd,
    precision_recall,
    resampled,
    share,
)

MOST: Final = 2000
"""Images of a side that are compared at most."""
LEAST: Final = 40
"""Images of a side that are needed: two subsets of twenty."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number about generated images, the same of held-out ones, and both intervals of about 95 percent."""

    name: str
    value: float
    low: float
    high: float
    floor: float
    floor_low: float
    floor_high: float


@dataclass(frozen=True, kw_only=True)
class ImageQuality:
    """What there is to say of generated images."""

    measures: tuple[Measure, ...]
    features: str
    """In which features images are compared, with a hash of the classifier's weights."""
    n_images: int
    """Images of each of the three sides in the distances: generated, training and held out."""

    def __getitem__(self, name: str) -> Measure:
        """The measure of that name. Raises KeyError where there is none."""
        for measure in self.measures:
            if measure.name == name:
                return measure
        raise KeyError(name)


def image_quality(
    generated: ImageSet, train: ImageSet, heldout: ImageSet, seed: int = 0, on_event: Handler = ignore
) -> ImageQuality:
    """Measure generated images against the training images, beside the held-out ones.

    `FD(clf)`: Frechet distance in the features of a classifier trained here, or `FD(pixels)` where images have no
    classes; not the FID, and biased by the number of images, which is why all sides have equally many. `MMD(...)`:
    squared, in the manner of KID. `precision` and `recall`, `density` and `coverage`: see `image_metrics`. `accuracy`:
    the share of images that the classifier takes for what they were asked to be. `nearest`: median distance in pixels
    of [-1, 1] to the nearest of all training images. Raises ValueError for other shapes or too few images.
    """
    _check(generated, train, heldout)
    features = fit_features(train, seed, on_event)
    on_event(Message(text=f"images are compared in: {features.description}"))
    count = min(len(generated), len(train), len(heldout), MOST)
    real = features(_some(train, count, seed, "training"))
    found: list[dict[str, Estimate]] = []
    for what, images in (("generated", generated), ("held-out", heldout)):
        on_event(Progressed(what="measuring images", done=len(found), total=2, unit="sides"))
        found.append(_side(_some(images, count, seed, what), images, train, real, features=features, seed=seed))
    on_event(Progressed(what="measuring images", done=2, total=2, unit="sides"))
    return ImageQuality(
        measures=tuple(
            Measure(
                name=name,
                value=found[0][name].value,
                low=found[0][name].low,
                high=found[0][name].high,
                floor=floor.value,
                floor_low=floor.low,
                floor_high=floor.high,
            )
            for name, floor in found[1].items()
            if name in found[0]
        ),
        features=features.description,
        n_images=count,
    )


def _check(generated: ImageSet, train: ImageSet, heldout: ImageSet) -> None:
    for name, images in (("generated", generated), ("held-out", heldout)):
        if images.shape != train.shape or images.levels != train.levels:
            raise ValueError(
                f"the {name} images have shape {images.shape} and {images.levels} levels, the training images "
                f"{train.shape} and {train.levels}; compare images of one kind"
            )
    for name, images in (("generated", generated), ("training", train), ("held-out", heldout)):
        if len(images) < LEAST:
            raise ValueError(f"there are only {len(images)} {name} images; a comparison needs at least {LEAST}")


def _some(images: ImageSet, count: int, seed: int, purpose: str) -> ImageSet:
    """So many of the images, chosen by chance."""
    return images.take(_generator(seed, f"choice of {purpose} images").permutation(len(images))[:count])


def _generator(seed: int, purpose: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derive_seed(seed, purpose)))


def _side(
    some: ImageSet,
    whole: ImageSet,
    train: ImageSet,
    real: NDArray[np.float64],
    *,
    features: Features,
    seed: int,
) -> dict[str, Estimate]:
    """All measures of one side, of `some` images in the distances and the `whole` in the accuracy."""
    made = features(some)
    precision, recall = precision_recall(real, made)
    density, coverage = density_coverage(real, made)
    found = {
        f"FD({features.tag})": frechet(real, made, _generator(seed, "frechet")),
        f"MMD({features.tag})": mmd(real, made, _generator(seed, "mmd")),
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
    }
    if isinstance(features, ClassifierFeatures) and whole.labels is not None:
        found["accuracy"] = share(int((features.classes(whole) == whole.labels).sum()), len(whole))
    found["nearest"] = resampled(nearest_distances(some, train), np.median, _generator(seed, "nearest"))
    return found


def nearest_distances(images: ImageSet, train: ImageSet) -> NDArray[np.float64]:
    """Euclidean distance of each image (n) to its nearest training image, in pixels of [-1, 1]; of a copy exactly 0."""
    wanted, nearest = images.floats().flatten(1), []
    for start in range(0, len(train), 4096):
        known = train.take(slice(start, start + 4096)).floats().flatten(1)
        # |x - y|^2 without |x|^2, by which no choice changes; the distance of the chosen one is then measured exactly.
        chosen = ((known**2).sum(1) - 2.0 * wanted @ known.T).argmin(1)
        nearest.append((wanted - known[chosen]).double().norm(dim=1))
    return torch.stack(nearest).min(0).values.numpy()
