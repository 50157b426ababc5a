"""The study of vocabulary sizes: one training gives all sizes, compute is equal, what is stopped goes on exactly."""

from __future__ import annotations

import random
import signal
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diptych.checkpoints.run_folder import load_model
from diptych.checkpoints.weights import load_tensors
from diptych.core.config import DataConfig, OptimConfig, RunConfig, TokenizerConfig, TrainConfig, TransformerConfig
from diptych.core.events import Event, Message, Progressed, Stepped
from diptych.core.recipe import load_json
from diptych.data.corpus import is_heldout, training_documents
from diptych.evaluation.vocabulary import (
    RunScore,
    Study,
    StudyConfig,
    Vocabulary,
    VocabularyStudy,
    beginning,
    steps_of,
)
from diptych.models.language_model import LanguageModel
from diptych.report.vocabulary import vocabulary_figure
from diptych.tokenizers.base import EOS
from diptych.tokenizers.bpe import BytePairTokenizer
from diptych.tokenizers.bpe_training import train_bpe
from diptych.tokenizers.splitting import Split

SIZES = (257, 300, 380)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdeéß", k=draw.randint(2, 9))) for _ in range(120)]
    for index in range(60):
        (folder / f"{index}.txt").write_text(" ".join(draw.choices(words, k=60)))
    return folder


@pytest.fixture(scope="module")
def config(texts: Path) -> StudyConfig:
    return StudyConfig(
        sizes=SIZES,
        run=RunConfig(
            model=TransformerConfig(d_model=16, n_layers=1, n_heads=2, max_length=16),
            data=DataConfig(source=(str(texts),), sequence_length=16, heldout_fraction=0.2),
            tokenizer=TokenizerConfig(train_bytes=20_000),
            optim=OptimConfig(lr=1e-2, warmup_steps=2),
            train=TrainConfig(
                steps=12, batch_size=2, save_every=4, eval_sequences=4, compile="off", dtype="float32", device="cpu"
            ),
        ),
    )


