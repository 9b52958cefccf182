"""The transport over real sockets: what it gives, when it keeps a connection, how each fault ends."""
# ruff: noqa: C416, RUF100, SIM117 (the blocking twin)

from __future__ import annotations

import gc
import gzip
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import trustme

from llmkit._async import connection, transport
from llmkit._async._backend import Client, HTTPTransport, call_in_thread, handle, httpx
from llmkit._async.transport import AsyncBody, AsyncTransport, transport_for

from ..server import CLOSE, GONE, RESET, Connection, Server, chunked, head, pieces, raw_reply

pytestmark = pytest.mark.anyio

CHUNKED = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
HELLO = [CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"]
TIMEOUTS = {"connect": 10.0, "read": 10.0, "write": 10.0, "pool": 10.0}


def request(url: str, method: str = "POST", content: Any = b"{}", **extensions: Any) -> httpx.Request:
    return httpx.Request(method, url, content=content, extensions={"timeout": TIMEOUTS, **extensions})


async def read(response: httpx.Response) -> bytes:
    return b"".join([piece async for piece in response.stream])


async def ask(http: Any, url: str, **options: Any) -> bytes:
    """Send a request, and return the whole body."""
    return await read(await handle(http, request(url, **options)))


def idle(http: AsyncTransport) -> int:
    """Return how many connections wait for a request, where none is in use."""
    assert not http._active
    return sum(len(stack) for stack in http._idle.values())


class RawServer(Server):
    """A server that does what a function does with a connection, and reads no request."""

    def __init__(self, behave: Callable[[Connection], Any]) -> None:
        super().__init__()
        self._behave = behave

    def _serve(self, connection: Connection) -> None:
        with connection.socket:
            self._behave(connection)


class TLSServer(Server):
    """The same over TLS, with a certificate for 127.0.0.1."""

    def __init__(self, authority: trustme.CA, *script: Any, name: str = "127.0.0.1") -> None:
        super().__init__(*script)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(self.context)

    @property
    def url(self) -> str:
        return super().url.replace("http:", "https:")

    def _serve(self, connection: Connection) -> None:
        try:
            connection.socket = self.context.wrap_socket(connection.socket, server_side=True)
        except OSError:
            connection.gone.set()
            return
        super()._serve(connection)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


# Bodies


@pytest.mark.parametrize(
    "reply",
    [
        HELLO,
        pieces(HELLO[0], 1),
        [b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + HELLO[0]],
        pieces(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + HELLO[0], 1),
        [CHUNKED + b"3;a=b\r\nhel\r\n2 \r\nlo\r\n0;x\r\nDigest: y\r\n\r\n"],
        raw_reply(b"hello"),
        pieces(raw_reply(b"hello")[0], 1),
        [head(500, {"transfer-encoding": "chunked"}) + b"5\r\nhello\r\n0\r\n\r\n"],
        [HELLO[0].replace(b"\r\n\r\n5", b"\n\n5").replace(b"Status\r\n", b"Status\n")],
    ],
    ids=["chunked", "bytes", "1xx", "1xx bytes", "extensions", "length", "length bytes", "error", "LF head"],
)
async def test_a_body_comes_whole_and_its_connection_is_used_again(reply: Any) -> None:
    with Server(reply, reply, reply) as server:
        async with AsyncTransport() as http:
            for _ in range(3):
                assert await ask(http, server.url) == b"hello"
                assert idle(http) == 1
        assert len(server.connections) == 1
        assert await call_in_thread(server.wait_gone)


@pytest.mark.parametrize("cut", range(1, len(HELLO[0])))
async def test_an_answer_may_be_cut_anywhere(cut: int) -> None:
    with Server() as server:
        gate = server.gate()
        server.add([HELLO[0][:cut], gate, HELLO[0][cut:]], HELLO)
        async with AsyncTransport() as http:
            gate.set()
            assert await ask(http, server.url) == b"hello"
            assert await ask(http, server.url) == b"hello"
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    ("method", "reply"),
    [
        ("HEAD", [head(200, {"content-length": "5"})]),
        ("HEAD", [head(200, {"transfer-encoding": "chunked"})]),
        ("GET", [head(204)]),
        ("GET", [head(304, {"content-length": "5"})]),
        ("GET", [head(200, {"content-length": "0"})]),
        ("GET", [CHUNKED + b"0\r\n\r\n"]),
    ],
)
async def test_an_empty_body_ends_at_once(method: str, reply: Any) -> None:
    with Server(reply, HELLO) as server:
        async with AsyncTransport() as http:
            assert await ask(http, server.url, method=method, content=None) == b""
            assert await ask(http, server.url) == b"hello"
        assert len(server.connections) == 1


