"""Small random networks of Hugging Face's families, and the same questions put to them and to ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diptych.core.random import Rng
from diptych.core.types import TokenPredictor
from diptych.models.encoder_decoder import EncoderDecoder
from diptych.models.network import Network
from diptych.nn.masks import Causal, Full
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest

VOCABULARY, LENGTH, PAD = 264, 20, 263

_SHARED = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
}
_GROUPED = {**_SHARED, "num_key_value_heads": 2}
_STRETCHED = {
    "rope_type": "llama3",
    "rope_theta": 5e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def _llama(**values: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**{**_GROUPED, **values}))


def _mistral() -> Any:
    from transformers import MistralConfig, MistralForCausalLM

    return MistralForCausalLM(MistralConfig(**_GROUPED, sliding_window=5))


def _qwen2(**values: Any) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    return Qwen2ForCausalLM(Qwen2Config(**{**_GROUPED, **values}))


def _qwen3() -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(Qwen3Config(**_GROUPED, head_dim=8))


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    ends = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(
        GPT2Config(n_embd=16, n_layer=2, n_head=2, n_inner=40, vocab_size=VOCABULARY, n_positions=64, **ends)
    )


def _bert() -> Any:
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(BertConfig(**_SHARED))


def _marian() -> Any:
    from transformers import MarianConfig, MarianMTModel

    parts = {f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in _PART.items()}
    config = MarianConfig(
        **parts,
        d_model=16,
        vocab_size=VOCABULARY,
        max_position_embeddings=64,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=PAD,
        decoder_start_token_id=PAD,
        eos_token_id=0,
        forced_eos_token_id=None,
    )
    return MarianMTModel(config)


_PART = {"layers": 2, "attention_heads": 2, "ffn_dim": 24}

FAMILIES: dict[str, Callable[[], Any]] = {
    "llama": _llama,
    "llama, tied, stretched, wide heads": lambda: _llama(
        tie_word_embeddings=True, rope_parameters=dict(_STRETCHED), head_dim=6
    ),
    "llama with biases": lambda: _llama(attention_bias=True, mlp_bias=True),
    "mistral": _mistral,
    "qwen2": lambda: _qwen2(tie_word_embeddings=True),
    "qwen2 with a window": lambda: _qwen2(use_sliding_window=True, sliding_window=5, max_window_layers=0),
    "qwen3": _qwen3,
    "gpt2": _gpt2,
    "bert": _bert,
    "marian": _marian,
}


def theirs(name: str) -> Any:
    """A network of a family whose every weight is random, biases and normalizations too."""
    torch.manual_seed(0)
    model = FAMILIES[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
        if name == "marian":
            model.final_logits_bias.normal_()
    return model


def save(model: Any, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    return folder


def tokens(rows: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(1, PAD, (rows, length), generator=torch.Generator().manual_seed(3))


@torch.inference_mode()
def their_logits(model: Any, x: Tensor) -> Tensor:
    if model.config.model_type == "marian":
        return model(input_ids=x, attention_mask=torch.ones_like(x), decoder_input_ids=x.flip(1)).logits
    return model(x).logits


@torch.inference_mode()
def our_logits(model: Network, x: Tensor, *, is_encoder: bool = False) -> Tensor:
    if isinstance(model, EncoderDecoder):
        return model(x, torch.full((len(x),), x.shape[1]), x.flip(1))
    return model(x, mask=Full() if is_encoder else Causal())


def their_continuation(model: Any, x: Tensor, count: int) -> list[list[int]]:
    """Greedy tokens after each row, or of its translation."""
    options = {"do_sample": False, "num_beams": 1, "pad_token_id": PAD, "attention_mask": torch.ones_like(x)}
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    out = model.generate(x, max_new_tokens=count, **options)
    return out[:, -count:].tolist()


def our_continuation(model: Network, x: Tensor, count: int) -> list[list[int]]:
    predictor: TokenPredictor
    if isinstance(model, EncoderDecoder):
        with torch.inference_mode():
            predictor = model.given(x, torch.full((len(x),), x.shape[1]))
        prompts = [[PAD]] * len(x)
    else:
        predictor, prompts = model, x.tolist()
    request = GenerationRequest(prompts=prompts, max_new_tokens=count, eos_id=-1)
    frames = AutoregressiveSampler(temperature=0).sample(predictor, request, Rng(0))
    return torch.stack([frame.state for frame in frames], dim=1).tolist()