@pytest.fixture(scope="module")
def finished(config: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("study") / "whole"
    assert VocabularyStudy(config, out).run() is not None
    return out


@pytest.mark.parametrize("split", ["gpt2", "o200k"])
def test_a_smaller_vocabulary_is_the_beginning_of_a_larger_one(tmp_path: Path, split: str) -> None:
    draw = random.Random(1)
    lines = ["".join(draw.choice(["a", "aaa", "ab", " the", " sun", "é", "12", "\n"]) for _ in range(80))]
    lines += ["".join(draw.choices("abcdefgé ", k=60)) for _ in range(20)]
    lines += ["a" * draw.randint(1, 40) for _ in range(200)]
    largest = train_bpe(lines, 380, split=Split.named(split), min_count=1)
    assert largest.vocab_size == 380 and largest.merges is not None
    for size in (257, 258, 270, 300, 341, 379, 380):
        alone = train_bpe(lines, size, split=Split.named(split), min_count=1)
        cut = beginning(largest, size)
        assert (cut.pieces, cut.merges, cut.special_tokens) == (alone.pieces, alone.merges, alone.special_tokens)
        cut.save(tmp_path / "cut.json")
        alone.save(tmp_path / "alone.json")
        assert (tmp_path / "cut.json").read_bytes() == (tmp_path / "alone.json").read_bytes()
        assert cut.encode(lines[0]).tolist() == alone.encode(lines[0]).tolist()


def test_merges_that_make_no_new_token_are_cut_where_the_training_would_have_stopped() -> None:
    single = [bytes([byte]) for byte in range(256)]
    a, b, c, d = b"abcd"
    ab, bc, abc, abcd = 256, 257, 258, 259
    pieces = [*single, b"ab", b"bc", b"abc", b"abcd", EOS.encode()]
    merges = [(a, b), (b, c), (ab, c), (a, bc), (abc, d)]  # the fourth makes the third's token once more
    largest = BytePairTokenizer(pieces, merges, Split.named("gpt2"), {EOS: abcd + 1})
    kept = {257: 0, 258: 1, 259: 2, 260: 3, 261: 5}
    for size, count in kept.items():
        cut = beginning(largest, size)
        assert cut.merges == merges[:count]
        assert cut.pieces == [*pieces[: size - 1], EOS.encode()] and cut.eos_id == size - 1


def test_a_beginning_lies_within_its_vocabulary() -> None:
    largest = train_bpe(["the sun rises " * 10], 260)
    for size in (256, 261):
        with pytest.raises(ValueError, match=f"has no beginning of {size}"):
            beginning(largest, size)


def test_the_tokenizer_of_a_run_is_the_one_that_its_recipe_learns(config: StudyConfig, finished: Path) -> None:
    for size in SIZES:
        _, tokenizer = load_model(finished / "runs" / f"v{size}-s0")
        documents = [d.text for d in training_documents(config.run.data)]
        alone = train_bpe(documents, size, config.run.tokenizer.train_bytes)
        assert [tokenizer.token_bytes(i) for i in range(size)] == alone.pieces


def flops_of_a_step(config: StudyConfig, size: int) -> float:
    """6 FLOPs a token for each entry of the built network's matrices, 12 a token and a position of every head's row."""
    shape = replace(config.run.model, vocab_size=size)
    model = LanguageModel(shape)
    matrices = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    if not shape.tied_embedding:
        matrices -= size * shape.d_model  # looked up, not multiplied
    length = config.run.data.sequence_length
    scores = 12 * shape.n_layers * shape.d_model * length
    return float((6 * matrices + scores) * config.run.train.batch_size * length)


@pytest.mark.parametrize("tied", [True, False])
def test_compute_is_equal_to_half_a_step(config: StudyConfig, tied: bool) -> None:
    run = config.run
    config = replace(
        config,
        sizes=(512, 1024, 4096, 16_384),
        run=replace(
            run, model=replace(run.model, tied_embedding=tied, d_model=32), train=replace(run.train, steps=5000)
        ),
    )
    budget = 5000 * flops_of_a_step(config, 512)
    steps = [steps_of(config, size, (1.0, 1.0)) for size in config.sizes]
    assert steps[0] == 5000 and steps == sorted(steps, reverse=True) and len(set(steps)) == 4
    for size, count in zip(config.sizes, steps, strict=True):
        each = flops_of_a_step(config, size)
        assert abs(count * each - budget) <= each / 2 * (1 + 1e-9)
    by_flops = replace(config, flops=budget, run=replace(config.run, train=replace(config.run.train, steps=1)))
    assert [steps_of(by_flops, size, (1.0, 1.0)) for size in config.sizes] == steps


def test_what_is_reported_is_so(config: StudyConfig, finished: Path) -> None:
    study = load_json(Study, finished / "study.json")
    assert [v.size for v in study.vocabularies] == list(SIZES)
    texts = [path.read_text() for path in Path(config.run.data.source[0]).iterdir()]
    heldout = [text for text in texts if is_heldout(text, 0.2)]
    for vocabulary in study.vocabularies:
        folder = finished / "runs" / f"v{vocabulary.size}-s0"
        model, tokenizer = load_model(folder)
        assert vocabulary.parameters == sum(p.numel() for p in model.parameters())
        assert vocabulary.embedding_parameters == vocabulary.size * 16
        assert vocabulary.flops == vocabulary.steps * flops_of_a_step(config, vocabulary.size)
        assert vocabulary.tokens == vocabulary.steps * 2 * 16
        n_tokens = sum(len(tokenizer.encode(text)) for text in heldout)
        assert vocabulary.bytes_per_token == sum(len(text.encode()) for text in heldout) / n_tokens
        # The last weights are scored, not the best ones on the text that they are then scored on.
        last = load_tensors(folder / "state" / f"step-{vocabulary.steps:08d}" / "model.safetensors")
        assert all(torch.equal(p, last[name]) for name, p in model.named_parameters())


def test_untied_embeddings_count_twice(config: StudyConfig, tmp_path: Path) -> None:
    run = replace(config.run, model=replace(config.run.model, tied_embedding=False))
    study = VocabularyStudy(replace(config, run=run, sizes=(257, 258)), tmp_path / "s").run()
    assert study is not None
    for vocabulary in study.vocabularies:
        model, _ = load_model(tmp_path / "s" / "runs" / f"v{vocabulary.size}-s0")
        own = sum(p.numel() for p in model.parameters() if vocabulary.size in p.shape)
        assert own == vocabulary.embedding_parameters == 2 * vocabulary.size * 16


@pytest.mark.parametrize("equal", ["tokens", "bytes"])
def test_equal_tokens_and_equal_bytes(config: StudyConfig, equal: str, tmp_path: Path) -> None:
    config = replace(config, equal=equal, sizes=(257, 380))  # type: ignore[type-var]
    study = VocabularyStudy(config, tmp_path).run()
    assert study is not None
    small, large = study.vocabularies
    if equal == "tokens":
        assert small.tokens == large.tokens
        return
    read = [v.tokens * v.train_bytes / v.train_tokens for v in (small, large)]
    step = 2 * 16 * large.train_bytes / large.train_tokens
    assert small.tokens > large.tokens and abs(read[0] - read[1]) <= step / 2


def stop_at(what: str, place: Callable[[Event], bool]) -> Callable[[Event], None]:
    """A handler that interrupts at an event as Ctrl-C does: by the signal in training, else where it is raised."""

    def handle(event: Event) -> None:
        if place(event):
            if what == "signal":
                signal.raise_signal(signal.SIGINT)
            else:
                raise KeyboardInterrupt

    return handle


def test_an_interrupted_study_goes_on_to_the_same_results(config: StudyConfig, finished: Path, tmp_path: Path) -> None:
    def done(event: Event, what: str) -> bool:
        return isinstance(event, Progressed) and event.what.startswith(what)

    steps = [0]

    def third_step_of_the_second_run(event: Event) -> bool:
        if isinstance(event, Message) and event.text.startswith("257 tokens"):
            steps[0] = 1
        return bool(steps[0]) and isinstance(event, Stepped) and event.step == 3

    places = [
        stop_at("raise", lambda event: done(event, "training the tokenizer")),
        stop_at("raise", lambda event: done(event, "tokenizing heldout")),
        stop_at("signal", lambda event: isinstance(event, Stepped) and event.step == 6),
        stop_at("raise", lambda event: done(event, "scoring")),
        stop_at("signal", third_step_of_the_second_run),
    ]
    stopped = 0
    for handler in places:
        study = VocabularyStudy(config, tmp_path / "parts", handler)
        try:
            stopped += study.run() is None
        except KeyboardInterrupt:
            stopped += 1
    assert stopped == len(places)
    assert VocabularyStudy(config, tmp_path / "parts").run() is not None
    assert (tmp_path / "parts" / "study.json").read_bytes() == (finished / "study.json").read_bytes()


def test_a_finished_study_trains_nothing_and_takes_more_seeds(
    config: StudyConfig, finished: Path, tmp_path: Path
) -> None:
    seen: list[Event] = []
    before = (finished / "study.json").read_bytes()
    VocabularyStudy(config, finished, seen.append).run()
    assert not any(isinstance(event, Stepped) for event in seen)
    assert (finished / "study.json").read_bytes() == before

    small = replace(config, sizes=SIZES[:2])
    VocabularyStudy(small, tmp_path / "grown").run()
    more = replace(small, seeds=2)
    for folder in ("grown", "whole"):
        assert VocabularyStudy(more, tmp_path / folder).run() is not None
    files = [(tmp_path / folder / "study.json").read_bytes() for folder in ("grown", "whole")]
    assert files[0] == files[1]
    study = load_json(Study, tmp_path / "whole" / "study.json")
    assert [(s.size, s.seed) for s in study.scores] == [(257, 0), (300, 0), (257, 1), (300, 1)]
    assert study.scores[0].bits_per_byte != study.scores[2].bits_per_byte
    with pytest.raises(ValueError, match="fewer seeds"):
        VocabularyStudy(small, tmp_path / "grown")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sizes": (256, 300)}, "at least 257 tokens, not 256"),
        ({"sizes": (300, 300)}, "size 300 is given twice"),
        ({"sizes": (400, 300)}, "size 300 follows 400"),
        ({"sizes": (300,)}, "at least two sizes"),
        ({"seeds": 0}, "seeds=0 trains nothing"),
        ({"flops": -1.0}, "is no budget"),
        ({"flops": float("nan")}, "is no budget"),
        ({"run": RunConfig(tokenizer=TokenizerConfig(kind="byte"))}, "byte-pair vocabularies"),
        ({"run": RunConfig(tokenizer=TokenizerConfig(path="t.json"))}, "byte-pair vocabularies"),
        ({"run": RunConfig(model=TransformerConfig(vocab_size=300))}, "leave out model.vocab_size"),
        ({"run": RunConfig(train=TrainConfig(steps=0))}, "must be at least 1"),
        ({"run": RunConfig(train=TrainConfig(batch_size=0))}, "must be at least 1"),
    ],
)
def test_refused_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        StudyConfig(**changes)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_refused_folders_and_texts(config: StudyConfig, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"other settings.*run\.train\.steps") as caught:
        run = replace(config.run, train=replace(config.run.train, steps=13, save_every=5))
        VocabularyStudy(replace(config, run=run), finished)
    assert "save_every" not in str(caught.value)
    with pytest.raises(ValueError, match=r"differs in equal, sizes"):
        VocabularyStudy(replace(config, sizes=(257, 301), equal="tokens"), finished)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        VocabularyStudy(config, tmp_path / "file")
    with pytest.raises(ValueError, match=r"a vocabulary of \d+ tokens at most; leave out 3000"):
        VocabularyStudy(replace(config, sizes=(300, 3000)), tmp_path / "much").run()
    assert not (tmp_path / "much" / "study.json").exists()  # so that smaller sizes may follow in the same folder
    with pytest.raises(ValueError, match="less than one step of 380"):
        VocabularyStudy(replace(config, flops=1e6), tmp_path / "little").run()
    assert not (tmp_path / "little").exists()


