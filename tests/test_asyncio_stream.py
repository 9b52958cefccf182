"""The network stream of asyncio: what it keeps, and what it gives back."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from llmkit import asyncio_stream
from llmkit.asyncio_stream import AsyncioStream
from llmkit.network import READ_SIZE

from .server import CLOSE, GONE, RESET, Connection, Server

OPENED = object()


class Sender(Server):
    """Takes steps as soon as it is connected to; `opened` is a step that waits until the test sets it."""

    def __init__(self, *steps: Any) -> None:
        super().__init__()
        self.opened = self.gate()
        self.steps = [self.opened if step is OPENED else step for step in steps]

    def _serve(self, connection: Connection) -> None:
        with connection.socket:
            for step in self.steps:
                connection.take(step)


async def connected(server: Server, host: str = "127.0.0.1") -> AsyncioStream:
    stream = await asyncio_stream.connect(host, int(server.url.rpartition(":")[2]), None, 10, [])
    assert isinstance(stream, AsyncioStream)
    return stream


def test_what_nobody_reads_is_left_with_the_sender() -> None:
    body = bytes(range(256)) * 40_000

    async def main(server: Sender) -> None:
        stream = await connected(server)
        while not stream._full:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
            assert len(stream._received) < 2 * READ_SIZE
        pieces = []
        while piece := await stream.read(10):
            pieces.append(piece)
        assert b"".join(pieces) == body
        await stream.aclose()

    with Sender(body, CLOSE) as server:
        asyncio.run(main(server))


def test_memory_to_read_into_is_shared() -> None:
    async def main(server: Sender) -> None:
        streams = [await connected(server) for _ in range(20)]
        before = len(asyncio_stream._spare)
        for stream in streams:
            assert await stream.read(10) == b"hello"
            assert await stream.read(10) == b""
        assert len(asyncio_stream._spare) <= max(before, 1)
        for stream in streams:
            await stream.aclose()

    with Sender(b"hello", CLOSE) as server:
        asyncio.run(main(server))


@pytest.mark.parametrize("waits", list(itertools.permutations((0.01, 0.05, 5.0))))
def test_a_wait_ends_in_its_own_time_whatever_the_one_before_it_was(waits: tuple[float, ...]) -> None:
    async def main(server: Sender) -> None:
        loop = asyncio.get_running_loop()
        stream = await connected(server)
        for seconds in waits:
            started = loop.time()
            if seconds > 1:
                server.opened.set()
                assert await stream.read(seconds) == b"."
            else:
                with pytest.raises(TimeoutError):
                    await stream.read(seconds)
                assert loop.time() - started >= seconds
        await stream.aclose()

    with Sender(OPENED, b".", GONE) as server:
        asyncio.run(main(server))


def test_a_name_is_looked_up() -> None:
    async def main(server: Sender) -> None:
        stream = await connected(server, "localhost")
        assert await stream.read(10) == b"hello"
        await stream.aclose()

    with Sender(b"hello", CLOSE) as server:
        asyncio.run(main(server))


def test_a_reset_is_told_after_what_came_before_it() -> None:
    async def main(server: Sender) -> None:
        stream = await connected(server)
        while not stream._received:
            await asyncio.sleep(0)
        server.opened.set()
        while not stream._ended:
            await asyncio.sleep(0)
        assert stream.is_readable()
        assert await stream.read(10) == b"hello"
        with pytest.raises(ConnectionError):
            await stream.read(10)
        await stream.aclose()

    with Sender(b"hello", OPENED, RESET) as server:
        asyncio.run(main(server))
