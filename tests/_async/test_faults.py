# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""Whatever a network does: the right answer or the right error in time, and never a cut answer as whole."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from llmkit import (
    LLMProviderConnectionError,
    LLMProviderError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderTimeoutError,
)

from ..answers import AnyApi
from ..server import CLOSE, GONE, PATIENCE, RESET, Server, event, head, pieces, raw_reply
from .faults_help import (
    CHUNKED,
    FAULTS,
    MODES,
    SHORT,
    TEXT,
    answer_to,
    ask,
    chunk,
    error_of,
    everywhere,
    make_client,
    make_provider,
    rewritten,
    whole,
)

pytestmark = FAULTS

FRAMINGS: dict[str, Callable[[bytes], Any]] = {
    "one byte at a time": lambda body: pieces(head(200, {"content-length": str(len(body))}) + body, 1),
    "chunks of one byte": lambda body: [CHUNKED, *map(chunk, pieces(body, 1)), b"0\r\n\r\n"],
    "gzip": lambda body: raw_reply(gzip.compress(body), content_encoding="gzip"),
    "gzip, a byte at a time": lambda body: [
        head(200, {"content-encoding": "gzip"}),
        *pieces(gzip.compress(body), 1),
        CLOSE,
    ],
    "HTTP/1.0": lambda body: [head(version="1.0") + body, CLOSE],
    "connection: close": lambda body: [*raw_reply(body, connection="close"), CLOSE],
    "no length": lambda body: [head(), body, CLOSE],
    "100 and 103 first": lambda body: [head(100), head(103, {"link": "</style.css>"}), *raw_reply(body)],
    "chunk extensions and a trailer": lambda body: [
        CHUNKED + chunk(body).replace(b"\r\n", b';name="a;b"\r\n', 1) + b"0\r\nx-sum: 1\r\n\r\n"
    ],
    "no reason, headers in capitals": lambda body: [b"HTTP/1.1 200\r\nCONTENT-LENGTH:%d\r\n\r\n" % len(body) + body],
    "another content type": lambda body: raw_reply(body, content_type="text/plain; charset=latin-1"),
}


@MODES
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_answer_however_it_travels(server: Server, api: AnyApi, mode: str, own: bool, framing: str) -> None:
    response = await answer_to(server, api, mode, own, FRAMINGS[framing](whole(api, mode)))
    assert (response.content, response.finish_reason, response.total_tokens) == (TEXT, "stop", 18)


USAGES = ("usage", "usageMetadata")
CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "characters without escapes": lambda data: data,
    "unknown fields everywhere": lambda data: everywhere(data, lambda inner: inner | {"brand_new": {"a": [None]}}),
    "no usage": lambda data: everywhere(data, lambda o: {name: o[name] for name in o if name not in USAGES}),
    "null for usage": lambda data: everywhere(data, lambda o: {n: None if n in USAGES else o[n] for n in o}),
    "null for error": lambda data: {**data, "error": None},
    "unknown finish reason": lambda data: everywhere(
        data,
        lambda o: {n: "tired" if n in ("finish_reason", "stop_reason", "finishReason") and o[n] else o[n] for n in o},
    ),
}


@MODES
@pytest.mark.parametrize("change", CHANGES)
async def test_answer_with_unusual_fields(server: Server, api: AnyApi, mode: str, own: bool, change: str) -> None:
    response = await answer_to(server, api, mode, own, raw_reply(rewritten(whole(api, mode), mode, CHANGES[change])))
    has_reason = change == "unknown finish reason" and api.name != "responses"
    assert (response.content, response.finish_reason) == (TEXT, "other" if has_reason else "stop")


