# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""LLMock, an independent server that breaks answers on demand, and judges how its client took it: with no finding."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from llmkit import (
    LLMProviderAuthenticationError,
    LLMProviderBadRequestError,
    LLMProviderError,
    LLMProviderNotFoundError,
    LLMProviderStreamError,
    LLMProviderTimeoutError,
)

from ..server import PATIENCE
from ._backend import in_thread, make_provider_of

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not importlib.util.find_spec("llmock"), reason="llmock is not installed"),
    pytest.mark.parametrize(
        ("service", "api_type", "path"),
        [
            ("openai", "chat_completion", "/v1"),
            ("openai", "responses", "/v1"),
            ("anthropic", "chat_completion", "/anthropic/v1"),
            ("gemini", "chat_completion", "/gemini"),
        ],
        ids=["chat_completions", "responses", "messages", "generate_content"],
    ),
]
TEXT = "One, two, three, four, five, six, seven, eight, nine, ten, eleven."


class Judge:
    """The server; `breaks` tells what it does to the next requests."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, data: Any = None, method: str = "GET") -> Any:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(self.url + path, body, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return json.load(response)

    def breaks(self, *behaviors: Any) -> None:
        self.ask("/_llmock/reset", {}, "POST")
        reply = {"type": "reply", "text": TEXT, "times": None}
        self.ask("/_llmock/scenario", {"behaviors": [*behaviors, reply]}, "POST")

    def verdict(self, attempts: int) -> None:
        """Assert that nothing is wrong with so many requests."""
        verdict = self.ask("/_llmock/verdict")
        assert (verdict["findings"], verdict["attempts"]) == ([], attempts)


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "llmock.cli", "serve", "--port", str(port), "--log-level", "error"]
    # Else all of a stream may be sent before a client can stop it.
    command += ["--stream-chunk-delay-ms", "5"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        judge = Judge(f"http://127.0.0.1:{port}")
        try:
            until = time.monotonic() + 6 * PATIENCE
            while True:
                with contextlib.suppress(OSError):
                    judge.ask("/health")
                    break
                assert time.monotonic() < until and process.poll() is None
                time.sleep(0.05)
            yield judge
        finally:
            process.kill()


def make(judge: Judge, service: str, api_type: str, path: str, **settings: Any) -> Any:
    version = "v1beta" if service == "gemini" else None
    settings = {"api_type": api_type, "api_version": version, "timeout": PATIENCE, "retry_delay": 0.05} | settings
    return make_provider_of(service, SimpleNamespace(base_url=judge.url + path), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("status", "mode"), [(429, "auto"), (500, "disabled")])
def test_passing_failure(judge: Judge, service: str, api_type: str, path: str, mode: Any, status: int) -> None:
    # With a 429 comes `retry-after: 1`.
    judge.breaks({"type": "fail", "status": status})
    with make(judge, service, api_type, path) as provider:
        assert (provider.execute("Count", stream_mode=mode)).content == TEXT
    judge.verdict(2)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, LLMProviderBadRequestError),
        (401, LLMProviderAuthenticationError),
        (404, LLMProviderNotFoundError),
    ],
)
def test_lasting_failure(
    judge: Judge, service: str, api_type: str, path: str, status: int, kind: type[LLMProviderError]
) -> None:
    judge.breaks({"type": "fail", "status": status})
    with make(judge, service, api_type, path) as provider:
        with pytest.raises(kind):
            provider.execute("Count")
    judge.verdict(1)


@pytest.mark.parametrize(
    ("fault", "after"), [("truncate", 1), ("truncate", 5), ("disconnect", 5), ("malformed", 5), ("stall", 5)]
)
def test_broken_stream(judge: Judge, service: str, api_type: str, path: str, fault: str, after: int) -> None:
    judge.breaks({"type": "stream_fault", "kind": fault, "after_chunks": after, "stall_seconds": 0.6})
    timeout = 0.2 if fault == "stall" else PATIENCE
    texts: list[str] = []
    error: LLMProviderError | None = None
    with make(judge, service, api_type, path, timeout=timeout) as provider:
        try:
            for text in provider.stream("Count"):
                texts.append(text)
        except LLMProviderError as caught:
            error = caught
        if error:
            assert isinstance(error, LLMProviderTimeoutError if fault == "stall" else LLMProviderStreamError)
            assert (error.partial.content if error.partial else "") == "".join(texts) != TEXT
            # What was handed out is not asked for again by llmkit: this is for the caller to do, once the judge knows.
            in_thread(judge.ask, "/_llmock/requests")
            texts = [(provider.stream("Count", timeout=PATIENCE).response()).content]
        else:
            # Before the first output it is llmkit that asks again.
            assert after < 5 and fault != "stall"
    assert "".join(texts) == TEXT
    judge.verdict(2)


def test_slow_answer(judge: Judge, service: str, api_type: str, path: str) -> None:
    judge.breaks({"type": "slow_first_token", "seconds": 0.1})
    with make(judge, service, api_type, path) as provider:
        assert (provider.stream("Count").response()).content == TEXT
    judge.verdict(1)