@pytest.mark.parametrize(
    "reply",
    [
        [head(200, version="1.0") + b"hello", CLOSE],
        [head(200) + b"hello", CLOSE],
        [head(200, {"content-length": "5", "connection": "close"}) + b"hello", GONE],
        [head(200, {"transfer-encoding": "chunked", "connection": "close"}) + HELLO[0][len(CHUNKED) :], GONE],
        [head(200, {"transfer-encoding": "chunked"}, version="1.0") + HELLO[0][len(CHUNKED) :], GONE],
    ],
    ids=["HTTP/1.0", "until close", "length, close", "chunked, close", "HTTP/1.0 chunked"],
)
async def test_what_is_not_to_be_kept_is_closed_after_its_body(reply: Any) -> None:
    with Server(reply, HELLO) as server:
        async with AsyncTransport() as http:
            assert await ask(http, server.url) == b"hello"
            assert idle(http) == 0
            assert await ask(http, server.url) == b"hello"
        assert len(server.connections) == 2


async def test_a_part_of_a_chunk_is_given_before_the_chunk_ends() -> None:
    with Server() as server:
        first, second = server.gate(), server.gate()
        server.add([CHUNKED + b"a\r\nhel", first, b"lo wo", second, b"rl\r\n0\r\n\r\n"])
        async with AsyncTransport() as http:
            stream = (await handle(http, request(server.url))).stream
            assert await stream.__anext__() == b"hel"
            first.set()
            assert await stream.__anext__() == b"lo wo"
            second.set()
            assert [piece async for piece in stream] == [b"rl"]


async def test_the_chunks_of_one_read_come_as_one_piece() -> None:
    events = [b"data: %d\n\n" % number for number in range(1000)]
    body = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in events) + b"0\r\n\r\n"
    with Server([CHUNKED + body]) as server:
        async with AsyncTransport() as http:
            pieces = [piece async for piece in (await handle(http, request(server.url))).stream]
    assert b"".join(pieces) == b"".join(events)
    assert len(pieces) < 20


async def test_a_large_body_with_a_large_request() -> None:
    sent, answer = bytes(range(256)) * 12_000, bytes(range(256)) * 20_000
    with Server([CHUNKED, *chunked(pieces(answer, 100_000)), b"0\r\n\r\n"], raw_reply(answer)) as server:
        async with AsyncTransport() as http:
            assert await ask(http, server.url, content=sent) == answer
            assert await ask(http, server.url, content=sent) == answer
        assert [len(body) for body in server.bodies] == [len(sent), len(sent)]
        assert len(server.connections) == 1


@pytest.mark.parametrize("how", ["chunked", "length"])
async def test_httpx_decodes_and_reads_as_with_its_own_transport(how: str) -> None:
    packed = gzip.compress(b"hello" * 1000)
    if how == "length":
        reply: Any = raw_reply(packed, content_encoding="gzip")
    else:
        start = head(200, {"transfer-encoding": "chunked", "content-encoding": "gzip"})
        reply = [start, *chunked(pieces(packed, 7)), b"0\r\n\r\n"]
    with Server(default=reply) as server:
        async with AsyncTransport() as http:
            response = await handle(http, request(server.url))
            assert b"".join([piece async for piece in response.aiter_bytes()]) == b"hello" * 1000
            await response.aclose()
            assert idle(http) == 1
            response = await handle(http, request(server.url))
            assert await read(response) == packed
            assert idle(http) == 1
            assert response.http_version == "HTTP/1.1"
            assert response.reason_phrase == "Status"
        assert len(server.connections) == 1


# Connections