NEW = event({"type": "brand.new", "what": [None]}, "brand.new")
WRITINGS: dict[str, Callable[[bytes], bytes]] = {
    "CRLF": lambda body: body.replace(b"\n", b"\r\n"),
    "CR": lambda body: body.replace(b"\n", b"\r"),
    "byte order mark": lambda body: b"\xef\xbb\xbf" + body,
    "comments": lambda body: body.replace(b"data:", b": thinking\n:\ndata:").replace(b"\n\n", b"\n\n: ping\n\n"),
    "no space after the colon": lambda body: body.replace(b": ", b":"),
    "several lines of data": lambda body: body.replace(b'{"', b'{\ndata: "'),
    "fields that mean nothing here": lambda body: body.replace(b"data:", b"id: 7\nretry: 10\nwhat: ever\nx\ndata:"),
    "no names": lambda body: re.sub(rb"event: .*\n", b"", body),
    "unknown events": lambda body: NEW + body.replace(b"\n\n", b"\n\n" + NEW),
    "events without data": lambda body: body.replace(b"\n\n", b"\n\ndata:\n\nevent: x\n\n"),
    "the end twice": lambda body: body + body[body.rstrip().rindex(b"\n\n") + 2 :],
    "[DONE] after the end": lambda body: body + event("[DONE]"),
    "no blank line at the end": lambda body: body.rstrip(b"\n"),
}


@pytest.mark.parametrize("writing", WRITINGS)
async def test_stream_however_it_is_written(server: Server, api: AnyApi, own: bool, writing: str) -> None:
    body = WRITINGS[writing](whole(api, "stream"))
    response = await answer_to(server, api, "stream", own, [head(), *pieces(body, 5), CLOSE])
    assert (response.content, response.finish_reason, response.total_tokens) == (TEXT, "stop", 18)


async def test_surrogate_pair_in_two_deltas(server: Server, api: AnyApi, own: bool) -> None:
    body = b"".join(api.stream("a\ud83d", "\ude00b"))
    response = await answer_to(server, api, "stream", own, raw_reply(body))
    assert response.content == "a\U0001f600b"


@MODES
async def test_socket_that_stays_open_after_the_end(server: Server, api: AnyApi, mode: str, own: bool) -> None:
    body = whole(api, mode)
    if mode == "stream" and api.name in ("messages", "responses"):
        # Their last event is the end, whatever the framing says.
        reply = [CHUNKED, chunk(body), GONE]
    else:
        reply = [*raw_reply(body), GONE]
    server.add(reply, raw_reply(whole(api, mode)))
    async with make_client() as client, make_provider(server, api, None if own else client) as provider:
        assert (await ask(provider, mode)).content == TEXT


@MODES
async def test_second_answer_that_nobody_asked_for(server: Server, api: AnyApi, mode: str, own: bool) -> None:
    wrong = raw_reply(json.dumps(api.plain("Not yours")).encode())
    # httpx itself takes it for the next answer.
    response = await answer_to(server, api, mode, True, [raw_reply(whole(api, mode))[0] + wrong[0]])
    assert response.content == TEXT


@MODES
@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["closed", "reset"])
async def test_kept_connection_that_breaks_under_the_next_request(
    server: Server, api: AnyApi, mode: str, own: bool, end: Any, sleeps: list[float]
) -> None:
    good = raw_reply(whole(api, mode))
    server.add(good, [end], good)
    async with make_client() as client, make_provider(server, api, None if own else client, max_retries=1) as provider:
        for _ in range(2):
            assert (await ask(provider, mode)).content == TEXT
    assert [request.connection for request in server.requests] == [0, 0, 1]


