"""The review's runs of both paradigms in small: do they differ in the paradigm alone, and cost the same?"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from diptych.checkpoints.run_folder import load_language_model, load_recipe
from diptych.core.config import RunConfig
from diptych.core.recipe import differences
from diptych.nn.masks import Causal
from diptych.report import paradigms
from diptych.report.paradigms import measure_paradigms, paradigms_run
from diptych.report.results import ParadigmsResult
from diptych.training.distributed import World, choose_device
from diptych.training.streams import build_streams, text_store

WORLD = World(0, 1, choose_device("cpu"))
NAMES = ["left-to-right", "any-order", "block-by-block"]


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_paradigms: Callable[[pytest.MonkeyPatch, Path], Callable[[Path, int], RunConfig]],
) -> tuple[RunConfig, ParadigmsResult]:
    texts, draw = tmp_path_factory.mktemp("texts"), random.Random(0)
    for index in range(80):
        words = draw.choices(["sun", "moon", "star", "rises", "sets", "from", "the", "east", "west"], k=100)
        (texts / f"{index}.txt").write_text(" ".join(words))
    with pytest.MonkeyPatch.context() as patch:
        common = tiny_paradigms(patch, texts)(tmp_path_factory.mktemp("review"), 3)
        patch.setattr(paradigms, "ROWS", None)  # all of the held-out text
        return common, measure_paradigms(common, WORLD, lambda event: None)


def test_every_run_costs_the_same_counted_from_its_weights(measured: tuple[RunConfig, ParadigmsResult]) -> None:
    common, result = measured
    spent = {}
    for name, positions, share in zip(NAMES, (16, 17, 33), (1, 17 / 32, 5 / 8), strict=True):
        folder = Path(common.out) / name
        model, _ = load_language_model(folder)
        matrices = {key: p.numel() for key, p in model.named_parameters() if p.dim() == 2}
        head = model.unembedding.numel()
        # Six a weight and position, two products of every query with all keys, three times; logits where they count.
        body = sum(matrices.values()) - head
        row = 6 * body * positions + 12 * 16 * positions**2 + 6 * head * 16 * share
        spent[name] = row * 4 * load_recipe(folder).train.steps
    kept = {run.run: run.flops for run in result.comparison.trained}
    assert kept == pytest.approx(spent, rel=1e-9)
    for run in result.comparison.trained[1:]:
        # To half a step.
        assert run.flops == pytest.approx(spent["left-to-right"], rel=0.5001 / run.steps)
    steps = [run.steps for run in result.comparison.trained]
    assert steps[2] < steps[0] == 40 < steps[1]  # two copies to read against fewer logits to take


def test_the_runs_differ_in_the_paradigm_alone(measured: tuple[RunConfig, ParadigmsResult]) -> None:
    common, result = measured
    comparison = result.comparison
    assert [run.run for run in comparison.trained] == NAMES and comparison.reference == NAMES[0]
    assert comparison.reservations == ()
    recipes = [load_recipe(Path(common.out) / name) for name in NAMES]
    own = {"out", "objective", "train.steps", "train.eval_every"}
    assert set(differences(recipes[0], recipes[1])) == own
    assert set(differences(recipes[1], recipes[2])) == own - {"objective"} | {"text_diffusion.block_length"}
    tokenizers = {(Path(common.out) / name / "tokenizer.json").read_bytes() for name in NAMES}
    assert tokenizers == {(Path(common.out) / "tokenizer.json").read_bytes()}
    # The rows pair up: the same targets, each with a difference to the first run's.
    assert len({(score.n_rows, score.n_tokens, score.n_bytes) for score in comparison.heldout}) == 1
    assert [score.difference is None for score in comparison.heldout] == [True, False, False]
    assert [score.kind for score in comparison.heldout] == ["exact", "bound", "bound"]


@torch.no_grad()
def test_what_is_shown_was_measured_on_these_runs(measured: tuple[RunConfig, ParadigmsResult]) -> None:
    common, result = measured
    folder = Path(common.out) / NAMES[0]
    run = load_recipe(folder)
    model, tokenizer = load_language_model(folder)
    train, heldout = (text_store(stream) for stream in build_streams(run, folder, tokenizer, lambda event: None))
    assert (result.vocab_size, result.train_bytes) == (tokenizer.vocab_size, train.n_bytes)
    score = result.comparison.heldout[0]
    assert (score.n_tokens, score.n_bytes) == (heldout.n_tokens - 1, heldout.n_bytes)
    nats = 0.0
    for start in range(0, heldout.n_tokens - 1, 16):
        ids = torch.tensor([heldout.tokens[start : start + 17].tolist()])
        log_p = model(ids[:, :-1], mask=Causal()).log_softmax(-1)
        nats -= float(log_p.gather(2, ids[:, 1:, None]).sum())
    assert score.nats_per_token == pytest.approx(nats / score.n_tokens, rel=1e-6)
    cells = [(one.run, one.tokens_per_step) for one in result.comparison.generation]
    rates = [(NAMES[0], 1), (NAMES[1], 1), (NAMES[1], 4), (NAMES[2], 1), (NAMES[2], 4)]
    assert cells == [*rates, ("held-out text", None)]
    assert [(texts.run, texts.tokens_per_step) for texts in result.comparison.texts] == rates
    assert all(len(curve.points) >= 3 for curve in result.comparison.curves)
    assert (Path(common.out) / "comparison" / "index.html").is_file()


def test_the_real_runs_are_valid_recipes_on_the_review_s_text(tmp_path: Path) -> None:
    run = paradigms_run(tmp_path, 3)
    assert run.data.source == ("stdlib",) and not run.data.document_mask and run.train.seed == 3
    block = paradigms.PARADIGMS["block-by-block"][1]
    assert block == 4 and run.data.sequence_length % block == 0 == paradigms.DRAWS % 4
