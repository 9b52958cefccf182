# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""A provider with limits: over real sockets, no more at once and in a minute than it was told."""

from __future__ import annotations

import gc
import json
import threading
from functools import partial
from typing import Any

import pytest

from llmkit import (
    CallRecord,
    Hooks,
    LLMProviderConfigurationError,
    LLMProviderRateLimitError,
    LLMProviderStreamError,
    LLMProviderTimeoutError,
)
from llmkit._async import turns
from llmkit._async._backend import ByteStream
from llmkit.limits import Limits

from ..answers import Api, Responses, error_body
from ..server import GONE, Reply, Request, Server, json_reply, stream_reply
from ._backend import Client, httpx, in_thread, make_provider, run_together

pytestmark = pytest.mark.anyio


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """Return the list that gets the seconds for which each call is told to wait."""
    seconds: list[float | None] = []

    class Signal(turns.Signal):
        async def wait(self, limit: float | None) -> None:
            seconds.append(limit)
            await super().wait(limit)

    monkeypatch.setattr(turns, "Signal", Signal)
    return seconds


class Crowd:
    """Answers calls once so many have come, and knows how many were there at the same time."""

    def __init__(self, server: Server, api: Api, size: int) -> None:
        self.api, self.size = api, size
        self.here = self.most = 0
        self.lock = threading.Lock()
        self.gate = server.gate()

    def __call__(self, request: Request) -> Reply:
        with self.lock:
            self.here += 1
            self.most = max(self.most, self.here)
            if self.here >= self.size:
                self.gate.set()
        yield self.gate
        with self.lock:
            self.here -= 1
        yield from stream_reply(self.api.stream("Hi")) if request.body.get("stream") else json_reply(self.api.plain())


@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_no_more_calls_at_once_than_allowed(server: Server, api: Api, mode: Any) -> None:
    server.default = crowd = Crowd(server, api, 3)
    async with make_provider(server, api, limits=Limits(concurrency=3)) as provider:
        answers = await run_together(*[partial(provider.execute, "Hi", stream_mode=mode) for _ in range(12)])
    assert len(answers) == len(server.requests) == 12
    assert crowd.most == 3


async def test_a_stream_keeps_its_place_until_it_is_closed(server: Server, api: Api) -> None:
    held = stream_reply([*api.begun("One"), GONE], end=False)
    server.add(held, json_reply(api.plain("Two")), held, json_reply(api.plain("Four")))
    async with make_provider(server, api, limits=Limits(concurrency=1)) as provider:
        async with provider.stream("Count") as stream:
            assert await anext(aiter(stream)) == "One"
            with pytest.raises(LLMProviderTimeoutError, match="turn") as caught:
                await provider.execute("Hi", deadline=0.05)
            assert (caught.value.code, caught.value.provider) == ("queue_timeout", "openai")
        assert (await provider.execute("Hi")).content == "Two"
        forgotten = provider.stream("Count")
        assert await anext(aiter(forgotten)) == "One"
        del forgotten, stream
        gc.collect()
        assert (await provider.execute("Hi")).content == "Four"
    assert len(server.requests) == 4


class Interruption(BaseException):
    """Stands for Ctrl-C, and for the cancellation of a task."""


