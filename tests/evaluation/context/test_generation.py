"""An answer generated from what prompts share is the one generated from the whole prompt, and its first word counts."""

from __future__ import annotations

import math

import pytest
import torch

from diptych.core.config import TransformerConfig
from diptych.core.random import Rng
from diptych.evaluation.context.generation import ENDING, GenerationScorer, named_first
from diptych.evaluation.context.types import Context, Probe
from diptych.models.language_model import LanguageModel
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest
from diptych.samplers.text import generate_text
from diptych.tokenizers.chat import ChatTemplate
from diptych.tokenizers.simple import ByteTokenizer
from diptych.tokenizers.streaming import StreamDecoder

TEMPLATE = ChatTemplate(source="<{{ messages[0]['content'] }}>")
KINDS = {
    "rope": {},
    "learned": {"position": "learned"},
    "ALiBi": {"position": "alibi"},
    "window": {"window": 9},
    "gated delta and full": {"attention": ("gated_delta", "softmax")},
}


def make(name: str, max_length: int = 200) -> LanguageModel:
    config = TransformerConfig(
        vocab_size=257, d_model=16, n_layers=2, n_heads=2, max_length=max_length, tied_embedding=False, **KINDS[name]
    )
    model = LanguageModel(config).requires_grad_(False)
    for number, parameter in enumerate(model.parameters()):
        parameter.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(number))
    return model.eval()


def written(model: LanguageModel, prompt: str) -> str:
    request = GenerationRequest(prompts=[[*prompt.encode()]], max_new_tokens=6, eos_id=256)
    decoder = lambda: StreamDecoder(ByteTokenizer())  # noqa: E731
    return generate_text(model, AutoregressiveSampler(temperature=0.0), request, Rng(0), new_decoder=decoder)[0].text


@pytest.mark.parametrize("name", KINDS)
def test_what_prompts_share_is_read_once_and_changes_no_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = make(name), list[str]()

    def noted(text: str, candidates: tuple[str, ...]) -> tuple[float, ...]:
        texts.append(text)
        return named_first(text, candidates)

    monkeypatch.setattr("diptych.evaluation.context.generation.named_first", noted)
    questions = (" The colour of Ann is", " The colour of Bob is", " Which?")
    probes = tuple(
        Probe(question=q, question_ids=(1,), candidates=("a", "b"), candidate_ids=(1, 2), answer=0) for q in questions
    )
    context = Context(ids=(), text="Ann is blue. Bob is red.", probes=probes)
    scorer = GenerationScorer(model, ByteTokenizer(), TEMPLATE, max_new_tokens=6)
    answers = scorer.ask(context)
    prompts = [f"<{context.text}{q}{ENDING}>" for q in questions]
    assert texts == [written(model, prompt) for prompt in prompts]
    shared = len("<Ann is blue. Bob is red. ")
    most = shared + sum(len(prompt) - shared + 5 for prompt in prompts)
    assert most - 3 * 6 <= answers.tokens <= most
    assert scorer.overhead == len(f"<{ENDING}>") + 6


def test_the_first_of_the_candidates_is_the_answer() -> None:
    candidates = (" blue", " red", " blue-green")
    one = {0: (0.0, -math.inf, -math.inf), 1: (-math.inf, 0.0, -math.inf), 2: (-math.inf, -math.inf, 0.0)}
    assert named_first("It is Red, not blue.", candidates) == one[1]
    assert named_first("blue or red", candidates) == one[0]
    assert named_first("Blue-green", candidates) == one[2]
    assert named_first("a bored bluebird, reddish", candidates) == (-math.inf,) * 3


def test_refused_a_prompt_that_does_not_fit_the_table_of_positions() -> None:
    probe = Probe(question="x", question_ids=(1,), candidates=("a", "b"), candidate_ids=(1, 2), answer=0)
    scorer = GenerationScorer(make("learned", 64), ByteTokenizer(), TEMPLATE)
    with pytest.raises(ValueError, match="than the 64 that this model's learned positions reach"):
        scorer.ask(Context(ids=(), text="a" * 40, probes=(probe,)))
