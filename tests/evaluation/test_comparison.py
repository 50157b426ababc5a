"""Numbers of a comparison equal closed forms, and what the single measurements give."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch
from tests.text_runs import train_text_runs

from diptych.data.stream import SequenceStream
from diptych.evaluation.compare_curves import Curve, HeldoutAt, overtaking
from diptych.evaluation.compare_generation import (
    Judge,
    documents,
    entropies,
    heldout_rows,
    judged,
    open_judge,
    parallel_price,
    rates_of,
    write,
)
from diptych.evaluation.compare_likelihood import (
    PUBLISHED,
    RowScores,
    heldout_score,
    paired_difference,
    ratio,
    score_rows,
    training_score_noise,
)
from diptych.evaluation.compare_runs import (
    Contender,
    open_contender,
    reservations,
    same_rows,
    short_names,
)
from diptych.evaluation.comparison import ComparisonConfig, all_overtakings, trained_run
from diptych.evaluation.likelihood import score_bound, score_store
from diptych.models.language_model import LanguageModel
from diptych.nn.masks import Causal
from diptych.report.surroundings import read_curves
from diptych.tokenizers.simple import ByteTokenizer
from diptych.training.prepare import text_diffusion


@pytest.fixture(scope="module")
def contenders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Contender]:
    folders = train_text_runs(tmp_path_factory.mktemp("runs"))
    return {kind: open_contender(folder, torch.device("cpu")) for kind, folder in folders.items()}


def line(run: str, level: float, slope: float, places: list[float], noise: float = 0.0) -> Curve:
    """bits per byte = level - slope ln x."""
    points = [HeldoutAt(step=1, flops=x, epochs=x / 10, bits_per_byte=level - slope * math.log(x)) for x in places]
    return Curve(run=run, points=tuple(points), noise=noise)


def test_two_lines_cross_where_they_should() -> None:
    ar, md = line("ar", 3.0, 0.1, [1, 2, 30, 1000]), line("md", 3.6, 0.25, [5, 7, 40, 100, 5000])
    found = overtaking([md], [ar], "flops")
    assert found.outcome == "overtakes" and found.resampled is None and found.interval is None
    assert found.at == pytest.approx(math.exp(0.6 / 0.15), rel=1e-12)
    over_epochs = overtaking([md], [ar], "epochs")
    assert over_epochs.at is not None and over_epochs.at == pytest.approx(math.exp(0.6 / 0.15) / 10, rel=1e-12)
    assert overtaking([ar], [md], "flops").outcome == "never"


def test_no_crossing_within_the_runs_is_told_apart() -> None:
    ar, md = line("ar", 3.0, 0.1, [1, 50]), line("md", 3.6, 0.25, [5, 5000])
    assert overtaking([md], [ar], "flops").outcome == "never"  # they cross at 54.6, where ar has not been
    assert overtaking([line("better", 2.9, 0.1, [1, 50])], [ar], "flops").outcome == "throughout"
    assert overtaking([line("later", 3.6, 0.25, [51, 60])], [ar], "flops").outcome == "apart"


def test_of_several_crossings_the_last_one_counts() -> None:
    ar = line("ar", 1.0, 0.0, [1, math.e**4])
    points = [(1.0, 0.5), (math.e, 1.5), (math.e**2, 0.5), (math.e**3, 1.5), (math.e**4, 0.5)]
    md = Curve(run="md", points=tuple(HeldoutAt(step=0, flops=x, epochs=x, bits_per_byte=y) for x, y in points))
    assert overtaking([md], [ar], "flops").at == pytest.approx(math.exp(3.5))


def test_the_noise_of_scores_gives_the_interval_of_the_normal_distribution() -> None:
    noise, slope = 0.02, 0.15
    ar = line("ar", 3.0, 0.1, [1, 1000])
    md = line("md", 3.0 + slope * math.log(30), 0.1 + slope, [1, 1000], noise)
    found = overtaking([md], [ar], "flops", resamples=20_000)
    assert found.resampled == "noise" and found.ahead == 1.0 and found.interval is not None
    reach = NormalDist().inv_cdf(0.975) * noise / slope
    assert np.log(found.interval) == pytest.approx([math.log(30) - reach, math.log(30) + reach], abs=0.01)
    near = line("md", 3.0 + slope * math.log(30), 0.1 + slope, [1, 34], noise)
    expected = NormalDist().cdf(slope * math.log(34 / 30) / noise)
    assert overtaking([near], [ar], "flops", resamples=20_000).ahead == pytest.approx(expected, abs=0.015)


def test_seeds_are_drawn_again_and_noise_then_is_not() -> None:
    ars = [line("a", 1.0, 0.0, [1, 10]), line("b", 1.0, 0.0, [1, 10])]
    mds = [line("c", 1.2, 0.0, [1, 10], 5.0), line("d", 0.6, 0.0, [1, 10], 5.0)]
    found = overtaking(mds, ars, "flops")
    # The mean of two draws is 0.6, 0.9 or 1.2, once, twice and once in four.
    assert found.resampled == "seeds" and found.outcome == "throughout" and found.run == "c, d"
    assert found.ahead == pytest.approx(0.75, abs=0.04)


def test_a_mean_and_a_ratio_have_the_standard_errors_of_their_definition() -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    values = generator.normal(2.0, 1.0, 50)
    found = ratio(values.tolist(), [4.0] * 50)
    assert found.value == pytest.approx(values.mean() / 4)
    assert found.error == pytest.approx(values.std(ddof=1) / math.sqrt(50) / 4)
    drawn = []
    for _ in range(2000):
        sizes = generator.integers(5, 15, 60).astype(float)
        drawn.append(ratio((0.7 * sizes + generator.normal(0, 2, 60)).tolist(), sizes.tolist()))
    spread = np.std([estimate.value for estimate in drawn])
    assert np.mean([estimate.error for estimate in drawn]) == pytest.approx(spread, rel=0.05)


def test_a_paired_difference_by_hand() -> None:
    reference = RowScores(
        kind="exact", nats=(8.0, 4.0, 6.0), standard_errors=(0.0,) * 3, counts=(4,) * 3, n_bytes=(5, 6, 7)
    )
    scores = RowScores(
        kind="bound", nats=(9.0, 6.0, 6.0), standard_errors=(0.3, 0.4, 0.0), counts=(4,) * 3, n_bytes=(5, 6, 7)
    )
    found = paired_difference(scores, reference)
    assert found.value == pytest.approx(0.25)  # differences 1, 2, 0 nats a row of 4 tokens
    assert found.error == pytest.approx(1 / math.sqrt(3) / 4)
    score = heldout_score("md", scores, reference)
    assert score.bits_per_byte == pytest.approx(21 / math.log(2) / 18)
    assert score.bits_per_byte_error == pytest.approx(0.5 / math.log(2) / 18)
    assert score.relative_gap == pytest.approx(3 / 18) and score.bits_difference is not None
    assert score.bits_difference.value == pytest.approx(3 / math.log(2) / 18)
    with pytest.raises(ValueError, match="do not pair up"):
        paired_difference(scores, replace(reference, counts=(4, 4, 3)))


def test_published_gaps() -> None:
    assert [row.relative_gap for row in PUBLISHED] == pytest.approx(
        [math.log(23.0, 20.1) - 1, math.log(31.8, 22.8) - 1, math.log(28.2, 22.8) - 1], rel=1e-12
    )


@pytest.mark.parametrize("masked", [True, False])
def test_exact_rows_add_up_to_the_store_s_score(contenders: dict[str, Contender], masked: bool) -> None:
    contender = contenders["ar"]
    run = replace(contender.run, data=replace(contender.run.data, document_mask=masked))
    scores = score_rows(replace(contender, run=run), rows=None, draws=2)
    assert scores.kind == "exact" and sum(scores.n_bytes) == contender.heldout.n_bytes
    assert sum(scores.counts) == contender.heldout.n_tokens - 1
    if masked:
        whole = score_store(contender.model, contender.heldout, context=32, stride=32)
        assert sum(scores.nats) == pytest.approx(whole.nats, rel=1e-6)
        return
    for row in (0, 5):
        ids = torch.tensor([contender.heldout.tokens[32 * row : 32 * row + 33].tolist()])
        log_p = contender.model(ids[:, :-1], mask=Causal()).log_softmax(-1)
        assert scores.nats[row] == pytest.approx(-float(log_p.gather(2, ids[:, 1:, None]).sum()), rel=1e-5)


@pytest.mark.parametrize("kind", ["masked", "block", "uniform"])
def test_bounded_rows_add_up_to_the_store_s_bound(contenders: dict[str, Contender], kind: str) -> None:
    contender = contenders[kind]
    objective = text_diffusion(contender.run, contender.tokenizer)
    whole = score_bound(contender.model, contender.heldout, objective, context=32, draws=4, seed=3)
    scores = score_rows(contender, rows=None, draws=4, seed=3)
    assert scores.kind == "bound" and sum(scores.nats) == pytest.approx(whole.nats, rel=1e-6)
    assert math.hypot(*scores.standard_errors) == pytest.approx(whole.standard_error, rel=1e-6)
    first = score_rows(contender, rows=20, draws=4, seed=3)
    assert first.nats == pytest.approx(scores.nats[:20], rel=1e-5) and len(first.counts) == 20


@pytest.mark.parametrize("kind", ["masked", "block"])
def test_the_score_of_training_is_off_by_its_noise(contenders: dict[str, Contender], kind: str) -> None:
    contender = contenders[kind]
    noise = training_score_noise(contender)
    scores = score_rows(contender, rows=8, draws=64)
    true = sum(scores.nats) / math.log(2) / sum(scores.n_bytes)
    last = read_curves(contender.path / "metrics.jsonl")[1][-1]
    assert last.bits_per_byte is not None and 0 < noise < 0.3 * true
    assert abs(last.bits_per_byte - true) < 5 * noise
    assert training_score_noise(contenders["ar"]) == 0.0


def test_runs_that_differ_in_the_paradigm_alone_have_no_reservations(contenders: dict[str, Contender]) -> None:
    first, other = contenders["ar"], contenders["masked"]
    assert not list(reservations(first, other, (1.0, 1.04))) and same_rows(first, other)
    assert list(reservations(first, other, (1.0, 2.0))) == ["2.00 times the training FLOPs"]


def test_each_difference_is_a_line(contenders: dict[str, Contender]) -> None:
    first = contenders["ar"]
    run = first.run
    changed = replace(
        first,
        run=replace(
            run,
            optim=replace(run.optim, lr=1e-4),
            train=replace(run.train, batch_size=4, seed=5, steps=3),
            data=replace(run.data, document_mask=True, sequence_length=16),
        ),
        heldout=first.train,
        train=first.heldout,
    )
    lines = list(reservations(first, changed, (1.0, 1.0)))
    assert [text.split(":")[0] for text in lines] == [
        "another held-out text",
        "another training text",
        "trained by another recipe",
    ]
    assert lines[-1].endswith(": data.sequence_length, optim.lr, train.batch_size")
    assert not same_rows(first, changed)
    narrow = LanguageModel(replace(first.model.config, n_heads=1, vocab_size=first.model.config.vocab_size - 1))
    plain = replace(first, model=narrow, tokenizer=ByteTokenizer())
    assert list(reservations(first, plain, (1.0, 1.0))) == ["another network: n_heads"]


def test_the_training_of_a_run(contenders: dict[str, Contender]) -> None:
    contender = contenders["block"]
    run = trained_run(contender, "b", steps=12, kept_step=8, tokens=12 * 8 * 32)
    assert isinstance(contender.heldout_stream, SequenceStream)
    rows = (contender.train.n_tokens - 1) // 32
    assert run.epochs == pytest.approx(12 * 8 / rows) and run.positions == 65
    assert run.parameters == sum(p.numel() for p in contender.model.parameters())
    assert run.flops == run.flops_per_target * 12 * 8 * 32


def test_seeds_of_a_recipe_go_together(contenders: dict[str, Contender]) -> None:
    ar, md = contenders["ar"], contenders["masked"]
    again = [replace(c, run=replace(c.run, out="x", train=replace(c.run.train, seed=1))) for c in (ar, md)]
    longer = replace(md, run=replace(md.run, train=replace(md.run.train, steps=99)))
    curves = tuple(line(name, 1.0 + 0.1 * i, 0.1, [1, 9]) for i, name in enumerate("abcde"))
    found = all_overtakings([ar, md, *again, longer], curves, 0)
    assert {(one.run, one.other) for one in found} == {("b, d", "a, c"), ("e", "a, c")}
    assert [one.axis for one in found] == ["flops", "epochs"] * 2


def test_names_are_short_where_they_can_be() -> None:
    assert short_names([Path("a/x"), Path("b/y")]) == ["x", "y"]
    assert short_names([Path("a/x"), Path("b/x")]) == ["a/x", "b/x"]


def test_rates_and_evaluations(contenders: dict[str, Contender]) -> None:
    assert {kind: rates_of(c, (1, 2, 4, 8)) for kind, c in contenders.items()} == {
        "ar": [1],
        "masked": [1, 2, 4, 8],
        "block": [1, 2, 4],
        "uniform": [1, 2, 4, 8],
    }
    evaluations = {("ar", 1): 32, ("masked", 4): 8, ("masked", 1): 32, ("block", 2): 16, ("uniform", 8): 4}
    for (kind, rate), count in evaluations.items():
        written = write(contenders[kind], rate, samples=3, length=32, unmask="random", seed=1)
        assert written.evaluations == count and [len(row) for row in written.rows] == [32] * 3
        assert written == write(contenders[kind], rate, samples=3, length=32, unmask="random", seed=1)
        assert written != write(contenders[kind], rate, samples=3, length=32, unmask="random", seed=2)
        price = parallel_price(contenders[kind], rate, samples=3, length=32, unmask="random", seed=1)
        assert (price is None) == (rate == 1 or kind == "uniform")


def test_documents_of_a_row() -> None:
    tokenizer = ByteTokenizer(("<|mask|>",))
    end, mask = tokenizer.eos_id, tokenizer.special_tokens["<|mask|>"]
    assert list(documents(tokenizer, [97, mask, 98, end, end, 99])) == ["ab", "", "c"]


def test_a_judge_reads_each_row_alone(contenders: dict[str, Contender]) -> None:
    contender = contenders["ar"]
    judge = open_judge(contender.path, torch.device("cpu"))
    rows = heldout_rows(contender, 3, 20)
    nats = n_bytes = 0.0
    for row in rows:
        ids = torch.tensor([[contender.tokenizer.eos_id, *row]])
        log_p = judge.model(ids[:, :-1], mask=Causal()).log_softmax(-1)
        nats -= float(log_p.gather(2, ids[:, 1:, None]).sum())
        n_bytes += sum(token < 256 for token in row)
    assert judged(judge, contender.tokenizer, rows).value == pytest.approx(nats / math.log(2) / n_bytes, rel=1e-5)
    short = Judge(model=judge.model, tokenizer=judge.tokenizer, context=7)
    begun = judged(judge, contender.tokenizer, [row[:7] for row in rows])
    assert judged(short, contender.tokenizer, rows).value == pytest.approx(begun.value, rel=1e-6)
    with pytest.raises(ValueError, match="no text to judge"):
        judged(judge, contender.tokenizer, [[contender.tokenizer.eos_id]] * 2)
    with pytest.raises(ValueError, match="cannot judge"):
        open_judge(contenders["masked"].path, torch.device("cpu"))


def test_entropies_of_rows() -> None:
    rows = [[1, 1, 2, 2], [3, 3, 3, 3], [1, 2, 3, 4]]
    each = [-sum(n / 4 * math.log(n / 4) for n in Counter(row).values()) for row in rows]
    found = entropies(rows)
    assert found.value == pytest.approx(np.mean(each)) and each[1:] == pytest.approx([0.0, math.log(4)])
    assert found.error == pytest.approx(np.std(each, ddof=1) / math.sqrt(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": ("a",)}, "at least two different runs"),
        ({"runs": ("a", "a")}, "at least two different runs"),
        ({"draws": 3}, "draws=3 must be a multiple of 4"),
        ({"samples": 1}, "rows and samples must be at least 2"),
        ({"rounds": 0}, "at least 1"),
        ({"tokens_per_step": (2, 1)}, "tokens_per_step must be numbers from 1 on that rise"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ComparisonConfig(**{"runs": ("a", "b"), **changes})  # type: ignore[arg-type]
