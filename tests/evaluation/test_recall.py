"""Is a score of recall what it says: all of an oracle's answers, chance for a guess, by the right distance?"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from diptych.cli.main import main
from diptych.core.config import DataConfig, RecallConfig, SegmentConfig, TransformerConfig
from diptych.core.events import Event, Progressed
from diptych.core.random import Rng
from diptych.data.recall import RecallDocuments, RecallStream, recall_tokenizer
from diptych.evaluation.recall import (
    MOST_BINS,
    RecallScore,
    Share,
    attention_reach,
    score_guesses,
    score_recall,
)
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.nn.masks import Causal
from diptych.report.plots import save_png
from diptych.report.recall import recall_figure

TASK = RecallConfig(n_needles=6, n_queries=4, n_keys=8, n_values=16)


def stream(length: int = 100, seed: int = 0) -> RecallStream:
    data = DataConfig(format="recall", sequence_length=length, recall=TASK)
    return RecallStream(data, recall_tokenizer(TASK), seed=seed, purpose="heldout")


def remember(documents: RecallDocuments, span: int) -> Tensor:
    """What a reader answers who knows the last `span` tokens before each question, and always guesses the same
    beyond."""
    answers = torch.full_like(documents.needles, int(stream().words.values[0]))
    for row, tokens in enumerate(documents.tokens.tolist()):
        for question, place in enumerate(documents.asked.tolist()):
            seen = tokens[max(0, place - span) : place]
            found = [after for key, after in pairwise(seen) if key == tokens[place]]
            if found:
                answers[row, question] = found[-1]
    return answers


def test_an_oracle_knows_everything_and_a_short_memory_only_what_is_near() -> None:
    whole = score_guesses(lambda d: remember(d, 1000), stream(), n_documents=100, batch_size=16).whole
    assert (whole.right, whole.count) == (400, 400)
    assert whole.interval[1] == 1.0 and 0.98 < whole.interval[0] < 1.0
    score = score_guesses(lambda d: remember(d, 40), stream(), n_documents=400, batch_size=64, reach=40)
    near, far = score.between(0, 40), score.beyond_reach
    assert far is not None and near.count + far.count == 1600 and far.first == 41
    assert near.accuracy == 1.0
    assert far.interval[0] < score.chance < far.interval[1]


def test_a_guess_is_right_by_chance_at_every_distance() -> None:
    words = stream().words
    calls = iter(range(1000))

    def guess(documents: RecallDocuments) -> Tensor:
        ids = torch.arange(len(documents.tokens))
        return words.values[(Rng(next(calls)).uniform("guess", ids, TASK.n_queries) * TASK.n_values).long()]

    score = score_guesses(guess, stream(), n_documents=2000, batch_size=100)
    assert score.chance == 1 / 16
    assert score.whole.interval[0] < 1 / 16 < score.whole.interval[1]
    assert sum(share.interval[0] < 1 / 16 < share.interval[1] for share in score.bins()) >= len(list(score.bins())) - 1


def test_bins_hold_every_question_once() -> None:
    score = score_guesses(lambda d: d.answers, stream(), n_documents=200, batch_size=32)
    bins = list(score.bins())
    assert sum(share.count for share in bins) == score.whole.count == 800 == sum(score.count)
    assert len(bins) <= MOST_BINS
    for before, after in pairwise(bins):
        assert before.last + 1 == after.first
    by_hand = torch.cat([stream().documents(i, 1).distances.flatten() for i in range(200)])
    for share in bins:
        assert share.count == int(((by_hand >= share.first) & (by_hand <= share.last)).sum())


def test_intervals_equal_wilsons() -> None:
    # statsmodels.stats.proportion.proportion_confint(count, nobs, method="wilson")
    assert Share(first=0, last=1, right=8, count=10).interval == pytest.approx((0.49016247, 0.94331782), abs=1e-7)
    assert Share(first=0, last=1, right=0, count=20).interval == pytest.approx((0.0, 0.16112516), abs=1e-7)
    empty = Share(first=0, last=1, right=0, count=0)
    assert empty.interval == (0.0, 1.0) and empty.accuracy != empty.accuracy


def test_a_network_is_asked_by_its_logits_and_the_same_way_every_time() -> None:
    model = LanguageModel(
        TransformerConfig(vocab_size=recall_tokenizer(TASK).vocab_size, d_model=16, n_layers=1, n_heads=2)
    )
    initialize(model, torch.Generator().manual_seed(0))
    events: list[Event] = []
    score = score_recall(model, stream(), n_documents=10, batch_size=4, on_event=events.append)
    assert score == score_recall(model, stream(), n_documents=10, batch_size=10)
    assert score != score_recall(model, stream(seed=1), n_documents=10)
    last = events[-1]
    assert isinstance(last, Progressed) and last.done == last.total == 10
    right = 0
    documents = stream().documents(0, 10)
    for tokens in documents.tokens:
        for place in documents.asked.tolist():
            logits = model(tokens[None, : place + 1], mask=Causal())[0, -1]
            right += int(logits.argmax() == tokens[place + 1])
    assert score.whole.right == right
    with pytest.raises(ValueError, match="at least one document"):
        score_recall(model, stream(), n_documents=0)


def test_no_token_beyond_the_reach_moves_an_answer_and_one_at_its_edge_does() -> None:
    config = TransformerConfig(vocab_size=300, d_model=16, n_layers=2, n_heads=2, window=5)
    model = LanguageModel(config).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_(0.0, 0.5, generator=generator)
    reach = attention_reach(config)
    assert reach == 9
    x = torch.arange(40)[None]
    for distance, moves in ((reach, True), (reach + 1, False)):
        other = x.clone()
        other[0, 39 - distance + 1] = 99  # the value of a needle whose key lies so far before the last token
        same = torch.equal(model(x, mask=Causal())[0, -1], model(other, mask=Causal())[0, -1])
        assert same != moves


@pytest.mark.parametrize(
    ("config", "reach"),
    [
        (TransformerConfig(n_layers=3), None),
        (TransformerConfig(n_layers=3, window=8), 22),
        (TransformerConfig(n_layers=3, window=8, mask=("causal",)), None),
        (TransformerConfig(n_layers=3, window=8, attention=("softmax", "linear")), None),
        (TransformerConfig(n_layers=2, window=8, attention=("titans_gate", "titans_layer")), 15),
        (TransformerConfig(n_layers=2, attention=("titans_gate",), segment=SegmentConfig(length=16)), 31),
        (TransformerConfig(n_layers=2, window=8, attention=("softmax", "titans_context")), 1 + 7 + 127),
        (TransformerConfig(n_layers=1, attention=("transformer_xl",), segment=SegmentConfig(length=4)), 1 + 3 + 128),
    ],
)
def test_the_reach_adds_up_over_the_layers(config: TransformerConfig, reach: int | None) -> None:
    assert attention_reach(config) == reach


SCORE = RecallScore(right=(0, 0, 5, 1), count=(0, 0, 5, 4), n_values=4, n_documents=3, reach=2)


def test_the_drawing_shows_each_network_the_reach_and_chance(tmp_path: Path) -> None:
    other = RecallScore(right=(0, 0, 5, 4), count=(0, 0, 5, 4), n_values=4, n_documents=3)
    figure = recall_figure({"window": SCORE, "memory": other})
    axes = figure.axes[0]
    window, memory, chance, reach = axes.get_lines()
    assert list(window.get_ydata()) == [1.0, 0.25] and list(memory.get_ydata()) == [1.0, 1.0]
    assert list(window.get_xdata()) == [2.0, 3.0]
    assert set(chance.get_ydata()) == {0.25} and set(reach.get_xdata()) == {2}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["window", "memory"]
    save_png(figure, tmp_path / "recall.png")
    assert (tmp_path / "recall.png").read_bytes().startswith(b"\x89PNG")


def test_drawings_of_nothing_or_of_unlike_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="one to 4 networks, not 0"):
        recall_figure({})
    other = RecallScore(right=(0, 1), count=(0, 1), n_values=5, n_documents=1)
    with pytest.raises(ValueError, match="different numbers of values"):
        recall_figure({"a": SCORE, "b": other})


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recall")
    (folder / "recipe.toml").write_text(
        f"""