async def test_the_connection_that_was_used_last_is_used_next() -> None:
    with Server() as server:
        gates = [server.gate() for _ in range(3)]
        server.add(*([CHUNKED, gate, b"0\r\n\r\n"] for gate in gates), HELLO, HELLO)
        async with AsyncTransport() as http:
            streams = [(await handle(http, request(server.url))).stream for _ in gates]
            for number in (2, 0, 1):
                gates[number].set()
                assert [piece async for piece in streams[number]] == []
            assert idle(http) == 3
            assert await ask(http, server.url) == await ask(http, server.url) == b"hello"
        assert [each.connection for each in server.requests] == [0, 1, 2, 1, 1]


async def test_origins_have_their_own_connections() -> None:
    with Server(HELLO, HELLO) as one, Server(HELLO, HELLO) as other:
        async with AsyncTransport() as http:
            for server in (one, other, one, other):
                assert await ask(http, server.url) == b"hello"
            assert idle(http) == 2
        assert len(one.connections) == len(other.connections) == 1


async def test_idle_connections_are_not_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "IDLE_CONNECTIONS", 2)
    with Server() as server:
        gate = server.gate()
        server.add(*([CHUNKED, gate, b"0\r\n\r\n"] for _ in range(3)))
        async with AsyncTransport() as http:
            streams = [(await handle(http, request(server.url))).stream for _ in range(3)]
            gate.set()
            for stream in streams:
                assert [piece async for piece in stream] == []
            assert idle(http) == 2
            assert await call_in_thread(server.wait_gone, 2)


async def test_a_connection_that_was_idle_for_too_long_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEPALIVE_SECONDS", -1.0)
    with Server(HELLO, HELLO) as server:
        async with AsyncTransport() as http:
            assert await ask(http, server.url) == await ask(http, server.url) == b"hello"
            assert idle(http) == 1
            assert await call_in_thread(server.wait_gone, 0)


async def test_connections_that_no_request_needs_any_more_are_closed() -> None:
    with Server() as server:
        gate, gone = server.gate(), server.gate()
        server.add([CHUNKED, gate, b"0\r\n\r\n", gone, CLOSE], [CHUNKED, gate, b"0\r\n\r\n"], HELLO)
        async with AsyncTransport() as http:
            streams = [(await handle(http, request(server.url))).stream for _ in range(2)]
            gate.set()
            assert [[piece async for piece in stream] for stream in streams] == [[], []]
            gone.set()
            await closed_by_server(http)
            # The second stands on top of the first, and is the one that is used.
            assert await ask(http, server.url) == b"hello"
            assert idle(http) == 1
        assert len(server.connections) == 2


async def closed_by_server(http: AsyncTransport, number: int = 0) -> None:
    """Wait until the end that the server sent has come to an idle connection."""
    (stack,) = http._idle.values()
    until = time.monotonic() + 10
    while not stack[number].get_extra_info("is_readable"):
        assert time.monotonic() < until
        await call_in_thread(time.sleep, 0.001)


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_a_kept_connection_that_the_server_closed_is_not_used(end: Any) -> None:
    with Server([*HELLO, end], HELLO) as server:
        async with AsyncTransport() as http:
            assert await ask(http, server.url) == b"hello"
            await closed_by_server(http)
            assert await ask(http, server.url) == b"hello"
            assert idle(http) == 1
        assert [each.connection for each in server.requests] == [0, 1]


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_a_kept_connection_that_closes_under_a_request_costs_one_silent_repeat(end: Any) -> None:
    with Server(HELLO, [end], HELLO) as server:
        async with AsyncTransport() as http:
            assert await ask(http, server.url) == await ask(http, server.url) == b"hello"
        assert [each.connection for each in server.requests] == [0, 0, 1]


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_the_repeat_is_the_only_one(end: Any) -> None:
    with Server(HELLO, [end], [end], HELLO) as server:
        async with AsyncTransport() as http:
            assert await ask(http, server.url) == b"hello"
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await handle(http, request(server.url))
            assert idle(http) == 0
        assert len(server.requests) == 3


