"""What has a review measured?

Values only, no layout: `diptych review` fills a `ReviewResults` and keeps it as JSON beside the page, so that the page
can be drawn again without measuring again. What was not measured is None or empty, and its section is absent.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Literal

from diptych.core.files import write_text
from diptych.data.lengths import CorpusLengths
from diptych.evaluation.attention_cost import CostResult
from diptych.evaluation.comparison import ComparisonResult
from diptych.evaluation.context.result import ContextResult
from diptych.evaluation.diffusion_likelihood import ImageScore
from diptych.evaluation.image_quality import ImageQuality
from diptych.evaluation.mask_work import MaskWork
from diptych.evaluation.recall import RecallScore
from diptych.evaluation.stability import StabilityResult
from diptych.evaluation.translation import TranslationScore
from diptych.evaluation.yardsticks import Yardstick

_STRICT: dict[str, object] = {"extra": "forbid"}

Scalar = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """The training loss at one step."""

    step: int
    tokens: int
    """Tokens trained on so far."""
    loss: float
    """Nats a token."""
    bits_per_byte: float | None
    seconds: float
    """Since training began."""


@dataclass(frozen=True, kw_only=True)
class HeldoutPoint:
    """A held-out score taken during training."""

    step: int
    loss: float
    """Nats a token."""
    bits_per_byte: float | None


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A token that might come next."""

    text: str
    """As it is shown: spaces and line ends made visible."""
    probability: float


@dataclass(frozen=True, kw_only=True)
class NextTokenStep:
    """One step of generation."""

    context: str
    """The end of the text so far."""
    candidates: tuple[Candidate, ...]
    """Most probable first; a chosen token that is none of them stands last."""
    chosen: int
    """Which candidate was chosen."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A text that the model wrote."""

    prompt: str
    continuation: str
    settings: str
    """How it was drawn, in a few words: "temperature 0.8, top-p 0.95"."""


@dataclass(frozen=True, kw_only=True)
class PartSize:
    """A part of the network."""

    name: str
    parameters: int


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The network that was trained."""

    parts: tuple[PartSize, ...]
    """They add up to all parameters, each counted once."""
    config: dict[str, Scalar]
    """Fields of its `TransformerConfig`."""

    @property
    def parameters(self) -> int:
        """How many numbers were learned."""
        return sum(part.parameters for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class TokenizerInfo:
    """The tokenizer and what it makes of a sentence."""

    kind: str
    vocab_size: int
    bytes_per_token: float
    """On the held-out text."""
    train_bytes: int
    """How much text it was trained on."""
    example: tuple[str, ...] = ()
    """The tokens of a sentence as they are shown."""


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """A scheme of tokenization, trained and tried on the same texts as the others."""

    name: str
    vocab_size: int
    sentence: tuple[str, ...]
    """The tokens of the review's sentence."""
    bytes_per_token: float
    """On held-out text."""
    words_whole_share: float
    """Of its words."""
    attention_pairs: int
    """Sum over its documents of the square of the number of tokens."""
    megabytes_per_second: float
    """Speed of encoding on one core."""


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """The text."""

    name: str
    """As a sentence takes it: "Python's standard library"."""
    train_documents: int
    train_bytes: int
    train_tokens: int
    heldout_documents: int
    heldout_bytes: int
    heldout_tokens: int


@dataclass(frozen=True, kw_only=True)
class Score:
    """The model's likelihood of the whole held-out text."""

    nats: float
    n_tokens: int
    n_bytes: int
    kind: Literal["exact", "bound"] = "exact"

    @property
    def bits_per_byte(self) -> float:
        """The unit in which models with different tokenizers can be compared."""
        return self.nats / math.log(2) / self.n_bytes


@dataclass(frozen=True, kw_only=True)
class TranslationExample:
    """A text that was not trained on, as the network translated it, and as it should be."""

    source: str
    translation: str
    reference: str


@dataclass(frozen=True, kw_only=True)
class Attention:
    """What each token of a translation looked at: rows of weights over the source's tokens, each with sum one."""

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True, kw_only=True)
class TranslationResult:
    """The encoder-decoder that was trained, and how it translates held-out texts."""

    task: str
    """As a sentence takes it: "German numbers to English"."""
    parameters: int
    steps: int
    train_pairs: int
    score: TranslationScore
    examples: tuple[TranslationExample, ...]
    attention: Attention
    """Of the example with the longest source, the mean over the heads of the last layer."""


