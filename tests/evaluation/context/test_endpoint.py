"""A server driven by an oracle that sees a window of words gives just that window's answers, however it tells them."""

from __future__ import annotations

import json
import math
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.evaluation.context.http_oracle import Oracle

from diptych.evaluation.context.endpoint import EndpointScorer
from diptych.evaluation.context.stand_in import StandInTokenizer
from diptych.evaluation.context.tasks import build_task
from diptych.evaluation.context.types import Context, Probe

WINDOW, COLOURS = 40, ("blue", "black", "green", "red")
NAMES = ("Ann", "Bob", "Carl", "Dora")
FORMS = ("completions", "five", "content", "chat", "writes", "chat writes")


def make_context(first: int) -> Context:
    """Four statements, the first so many words before the end."""
    statements = [f" The colour of {name} is {colour}." for name, colour in zip(NAMES, COLOURS, strict=True)]
    filler = " The road goes on." * (first // 4)
    text = filler + "".join(statements) + " It rains." * ((first - 24) // 2)
    probes = tuple(
        Probe(
            question=f" The colour of {name} is",
            question_ids=(1, 2, 3, 4, 5),
            candidates=tuple(f" {colour}" for colour in COLOURS),
            candidate_ids=(1, 2, 3, 4),
            answer=answer,
            depth=answer,
        )
        for answer, name in enumerate(NAMES)
    )
    return Context(ids=(0,) * 50, text=text, probes=probes)


def oracle(prompt: str, window: int) -> str:
    """What is said of the name that is asked about within the last `window` words; without that another word."""
    name = re.findall(r"The (?:colour|code) of (\w+) is", prompt)[-1]
    seen = " ".join(prompt.split()[-window:])
    found = re.findall(rf"The (?:colour|code) of {name} is (\w+)\.", seen)
    return found[-1] if found else "nothing"


class Server(Oracle):
    """Answers in one of `FORMS`."""

    def __init__(self, form: str, window: int) -> None:
        super().__init__()
        self.form, self.window = form, window

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, str]:
        is_chat = path == "/chat/completions"
        if body["model"] != "known" or path not in ("/completions", "/chat/completions"):
            return 404, json.dumps({"error": {"message": f"The model {body['model']} does not exist."}})
        if is_chat != self.form.startswith("chat"):
            return 404, json.dumps({"error": {"message": "no such path"}})
        told = body.get("top_logprobs", 0) if is_chat else body.get("logprobs", 0)
        if self.form == "five" and told > 5:
            return 400, json.dumps({"error": {"message": "logprobs must be at most 5"}})
        prompt = body["messages"][0]["content"] if is_chat else body["prompt"]
        word = oracle(prompt, self.window)
        text = f" {word}. The" if body["max_tokens"] > 1 else f" {word}"
        # Candidates begin with several tokens each, and "b" begins two of them.
        likely = {f" {word[:3]}": 0.5, f"\u0120{word}": 0.2, " b": 0.05, " of": 0.15, " ": 0.1}
        logs = {token: math.log(p) for token, p in likely.items()}
        choice: dict[str, Any] = {"message": {"content": text}} if is_chat else {"text": text}
        if told and "writes" not in self.form:
            listed = {"content": [{"top_logprobs": [{"token": t, "logprob": p} for t, p in logs.items()]}]}
            choice["logprobs"] = listed if is_chat or self.form == "content" else {"top_logprobs": [logs]}
        usage = {"prompt_tokens": 7 + len(prompt.encode()) // 4, "completion_tokens": 1}
        return 200, json.dumps({"choices": [choice], "usage": usage})


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Server]]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    servers: list[Server] = []

    def start(form: str = "completions", window: int = WINDOW) -> Server:
        servers.append(Server(form, window))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.mark.parametrize("form", FORMS)
def test_the_answers_are_those_of_the_words_in_the_window(serve: Callable[..., Server], form: str) -> None:
    # In conversations six words of the ending stand behind the question.
    window = WINDOW + 6 * form.startswith("chat")
    scorer = EndpointScorer(serve(form, window).url, "known")
    # A statement has 6 words and the question 5: the i-th begins 5 + first - 6 i words before the end.
    for first in (24, 36, 40, 46, 60):
        expected = tuple(5 + first - 6 * i <= WINDOW for i in range(4))
        assert scorer.ask(make_context(first)).right == expected
    assert len({tuple(5 + first - 6 * i <= WINDOW for i in range(4)) for first in (24, 36, 40, 46, 60)}) >= 4


