"""One provider over several event loops, one after the other, over threads and over a fork."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
import trio

from llmkit import Limits, create_llm_provider, create_sync_llm_provider, get_cached_provider
from llmkit._async._backend import httpx, scope

from .answers import ChatCompletions
from .server import GONE, Server, json_reply, stream_reply

API = ChatCompletions()
RUNS = [asyncio.run, lambda coroutine: trio.run(lambda: coroutine)]


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a server that answers plain calls."""
    with Server(default=json_reply(API.plain())) as server:
        yield server


def settings(server: Server) -> dict[str, Any]:
    return {"model_name": "gpt-4o", "api_key": "sk-test-0123456789", "base_url": server.base_url}


@pytest.mark.parametrize("runs", [RUNS[:1], RUNS[1:], RUNS], ids=["asyncio", "trio", "both"])
def test_provider_works_in_one_loop_after_the_other(server: Server, runs: list[Any]) -> None:
    provider = create_llm_provider("openai", **settings(server))

    async def ask_twice() -> None:
        for _ in range(2):
            assert (await provider.execute("Hi")).content == "Hello!"

    for number in range(50):
        runs[number % len(runs)](ask_twice())
        # A loop keeps its connection for its own calls, and closes it when it ends.
        assert server.wait_gone(number)
    assert [request.connection for request in server.requests] == [number // 2 for number in range(100)]


@pytest.mark.parametrize(
    ("run", "current"), [(RUNS[0], asyncio.get_running_loop), (RUNS[1], trio.lowlevel.current_trio_token)]
)
@pytest.mark.parametrize("token_is_wrapped", [True, False])
def test_the_loop_is_known_whether_or_not_anyio_wraps_it(
    monkeypatch: pytest.MonkeyPatch, run: Any, current: Any, token_is_wrapped: bool
) -> None:
    # As it is since anyio 4.11, and before.
    token = (lambda: SimpleNamespace(native_token=current())) if token_is_wrapped else current
    monkeypatch.setattr(anyio.lowlevel, "current_token", token)

    async def is_known() -> bool:
        return scope() is current()

    assert run(is_known())


@pytest.mark.parametrize("run", RUNS, ids=["asyncio", "trio"])
def test_loop_that_ends_closes_the_streams_left_open(server: Server, run: Any) -> None:
    server.default = stream_reply([*API.begun("One"), GONE], end=False)
    provider = create_llm_provider("openai", **settings(server))
    streams = []

    async def leave_open() -> None:
        stream = provider.stream("Count")
        streams.append(stream)
        assert await anext(aiter(stream)) == "One"
        other = await provider.execute("Count", stream_mode="enabled")
        assert await anext(aiter(other.events()))
        streams.append(other)

    run(leave_open())
    assert server.wait_gone(0)
    assert server.wait_gone(1)
    server.default = json_reply(API.plain())

    async def ask() -> str:
        return (await provider.execute("Hi")).content

    assert run(ask()) == "Hello!"


@pytest.mark.parametrize("run", RUNS, ids=["asyncio", "trio"])
def test_loops_in_threads_share_a_provider(server: Server, run: Any) -> None:
    provider = create_llm_provider("openai", **settings(server))
    together = threading.Barrier(8)

    async def ask() -> list[str]:
        together.wait(10)
        return [(await provider.execute("Hi")).content for _ in range(5)]

    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: run(ask()), range(8)))
    assert answers == [["Hello!"] * 5] * 8
    assert len(server.connections) == 8


@pytest.mark.parametrize("run", RUNS, ids=["asyncio", "trio"])
@pytest.mark.parametrize("place", ["a thread", "another loop"])
@pytest.mark.parametrize("limits", [None, Limits(concurrency=1)], ids=["free", "limited"])
def test_a_stream_that_is_collected_in_another_thread_is_closed(
    server: Server, run: Any, place: str, limits: Limits | None
) -> None:
    provider = create_llm_provider("openai", limits=limits, **settings(server))
    server.add(stream_reply([*API.begun("One"), GONE], end=False))

    async def collect() -> None:
        gc.collect()

    async def lose() -> None:
        iterator = aiter(provider.stream("Count"))
        assert await anext(iterator) == "One"
        cycle: list[Any] = [iterator]
        cycle.append(cycle)

    async def ask() -> str:
        gc.disable()
        try:
            await lose()
            await anyio.to_thread.run_sync(gc.collect if place == "a thread" else lambda: run(collect()))
        finally:
            gc.enable()
        assert await anyio.to_thread.run_sync(server.wait_gone)
        return (await provider.execute("Hi", deadline=10)).content

    assert run(ask()) == "Hello!"


