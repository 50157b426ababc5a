"""What can be chosen, and what are the defaults?

Frozen dataclasses of orthogonal choices: a network (`TransformerConfig`), its data, tokenizer, optimizer and
training, and the whole experiment (`RunConfig`). This module imports no torch, so that `--help` and the checking of
recipes are fast; the meaning of each option lives in the one `match` that builds it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from diptych.core.diffusion_config import DiffusionConfig, ImageConfig, PatchConfig
from diptych.core.mask_text import parse_terms
from diptych.core.text_diffusion_config import TextDiffusionConfig

_STRICT: dict[str, object] = {"extra": "forbid"}

RECIPE = "recipe.toml"
"""The file of a run folder that holds its `RunConfig`; a folder that has one is a run's."""

ALL_TEXT = 2**63 - 1
"""As `tokenizer.train_bytes`: no limit."""

ObjectiveName = Literal["autoregressive", "masked_lm", "masked_diffusion", "uniform_diffusion", "gaussian"]

AttentionKind = Literal[
    "softmax", "linear", "gated_delta", "transformer_xl", "titans_context", "titans_gate", "titans_layer"
]

TokenizerKind = Literal["byte", "character", "word", "sennrich", "wordpiece", "unigram", "bpe"]


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched for texts longer than those of the training."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    kind: Literal["llama3", "linear", "ntk", "dynamic", "yarn"] = "llama3"
    """Low frequencies alone (Llama 3, Grattafiori et al. 2024); all alike, which is position interpolation (Chen et al.
    2023); by a larger base, NTK-aware, once for all or by the length of the text; by a ramp and with sharper attention,
    YaRN (Peng et al. 2024)."""
    factor: float = 8.0
    """By how much the lowest frequencies are stretched; of `dynamic`, how fast the base grows with the length."""
    low_freq_factor: float = 1.0
    """llama3: wavelengths above `original_max_length / low_freq_factor` are stretched by `factor`."""
    high_freq_factor: float = 4.0
    """llama3: wavelengths below `original_max_length / high_freq_factor` are left as they are."""
    original_max_length: int = 8192
    """The context length of the training before stretching; llama3, dynamic and yarn look at it."""
    beta_fast: float = 32.0
    """yarn: what turns more often than this within `original_max_length` is left as it is."""
    beta_slow: float = 1.0
    """yarn: what turns less often than this within it is stretched by `factor`."""
    attention_factor: float | None = None
    """yarn: times the rotated queries and keys; None: 0.1 ln(factor) + 1."""

    def __post_init__(self) -> None:
        if not 0.0 < self.factor <= 1e6 or self.original_max_length < 1:
            raise ValueError("rope_scaling.factor must be in (0, 1e6] and rope_scaling.original_max_length at least 1")
        if not 0.0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError("rope_scaling.high_freq_factor must be above low_freq_factor, and that above 0")
        if not 0.0 < self.beta_slow < self.beta_fast:
            raise ValueError("rope_scaling.beta_fast must be above beta_slow, and that above 0")
        if self.attention_factor is not None and not 0.0 < self.attention_factor < math.inf:
            raise ValueError(f"rope_scaling.attention_factor={self.attention_factor} must be above 0")

    @property
    def attention_scale(self) -> float:
        """What rotated queries and keys are multiplied by (Peng et al. 2024, section 3.4)."""
        if self.kind != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0 if self.factor > 1.0 else 1.0


