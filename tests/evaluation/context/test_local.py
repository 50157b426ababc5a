"""Every way of branching from a context gives the scores of reading each question after the context anew."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from diptych.core.config import PositionScheme, RopeScaling, TransformerConfig
from diptych.evaluation.context import local, tree
from diptych.evaluation.context.local import LocalScorer, Way, fork, read, rights, way_of
from diptych.evaluation.context.tree import passes
from diptych.evaluation.context.types import Answers, Context, Probe
from diptych.models.language_model import LanguageModel
from diptych.nn.masks import Causal

VOCABULARY, N, LENGTHS = 61, 70, (3, 1, 9, 4, 1, 6)
BASE = TransformerConfig(vocab_size=VOCABULARY, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2, max_length=96)

TREES = {
    "rope": {},
    "learned": {"position": "learned", "norm": "layer", "bias": True, "output_bias": True},
    "sinusoidal": {"position": "sinusoidal", "norm_placement": "post", "embedding_scale": True},
    "none": {"position": "none", "tied_embedding": False},
    "YaRN": {"rope_scaling": RopeScaling(kind="yarn", factor=4.0, original_max_length=32)},
    "STRING": {"position_scheme": PositionScheme(kind="string", window=8, shift=24)},
    "ReRoPE": {"position_scheme": PositionScheme(kind="rerope", window=9)},
    "Self-Extend": {"position_scheme": PositionScheme(kind="self_extend", window=6, group=4)},
    "dual chunks": {"position_scheme": PositionScheme(kind="dca", chunk=20, window=7, length=32)},
}
DYNAMIC = {"dynamic": {"rope_scaling": RopeScaling(kind="dynamic", factor=4.0, original_max_length=16)}}
FORKS = DYNAMIC | {
    "ALiBi": {"position": "alibi"},
    "StreamingLLM": {"position_scheme": PositionScheme(kind="streaming", window=9, sinks=2)},
    "window": {"window": 7},
    "window that hides nothing": {"window": 200},
    "strided": {"mask": ("strided(5) | window(5)",)},
    "windows and full": {"mask": ("window(7) | sinks(2)", "full", "blocks(8)")},
    "ALiBi and windows": {"position": "alibi", "mask": ("window(9)", "full")},
    "linear": {"attention": ("linear",)},
    "gated delta and full": {"attention": ("gated_delta", "softmax")},
    "Transformer-XL": {"attention": ("transformer_xl",)},
    "Titans": {"attention": ("titans_context",)},
}
KINDS = TREES | FORKS


def make(name: str, dtype: torch.dtype = torch.float32) -> LanguageModel:
    model = LanguageModel(dataclasses.replace(BASE, **KINDS[name])).requires_grad_(False)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(drawn * parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 1 + 0.2 * drawn)
    return model.to(dtype).eval()


def make_context(lengths: tuple[int, ...] = LENGTHS) -> Context:
    generator = torch.Generator().manual_seed(2)

    def draw(count: int) -> tuple[int, ...]:
        return tuple(torch.randint(VOCABULARY, (count,), generator=generator).tolist())

    probes = [
        Probe(
            question="",
            question_ids=draw(length),
            candidates=("",) * 5,
            candidate_ids=tuple(torch.randperm(VOCABULARY, generator=generator)[:5].tolist()),
            answer=number % 5,
        )
        for number, length in enumerate(lengths)
    ]
    return Context(ids=draw(N), text="", probes=tuple(probes))


def ask(model: LanguageModel, context: Context, way: Way) -> Answers:
    scorer = LocalScorer(model)
    scorer.way = way
    return scorer.ask(context)


def by_definition(model: LanguageModel, context: Context) -> list[list[float]]:
    """The chain rule's last factor, from the logits of the whole text; what follows it, as long as the longest needs,
    is not seen."""
    found, length = [], max(len(context.ids) + len(probe.question_ids) for probe in context.probes)
    for probe in context.probes:
        ids = [*context.ids, *probe.question_ids]
        logits = model(torch.tensor([ids + [0] * (length - len(ids))]), mask=Causal())[0, len(ids) - 1]
        found.append(logits.log_softmax(-1)[list(probe.candidate_ids)].tolist())
    return found


def ranking(scores: tuple[tuple[float, ...], ...]) -> list[list[int]]:
    return [sorted(range(len(of)), key=of.__getitem__) for of in scores]


def assert_same(one: Answers, other: Answers) -> None:
    torch.testing.assert_close(torch.tensor(one.scores), torch.tensor(other.scores), atol=1e-5, rtol=1e-5)
    assert ranking(one.scores) == ranking(other.scores) and one.right == other.right


def test_the_way_is_told_by_what_a_branch_depends_on() -> None:
    assert {name: way_of(make(name).config) for name in KINDS} == dict.fromkeys(TREES, "tree") | dict.fromkeys(
        FORKS, "fork"
    )


@pytest.mark.parametrize("name", KINDS)
def test_branching_equals_reading_each_question_anew(name: str) -> None:
    model, context = make(name), make_context()
    reused, anew = LocalScorer(model).ask(context), LocalScorer(model, reuse=False).ask(context)
    torch.testing.assert_close(torch.tensor(anew.scores), torch.tensor(by_definition(model, context)))
    assert_same(reused, anew)
    assert reused.tokens == N + sum(LENGTHS)
    assert anew.tokens == N * len(LENGTHS) + sum(LENGTHS)


@pytest.mark.parametrize("name", TREES)
def test_a_tree_equals_forks(name: str) -> None:
    model, context = make(name), make_context()
    assert_same(ask(model, context, "tree"), ask(model, context, "fork"))


def test_dynamic_frequencies_are_those_of_the_longest_question() -> None:
    """Neither of the shorter texts themselves, nor of all questions one after the other."""
    model, context = make("dynamic"), make_context((2, 20))
    scores = torch.tensor(LocalScorer(model).ask(context).scores)
    text = torch.tensor([[*context.ids, *context.probes[0].question_ids]])
    for length, same in ((N + 20, True), (N + 2, False), (N + 22, False)):
        logits = model(text, mask=Causal(), cache=model.new_cache(1, length))[0, -1]
        found = logits.log_softmax(-1)[list(context.probes[0].candidate_ids)]
        assert ((found - scores[0]).abs().max() < 1e-5) == same


@pytest.mark.parametrize("name", ["ALiBi", "strided"])
def test_a_tree_would_be_wrong_where_distances_are_counted_in_the_row(name: str) -> None:
    model, context = make(name), make_context()
    tree_scores, scores = (torch.tensor(ask(model, context, way).scores) for way in ("tree", "fork"))
    torch.testing.assert_close(tree_scores[0], scores[0], atol=1e-5, rtol=1e-5)  # no branch stands before the first
    assert (tree_scores[1:] - scores[1:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["rope", "learned", "window", "gated delta and full"])
def test_other_questions_have_no_influence(name: str) -> None:
    model, context = make(name), make_context()
    whole = LocalScorer(model).ask(context).scores
    for chosen in ([5, 4, 3, 2, 1, 0], [2, 0, 5], [4]):
        some = dataclasses.replace(context, probes=tuple(context.probes[i] for i in chosen))
        scores = LocalScorer(model).ask(some).scores
        torch.testing.assert_close(torch.tensor(scores), torch.tensor([whole[i] for i in chosen]), atol=1e-5, rtol=1e-5)


def test_passes_are_bounded_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    context = make_context((3, 1, 9, 4, 1, 6) * 3)
    assert [[len(q) for q in group] for group in passes([[0] * n for n in (3, 1, 9, 4, 1, 6)], 8)] == [
        [3, 1],
        [9],
        [4, 1],
        [6],
    ]
    model = make("rope")
    whole, read_at_once = LocalScorer(model).ask(context), []

    def small(questions: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
        groups = [*passes(questions, 10)]
        read_at_once.extend(sum(map(len, group)) for group in groups)
        return groups  # type: ignore[return-value]

    monkeypatch.setattr(local, "passes", small)
    assert_same(LocalScorer(model).ask(context), whole)
    assert max(read_at_once) == 10 and len(read_at_once) > 6


@pytest.mark.parametrize("name", ["rope", "STRING", "dual chunks"])
def test_questions_of_many_tokens_take_sparse_forms_of_the_mask_and_the_same_scores(name: str) -> None:
    """At 512 queries and more a processor cuts the mask into pieces."""
    model, context = make(name), make_context((150, 130, 120, 112))
    assert tree.PASS == sum(len(probe.question_ids) for probe in context.probes) == 512
    assert_same(LocalScorer(model).ask(context), LocalScorer(model, reuse=False).ask(context))


def test_a_cache_has_room_for_no_more_than_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    new_cache = LanguageModel.new_cache

    def noted(model: LanguageModel, batch_size: int, max_length: int) -> object:
        sizes.append((batch_size, max_length))
        return new_cache(model, batch_size, max_length)

    monkeypatch.setattr(LanguageModel, "new_cache", noted)
    LocalScorer(make("rope")).ask(make_context())
    LocalScorer(make("ALiBi")).ask(make_context())
    assert sizes == [(1, N + sum(LENGTHS)), (1, N + max(LENGTHS))]


@pytest.mark.parametrize("name", ["ALiBi", "windows and full", "gated delta and full"])
def test_a_fork_leaves_its_original_as_it_was(name: str) -> None:
    model = make(name)
    ids = torch.randint(VOCABULARY, (40,)).tolist()
    cache = read(model, ids[:30], 40)
    with torch.no_grad():
        for piece in (ids[35:], ids[31:33], ids[30:]):
            got = model(torch.tensor([piece]), mask=Causal(), cache=fork(cache))[:, -1]
            expected = model(torch.tensor([ids[:30] + piece]), mask=Causal())[:, -1]
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert fork(cache).keys is cache.keys


@pytest.mark.parametrize("name", ["rope", "ALiBi"])
def test_bfloat16_is_close_and_does_not_tie(name: str) -> None:
    """Rounded to 8 bits, logits of 40 candidates nearly always tie somewhere; the ranking must not."""
    context = make_context()
    candidates = tuple(range(40))
    wide = dataclasses.replace(
        context, probes=tuple(dataclasses.replace(p, candidate_ids=candidates) for p in context.probes)
    )
    exact, rounded = LocalScorer(make(name)).ask(wide), LocalScorer(make(name, torch.bfloat16)).ask(wide)
    torch.testing.assert_close(torch.tensor(rounded.scores), torch.tensor(exact.scores), atol=0.25, rtol=0.0)
    assert all(len(set(of)) == 40 for of in rounded.scores)


def test_the_right_answer_must_be_ahead_of_all_others() -> None:
    probe = make_context().probes[0]
    nothing = float("-inf")
    cases = {(-1.0, -2.0): True, (-1.0, -1.0): False, (-2.0, -1.0): False, (nothing, nothing): False}
    for scores, right in cases.items():
        assert rights([scores], [dataclasses.replace(probe, answer=0)]) == (right,)


def test_refused_what_does_not_fit_the_table_of_positions() -> None:
    model = make("learned")
    with pytest.raises(ValueError, match=r"^97 tokens are more than the 96 that this model's learned positions reach"):
        LocalScorer(model).ask(make_context((27, 3)))
    LocalScorer(model).ask(make_context((26, 26)))  # each fits, though not one after the other


def test_refused_a_probe_without_a_question_and_scores_that_are_no_numbers() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        LocalScorer(make("rope")).ask(make_context((2, 0)))
    model = make("rope")
    model.embedding.weight[3, 0] = float("nan")
    with pytest.raises(ValueError, match="no finite numbers"):
        LocalScorer(model).ask(make_context())
