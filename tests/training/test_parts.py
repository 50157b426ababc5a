"""Networks, data and objectives that do not fit together are refused before anything is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diptych.core.config import DataConfig, RunConfig, TokenizerConfig, TransformerConfig
from diptych.core.events import ignore
from diptych.core.text_diffusion_config import TextDiffusionConfig
from diptych.presets import load_run
from diptych.training.distributed import World, choose_device
from diptych.training.prepare import prepare

PACKED, BLOCKS = DataConfig(document_mask=False), TextDiffusionConfig(block_length=4)
PAIRS = DataConfig(source=("numbers:de-en",), format="pairs", max_bytes=20_000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": TransformerConfig(n_encoder_layers=1)}, "learns from pairs"),
        ({"data": PAIRS}, "by an encoder-decoder"),
        ({"data": PAIRS, "model": TransformerConfig(n_encoder_layers=1), "objective": "masked_lm"}, "running text"),
        ({"objective": "masked_diffusion"}, "data.document_mask = false"),
        ({"objective": "masked_diffusion", "data": DataConfig(format="recall")}, "running text"),
        ({"objective": "uniform_diffusion", "data": PACKED, "text_diffusion": BLOCKS}, "has no blocks"),
        (
            {"objective": "masked_diffusion", "data": PACKED, "model": TransformerConfig(attention=("gated_delta",))},
            "left to right only",
        ),
        (
            {
                "objective": "masked_diffusion",
                "data": PACKED,
                "text_diffusion": BLOCKS,
                "model": TransformerConfig(position="alibi"),
            },
            "ALiBi",
        ),
        (
            {
                "objective": "masked_diffusion",
                "data": PACKED,
                "text_diffusion": BLOCKS,
                "model": TransformerConfig(window=8),
            },
            "a mask of its own",
        ),
        (
            {
                "objective": "masked_diffusion",
                "data": PACKED,
                "tokenizer": TokenizerConfig(special_tokens=("<|hidden|>",)),
                "text_diffusion": TextDiffusionConfig(mask_token="<|gone|>"),
            },
            r"mask_token = '<\|gone\|>' is no special token of the tokenizer; it has <\|endoftext\|>, <\|hidden\|>$",
        ),
        (
            {
                "objective": "masked_diffusion",
                "data": DataConfig(format="pixels", source=("digits",), sequence_length=64),
                "text_diffusion": TextDiffusionConfig(mask_token="<|gone|>"),
            },
            r"it has <\|endoftext\|>, <\|mask\|>$",
        ),
        ({"objective": "masked_lm"}, "the tokenizer has no mask token"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    run = RunConfig(out=str(tmp_path / "run"), **changes)
    with pytest.raises(ValueError, match=message) as caught:
        prepare(run, World(0, 1, choose_device("cpu")), ignore)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_presets_name_is_an_experiment_of_its_kind() -> None:
    assert load_run("vanilla-2017-tiny").data.format == "pairs"
    bert = load_run("bert-tiny")
    assert bert.objective == "masked_lm" and bert.tokenizer.special_tokens == ("<|mask|>",)
    assert load_run("llama-tiny").objective == "autoregressive" and load_run("llama-tiny").data.format == "text"
