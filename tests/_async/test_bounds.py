# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""What an answer may have at most: bytes, levels, tool calls, compressed or not. An error names the limit."""

from __future__ import annotations

import gzip
import itertools
import json
import zlib
from typing import Any

import pytest

from llmkit import LLMProviderError, LLMProviderServerError, LLMProviderStreamError

from ..answers import AnyApi, ChatCompletions, Responses
from ..server import Server, event, raw_reply
from .faults_help import CHUNKED, FAULTS, MODES, TEXT, answer_to, chunk, error_of, make_client, whole
from .faults_help import make_provider as make_faulty

pytestmark = FAULTS


def texts(api: AnyApi) -> Any:
    """Yield the chunks of a stream that is good and has no end."""
    return itertools.chain([CHUNKED, *map(chunk, api.begun("x"))], itertools.repeat(chunk(api.delta("x" * 1000) * 10)))


def zipped(steps: Any) -> Any:
    """Compress steps one by one, all as one body."""
    compressor = zlib.compressobj(wbits=31)
    for step in steps:
        yield chunk(compressor.compress(step) + compressor.flush(zlib.Z_SYNC_FLUSH))


async def test_stream_that_is_good_and_has_no_end(server: Server, api: AnyApi, own: bool) -> None:
    error = await error_of(
        server, api, "stream", own, texts(api), LLMProviderStreamError, max_stream_bytes=100_000, max_retries=3
    )
    assert "max_stream_bytes (100000 bytes)" in error.message
    assert error.partial is not None
    assert 10_000 < len(error.partial.content) < 200_000


async def test_stream_without_output_that_has_no_end(server: Server, api: AnyApi, own: bool) -> None:
    steps = {"max_stream_bytes": b": still thinking\n\n" * 500, "max_event_bytes": b"data: " + b"x" * 9_000}
    for limit, step in steps.items():
        reply = itertools.chain([CHUNKED], itertools.repeat(chunk(step)))
        settings = {limit: 100_000, "max_retries": 3}
        error = await error_of(server, api, "stream", own, reply, LLMProviderStreamError, **settings)
        assert limit in error.message


async def test_compressed_stream_has_the_bounds_of_another(server: Server, api: AnyApi, own: bool) -> None:
    begun = CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    bodies = {
        "max_stream_bytes": itertools.chain(api.begun("x"), itertools.repeat(api.delta("x" * 1000) * 100)),
        "max_event_bytes": itertools.chain(api.begun("x"), itertools.repeat(b"data: " + b"x" * 100_000)),
    }
    for limit, body in bodies.items():
        reply = itertools.chain([begun], zipped(body))
        error = await error_of(server, api, "stream", own, reply, LLMProviderStreamError, **{limit: 200_000})
        assert limit in error.message
        assert error.partial is not None and error.partial.content.startswith("x")


@MODES
async def test_compressed_answer_that_is_empty_and_has_no_end(
    server: Server, api: AnyApi, mode: str, own: bool
) -> None:
    begun = CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-encoding: gzip\r\n\r\n")
    reply = itertools.chain([begun], itertools.repeat(chunk(gzip.compress(b"") * 1000)))
    error = await error_of(server, api, mode, own, reply, LLMProviderError)
    assert "stand for nothing" in error.message


@MODES
async def test_answer_within_its_bounds(server: Server, api: AnyApi, mode: str, own: bool) -> None:
    body = whole(api, mode)
    bounds = {name: len(body) for name in ("max_body_bytes", "max_event_bytes", "max_stream_bytes")}
    server.add(raw_reply(body), raw_reply(gzip.compress(body), content_encoding="gzip"))
    async with make_client() as client, make_faulty(server, api, None if own else client, **bounds) as provider:
        for _ in range(2):
            assert (
                await provider.execute("Hi", stream_mode="auto" if mode == "stream" else "disabled")
            ).content == TEXT


