"""How likely does a model behind an OpenAI-compatible URL find each answer to questions about a context?

Such a server tells the log-probabilities of the few most likely next tokens, by which the candidates are ranked; one
that tells none is asked to write, and what it names first is its answer. No server need echo a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, final

from diptych.evaluation.context.generation import ENDING, named_first
from diptych.evaluation.context.local import rights
from diptych.evaluation.context.server import WRITING, Server, Way, log_sum
from diptych.evaluation.context.types import Answers, Context

MOST_NEW_TOKENS = 8
"""Of a written answer."""

_MARKS = " \t\r\n\u2581\u0120\u010a"
"""What stands for white space at the beginning of a token, in text and in two kinds of vocabularies."""

_WAYS: Final = (
    Way("completions", False, 20),
    Way("completions", False, 5),
    Way("chat/completions", True, 20),
    Way("chat/completions", True, 5),
    *WRITING,
)
"""In the order in which they are tried: servers differ in what they offer, and in how much they tell."""


@final
class EndpointScorer:
    """A `Scorer` by HTTP. Scores are -inf for candidates that are not among the tokens that the server tells.

    url, model and the keywords: see `Server`.
    """

    def __init__(self, url: str, model: str, **options: Any) -> None:
        self.server = Server(url, model, _WAYS, ending=ENDING, **options)

    def ask(self, context: Context) -> Answers:
        """Ask all probes of a context. tokens: that the server says it read, less those it had read before.

        Raises ValueError as `Server.reply`.
        """
        scores, tokens = list[tuple[float, ...]](), 0
        for probe in context.probes:
            prompt = context.text + probe.question
            reply = self.server.reply(prompt, MOST_NEW_TOKENS)
            if reply.likely is None:
                of = named_first(reply.text, probe.candidates)
            else:
                of = _summed(reply.likely, probe.candidates)
                if sum(score == max(of) for score in of if score > -math.inf) > 1:
                    # A token with which several candidates begin does not tell them apart.
                    of = named_first(self.server.write(prompt, MOST_NEW_TOKENS), probe.candidates)
            scores.append(of)
            guessed = len(context.ids) + len(probe.question_ids)
            tokens += guessed if reply.read_tokens is None else reply.read_tokens
        return Answers(scores=tuple(scores), right=rights(scores, context.probes), tokens=tokens)

    def calibrate(self, texts: Sequence[str]) -> float:
        """See `Server.calibrate`."""
        return self.server.calibrate(texts)


def _summed(likely: Mapping[str, float], candidates: Sequence[str]) -> tuple[float, ...]:
    """Each candidate's log-probability: that of all tokens with which it may begin."""
    pieces = [(token.lstrip(_MARKS), score) for token, score in likely.items()]
    return tuple(
        log_sum([score for piece, score in pieces if piece and candidate.strip().startswith(piece)])
        for candidate in candidates
    )
