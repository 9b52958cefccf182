# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""Answers that the service stores and works on by itself: fetched, waited for, cancelled, deleted, taken up again."""

from __future__ import annotations

from typing import Any

import pytest

from llmkit import (
    LLMProviderBadRequestError,
    LLMProviderConnectionError,
    LLMProviderNotFoundError,
    LLMProviderStreamError,
    LLMProviderUnsupportedOperationError,
)

from ..answers import Responses
from ..server import RESET, Server, event, json_reply, stream_reply
from ._backend import make_provider, make_provider_of

pytestmark = pytest.mark.anyio
API = Responses()
WORKING = {**API.plain(None), "status": "in_progress", "usage": None}


def numbered(first: int, *events: Any) -> list[bytes]:
    return [event({**data, "sequence_number": first + i}, data["type"]) for i, data in enumerate(events)]


CREATED: Any = {"type": "response.created", "response": WORKING}
DONE: Any = {"type": "response.completed", "response": API.plain("Hello you")}


def delta(text: str) -> Any:
    return {"type": "response.output_text.delta", "output_index": 0, "delta": text}


async def test_an_answer_in_the_background_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("llmkit._async.provider.sleep", sleep)
    server.add(json_reply(WORKING), json_reply(WORKING), json_reply(API.plain("Done")))
    async with make_provider(server, API) as provider:
        started = await provider.execute_responses_api("Hi", background=True)
        assert (started.finish_reason, started.response_id) == ("pause", "resp_1")
        assert started.response_id
        answer = await provider.wait_for_response(started.response_id, poll_interval=3)
    assert (answer.content, answer.finish_reason, waits) == ("Done", "stop", [3])
    assert server.bodies[0]["background"] is True
    assert [(r.method, r.path) for r in server.requests[1:]] == [("GET", "/v1/responses/resp_1")] * 2


async def test_an_answer_is_cancelled_and_deleted(server: Server) -> None:
    cancelled = {**WORKING, "status": "cancelled"}
    server.add(json_reply(cancelled), json_reply({"id": "a/b", "deleted": True}))
    async with make_provider(server, API) as provider:
        assert (await provider.cancel_response("resp_1")).raw_finish_reason == "cancelled"
        await provider.delete_response("a/b")
    assert [(request.method, request.path, request.body) for request in server.requests] == [
        ("POST", "/v1/responses/resp_1/cancel", None),
        ("DELETE", "/v1/responses/a%2Fb", None),
    ]


@pytest.mark.parametrize("id", ["", ".", "..", None, 7, b"resp_1"])
async def test_what_is_no_id_is_refused_before_anything_is_sent(server: Server, id: Any) -> None:
    async with make_provider(server, API) as provider:
        for operation in (provider.delete_response, provider.cancel_response, provider.retrieve_response):
            with pytest.raises(LLMProviderBadRequestError, match="response_id is "):
                await operation(id)
    assert not server.requests


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), None, "2"])
async def test_a_time_that_cannot_be_waited_is_refused_before_anything_is_sent(server: Server, seconds: Any) -> None:
    async with make_provider(server, API) as provider:
        with pytest.raises(LLMProviderBadRequestError, match=r"poll_interval is .*; it must be seconds from 0"):
            await provider.wait_for_response("resp_1", poll_interval=seconds)
    assert not server.requests


async def test_what_is_not_stored_is_not_found(server: Server) -> None:
    server.add(json_reply({"error": {"message": "no such response"}}, 404))
    async with make_provider(server, API) as provider:
        with pytest.raises(LLMProviderNotFoundError, match="no such response"):
            await provider.retrieve_response("resp_9")


async def test_a_broken_stream_is_taken_up_where_it_broke(server: Server) -> None:
    server.add(
        stream_reply([*numbered(0, CREATED, delta("Hel")), RESET], end=False),
        stream_reply([*numbered(2, delta("lo")), RESET], end=False),
        json_reply({"error": {"message": "busy"}}, 503),
        stream_reply(numbered(3, delta(" you"), DONE)),
    )
    async with make_provider(server, API, retry_delay=0.0) as provider:
        async with provider.stream("Hi", background=True) as stream:
            assert [text async for text in stream] == ["Hel", "lo", " you"]
            response = await stream.response()
    assert (response.content, response.finish_reason) == ("Hello you", "stop")
    assert [request.path.partition("?")[2] for request in server.requests] == [
        "",
        "stream=true&starting_after=1",
        "stream=true&starting_after=2",
        "stream=true&starting_after=2",
    ]


async def test_a_stream_that_never_goes_on_is_given_up(server: Server) -> None:
    server.add(
        stream_reply([*numbered(0, CREATED, delta("Hel")), RESET], end=False),
        stream_reply([RESET], end=False),
    )
    async with make_provider(server, API) as provider:
        with pytest.raises(LLMProviderConnectionError) as caught:
            await provider.execute("Hi", background=True, stream_mode="auto")
    assert caught.value.partial
    assert caught.value.partial.content == "Hel"


@pytest.mark.parametrize("breaks", [False, True])
async def test_a_stream_without_end_is_given_up_however_often_it_breaks(server: Server, breaks: bool) -> None:
    def reply(request: Any) -> Any:
        number = 1 + int(request.path.rpartition("starting_after=")[2] or 0) if "?" in request.path else 0
        start = numbered(number, CREATED) if number == 0 else []
        more = numbered(number + len(start), *[delta("x" * 900)] * 3)
        return stream_reply([*start, *more, *([RESET] if breaks else more * 50)], end=False)

    server.default = reply
    async with make_provider(server, API) as provider:
        with pytest.raises(LLMProviderStreamError, match="max_stream_bytes") as caught:
            await provider.execute("Hi", background=True, stream_mode="auto", max_stream_bytes=20_000)
    assert caught.value.partial
    # The limit is looked at after each read, which may bring 64 KiB; 150 KB were on their way.
    assert 9_000 < len(caught.value.partial.content) < 100_000
    assert (len(server.requests) > 1) is breaks


async def test_a_stream_in_the_foreground_is_not_taken_up(server: Server) -> None:
    server.add(stream_reply([*numbered(0, CREATED, delta("Hel")), RESET], end=False))
    async with make_provider(server, API) as provider:
        with pytest.raises(LLMProviderStreamError):
            await provider.execute("Hi", stream_mode="auto")
    assert len(server.requests) == 1


async def test_other_apis_refuse_by_name(server: Server) -> None:
    async with make_provider_of("anthropic", server) as provider:
        with pytest.raises(LLMProviderUnsupportedOperationError, match="only the Responses API works in the backgro"):
            await provider.execute("Hi", background=True)
        with pytest.raises(LLMProviderUnsupportedOperationError, match="does not support stored_response"):
            await provider.retrieve_response("resp_1")


async def test_an_answer_that_may_be_very_long_travels_as_a_stream(server: Server) -> None:
    events: list[Any] = [
        {"type": "message_start", "message": {"id": "msg_1", "model": "m", "usage": {"input_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
        {"type": "message_stop"},
    ]
    server.add(stream_reply([event(data, data["type"]) for data in events]))
    async with make_provider_of("anthropic", server) as provider:
        response = await provider.execute("Hi", max_tokens=30_000)
    assert (response.content, response.finish_reason) == ("Hello", "stop")
    assert server.bodies[0]["stream"] is True