@pytest.mark.parametrize("reply", [[b"HTTP", CLOSE], [b"HTTP/1.1 103 X\r\n\r\n", CLOSE]])
async def test_no_repeat_once_the_server_has_begun_to_answer(reply: Any) -> None:
    with Server(HELLO, reply, HELLO) as server:
        async with AsyncTransport() as http:
            assert await ask(http, server.url) == b"hello"
            with pytest.raises(httpx.RemoteProtocolError):
                await handle(http, request(server.url))
        assert len(server.requests) == 2


async def test_no_repeat_after_the_time_that_a_dead_connection_needs_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "STALE_SECONDS", 0.0)
    with Server(HELLO, [CLOSE], HELLO) as server:
        async with AsyncTransport() as http:
            assert await ask(http, server.url) == b"hello"
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await handle(http, request(server.url))
        assert len(server.requests) == 2


async def test_no_repeat_of_a_body_that_can_be_sent_but_once() -> None:
    class Once(transport.ByteStream):
        async def __aiter__(self) -> Any:
            yield b"{}"

    with Server(HELLO, [CLOSE], HELLO) as server:
        async with AsyncTransport() as http:
            assert await ask(http, server.url) == b"hello"
            sent = httpx.Request("POST", server.url, headers={"host": "test", "content-length": "2"}, stream=Once())
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await handle(http, sent)
        assert len(server.requests) == 2


SECOND = raw_reply(b"not asked for")[0]


@pytest.mark.parametrize(
    "reply",
    [
        [HELLO[0] + SECOND],
        [raw_reply(b"hello")[0] + SECOND],
        [raw_reply(b"hello")[0], SECOND],
        [HELLO[0], SECOND],
        [CHUNKED + b"5\r\nhello\r\n0\r\nDigest: x\r\n\r\n" + SECOND],
        [*pieces(HELLO[0] + SECOND, 1)],
        [HELLO[0] + b"\r\n"],
    ],
)
async def test_bytes_that_were_not_asked_for_are_never_the_next_answer(reply: Any) -> None:
    with Server([*reply, GONE], HELLO) as server:
        async with AsyncTransport() as http:
            assert await ask(http, server.url) == b"hello"
            if idle(http):
                await closed_by_server(http)
            assert await ask(http, server.url) == b"hello"
            assert idle(http) == 1
        assert [each.connection for each in server.requests] == [0, 1]


async def test_an_answer_before_the_whole_request_was_sent_is_read() -> None:
    with RawServer(refuse) as server:
        async with AsyncTransport() as http:
            response = await handle(http, request(server.url, content=bytes(8_000_000)))
            assert (response.status_code, await read(response)) == (413, b"too large")
            assert idle(http) == 0


def refuse(connection: Connection) -> None:
    """Answer without reading the body, and close the sending side only, so that the answer is not lost."""
    while b"\r\n\r\n" not in connection.buffer:
        connection.receive()
    connection.take(raw_reply(b"too large", 413, connection="close")[0])
    connection.socket.shutdown(1)
    connection.take(GONE)


