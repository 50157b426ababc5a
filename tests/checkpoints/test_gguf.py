"""Is the network of a GGUF file the one that was put there, and is a hostile file refused before it takes memory?"""

from __future__ import annotations

import dataclasses
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from diptych.checkpoints.gguf import (
    chat_template_of,
    config_of,
    dtype_of,
    load_into,
    open_gguf,
    rope_factors,
    stop_ids_of,
)
from diptych.core.config import RopeScaling, TransformerConfig
from diptych.core.gguf import read_header
from diptych.models.language_model import LanguageModel
from diptych.nn.masks import Causal

D, INNER, LAYERS, HEADS, GROUPS, VOCAB = 32, 64, 2, 4, 2, 48
TYPES = gguf.GGMLQuantizationType


def metadata(architecture: str = "llama", **changes: Any) -> dict[str, Any]:
    values = {
        "context_length": 64,
        "embedding_length": D,
        "block_count": LAYERS,
        "feed_forward_length": INNER,
        "attention.head_count": HEADS,
        "attention.head_count_kv": GROUPS,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 5e4,
        "rope.dimension_count": D // HEADS,
    }
    changed = {**values, **{key.replace("__", "."): value for key, value in changes.items()}}
    return {f"{architecture}.{key}": value for key, value in changed.items() if value is not None}


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """A network of Llama's kind, rows of queries and keys as in the published weights."""
    generator = np.random.default_rng(seed)
    keys = GROUPS * D // HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (VOCAB, D), "output_norm": (D,), "output": (VOCAB, D)}
    for index in range(LAYERS):
        block = {"attn_norm": (D,), "attn_q": (D, D), "attn_k": (keys, D), "attn_v": (keys, D), "attn_output": (D, D)}
        block |= {"ffn_norm": (D,), "ffn_gate": (INNER, D), "ffn_up": (INNER, D), "ffn_down": (D, INNER)}
        shapes |= {f"blk.{index}.{name}": shape for name, shape in block.items()}
    return {f"{name}.weight": generator.standard_normal(s).astype(np.float32) * 0.2 for name, s in shapes.items()}


def permuted(weights: np.ndarray, n_heads: int) -> np.ndarray:
    """What llama.cpp's converter does to the rows of queries and keys of Llama."""
    halves = weights.reshape(n_heads, 2, weights.shape[0] // n_heads // 2, *weights.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))


def in_file_order(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    heads = {"attn_q": HEADS, "attn_k": GROUPS}
    kinds = {name: heads.get(name.split(".")[-2]) for name in given}
    return {name: permuted(t, count) if (count := kinds[name]) else t for name, t in given.items()}


def write(
    path: Path,
    pairs: dict[str, Any],
    given: dict[str, np.ndarray],
    kind: TYPES = TYPES.F32,
    architecture: str = "llama",
) -> Path:
    """A file by GGUF's own library, matrices as `kind`."""
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in pairs.items():
        match value:
            case bool():
                writer.add_bool(key, value)
            case int():
                writer.add_uint32(key, value)
            case float():
                writer.add_float32(key, value)
            case str():
                writer.add_string(key, value)
            case _:
                writer.add_array(key, value)
    for name, tensor in given.items():
        if tensor.ndim > 1 and kind != TYPES.F32:
            writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def small(path: Path, given: dict[str, np.ndarray] | None = None, kind: TYPES = TYPES.F32, **changes: Any) -> Path:
    return write(path / "model.gguf", metadata(**changes), in_file_order(tensors()) if given is None else given, kind)


def logits(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids]), mask=Causal())[0]


IDS = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7]


def llama_of_hugging_face(given: dict[str, np.ndarray]) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=D,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=GROUPS,
            intermediate_size=INNER,
            vocab_size=VOCAB,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 5e4},
            tie_word_embeddings=False,
        )
    )
    names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj"}
    names |= {f"attn_{letter}": f"self_attn.{letter}_proj" for letter in "qkv"}
    names |= {f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    state = {"model.embed_tokens.weight": given["token_embd.weight"], "lm_head.weight": given["output.weight"]}
    state["model.norm.weight"] = given["output_norm.weight"]
    for index in range(LAYERS):
        for ours, theirs in names.items():
            state[f"model.layers.{index}.{theirs}.weight"] = given[f"blk.{index}.{ours}.weight"]
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in state.items()}, strict=True)
    return model.eval()