@dataclass(frozen=True, kw_only=True)
class PositionScheme:
    """Which relative positions rotary attention is told for near and for far keys, instead of their distances.

    Each kind uses some of the numbers; the others are 0. `diptych.nn.near_far` has the formulas.
    """

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    kind: Literal["string", "rerope", "self_extend", "dca", "streaming"]
    """STRING (An et al. 2025), ReRoPE (Su 2023), Self-Extend (Jin et al. 2024), dual chunk attention (An et al. 2024),
    or StreamingLLM (Xiao et al. 2024)."""
    window: int
    """string: the position of the first shifted key; rerope, self_extend, streaming: keys nearer than this keep their
    distances; dca: so many queries of a chunk keep their distances to the chunk before."""
    shift: int = 0
    """string: keys nearer than this keep their distances."""
    group: int = 0
    """self_extend: positions that farther keys share."""
    chunk: int = 0
    """dca: positions of a chunk, within which distances are kept."""
    length: int = 0
    """dca: the training's length, below which all relative positions stay."""
    sinks: int = 0
    """streaming: first keys that all attend to besides the window."""

    def __post_init__(self) -> None:
        used = SCHEME_NUMBERS[self.kind]
        for name in ("window", "shift", "group", "chunk", "length", "sinks"):
            value = getattr(self, name)
            if name in used and value < 1:
                raise ValueError(f"position_scheme.{name}={value} must be at least 1 for {self.kind}")
            if name not in used and value != 0:
                raise ValueError(f"position_scheme.{name}={value} is not used by {self.kind}; leave it out")
        if self.kind == "string" and self.window > self.shift:
            raise ValueError(f"position_scheme.window={self.window} must not be above shift={self.shift}")
        if self.kind == "dca" and self.chunk + self.window > self.length:
            raise ValueError(f"position_scheme.chunk + window must not be above length={self.length}")


SCHEME_NUMBERS: dict[str, tuple[str, ...]] = {
    "string": ("shift", "window"),
    "rerope": ("window",),
    "self_extend": ("window", "group"),
    "dca": ("chunk", "window", "length"),
    "streaming": ("sinks", "window"),
}
"""The numbers that each kind of `PositionScheme` uses."""


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Reading in segments: Transformer-XL (Dai et al. 2019) and Titans' memory as context (Behrouz et al. 2025)."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    length: int = 128
    """Positions of a segment, which attend to one another."""
    memory_length: int = 128
    """Transformer-XL: positions before the segment that it attends to as well, and into which no gradient flows."""

    def __post_init__(self) -> None:
        if self.length < 1 or self.memory_length < 0:
            raise ValueError("segment.length must be at least 1 and segment.memory_length must not be negative")