# Faults


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([CLOSE], "Server disconnected"),
        ([b"HTTP/1.1 200 OK\r\nserv", CLOSE], "disconnected"),
        ([b"\x15\x03\x01\x00\x02\x02", GONE], "illegal"),
        ([b"SSH-2.0-server\r\n\r\n", GONE], "illegal status line"),
        ([head(200, {"content-length": "x"}), GONE], "bad Content-Length"),
        ([head(200, {"transfer-encoding": "gzip"}), GONE], "Transfer-Encoding"),
        ([b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 40_000, GONE], "too long"),
        ([b"HTTP/1.1 200 OK\r\nno header\r\n\r\n", GONE], "illegal header line"),
    ],
)
async def test_a_head_that_is_none_is_a_protocol_error(steps: Any, message: str) -> None:
    with Server(steps) as server:
        async with AsyncTransport() as http:
            with pytest.raises(httpx.RemoteProtocolError, match=message) as caught:
                await handle(http, request(server.url))
            assert caught.value.request.url == server.url
            assert idle(http) == 0
            assert CLOSE in steps or await call_in_thread(server.wait_gone)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([CHUNKED + b"5\r\nhe", CLOSE], "incomplete chunked read"),
        ([CHUNKED + b"5\r\nhello\r\n", CLOSE], "incomplete chunked read"),
        ([CHUNKED + b"5\r\nhello\r\n0\r\n", CLOSE], "incomplete chunked read"),
        ([CHUNKED, CLOSE], "incomplete chunked read"),
        ([CHUNKED + b"5\nhello\n0\n\n", CLOSE], "incomplete chunked read"),
        ([CHUNKED + b"x\r\nhello\r\n0\r\n\r\n", GONE], "illegal chunk header"),
        ([CHUNKED + b"5\r\nhelloXX0\r\n\r\n", GONE], "illegal chunk header"),
        ([CHUNKED + b"0\r\nno trailer\r\n\r\n", GONE], "illegal header line"),
        ([head(200, {"content-length": "50"}) + b"hello", CLOSE], "received 5 bytes, expected 50"),
    ],
)
async def test_a_body_that_is_cut_or_malformed_is_a_protocol_error(steps: Any, message: str) -> None:
    with Server(steps) as server:
        async with AsyncTransport() as http:
            response = await handle(http, request(server.url))
            with pytest.raises(httpx.RemoteProtocolError, match=message) as caught:
                await read(response)
            assert caught.value.request.url == server.url
            assert idle(http) == 0
            with pytest.raises(httpx.ReadError, match="closed before its end"):
                await response.stream.__anext__()
            assert CLOSE in steps or await call_in_thread(server.wait_gone)


async def test_what_came_before_a_malformed_chunk_is_given_first() -> None:
    with Server([CHUNKED + b"5\r\nhello\r\nx\r\n", GONE]) as server:
        async with AsyncTransport() as http:
            stream = (await handle(http, request(server.url))).stream
            assert await stream.__anext__() == b"hello"
            with pytest.raises(httpx.RemoteProtocolError, match="illegal chunk header"):
                await stream.__anext__()


@pytest.mark.parametrize("start", [CHUNKED + b"5\r\nhe", head(200, {"content-length": "50"}) + b"he"])
async def test_a_reset_within_a_body_is_a_read_error_after_what_came(start: bytes) -> None:
    with Server() as server:
        gate = server.gate()
        server.add([start, gate, RESET])
        async with AsyncTransport() as http:
            stream = (await handle(http, request(server.url))).stream
            assert await stream.__anext__() == b"he"
            gate.set()
            with pytest.raises(httpx.ReadError):
                await stream.__anext__()
            assert idle(http) == 0


async def test_no_server_no_name_no_connection() -> None:
    with Server() as server:
        url = server.url
    async with AsyncTransport() as http:
        for nowhere in (url, "http://name.invalid/", f"http://{'x' * 70}.invalid/"):
            with pytest.raises(httpx.ConnectError):
                await handle(http, request(nowhere))
        assert idle(http) == 0


# Time


def dripped(start: bytes, drop: bytes) -> Iterator[Any]:
    """Send a drop every 10 ms, without end."""
    yield start
    while True:
        time.sleep(0.01)
        yield drop


