"""How is the network of a GGUF file opened?

Its parameters are allocated once, in their final precision, and filled straight from the file, a chunk at a time; the
header is checked against the network before. Files of Llama 2 and 3, Mistral, SmolLM, Qwen 2 and 3 and GPT-2 are
understood.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from diptych.checkpoints.gguf_layout import ARCHITECTURES, ROPE_FACTORS, Part, layout
from diptych.checkpoints.quantization import F32, NAMES, PLAIN, dequantize
from diptych.core.config import RopeScaling, TransformerConfig
from diptych.core.gguf import BLOCKS, GgufHeader, TensorInfo, read_header
from diptych.models.language_model import LanguageModel
from diptych.models.network import build_unfilled

CHUNK = 1 << 20
"""Numbers that are brought from the file at a time, so that what is made of them on the way stays in the caches."""

MOST_THREADS = 4
"""Threads that fill a network, each with memory for a few chunks."""

_WIDEST, _LONGEST, _LARGEST = 1 << 24, 1 << 30, 1e30
_END_NAMES = ("<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<EOT>", "<|endoftext|>")
_CONTROL = 3


def open_gguf(
    path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[LanguageModel, GgufHeader]:
    """The network of a GGUF file, ready for use, and the file's header.

    dtype: precision of the weights; None: that of most of the file's numbers, and bfloat16 where they are quantized;
    float16, in which processors are slow, becomes float32 there. Raises FileNotFoundError where there is no file,
    ValueError in one line for a damaged file and a network that is not understood.
    """
    header = read_header(path)
    config = config_of(header)
    return load_into(header, config, device, dtype or dtype_of(header, device)), header


def config_of(header: GgufHeader) -> TransformerConfig:
    """The configuration of the network; no tensor is read but the small one of rotary factors.

    Raises ValueError naming what is missing or not understood.
    """
    architecture = header.text("general.architecture")
    if architecture not in ARCHITECTURES:
        found = "no architecture" if architecture is None else f"the architecture {_brief(architecture)}"
        raise ValueError(f"{header.path} names {found}; understood are {', '.join(ARCHITECTURES)}")
    d_model = _count(header, f"{architecture}.embedding_length")
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2 or embedding.shape[1] != d_model or not embedding.shape[0]:
        found = "lacks token_embd.weight" if embedding is None else f"has token_embd.weight of shape {embedding.shape}"
        raise ValueError(f"{header.path} {found}; it needs one row of {d_model} numbers for each token")
    n_layers = _count(header, f"{architecture}.block_count")
    if n_layers > len(header.tensors):
        raise ValueError(f"{header.path} is damaged: {n_layers:,} blocks, but {len(header.tensors):,} tensors")
    common: dict[str, Any] = {
        "vocab_size": embedding.shape[0],
        "d_model": d_model,
        "n_layers": n_layers,
        "n_heads": _count(header, f"{architecture}.attention.head_count"),
        "d_ff": _count(header, f"{architecture}.feed_forward_length"),
        "max_length": _count(header, f"{architecture}.context_length", most=_LONGEST),
        "tied_embedding": "output.weight" not in header.tensors,
    }
    try:
        return _gpt2(header, common) if architecture == "gpt2" else _llama(header, architecture, common)
    except ValueError as error:
        raise error if str(header.path) in str(error) else ValueError(f"{header.path}: {error}") from None


def _gpt2(header: GgufHeader, common: dict[str, Any]) -> TransformerConfig:
    return TransformerConfig(
        **common,
        norm="layer",
        norm_eps=_number(header, "gpt2.attention.layer_norm_epsilon", 1e-5),
        position="learned",
        feed_forward="gelu_tanh",
        bias=True,
    )


def _llama(header: GgufHeader, architecture: str, common: dict[str, Any]) -> TransformerConfig:
    heads = common["n_heads"]
    d_head = _count(header, f"{architecture}.attention.key_length", common["d_model"] // heads)
    theta = _number(header, f"{architecture}.rope.freq_base", 10_000.0)
    _refuse_others(header, architecture, d_head)
    window = header.whole(f"{architecture}.attention.sliding_window") or None
    return TransformerConfig(
        **common,
        n_kv_heads=_count(header, f"{architecture}.attention.head_count_kv", heads),
        d_head=d_head if d_head * heads != common["d_model"] else None,
        norm_eps=_number(header, f"{architecture}.attention.layer_norm_rms_epsilon", None),
        rope_theta=theta,
        rope_scaling=_scaling(header, architecture, d_head, theta),
        window=window,
        qkv_bias="blk.0.attn_q.bias" in header.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in header.tensors,
    )


def _refuse_others(header: GgufHeader, architecture: str, d_head: int) -> None:
    """Raises ValueError for what changes a network of these architectures in ways that are not understood."""
    expected = {
        f"{architecture}.rope.dimension_count": d_head,
        f"{architecture}.attention.value_length": d_head,
        f"{architecture}.expert_count": 0,
        f"{architecture}.rope.scale_linear": 1,
        f"{architecture}.rope.scaling.alpha": 0,
        f"{architecture}.rope.scaling.attn_factor": 1,
        f"{architecture}.rope.scaling.yarn_log_multiplier": 0,
        f"{architecture}.rope.scaling.yarn_ext_factor": 1,
        f"{architecture}.rope.scaling.yarn_attn_factor": 1,
        f"{architecture}.rope.scaling.yarn_beta_fast": 32,
        f"{architecture}.rope.scaling.yarn_beta_slow": 1,
        f"{architecture}.attention.causal": True,
    }
    for key, value in expected.items():
        found = header.metadata.get(key, value)
        if not isinstance(found, int | float) or found != value:
            raise ValueError(f"{header.path}: {key} is {_brief(found)}, and only {value} is understood")


def _scaling(header: GgufHeader, architecture: str, d_head: int, theta: float) -> RopeScaling | None:
    """The stretching that the metadata name, else Llama 3's whose factors are the file's.

    Raises ValueError for factors of another rule, and for a kind that is not understood.
    """
    info = header.tensors.get(ROPE_FACTORS)
    # What llama.cpp takes for granted where a factor stands without a type.
    kind = header.text(f"{architecture}.rope.scaling.type") or "linear"
    factor = _number(header, f"{architecture}.rope.scaling.factor", 1.0) if kind != "none" else 1.0
    if kind not in ("none", "linear", "yarn"):
        raise ValueError(
            f"{header.path}: rotary scaling {_brief(kind)} is not understood; linear, yarn and Llama 3's are"
        )
    if factor != 1.0:
        if info is not None:
            raise ValueError(f"{header.path}: rotary scaling {kind} together with {ROPE_FACTORS} is not understood")
        if kind == "linear":
            return RopeScaling(kind="linear", factor=factor)
        longest = _count(header, f"{architecture}.context_length", most=_LONGEST)
        original = _count(header, f"{architecture}.rope.scaling.original_context_length", longest, most=_LONGEST)
        return RopeScaling(kind="yarn", factor=factor, original_max_length=original)
    if info is None:
        return None
    count = -(-d_head // 2)
    if info.shape != (count,) or info.ggml_type != F32:
        raise ValueError(f"{header.path}: {ROPE_FACTORS} is no row of {count} float32 numbers")
    with header.path.open("rb") as file:
        file.seek(info.offset)
        found = np.frombuffer(file.read(info.n_bytes), "<f4").astype(np.float64)
    if (found == 1).all():
        return None
    original = _count(
        header, f"{architecture}.rope.scaling.original_context_length", RopeScaling.original_max_length, most=_LONGEST
    )
    scaling = RopeScaling(factor=1.0, original_max_length=original)
    last, smooth = float(found[-1]), float(_smoothness(d_head, theta, scaling)[-1])
    if 0 < last < math.inf and 1 / last > smooth:
        scaling = RopeScaling(factor=(1 - smooth) / (1 / last - smooth), original_max_length=original)
    if not np.allclose(found, rope_factors(d_head, theta, scaling), rtol=1e-5, atol=0):
        raise ValueError(f"{header.path}: {ROPE_FACTORS} does not follow Llama 3's rule, which alone is understood")
    return scaling


def rope_factors(d_head: int, theta: float, scaling: RopeScaling) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """By what each rotary frequency is divided (the inverse of `nn.positions.rope_frequencies`' stretching)."""
    smooth = _smoothness(d_head, theta, scaling)
    factors: np.ndarray[tuple[int], np.dtype[np.float64]] = 1 / ((1 - smooth) / scaling.factor + smooth)
    return factors


def _smoothness(d_head: int, theta: float, scaling: RopeScaling) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """0 where a frequency is stretched in full, 1 where it stays."""
    turns = scaling.original_max_length / (2 * math.pi * theta ** (np.arange(0, d_head, 2, dtype=np.float64) / d_head))
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    return np.clip((turns - low) / (high - low), 0.0, 1.0)


def dtype_of(header: GgufHeader, device: torch.device | str = "cpu") -> torch.dtype:
    """The precision to open a file in: see `open_gguf`."""
    shares: Counter[int] = Counter()
    for info in header.tensors.values():
        shares[info.ggml_type] += info.elements
    most = PLAIN.get(max(shares, key=lambda kind: shares[kind], default=F32), torch.bfloat16)
    return torch.float32 if most == torch.float16 and torch.device(device).type == "cpu" else most


def load_into(
    header: GgufHeader, config: TransformerConfig, device: torch.device | str, dtype: torch.dtype
) -> LanguageModel:
    """A network of this configuration with the weights of the file. Raises ValueError for tensors that do not fit."""
    parts = list(layout(config, header.text("general.architecture") or ""))
    for part in parts:  # before any memory is taken
        _check(header, part)
    if unknown := sorted(header.tensors.keys() - {part.tensor for part in parts} - {ROPE_FACTORS}):
        raise ValueError(f"{header.path} holds a tensor {_brief(unknown[0])} that is not understood")
    try:
        model = build_unfilled(config, device=device, dtype=dtype)
    except (RuntimeError, MemoryError):  # torch's own says how much in many lines
        size = sum(math.prod(part.shape) for part in parts) * dtype.itemsize / 1e9
        raise ValueError(f"{header.path}: there is no room on {device} for {size:.1f} GB of weights") from None
    assert isinstance(model, LanguageModel)
    _fill(header, iter(parts), dict(model.named_parameters()))
    return model


def _fill(header: GgufHeader, parts: Iterator[Part], parameters: Mapping[str, Tensor]) -> None:
    """Read all tensors, each on one of a few threads: torch's own would wait for one another at every step."""

    def work() -> None:
        with header.path.open("rb", buffering=0) as file:
            source = _Source(file, header.path)
            for part in parts:
                source.fill(part, header.tensors[part.tensor], parameters[part.parameter])

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(n_threads, MOST_THREADS)) as pool:
            shares = [pool.submit(work) for _ in range(min(n_threads, MOST_THREADS))]
            try:
                for share in shares:
                    share.result()
            finally:
                deque(parts, maxlen=0)  # after a failure or Ctrl-C nothing is left for the others
    finally:
        torch.set_num_threads(n_threads)


