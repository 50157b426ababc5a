"""How is a model behind an OpenAI-compatible URL asked to go on with a text?

Servers differ in what they offer and in how much they tell; which way one takes is found out once. Bad luck of the
moment is waited for; all else becomes one line.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from diptych.tokenizers.base import utf8

LONGEST_WAIT: Final = 60.0
"""Seconds between two tries at most."""

_REFUSED, _BUSY = (401, 403), 429

_SPACE = set(" \t\r\n")


@dataclass(frozen=True)
class Way:
    """A path, whether it is that of conversations, and how many likely tokens are asked for; 0: to write instead."""

    path: str
    is_chat: bool
    tokens: int


WRITING: Final = (Way("completions", False, 0), Way("chat/completions", True, 0))
"""The ways to a written text, that which takes a prompt as it is first."""


class _RefusedError(Exception):
    """A server did not take a request, which will not change."""


@dataclass(frozen=True)
class Reply:
    """What came back: the text, the log-probability of each likely first token, if told, and the tokens read."""

    text: str
    likely: Mapping[str, float] | None
    prompt_tokens: int | None
    read_tokens: int | None


@final
class Server:
    """A model behind a URL, which goes on with texts by its most likely tokens.

    url: up to before `/completions`, as http://localhost:8000/v1. model: its name there. ways: in the order in which
    they are tried. ending: what a text that makes a message ends with. key: None takes the environment's
    OPENAI_API_KEY, if any. timeout: seconds for one answer. tries: how often a request is sent while the server is
    busy, slow or broken, after `wait`, 2 `wait`, 4 `wait` ... seconds, or as long as it asks for. Raises ValueError for
    what is no such URL.
    """

    def __init__(
        self,
        url: str,
        model: str,
        ways: Sequence[Way] = WRITING,
        *,
        ending: str = "",
        key: str | None = None,
        timeout: float = 300.0,
        tries: int = 6,
        wait: float = 1.0,
    ) -> None:
        if not _is_server(url):
            raise ValueError(f"{url} is no URL of a server; give one such as http://localhost:8000/v1")
        self.url, self.model, self.ending = url.rstrip("/"), model, ending
        self.timeout, self.tries, self.wait = timeout, tries, wait
        self.key = (os.environ.get("OPENAI_API_KEY", "") if key is None else key).strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise ValueError("the key holds signs that no key has; set OPENAI_API_KEY anew")
        self.all_ways, self.ways = tuple(ways), list(ways)
        self.is_settled = False
        # A key is for the server that was named, and for none that it points to.
        self.opener = urllib.request.build_opener(_NoRedirect)

    @property
    def way(self) -> Way:
        """That which is taken, or would be tried first."""
        return self.ways[0]

    def calibrate(self, texts: Sequence[str]) -> float:
        """The server's tokens a byte in texts like these: what each adds to a prompt that holds it once already.

        Raises ValueError as `reply`, and where the server does not say how long prompts are.
        """
        tokens = n_bytes = 0
        for text in texts:
            once, twice = (self.reply(prompt, 1).prompt_tokens for prompt in (text, f"{text}\n{text}"))
            if once is None or twice is None:
                raise ValueError(f"{self.url} does not say how many tokens a prompt has (usage.prompt_tokens)")
            tokens, n_bytes = tokens + twice - once, n_bytes + len(utf8(f"\n{text}"))
        if tokens < 1:
            raise ValueError(f"{self.url} counts no tokens in the texts that lengths are measured by")
        return tokens / n_bytes

    def reply(self, prompt: str, most: int) -> Reply:
        """The answer in the first way that the server takes; where it is asked to write, at most so many tokens.

        Raises ValueError in one line for a server that is not there, refuses, knows no such model or answers no JSON.
        """
        refused: list[str] = []
        for way in [*self.ways]:
            try:
                reply = self._send(prompt, way, most)
            except _RefusedError as error:
                refused.append(str(error))
            else:
                if reply.likely is not None or not way.tokens:
                    self.is_settled = True
                    return reply
            if self.is_settled:
                break
            self.ways.remove(way)
        self.ways = self.ways or list(self.all_ways)
        why = refused[0] if refused else "it no longer tells log-probabilities"
        raise self._unanswered(why)

    def write(self, prompt: str, most: int) -> str:
        """What is written after a text, at most so many tokens, on the path that `reply` found. ValueError as there."""
        try:
            return self._send(prompt, Way(self.way.path, self.way.is_chat, 0), most).text
        except _RefusedError as error:
            raise self._unanswered(str(error)) from None

    def _unanswered(self, why: str) -> ValueError:
        return ValueError(
            f"{self.url} does not answer {self.model}: {why}; check the URL, which usually ends in /v1, and the name "
            "of the model"
        )

    def _send(self, prompt: str, way: Way, most: int) -> Reply:
        body: dict[str, Any] = {"model": self.model, "temperature": 0}
        body["max_tokens"] = 1 if way.tokens else most
        if way.is_chat:
            body["messages"] = [{"role": "user", "content": prompt + self.ending}]
        else:
            body["prompt"] = prompt
        if way.tokens and way.is_chat:
            body |= {"logprobs": True, "top_logprobs": way.tokens}
        elif way.tokens:
            body["logprobs"] = way.tokens
        answer = self._post(way.path, body)
        try:
            return _understood(answer)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            raise ValueError(
                f"{self.url} answers in a form that is not OpenAI's: {_brief(json.dumps(answer))}"
            ) from None

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        request = urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(), headers)
        why, wait = "", self.wait
        for number in range(self.tries):
            if number:
                time.sleep(min(wait, LONGEST_WAIT))
            wait = self.wait * 2**number
            try:
                with self.opener.open(request, timeout=self.timeout) as response:
                    text = response.read()
            except urllib.error.HTTPError as error:
                why = self._status(error)
                wait = max(wait, _asked_for(error.headers.get("Retry-After")))
            except urllib.error.URLError as error:
                if not isinstance(error.reason, TimeoutError | ConnectionResetError):
                    raise ValueError(f"nothing answers at {self.url}: {_brief(str(error.reason))}") from None
                why = _brief(str(error.reason))
            except (OSError, http.client.HTTPException) as error:
                why = _brief(str(error) or type(error).__name__)
            else:
                return self._json(text)
        raise ValueError(f"{self.url} did not answer in {self.tries} tries ({why}); go on when it is well again")

    def _status(self, error: urllib.error.HTTPError) -> str:
        """Why a request failed that may be tried again. Raises for one that need not."""
        body = b""
        with error, contextlib.suppress(OSError, http.client.HTTPException):
            body = error.read(10_000)
        said = f"HTTP {error.code}, {_brief(body.decode('utf-8', 'replace')) or error.reason}"
        if error.code in _REFUSED:
            raise ValueError(f"{self.url} refuses the key; set OPENAI_API_KEY to one that it takes ({said})")
        if error.code in range(300, 400):
            raise ValueError(f"{self.url} points to {error.headers.get('Location')}; give that URL")
        if error.code == _BUSY or error.code >= 500:
            return said
        raise _RefusedError(said)

    def _json(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            said = _brief(text[:1000].decode("utf-8", "replace"))
            raise ValueError(f"{self.url} answers no JSON ({said}); its URL usually ends in /v1") from None


def _is_server(url: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and not set(url) & _SPACE
    except ValueError:  # no port
        return False


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """None is made."""


def _understood(answer: Mapping[str, Any]) -> Reply:
    """An answer in the form of either path; llama.cpp's server gives that of conversations in both."""
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    read = prompt = usage.get("prompt_tokens")
    if prompt is not None:
        prompt = int(prompt)
        known = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
        read = prompt + int(usage.get("completion_tokens") or 0) - int(known)
    return Reply(str(text or ""), _likely(choice.get("logprobs") or {}), prompt, read)


def _likely(told: Mapping[str, Any]) -> dict[str, float] | None:
    """Log-probabilities of the likely first tokens; None where they are not told."""
    if told.get("content"):
        likely: dict[str, float] = {}
        for of in told["content"][0].get("top_logprobs") or []:
            # Tokens may differ in their bytes and look the same.
            likely[of["token"]] = log_sum([likely.get(of["token"], -math.inf), float(of["logprob"])])
        return likely or None
    first = (told.get("top_logprobs") or [None])[0]
    return {token: float(score) for token, score in first.items()} if first else None


def log_sum(scores: Sequence[float]) -> float:
    """The logarithm of the sum of what these are the logarithms of; of nothing -inf."""
    top = max(scores, default=-math.inf)
    return top if top == -math.inf else top + math.log(sum(math.exp(score - top) for score in scores))


def _asked_for(header: str | None) -> float:
    """Seconds that a server asks to wait; 0 where it does not, or gives a date."""
    try:
        return max(0.0, float(header or 0.0))
    except ValueError:
        return 0.0


def _brief(text: str) -> str:
    return " ".join(text.split())[:200]
