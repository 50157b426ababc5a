"""How good are a network's translations?

Beam search over many texts at once, and its measures against references: BLEU (Papineni et al. 2002) and chrF (Popović
2015) by sacrebleu, whose signatures say how they were taken, the share of exact matches, and the likelihood of the
references in nats a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from diptych.core.config import DataConfig, OptimConfig, RunConfig, TokenizerConfig, TrainConfig, TransformerConfig
from diptych.core.events import Handler, Message, Progressed, ignore
from diptych.core.random import Rng
from diptych.core.types import Objective
from diptych.data.pairs import padded, pair_batch
from diptych.data.parallel import Pair
from diptych.models.encoder_decoder import EncoderDecoder
from diptych.objectives.autoregressive import Autoregressive
from diptych.samplers.beam import beam_searches, wu_penalty
from diptych.tokenizers.base import Tokenizer

MORE_THAN_SOURCE = 50
"""A translation has at most so many tokens more than its source (Vaswani et al. 2017, section 6.1)."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """How the most likely translation is searched for; one beam takes the likeliest token at every step."""

    beams: int = 4
    length_penalty: float = 0.6
    """alpha of log-probability / ((5 + length) / 6)^alpha."""
    max_new_tokens: int | None = None
    """Longest translation in tokens; None: 50 more than the longest source of a batch."""
    batch_size: int = 32
    """Texts searched for at once, all of about one length."""


@dataclass(frozen=True, kw_only=True)
class Translation:
    """A text and its translation, with the tokens of it, their log-probability in nats, and whether it came to its
    end."""

    source: str
    text: str
    ids: tuple[int, ...]
    log_probability: float
    score: float
    ended: bool


@dataclass(frozen=True, kw_only=True)
class TranslationScore:
    """Measures of translations against references; BLEU, chrF and exact matches in percent."""

    bleu: float
    chrf: float
    exact: float
    nats_per_token: float
    n_pairs: int
    bleu_signature: str
    chrf_signature: str


def numbers_run(
    out: str, *, languages: str = "de-en", steps: int = 1500, max_bytes: int = 3_000_000, seed: int = 0
) -> RunConfig:
    """`recipes/translate.toml`: numbers below a million from words to words, by a small network of the 2017 kind."""
    network = TransformerConfig(
        d_model=128,
        n_layers=2,
        n_encoder_layers=2,
        n_heads=4,
        max_length=128,
        norm="layer",
        norm_placement="post",
        position="sinusoidal",
        feed_forward="relu",
        bias=True,
        embedding_scale=True,
        dropout=0.1,
    )
    return RunConfig(
        out=out,
        model=network,
        data=DataConfig(source=(f"numbers:{languages}",), format="pairs", sequence_length=64, max_bytes=max_bytes),
        tokenizer=TokenizerConfig(vocab_size=512),
        optim=OptimConfig(
            lr=3e-3, betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0, schedule="inverse_sqrt", warmup_steps=200
        ),
        train=TrainConfig(
            steps=steps,
            batch_size=64,
            seed=seed,
            dtype="float32",
            compile="off",
            label_smoothing=0.1,
            ema_decay=0.995,
            eval_every=0,
            eval_sequences=512,
            save_every=500,
        ),
    )


def translate(
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    search: Search = Search(),  # frozen
    on_event: Handler = ignore,
) -> list[Translation]:
    """The best translation of each text, in their order; of a blank one nothing.

    Raises ValueError for a text longer than the model's positions reach.
    """
    ids = tokenizer.encode_batch(texts)
    limit = model.config.max_length
    for text, tokens in zip(texts, ids, strict=True):
        if len(tokens) >= limit:
            raise ValueError(
                f"a text of {len(tokens)} tokens is too long for this model, which reads {limit - 1}: "
                f'"{text[:40]}…"; cut it into sentences'
            )
    found = {row: _nothing(text) for row, text in enumerate(texts) if not text.strip()}
    left = [row for row in range(len(texts)) if row not in found]
    for group in _groups([len(ids[row]) for row in left], search.batch_size):
        rows = [left[place] for place in group]
        source, lengths = padded([ids[row] for row in rows], tokenizer.eos_id, limit)
        for row, translation in zip(rows, _search(model, tokenizer, (source, lengths), search), strict=True):
            found[row] = replace(translation, source=texts[row])
        on_event(Progressed(what="translating", done=len(found), total=len(texts), unit="texts"))
    return [found[row] for row in range(len(texts))]


def _nothing(source: str) -> Translation:
    return Translation(source=source, text="", ids=(), log_probability=0.0, score=0.0, ended=True)


def _search(
    model: EncoderDecoder, tokenizer: Tokenizer, source: tuple[torch.Tensor, torch.Tensor], search: Search
) -> Iterator[Translation]:
    device, eos_id = model.unembedding.device, tokenizer.eos_id
    tokens, lengths = source
    room = search.max_new_tokens or int(lengths.max()) + MORE_THAN_SOURCE
    with torch.inference_mode():
        given = model.given(tokens.to(device), lengths.to(device))
    searches = beam_searches(
        given,
        [[tokenizer.opening_id]] * len(tokens),
        beams=search.beams,
        max_new_tokens=min(room, model.config.max_length),
        eos_id=eos_id,
        length_penalty=wu_penalty(search.length_penalty),
        # Marian's opening token is its padding, which it was never taught not to write.
        never=() if tokenizer.opening_id == eos_id else (tokenizer.opening_id,),
    )
    for best, *_ in searches:
        ended = best.ids[-1] == eos_id
        ids = best.ids[:-1] if ended else best.ids
        yield Translation(
            source="",
            text=tokenizer.decode(ids),
            ids=ids,
            log_probability=best.log_probability,
            score=best.score,
            ended=ended,
        )


def score_translations(
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    search: Search = Search(),  # frozen
    on_event: Handler = ignore,
) -> tuple[TranslationScore, list[Translation]]:
    """Translate every pair's source and measure the result against its target.

    Pairs longer than the model's positions reach are left out with a message. Raises ValueError where none is left.
    """
    limit = model.config.max_length
    kept = [p for p in pairs if max(len(tokenizer.encode(side)) for side in (p.source, p.target)) < limit]
    if len(kept) < len(pairs):
        text = f"{len(pairs) - len(kept)} of {len(pairs)} pairs are longer than {limit} tokens and were left out"
        on_event(Message(text=text, level="warning"))
    if not kept:
        raise ValueError(f"every pair is longer than the {limit} tokens that this model reads; give shorter ones")
    nats = nats_per_token(model, tokenizer, kept, search.batch_size, on_event)
    translations = translate(model, tokenizer, [pair.source for pair in kept], search, on_event)
    measures = compare([t.text for t in translations], [pair.target for pair in kept])
    return replace(measures, nats_per_token=nats), translations


def nats_per_token(
    model: EncoderDecoder, tokenizer: Tokenizer, pairs: Sequence[Pair], batch_size: int, on_event: Handler = ignore
) -> float:
    """Mean negative log-likelihood of the targets' tokens, their ends included."""
    device, limit = model.unembedding.device, model.config.max_length
    sources = tokenizer.encode_batch([pair.source for pair in pairs])
    targets = tokenizer.encode_batch([pair.target for pair in pairs])
    objective: Objective = Autoregressive()
    total, count, done = 0.0, 0, 0
    for rows in _groups([len(target) for target in targets], batch_size):
        batch = pair_batch(
            [sources[row] for row in rows],
            [targets[row] for row in rows],
            opening_id=tokenizer.opening_id,
            eos_id=tokenizer.eos_id,
            longest=limit,
        )
        likelihood = objective.likelihood(model, batch.to(device), Rng(0))
        total, count = total + float(likelihood.nats.sum()), count + int(likelihood.count.sum())
        done += len(rows)
        on_event(Progressed(what="scoring", done=done, total=len(pairs), unit="pairs"))
    return total / count


def compare(translations: Sequence[str], references: Sequence[str]) -> TranslationScore:
    """BLEU, chrF and exact matches by sacrebleu's defaults. Raises ModuleNotFoundError without the extra."""
    try:
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF
    except ModuleNotFoundError:
        raise ModuleNotFoundError("BLEU and chrF need sacrebleu; pip install 'diptych[translate]'") from None
    bleu, chrf = BLEU(), CHRF()
    scores: list[Any] = [metric.corpus_score(list(translations), [list(references)]) for metric in (bleu, chrf)]
    exact = sum(a == b for a, b in zip(translations, references, strict=True))
    return TranslationScore(
        bleu=scores[0].score,
        chrf=scores[1].score,
        exact=100 * exact / len(references),
        nats_per_token=float("nan"),
        n_pairs=len(references),
        bleu_signature=str(bleu.get_signature()),
        chrf_signature=str(chrf.get_signature()),
    )


def _groups(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in groups of about one length."""
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
