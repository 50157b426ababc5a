"""How is a network written as a GGUF file that llama.cpp runs?

Decoders of the kinds that llama.cpp knows: Llama's, which become its architecture `llama`, with biases on queries, keys
and values `qwen2`, with normalized queries and keys `qwen3`; and GPT-2's. Tensors are converted and written one after
another; vectors stay float32, which llama.cpp asks for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, final

import numpy as np
import torch
from torch import Tensor

from diptych.checkpoints.gguf import rope_factors
from diptych.checkpoints.gguf_layout import ROPE_FACTORS, layout
from diptych.checkpoints.quantization import BF16, F16, F32, PLAIN, Q4_0, Q4_1, Q8_0, quantize
from diptych.core.config import RopeScaling, TransformerConfig
from diptych.core.events import Handler, Progressed, ignore
from diptych.core.files import replacing
from diptych.core.gguf import BLOCKS, MAGIC, Value
from diptych.models.language_model import LanguageModel
from diptych.models.network import Network
from diptych.nn.positions import stretched_theta
from diptych.tokenizers.base import Tokenizer
from diptych.tokenizers.gguf_export import gguf_metadata

FileType = Literal["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]

_TYPES: dict[FileType, tuple[int, int]] = {
    "F32": (F32, 0), "F16": (F16, 1), "BF16": (BF16, 32), "Q8_0": (Q8_0, 7), "Q4_0": (Q4_0, 2), "Q4_1": (Q4_1, 3),
}  # fmt: skip
"""Name of a type -> its number as a tensor's, and as a file's (llama.cpp's `LLAMA_FTYPE`)."""

ALIGNMENT = 32
_VERSION, _STRING, _ARRAY = 3, 8, 9
_KINDS = {np.dtype(np.int32): 5, np.dtype(np.float32): 6}


@final
@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A tensor to write: its values in the order of the file, and GGML's number of its type there."""

    name: str
    shape: tuple[int, ...]
    values: Tensor
    ggml_type: int

    @property
    def n_bytes(self) -> int:
        block, size = BLOCKS[self.ggml_type]
        return self.values.numel() // block * size


def write_gguf(
    path: Path,
    model: Network,
    tokenizer: Tokenizer,
    *,
    file_type: FileType,
    chat_template: str | None = None,
    name: str | None = None,
    on_event: Handler = ignore,
) -> None:
    """Write a network and its tokenizer, atomically.

    file_type: GGML's type of the matrices; where rows are no multiple of its block, float16. name: general.name; None:
    the file's. Raises ValueError in one line for a network or tokenizer that llama.cpp cannot run.
    """
    architecture = architecture_of(model.config)
    assert isinstance(model, LanguageModel)
    # Where a chat template opens the text, nothing else must, unless the tokenizer says so.
    add_bos = chat_template is None or tokenizer.opening_id != tokenizer.eos_id
    metadata: dict[str, Value] = {
        "general.architecture": architecture,
        "general.type": "model",
        "general.name": name or path.stem,
        "general.file_type": _TYPES[file_type][1],
        "general.quantization_version": 2,
        "general.alignment": ALIGNMENT,
        **_network_metadata(model.config, architecture),
        **gguf_metadata(tokenizer, model.config.vocab_size, add_bos=add_bos),
    }
    if chat_template is not None:
        metadata["tokenizer.chat_template"] = chat_template
    entries = list(_entries(model, architecture, _TYPES[file_type][0]))
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_header(metadata, entries))
        _pad(file)
        for done, entry in enumerate(entries):
            file.write(_encoded(entry).numpy().data)
            _pad(file)
            on_event(Progressed(what=f"writing {path}", done=done + 1, total=len(entries), unit="tensors"))


def architecture_of(config: TransformerConfig) -> str:
    """llama.cpp's name for networks of this configuration. Raises ValueError naming what it cannot run."""
    if _differences(config, norm="layer", position="learned", feed_forward="gelu_tanh", bias=True) == []:
        return "gpt2"
    if differences := _differences(config, norm="rms", position="rope", feed_forward="swiglu", bias=False):
        raise ValueError(
            f"GGUF is written for decoders of Llama's, Qwen's and GPT-2's kinds, not for {', '.join(differences)}; "
            "export a Hugging Face folder"
        )
    if config.window is not None and config.window < config.max_length:
        raise ValueError(
            f"llama.cpp attends to everything, not to a window of {config.window} of {config.max_length} tokens; "
            "export a Hugging Face folder"
        )
    _check_scaling(config)
    if config.qkv_bias and config.qk_norm:
        raise ValueError("llama.cpp knows no network with both qkv_bias and qk_norm; export a Hugging Face folder")
    return "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"