def test_logits_equal_those_of_hugging_face_on_the_same_weights(tmp_path: Path) -> None:
    given = tensors()
    model, _ = open_gguf(small(tmp_path))
    with torch.inference_mode():
        theirs = llama_of_hugging_face(given)(torch.tensor([IDS])).logits[0]
    assert torch.allclose(logits(model, IDS), theirs, atol=1e-5)
    assert theirs.abs().max() > 0.5


def test_the_configuration_is_the_files(tmp_path: Path) -> None:
    found = config_of(read_header(small(tmp_path, attention__sliding_window=16)))
    assert found == TransformerConfig(
        vocab_size=VOCAB,
        d_model=D,
        n_layers=LAYERS,
        n_heads=HEADS,
        n_kv_heads=GROUPS,
        d_ff=INNER,
        max_length=64,
        rope_theta=5e4,
        tied_embedding=False,
        window=16,
    )


@pytest.mark.parametrize(
    "kind", [TYPES.F16, TYPES.BF16, TYPES.Q8_0, TYPES.Q4_0, TYPES.Q4_1], ids=lambda kind: kind.name
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_parameter_is_the_dequantized_tensor_rounded(kind: TYPES, dtype: torch.dtype, tmp_path: Path) -> None:
    model, _ = open_gguf(small(tmp_path, kind=kind), dtype=dtype)

    def expected(name: str) -> torch.Tensor:
        tensor = tensors()[name]
        if tensor.ndim > 1:
            tensor = gguf.dequantize(gguf.quantize(tensor, kind), kind)
        return torch.from_numpy(tensor.copy()).to(dtype)

    for index, block in enumerate(model.blocks):
        qkv = torch.cat([expected(f"blk.{index}.attn_{letter}.weight") for letter in "qkv"])
        inner = torch.cat([expected(f"blk.{index}.ffn_{name}.weight") for name in ("gate", "up")])
        assert torch.equal(block.attention.input.weight, qkv)
        assert torch.equal(block.feed_forward.input.weight, inner)
        assert torch.equal(block.feed_forward.output.weight, expected(f"blk.{index}.ffn_down.weight"))
        assert torch.equal(block.attention_norm.weight, expected(f"blk.{index}.attn_norm.weight"))
    assert torch.equal(model.embedding.weight, expected("token_embd.weight"))
    assert torch.equal(model.unembedding, expected("output.weight"))
    assert model.rope is not None
    assert model.rope.dtype == torch.float32
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_the_precision_is_that_of_most_numbers(tmp_path: Path) -> None:
    expected = {TYPES.F32: torch.float32, TYPES.F16: torch.float32, TYPES.BF16: torch.bfloat16}
    for kind in (*expected, TYPES.Q8_0):
        path = small(tmp_path, kind=kind)
        assert dtype_of(read_header(path)) == expected.get(kind, torch.bfloat16)
        assert open_gguf(path)[0].embedding.weight.dtype == expected.get(kind, torch.bfloat16)


def test_chunks_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small(tmp_path, kind=TYPES.Q8_0)
    whole, _ = open_gguf(path)
    monkeypatch.setattr("diptych.checkpoints.gguf.CHUNK", 100)
    for ours, expected in zip(open_gguf(path)[0].parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, expected)


def test_rotary_factors_are_llama_3s() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rules = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    rules["original_max_position_embeddings"] = 8192
    config = LlamaConfig(hidden_size=256, num_attention_heads=4, rope_parameters=rules)
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 5e5 ** (-np.arange(0, 64, 2) / 64)
    ours = rope_factors(64, 5e5, RopeScaling(factor=32.0))
    assert np.allclose(ours, plain / stretched.double().numpy(), rtol=1e-5)


def with_factors(path: Path, factors: np.ndarray, **changes: Any) -> Path:
    given = {**in_file_order(tensors()), "rope_freqs.weight": factors.astype(np.float32)}
    return small(path, given, **changes)


def test_the_stretching_is_found_from_its_factors(tmp_path: Path) -> None:
    for scaling in (
        RopeScaling(factor=8.0),
        RopeScaling(factor=2.5),
        RopeScaling(factor=32.0, original_max_length=128),
    ):
        original = {"rope__scaling__original_context_length": scaling.original_max_length}
        path = with_factors(tmp_path, rope_factors(D // HEADS, 5e4, scaling), **original)
        found = config_of(read_header(path)).rope_scaling
        assert found is not None
        assert found.factor == pytest.approx(scaling.factor, rel=1e-6)
        assert found.original_max_length == scaling.original_max_length
    assert config_of(read_header(with_factors(tmp_path, np.ones(D // HEADS // 2)))).rope_scaling is None


def test_scaling_is_read_from_its_type_and_factor(tmp_path: Path) -> None:
    def found(**changes: Any) -> RopeScaling | None:
        given = {f"rope__scaling__{key}": value for key, value in changes.items()}
        return config_of(read_header(small(tmp_path, **given))).rope_scaling

    assert found(type="none", factor=4.0) is None
    assert found(type="linear") is None
    assert found(type="linear", factor=2.5) == found(factor=2.5) == RopeScaling(kind="linear", factor=2.5)
    yarn = RopeScaling(kind="yarn", factor=4.0, original_max_length=16)
    assert found(type="yarn", factor=4.0, original_context_length=16) == yarn
    assert found(type="yarn", factor=4.0) == dataclasses.replace(yarn, original_max_length=64)  # the context's
    assert "together with rope_freqs" in refusal(
        with_factors(tmp_path, np.array([1, 1, 8, 8]), rope__scaling__type="linear", rope__scaling__factor=2.0)
    )


@pytest.mark.parametrize("factors", [[2, 2, 2, 2], [1, 1, 8, 7], [1, 1, 1, 0], [1, 1, 1, np.nan], [1, 1, 1, np.inf]])
def test_other_factors_are_refused(factors: list[float], tmp_path: Path) -> None:
    assert "does not follow Llama 3's rule" in refusal(with_factors(tmp_path, np.array(factors)))
    assert "no row of 4 float32" in refusal(with_factors(tmp_path, np.ones(3)))


def test_stop_tokens_and_chat_template(tmp_path: Path) -> None:
    names = ["a", "<|im_end|>", "</s>", "<|eot_id|>", "<|endoftext|>"]
    pairs = {"tokenizer.ggml.tokens": names, "tokenizer.ggml.token_type": [1, 3, 3, 1, 3]}
    pairs |= {"tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.eot_token_id": 0, "tokenizer.ggml.eom_token_id": 77}
    header = read_header(write(tmp_path / "a.gguf", {**pairs, "tokenizer.chat_template": "{{ x }}"}, {}))
    assert stop_ids_of(header) == (0, 1, 2, 4)
    assert chat_template_of(header) == "{{ x }}"
    header = read_header(write(tmp_path / "b.gguf", {}, {}))
    assert stop_ids_of(header) == ()
    assert chat_template_of(header) is None


def refusal(path: Path) -> str:
    """One line, and hardly any memory."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as caught:
            open_gguf(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 400 + len(str(path))
    return text


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other width": ({"embedding_length": 64}, "one row of 64 numbers for each token"),
    "no width": ({"embedding_length": None}, "lacks llama.embedding_length"),
    "many blocks": ({"block_count": 2**20}, "1,048,576 blocks, but"),
    "a block too many": ({"block_count": 3}, "lacks the tensor blk.2.attn_norm.weight"),
    "a block too few": ({"block_count": 1}, "holds a tensor 'blk.1.attn_k.weight'"),
    "no blocks": ({"block_count": 0}, "block_count=0 lies outside"),
    "wide": ({"feed_forward_length": 2**31}, "feed_forward_length=2147483648 lies outside"),
    "wide, within bounds": ({"feed_forward_length": 2**23}, "metadata ask for (8388608, 32)"),
    "wide heads": ({"attention__key_length": 2**20}, "rope.dimension_count is 8"),
    "wide heads, by all": (
        dict.fromkeys(["attention__key_length", "attention__value_length", "rope__dimension_count"], 2**20),
        "metadata ask for (4194304, 32)",
    ),
    "many heads": ({"attention__head_count": 2**20}, "key_length=0"),
    "heads that do not divide": ({"attention__head_count": 3, "rope__dimension_count": 10}, "no multiple of"),
    "no heads": ({"attention__head_count": 0}, "head_count=0"),
    "heads by layer": ({"attention__head_count_kv": [2, 2]}, "not a whole number"),
    "long": ({"context_length": 2**31}, "context_length=2147483648 lies outside"),
    "theta": ({"rope__freq_base": float("inf")}, "no number above 0"),
    "epsilon": ({"attention__layer_norm_rms_epsilon": float("nan")}, "no number above 0"),
    "epsilon is text": ({"attention__layer_norm_rms_epsilon": "1e-5"}, "no number above 0"),
    "longrope": ({"rope__scaling__type": "longrope"}, "rotary scaling 'longrope' is not understood"),
    "a factor of zero": ({"rope__scaling__factor": 0.0}, "no number above 0"),
    "YaRN of DeepSeek": ({"rope__scaling__yarn_log_multiplier": 0.1}, "and only 0 is understood"),
    "YaRN of gpt-oss": ({"rope__scaling__yarn_beta_fast": 64.0}, "and only 32 is understood"),
    "attention factor": ({"rope__scaling__attn_factor": 1.2}, "and only 1 is understood"),
    "experts": ({"expert_count": 8}, "expert_count is 8, and only 0"),
    "half rotated": ({"rope__dimension_count": 4}, "rope.dimension_count is 4, and only 8"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_networks_that_do_not_fit_are_refused(name: str, tmp_path: Path) -> None:
    changes, reason = REFUSED[name]
    assert reason in refusal(small(tmp_path, **changes))


def test_other_architectures_are_refused_by_name(tmp_path: Path) -> None:
    for architecture in ("gemma3", "a\nb" * 100):
        path = write(tmp_path / "model.gguf", {}, {}, architecture=architecture)
        assert "understood are llama, qwen2, qwen3, gpt2" in refusal(path)


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    given = in_file_order(tensors())
    for name in given:
        kept = {other: tensor for other, tensor in given.items() if other != name}
        if name == "output.weight":
            assert config_of(read_header(small(tmp_path, kept))).tied_embedding
            continue
        assert "lacks" in refusal(small(tmp_path, kept))
        wrong = {**given, name: np.ones((*given[name].shape[:-1], 96), np.float32)}
        assert "of shape" in refusal(small(tmp_path, wrong)) or "has shape" in refusal(small(tmp_path, wrong))
    assert "holds a tensor 'blk.0.attn_output.bias'" in refusal(
        small(tmp_path, {**given, "blk.0.attn_output.bias": np.ones(D, np.float32)})
    )


def test_tensors_of_other_types_are_refused(tmp_path: Path) -> None:
    assert "is of GGML's type 6, which is not read" in refusal(small(tmp_path, kind=TYPES.Q5_0))


def placed(path: Path, entries: list[tuple[tuple[int, ...], int, int]], size: int) -> Path:
    """A header of tensors by (shape, type, offset), and a sparse file of `size` bytes."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(entries), 0)]
    for index, (shape, kind, offset) in enumerate(entries):
        parts += [struct.pack("<Q", 2), f"t{index}".encode(), struct.pack("<I", len(shape))]
        parts.append(struct.pack(f"<{len(shape)}QIQ", *shape[::-1], kind, offset))
    with path.open("wb") as file:
        file.write(b"".join(parts))
        file.truncate(size)
    return path


HOSTILE = {
    "larger than the file": ([((1024, 1024), 0, 0)], 2**20, "lies outside the file"),
    "a byte too large": ([((256,), 0, 0)], 64 + 1023, "lies outside the file"),
    "terabytes": ([((2**20, 2**20), 8, 0)], 2**16, "larger than the file"),
    "overflowing": ([((2**62, 4), 8, 0)], 2**16, "larger than the file"),
    "overlap": ([((64,), 0, 0), ((64,), 0, 128)], 2**16, "tensors t0 and t1 overlap"),
    "overlap, the other way": ([((64,), 0, 128), ((64,), 0, 0)], 2**16, "tensors t1 and t0 overlap"),
    "the same place": ([((64,), 0, 0), ((64,), 0, 0)], 2**16, "overlap"),
    "half a block": ([((4, 48), 8, 0)], 2**16, "not in whole blocks of 32"),
    "half a block of blocks": ([((4, 128), 12, 0)], 2**16, "not in whole blocks of 256"),
    "no dimensions": ([((), 8, 0)], 2**16, "not in whole blocks of 32"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_places_that_lie_are_refused(name: str, tmp_path: Path) -> None:
    entries, size, reason = HOSTILE[name]
    assert reason in refusal(placed(tmp_path / "model.gguf", entries, size))


def test_neighbours_without_a_gap_are_no_overlap(tmp_path: Path) -> None:
    entries = [((2, 32), 8, 96), ((8,), 0, 64), ((16,), 0, 0), ((0,), 0, 32)]
    header = read_header(placed(tmp_path / "model.gguf", entries, 320 + 68))
    assert [info.n_bytes for info in header.tensors.values()] == [68, 32, 64, 0]


def test_a_file_that_shrinks_after_its_header_was_read(tmp_path: Path) -> None:
    path = small(tmp_path)
    header = read_header(path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 100)
    with pytest.raises(ValueError, match="ends within a tensor"):
        load_into(header, config_of(header), "cpu", torch.float32)


def test_no_room_for_the_weights_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **named: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nand a trace")

    monkeypatch.setattr("diptych.checkpoints.gguf.build_unfilled", full)
    assert "there is no room on cpu for 0.0 GB of weights" in refusal(small(tmp_path))


def test_a_failure_in_one_thread_stops_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, filled = small(tmp_path), []

    def fill(self: Any, part: Any, *others: Any) -> None:
        filled.append(part.tensor)
        raise OSError("the disk is gone")

    monkeypatch.setattr("diptych.checkpoints.gguf._Source.fill", fill)
    threads = torch.get_num_threads()
    with pytest.raises(OSError, match="the disk is gone"):
        open_gguf(path)
    assert len(filled) <= threads
    assert torch.get_num_threads() == threads


def damaged(data: bytes, structure: int, generator: random.Random) -> bytes:
    """A file with a few bytes flipped, a part missing, or numbers replaced, mostly where its structure stands."""
    changed = bytearray(data)
    for _ in range(generator.choice([1, 1, 2, 5])):
        place = generator.randrange(structure if generator.random() < 0.9 else len(changed))
        match generator.randrange(5):
            case 0:
                changed[place] ^= 1 << generator.randrange(8)
            case 1:
                changed[place] = generator.randrange(256)
            case 2:
                number = generator.choice([0, 1, 2, 3, 32, 33, 2**16, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1])
                changed[place : place + 8] = struct.pack("<Q", number)
            case 3:
                changed[place : place + 4] = struct.pack("<I", generator.choice([0, 1, 2, 4, 8, 12, 14, 30, 64, 2**30]))
            case _:
                changed[place : place + generator.randrange(1, 9)] = b""
        if generator.random() < 0.1:
            del changed[generator.randrange(1, len(changed)) :]
        structure = min(structure, len(changed))
    return bytes(changed)


def test_5000_damaged_files_open_or_are_refused(tmp_path: Path) -> None:
    given = {name: tensor for name, tensor in in_file_order(tensors()).items() if "blk.1" not in name}
    data = small(tmp_path, given, TYPES.Q8_0, block_count=1).read_bytes()
    structure = data.index(b"blk.0.ffn_down.weight") + 60
    path, generator = tmp_path / "damaged.gguf", random.Random(17)
    outcomes = {"opened": 0, "refused": 0}
    cut = [data[:size] for size in range(0, len(data), len(data) // 500)]
    cases = [*cut, *(damaged(data, structure, generator) for _ in range(5000 - len(cut)))]
    with path.open("wb", buffering=0) as file:
        for content in cases:
            file.seek(0)
            file.write(content)
            file.truncate()
            try:
                open_gguf(path)
                outcomes["opened"] += 1
            except (ValueError, OSError) as error:
                text = str(error)
                assert str(path) in text
                assert "\n" not in text
                assert len(text) < 500 + len(str(path))
                outcomes["refused"] += 1
    assert sum(outcomes.values()) == 5000
    assert min(outcomes.values()) > 200, outcomes