def test_a_vocabulary_learnt_for_other_settings_is_not_taken(config: StudyConfig, tmp_path: Path) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, Progressed) and event.what.startswith("tokenizing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        VocabularyStudy(config, tmp_path, interrupt).run()
    assert (tmp_path / "tokenizer.json").exists()
    run = replace(config.run, tokenizer=replace(config.run.tokenizer, split="o200k"))
    with pytest.raises(ValueError, match=r"differs in run\.tokenizer\.split"):
        VocabularyStudy(replace(config, run=run), tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        VocabularyStudy(config, tmp_path).run()


def study_of(config: StudyConfig, scores: dict[int, list[float]]) -> Study:
    vocabularies = tuple(
        Vocabulary(
            size=size,
            bytes_per_token=2.0 + index,
            heldout_tokens=100,
            train_tokens=1000,
            train_bytes=2000,
            embedding_parameters=size * 16,
            parameters=size * 16 + 100,
            steps=10,
            tokens=320,
            flops=1e6,
        )
        for index, size in enumerate(scores)
    )
    runs = tuple(
        RunScore(size=size, seed=seed, bits_per_byte=bits, nats_per_token=1.0)
        for size, row in scores.items()
        for seed, bits in enumerate(row)
    )
    return Study(config=replace(config, sizes=tuple(scores)), vocabularies=vocabularies, scores=runs)


def test_the_optimum_and_what_seeds_can_tell(config: StudyConfig) -> None:
    study = study_of(config, {300: [2.0, 2.2], 400: [1.5, 1.7], 500: [1.55, 1.75], 600: [1.9, 1.9]})
    assert study.best.vocabulary.size == 400
    assert study.best.mean == pytest.approx(1.6)
    # Samples of two: the variance is half the squared difference.
    assert study.spread == pytest.approx(statistics.fmean([0.02, 0.02, 0.02, 0.0]) ** 0.5)
    assert study.ties == ((400, 500),)
    assert vocabulary_figure(study).axes[0].texts[0].get_text().endswith("within the spread of seeds: 500")
    single = study_of(config, {300: [2.0], 400: [1.5]})
    assert single.spread is None and single.ties == () and single.best.deviation is None


@pytest.mark.parametrize("best", [0, 2, 4])
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_drawing_marks_the_least(config: StudyConfig, best: int, seeds: int) -> None:
    sizes = (257, 512, 1024, 2048, 4096)
    draw = random.Random(best)
    scores = {
        size: [1.5 + 0.1 * abs(place - best) + draw.uniform(0, 0.02) for _ in range(seeds)]
        for place, size in enumerate(sizes)
    }
    figure = vocabulary_figure(study_of(config, scores))
    bits, compression = figure.axes
    (mark,) = [line for line in bits.lines if line.get_label() == "optimum"]
    assert mark.get_xdata() == [sizes[best]]
    assert mark.get_ydata() == [pytest.approx(min(statistics.fmean(row) for row in scores.values()))]
    assert f"optimum: {sizes[best]:,}" in bits.texts[0].get_text()
    assert bits.get_xscale() == "log" and list(bits.get_xticks()) == list(sizes)
    assert list(compression.lines[0].get_ydata()) == [2.0, 3.0, 4.0, 5.0, 6.0]
    low, high = bits.get_ylim()
    assert low < min(min(row) for row in scores.values()) and high > max(max(row) for row in scores.values())


def test_a_study_without_scores_is_not_drawn(config: StudyConfig) -> None:
    with pytest.raises(ValueError, match="no run of the study is scored yet"):
        vocabulary_figure(Study(config=config))


def test_the_text_is_counted_and_learnt_from_once(config: StudyConfig, tmp_path: Path) -> None:
    learnt: list[str] = []
    totals: list[float | None] = []

    def watch(event: Event) -> None:
        if isinstance(event, Progressed) and event.what == "training the tokenizer":
            totals.append(event.total)
        if isinstance(event, Message):
            learnt.append(event.text)

    VocabularyStudy(replace(config, sizes=(257, 300)), tmp_path, watch).run()
    assert set(totals) == {300 - 257}
    assert any(text.startswith("runs to train and score: 2, about") for text in learnt)