out = "{folder / "run"}"
[model]
d_model = 16
n_layers = 2
n_heads = 2
max_length = 64
window = 8
[data]
format = "recall"
sequence_length = 64
[data.recall]
n_needles = 4
n_queries = 2
n_keys = 8
n_values = 8
[train]
steps = 2
batch_size = 4
dtype = "float32"
compile = "off"
eval_sequences = 8
"""
    )
    return folder / "recipe.toml"


def test_a_recipe_trains_goes_on_and_is_scored(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = recipe.parent / "run"
    assert main(["train", str(recipe)]) == 0
    out = capsys.readouterr()
    assert f"diptych evaluate {run}" in out.out and "held-out loss" in out.err
    assert not (run / "data").exists()
    assert main(["train", str(recipe), "--train.steps", "3"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--json", "--recall-documents", "20"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["chance"] == 1 / 8 and record["reach"] == 15
    assert record["whole"]["count"] == 40 == sum(share["count"] for share in record["bins"])
    assert record["beyond_reach"]["first"] == 16
    assert main(["evaluate", str(run), "--recall-documents", "20"]) == 0
    text = capsys.readouterr().out
    assert "by chance 12.5%" in text and "recall at a distance of" in text and "15 tokens" in text
    prompt = " the grass Ba ko is green Ba"
    assert main(["generate", str(run), "--prompt", prompt, "--max-new-tokens", "1"]) == 0
    assert capsys.readouterr().out.startswith(prompt)


def test_a_tokenizer_of_other_words_is_refused(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(recipe), "--tokenizer.kind", "byte", "--out", str(tmp_path / "run")]) == 2
    assert "leave [tokenizer] out" in capsys.readouterr().err
    assert main(["train", str(recipe), "--data.sequence-length", "11", "--out", str(tmp_path / "run")]) == 2
    assert "must be at least 12" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
