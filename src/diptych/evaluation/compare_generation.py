"""How fast do runs of both paradigms write, and how likely is what they write to a judge?

All write rows of equal length from the opening token on, document ends included, as their training rows were. A judge,
an autoregressive network, tells how surprising the texts are; since dull texts surprise least, the entropy of each
text's tokens stands beside, and so does the same of held-out text.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch

from diptych.checkpoints.open import open_model
from diptych.checkpoints.run_folder import load_recipe
from diptych.core.config import RECIPE
from diptych.core.random import Rng
from diptych.core.types import Batch
from diptych.evaluation.compare_likelihood import Estimate, ratio
from diptych.evaluation.compare_runs import Contender
from diptych.evaluation.parallel_decoding import estimate_price
from diptych.evaluation.stability import unigram_entropy
from diptych.models.language_model import LanguageModel
from diptych.objectives.autoregressive import Autoregressive
from diptych.objectives.masked_lm import mask_id_of
from diptych.samplers.autoregressive import AutoregressiveSampler, GenerationRequest
from diptych.samplers.canvas import CanvasRequest
from diptych.samplers.masked_diffusion import MaskedDiffusionSampler
from diptych.samplers.uniform_diffusion import UniformDiffusionSampler
from diptych.tokenizers.base import Tokenizer, end_of

Unmask = Literal["random", "confidence"]

HELD_OUT: Final = "held-out text"
"""Stands for a run where real text is judged."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """Texts that a run wrote at some number of tokens a step."""

    tokens_per_step: int
    evaluations: int
    """Passes through the network for each row."""
    rows: tuple[tuple[int, ...], ...]
    """The tokens after the opening one."""
    texts: tuple[str, ...]
    price: Estimate | None
    """See `parallel_price`."""


@dataclass(frozen=True, kw_only=True)
class GenerationScore:
    """How fast a run writes at some number of tokens a step, and what the judge makes of it."""

    run: str
    tokens_per_step: int | None
    """None for held-out text, which nothing wrote."""
    evaluations: int
    tokens_per_second: float | None
    """All rows at once, the median of the rounds."""
    bits_per_byte: Estimate
    """Under the judge, over the texts."""
    entropy: Estimate
    """Nats a token of the frequencies of each text's own tokens."""
    price: Estimate | None
    """Of drawing several tokens a step by masked diffusion, in nats a token."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """An autoregressive network that texts are shown to."""

    model: LanguageModel
    tokenizer: Tokenizer
    context: int
    """Tokens of a text that it reads at most."""


def open_judge(path: Path, device: torch.device) -> Judge:
    """Open a judge: any model that continues text. Raises ValueError for another one."""
    opened = open_model(path, device=device, dtype=torch.float32)
    if opened.objective != "autoregressive" or not isinstance(opened.model, LanguageModel):
        raise ValueError(f"{path} does not continue text, so it cannot judge any; name an autoregressive model")
    if end_of(opened.tokenizer) is None:
        raise ValueError(f"{path} has no token that ends a document, so it cannot judge rows of documents")
    is_run = (path / RECIPE).is_file()
    context = load_recipe(path).data.sequence_length if is_run else opened.model.config.max_length
    return Judge(model=opened.model.eval(), tokenizer=opened.tokenizer, context=context)


def rates_of(contender: Contender, tokens_per_step: Sequence[int]) -> list[int]:
    """Which of the numbers of tokens a step a run can do: one by autoregression, at most a block's by blocks."""
    most = 1 if contender.is_autoregressive else contender.run.text_diffusion.block_length
    return [k for k in tokens_per_step if most is None or k <= most]


def write(
    contender: Contender, tokens_per_step: int, *, samples: int, length: int, unmask: Unmask, seed: int
) -> Written:
    """Write `samples` rows of `length` tokens, drawn from the network's own distribution (temperature 1).

    Diffusion takes length / tokens_per_step steps, by blocks as many as that in each block; several tokens a step are
    drawn as if they were independent.
    """
    if contender.is_autoregressive:
        rows, evaluations = _continue(contender, samples, length, seed), length
    else:
        sampler, request = _sampler(contender, tokens_per_step, length, unmask), _canvas(contender, samples, length)
        rows, evaluations = _fill(contender, sampler, request, seed)
    return Written(
        tokens_per_step=tokens_per_step,
        evaluations=evaluations,
        rows=tuple(map(tuple, rows)),
        texts=tuple("\n∎\n".join(documents(contender.tokenizer, row)) for row in rows),
        price=None,
    )


def _continue(contender: Contender, samples: int, length: int, seed: int) -> list[list[int]]:
    # Documents follow one another within a row, so their end ends nothing.
    opening = [contender.tokenizer.opening_id]
    request = GenerationRequest(prompts=[opening] * samples, max_new_tokens=length, eos_id=None)
    frames = AutoregressiveSampler().sample(contender.model, request, Rng(seed))
    return torch.stack([frame.state for frame in frames], dim=1).tolist()


def _fill(
    contender: Contender, sampler: MaskedDiffusionSampler | UniformDiffusionSampler, request: CanvasRequest, seed: int
) -> tuple[list[list[int]], int]:
    rows, evaluations = list[list[int]](), 0
    for frame in sampler.sample(contender.model, request, Rng(seed)):
        rows, evaluations = frame.state[:, 1:].tolist(), evaluations + 1
    return rows, evaluations