def dripped_head(_: Any) -> Iterator[Any]:
    return dripped(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n")


@pytest.mark.parametrize("steps", [dripped_head, [b"HTTP", GONE], lambda _: dripped(b"", b"HTTP/1.1 103 X\r\n\r\n")])
async def test_the_wait_for_a_head_is_bounded_in_total(steps: Any) -> None:
    with Server(steps) as server:
        async with AsyncTransport() as http:
            with pytest.raises(httpx.ReadTimeout):
                await handle(http, request(server.url, timeout={"read": 0.1}))
            assert idle(http) == 0
            assert await call_in_thread(server.wait_gone)


@pytest.mark.parametrize("start", [CHUNKED, head(200, {"content-length": "1000000"}), head(200)])
async def test_each_wait_for_a_body_is_bounded(start: bytes) -> None:
    with Server([start + b"1\r\nx\r\n", GONE]) as server:
        async with AsyncTransport() as http:
            stream = (await handle(http, request(server.url, timeout={"read": 0.1}))).stream
            assert b"x" in await stream.__anext__()
            with pytest.raises(httpx.ReadTimeout):
                await stream.__anext__()
            assert idle(http) == 0


@pytest.mark.parametrize("start", [CHUNKED, head(200, {"content-length": "1000000"}), head(200)])
async def test_a_deadline_ends_a_body_that_keeps_coming(start: bytes) -> None:
    with Server(dripped(start, b"1\r\nx\r\n")) as server:
        async with AsyncTransport() as http:
            response = await handle(http, request(server.url))
            assert response.extensions["network_stream"] is response.stream
            response.stream.deadline = time.monotonic() + 0.1
            with pytest.raises(httpx.ReadTimeout):
                await read(response)
            assert idle(http) == 0


async def test_a_deadline_can_be_moved_and_taken_away() -> None:
    with Server() as server:
        gate = server.gate()
        server.add([CHUNKED + b"1\r\na\r\n", gate, b"1\r\nb\r\n0\r\n\r\n"], HELLO)
        async with AsyncTransport() as http:
            stream = (await handle(http, request(server.url, deadline=time.monotonic() + 10))).stream
            assert stream.deadline is not None
            assert await stream.__anext__() == b"a"
            stream.deadline = time.monotonic() - 1
            stream.deadline = None
            gate.set()
            assert [piece async for piece in stream] == [b"b"]
            # What is set too late is not the next request's.
            stream.deadline = time.monotonic() - 1
            assert await ask(http, server.url) == b"hello"
        assert len(server.connections) == 1


@pytest.mark.parametrize("steps", [dripped_head, lambda _: dripped(CHUNKED, b"1\r\nx\r\n")])
async def test_the_deadline_of_a_request_bounds_head_and_body(steps: Any) -> None:
    with Server(steps) as server:
        async with AsyncTransport() as http:
            with pytest.raises(httpx.ReadTimeout):
                await ask(http, server.url, deadline=time.monotonic() + 0.1)
            assert idle(http) == 0


async def test_a_deadline_that_has_passed_sends_nothing() -> None:
    with Server(HELLO) as server:
        async with AsyncTransport() as http:
            with pytest.raises(httpx.ConnectTimeout):
                await handle(http, request(server.url, deadline=time.monotonic() - 1))
            assert await ask(http, server.url) == b"hello"
            with pytest.raises(httpx.WriteTimeout):
                await handle(http, request(server.url, deadline=time.monotonic() - 1))
            assert idle(http) == 0
        assert len(server.requests) == 1


async def test_a_server_that_reads_nothing_ends_the_write() -> None:
    gate = threading.Event()
    with RawServer(lambda connection: connection.take(gate)) as server:
        async with AsyncTransport() as http:
            with pytest.raises(httpx.WriteTimeout):
                await handle(http, request(server.url, content=bytes(30_000_000), timeout={"write": 0.1}))
            assert idle(http) == 0
            gate.set()


async def test_drain_gives_the_connection_back() -> None:
    with Server([CHUNKED + b"5\r\nhello\r\n", b"3\r\nend\r\n0\r\n\r\n"], HELLO) as server:
        async with AsyncTransport() as http:
            stream = (await handle(http, request(server.url))).stream
            assert (await stream.__anext__()).startswith(b"hello")
            await stream.drain(10.0)
            assert idle(http) == 1
            await stream.drain(10.0)
            assert await ask(http, server.url) == b"hello"
        assert len(server.connections) == 1


HELLO_SO_FAR = CHUNKED + b"5\r\nhello\r\n"


@pytest.mark.parametrize(
    "steps",
    [
        [HELLO_SO_FAR, GONE],
        [HELLO_SO_FAR, b"x\r\n", GONE],
        [HELLO_SO_FAR + b"0\r\n", GONE],
        lambda _: dripped(HELLO_SO_FAR, b"1\r\nx\r\n"),
    ],
)
async def test_drain_ends_in_time_and_closes_what_does_not_end(steps: Any) -> None:
    with Server(steps) as server:
        async with AsyncTransport() as http:
            stream = (await handle(http, request(server.url))).stream
            assert await stream.__anext__() == b"hello"
            await stream.drain(0.05)
            assert idle(http) == 0
            assert await call_in_thread(server.wait_gone)


# Closing


@pytest.mark.parametrize("start", [CHUNKED + b"5\r\nhe", head(200, {"content-length": "50"}) + b"he"])
@pytest.mark.parametrize("begun", [False, True])
async def test_closing_early_closes_the_connection(start: bytes, begun: bool) -> None:
    with Server([start, GONE]) as server:
        async with AsyncTransport() as http:
            response = await handle(http, request(server.url))
            if begun:
                assert await response.stream.__anext__() == b"he"
            await response.aclose()
            await response.stream.aclose()
            assert await call_in_thread(server.wait_gone)
            assert idle(http) == 0
            with pytest.raises(httpx.ReadError, match="closed before its end"):
                await read(response)


async def test_closing_after_the_end_keeps_the_connection() -> None:
    with Server(HELLO, HELLO) as server:
        async with AsyncTransport() as http:
            response = await handle(http, request(server.url))
            assert await read(response) == b"hello"
            await response.aclose()
            assert idle(http) == 1
            assert await read(response) == b""
            assert await ask(http, server.url) == b"hello"
        assert len(server.connections) == 1


async def test_closing_the_transport_closes_all_connections() -> None:
    with Server(HELLO, [CHUNKED + b"5\r\nhe", GONE], [CHUNKED + b"1\r\nx\r\n", GONE]) as server:
        http = AsyncTransport()
        first = await handle(http, request(server.url))
        second = await handle(http, request(server.url))
        assert await read(first) == b"hello"
        third = await handle(http, request(server.url))
        assert await second.stream.__anext__() == b"he"
        await http.aclose()
        await http.aclose()
        for response in (second, third):
            with pytest.raises(httpx.ReadError):
                await read(response)
        for number in range(2):
            assert await call_in_thread(server.wait_gone, number)
        assert idle(http) == 0
        with pytest.raises(httpx.ConnectError, match="closed"):
            await handle(http, request(server.url))


async def test_a_response_that_is_dropped_is_closed() -> None:
    with Server([CHUNKED + b"5\r\nhe", GONE], [head(200) + b"he", GONE]) as server:
        async with AsyncTransport() as http:
            for number in range(2):
                response = await handle(http, request(server.url))
                assert await response.stream.__anext__() == b"he"
                del response
                gc.collect()
                assert await call_in_thread(server.wait_gone, number)
            assert idle(http) == 0


async def test_a_transport_that_is_dropped_is_closed() -> None:
    with Server(HELLO) as server:
        http = AsyncTransport()
        assert await ask(http, server.url) == b"hello"
        del http
        gc.collect()
        assert await call_in_thread(server.wait_gone)


# TLS


async def test_tls(authority: trustme.CA, trust: ssl.SSLContext) -> None:
    large = [CHUNKED, *chunked(pieces(bytes(1_000_000), 10_000)), b"0\r\n\r\n"]
    with TLSServer(authority, HELLO, large, raw_reply(b"hello"), [*HELLO, CLOSE], HELLO) as server:
        async with AsyncTransport(trust) as http:
            response = await handle(http, request(server.url))
            assert response.stream.get_extra_info("ssl_object").selected_alpn_protocol() is None
            assert await read(response) == b"hello"
            assert await ask(http, server.url) == bytes(1_000_000)
            assert await ask(http, server.url) == b"hello"
            assert await ask(http, server.url) == b"hello"
            await closed_by_server(http)
            assert await ask(http, server.url) == b"hello"
        assert [each.connection for each in server.requests] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("reply", [[HELLO[0] + SECOND], [*HELLO, SECOND], [CHUNKED + b"0\r\n\r\n" + SECOND * 1000]])
async def test_bytes_not_asked_for_within_tls(authority: trustme.CA, trust: ssl.SSLContext, reply: Any) -> None:
    with TLSServer(authority, [*reply, GONE], HELLO) as server:
        async with AsyncTransport(trust) as http:
            await ask(http, server.url)
            if idle(http):
                await closed_by_server(http)
            assert await ask(http, server.url) == b"hello"
        assert [each.connection for each in server.requests] == [0, 1]


async def test_tls_that_cannot_be_trusted(authority: trustme.CA, trust: ssl.SSLContext) -> None:
    with TLSServer(trustme.CA(), HELLO) as unknown, TLSServer(authority, HELLO, name="example.org") as misnamed:
        async with AsyncTransport(trust) as http:
            for server in (unknown, misnamed):
                with pytest.raises(httpx.ConnectError, match=r"certificate verify failed|^$"):
                    await handle(http, request(server.url))
                assert not server.requests
            assert idle(http) == 0


@pytest.mark.parametrize("end", [CLOSE, RESET])
async def test_tls_that_is_cut(authority: trustme.CA, trust: ssl.SSLContext, end: Any) -> None:
    with TLSServer(authority, [CHUNKED + b"5\r\nhe", end]) as server:
        async with AsyncTransport(trust) as http:
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                await ask(http, server.url)
            assert idle(http) == 0


async def test_a_server_that_speaks_no_tls(trust: ssl.SSLContext) -> None:
    with RawServer(lambda connection: connection.take(b"HTTP/1.1 400 no TLS\r\n\r\n")) as server:
        async with AsyncTransport(trust) as http:
            with pytest.raises(httpx.ConnectError):
                await handle(http, request(server.url.replace("http:", "https:")))


async def test_connecting_is_bounded_with_its_handshake(trust: ssl.SSLContext) -> None:
    with RawServer(lambda connection: connection.take(GONE)) as server:
        async with AsyncTransport(trust) as http:
            with pytest.raises(httpx.ConnectTimeout):
                await handle(http, request(server.url.replace("http:", "https:"), timeout={"connect": 0.1}))
            assert idle(http) == 0
            assert await call_in_thread(server.wait_gone)


async def test_the_tls_context_is_made_once_and_for_https_only(
    monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    made: list[ssl.SSLContext] = []
    monkeypatch.setattr("llmkit.network._tls_context", None)
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: made.append(trust) or trust)
    with Server(HELLO) as plain, TLSServer(authority, HELLO, HELLO) as encrypted:
        async with AsyncTransport() as http, AsyncTransport() as other:
            assert await ask(http, plain.url) == b"hello"
            assert not made
            assert await ask(http, encrypted.url) == await ask(other, encrypted.url) == b"hello"
            assert made == [trust]


# Which transport


async def test_the_environment_chooses_the_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(raw_reply(b"through the proxy"), HELLO) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,example.com")
        async with transport_for("http://service.invalid/v1") as http:
            assert isinstance(http, HTTPTransport)
            assert await ask(http, "http://service.invalid/v1") == b"through the proxy"
        assert server.requests[0].path == "http://service.invalid/v1"
        for direct in (server.url, "http://example.com/v1", "https://service.invalid/v1"):
            assert isinstance(transport_for(direct), AsyncTransport)
        monkeypatch.setenv("LLMKIT_TRANSPORT", "httpx")
        async with transport_for(server.url) as http:
            assert isinstance(http, HTTPTransport)
            response = await handle(http, request(server.url))
            assert not isinstance(response.stream, AsyncBody)
            assert await read(response) == b"hello"


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "127.0.0.1:9", "https://127.0.0.1:9"])
async def test_a_proxy_for_https_shares_the_tls_context(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    made: list[ssl.SSLContext] = []
    monkeypatch.setattr("llmkit.network._tls_context", None)
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: made.append(ssl.create_default_context()) or made[0])
    monkeypatch.setenv("ALL_PROXY", proxy)
    async with transport_for("https://service.invalid/v1") as http, transport_for("https://other.invalid/v1"):
        assert len(made) == 1
        with pytest.raises(httpx.ConnectError):
            await handle(http, request("https://service.invalid/v1"))


@pytest.mark.parametrize("how", ["chunked", "length"])
async def test_a_client_of_httpx_can_use_it(how: str) -> None:
    with Server(default=HELLO if how == "chunked" else raw_reply(b"hello")) as server:
        async with Client(transport=AsyncTransport()) as client:
            assert (await client.get(server.url)).text == "hello"
            async with client.stream("GET", server.url) as response:
                assert b"".join([piece async for piece in response.aiter_bytes()]) == b"hello"
        assert len(server.connections) == 1
