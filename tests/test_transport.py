"""The transport among many tasks and threads: cancellation at every stage, closing from elsewhere, fork, httpx2."""

from __future__ import annotations

import asyncio
import functools
import os
import random
import ssl
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import anyio.to_thread
import pytest

from llmkit._async._backend import httpx
from llmkit._async.transport import AsyncTransport
from llmkit._sync.connection import Wire
from llmkit._sync.transport import SyncTransport

from .server import GONE, Connection, Server, head, raw_reply

CHUNKED = head(200, {"transfer-encoding": "chunked"})
HELLO = [CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"]
MANY = 200


def request(url: str, content: bytes = b"{}") -> httpx.Request:
    return httpx.Request("POST", url, content=content)


async def read(http: AsyncTransport, sent: httpx.Request) -> bytes:
    response = await http.handle_async_request(sent)
    return b"".join([piece async for piece in response.stream])  # type: ignore[union-attr]


def read_blocking(http: SyncTransport, sent: httpx.Request) -> bytes:
    return b"".join(http.handle_request(sent).stream)  # type: ignore[arg-type]


def idle(http: AsyncTransport | SyncTransport) -> int:
    """Return how many connections wait for a request, where none is in use."""
    assert not http._active
    return sum(len(stack) for stack in http._idle.values())


class Meeting(Server):
    """Begins to answer when as many requests wait as are to meet."""

    def __init__(self, size: int) -> None:
        super().__init__(default=self.answer)
        self._barrier = threading.Barrier(size, timeout=30)

    def answer(self, _: Any) -> Any:
        self._barrier.wait()
        return HELLO


class Stuck(Server):
    """Behaves in one way that leaves a client waiting; `stuck` is set when it does."""

    def __init__(self, behave: Callable[[Stuck, Connection], None]) -> None:
        super().__init__()
        self.stuck = threading.Event()
        self._behave = behave

    def _serve(self, connection: Connection) -> None:
        with connection.socket:
            self._behave(self, connection)
            self.stuck.set()
            connection.take(GONE)

    def says_nothing(self, connection: Connection) -> None:
        """Stop after the first bytes of the request: the client waits for the head, or for the handshake."""
        connection.receive()

    def reads_nothing(self, connection: Connection) -> None:
        """Stop with the request half read; what the client sent meanwhile is read when it has gone."""
        connection.socket.recv(1000)
        self.stuck.set()
        self.release.wait(10)

    release = threading.Event()

    def cuts_head(self, connection: Connection) -> None:
        connection.receive()
        connection.take(CHUNKED[:-3])

    def cuts_chunk(self, connection: Connection) -> None:
        connection.receive()
        connection.take(CHUNKED + b"5\r\nhe")

    def cuts_end(self, connection: Connection) -> None:
        connection.receive()
        connection.take(CHUNKED + b"5\r\nhello\r\n0\r\n")

    def cuts_length(self, connection: Connection) -> None:
        connection.receive()
        connection.take(head(200, {"content-length": "50"}) + b"he")


STAGES = [Stuck.says_nothing, Stuck.cuts_head, Stuck.cuts_chunk, Stuck.cuts_end, Stuck.cuts_length]


@pytest.mark.anyio
@pytest.mark.parametrize("behave", STAGES)
async def test_a_cancelled_task_leaves_no_connection(behave: Any) -> None:
    with Stuck(behave) as server:
        async with AsyncTransport() as http:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, http, request(server.url))
                assert await anyio.to_thread.run_sync(server.stuck.wait, 10)
                tasks.cancel_scope.cancel()
            assert idle(http) == 0
            assert await anyio.to_thread.run_sync(server.wait_gone)


@pytest.mark.anyio
async def test_a_task_cancelled_while_it_sends_leaves_no_connection() -> None:
    with Stuck(Stuck.reads_nothing) as server:
        server.release = threading.Event()
        async with AsyncTransport() as http:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, http, request(server.url, bytes(30_000_000)))
                assert await anyio.to_thread.run_sync(server.stuck.wait, 10)
                tasks.cancel_scope.cancel()
            assert idle(http) == 0
            server.release.set()
            assert await anyio.to_thread.run_sync(server.wait_gone)


@pytest.mark.anyio
async def test_a_task_cancelled_in_the_handshake_leaves_no_connection() -> None:
    with Stuck(Stuck.says_nothing) as server:
        async with AsyncTransport(ssl.create_default_context()) as http:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, http, request(server.url.replace("http:", "https:")))
                assert await anyio.to_thread.run_sync(server.stuck.wait, 10)
                tasks.cancel_scope.cancel()
            assert idle(http) == 0
            assert await anyio.to_thread.run_sync(server.wait_gone)


