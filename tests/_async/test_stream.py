"""Streams over real sockets: what is handed out and when, and what happens to the connection."""

from __future__ import annotations

import gc
import gzip
import itertools
import json
import threading
import time
import zlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmkit import (
    Finish,
    LLMProviderBadRequestError,
    LLMProviderConnectionError,
    LLMProviderError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    RawEvent,
    ReasoningDelta,
    ResponseStart,
    TextDelta,
    ToolCallDelta,
    UsageReport,
)
from llmkit._async._backend import ByteStream

from ..answers import MODEL, Api, ChatCompletions, Responses, error_body
from ..server import (
    CLOSE,
    GONE,
    PATIENCE,
    RESET,
    Server,
    chunked,
    event,
    head,
    json_reply,
    pieces,
    raw_reply,
    stream_reply,
)
from ._backend import Client, httpx, in_thread, make_provider

pytestmark = pytest.mark.anyio

STREAM_HEAD = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})


async def collect(stream: Any, texts: list[str], gate: threading.Event | None = None) -> None:
    """Append the pieces of text to `texts`, and open the gate with each."""
    async for text in stream:
        texts.append(text)
        if gate:
            gate.set()


async def test_text_is_handed_out_as_it_arrives(server: Server, api: Api) -> None:
    gates = [server.gate(), server.gate()]
    first, second, third = api.delta("One"), api.delta(" two"), api.delta(" three")
    rest = api.stream("One two three")[len(api.begun("One")) :]
    server.add(stream_reply([*api.begun(), first, gates[0], second, gates[1], third, *rest]))
    async with make_provider(server, api) as provider:
        texts = []
        async for text in provider.stream("Count"):
            texts.append(text)
            # The server sends the next piece only now: nothing may be waiting for more.
            if gates:
                gates.pop(0).set()
    assert texts == ["One", " two", " three"]


async def test_an_answer_is_over_at_its_end_and_not_at_that_of_its_body(server: Server, api: Api) -> None:
    server.default = stream_reply([*api.stream("Hello!"), GONE], end=False)
    async with Client(timeout=600) as client:
        for own in (None, client):
            async with make_provider(server, api, http_client=own, timeout=600) as provider:
                started = time.monotonic()
                assert (await provider.stream("Hi").response()).content == "Hello!"
                assert time.monotonic() < started + PATIENCE / 2
    for number in range(2):
        assert await in_thread(server.wait_gone, number)


