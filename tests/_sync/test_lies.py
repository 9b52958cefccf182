# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""Bodies that say what they are not, or more than anybody wants to know: an error, with the service's own words."""

from __future__ import annotations

import gzip
import itertools
import json
from typing import Any

import pytest

from llmkit import (
    LLMProviderError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
)

from ..answers import AnyApi
from ..server import CLOSE, Server, event, head, pieces, raw_reply
from .faults_help import CHUNKED, FAULTS, MODES, TEXT, TEXTS, chunk, error_of, rewritten, whole, with_value

pytestmark = FAULTS

PAGE = b"<!doctype html><title>Sign in to the gateway</title>" + b"<p>Welcome</p>" * 1000
BODIES: list[tuple[bytes, tuple[str, ...]]] = [
    (PAGE, ("Sign in to the gateway",)),
    (b"", ("empty",)),
    (b" \r\n\r\n ", ("empty",)),
    (b"null", ("null", "None")),
    (b"[1, 2]", ("[1, 2]",)),
    (b"[]", ("[]",)),
    (b'"Hello!"', ("Hello!",)),
    (b"42", ("42",)),
    (b'{"hello": "world"}', ("world", "no candidate")),
    (b"{}", ("{}", "no candidate")),
    (b'{"error": {"message": "The model is asleep"}}', ("The model is asleep",)),
    (b'{"error": "The model is asleep"}', ("The model is asleep",)),
    (b'[{"error": {"message": "The model is asleep"}}]', ("The model is asleep",)),
    (b'{"hello": "w\xffrld"}', ("rld", "UTF-8")),
    (b"[" * 100_000, ("[[",)),
    (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, ('{"a":',)),
]


@MODES
def test_body_that_is_no_answer(server: Server, api: AnyApi, mode: str, own: bool) -> None:
    for body, told in BODIES:
        reply = raw_reply(body, x_request_id="req_3")
        error = error_of(server, api, mode, own, reply, (LLMProviderServerError, LLMProviderStreamError))
        assert error.request_id == "req_3"
        assert any(word in error.message for word in told)


# What JSON must not hold, or no reader can take, in the place of a value.
VALUES = [b"NaN", b"-Infinity", b"", b"1 2", b"7" * 5000, b"[" * 100_000 + b"]" * 100_000]


def test_value_that_json_has_not(server: Server, api: AnyApi, own: bool) -> None:
    for value in [*VALUES, b'"\\ud83d"', b'"\xff"', b'"a\nb"']:
        body = json.dumps(api.plain(TEXT)).encode().replace(b"{", b'{"new": ' + value + b", ", 1)
        error_of(server, api, "plain", own, raw_reply(body), LLMProviderServerError)


EVENTS = [
    *[b'{"new": ' + value + b"}" for value in VALUES],
    *[b"7", b"[]", b"null", b'"text"', b"<html>", b"{", b'{"error": "No"}', b"[DONE"],
]


def test_event_that_is_no_part_of_an_answer(server: Server, api: AnyApi, own: bool) -> None:
    for data in EVENTS:
        body = b"".join([*api.begun("Hel"), b"data: " + data + b"\n\n", *api.stream(*TEXTS)])
        error = error_of(server, api, "stream", own, raw_reply(body), LLMProviderStreamError)
        assert error.partial is not None
        assert error.partial.content == "Hel"


def test_stream_that_is_not_utf8(server: Server, api: AnyApi, own: bool) -> None:
    broken = api.delta("lo").replace(b"lo", b"l\xff")
    good = api.stream(*TEXTS)
    for events in ([broken], [broken.rstrip(b"\n")], [broken, *good[len(api.begun()) :]], [b": \xff\n\n", *good]):
        body = b"".join([*api.begun("Hel\ufffd"), *events])
        for reply in (raw_reply(body), [head(), *pieces(body, 7), CLOSE]):
            error = error_of(server, api, "stream", own, reply, LLMProviderStreamError)
            assert "UTF-8" in error.message
            # What could not be read is not handed out as if it had been.
            assert error.partial is None or error.partial.content in ("", "Hel\ufffd")


@MODES
def test_text_that_is_none(server: Server, api: AnyApi, mode: str, own: bool) -> None:
    wanted = TEXT if mode == "plain" else TEXTS[1]
    kinds = LLMProviderServerError if mode == "plain" else LLMProviderStreamError
    for value in (7, True, 1.5, {"a": 1}, [7]):
        body = rewritten(whole(api, mode), mode, with_value(wanted, value))
        error_of(server, api, mode, own, raw_reply(body), kinds)


@pytest.mark.parametrize("done", [b"", event("[DONE]")], ids=["then nothing", "then [DONE]"])
@pytest.mark.parametrize("begun", [(), ("Hel",)], ids=["first", "in the middle"])
def test_error_event(server: Server, api: AnyApi, own: bool, begun: Any, done: bytes) -> None:
    code = {"messages": "rate_limit_error", "generate_content": "RESOURCE_EXHAUSTED"}.get(api.name)
    failure = api.error("Slow down, please", code=code or "rate_limit_exceeded")
    body = b"".join([*(api.begun(*begun) if begun else []), failure, done])
    reply = raw_reply(body, x_request_id="req_9")
    error = error_of(server, api, "stream", own, reply, LLMProviderRateLimitError)
    assert "Slow down, please" in error.message
    assert error.request_id == "req_9"
    assert (error.partial.content if error.partial else "") == "".join(begun)


@MODES
def test_error_body_without_end(server: Server, api: AnyApi, mode: str, own: bool) -> None:
    reply = itertools.chain([CHUNKED.replace(b"200", b"500")], itertools.repeat(chunk(b"Down. " * 10_000)))
    error = error_of(server, api, mode, own, reply, LLMProviderServerError)
    assert (error.status_code, error.message[:32]) == (500, "the service answered 500: Down. ")


LIMITS = {"max_body_bytes": 100_000, "max_event_bytes": 100_000}
ENDLESS = {
    "spaces": b" " * 50_000,
    "a line": b"data: " + b"x" * 50_000,
    "lines of one event": b"data: x\n" * 5_000,
    "comments of one event": b": x\n" * 5_000,
}


@MODES
@pytest.mark.parametrize("endless", ENDLESS)
def test_body_without_end(server: Server, api: AnyApi, mode: str, own: bool, endless: str) -> None:
    reply = itertools.chain([CHUNKED], itertools.repeat(chunk(ENDLESS[endless])))
    limit = "max_body_bytes" if mode == "plain" else "max_event_bytes"
    error = error_of(server, api, mode, own, reply, LLMProviderError, **LIMITS)
    assert limit in error.message
    assert "100000 bytes" in error.message


@MODES
@pytest.mark.parametrize("status", [200, 500])
def test_gzip_bomb(server: Server, api: AnyApi, mode: str, own: bool, status: int) -> None:
    # Two megabytes in two kilobytes.
    reply = raw_reply(BOMB, status, content_encoding="gzip")
    error = error_of(server, api, mode, own, reply, LLMProviderError, **LIMITS)
    limit = "max_body_bytes" if mode == "plain" else "max_event_bytes"
    assert (limit if status == 200 else "answered 500") in error.message


BOMB = gzip.compress(b"data: " + b"x" * 2_000_000)
