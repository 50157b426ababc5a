"""In which features are images compared, with nothing downloaded?

Where images have classes, a small network learns them from the training images, from an explicit seed, and its last
inner layer gives the features. Where they have none, the features are principal components of the pixels. Both are
standardized over the training images: raw ones let a few large numbers decide everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from diptych.core.events import Handler, Progressed, ignore
from diptych.core.random import derive_seed
from diptych.data.images import ImageSet

WIDTH: Final = 64
"""Numbers that describe an image."""
STEPS: Final = 800
BATCH: Final = 128
_AT_ONCE: Final = 1000


@final
class Classifier(nn.Module):
    """Two convolutions, means over a grid of 8 x 8 at most, and a dense layer whose output is the features."""

    def __init__(self, channels: int, side: int, n_classes: int) -> None:
        super().__init__()
        stride = 2 if side >= 16 else 1
        grid = min(8, -(-side // (2 * stride)))
        self.first = nn.Conv2d(channels, 32, 3, stride=stride, padding=1)
        self.second = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(grid)
        self.inner = nn.Linear(64 * grid * grid, WIDTH)
        self.head = nn.Linear(WIDTH, n_classes)

    def features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """The last inner layer, after its activation."""
        hidden = self.pool(F.gelu(self.second(F.gelu(self.first(x)))))
        return F.gelu(self.inner(hidden.flatten(1)))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n"]:
        """The logits of the classes."""
        logits: Tensor = self.head(self.features(x))
        return logits


@final
@dataclass(frozen=True)
class ClassifierFeatures:
    """Features of a classifier, and its guesses."""

    network: Classifier
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    hash: str
    """Hash of the weights: distances in features of other weights are not comparable."""
    tag: str = "clf"
    """What stands in the name of a distance in these features."""

    @property
    def description(self) -> str:
        """What the features are, and the hash of what decides them."""
        return f"last inner layer of a classifier of the training images (weights {self.hash}), standardized"

    def __call__(self, images: ImageSet) -> NDArray[np.float64]:
        """The features (n, d) of images."""
        return (_in_parts(self.network.features, images) - self.mean) / self.scale

    def classes(self, images: ImageSet) -> NDArray[np.int64]:
        """The most likely class of each image (n)."""
        guesses: NDArray[np.int64] = _in_parts(self.network, images).argmax(1)
        return guesses


@final
@dataclass(frozen=True)
class PixelFeatures:
    """The principal components of the pixels of the training images, each of variance 1."""

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    """(d, components), divided by the standard deviations along them."""
    tag: str = "pixels"
    """What stands in the name of a distance in these features."""

    @property
    def description(self) -> str:
        """What the features are."""
        return f"{self.axes.shape[1]} principal components of the pixels of the training images, standardized"

    def __call__(self, images: ImageSet) -> NDArray[np.float64]:
        """The features (n, d) of images."""
        return (_small(images) - self.mean) @ self.axes


Features = ClassifierFeatures | PixelFeatures
"""What describes images by numbers (n, d), standardized over the training images."""


def fit_features(train: ImageSet, seed: int, on_event: Handler = ignore) -> Features:
    """The features for images like the training images: of a classifier where they have classes."""
    if train.labels is None or len(train.classes) < 2:
        return _principal(train)
    return train_classifier(train, seed, on_event)


def train_classifier(train: ImageSet, seed: int, on_event: Handler = ignore) -> ClassifierFeatures:
    """Learn the classes of labelled images: Adam, a learning rate that falls to 0 in a straight line."""
    assert train.labels is not None
    channels, height, width = train.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "classifier"))
        network = Classifier(channels, min(height, width), len(train.classes))
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    order = np.random.Generator(np.random.PCG64(derive_seed(seed, "order of the classifier")))
    for step in range(STEPS):
        rows = order.integers(len(train), size=min(BATCH, len(train)))
        part = train.take(rows)
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * (1 - step / STEPS)
        optimizer.zero_grad()
        F.cross_entropy(network(part.floats()), torch.from_numpy(train.labels[rows])).backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            on_event(Progressed(what="training the classifier", done=step + 1, total=STEPS, unit="steps"))
    network.eval()
    # More images would not move a mean and a deviation by what a reader could see.
    features = _in_parts(network.features, train.take(slice(0, 10 * _AT_ONCE)))
    scale = np.maximum(features.std(0), 1e-6)
    return ClassifierFeatures(network, features.mean(0), scale, weights_hash(network))


def weights_hash(network: nn.Module) -> str:
    """The first 12 digits of a hash of all weights."""
    digest = hashlib.sha256()
    for name, weight in network.state_dict().items():
        digest.update(name.encode() + weight.numpy().tobytes())
    return digest.hexdigest()[:12]


def _in_parts(network: Callable[[Tensor], Tensor], images: ImageSet) -> NDArray[np.float64]:
    with torch.inference_mode():
        parts = [
            network(images.take(slice(start, start + _AT_ONCE)).floats()).double().numpy()
            for start in range(0, len(images), _AT_ONCE)
        ]
    return np.concatenate(parts)


def _small(images: ImageSet) -> NDArray[np.float64]:
    """The pixels (n, d), of images larger than 16 x 16 the means over a grid of so many places."""
    _, height, width = images.shape
    grid = (min(height, 16), min(width, 16))
    return _in_parts(lambda x: F.adaptive_avg_pool2d(x, grid).flatten(1), images)


def _principal(train: ImageSet) -> PixelFeatures:
    pixels = _small(train.take(slice(0, 10 * _AT_ONCE)))
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(pixels, rowvar=False)))
    # What is left is noise of rounding where there are fewer images than pixels.
    kept = np.flatnonzero(values > 1e-9 * values[-1])[-WIDTH:]
    return PixelFeatures(pixels.mean(0), vectors[:, kept] / np.sqrt(values[kept]))