class Pieces(ByteStream):
    """A body whose pieces may be empty, as those of HTTP/2 may be."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = [*pieces]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self.pieces:
            raise StopAsyncIteration
        return self.pieces.pop(0)


async def test_a_body_does_not_end_with_an_empty_piece(server: Server, api: Api) -> None:
    plain, streamed = json.dumps(api.plain("Hello!")).encode(), b"".join(api.stream("Hel", "lo!"))
    coding = {"content-encoding": "gzip"}
    for body, stream in ((plain, False), (streamed, True)):
        packed = gzip.compress(body)
        for headers, data in (({}, body), (coding, packed)):
            halves = Pieces(b"", data[:20], b"", b"", data[20:], b"")
            mock = httpx.MockTransport(
                lambda _, own=(headers, halves): httpx.Response(200, headers=own[0], stream=own[1])
            )
            async with Client(transport=mock) as client, make_provider(server, api, http_client=client) as provider:
                answer = await (provider.stream("Hi").response() if stream else provider.execute("Hi"))
            assert answer.content == "Hello!"


async def test_nothing_is_sent_before_a_stream_is_read(server: Server, api: Api) -> None:
    server.add(stream_reply(api.stream("Hello!")))
    async with make_provider(server, api) as provider:
        stream = provider.stream("Hi")
        assert server.connections == []
        assert [text async for text in stream] == ["Hello!"]
    assert len(server.requests) == 1


async def test_events_have_types(server: Server, api: Api) -> None:
    server.add(stream_reply(api.stream("Hel", "lo!", calls=[("weather", '{"city": 1}')])))
    async with make_provider(server, api) as provider:
        events = [received async for received in provider.stream("Hi").events()]
    wanted = [ResponseStart, TextDelta, ToolCallDelta, UsageReport, Finish]
    assert [kind for kind, _ in itertools.groupby(map(type, events)) if kind in wanted] == wanted
    assert [received.text for received in events if isinstance(received, TextDelta)] == ["Hel", "lo!"]
    calls = [received for received in events if isinstance(received, ToolCallDelta)]
    assert (calls[0].index, calls[0].id, calls[0].name) == (0, "call_0", "weather")
    assert json.loads("".join(call.arguments for call in calls)) == {"city": 1}


async def test_response_reads_what_is_left_and_has_all(server: Server, api: Api) -> None:
    server.default = stream_reply(api.stream("One", " two", " three"), x_request_id="req_7")
    async with make_provider(server, api) as provider, provider.stream("Count") as stream:
        async for text in stream:
            assert text == "One"
            break
        response = await stream.response()
        assert response.content == "One two three"
        assert (response.model, response.response_id, response.finish_reason) == (MODEL, api.id, "stop")
        assert (response.prompt_tokens, response.completion_tokens, response.total_tokens) == (11, 7, 18)
        assert (response.metadata["request_id"], response.metadata["wire_format"]) == ("req_7", api.name)
        # At its end a stream has nothing more to give, and says the same when asked again.
        assert [text async for text in stream] == []
        assert await stream.response() == response


async def test_text_and_events_share_one_position(server: Server, api: Api) -> None:
    server.add(stream_reply(api.stream("One", " two", " three")))
    async with make_provider(server, api) as provider, provider.stream("Count") as stream:
        async for _ in stream:
            break
        texts = [received.text async for received in stream.events() if isinstance(received, TextDelta)]
    assert texts == [" two", " three"]


@pytest.mark.parametrize("size", [1, 7, 100000])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
async def test_pieces_of_any_size_give_the_same_answer(server: Server, api: Api, size: int, line_end: bytes) -> None:
    whole = b"".join([b": comment\n\n", *api.stream("Grüße ", "🦊", calls=[("weather", '{"city": "Malmö"}')])])
    body = b"".join(step for step in chunked(pieces(whole.replace(b"\n", line_end), size)) if isinstance(step, bytes))
    # Pieces on the wire are cut elsewhere than the chunks; the end of the body comes with the last of them.
    server.add([STREAM_HEAD, *pieces(body + b"0\r\n\r\n", 11 if size == 7 else 100000)])
    async with make_provider(server, api) as provider:
        response = await provider.stream("Hi").response()
    assert (response.content, response.finish_reason, response.total_tokens) == ("Grüße 🦊", "tool_calls", 18)
    assert response.tool_calls[0].arguments == {"city": "Malmö"}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_body_may_end_with_the_connection(server: Server, api: Api, version: str) -> None:
    server.add([head(200, {"content-type": "text/event-stream"}, version), *api.stream("Hello!"), CLOSE])
    async with make_provider(server, api) as provider:
        assert (await provider.stream("Hi").response()).content == "Hello!"


async def test_answer_ends_with_its_last_event_though_the_body_does_not(server: Server, api: Api) -> None:
    server.add(stream_reply([*api.stream("Hello!"), GONE], end=False))
    async with make_provider(server, api) as provider:
        assert [text async for text in provider.stream("Hi")] == ["Hello!"]
        assert await in_thread(server.wait_gone)


async def test_last_event_counts_without_its_blank_line(server: Server, api: Api) -> None:
    *events, last = api.stream("Hello!")
    server.add(stream_reply([*events, last.rstrip(b"\n")]))
    async with make_provider(server, api) as provider:
        response = await provider.stream("Hi").response()
    assert (response.content, response.total_tokens) == ("Hello!", 18)


async def test_reasoning_is_told_apart_from_the_text(server: Server) -> None:
    api = ChatCompletions()
    server.add(stream_reply(api.stream("Hello!", reasoning_content="Hm.")))
    async with make_provider(server, api) as provider, provider.stream("Hi") as stream:
        events = [received async for received in stream.events()]
        response = await stream.response()
    assert [received.text for received in events if isinstance(received, ReasoningDelta)] == ["Hm."]
    assert (response.content, response.reasoning) == ("Hello!", "Hm.")


async def test_connection_serves_the_next_request_after_the_end(server: Server, api: Api) -> None:
    server.add(*[stream_reply(api.stream("Hello!"))] * 3, json_reply(api.plain()))
    async with make_provider(server, api) as provider:
        assert [text async for text in provider.stream("Hi")] == ["Hello!"]
        async with provider.stream("Hi") as stream:
            assert [text async for text in stream] == ["Hello!"]
        await provider.stream("Hi").response()
        await provider.execute("Hi")
    assert [request.connection for request in server.requests] == [0, 0, 0, 0]


async def test_break_closes_the_connection(server: Server, api: Api) -> None:
    server.default = stream_reply([*api.begun("One", " two"), GONE], end=False)
    async with make_provider(server, api) as provider:
        async for _ in provider.stream("Count"):
            break
        assert await in_thread(server.wait_gone)
        async for received in provider.stream("Count").events():
            if isinstance(received, TextDelta):
                break
        assert await in_thread(server.wait_gone)
    assert len(server.connections) == 2


async def test_break_closes_the_connection_after_another_try(server: Server, api: Api, sleeps: list[float]) -> None:
    failed = [json_reply(error_body("Down"), 503), json_reply(error_body("Down"), 503)]
    server.add(*failed, stream_reply([*api.begun("One"), GONE], end=False))
    async with make_provider(server, api, max_retries=2) as provider:
        stream = provider.stream("Count")
        async for _ in stream:
            break
        # Without the help of the garbage collector.
        assert await in_thread(server.wait_gone)


async def test_break_ends_a_stream_without_its_block(server: Server, api: Api) -> None:
    server.add(stream_reply([*api.begun("One", " two"), GONE], end=False))
    async with make_provider(server, api) as provider:
        stream = provider.stream("Count")
        async for _ in stream:
            break
        assert await in_thread(server.wait_gone)
        with pytest.raises(LLMProviderStreamError, match="closed before its end") as caught:
            await stream.response()
    assert caught.value.partial is not None
    assert caught.value.partial.content.startswith("One")


def zipped(events: list[bytes], end: bool = True) -> list[bytes]:
    """Compress events so that each can be read as soon as it has come."""
    compressor = zlib.compressobj(wbits=31)
    pieces = [compressor.compress(received) + compressor.flush(zlib.Z_SYNC_FLUSH) for received in events]
    return [*pieces, compressor.flush()] if end else pieces


async def test_compressed_stream_is_read_and_left_as_any_other(server: Server, api: Api) -> None:
    server.add(stream_reply(zipped(api.stream("One", " two")), content_encoding="gzip"))
    begun = zipped(api.begun("One", " two"), end=False)
    server.add(stream_reply([*begun, GONE], end=False, content_encoding="gzip"))
    async with make_provider(server, api) as provider:
        assert (await provider.stream("Count").response()).content == "One two"
        async for _ in provider.stream("Count"):
            break
        assert await in_thread(server.wait_gone)
    assert [request.connection for request in server.requests] == [0, 0]


async def test_client_of_the_caller_gets_its_connections_back(server: Server, api: Api) -> None:
    server.add(stream_reply(api.stream("One")), stream_reply([*api.begun("One", " two"), GONE], end=False))
    server.add(stream_reply([*api.begun("One"), api.error("No")], end=False), stream_reply(api.stream("One")))
    async with Client(verify=False, limits=httpx.Limits(max_connections=1)) as client:
        provider = make_provider(server, api, http_client=client, max_retries=0)
        assert (await provider.stream("Count").response()).content == "One"
        async for _ in provider.stream("Count"):
            break
        assert await in_thread(server.wait_gone)
        with pytest.raises(LLMProviderError, match="No"):
            await provider.stream("Count").response()
        assert (await provider.stream("Count").response()).content == "One"
    assert [request.connection for request in server.requests] == [0, 0, 1, 2]


async def test_leaving_the_block_closes_the_connection(server: Server, api: Api) -> None:
    server.default = stream_reply([*api.begun("One"), GONE], end=False)
    async with make_provider(server, api) as provider:
        async with provider.stream("Count") as stream:
            async for _ in stream:
                break
            # Within the block the stream goes on.
            assert not server.connections[0].gone.is_set()
        assert await in_thread(server.wait_gone)
        with pytest.raises(LookupError, match="of the caller"):
            await fail_in_the_block(provider)
        assert await in_thread(server.wait_gone)


async def fail_in_the_block(provider: Any) -> None:
    async with provider.stream("Count") as stream:
        async for _ in stream:
            raise LookupError("of the caller")


async def test_aclose_releases_the_connection_and_may_be_repeated(server: Server, api: Api) -> None:
    server.add(stream_reply([*api.begun("One"), GONE], end=False))
    async with make_provider(server, api) as provider:
        unopened = provider.stream("Count")
        await unopened.aclose()
        stream = provider.stream("Count")
        iterator = aiter(stream)
        assert await anext(iterator) == "One"
        await stream.aclose()
        await stream.aclose()
        assert await in_thread(server.wait_gone)
        # What follows was not read: the text so far must not pass for the whole.
        with pytest.raises(LLMProviderStreamError, match="closed before its end"):
            await collect(stream, [])


async def test_garbage_collection_closes_the_connection(server: Server, api: Api) -> None:
    server.add(stream_reply([*api.begun("One"), GONE], end=False))
    async with make_provider(server, api) as provider:
        stream = provider.stream("Count")
        iterator = aiter(stream)
        assert await anext(iterator) == "One"
        del stream, iterator
        gc.collect()
        assert await in_thread(server.wait_gone)


def cut_places(api: Api) -> list[tuple[list[bytes], str]]:
    """Return beginnings of a stream that are no whole answer, each with the text that has come by then."""
    places = []
    sent: list[bytes] = []
    text = ""
    for received in api.stream("One", " two"):
        places += [(list(sent), text), ([*sent, received[: len(received) // 2]], text)]
        text += next((piece for piece in ("One", " two") if received == api.delta(piece)), "")
        sent.append(received)
    # With its finish reason a chat completion is whole; a response only with its last event.
    whole = 3 if api.name == "chat_completions" else 1
    return places[: 1 + 2 * (len(sent) - whole)]


@pytest.mark.parametrize("end", ["end", "close", "close-delimited"])
@pytest.mark.parametrize("api", [ChatCompletions(), Responses()], ids=lambda api: api.name)
async def test_truncation_is_an_error_at_each_place(server: Server, api: Api, end: str) -> None:
    async with make_provider(server, api, max_retries=0) as provider:
        for sent, text in cut_places(api):
            if end == "close-delimited":
                server.add([head(200, {"content-type": "text/event-stream"}), *sent, CLOSE])
            else:
                server.add(stream_reply([*sent, *([CLOSE] if end == "close" else [])], end=end == "end"))
            texts: list[str] = []
            # Without a single event it was no stream, or no connection.
            begun = b"\n\n" in b"".join(sent)
            kinds = LLMProviderStreamError if begun else (LLMProviderServerError, LLMProviderConnectionError)
            with pytest.raises(kinds) as caught:
                await collect(provider.stream("Count"), texts)
            partial = caught.value.partial
            assert "".join(texts) == text
            assert (partial.content if partial else "") == text
            assert partial is None or partial.finish_reason is None
            assert caught.value.provider == "openai"


async def test_whole_answers_that_travel_as_streams_are_never_cut(server: Server, api: Api) -> None:
    sent, text = cut_places(api)[-1]
    server.add(stream_reply(sent))
    async with make_provider(server, api, max_retries=0) as provider:
        with pytest.raises(LLMProviderStreamError) as caught:
            await provider.execute("Count", stream_mode="auto")
    assert caught.value.partial is not None
    assert caught.value.partial.content == text


async def test_reset_in_the_middle_gives_what_came(server: Server, api: Api) -> None:
    gate = server.gate()
    server.add(stream_reply([*api.begun("One", " two"), gate, RESET], end=False))
    async with make_provider(server, api) as provider:
        texts: list[str] = []
        with pytest.raises(LLMProviderStreamError) as caught:
            await collect(provider.stream("Count"), texts, gate)
    assert texts[0] == "One"
    assert caught.value.partial is not None
    assert caught.value.partial.content == "".join(texts)
    # Text was handed out, so nothing is tried again.
    assert len(server.requests) == 1


@pytest.mark.parametrize("done", [True, False], ids=["then [DONE]", "then nothing"])
async def test_error_event_in_the_middle(server: Server, api: Api, done: bool) -> None:
    failure = api.error("Slow down, please", code="rate_limit_exceeded")
    after = [event("[DONE]")] if done else []
    server.add(stream_reply([*api.begun("One"), failure, *after], x_request_id="req_9"))
    async with make_provider(server, api) as provider:
        texts: list[str] = []
        with pytest.raises(LLMProviderRateLimitError, match="Slow down, please") as caught:
            await collect(provider.stream("Count"), texts)
    error = caught.value
    assert (texts, error.code, error.request_id) == (["One"], "rate_limit_exceeded", "req_9")
    assert error.partial is not None
    assert error.partial.content == "One"
    assert len(server.requests) == 1


async def test_failed_response_is_an_error(server: Server) -> None:
    api = Responses()
    failed = {
        **api.plain(None),
        "status": "failed",
        "error": {"code": "server_error", "message": "The model fell over"},
    }
    last = event({"type": "response.failed", "response": failed}, "response.failed")
    server.add(stream_reply([*api.begun("One"), last]), json_reply(failed))
    async with make_provider(server, api, max_retries=0) as provider:
        with pytest.raises(LLMProviderServerError, match="The model fell over") as caught:
            await provider.stream("Hi").response()
        assert caught.value.partial is not None
        assert caught.value.partial.content == "One"
        with pytest.raises(LLMProviderServerError, match="The model fell over"):
            await provider.execute("Hi")


@pytest.mark.parametrize(
    "lie",
    [
        b"data: {not json}\n\n",
        b"data: 7\n\n",
        b"data: []\n\n",
        b"data: null\n\n",
        b'data: {"choices": 5, "type": 5}\n\n',
    ],
)
async def test_event_that_is_no_part_of_an_answer(server: Server, api: Api, lie: bytes) -> None:
    if api.name == "responses" and b"type" in lie:
        lie = b'data: {"type": "response.output_text.delta"}\n\n'
    server.add(stream_reply([*api.begun("One"), lie, *api.stream()[-2:]]))
    async with make_provider(server, api) as provider:
        with pytest.raises(LLMProviderStreamError) as caught:
            await provider.stream("Hi").response()
    assert caught.value.partial is not None
    assert caught.value.partial.content == "One"


async def test_bytes_that_are_not_utf8(server: Server, api: Api) -> None:
    broken = api.delta("One").replace(b"One", b"O\xffe")
    server.add(stream_reply([*api.begun(), broken, *api.stream()[1:]]))
    async with make_provider(server, api, max_retries=0) as provider:
        with pytest.raises(LLMProviderStreamError, match="UTF-8"):
            await provider.stream("Hi").response()


HTML = b"<!doctype html><title>Sign in to the gateway</title>" + b"<p>Welcome</p>" * 1000


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (HTML, "Sign in to the gateway"),
        (b"", "empty"),
        (json.dumps(error_body("The model is asleep")).encode(), "The model is asleep"),
        (b'{"hello": "world"}', "world"),
        (b"[1, 2]", "1"),
    ],
    ids=["HTML", "empty", "error", "object", "list"],
)
async def test_body_that_is_no_stream(server: Server, api: Api, body: bytes, told: str) -> None:
    server.default = raw_reply(body, content_type="text/html", x_request_id="req_3")
    async with make_provider(server, api, max_retries=0) as provider:
        with pytest.raises(LLMProviderServerError if b"error" not in body else Exception, match=told) as caught:
            await provider.stream("Hi").response()
    error: Any = caught.value
    assert (error.provider, error.request_id) == ("openai", "req_3")
    assert told in error.message
    assert len(error.body or "") <= 2001
    assert len(error.message) <= 2100


async def test_events_over_the_limit_are_refused(server: Server, api: Api) -> None:
    server.add(stream_reply([*api.begun("One"), api.delta("x" * 5000), *api.stream()[1:]]))
    async with make_provider(server, api, max_event_bytes=4000) as provider:
        with pytest.raises(LLMProviderStreamError, match="max_event_bytes") as caught:
            await provider.stream("Hi").response()
    assert caught.value.partial is not None
    assert caught.value.partial.content == "One"


async def test_raw_events_come_before_what_is_made_of_them(server: Server, api: Api) -> None:
    server.add(stream_reply(api.stream("Hel", "lo")))
    async with make_provider(server, api) as provider:
        async with provider.stream("Hi", raw_events=True) as stream:
            events = [event async for event in stream.events()]
            response = await stream.response()
    raw = [event for event in events if isinstance(event, RawEvent)]
    assert [event.data for event in raw] == [
        each.decode().partition("data: ")[2].strip() for each in api.stream("Hel", "lo")
    ]
    position = next(i for i, event in enumerate(events) if isinstance(event, TextDelta))
    assert isinstance(events[position - 1], RawEvent)
    assert "Hel" in events[position - 1].data
    assert response.content == "Hello"


async def test_a_stream_that_keeps_no_text_hands_all_of_it_out(server: Server, api: Api) -> None:
    server.add(stream_reply(api.stream("Hel", "lo!")), [*stream_reply(api.begun("Hel"), end=False), CLOSE])
    async with make_provider(server, api, max_retries=0) as provider:
        stream = provider.stream("Hi", keep_text=False)
        assert [text async for text in stream] == ["Hel", "lo!"]
        response = await stream.response()
        assert (response.content, response.finish_reason) == ("", "stop") and response.usage is not None
        with pytest.raises(LLMProviderStreamError) as caught:
            await provider.stream("Hi", keep_text=False).response()
        assert caught.value.partial is not None and caught.value.partial.content == ""
        with pytest.raises(LLMProviderBadRequestError, match="keep_text"):
            provider.stream("Hi", keep_text=False).objects()
        with pytest.raises(LLMProviderBadRequestError, match="keep_text"):
            provider.stream("Hi", keep_text=False, response_format=dict[str, str])


async def test_without_text_nothing_of_the_answer_is_kept(server: Server, api: Api) -> None:
    pieces = [f"word{number} " for number in range(50)]
    server.add(stream_reply(api.stream(*pieces)))
    async with make_provider(server, api) as provider:
        stream = provider.stream("Hi", keep_text=False)
        assert [text async for text in stream] == pieces
        response = await stream.response()
    assert response.native == []
    kept = json.dumps([response.content, response.metadata["raw"]])
    assert "word4 " not in kept