def _check_scaling(config: TransformerConfig) -> None:
    """Raises ValueError for rotary scaling that a GGUF file cannot tell llama.cpp."""
    scaling = config.rope_scaling
    if scaling is not None and scaling.kind == "dynamic":
        raise ValueError("llama.cpp knows no dynamic rotary scaling; export a Hugging Face folder")
    usual = RopeScaling()
    if scaling is not None and scaling.kind == "yarn":
        own = (scaling.beta_fast, scaling.beta_slow, scaling.attention_factor)
        if own != (usual.beta_fast, usual.beta_slow, None):
            raise ValueError(
                "llama.cpp runs YaRN with its usual beta_fast, beta_slow and attention_factor only, not with "
                f"{own[0]:g}, {own[1]:g} and {own[2]}; export a Hugging Face folder"
            )


def _differences(config: TransformerConfig, *, norm: str, position: str, feed_forward: str, bias: bool) -> list[str]:
    """The options that are not as a kind of network asks."""
    expected = {
        "n_encoder_layers": 0,
        "mask": (),
        "attention": ("softmax",),
        "norm": norm,
        "norm_placement": "pre",
        "position": position,
        "position_scheme": None,
        "feed_forward": feed_forward,
        "bias": bias,
        "embedding_norm": False,
        "head_transform": False,
        "output_bias": False,
        "embedding_scale": False,
    }
    if norm == "layer":
        expected |= {"n_kv_heads": None, "qkv_bias": False, "qk_norm": False, "d_head": None, "window": None}
    found = {key: getattr(config, key) for key in expected}
    return [f"{key}={found[key]}" for key, value in expected.items() if found[key] != value]


def _network_metadata(config: TransformerConfig, architecture: str) -> dict[str, Value]:
    shared: dict[str, Value] = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_length,
        "embedding_length": config.d_model,
        "block_count": config.n_layers,
        "feed_forward_length": config.inner_width,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.kv_heads,
    }
    if architecture == "gpt2":
        shared["attention.layer_norm_epsilon"] = config.norm_eps
    else:
        shared |= {
            "attention.key_length": config.head_width,
            "attention.value_length": config.head_width,
            "attention.layer_norm_rms_epsilon": config.norm_eps,
            "rope.dimension_count": config.head_width,
            "rope.freq_base": config.rope_theta,
        }
    scaling = config.rope_scaling if config.position == "rope" else None
    if scaling is not None and scaling.kind == "ntk":  # another base, and nothing else
        shared["rope.freq_base"] = stretched_theta(config.head_width, config.rope_theta, scaling)
    elif scaling is not None:
        shared["rope.scaling.original_context_length"] = scaling.original_max_length
        if scaling.kind != "llama3":
            shared |= {"rope.scaling.type": scaling.kind, "rope.scaling.factor": scaling.factor}
    return {f"{architecture}.{key}": value for key, value in shared.items()}


def _entries(model: LanguageModel, architecture: str, ggml_type: int) -> Iterator[_Entry]:
    config = model.config
    parameters = dict(model.named_parameters())
    if config.rope_scaling is not None and config.rope_scaling.kind == "llama3" and config.position == "rope":
        factors = torch.from_numpy(rope_factors(config.head_width, config.rope_theta, config.rope_scaling)).float()
        yield _Entry(name=ROPE_FACTORS, shape=tuple(factors.shape), values=factors, ggml_type=F32)
    for part in layout(config, architecture):
        kind = ggml_type
        if len(part.shape) == 1 or part.tensor == "position_embd.weight":
            kind = F32  # as llama.cpp wants them
        elif part.shape[-1] % BLOCKS[kind][0]:
            kind = F16
        values = part.of(parameters[part.parameter])
        yield _Entry(name=part.tensor, shape=part.shape, values=values, ggml_type=kind)


def _encoded(entry: _Entry) -> Tensor:
    """The bytes of a tensor."""
    values = entry.values.detach().cpu().contiguous().view(-1)
    if entry.ggml_type in PLAIN:
        return values.to(PLAIN[entry.ggml_type]).view(torch.uint8)
    return quantize(values, entry.ggml_type)


def _header(metadata: Mapping[str, Value], entries: list[_Entry]) -> bytes:
    """All that stands before the tensors."""
    parts = [MAGIC, struct.pack("<IQQ", _VERSION, len(entries), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), _value(value)]
    offset = 0
    for entry in entries:
        lengths = entry.shape[::-1]
        parts += [_text(entry.name), struct.pack(f"<I{len(lengths)}Q", len(lengths), *lengths)]
        parts.append(struct.pack("<IQ", entry.ggml_type, offset))
        offset += -(-entry.n_bytes // ALIGNMENT) * ALIGNMENT
    return b"".join(parts)


def _value(value: Value) -> bytes:
    """A value with the number of its type before it."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", _STRING) + _text(value)
        case list():
            return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))
        case _:
            return struct.pack("<IIQ", _ARRAY, _KINDS[value.dtype], len(value)) + value.tobytes()


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _pad(file: IO[bytes]) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))
