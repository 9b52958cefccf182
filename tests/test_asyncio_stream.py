"""The network stream of asyncio: what it keeps, and what it gives back."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import socket
import ssl
from typing import Any

import pytest
import trustme

from llmkit import asyncio_stream, network
from llmkit.asyncio_stream import AsyncioStream, TLSStream
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


def test_a_name_whose_first_address_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(server: Sender) -> None:
        loop = asyncio.get_running_loop()
        port = int(server.url.rpartition(":")[2])
        silent = socket.create_server(("127.0.0.1", 0), backlog=1)
        waiting = [socket.create_connection(silent.getsockname()) for _ in range(2)]
        refusing = socket.socket()
        refusing.bind(("127.0.0.1", 0))

        async def found(*_: Any, **__: Any) -> Any:
            sockets = [silent.getsockname()] * 2 + [refusing.getsockname()] + ([("127.0.0.1", port)] if works else [])
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", place) for place in sockets]

        monkeypatch.setattr(loop, "getaddrinfo", found)
        monkeypatch.setattr(asyncio_stream, "NEXT_ADDRESS_SECONDS", 0.01)
        for works in (True, False):
            with contextlib.nullcontext() if works else pytest.raises(OSError):
                stream = await asyncio_stream.connect("acme.test", port, None, 10 if works else 0.1, [])
                assert isinstance(stream, AsyncioStream)
                assert await stream.read(10) == b"hello"
                await stream.aclose()
        for each in (silent, refusing, *waiting):
            each.close()

    with Sender(b"hello", CLOSE) as server:
        asyncio.run(main(server))


def test_a_connection_that_is_cancelled_as_it_is_made_is_closed() -> None:
    """Its warning, once the garbage collector finds an open socket, fails the test."""

    async def main(server: Sender) -> None:
        for number in range(200):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(number / 50_000):
                    stream = await connected(server, "localhost")
                    await stream.aclose()
        for _ in range(10):
            await asyncio.sleep(0)

    with Sender(GONE) as server:
        asyncio.run(main(server))
    gc.collect()


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


class Peer:
    """A stream to a TLS server in memory, which gives at most `size` bytes a read."""

    def __init__(self, authority: trustme.CA) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.size = READ_SIZE

    async def read(self, seconds: float | None) -> bytes:
        return self.outgoing.read(self.size)

    async def write(self, data: bytes, seconds: float | None) -> None:
        self.incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()

    async def aclose(self) -> None:
        pass


async def encrypted() -> tuple[Peer, TLSStream]:
    authority = trustme.CA()
    peer: Any = Peer(authority)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    stream = TLSStream(peer, trust, "127.0.0.1")
    await stream.shake_hands()
    return peer, stream


def test_bytes_after_the_end_of_tls_end_it() -> None:
    async def main() -> None:
        peer, stream = await encrypted()
        peer.tls.write(b"hello")
        with contextlib.suppress(ssl.SSLWantReadError):
            peer.tls.unwrap()
        peer.outgoing.write(b"\x15")
        assert await stream.read(10) == b"hello"
        assert await stream.read(10) == b""

    asyncio.run(main())


def test_a_record_that_drips_is_waited_for_in_all_as_long_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(100.0, 0.3)
    for module in (asyncio_stream, network):
        monkeypatch.setattr(module, "monotonic", lambda: next(clock))

    async def main() -> None:
        peer, stream = await encrypted()
        peer.tls.write(bytes(1000))
        peer.size = 1
        with pytest.raises(TimeoutError):
            await stream.read(1.0)
        assert peer.outgoing.pending > 900
        peer.size = READ_SIZE
        assert await stream.read(None) == bytes(1000)

    asyncio.run(main())


def test_what_comes_extends_no_wait_to_send() -> None:
    class Dripping(Server):
        def _serve(self, connection: Connection) -> None:
            with connection.socket, contextlib.suppress(OSError):
                while not connection.gone.wait(0.02):
                    connection.socket.sendall(b".")

    async def main(server: Server) -> None:
        stream = await connected(server)
        with pytest.raises(TimeoutError):
            await stream.write(bytes(50_000_000), 0.2)
        await stream.aclose()

    with Dripping() as server:
        asyncio.run(main(server))