def _check(header: GgufHeader, part: Part) -> None:
    info = header.tensors.get(part.tensor)
    if info is None:
        raise ValueError(f"{header.path} lacks the tensor {part.tensor}")
    if info.shape != part.shape:
        raise ValueError(f"{header.path}: {part.tensor} has shape {info.shape}, but its metadata ask for {part.shape}")
    if info.ggml_type not in (PLAIN if len(part.shape) == 1 else NAMES):
        kind = NAMES.get(info.ggml_type, f"of GGML's type {info.ggml_type}")
        raise ValueError(
            f"{header.path}: {part.tensor} is {kind}, which is not read; matrices may be {', '.join(NAMES.values())}, "
            f"vectors {', '.join(NAMES[plain] for plain in PLAIN)}"
        )


@final
class _Source:
    """The file, and the memory that is used again for every chunk of it."""

    def __init__(self, file: FileIO, path: Path) -> None:
        self.file, self.path = file, path
        self.raw = torch.empty(0, dtype=torch.uint8)
        self.numbers = torch.empty(0)

    def fill(self, part: Part, info: TensorInfo, parameter: Tensor) -> None:
        """Put a tensor into its place in `parameter`."""
        target = part.of(parameter)
        self.file.seek(info.offset)
        if PLAIN.get(info.ggml_type) == target.dtype and target.is_contiguous() and target.device.type == "cpu":
            self.read(target.view(-1).view(torch.uint8))
            return
        block, size = BLOCKS[info.ggml_type]
        if not part.interleaved_heads:  # such rows lie one after another
            target = target.view(-1, block)
        step = max(1, CHUNK // target[0].numel())
        for rows in target.split(step):
            raw = self.buffer(rows.numel() // block * size)
            self.read(raw)
            if info.ggml_type in PLAIN:
                rows.copy_(raw.view(PLAIN[info.ggml_type]).view(rows.shape))
            else:
                rows.copy_(self.dequantized(raw, info.ggml_type, rows.numel()).view(rows.shape))

    def read(self, into: Tensor) -> None:
        """The next bytes of the file."""
        memory, done = into.numpy().data, 0
        while done < len(memory):
            count = self.file.readinto(memory[done:])
            if not count:
                raise ValueError(f"{self.path} is damaged: it ends within a tensor")
            done += count

    def buffer(self, size: int) -> Tensor:
        if self.raw.numel() < size:
            self.raw = torch.empty(size, dtype=torch.uint8)
        return self.raw[:size]

    def dequantized(self, raw: Tensor, ggml_type: int, count: int) -> Tensor:
        if self.numbers.numel() < count:
            self.numbers = torch.empty(count)
        dequantize(raw, ggml_type, self.numbers[:count])
        return self.numbers[:count]


def stop_ids_of(header: GgufHeader) -> tuple[int, ...]:
    """The tokens that end an answer: those that the file names, and control tokens of names known to llama.cpp."""
    names = header.strings("tokenizer.ggml.tokens") or []
    types = header.numbers("tokenizer.ggml.token_type")
    found = {header.whole(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot", "eom")}
    if types is not None and len(types) == len(names):
        control = (int(token) for token in np.flatnonzero(types == _CONTROL))
        found |= {token for token in control if names[token] in _END_NAMES}
    return tuple(sorted(token for token in found if token is not None and 0 <= token < len(names)))


def chat_template_of(header: GgufHeader) -> str | None:
    """The Jinja source that makes a prompt of a conversation, where the file has one."""
    return header.text("tokenizer.chat_template")


def _count(header: GgufHeader, key: str, default: int | None = None, *, most: int = _WIDEST) -> int:
    value = header.whole(key)
    value = default if value is None else value
    if value is None:
        raise ValueError(f"{header.path} lacks {key}")
    if not 1 <= value <= most:
        raise ValueError(f"{header.path}: {key}={value} lies outside 1 to {most}")
    return value


def _number(header: GgufHeader, key: str, default: float | None) -> float:
    value = header.metadata.get(key, default)
    if value is None:
        raise ValueError(f"{header.path} lacks {key}")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST:
        raise ValueError(f"{header.path}: {key} is no number above 0")
    return float(str(np.float32(value)))  # as it was written: 1e-05, not 9.999999747378752e-06


def _brief(value: object) -> str:
    """One short line of what may be anything."""
    text = " ".join(repr(value).split())
    return text if len(text) < 80 else text[:77] + "..."
