# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""How long a call waits, for what, and what its error then says. Nothing here measures a time."""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from llmkit import LLMProviderTimeoutError

from ..answers import Api, ChatCompletions
from ..server import GONE, Server, chunked, head, stream_reply
from ._backend import Client, in_thread, make_provider

pytestmark = pytest.mark.anyio

STREAM_HEAD = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
COMMENT = b": still thinking\n\n"
SHORT = 0.1
"""Seconds that a test waits for a time to run out."""
LONG = 0.4
"""Seconds that must not pass between two pulses of the server, also on a busy machine."""


def pulse(gate: threading.Event, data: bytes, count: int | None = None) -> Iterator[bytes]:
    """Yield `data` fifty times a second, `count` times or until the gate opens."""
    for _ in itertools.count() if count is None else range(count):
        if gate.wait(0.02):
            return
        yield data


def test_timeout_bounds_the_wait_for_the_headers(server: Server, api: Api) -> None:
    server.default = [GONE]
    with make_provider(server, api, timeout=SHORT) as provider:
        with pytest.raises(LLMProviderTimeoutError, match="within the timeout") as caught:
            provider.execute("Hi")
        assert (caught.value.code, caught.value.provider) == ("ReadTimeout", "openai")
        with pytest.raises(LLMProviderTimeoutError, match="within the timeout"):
            provider.stream("Hi").response()
        assert in_thread(server.wait_gone)
    # The service may still be at work on the first: it is not asked twice.
    assert len(server.requests) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems answer although nobody accepts")
@pytest.mark.parametrize("bound", ["timeout", "deadline"])
def test_connecting_to_nowhere_is_bounded(api: Api, bound: str) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        # Once the queue of those that nobody accepts is full, the system drops every further attempt.
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        nowhere = SimpleNamespace(base_url=f"http://127.0.0.1:{address[1]}/v1")
        with make_provider(nowhere, api, max_retries=0, **{bound: SHORT}) as provider:
            with pytest.raises(LLMProviderTimeoutError) as caught:
                provider.execute("Hi")
    assert caught.value.code == ("ConnectTimeout" if bound == "timeout" else "deadline")


def test_dripping_headers_do_not_extend_the_timeout(server: Server, api: Api) -> None:
    gate = server.gate()
    server.add(itertools.chain([b"HTTP/1.1 200 OK\r\n"], pulse(gate, b"x-a: b\r\n")))
    with make_provider(server, api, timeout=SHORT) as provider:
        with pytest.raises(LLMProviderTimeoutError) as caught:
            provider.execute("Hi")
        assert caught.value.code == "ReadTimeout"
        assert in_thread(server.wait_gone)


def test_silence_in_a_stream_is_a_timeout_with_what_came(server: Server, api: Api) -> None:
    server.add(stream_reply([*api.begun("One", " two"), GONE], end=False))
    with make_provider(server, api, timeout=SHORT) as provider:
        with pytest.raises(LLMProviderTimeoutError, match="within the timeout") as caught:
            provider.stream("Count").response()
        assert in_thread(server.wait_gone)
    assert caught.value.partial is not None
    assert caught.value.partial.content == "One two"
    assert len(server.requests) == 1


def test_comments_show_that_the_service_lives(server: Server) -> None:
    api = ChatCompletions()
    comments = pulse(server.gate(), COMMENT, count=round(1.5 * LONG / 0.02))
    server.add(itertools.chain([STREAM_HEAD], chunked(comments), chunked(api.stream("Hello!")), [b"0\r\n\r\n"]))
    with make_provider(server, api, timeout=LONG) as provider:
        assert (provider.stream("Hi").response()).content == "Hello!"


def test_long_answer_that_keeps_coming_never_times_out(server: Server) -> None:
    api = ChatCompletions()
    texts = pulse(server.gate(), api.delta("x"), count=round(1.5 * LONG / 0.02))
    begun, whole = api.begun("x"), api.stream("x")
    server.add(
        itertools.chain([STREAM_HEAD], chunked(begun), chunked(texts), chunked(whole[len(begun) :]), [b"0\r\n\r\n"])
    )
    with make_provider(server, api, timeout=LONG, idle_timeout=LONG) as provider:
        assert len([text for text in provider.stream("Hi")]) == 1 + round(1.5 * LONG / 0.02)


