"""How is a run opened that learnt to make images?"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from diptych.checkpoints.run_folder import load_network, load_recipe
from diptych.core.config import RunConfig, TransformerConfig
from diptych.data.images import ImageSet, load_images
from diptych.diffusion.denoiser import NetworkDenoiser
from diptych.diffusion.parameterization import build_parameterization
from diptych.models.diffusion_transformer import DiffusionTransformer
from diptych.nn.masks import Full


@final
@dataclass(frozen=True, kw_only=True)
class OpenedImageModel:
    """A denoising network ready for use, and what its images are like."""

    model: DiffusionTransformer
    run: RunConfig
    levels: int
    """Values that a pixel may have."""
    classes: tuple[str, ...]
    """Names of the classes that it can be asked for; none where it knows none."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        patches = self.model.config.patches
        assert patches is not None
        return patches.channels, patches.height, patches.width

    def denoiser(self, labels: Int[Tensor, " b"] | None) -> NetworkDenoiser:
        """The denoiser of images of these classes, `len(classes)` for none in particular; None: of all."""
        return NetworkDenoiser(self.model, build_parameterization(self.run.diffusion), Full(), labels)


def open_image_model(path: Path, *, device: torch.device | str = "cpu") -> OpenedImageModel:
    """Open a run folder that learnt from images. Raises FileNotFoundError for a missing part, ValueError for a damaged
    one or a run that learnt from text."""
    model = load_network(path, device=device, dtype=torch.float32)
    if not isinstance(model, DiffusionTransformer):
        raise ValueError(f"{path} learnt from text and makes no images")
    images = load_images(path / "data" / "train")
    patches = model.config.patches
    assert patches is not None
    classes = images.classes if patches.n_classes else ()
    if len(classes) != (patches.n_classes or 0):
        raise ValueError(f"{path}: its data has {len(images.classes)} classes, its network {patches.n_classes}")
    return OpenedImageModel(model=model, run=load_recipe(path), levels=images.levels, classes=classes)


def images_of_run(path: Path) -> tuple[ImageSet, ImageSet]:
    """The images that a run learnt from, and those that it held out. Raises FileNotFoundError where it kept none,
    ValueError for damaged ones."""
    return load_images(path / "data" / "train"), load_images(path / "data" / "heldout")


def fit_images(config: TransformerConfig, images: ImageSet) -> TransformerConfig:
    """The network's configuration with what it takes from the data: the shape of an image, and how many classes there
    are. Raises ValueError where the recipe says otherwise."""
    patches = config.patches
    assert patches is not None
    _, channels, height, width = images.pixels.shape
    n_classes = 0 if images.labels is None else len(images.classes)
    found = {"channels": channels, "height": height, "width": width}
    for name, value in found.items():
        if (wanted := getattr(patches, name)) not in (0, value):
            raise ValueError(f"model.patches.{name}={wanted}, but the images have {value}; leave it out of the recipe")
    if patches.n_classes not in (None, 0, n_classes):
        raise ValueError(
            f"model.patches.n_classes={patches.n_classes}, but the images have {n_classes} classes; leave it out of "
            "the recipe, or set 0 to learn without classes"
        )
    told = n_classes if patches.n_classes is None else patches.n_classes
    return dataclasses.replace(config, patches=dataclasses.replace(patches, **found, n_classes=told))