class Interrupted(ByteStream):
    """A body whose reader is interrupted once it has read the beginning."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> Interrupted:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise Interruption


async def test_an_interrupted_stream_gives_its_place_back_although_its_exception_is_kept(
    server: Server, api: Api
) -> None:
    ended: list[CallRecord] = []

    def answer(request: Any) -> Any:
        if json.loads(request.content).get("stream"):
            return httpx.Response(200, stream=Interrupted(b"".join(api.begun("One"))))
        return httpx.Response(200, json=api.plain("Two"))

    async with (
        Client(transport=httpx.MockTransport(answer)) as client,
        make_provider(
            server, api, http_client=client, limits=Limits(concurrency=1), hooks=Hooks(after=ended.append)
        ) as provider,
    ):
        stream = provider.stream("Count")
        with pytest.raises(Interruption) as kept:
            [text async for text in stream]
        assert [record.response and record.response.content for record in ended] == ["One"]
        assert (await provider.execute("Hi", deadline=5)).content == "Two"
        with pytest.raises(LLMProviderStreamError, match="closed before its end") as caught:
            await stream.response()
    assert caught.value.partial is not None and caught.value.partial.content == "One"
    assert kept.tb is not None


async def test_an_answer_that_came_at_once_holds_no_place(server: Server, api: Api) -> None:
    server.default = stream_reply([b"".join(api.stream("Hi"))])
    async with make_provider(server, api, limits=Limits(concurrency=1)) as provider:
        async with provider.stream("Count") as stream:
            assert [text async for text in stream] == ["Hi"]
        async with provider.stream("Count", deadline=5) as unread:
            assert unread is not stream
        assert (await provider.stream("Count", deadline=5).response()).content == "Hi"


async def test_a_full_queue_refuses_and_sends_nothing(server: Server, api: Api) -> None:
    server.add(stream_reply([*api.begun("One"), GONE], end=False))
    async with make_provider(server, api, limits=Limits(concurrency=1, max_waiting=1)) as provider:
        async with provider.stream("Count"):
            waiting = provider._exchange._queue.join(0)
            with pytest.raises(LLMProviderRateLimitError) as caught:
                await provider.execute("Hi")
            assert (caught.value.code, caught.value.provider, caught.value.attempts) == ("queue_full", "openai", ())
            provider._exchange._queue.leave(waiting)
    assert len(server.requests) == 1


async def test_each_try_takes_a_turn_and_gives_it_back(server: Server, api: Api, sleeps: list[float]) -> None:
    server.add(json_reply({}, 500), json_reply({}, 500), json_reply(api.plain("Hi")), json_reply(api.plain("Hi")))
    async with make_provider(server, api, limits=Limits(concurrency=1)) as provider:
        assert len((await provider.execute("Hi")).metadata["attempts"]) == 2
        assert (await provider.execute("Hi")).content == "Hi"


async def test_what_the_service_tells_of_its_limits_is_kept_to(
    server: Server, api: Api, waits: list[float | None]
) -> None:
    told = {"x_ratelimit_limit_requests": "100", "x_ratelimit_remaining_requests": "0"}
    server.add(json_reply(api.plain(), **told, x_ratelimit_reset_requests="2s"), json_reply(api.plain()))
    async with make_provider(server, api, limits=Limits()) as provider:
        await provider.execute("Hi")
        assert waits == []
        await provider.execute("Hi")
    # 100 requests in 2 s are one every 20 ms.
    assert len(waits) >= 1 and waits[0] is not None and 0 < waits[0] <= 0.021


async def test_a_refusal_holds_up_the_next_call(server: Server, api: Api, waits: list[float | None]) -> None:
    limited = error_body("Slow down", code="rate_limit_exceeded")
    server.add(json_reply(limited, 429, retry_after="0.03"), json_reply(api.plain("Hi")))
    async with make_provider(server, api, limits=Limits(), max_retries=0) as provider:
        with pytest.raises(LLMProviderRateLimitError):
            await provider.execute("Hi")
        assert (await provider.execute("Hi")).content == "Hi"
    assert len(waits) >= 1 and waits[0] is not None and 0 < waits[0] <= 0.03


@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_the_guess_of_tokens_is_put_right(server: Server, api: Api, mode: Any) -> None:
    replies = {"disabled": json_reply(api.plain("Hi")), "auto": stream_reply(api.stream("Hi"))}
    server.default = replies[mode]
    async with make_provider(server, api, limits=Limits(tokens_per_minute=1_000), max_tokens=900) as provider:
        # 900 tokens are guessed, 18 used: without being put right, the second would wait for a minute.
        for _ in range(3):
            await provider.execute("Hi", stream_mode=mode, deadline=5)
    assert len(server.requests) == 3


async def test_what_asks_no_model_takes_no_tokens(server: Server) -> None:
    api = Responses()
    server.default = json_reply(api.plain("Hi"))
    async with make_provider(server, api, limits=Limits(tokens_per_minute=100), max_tokens=90) as provider:
        for _ in range(12):
            await provider.retrieve_response("resp_1", deadline=5)
        await provider.execute("Hi", deadline=5)
    assert len(server.requests) == 13


async def test_what_are_no_limits_and_no_cache_is_refused(server: Server, api: Api) -> None:
    for name in ("limits", "cache"):
        wrong: dict[str, Any] = {name: True}
        with pytest.raises(LLMProviderConfigurationError, match=f"{name} is a bool; it must be"):
            make_provider(server, api, **wrong)


async def test_closed_streams_and_many_threads_of_calls_leave_no_place_taken(server: Server, api: Api) -> None:
    server.default = stream_reply(api.stream("Hel", "lo"))
    async with make_provider(server, api, limits=Limits(concurrency=2)) as provider:

        async def half_read() -> str:
            async with provider.stream("Hi") as stream:
                return await anext(aiter(stream))

        assert await run_together(*[half_read for _ in range(20)]) == ["Hel"] * 20
        assert (await provider.execute("Hi", stream_mode="auto", deadline=5)).content == "Hello"
    assert await in_thread(server.wait_requests, 21)
