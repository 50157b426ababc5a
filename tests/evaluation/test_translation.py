"""Translation from recipe to score: a run learns, goes on exactly, translates alike alone and together, and is measured
as sacrebleu measures."""

from __future__ import annotations

import dataclasses
import io
import json
import random
import sys
from itertools import islice
from pathlib import Path

import pytest
import sacrebleu
import torch
from tests.training.conftest import losses

from diptych.checkpoints.open import OpenedModel, open_model
from diptych.cli.main import main
from diptych.core.config import DataConfig, OptimConfig, RunConfig, TokenizerConfig, TrainConfig
from diptych.data.parallel import Pair, heldout_pairs, training_pairs
from diptych.evaluation.translation import Search, compare, nats_per_token, numbers_run, score_translations, translate
from diptych.models.encoder_decoder import EncoderDecoder
from diptych.presets import PRESETS, load_run
from diptych.report.attention import attention_figure, attention_map
from diptych.report.words import visible
from diptych.training.run import train

ROOT = Path(__file__).parent.parent.parent

WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "five": "fünf"}


def recipe(folder: Path, out: str, **training: object) -> RunConfig:
    draw, lines = random.Random(0), {}
    for _ in range(400):
        words = draw.choices(list(WORDS), k=draw.randrange(1, 4))
        lines[" ".join(words)] = " ".join(WORDS[word] for word in reversed(words))
    (folder / "pairs.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in lines.items()))
    changes = {"d_model": 48, "n_heads": 4, "n_layers": 1, "n_encoder_layers": 1, "dropout": 0.0, "max_length": 24}
    settings = {"steps": 180, "batch_size": 32, "eval_every": 0, "compile": "off", "dtype": "float32"}
    return RunConfig(
        out=str(folder / out),
        model=dataclasses.replace(PRESETS["vanilla-2017-tiny"], **changes),
        data=DataConfig(source=(str(folder / "pairs.tsv"),), format="pairs", sequence_length=24, heldout_fraction=0.1),
        tokenizer=TokenizerConfig(vocab_size=290),
        optim=OptimConfig(lr=1e-2, betas=(0.9, 0.98), weight_decay=0.0, schedule="inverse_sqrt", warmup_steps=30),
        train=TrainConfig(**{**settings, "label_smoothing": 0.1, **training}),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    run = recipe(tmp_path_factory.mktemp("translation"), "run")
    assert train(run)
    return run


@pytest.fixture(scope="module")
def opened(trained: RunConfig) -> OpenedModel:
    return open_model(Path(trained.out))


def test_it_learns_to_translate(trained: RunConfig, opened: OpenedModel) -> None:
    assert isinstance(opened.model, EncoderDecoder)
    pairs = list(islice(training_pairs(trained.data), 60))
    score, translations = score_translations(opened.model, opened.tokenizer, pairs)
    assert score.exact > 90 and score.nats_per_token < 0.3
    assert [t.source for t in translations] == [p.source for p in pairs] and all(t.ended for t in translations)


def test_a_run_that_was_stopped_goes_on_exactly(tmp_path: Path) -> None:
    whole = recipe(tmp_path, "whole", steps=8, save_every=4)
    train(whole)
    train(recipe(tmp_path, "parts", steps=4, save_every=4))
    train(recipe(tmp_path, "parts", steps=8, save_every=4))
    assert losses(whole.out) == losses(tmp_path / "parts")


def test_micro_batches_give_the_same_steps(tmp_path: Path) -> None:
    train(recipe(tmp_path, "whole", steps=4))
    train(recipe(tmp_path, "parts", steps=4, micro_batch_size=8))
    parts = losses(tmp_path / "parts")
    assert all(parts[step] == pytest.approx(loss, rel=1e-4) for step, loss in losses(tmp_path / "whole").items())


def test_a_translation_does_not_depend_on_the_others(opened: OpenedModel) -> None:
    texts = ["one two three", "", "five", "two four", "three three one"]
    together = translate(opened.model, opened.tokenizer, texts, Search(batch_size=4))
    assert [t.source for t in together] == texts and together[1].text == ""
    for text, found in zip(texts, together, strict=True):
        (alone,) = translate(opened.model, opened.tokenizer, [text])
        assert alone.text == found.text and alone.score == pytest.approx(found.score, abs=1e-4)
    (short,) = translate(opened.model, opened.tokenizer, ["one two three"], Search(max_new_tokens=1))
    assert len(short.ids) == 1 and not short.ended
    with pytest.raises(ValueError, match="too long for this model, which reads 23"):
        translate(opened.model, opened.tokenizer, ["one " * 30])


def test_greedy_takes_the_likeliest_token_at_every_step(opened: OpenedModel) -> None:
    model, tokenizer = opened.model, opened.tokenizer
    (found,) = translate(model, tokenizer, ["four one two"], Search(beams=1))
    source = torch.tensor([[*tokenizer.encode_list("four one two"), tokenizer.eos_id]])
    ids = [tokenizer.opening_id]
    while len(ids) == 1 or ids[-1] != tokenizer.eos_id:
        ids.append(int(model(source, torch.tensor([source.shape[1]]), torch.tensor([ids]))[0, -1].argmax()))
    assert list(found.ids) == ids[1:-1]


def test_nats_are_those_of_each_pair_alone(trained: RunConfig, opened: OpenedModel) -> None:
    model, tokenizer, pairs = opened.model, opened.tokenizer, list(heldout_pairs(trained.data))[:6]
    nats, count = 0.0, 0
    for pair in pairs:
        source = torch.tensor([[*tokenizer.encode_list(pair.source), tokenizer.eos_id]])
        target = [*tokenizer.encode_list(pair.target), tokenizer.eos_id]
        x = torch.tensor([[tokenizer.opening_id, *target[:-1]]])
        log_p = model(source, torch.tensor([source.shape[1]]), x)[0].log_softmax(-1)
        nats -= float(log_p[range(len(target)), target].sum())
        count += len(target)
    for batch_size in (1, 4):
        assert nats_per_token(model, tokenizer, pairs, batch_size) == pytest.approx(nats / count, rel=1e-4)


def test_measures_are_sacrebleus() -> None:
    translations = ["the cat sat on the mat today", "there is a dog here now", "yes"]
    references = ["the cat sat on a mat today", "there is the dog here now", "yes"]
    score = compare(translations, references)
    assert score.bleu == pytest.approx(sacrebleu.corpus_bleu(translations, [references]).score)
    assert score.chrf == pytest.approx(sacrebleu.corpus_chrf(translations, [references]).score)
    assert 0 < score.bleu < 100 and score.exact == pytest.approx(100 / 3)
    assert sacrebleu.__version__ in score.bleu_signature


def test_pairs_that_are_too_long_are_left_out_of_a_score(opened: OpenedModel) -> None:
    events: list[object] = []
    pairs = [Pair("one", "eins"), Pair("one " * 40, "eins")]
    score, _ = score_translations(opened.model, opened.tokenizer, pairs, on_event=events.append)
    assert score.n_pairs == 1 and "1 of 2 pairs are longer than 24 tokens" in events[0].text
    with pytest.raises(ValueError, match="every pair is longer than the 24 tokens"):
        score_translations(opened.model, opened.tokenizer, pairs[1:])


def test_the_picture_shows_every_token_and_rows_sum_to_one(opened: OpenedModel) -> None:
    (found,) = translate(opened.model, opened.tokenizer, ["two five"])
    shown = attention_map(opened.model, opened.tokenizer, "two five", found.ids)
    assert "".join(shown.source) == "two five(end)" and "".join(shown.target) == "fünf zwei(end)"
    mean = shown.mean_of_last_layer()
    torch.testing.assert_close(mean.sum(1), torch.ones(len(shown.target)))
    axes = attention_figure(shown).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == [visible(token) for token in shown.source]
    assert [t.get_text() for t in axes.get_yticklabels()] == [visible(token) for token in shown.target]
    drawn = torch.tensor([cell.get_alpha() for cell in axes.patches]).view(mean.shape)
    torch.testing.assert_close(drawn, mean)
    assert len(attention_figure(shown, all_heads=True).axes) == 4


def test_the_commands(
    trained: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = tmp_path / "attention.png"
    assert main(["translate", trained.out, "--text", "one", "--text", "two five", "--attention", str(picture)]) == 0
    assert capsys.readouterr().out == "eins\nfünf zwei\n"
    assert picture.read_bytes().startswith(b"\x89PNG")
    (tmp_path / "texts.txt").write_text("one\n\ntwo\n")
    assert main(["translate", trained.out, str(tmp_path / "texts.txt"), "--beams", "2", "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["source"] for r in records] == ["one", "", "two"] and records[1]["text"] == ""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\n")))
    assert main(["translate", trained.out]) == 0
    assert capsys.readouterr().out == "eins\n"
    assert main(["evaluate", trained.out, "--json", "--max-pairs", "5"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert own["n_pairs"] == 5 and own["bleu_signature"]
    (tmp_path / "test.en").write_text("one\n")
    (tmp_path / "test.de").write_text("eins\n")
    assert main(["evaluate", trained.out, f"{tmp_path}/test.en+{tmp_path}/test.de", "--beams", "1"]) == 0
    shown = capsys.readouterr().out
    assert "BLEU" in shown and "chrF" in shown and "100.00 % of 1 " in shown and "tok:13a" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "one", "file.txt"], "either --text or a file"),
        (["--text", "one", "--beams", "0"], "beams=0 must be at least 1"),
        (["--text", "one", "--max-new-tokens", "0"], "--max-new-tokens 0"),
        (["--text", "one " * 40], "too long for this model"),
    ],
)
def test_senseless_wishes_are_refused(
    arguments: list[str], message: str, trained: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["translate", trained.out, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_model_that_continues_text_does_not_translate_and_the_other_way_round(
    trained: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", trained.out, "--prompt", "one"]) == 2
    assert "translate" in capsys.readouterr().err


def test_the_recipe_of_numbers_is_the_one_in_the_recipes() -> None:
    assert load_run(str(ROOT / "recipes" / "translate.toml")) == numbers_run("runs/translate")
    network = load_run(str(ROOT / "recipes" / "translate-catalogues.toml")).model
    assert network.n_encoder_layers == 2 and network.position == "sinusoidal"