@pytest.mark.parametrize("own", [True, False], ids=["own client", "caller's client"])
@pytest.mark.parametrize("begun", [(), ("One",)], ids=["before the first event", "after it"])
def test_comments_do_not_extend_idle_timeout(server: Server, api: Api, own: bool, begun: Any) -> None:
    comments = pulse(server.gate(), COMMENT)
    server.add(itertools.chain([STREAM_HEAD], chunked(api.begun(*begun) if begun else []), chunked(comments)))
    with (
        Client(verify=False) as client,
        make_provider(server, api, http_client=None if own else client) as provider,
    ):
        with pytest.raises(LLMProviderTimeoutError, match="idle_timeout") as caught:
            provider.stream("Hi", idle_timeout=SHORT).response()
        assert in_thread(server.wait_gone)
    assert caught.value.code == "idle_timeout"
    partial = caught.value.partial
    assert (partial.content if partial else "") == "".join(begun)
    assert len(server.requests) == 1


def test_what_the_caller_takes_is_no_idle_time(server: Server, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = server.gate()
    server.add(stream_reply([*api.begun("One"), gate, *api.stream("")[-2:]]))
    later = 0.0
    monkeypatch.setattr("llmkit._sync.reader.time", SimpleNamespace(monotonic=lambda: time.monotonic() + later))
    with make_provider(server, api) as provider, provider.stream("Hi") as stream:
        for _ in stream:
            later += 1000
            gate.set()
        assert (stream.response()).content == "One"


@pytest.mark.parametrize("mode", ["disabled", "auto"])
def test_deadline_bounds_the_wait_for_the_headers(server: Server, api: Api, mode: Any) -> None:
    server.add([GONE])
    with make_provider(server, api) as provider:
        with pytest.raises(LLMProviderTimeoutError, match=r"deadline \(0\.1 s\)") as caught:
            provider.execute("Hi", deadline=SHORT, stream_mode=mode)
        assert in_thread(server.wait_gone)
    assert (caught.value.code, len(server.requests)) == ("deadline", 1)


@pytest.mark.parametrize("own", [True, False], ids=["own client", "caller's client"])
def test_deadline_bounds_a_body_that_drips(server: Server, api: Api, own: bool) -> None:
    server.add(itertools.chain([head(200, {"content-length": "1000000"})], pulse(server.gate(), b" ")))
    with (
        Client(verify=False) as client,
        make_provider(server, api, http_client=None if own else client) as provider,
    ):
        with pytest.raises(LLMProviderTimeoutError) as caught:
            provider.execute("Hi", deadline=SHORT)
        assert in_thread(server.wait_gone)
    assert caught.value.code == "deadline"


@pytest.mark.parametrize("own", [True, False], ids=["own client", "caller's client"])
def test_deadline_bounds_a_stream_that_keeps_coming(server: Server, api: Api, own: bool) -> None:
    texts = pulse(server.gate(), api.delta("x"))
    server.add(itertools.chain([STREAM_HEAD], chunked(api.begun("x")), chunked(texts)))
    with (
        Client(verify=False) as client,
        make_provider(server, api, http_client=None if own else client) as provider,
    ):
        with pytest.raises(LLMProviderTimeoutError, match="deadline") as caught:
            provider.stream("Hi", deadline=LONG).response()
        assert in_thread(server.wait_gone)
    assert caught.value.code == "deadline"
    assert caught.value.partial is not None
    assert set(caught.value.partial.content) == {"x"}


def test_deadline_bounds_all_tries_together(server: Server, api: Api) -> None:
    server.default = [GONE]
    settings: Any = {"timeout": 0.03, "retry_read_timeouts": True, "max_retries": 1000, "retry_delay": 0}
    with make_provider(server, api, **settings) as provider:
        with pytest.raises(LLMProviderTimeoutError) as caught:
            provider.execute("Hi", deadline=SHORT)
    assert caught.value.attempts
    assert 1 <= len(server.requests) <= 5
