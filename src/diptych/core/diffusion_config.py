"""What can be chosen of images and of Gaussian diffusion, and what are the defaults?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

_STRICT: dict[str, object] = {"extra": "forbid"}

ScheduleName = Literal["vp_linear", "cosine", "edm", "flow"]
ParameterizationName = Literal["epsilon", "x0", "v", "edm", "velocity"]
WeightingName = Literal["simple", "min_snr", "edm", "likelihood"]


@dataclass(frozen=True, kw_only=True)
class PatchConfig:
    """How a transformer sees an image: in square patches, told the noise level and a class (Peebles and Xie 2023)."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    size: int = 2
    """Side of a patch in pixels."""
    channels: int = 0
    """Numbers of a pixel; 0 takes the data's, as for the two below."""
    height: int = 0
    """Pixels from top to bottom."""
    width: int = 0
    """Pixels from left to right."""
    n_classes: int | None = None
    """Classes that an image may be asked for; 0: none; None takes the data's."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"patches.size={self.size} must be at least 1")
        if min(self.channels, self.height, self.width, self.n_classes or 0) < 0:
            raise ValueError("patches.channels, height, width and n_classes must not be negative")
        if self.height % self.size or self.width % self.size:
            raise ValueError(
                f"an image of {self.height} x {self.width} pixels is not cut into patches of {self.size} x "
                f"{self.size}; choose a patches.size that divides both sides, or data.images.size"
            )

    @property
    def is_sized(self) -> bool:
        """Whether the shape of an image is known."""
        return min(self.channels, self.height, self.width) > 0

    @property
    def grid(self) -> tuple[int, int]:
        """Patches from top to bottom and from left to right."""
        return self.height // self.size, self.width // self.size


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """Gaussian diffusion as independent choices, in the frame z / alpha = x + sigma eps (Karras et al. 2022)."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    schedule: ScheduleName = "edm"
    """Which noise levels training draws, uniformly in its time: variance-preserving with linear beta (Ho et al. 2020;
    Song et al. 2021), cosine (Nichol and Dhariwal 2021), a normal distribution of ln sigma (Karras et al. 2022), or the
    straight path of flow matching (Lipman et al. 2023)."""
    parameterization: ParameterizationName = "edm"
    """What the network's output means: the noise, the clean image, v (Salimans and Ho 2022), EDM's mixture of both, or
    the straight path's velocity."""
    weighting: WeightingName = "simple"
    """Weight of each noise level in the loss: `simple`, the square error of the network's own output (Ho et al. 2020,
    equation 14); min-SNR (Hang et al. 2023); EDM's; or the likelihood's (Kingma et al. 2021)."""
    sigma_min: float = 0.002
    """Least noise, as a multiple of the image's scale: where the backward process ends."""
    sigma_max: float = 80.0
    """Most noise: where it begins."""
    sigma_data: float = 0.5
    """Standard deviation of the data that EDM's preconditioning and weighting assume."""
    p_mean: float = -1.2
    """Mean of ln sigma under the schedule `edm`."""
    p_std: float = 1.2
    """Its standard deviation."""
    min_snr_gamma: float = 5.0
    """Largest weight of min-SNR."""
    class_dropout: float = 0.1
    """Share of the examples whose class the network is not told, so that it can guide itself (Ho and Salimans
    2022)."""
    dequantize: bool = True
    """Spread each pixel uniformly over its level in training, so that the data has a density (Theis et al. 2016)."""

    def __post_init__(self) -> None:
        if not 0.0 < self.sigma_min < self.sigma_max:
            raise ValueError(f"sigma_min={self.sigma_min} must be positive and less than sigma_max={self.sigma_max}")
        for name in ("sigma_data", "p_std", "min_snr_gamma"):
            if getattr(self, name) <= 0.0:
                raise ValueError(f"diffusion.{name}={getattr(self, name)} must be positive")
        if not 0.0 <= self.class_dropout < 1.0:
            raise ValueError(f"diffusion.class_dropout={self.class_dropout} lies outside [0, 1)")


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """How images are read."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    size: int | None = None
    """Bring every image to so many pixels a side, its middle square; None: all have one size already."""
    channels: Literal[1, 3] | None = None
    """1: grey, 3: colour; None: as the images are."""
    image_field: str = "image"
    """Array of a .npz file, or column of a data set, that holds the images."""
    label_field: str = "label"
    """Array or column of their classes, where there is one; of a folder the classes are its folders."""

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"data.images.size={self.size} must be at least 1")