@dataclass(frozen=True, kw_only=True)
class MachineInfo:
    """Where it ran."""

    processor: str
    cores: int
    """Those that the run could use."""
    memory_bytes: int
    system: str
    python: str
    torch: str
    device: str = "cpu"
    dtype: str = "float32"
    peak_flops: float | None = None
    """The matmul peak of this machine, measured."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How long a part of the review took."""

    name: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RecallResult:
    """A network that learned to recall needles."""

    name: str
    """With or without a memory."""
    steps: int
    score: RecallScore


@dataclass(frozen=True, kw_only=True)
class LevelLoss:
    """Mean square error a pixel of denoisers at noise levels, and the least that any denoiser can have of them."""

    sigmas: tuple[float, ...]
    network: tuple[float, ...]
    """On held-out images."""
    linear: tuple[float, ...]
    """The best linear denoiser, that of a Gaussian with the training images' mean and covariance, on the same."""
    memory: tuple[float, ...]
    """The exact denoiser of the training images, which knows them by heart, on the same held-out images."""
    floor: tuple[float, ...]
    """The same exact denoiser on the training images themselves: the Bayes-optimal loss in training."""


@dataclass(frozen=True, kw_only=True)
class ImagesAtLevel:
    """What stands at one noise level of a process."""

    sigma: float
    images: tuple[str, ...]
    """PNG in base64."""


@dataclass(frozen=True, kw_only=True)
class ClassImages:
    """Images that were drawn of one class."""

    name: str
    images: tuple[str, ...]
    """PNG in base64."""


@dataclass(frozen=True, kw_only=True)
class ImageDiffusionResult:
    """A network that learned to denoise images, and the process there and back."""

    parameters: int
    steps: int
    train_images: int
    schedule: str
    forward: tuple[ImagesAtLevel, ...]
    """The same real images at growing noise."""
    loss: LevelLoss
    solver: str
    evaluations: int
    """How often the network is asked for an image."""
    backward: tuple[ImagesAtLevel, ...]
    """After each step: of some images first all states, then the clean images that the step believed in."""
    generated: tuple[ClassImages, ...]
    quality: ImageQuality
    bound: ImageScore
    flow: ImageScore


@dataclass(frozen=True, kw_only=True)
class ParadigmsResult:
    """The same small network, trained on the same text for the same FLOPs under both paradigms."""

    vocab_size: int
    """Of the tokenizer that all runs share, its special tokens included."""
    train_bytes: int
    """Of the text that they learn from."""
    comparison: ComparisonResult


@dataclass(frozen=True, kw_only=True)
class ReviewResults:
    """All that one review measured."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    version: str
    """Of Diptych."""
    created: str
    """ISO 8601, with time zone."""
    command: str
    """The command line that makes this review again."""
    seed: int
    budget_seconds: float | None = None
    mfu: float | None = None
    """Share of the machine's matmul peak that training reached."""
    model: ModelInfo | None = None
    tokenizer: TokenizerInfo | None = None
    schemes: tuple[Scheme, ...] = ()
    data: DataInfo | None = None
    lengths: tuple[CorpusLengths, ...] = ()
    machine: MachineInfo | None = None
    score: Score | None = None
    translation: TranslationResult | None = None
    stability: StabilityResult | None = None
    masks: tuple[MaskWork, ...] = ()
    attention_cost: CostResult | None = None
    recall: tuple[RecallResult, ...] = ()
    effective_context: ContextResult | None = None
    pretrained_context: ContextResult | None = None
    """Of a model that was trained elsewhere."""
    image_diffusion: ImageDiffusionResult | None = None
    paradigms: ParadigmsResult | None = None
    training: tuple[CurvePoint, ...] = ()
    heldout: tuple[HeldoutPoint, ...] = ()
    next_token: tuple[NextTokenStep, ...] = ()
    samples: tuple[Sample, ...] = ()
    yardsticks: tuple[Yardstick, ...] = ()
    stages: tuple[Stage, ...] = ()


def save_results(results: ReviewResults, path: Path) -> None:
    """Write the results as JSON, atomically. Raises ValueError for a number that JSON has no word for (NaN)."""
    try:
        text = json.dumps(asdict(results), indent=1, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"the results hold a number that is not finite, so {path} is not written") from error
    write_text(path, text + "\n")


def load_results(path: Path) -> ReviewResults:
    """Read what `save_results` wrote. Raises FileNotFoundError, or ValueError naming the first field that is wrong."""
    from pydantic import TypeAdapter, ValidationError

    text = path.read_text(encoding="utf-8")
    try:
        return TypeAdapter(ReviewResults).validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ValueError(f"{path} holds no review results: {where}: {first['msg'].lower()}") from error