def test_a_task_that_asyncio_cancels_leaves_no_connection() -> None:
    async def main(server: Stuck) -> None:
        async with AsyncTransport() as http:
            task = asyncio.create_task(read(http, request(server.url)))
            await asyncio.to_thread(server.stuck.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert idle(http) == 0
            assert await asyncio.to_thread(server.wait_gone)

    for behave in STAGES:
        with Stuck(behave) as server:
            asyncio.run(main(server))


@pytest.mark.anyio
async def test_cancellations_at_random_moments_leave_the_transport_usable() -> None:
    moments = random.Random(1)
    replies = [HELLO, raw_reply(b"hello"), [CHUNKED, b"5\r\nhe", b"llo\r\n", b"0\r\n\r\n"]]
    with Server(default=lambda _: moments.choice(replies)) as server:
        async with AsyncTransport() as http:

            async def worker() -> None:
                for _ in range(20):
                    with anyio.move_on_after(moments.uniform(0, 0.02)):
                        assert await read(http, request(server.url)) == b"hello"

            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(worker)
            kept = idle(http)
            for _ in range(5):
                assert await read(http, request(server.url)) == b"hello"
            assert idle(http) == max(kept, 1)
        for number in range(len(server.connections)):
            assert await anyio.to_thread.run_sync(server.wait_gone, number)


@pytest.mark.anyio
async def test_many_tasks_at_once_each_get_their_answer_and_keep_their_connections() -> None:
    with Meeting(MANY) as server:
        async with AsyncTransport() as http:
            for _ in range(2):
                bodies: list[bytes] = []

                async def ask(bodies: list[bytes] = bodies) -> None:
                    bodies.append(await read(http, request(server.url)))

                async with anyio.create_task_group() as tasks:
                    for _ in range(MANY):
                        tasks.start_soon(ask)
                assert bodies == [b"hello"] * MANY
                assert idle(http) == MANY
        assert len(server.connections) == MANY


def test_many_threads_at_once_each_get_their_answer_and_keep_their_connections() -> None:
    with Meeting(MANY) as server, SyncTransport() as http, ThreadPoolExecutor(MANY) as threads:
        for _ in range(2):
            futures = [threads.submit(read_blocking, http, request(server.url)) for _ in range(MANY)]
            assert [future.result(30) for future in futures] == [b"hello"] * MANY
            assert idle(http) == MANY
        assert len(server.connections) == MANY


@pytest.mark.anyio
@pytest.mark.parametrize("behave", [Stuck.cuts_chunk, Stuck.cuts_length])
async def test_another_task_may_close_a_response(behave: Any) -> None:
    with Stuck(behave) as server:
        async with AsyncTransport() as http:
            response = await http.handle_async_request(request(server.url))
            stream: Any = response.stream
            assert await stream.__anext__() == b"he"
            failures: list[Exception] = []

            async def wait() -> None:
                try:
                    await stream.__anext__()
                except httpx.ReadError as error:
                    failures.append(error)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                await response.aclose()
                await stream.aclose()
            assert len(failures) == 1
            assert idle(http) == 0
            assert await anyio.to_thread.run_sync(server.wait_gone)


@pytest.mark.anyio
async def test_two_tasks_that_read_one_body_do_not_wait_for_each_other() -> None:
    with Stuck(Stuck.cuts_chunk) as server:
        async with AsyncTransport() as http:
            stream: Any = (await http.handle_async_request(request(server.url))).stream
            assert await stream.__anext__() == b"he"
            failures: list[Exception] = []

            async def wait() -> None:
                try:
                    await stream.__anext__()
                except httpx.ReadError as error:
                    failures.append(error)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(wait)
                tasks.start_soon(wait)
            assert len(failures) == 2
            assert idle(http) == 0


@pytest.mark.parametrize("whole", [False, True], ids=["response", "transport"])
@pytest.mark.parametrize("behave", [Stuck.cuts_chunk, Stuck.cuts_length])
def test_another_thread_may_close_a_response(behave: Any, whole: bool) -> None:
    with Stuck(behave) as server, SyncTransport() as http, ThreadPoolExecutor(1) as threads:
        response = http.handle_request(request(server.url))
        stream: Any = response.stream
        assert next(stream) == b"he"
        waiting = threads.submit(next, stream)
        wait_until(lambda: stream._wire._busy)
        (http if whole else response).close()
        with pytest.raises(httpx.ReadError):
            waiting.result(10)
        assert idle(http) == 0
        assert server.wait_gone()


@pytest.mark.parametrize("behave", [Stuck.says_nothing, Stuck.cuts_head])
def test_closing_the_transport_ends_the_wait_for_a_head(behave: Any) -> None:
    with Stuck(behave) as server, SyncTransport() as http, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(http.handle_request, request(server.url))
        assert server.stuck.wait(10)
        wait_until(lambda: any(wire._busy for wire in list(http._active)))
        http.close()
        with pytest.raises(httpx.ReadError):
            waiting.result(10)
        assert idle(http) == 0
        assert server.wait_gone()


def test_a_connection_that_is_looked_at_as_the_transport_closes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(HELLO, HELLO) as server, SyncTransport() as http:
        kept, last = (http.handle_request(request(server.url)).stream for _ in range(2))
        assert list(kept) == [b"hello"]  # type: ignore[arg-type]
        (stack,) = http._idle.values()
        # What another thread may do at this moment.
        monkeypatch.setattr(Wire, "has_expired", lambda wire: http.close())
        assert list(last) == [b"hello"]  # type: ignore[arg-type]
        assert not stack
        assert server.wait_gone(0) and server.wait_gone(1)


def wait_until(condition: Callable[[], bool]) -> None:
    event = threading.Event()
    for _ in range(10_000):
        if condition():
            return
        event.wait(0.001)
    raise AssertionError("it did not happen")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_that_closes_leaves_the_parents_connection_alone() -> None:
    with Server() as server:
        gate = server.gate()
        server.add([CHUNKED + b"1\r\na\r\n", gate, b"1\r\nb\r\n0\r\n\r\n"], HELLO)
        with SyncTransport() as http:
            stream: Any = http.handle_request(request(server.url)).stream
            assert next(stream) == b"a"
            with warnings.catch_warnings():
                # From 3.12 on, forking a process that has threads is warned of.
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if child == 0:
                try:
                    stream._wire._busy = True
                    stream.close()
                    http.close()
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            gate.set()
            assert list(stream) == [b"b"]
            assert read_blocking(http, request(server.url)) == b"hello"
        assert len(server.connections) == 1


HTTPX2 = """
import asyncio, sys
from llmkit._async import transport as waiting
from llmkit._sync import transport as blocking
assert waiting.httpx.__name__ == blocking.httpx.__name__ == "httpx2"
assert not {"httpx", "httpcore"} & set(sys.modules)
url = sys.argv[1]

async def main():
    async with waiting.AsyncTransport() as http:
        for _ in range(2):
            response = await http.handle_async_request(waiting.httpx.Request("POST", url, content=b"{}"))
            assert b"".join([piece async for piece in response.stream]) == b"hello"
        try:
            await http.handle_async_request(waiting.httpx.Request("POST", url, content=b"{}"))
        except waiting.httpx.RemoteProtocolError as error:
            print(error)

asyncio.run(main())
with blocking.SyncTransport() as http:
    for _ in range(2):
        assert b"".join(http.handle_request(blocking.httpx.Request("POST", url, content=b"{}")).stream) == b"hello"
"""


def test_it_runs_on_httpx2_as_well() -> None:
    pytest.importorskip("httpx2")
    with Server(HELLO, raw_reply(b"hello"), [b"garbage\r\n\r\n"], HELLO, raw_reply(b"hello")) as server:
        environment = {**os.environ, "LLMKIT_HTTP_LIBRARY": "httpx2", "PYTHONPATH": os.pathsep.join(sys.path)}
        run = functools.partial(subprocess.run, check=True, capture_output=True, text=True, env=environment)
        done = run([sys.executable, "-W", "error", "-c", HTTPX2, server.url])
        assert "illegal status line" in done.stdout
        assert done.stderr == ""
        assert [each.connection for each in server.requests] == [0, 0, 0, 1, 1]


BLOCKING = """
import sys
from llmkit import create_sync_llm_provider
llm = create_sync_llm_provider("openai", model_name="gpt-4o", api_key="sk-x", base_url=sys.argv[1])
assert llm.execute("Hi").content == "hello"
loaded = {"anyio", "asyncio", "httpcore", "pydantic", "tenacity", "tiktoken", "trio"} & set(sys.modules)
assert not loaded, loaded
"""


def test_a_blocking_script_loads_no_event_loop() -> None:
    answer = b'{"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}'
    with Server(raw_reply(answer)) as server:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-W", "error", "-c", BLOCKING, f"{server.url}/v1"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, "")
