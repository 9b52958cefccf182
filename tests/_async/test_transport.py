"""The transport over real sockets: what it gives, and when it keeps a connection."""
# ruff: noqa: C416, RUF100, SIM117 (the blocking twin)

from __future__ import annotations

import gc
import gzip
import weakref
from typing import Any

import pytest

from llmkit._async import connection, transport
from llmkit._async._backend import Client, call_in_thread, handle, httpx
from llmkit._async.transport import AsyncTransport

from ..server import CLOSE, GONE, RESET, Connection, Server, chunked, head, pieces, raw_reply
from .transport_help import CHUNKED, HELLO, SECOND, RawServer, ask, closed_by_server, idle, read, request

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize("how", ["chunked", "length"])
async def test_a_client_of_httpx_can_use_it(how: str) -> None:
    with Server(default=HELLO if how == "chunked" else raw_reply(b"hello")) as server:
        async with Client(transport=AsyncTransport()) as client:
            assert (await client.get(server.url)).text == "hello"
            async with client.stream("GET", server.url) as response:
                assert b"".join([piece async for piece in response.aiter_bytes()]) == b"hello"
        assert len(server.connections) == 1


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


@pytest.mark.parametrize(
    "reply",
    [[b"no HTTP\r\n\r\n"], [b"HTTP/1.1 200", CLOSE], [CHUNKED + b"no size\r\n"], [CHUNKED + b"5\r\nhel", CLOSE]],
    ids=["head", "cut head", "chunk", "cut chunk"],
)
async def test_no_frame_holds_the_exception_that_it_raised(reply: Any) -> None:
    gc.disable()
    try:
        with Server(reply) as server:
            async with AsyncTransport() as http:
                with pytest.raises(httpx.RemoteProtocolError) as caught:
                    await ask(http, server.url)
                raised = weakref.ref(caught.value)
                del caught
                assert raised() is None
    finally:
        gc.enable()


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
