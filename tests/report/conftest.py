"""Results of a review that never ran, with every part filled in."""

from __future__ import annotations

import math

import pytest

from diptych.data.lengths import CorpusLengths, measure_lengths
from diptych.data.sources import Document
from diptych.evaluation.yardsticks import Yardstick
from diptych.report.results import (
    Candidate,
    CurvePoint,
    DataInfo,
    HeldoutPoint,
    MachineInfo,
    ModelInfo,
    NextTokenStep,
    PartSize,
    ReviewResults,
    Sample,
    Scheme,
    Score,
    Stage,
    TokenizerInfo,
)
from diptych.tokenizers.simple import ByteTokenizer


def _lengths() -> CorpusLengths:
    texts = ["sun " * n for n in (2, 3, 40)]
    return measure_lengths("a corpus", [Document(text, "") for text in texts], tokenizer=ByteTokenizer(), context=64)


@pytest.fixture
def full() -> ReviewResults:
    return ReviewResults(
        version="0.1.0",
        created="2024-02-29T12:00:00+00:00",
        command="diptych review --budget 60",
        seed=7,
        budget_seconds=60.0,
        mfu=0.45,
        model=ModelInfo(
            parts=(PartSize(name="Embedding", parameters=1_000_000), PartSize(name="Blocks", parameters=3_500_000)),
            config={"d_model": 320, "n_layers": 8, "bias": False, "n_kv_heads": None},
        ),
        tokenizer=TokenizerInfo(
            kind="bpe", vocab_size=4096, bytes_per_token=3.456, train_bytes=8_000_000, example=("Sun", "␣rises")
        ),
        data=DataInfo(
            name="the Python standard library",
            train_documents=4000,
            train_bytes=28_000_000,
            train_tokens=8_000_000,
            heldout_documents=200,
            heldout_bytes=1_000_000,
            heldout_tokens=290_000,
        ),
        lengths=(_lengths(),),
        schemes=(
            Scheme(
                name="Words",
                vocab_size=300,
                sentence=("Sun", " rises"),
                bytes_per_token=4.5,
                words_whole_share=0.5,
                attention_pairs=100,
                megabytes_per_second=50.0,
            ),
            Scheme(
                name="Raw bytes",
                vocab_size=257,
                sentence=tuple("Sun rises"),
                bytes_per_token=1.0,
                words_whole_share=0.125,
                attention_pairs=2025,
                megabytes_per_second=900.0,
            ),
        ),
        machine=MachineInfo(
            processor="a processor",
            cores=2,
            memory_bytes=8 * 2**30,
            system="Linux",
            python="3.11",
            torch="2.13.0",
            peak_flops=2.5e11,
        ),
        score=Score(nats=1.25 * math.log(2) * 1_000_000, n_tokens=290_000, n_bytes=1_000_000),
        training=tuple(
            CurvePoint(step=s, tokens=s * 1000, loss=8.0 / s, bits_per_byte=3.0 / s, seconds=0.5 * s)
            for s in range(1, 50)
        ),
        heldout=(HeldoutPoint(step=25, loss=0.4, bits_per_byte=0.15),),
        next_token=(
            NextTokenStep(
                context="The sun",
                candidates=(Candidate(text="␣rises", probability=0.75), Candidate(text="␣sets", probability=0.0004)),
                chosen=0,
            ),
        ),
        samples=(Sample(prompt="def f(x):\n", continuation="    return x\n", settings="greedy"),),
        yardsticks=(
            Yardstick(name="xz -9e", bytes=200_000, bits_per_byte=1.6, note="alone"),
            Yardstick(name="5-gram", bytes=150_000, bits_per_byte=1.2, note="after the training text", primed=True),
        ),
        stages=(Stage(name="Train the network", seconds=49.0), Stage(name="Score", seconds=3.0)),
    )


@pytest.fixture
def bare() -> ReviewResults:
    return ReviewResults(version="0.1.0", created="2024-02-29T12:00:00+00:00", command="diptych review", seed=0)