async def test_answer_of_many_events(server: Server, api: AnyApi, own: bool) -> None:
    words = [f"word {number} " for number in range(2000)]
    events = api.stream(*words)
    response = await answer_to(server, api, "stream", own, [CHUNKED, *map(chunk, events), b"0\r\n\r\n"])
    assert response.content == "".join(words)


@MODES
@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "x-unheard-of"])
async def test_compression_that_has_no_bounds_is_refused(
    server: Server, api: AnyApi, mode: str, own: bool, coding: str
) -> None:
    body = gzip.compress(gzip.compress(whole(api, mode)))
    reply = raw_reply(body, content_encoding=coding)
    error = await error_of(server, api, mode, own, reply, LLMProviderServerError)
    assert f"content-encoding is '{coding}'" in error.message
    asked_for = server.requests[0].headers.get("accept-encoding")
    assert asked_for in (None, "gzip, deflate")


@MODES
@pytest.mark.parametrize("coding", ["deflate", "identity"])
async def test_other_compression(server: Server, api: AnyApi, mode: str, own: bool, coding: str) -> None:
    body = whole(api, mode)
    compressed = zlib.compress(body) if coding == "deflate" else body
    response = await answer_to(server, api, mode, own, raw_reply(compressed, content_encoding=coding))
    assert response.content == TEXT


@MODES
@pytest.mark.parametrize("levels", [40, 190, 202, 5_000])
async def test_nesting(server: Server, api: AnyApi, mode: str, own: bool, levels: int) -> None:
    deep = b'{"new": ' + b"[" * levels + b"]" * levels + b", "
    reply = raw_reply(whole(api, mode).replace(b"{", deep, 1))
    if levels < 200:
        assert (await answer_to(server, api, mode, own, reply)).content == TEXT
    server.script.clear()
    kinds = LLMProviderServerError if mode == "plain" else LLMProviderStreamError
    limit = 30 if levels < 200 else 200
    error = await error_of(server, api, mode, own, reply, kinds, max_json_depth=limit)
    assert f"more than {limit} levels; max_json_depth" in error.message


def many_calls(api: AnyApi, mode: str, count: int) -> bytes:
    """Return the body of an answer with tool calls."""
    calls = [("weather", "{}")] * count
    if isinstance(api, (ChatCompletions, Responses)):
        return (
            json.dumps(api.plain(TEXT, calls=calls)).encode()
            if mode == "plain"
            else b"".join(api.stream(TEXT, calls=calls))
        )
    body: Any = api.plain(TEXT)
    if api.name == "generate_content":
        body["candidates"][0]["content"]["parts"] += [{"functionCall": {"name": "weather", "args": {}}}] * count
        return json.dumps(body).encode() if mode == "plain" else event(body)
    block = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}}
    body["content"] += [block] * count
    if mode == "plain":
        return json.dumps(body).encode()
    *begun, message_delta, message_stop = api.stream(TEXT)
    blocks = [
        event({"type": kind, "index": 1 + index, "content_block": block}, kind)
        for index in range(count)
        for kind in ("content_block_start", "content_block_stop")
    ]
    return b"".join([*begun, *blocks, message_delta, message_stop])


@MODES
async def test_tool_calls(server: Server, api: AnyApi, mode: str, own: bool) -> None:
    answer = await answer_to(server, api, mode, own, raw_reply(many_calls(api, mode, 9)))
    assert [call.name for call in answer.tool_calls] == ["weather"] * 9
    server.script.clear()
    reply = raw_reply(many_calls(api, mode, 9))
    with_retries = {"max_tool_calls": 8, "max_retries": 3}
    async with make_client() as client, make_faulty(server, api, None if own else client, **with_retries) as provider:
        server.add(reply, raw_reply(whole(api, "plain")))
        with pytest.raises(LLMProviderError, match=r"more tool calls than max_tool_calls \(8\)") as caught:
            await provider.execute("Hi", stream_mode="auto" if mode == "stream" else "disabled")
        assert (caught.value.partial is not None) is (mode == "stream")
        assert (await provider.execute("Hi", stream_mode="disabled")).content == TEXT