def _sampler(
    contender: Contender, tokens_per_step: int, length: int, unmask: Unmask
) -> MaskedDiffusionSampler | UniformDiffusionSampler:
    diffusion = contender.run.text_diffusion
    steps = -(-min(length, diffusion.block_length or length) // tokens_per_step)
    if contender.run.objective == "uniform_diffusion":
        return UniformDiffusionSampler(steps=steps, schedule=diffusion.schedule)
    # Evenly many tokens a step, whatever schedule the run was trained by.
    return MaskedDiffusionSampler(steps=steps, unmask=unmask, block_length=diffusion.block_length)


def _canvas(contender: Contender, samples: int, length: int) -> CanvasRequest:
    tokenizer = contender.tokenizer
    is_uniform, chosen = contender.run.objective == "uniform_diffusion", contender.run.text_diffusion.mask_token
    hidden = tokenizer.vocab_size if is_uniform else mask_id_of(tokenizer, chosen)
    return CanvasRequest(canvas=[[tokenizer.opening_id, *[hidden] * length]] * samples, mask_id=hidden)


def parallel_price(
    contender: Contender, tokens_per_step: int, *, samples: int, length: int, unmask: Unmask, seed: int
) -> Estimate | None:
    """What drawing several tokens a step costs masked diffusion, in nats a token: see `parallel_decoding`. None where
    nothing is drawn together, or nothing is masked."""
    sampler = _sampler(contender, tokens_per_step, length, unmask)
    if contender.is_autoregressive or not isinstance(sampler, MaskedDiffusionSampler) or tokens_per_step == 1:
        return None
    price = estimate_price(contender.model, sampler, _canvas(contender, samples, length), Rng(seed))
    return Estimate(value=price.nats / length, error=price.standard_error / length)


def documents(tokenizer: Tokenizer, row: Sequence[int]) -> Iterator[str]:
    """The texts of the documents of a row, whose last one need not have ended; other special tokens are no text."""
    eos, special, text = tokenizer.eos_id, set(tokenizer.special_tokens.values()), list[int]()
    for token in (*row, eos):
        if token == eos:
            yield tokenizer.decode(text)
            text = []
        elif token not in special:
            text.append(token)


def time_writing(contender: Contender, written: Written, *, unmask: Unmask, seed: int) -> float:
    """Seconds that writing all rows again takes."""
    device = contender.model.unembedding.device
    samples, length = len(written.rows), len(written.rows[0])
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    # The tokens are fetched, so the device has finished.
    write(contender, written.tokens_per_step, samples=samples, length=length, unmask=unmask, seed=seed)
    return time.perf_counter() - start


def heldout_rows(contender: Contender, samples: int, length: int) -> tuple[tuple[int, ...], ...]:
    """Rows of the held-out text, evenly spread over it, of the length that is written."""
    store = contender.heldout
    starts = np.linspace(0, max(0, store.n_tokens - 1 - length), samples).astype(int)
    return tuple(tuple(store.tokens[start + 1 : start + 1 + length].tolist()) for start in starts)


@torch.no_grad()
def judged(judge: Judge, tokenizer: Tokenizer, rows: Sequence[Sequence[int]]) -> Estimate:
    """Bits per byte of rows of tokens under the judge, with the standard error over rows.

    The judge reads their text by its own tokenizer, each row alone from the opening token on, document ends included;
    bytes that are no UTF-8 are shown to it as U+FFFD. Raises ValueError for rows without any text.
    """
    nats, sizes = [], []
    special = set(judge.tokenizer.special_tokens.values())
    end = judge.tokenizer.eos_id
    for row in rows:
        ids = [judge.tokenizer.opening_id]
        for number, text in enumerate(documents(tokenizer, row)):
            ids += [end] * (number > 0) + judge.tokenizer.encode_list(text)
        x = torch.tensor([ids[: judge.context + 1]], device=judge.model.unembedding.device)
        if x.shape[1] < 2:
            continue
        batch = Batch(x=x, sample_ids=torch.zeros(1, dtype=torch.long, device=x.device))
        nats.append(float(Autoregressive().likelihood(judge.model, batch, Rng(0)).nats))
        sizes.append(float(sum(len(judge.tokenizer.token_bytes(i)) for i in x[0, 1:].tolist() if i not in special)))
    if not sum(sizes):
        raise ValueError("there is no text to judge: all that was written are ends of documents")
    found = ratio(nats, sizes)
    return Estimate(value=found.value / np.log(2), error=found.error / np.log(2))


def entropies(rows: Sequence[Sequence[int]]) -> Estimate:
    """Mean entropy of the token frequencies within each row in nats, and its standard error."""
    each = [unigram_entropy(np.array(row)) for row in rows]
    return ratio(each, [1.0] * len(each))


def generation_score(
    run: str, tokenizer: Tokenizer, judge: Judge, written: Written, seconds: Sequence[float]
) -> GenerationScore:
    """Speed and quality of what a run wrote; no seconds: speed is not told."""
    total = sum(map(len, written.rows))
    return GenerationScore(
        run=run,
        tokens_per_step=written.tokens_per_step,
        evaluations=written.evaluations,
        tokens_per_second=total / statistics.median(seconds) if seconds else None,
        bits_per_byte=judged(judge, tokenizer, written.rows),
        entropy=entropies(written.rows),
        price=written.price,
    )


def heldout_generation_score(contender: Contender, judge: Judge, samples: int, length: int) -> GenerationScore:
    """The same of rows that people wrote."""
    rows = heldout_rows(contender, samples, length)
    real = Written(tokens_per_step=1, evaluations=0, rows=rows, texts=(), price=None)
    return replace(generation_score(HELD_OUT, contender.tokenizer, judge, real, ()), tokens_per_step=None)