@pytest.mark.parametrize("form", ["completions", "five", "content", "chat"])
def test_tokens_that_begin_a_candidate_are_summed(serve: Callable[..., Server], form: str) -> None:
    scores = EndpointScorer(serve(form, 100).url, "known").ask(make_context(24)).scores
    log_b, log_word = math.log(0.05), math.log(0.5 + 0.2)
    assert scores[0] == pytest.approx((math.log(0.5 + 0.2 + 0.05), log_b, -math.inf, -math.inf))
    assert scores[1] == pytest.approx((log_b, math.log(0.5 + 0.2 + 0.05), -math.inf, -math.inf))
    assert scores[2] == pytest.approx((log_b, log_b, log_word, -math.inf))


@pytest.mark.parametrize("form", ["writes", "chat writes"])
def test_a_server_that_tells_no_probabilities_is_asked_to_write(serve: Callable[..., Server], form: str) -> None:
    server = serve(form, 100)
    scores = EndpointScorer(server.url, "known").ask(make_context(24)).scores
    assert scores == tuple(tuple(0.0 if i == j else -math.inf for j in range(4)) for i in range(4))
    assert [body["max_tokens"] for body in server.bodies[-3:]] == [8, 8, 8]


def test_a_token_that_several_candidates_begin_with_does_not_decide(serve: Callable[..., Server]) -> None:
    server = serve(window=100)
    likely = {"choices": [{"text": " b", "logprobs": {"top_logprobs": [{" b": -0.1, " g": -3.0}]}}]}
    server.before = lambda path, body: (200, json.dumps(likely)) if body["max_tokens"] == 1 else None
    answers = EndpointScorer(server.url, "known").ask(make_context(24))
    assert answers.right == (True,) * 4 and answers.scores[1] == (-math.inf, 0.0, -math.inf, -math.inf)
    assert answers.tokens == 4 * (50 + 5)  # it tells no usage


def test_refused_in_one_line_where_a_server_tells_probabilities_but_does_not_write(
    serve: Callable[..., Server],
) -> None:
    server = serve(window=100)
    likely = {"choices": [{"text": " b", "logprobs": {"top_logprobs": [{" b": -0.1, " g": -3.0}]}}]}
    server.before = lambda path, body: (200, json.dumps(likely)) if body["max_tokens"] == 1 else (400, "one at most")
    with pytest.raises(ValueError, match="does not answer known: HTTP 400, one at most; check the URL"):
        EndpointScorer(server.url, "known").ask(make_context(24))


def test_the_way_is_found_out_once_and_nothing_is_echoed(serve: Callable[..., Server]) -> None:
    server = serve("five", 100)
    scorer = EndpointScorer(server.url, "known")
    answers = scorer.ask(make_context(24))
    scorer.ask(make_context(24))
    assert [body.get("logprobs") for body in server.bodies] == [20] + [5] * 8
    assert not any("echo" in body for body in server.bodies)
    prompts = [body["prompt"] for body in server.bodies[1:5]]
    assert answers.tokens == sum(8 + len(prompt.encode()) // 4 for prompt in prompts)


def test_the_key_is_that_of_the_environment(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    EndpointScorer(server.url, "known").ask(make_context(24))
    monkeypatch.setenv("OPENAI_API_KEY", "secret\n")
    EndpointScorer(server.url, "known").ask(make_context(24))
    assert server.keys == [None] * 4 + ["Bearer secret"] * 4


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(
    serve: Callable[..., Server], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, slept = serve(window=100), []
    monkeypatch.setattr("diptych.evaluation.context.server.time.sleep", slept.append)
    server.before = lambda path, body: (status, "busy") if len(server.bodies) % 4 else None
    assert EndpointScorer(server.url, "known").ask(make_context(24)).right == (True,) * 4
    assert slept == [1.0, 2.0, 4.0] * 4
    server.headers, slept[:] = {"Retry-After": "9"}, []
    EndpointScorer(server.url, "known").ask(make_context(24))
    assert slept[:3] == [9.0, 9.0, 9.0]


def test_refused_after_a_bounded_number_of_tries(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server, slept = serve(), []
    monkeypatch.setattr("diptych.evaluation.context.server.time.sleep", slept.append)
    server.before, server.headers = lambda path, body: (503, "out of\nmemory"), {"Retry-After": "100000"}
    with pytest.raises(ValueError, match=r"did not answer in 6 tries \(HTTP 503, out of memory\)") as error:
        EndpointScorer(server.url, "known").ask(make_context(24))
    assert "\n" not in str(error.value) and len(server.bodies) == 6 and slept == [60.0] * 5


def test_refused_a_server_that_is_too_slow(serve: Callable[..., Server]) -> None:
    server, gone = serve(), threading.Event()

    def late(path: str, body: dict[str, Any]) -> None:
        gone.wait(5)

    server.before = late
    with pytest.raises(ValueError, match=r"did not answer in 2 tries \(.*timed out\)"):
        EndpointScorer(server.url, "known", timeout=0.05, tries=2, wait=0.01).ask(make_context(24))
    gone.set()


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (401, "no", r"refuses the key; set OPENAI_API_KEY"),
        (302, "", r"points to http://other/v1; give that URL"),
        (404, "<html>\n  lost</html>", r"HTTP 404, <html> lost</html>; check the URL, which usually ends in /v1"),
        (200, "<html>hello</html>", r"answers no JSON \(<html>hello</html>\); its URL usually ends in /v1"),
        (200, '{"choices": []}', "in a form that is not OpenAI's"),
        (200, '{"error": "no"}', "in a form that is not OpenAI's"),
        (200, "[1]", "in a form that is not OpenAI's"),
    ],
)
def test_refused_in_one_line(serve: Callable[..., Server], status: int, text: str, said: str) -> None:
    server = serve()
    server.before, server.headers = lambda path, body: (status, text), {"Location": "http://other/v1"}
    with pytest.raises(ValueError, match=said) as error:
        EndpointScorer(server.url, "known").ask(make_context(24))
    assert "\n" not in str(error.value)


def test_refused_an_unknown_model_and_a_later_refusal(serve: Callable[..., Server]) -> None:
    server = serve(window=100)
    with pytest.raises(ValueError, match=r"does not answer other: HTTP 404, .*The model other does not exist"):
        EndpointScorer(server.url, "other").ask(make_context(24))
    scorer = EndpointScorer(server.url, "known")
    scorer.ask(make_context(24))
    server.before = lambda path, body: (400, "the context is too long")
    with pytest.raises(ValueError, match="HTTP 400, the context is too long"):
        scorer.ask(make_context(24))
    server.before = lambda path, body: None
    assert scorer.ask(make_context(24)).right == (True,) * 4


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "file:///etc/passwd", "http://", "http://a b/v1", "http://a:b/v1"]
)
def test_refused_what_is_no_url(url: str) -> None:
    with pytest.raises(ValueError, match=r"is no URL of a server; give one such as http://localhost:8000/v1$"):
        EndpointScorer(url, "known")