@dataclass(frozen=True, kw_only=True)
class NeuralMemoryConfig:
    """Titans' long-term memory (Behrouz et al. 2025): a small network that learns, while it reads, to give values for
    keys."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    depth: int = 1
    """Layers of the memory network; 1: a matrix a head."""
    expansion: int = 2
    """Inner width of a deeper memory, in widths of a head."""
    chunk_length: int = 32
    """Tokens whose surprise is measured by the same memory; 1: every token changes what measures the next."""
    max_step: float = 0.5
    """Largest step size theta; 0.5 brings the value of a key to what it is told in one step, where the memory is a
    matrix."""
    n_persistent: int = 4
    """Learned positions that every token may attend to, whatever the text."""

    def __post_init__(self) -> None:
        if self.depth < 1 or self.expansion < 1 or self.chunk_length < 1 or self.n_persistent < 0:
            raise ValueError(
                "memory.depth, memory.expansion and memory.chunk_length must be at least 1, memory.n_persistent 0"
            )
        if self.max_step <= 0.0:
            raise ValueError(f"memory.max_step={self.max_step} must be positive")


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The shape of a transformer. GPT-2 and Llama 3 are values of it: see `diptych.presets`."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    vocab_size: int = 0
    """Size of the vocabulary; 0 takes the tokenizer's."""
    d_model: int = 256
    """Width of the residual stream."""
    n_layers: int = 6
    """Number of blocks; of the decoder, where there is an encoder too."""
    n_encoder_layers: int = 0
    """Number of blocks of the encoder whose output every block of the decoder attends to (Vaswani et al. 2017); 0:
    there is no encoder."""
    n_heads: int = 4
    """Number of query heads."""
    n_kv_heads: int | None = None
    """Number of key-value heads, which groups of query heads share (Ainslie et al. 2023); None: `n_heads`."""
    d_head: int | None = None
    """Width of a head; None: d_model / n_heads."""
    d_ff: int | None = None
    """Inner width of the feed-forward layer; None: 4 d_model, or 8/3 d_model rounded up to 32 for swiglu."""
    max_length: int = 256
    """Longest sequence: size of learned position tables and the default context of generation."""
    norm: Literal["layer", "rms", "none"] = "rms"
    """Layer normalization (Ba et al. 2016), its root-mean-square form (Zhang and Sennrich 2019), or none."""
    norm_placement: Literal["pre", "post"] = "pre"
    """Before each sublayer, or after each residual sum as in Vaswani et al. 2017."""
    norm_eps: float = 1e-5
    """Added to the variance (layer) or the mean square (rms)."""
    position: Literal["learned", "sinusoidal", "sinusoidal_halves", "rope", "alibi", "none"] = "rope"
    """How a position is told: added to the embedding (a learned table, or sines and cosines, which take turns in the
    paper and stand in two halves in the authors' code and in Marian), rotated into queries and keys, or biasing the
    scores."""
    rope_theta: float = 10_000.0
    """Base of the rotary wavelengths (Su et al. 2021)."""
    rope_scaling: RopeScaling | None = None
    """Stretching of the rotary frequencies for long contexts."""
    position_scheme: PositionScheme | None = None
    """Relative positions of near and far keys that are not their distances, for long contexts; None: distances."""
    window: int | None = None
    """Each position attends to so many positions, itself and those before it (Mistral 7B); None: to all."""
    mask: tuple[str, ...] = ()
    """What the positions of each layer may attend to, such as `window(512) | sinks(4)`, besides what the objective
    hides; several masks take turns from layer to layer. `diptych attention show --help` lists them."""
    attention: tuple[AttentionKind, ...] = ("softmax",)
    """How the layers mix positions; several kinds take turns from layer to layer. Attention; its linear form
    (Katharopoulos et al. 2020); the gated delta rule (Yang et al. 2025); Transformer-XL's recurrence (Dai et al. 2019);
    Titans' memory as context, gate or layer (Behrouz et al. 2025)."""
    patches: PatchConfig | None = None
    """A network over images instead of tokens, told the noise level by adaLN-zero; None: over tokens."""
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    """Lengths of `transformer_xl` and `titans_context`."""
    memory: NeuralMemoryConfig = field(default_factory=NeuralMemoryConfig)
    """The memory of the `titans` kinds."""
    feed_forward: Literal["relu", "gelu", "gelu_tanh", "silu", "swiglu"] = "swiglu"
    """Activation of the feed-forward layer."""
    bias: bool = False
    """Bias vectors in the linear layers and in layer normalization."""
    qkv_bias: bool = False
    """Bias vectors in the projections to queries, keys and values, even where `bias` is False (Qwen 2)."""
    qk_norm: bool = False
    """Root-mean-square normalization of every query and key within its head (Qwen 3)."""
    embedding_norm: bool = False
    """Normalize the sum of token and position embeddings (BERT)."""
    tied_embedding: bool = True
    """One matrix for embedding and un-embedding (Press and Wolf 2017)."""
    head_transform: bool = False
    """A dense layer, the feed-forward layer's activation and a normalization before the un-embedding (BERT)."""
    output_bias: bool = False
    """A bias on the logits (BERT, Marian)."""
    embedding_scale: bool = False
    """Multiply embeddings by sqrt(d_model), as in Vaswani et al. 2017, section 3.4."""
    dropout: float = 0.0
    """Share of activations dropped in training after the embedding and each sublayer."""

    def __post_init__(self) -> None:
        if self.d_model < 1 or self.n_layers < 1 or self.n_heads < 1 or self.max_length < 1:
            raise ValueError("d_model, n_layers, n_heads and max_length must be at least 1")
        for name in ("n_kv_heads", "d_head", "d_ff"):
            if (getattr(self, name) or 1) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.vocab_size < 0 or self.n_encoder_layers < 0:
            raise ValueError("vocab_size and n_encoder_layers must not be negative")
        if self.d_head is None and self.d_model % self.n_heads:
            raise ValueError(
                f"d_model={self.d_model} is no multiple of n_heads={self.n_heads}; set d_head, or change one"
            )
        if self.n_heads % self.kv_heads:
            raise ValueError(f"n_heads={self.n_heads} is no multiple of n_kv_heads={self.n_kv_heads}")
        if self.position == "rope" and self.head_width % 2:
            raise ValueError(f"rotary positions need an even d_head, not {self.head_width}")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1")
        self._check_attention()
        self._check_patches()
        self._check_stretching()
        if self.n_encoder_layers and self.position == "alibi":
            raise ValueError("ALiBi tells distances within one sequence; an encoder-decoder needs other positions")

    def _check_attention(self) -> None:
        for text in self.mask:
            parse_terms(text)
        if not self.attention:
            raise ValueError('attention names no kind; the usual one is ["softmax"]')
        for layer in range(min(self.n_layers, math.lcm(len(self.attention), len(self.mask) or 1))):
            kind, mask = self.attention_of(layer), self.mask[layer % len(self.mask)] if self.mask else "full"
            if kind != "softmax" and mask.strip() != "full":
                raise ValueError(
                    f"layer {layer} is of kind {kind}, whose state takes in all that it reads, so that no mask such as "
                    f"{mask} can hide a part of it; give such layers the mask full"
                )
        if self.position == "alibi" and any(kind.startswith("titans") for kind in self.attention):
            raise ValueError("the attention beside a Titans memory takes no ALiBi; set position to rope, or another")
        if self.n_encoder_layers and self.attention != ("softmax",):
            raise ValueError("an encoder-decoder is made of attention; leave model.attention at ['softmax']")

    def _check_stretching(self) -> None:
        kind = None if self.rope_scaling is None else self.rope_scaling.kind
        if self.position == "rope" and kind in ("ntk", "dynamic") and self.head_width < 4:
            raise ValueError(f"rope_scaling.kind = '{kind}' needs heads of at least 4 dimensions")
        if self.position == "rope" and kind == "yarn" and self.rope_theta <= 1.0:
            raise ValueError(f"rope_scaling.kind = 'yarn' needs a rope_theta above 1, not {self.rope_theta}")
        if self.position_scheme is None and kind not in ("dynamic", "yarn"):
            return
        what = "position_scheme" if self.position_scheme is not None else f"rope_scaling.kind = '{kind}'"
        if self.position != "rope" or set(self.attention) != {"softmax"} or self.n_encoder_layers or self.patches:
            raise ValueError(f"{what} is for decoders of text with position = 'rope' and attention = ['softmax'] alone")

    def _check_patches(self) -> None:
        if self.patches is None:
            return
        if self.position not in ("learned", "sinusoidal", "rope", "none") or self.norm_placement == "post":
            raise ValueError(
                f"a network over patches takes positions learned, sinusoidal, rope or none, not {self.position}, and "
                "norm_placement = 'pre'"
            )
        if (
            self.position in ("sinusoidal", "rope")
            and (self.head_width if self.position == "rope" else self.d_model) % 4
        ):
            raise ValueError(
                "positions of rows and columns need a width (rope: d_head, sinusoidal: d_model) divisible by 4"
            )
        if set(self.attention) - {"softmax", "linear"}:
            raise ValueError("the patches of an image have no order: model.attention may be softmax or linear")
        words = (
            self.vocab_size or self.head_transform or self.output_bias or self.embedding_norm or self.embedding_scale
        )
        if self.n_encoder_layers or words:
            raise ValueError("a network over patches has no vocabulary and no encoder; leave those keys out")

    def attention_of(self, layer: int) -> AttentionKind:
        """How a layer mixes positions."""
        return self.attention[layer % len(self.attention)]

    @property
    def kv_heads(self) -> int:
        """Number of key-value heads."""
        return self.n_kv_heads or self.n_heads

    @property
    def head_width(self) -> int:
        """Width of one head."""
        return self.d_head or self.d_model // self.n_heads

    @property
    def inner_width(self) -> int:
        """Inner width of the feed-forward layer."""
        if self.d_ff is not None:
            return self.d_ff
        return -(-8 * self.d_model // 96) * 32 if self.feed_forward == "swiglu" else 4 * self.d_model


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adaptation (Hu et al. 2022): W + (alpha / rank) B A, of which only A and B learn."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    rank: int = 8
    """Rows of A and columns of B."""
    alpha: float = 16.0
    """The update's scale, times the rank."""
    dropout: float = 0.0
    """Share of the inputs of A dropped in training."""
    layers: Literal["attention", "feed_forward", "all"] = "all"
    """Which linear layers of the blocks are adapted."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora.rank={self.rank} must be at least 1")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"lora.dropout={self.dropout} lies outside [0, 1)")


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How text becomes tokens."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    kind: TokenizerKind = "bpe"
    """Raw bytes; characters; words; word-level byte-pair encoding with end-of-word marks; WordPiece and unigram (extra
    `subword`); byte-level byte-pair encoding."""
    vocab_size: int = 4096
    """Size of the vocabulary, special tokens included; of bytes and characters the text decides it."""
    split: str = "gpt2"
    """Where byte-level byte-pair tokens end: gpt2, llama3, qwen2, cl100k, o200k, or a regular expression."""
    special_tokens: tuple[str, ...] = ()
    """Special tokens besides the end of document, such as a mask."""
    path: str | None = None
    """A tokenizer to use instead of training one: tokenizer.json, a rank file, a GGUF file, or a folder."""
    train_bytes: int = 8_000_000
    """How much of the training text the tokenizer is trained on, in bytes; 2**63 - 1: all of it."""


@dataclass(frozen=True, kw_only=True)
class RecallConfig:
    """Documents in which needles, a key and its value, are hidden and asked for at the end (Hsieh et al. 2024; Arora et
    al. 2023): what `data.format = "recall"` trains on."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    n_needles: int = 8
    """Needles in a document; their keys differ."""
    n_queries: int = 8
    """Needles that are asked for at the end of a document."""
    n_keys: int = 32
    """Different keys."""
    n_values: int = 64
    """Different values; a guess is right once in so many times."""
    nearest: int = 2
    """Least distance in tokens from a needle to where it is asked for."""

    def __post_init__(self) -> None:
        if not 1 <= self.n_queries <= self.n_needles <= self.n_keys:
            raise ValueError(
                "of n_queries, n_needles and n_keys each must be at least 1 and none larger than the next, not "
                f"{self.n_queries}, {self.n_needles} and {self.n_keys}"
            )
        if self.n_values < 2 or self.nearest < 2:
            raise ValueError(f"n_values={self.n_values} and nearest={self.nearest} must be at least 2")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the text or the images come from and how they are cut."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    source: tuple[str, ...] = ("stdlib",)
    """`stdlib` (Python's own library, always at hand), files or folders (.txt, .md, .py, .jsonl, .parquet, ...), or
    `hf:NAME` for a Hugging Face data set. Of images: `digits`, `fashion`, `emoji`, folders of pictures, arrays (.npy,
    .npz), or `hf:NAME`."""
    format: Literal["text", "pairs", "chat", "recall", "images", "pixels"] = "text"
    """What the source holds: running text; pairs of a text and its translation; conversations, of which only the
    assistant's answers are learnt; images; or the same images as sequences of `pixels`, one token a level. `recall`
    needs no source: its documents are made up as training goes on."""
    text_field: str = "text"
    """Field or column of the text in JSONL, Parquet and data sets."""
    pair_fields: tuple[str, str] = ("source", "target")
    """Fields or columns of a pair, in JSONL and data sets."""
    messages_field: str = "messages"
    """Field or column of a conversation: a list of objects with `role` and `content`."""
    heldout: str | None = None
    """A file or folder to score on; None sets a share of the documents aside."""
    heldout_fraction: float = 0.05
    """Share of the documents set aside, chosen by a hash of their text."""
    sequence_length: int = 256
    """Tokens in a training sequence; of `pixels`, how many numbers an image has."""
    document_mask: bool = True
    """Attention does not cross the documents packed into one sequence."""
    max_bytes: int | None = None
    """Read at most this much text."""
    images: ImageConfig = field(default_factory=ImageConfig)
    """How images are read, in the formats `images` and `pixels`."""
    recall: RecallConfig = field(default_factory=RecallConfig)
    """The documents of the format `recall`."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How parameters move."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    name: Literal["adamw", "muon"] = "adamw"
    """AdamW (Loshchilov and Hutter 2019) for all parameters, or Muon (Jordan et al. 2024) for the matrices inside
    the blocks and AdamW for the rest."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_lr: float = 0.02
    """Peak learning rate of Muon."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of AdamW's first and second moments."""
    eps: float = 1e-8
    """Added to the root of AdamW's second moment."""
    weight_decay: float = 0.1
    """Decoupled weight decay, on matrices only."""
    schedule: Literal["cosine", "wsd", "constant", "inverse_sqrt"] = "cosine"
    """After the warm-up: cosine decay, or warm-up-stable-decay (Hu et al. 2024), or constant, or the inverse square
    root of the step (Vaswani et al. 2017, equation 3, whose peak is d_model^-0.5 warmup_steps^-0.5)."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    decay_fraction: float = 0.2
    """Share of the steps in which `wsd` decays."""
    final_lr_fraction: float = 0.1
    """Learning rate at the end, as a share of its peak."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient; 0 does not clip."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how exactly and on what to train."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 32
    """Sequences in an optimizer step, over all ranks and micro-batches."""
    micro_batch_size: int | None = None
    """Sequences in one forward pass; None: batch_size divided by the ranks."""
    seed: int = 0
    """Seed of weights, data order and noise."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of the matrix products (autocast); parameters stay float32."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile: where a compiler exists, or stop where none does, or never."""
    checkpoint_activations: bool = False
    """Recompute the blocks in the backward pass instead of keeping their activations."""
    label_smoothing: float = 0.0
    """Share of each target's probability that is spread over the vocabulary in training (Szegedy et al. 2016)."""
    ema_decay: float = 0.0
    """Decay of the moving average of the weights, which then is what is evaluated and kept; 0: none."""
    ema_lengths: tuple[float, ...] = ()
    """Relative widths of moving averages whose length grows with the run (Karras et al. 2024, such as 0.05 and 0.1).
    The first is what is evaluated and kept; from snapshots of two, that of any other length is made after training."""
    eval_every: int = 250
    """Steps between held-out scores; 0: only at the end."""
    eval_sequences: int = 64
    """Held-out sequences scored during training."""
    save_every: int = 250
    """Steps between checkpoints."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, ..."""
    distributed: Literal["auto", "ddp", "fsdp"] = "auto"
    """Under torchrun: DistributedDataParallel (auto, ddp) or FSDP2 (fsdp)."""
    tensorboard: bool = False
    """Also write TensorBoard events (extra `logging`)."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One experiment: what `diptych train` reads from a recipe."""

    __pydantic_config__: ClassVar[dict[str, object]] = _STRICT

    out: str = "runs/default"
    """Folder of the run."""
    objective: ObjectiveName = "autoregressive"
    """The paradigm: the next token, words masked as BERT does, text whose tokens are masked one after the other (Sahoo
    et al. 2024) or replaced by others (Schiff et al. 2024), or images under Gaussian noise."""
    init: str | None = None
    """Start from the weights and tokenizer of this run folder, Hugging Face folder or GGUF file."""
    lora: LoraConfig | None = None
    """Train a low-rank update of the weights of `init` instead of the weights."""
    model: TransformerConfig = field(default_factory=TransformerConfig)
    """The network."""
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    """The noise, under the objective `gaussian`."""
    text_diffusion: TextDiffusionConfig = field(default_factory=TextDiffusionConfig)
    """The noise, under the objectives `masked_diffusion` and `uniform_diffusion`."""
    data: DataConfig = field(default_factory=DataConfig)
    """The text or the images."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The tokenizer."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer and its schedule."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training loop."""