@pytest.mark.parametrize("run", RUNS, ids=["asyncio", "trio"])
def test_a_thousand_tasks_share_a_provider(server: Server, run: Any) -> None:
    gate = server.gate()
    server.default = lambda request: [gate, *json_reply(API.plain(API.sent_text(request.body)))]
    provider = create_llm_provider("openai", **settings(server))
    answers: list[str] = [""] * 1000

    async def ask(number: int) -> None:
        answers[number] = (await provider.execute(f"Number {number}")).content

    async def ask_together() -> None:
        async with anyio.create_task_group() as group:
            for number in range(1000):
                group.start_soon(ask, number)
            # All of them are under way at once.
            assert await anyio.to_thread.run_sync(server.wait_requests, 1000)
            gate.set()

    run(ask_together())
    assert answers == [f"Number {number}" for number in range(1000)]


@pytest.mark.parametrize("run", RUNS, ids=["asyncio", "trio"])
def test_cached_provider_serves_every_loop(server: Server, run: Any) -> None:
    async def ask() -> str:
        return (await get_cached_provider("openai", **settings(server)).execute("Hi")).content

    assert [run(ask()) for _ in range(3)] == ["Hello!"] * 3
    assert get_cached_provider("openai", **settings(server)) is get_cached_provider("openai", **settings(server))


@pytest.mark.parametrize("run", RUNS, ids=["asyncio", "trio"])
def test_client_of_the_caller_lives_in_its_own_loop(server: Server, run: Any) -> None:
    async def ask() -> str:
        async with httpx.AsyncClient(verify=False) as client:
            provider = create_llm_provider("openai", http_client=client, **settings(server))
            return (await provider.execute("Hi")).content

    assert [run(ask()) for _ in range(3)] == ["Hello!"] * 3


def test_blocking_provider_works_in_threads_that_come_and_go(server: Server) -> None:
    with create_sync_llm_provider("openai", **settings(server)) as provider:
        answers: list[str] = []
        for _ in range(10):
            thread = threading.Thread(target=lambda: answers.append(provider.execute("Hi").content))
            thread.start()
            thread.join()
    assert answers == ["Hello!"] * 10
    # What one thread has opened serves the next.
    assert len(server.connections) == 1


def test_blocking_provider_works_inside_of_a_running_loop(server: Server) -> None:
    async def ask() -> str:
        with create_sync_llm_provider("openai", **settings(server)) as provider:
            return provider.execute("Hi").content

    assert asyncio.run(ask()) == "Hello!"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_forked_child_opens_connections_of_its_own(server: Server, kind: str) -> None:
    if kind == "blocking":
        blocking = create_sync_llm_provider("openai", **settings(server))

        def ask() -> str:
            return blocking.execute("Hi").content
    else:
        provider = create_llm_provider("openai", **settings(server))

        async def answer() -> str:
            return (await provider.execute("Hi")).content

        def ask() -> str:
            return asyncio.run(answer())

    assert ask() == "Hello!"
    child = os.fork()
    if not child:
        # Nothing of the test may run on in the child, whatever happens.
        try:
            os._exit(0 if ask() == "Hello!" else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert ask() == "Hello!"
    first, forked, last = (request.connection for request in server.requests)
    assert forked != first
    # The parent's connection is untouched by the child's end.
    assert last == first if kind == "blocking" else last not in (first, forked)


@pytest.mark.parametrize("run", RUNS, ids=["asyncio", "trio"])
def test_loops_of_several_threads_share_the_limits_of_one_provider(server: Server, run: Any) -> None:
    under_way, most, lock = 0, 0, threading.Lock()

    def counted(request: Any) -> Any:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        yield server_gate
        with lock:
            under_way -= 1
        yield from json_reply(API.plain())

    server_gate = server.gate()
    server.default = counted
    provider = create_llm_provider("openai", **settings(server), limits=Limits(concurrency=2))

    async def ask() -> str:
        return "".join([(await provider.execute("Hi")).content for _ in range(3)])

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(run, ask()) for _ in range(8)]
        assert server.wait_requests(2)
        server_gate.set()
        assert [answer.result() for answer in answers] == ["Hello!" * 3] * 8
    assert most == 2
