"""Generation: it follows the model's distribution, and a row's tokens do not depend on its neighbours."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from diptych.core.config import TransformerConfig
from diptych.core.random import Rng
from diptych.models.language_model import LanguageModel
from diptych.models.network import initialize
from diptych.nn.masks import Causal
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest
from diptych.samplers.beam import beam_search, beam_searches, power_of_length
from tests.models.test_language_model import llama_weights

VOCAB, EOS = 23, 22


def make(position: str = "rope", spread: float = 0.5) -> LanguageModel:
    config = TransformerConfig(
        vocab_size=VOCAB, d_model=32, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=48, max_length=64, position=position
    )
    model = LanguageModel(config)
    generator = torch.Generator().manual_seed(3)
    initialize(model, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def hugging_face(model: LanguageModel) -> LlamaForCausalLM:
    """Their Llama with our weights."""
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=EOS,
            pad_token_id=EOS,
        )
    ).eval()
    theirs.load_state_dict(llama_weights(model))
    return theirs


def run(
    model: LanguageModel, prompts: list[list[int]], sampler: AutoregressiveSampler, **changes: object
) -> list[list[int]]:
    options = {"max_new_tokens": 12, "eos_id": EOS, **changes}
    request = GenerationRequest(prompts=prompts, **options)
    frames = list(sampler.sample(model, request, Rng(5)))
    rows = torch.stack([frame.state for frame in frames], 1).tolist()
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


PROMPTS = [[1, 2, 3], [4], [], [5, 6, 7, 8, 9, 10, 11, 12], [1, 2, 3]]


@pytest.mark.parametrize("position", ["rope", "learned", "alibi"])
@pytest.mark.parametrize(
    "sampler",
    [
        AutoregressiveSampler(temperature=0.0),
        AutoregressiveSampler(temperature=0.9, top_k=9, top_p=0.9, min_p=0.02, repetition_penalty=1.2),
    ],
    ids=["greedy", "sampled"],
)
def test_a_row_does_not_depend_on_its_batch(position: str, sampler: AutoregressiveSampler) -> None:
    model = make(position)
    together = run(model, PROMPTS, sampler)
    alone = [run(model, [p], sampler, sample_ids=[i])[0] for i, p in enumerate(PROMPTS)]
    assert together == alone
    assert len({tuple(row) for row in together}) > 1


def test_cached_greedy_generation_equals_uncached_token_for_token() -> None:
    model = make()
    for prompt in PROMPTS[:2]:
        ids = list(prompt)
        for _ in range(12):
            ids.append(int(model(torch.tensor([ids]), mask=Causal())[0, -1].argmax()))
            if ids[-1] == EOS:
                break
        assert run(model, [prompt], AutoregressiveSampler(temperature=0.0))[0] == ids[len(prompt) :]


def test_greedy_generation_equals_hugging_face() -> None:
    model = make()
    theirs = hugging_face(model)
    for prompt in ([1, 2, 3], [7, 7]):
        got = theirs.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()
        assert run(model, [prompt], AutoregressiveSampler(temperature=0.0))[0] == got


def test_draws_follow_the_model_by_a_chi_square_test() -> None:
    model = make(spread=0.2)
    sampler = AutoregressiveSampler(temperature=0.8, top_k=6)
    n = 6000
    request = GenerationRequest(prompts=[[1, 2]] * n, max_new_tokens=1, eos_id=EOS)
    (frame,) = sampler.sample(model, request, Rng(0))
    logits = model(torch.tensor([[1, 2]]), mask=Causal())[0, -1] / 0.8
    best = logits.topk(6).indices
    expected = torch.zeros(VOCAB).scatter(0, best, logits[best].softmax(0)) * n
    observed = torch.bincount(frame.state, minlength=VOCAB)
    assert observed[expected == 0].sum() == 0
    chosen = expected > 0
    statistic = ((observed[chosen] - expected[chosen]) ** 2 / expected[chosen]).sum()
    assert statistic < 25.7  # 5 degrees of freedom, p = 1e-4


def test_log_probabilities_and_candidates_are_the_unfiltered_ones() -> None:
    model = make()
    sampler = AutoregressiveSampler(temperature=0.5, top_k=2, candidates=4)
    request = GenerationRequest(prompts=[[1, 2, 3]], max_new_tokens=4, eos_id=EOS)
    ids = [1, 2, 3]
    for frame in sampler.sample(model, request, Rng(2)):
        log_p = model(torch.tensor([ids]), mask=Causal())[0, -1].log_softmax(-1)
        token = int(frame.state[0])
        assert float(frame.info["log_probability"][0]) == pytest.approx(float(log_p[token]), abs=1e-4)
        best = log_p.topk(4)
        assert frame.info["candidates"][0].tolist() == best.indices.tolist()
        torch.testing.assert_close(frame.info["candidate_probabilities"][0], best.values.exp(), rtol=1e-4, atol=1e-5)
        ids.append(token)


def test_seeds_decide() -> None:
    model = make()
    request = GenerationRequest(prompts=[[1]], max_new_tokens=12, eos_id=EOS)
    draw = lambda seed: [int(f.state[0]) for f in AutoregressiveSampler().sample(model, request, Rng(seed))]  # noqa: E731
    assert draw(1) == draw(1)
    assert len({tuple(draw(seed)) for seed in range(6)}) > 1


def test_ended_rows_stay_ended_and_all_ended_stops() -> None:
    model = make()
    request = GenerationRequest(prompts=[[1], [2], [3], [4]], max_new_tokens=400, eos_id=EOS)
    finished = torch.zeros(4, dtype=torch.bool)
    for frame in AutoregressiveSampler(temperature=2.0).sample(model, request, Rng(0)):
        assert (frame.state[finished] == EOS).all()
        assert (frame.info["finished"] | ~finished).all()
        finished = frame.info["finished"]
    assert finished.all() and frame.step < 399


def test_beam_search_with_enough_beams_finds_the_best_of_all() -> None:
    model = make(spread=0.3)
    prompt, length = [3, 1], 3
    continuations = torch.tensor(list(itertools.product(range(VOCAB), repeat=length)))
    sequences = torch.cat((torch.tensor([prompt]).expand(len(continuations), -1), continuations), 1)
    with torch.no_grad():
        log_p = model(sequences, mask=Causal()).log_softmax(-1)[:, len(prompt) - 1 : -1]
    totals = log_p.gather(2, continuations[..., None])[..., 0].sum(1)
    no_end = VOCAB  # outside the vocabulary, so that every continuation has the full length
    found = beam_search(
        model, prompt, beams=VOCAB**2, max_new_tokens=length, eos_id=no_end, length_penalty=power_of_length(0.0)
    )
    assert list(found[0].ids) == continuations[totals.argmax()].tolist()
    assert found[0].log_probability == pytest.approx(float(totals.max()), abs=1e-4)


def test_beams_without_a_token_equal_hugging_faces() -> None:
    model, prompt = make(spread=0.35), [1, 2, 3]
    options: dict[str, Any] = {"beams": 4, "max_new_tokens": 8, "eos_id": EOS}
    ((free, *_),) = beam_searches(model, [prompt], **options)
    banned = free.ids[1]
    got = hugging_face(model).generate(
        torch.tensor([prompt]), max_new_tokens=8, num_beams=4, do_sample=False, bad_words_ids=[[banned]]
    )
    expected = got[0, len(prompt) :].tolist()
    expected = expected[: expected.index(EOS) + 1] if EOS in expected else expected
    ((ours, *_),) = beam_searches(model, [prompt], never=(banned,), **options)
    assert list(ours.ids) == expected and banned not in ours.ids and ours.ids != free.ids


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_beam_search_equals_hugging_face(penalty: float) -> None:
    model = make(spread=0.35)
    theirs = hugging_face(model)
    for prompt in ([1, 2, 3], [9], [4, 4]):
        got = theirs.generate(
            torch.tensor([prompt]),
            max_new_tokens=8,
            num_beams=4,
            do_sample=False,
            length_penalty=penalty,
            early_stopping=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
        expected = got.sequences[0, len(prompt) :].tolist()
        expected = expected[: expected.index(EOS) + 1] if EOS in expected else expected
        (ours, *_) = beam_search(
            model, prompt, beams=4, max_new_tokens=8, eos_id=EOS, length_penalty=power_of_length(penalty)
        )
        assert list(ours.ids) == expected
        assert ours.score == pytest.approx(float(got.sequences_scores[0]), abs=1e-4)


@pytest.mark.parametrize(
    "changes", [{"temperature": -1}, {"top_k": 0}, {"top_p": 0.0}, {"min_p": 1.5}, {"repetition_penalty": 0}]
)
def test_senseless_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        AutoregressiveSampler(**changes)


def test_senseless_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="no prompt"):
        GenerationRequest(prompts=[], max_new_tokens=1, eos_id=0)
    with pytest.raises(ValueError, match="max_new_tokens"):
        GenerationRequest(prompts=[[1]], max_new_tokens=0, eos_id=0)


@pytest.mark.parametrize("eos_id", [EOS, None])
def test_stop_ids_end_rows_where_they_are_drawn(eos_id: int | None) -> None:
    model, sampler = make(), AutoregressiveSampler(temperature=1.0)
    prompts = [[1], [2, 3], [4]]
    plain = GenerationRequest(prompts=prompts, max_new_tokens=40, eos_id=-1)
    expected = torch.stack([frame.state for frame in sampler.sample(model, plain, Rng(5))], 1).tolist()
    stops = (3, 9, 12, 15, 18)
    request = GenerationRequest(prompts=prompts, max_new_tokens=40, eos_id=eos_id, stop_ids=stops)
    frames = list(sampler.sample(model, request, Rng(5)))
    ends = {*stops} if eos_id is None else {eos_id, *stops}
    assert request.ends[-5:] == stops
    for row, drawn in enumerate(expected):
        length = next((place + 1 for place, token in enumerate(drawn) if token in ends), len(drawn))
        assert length < 40  # or the test shows nothing
        assert [int(frame.state[row]) for frame in frames[:length]] == drawn[:length]
        assert all(bool(frame.info["finished"][row]) for frame in frames[length - 1 :])
        assert all(int(frame.state[row]) == request.ends[0] for frame in frames[length:])
    with pytest.raises(ValueError, match="a prompt must not be empty"):
        GenerationRequest(prompts=[[1], []], max_new_tokens=1, eos_id=None)


@pytest.mark.parametrize("held", [1, 4])
def test_a_cache_that_holds_a_beginning_changes_nothing(held: int) -> None:
    model, sampler, prompt = make(), AutoregressiveSampler(temperature=0.0), [1, 2, 3, 4, 5]
    request = GenerationRequest(prompts=[prompt], max_new_tokens=12, eos_id=EOS)
    expected = [int(frame.state[0]) for frame in sampler.sample(model, request, Rng(5))]
    cache = model.new_cache(1, 17)
    model(torch.tensor([prompt[:held]]), mask=Causal(), cache=cache)
    found = [int(frame.state[0]) for frame in sampler.sample(model, request, Rng(5), cache=cache)]
    assert found == expected
    with pytest.raises(ValueError, match="no beginning of 1 prompts"):
        list(sampler.sample(model, request, Rng(5), cache=cache))