NO_ANSWER: dict[str, tuple[Any, type[LLMProviderError]]] = {
    "closed": ([CLOSE], LLMProviderConnectionError),
    "reset": ([RESET], LLMProviderConnectionError),
    "closed within the headers": ([head()[:-2], CLOSE], LLMProviderConnectionError),
    "reset within the headers": ([head()[:-2], RESET], LLMProviderConnectionError),
    "no HTTP": ([b"\x15\x03\x01\x00\x02\x02\x28\r\n\r\n", CLOSE], LLMProviderConnectionError),
    "status that is none": ([b"HTTP/1.1 abc Hm\r\n\r\n", CLOSE], LLMProviderConnectionError),
    "huge headers": ([head(200, {"x": "y" * 200_000}), CLOSE], LLMProviderConnectionError),
    "closed after 103": ([head(103), CLOSE], LLMProviderConnectionError),
    "no header": ([b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", CLOSE], LLMProviderConnectionError),
    "length that is none": ([head(200, {"content-length": "ten"}), CLOSE], LLMProviderConnectionError),
    "two lengths": ([head(200, {"content-length": "5", "Content-Length": "6"}), CLOSE], LLMProviderConnectionError),
    "chunk that is none": ([CHUNKED + b"hello\r\n", CLOSE], LLMProviderConnectionError),
    "silence": ([GONE], LLMProviderTimeoutError),
    "silence within the headers": ([head()[:-2], GONE], LLMProviderTimeoutError),
    "silence after the headers": ([head(), GONE], LLMProviderTimeoutError),
}


@MODES
@pytest.mark.parametrize("fault", NO_ANSWER)
async def test_no_answer(server: Server, api: AnyApi, mode: str, own: bool, fault: str) -> None:
    reply, kind = NO_ANSWER[fault]
    await error_of(server, api, mode, own, reply, kind, timeout=SHORT if GONE in reply else PATIENCE)


@MODES
async def test_gzip_that_is_none(server: Server, api: AnyApi, mode: str, own: bool) -> None:
    reply = raw_reply(whole(api, mode), content_encoding="gzip")
    error = await error_of(server, api, mode, own, reply, LLMProviderServerError)
    assert "compression" in error.message


Cut = Callable[[bytes, bytes], Any]
CUTS: dict[str, tuple[Cut, Any]] = {
    "length too long": (lambda a, b: [head(200, {"content-length": "9999"}) + a, CLOSE], LLMProviderConnectionError),
    "length too short": (lambda a, b: raw_reply(a, connection="close"), LLMProviderServerError),
    "no length": (lambda a, b: [head() + a, CLOSE], LLMProviderServerError),
    "closed within a chunk": (
        lambda a, b: [CHUNKED + chunk(a) + chunk(b)[:20], CLOSE],
        LLMProviderConnectionError,
    ),
    "closed after a chunk": (lambda a, b: [CHUNKED + chunk(a), CLOSE], LLMProviderConnectionError),
    "end after a chunk": (lambda a, b: [CHUNKED + chunk(a) + b"0\r\n\r\n"], LLMProviderServerError),
    "reset": (lambda a, b: [CHUNKED + chunk(a), RESET], LLMProviderConnectionError),
    "chunk that is none": (lambda a, b: [CHUNKED + chunk(a) + b"?\r\n" + b, CLOSE], LLMProviderConnectionError),
    "chunk without its end": (
        lambda a, b: [CHUNKED + chunk(a)[:-2] + chunk(b), CLOSE],
        LLMProviderConnectionError,
    ),
    "gzip cut": (
        lambda a, b: raw_reply(gzip.compress(a + b)[:-20], content_encoding="gzip"),
        LLMProviderServerError,
    ),
    "silence": (lambda a, b: [CHUNKED + chunk(a), GONE], LLMProviderTimeoutError),
    "silence within a chunk": (lambda a, b: [CHUNKED + chunk(a + b)[:-30], GONE], LLMProviderTimeoutError),
}


@MODES
@pytest.mark.parametrize("fault", CUTS)
async def test_answer_that_is_cut(server: Server, api: AnyApi, mode: str, own: bool, fault: str) -> None:
    body = whole(api, mode)
    place = body.index(b"lo, w")
    cut, kind = CUTS[fault]
    reply = cut(body[:place], body[place:])
    kinds = kind if mode == "plain" or kind is LLMProviderTimeoutError else (kind, LLMProviderStreamError)
    error = await error_of(server, api, mode, own, reply, kinds, timeout=SHORT if GONE in reply else PATIENCE)
    if mode == "stream" and fault != "reset" and GONE not in reply:
        assert error.partial is not None
        assert error.partial.content.startswith("Hel")


async def test_stream_that_is_cut_anywhere(server: Server, api: AnyApi, own: bool) -> None:
    body = whole(api, "stream")
    # Past the finish reason of the first and the last there is nothing more of the answer.
    last = {"chat_completions": b'"stop"', "generate_content": b'"STOP"'}.get(api.name, b"_stop\n")
    ends = body.rindex(last) if last in body else len(body) - 4
    async with make_client() as client, make_provider(server, api, None if own else client) as provider:
        for place in range(0, ends, 41):
            server.add([head() + body[:place], CLOSE])
            texts: list[str] = []
            with pytest.raises(LLMProviderError) as caught:
                await ask(provider, "stream", texts)
            partial = caught.value.partial
            assert TEXT.startswith("".join(texts))
            assert (partial.content if partial else "") == "".join(texts)