def test_refused_where_nothing_answers() -> None:
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ValueError, match=f"nothing answers at http://127.0.0.1:{port}/v1: "):
        EndpointScorer(f"http://127.0.0.1:{port}/v1", "known").ask(make_context(24))


def test_refused_a_key_that_would_be_shown() -> None:
    with pytest.raises(ValueError, match="OPENAI_API_KEY") as error:
        EndpointScorer("http://localhost/v1", "known", key="se\ncret")
    assert "cret" not in str(error.value)


def test_calibration_finds_the_tokens_a_byte_whatever_a_prompt_has_besides(serve: Callable[..., Server]) -> None:
    texts = [" The colour of Ann is blue." * 40, " The colour of Bob is red." * 60]
    assert EndpointScorer(serve().url, "known").calibrate(texts) == pytest.approx(0.25, rel=2e-3)


def test_refused_a_server_that_tells_no_lengths(serve: Callable[..., Server]) -> None:
    server = serve()
    server.before = lambda path, body: (200, json.dumps({"choices": [{"text": " a"}]}))
    with pytest.raises(ValueError, match=r"usage\.prompt_tokens"):
        EndpointScorer(server.url, "known").calibrate(["abc"])


@pytest.mark.parametrize("ratio", [0.2, 0.25, 0.3])
def test_the_stand_in_gives_texts_back_and_has_their_bytes_times_the_ratio(ratio: float) -> None:
    tokenizer = StandInTokenizer(ratio)
    text = " The colour of Ann is blue, and\nthat of Bob is reddish-brown;  who knows?" * 20
    ids = tokenizer.encode_list(text)
    assert tokenizer.decode(ids) == text and tokenizer.decode_bytes(ids) == text.encode()
    assert max(ids) < tokenizer.vocab_size
    assert len(ids) == pytest.approx(len(text.encode()) * ratio, abs=len(text.split()) * 0.15)
    words = [tokenizer.encode_list(f" {word}") for word in ("blue", "black", "blueish")]
    assert len({ids[0] for ids in words}) == 3


def test_tasks_are_written_for_a_stand_in_and_asked_by_a_server(serve: Callable[..., Server]) -> None:
    scorer = EndpointScorer(serve(window=10_000).url, "known")
    task = build_task("multi_key", StandInTokenizer(0.25))
    context = task.context(1000, 0)
    assert len((context.text + context.probes[0].question).encode()) == pytest.approx(4000, rel=0.05)
    assert all(scorer.ask(context).right)


def test_refused_a_ratio_that_no_text_has() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        StandInTokenizer(0.0)
