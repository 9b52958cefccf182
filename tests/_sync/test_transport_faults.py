"""How the transport ends: faults of the server, time, closing early."""
# ruff: noqa: C416, RUF100, SIM117 (the blocking twin)

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from llmkit._sync import connection
from llmkit._sync._backend import call_in_thread, handle, httpx
from llmkit._sync.transport import SyncTransport

from ..server import CLOSE, GONE, PATIENCE, RESET, Server, head
from .transport_help import CHUNKED, HELLO, RawServer, ask, idle, read, request

pytestmark = pytest.mark.anyio


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
def test_a_head_that_is_none_is_a_protocol_error(steps: Any, message: str) -> None:
    with Server(steps) as server:
        with SyncTransport() as http:
            with pytest.raises(httpx.RemoteProtocolError, match=message) as caught:
                handle(http, request(server.url))
            assert caught.value.request.url == server.url
            assert idle(http) == 0
            assert CLOSE in steps or call_in_thread(server.wait_gone)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([CHUNKED + b"5\r\nhe", CLOSE], "incomplete chunked read"),
        ([CHUNKED + b"5\r\nhello\r\n", CLOSE], "incomplete chunked read"),
        ([CHUNKED + b"5\r\nhello\r\n0\r\n", CLOSE], "incomplete chunked read"),
        ([CHUNKED, CLOSE], "incomplete chunked read"),
        ([CHUNKED + b"5\nhello\n0\n\n", CLOSE], "incomplete chunked read"),
        ([CHUNKED + b"x\r\nhello\r\n0\r\n\r\n", GONE], "illegal chunk header"),
        ([CHUNKED + b"5\r\nhelloXX0\r\n\r\n", GONE], "malformed chunk footer"),
        ([CHUNKED + b"0\r\nno trailer\r\n\r\n", GONE], "illegal header line"),
        ([head(200, {"content-length": "50"}) + b"hello", CLOSE], "received 5 bytes, expected 50"),
    ],
)
def test_a_body_that_is_cut_or_malformed_is_a_protocol_error(steps: Any, message: str) -> None:
    with Server(steps) as server:
        with SyncTransport() as http:
            response = handle(http, request(server.url))
            with pytest.raises(httpx.RemoteProtocolError, match=message) as caught:
                read(response)
            assert caught.value.request.url == server.url
            assert idle(http) == 0
            with pytest.raises(httpx.ReadError, match="closed before its end"):
                response.stream.__next__()
            assert CLOSE in steps or call_in_thread(server.wait_gone)


def test_what_came_before_a_malformed_chunk_is_given_first() -> None:
    with Server([CHUNKED + b"5\r\nhello\r\nx\r\n", GONE]) as server:
        with SyncTransport() as http:
            stream = (handle(http, request(server.url))).stream
            assert stream.__next__() == b"hello"
            with pytest.raises(httpx.RemoteProtocolError, match="illegal chunk header"):
                stream.__next__()


@pytest.mark.parametrize("start", [CHUNKED + b"5\r\nhe", head(200, {"content-length": "50"}) + b"he"])
def test_a_reset_within_a_body_is_a_read_error_after_what_came(start: bytes) -> None:
    with Server() as server:
        gate = server.gate()
        server.add([start, gate, RESET])
        with SyncTransport() as http:
            stream = (handle(http, request(server.url))).stream
            assert stream.__next__() == b"he"
            gate.set()
            with pytest.raises(httpx.ReadError):
                stream.__next__()
            assert idle(http) == 0


def test_no_server_no_name_no_connection() -> None:
    with Server() as server:
        url = server.url
    with SyncTransport() as http:
        for nowhere in (url, "http://name.invalid/", f"http://{'x' * 70}.invalid/"):
            with pytest.raises(httpx.ConnectError):
                handle(http, request(nowhere))
        assert idle(http) == 0


def test_a_mistake_in_a_program_is_no_lack_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(host: str) -> None:
        raise AssertionError

    monkeypatch.setattr(connection, "connect", connect)
    with SyncTransport() as http:
        with pytest.raises(TypeError, match="positional"):
            handle(http, request("http://127.0.0.1:9/"))
        assert idle(http) == 0


def test_an_address_of_another_kind() -> None:
    with SyncTransport() as http:
        for url in ("ftp://127.0.0.1/", "/v1/models"):
            with pytest.raises(httpx.UnsupportedProtocol):
                handle(http, httpx.Request("GET", url, headers={"host": "test"}))


def dripped(start: bytes, drop: bytes) -> Iterator[Any]:
    """Send a drop every 10 ms, without end."""
    yield start
    while True:
        time.sleep(0.01)
        yield drop


def dripped_head(_: Any) -> Iterator[Any]:
    return dripped(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n")


@pytest.mark.parametrize("steps", [dripped_head, [b"HTTP", GONE], lambda _: dripped(b"", b"HTTP/1.1 103 X\r\n\r\n")])
def test_the_wait_for_a_head_is_bounded_in_total(steps: Any) -> None:
    with Server(steps) as server:
        with SyncTransport() as http:
            with pytest.raises(httpx.ReadTimeout):
                handle(http, request(server.url, timeout={"read": 0.1}))
            assert idle(http) == 0
            assert call_in_thread(server.wait_gone)


@pytest.mark.parametrize("start", [CHUNKED, head(200, {"content-length": "1000000"}), head(200)])
def test_each_wait_for_a_body_is_bounded(start: bytes) -> None:
    with Server([start + b"1\r\nx\r\n", GONE]) as server:
        with SyncTransport() as http:
            stream = (handle(http, request(server.url, timeout={"read": 0.1}))).stream
            assert b"x" in stream.__next__()
            with pytest.raises(httpx.ReadTimeout):
                stream.__next__()
            assert idle(http) == 0


@pytest.mark.parametrize("start", [CHUNKED, head(200, {"content-length": "1000000"}), head(200)])
def test_a_deadline_ends_a_body_that_keeps_coming(start: bytes) -> None:
    with Server(dripped(start, b"1\r\nx\r\n")) as server:
        with SyncTransport() as http:
            response = handle(http, request(server.url))
            assert response.extensions["network_stream"] is response.stream
            response.stream.deadline = time.monotonic() + 0.1
            with pytest.raises(httpx.ReadTimeout):
                read(response)
            assert idle(http) == 0


def test_a_deadline_can_be_moved_and_taken_away() -> None:
    with Server() as server:
        gate = server.gate()
        server.add([CHUNKED + b"1\r\na\r\n", gate, b"1\r\nb\r\n0\r\n\r\n"], HELLO)
        with SyncTransport() as http:
            stream = (handle(http, request(server.url, deadline=time.monotonic() + 10))).stream
            assert stream.deadline is not None
            assert stream.__next__() == b"a"
            stream.deadline = time.monotonic() - 1
            stream.deadline = None
            gate.set()
            assert [piece for piece in stream] == [b"b"]
            # What is set too late is not the next request's.
            stream.deadline = time.monotonic() - 1
            assert ask(http, server.url) == b"hello"
        assert len(server.connections) == 1


@pytest.mark.parametrize("steps", [dripped_head, lambda _: dripped(CHUNKED, b"1\r\nx\r\n")])
def test_the_deadline_of_a_request_bounds_head_and_body(steps: Any) -> None:
    with Server(steps) as server:
        with SyncTransport() as http:
            with pytest.raises(httpx.ReadTimeout):
                ask(http, server.url, deadline=time.monotonic() + 0.1)
            assert idle(http) == 0


def test_a_deadline_that_has_passed_sends_nothing() -> None:
    with Server(HELLO) as server:
        with SyncTransport() as http:
            with pytest.raises(httpx.ConnectTimeout):
                handle(http, request(server.url, deadline=time.monotonic() - 1))
            assert ask(http, server.url) == b"hello"
            with pytest.raises(httpx.WriteTimeout):
                handle(http, request(server.url, deadline=time.monotonic() - 1))
            assert idle(http) == 0
        assert len(server.requests) == 1


def test_a_server_that_reads_nothing_ends_the_write() -> None:
    gate = threading.Event()
    with RawServer(lambda connection: connection.take(gate)) as server:
        with SyncTransport() as http:
            with pytest.raises(httpx.WriteTimeout):
                handle(http, request(server.url, content=bytes(30_000_000), timeout={"write": 0.1}))
            assert idle(http) == 0
            gate.set()


def test_drain_gives_the_connection_back() -> None:
    with Server([CHUNKED + b"5\r\nhello\r\n", b"3\r\nend\r\n0\r\n\r\n"], HELLO) as server:
        with SyncTransport() as http:
            stream = (handle(http, request(server.url))).stream
            assert (stream.__next__()).startswith(b"hello")
            stream.drain(10.0)
            assert idle(http) == 1
            stream.drain(10.0)
            assert ask(http, server.url) == b"hello"
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
def test_drain_ends_in_time_and_closes_what_does_not_end(steps: Any) -> None:
    with Server(steps) as server:
        with SyncTransport() as http:
            stream = (handle(http, request(server.url))).stream
            assert stream.__next__() == b"hello"
            stream.drain(0.05)
            assert idle(http) == 0
            assert call_in_thread(server.wait_gone)


@pytest.mark.parametrize("start", [CHUNKED + b"5\r\nhe", head(200, {"content-length": "50"}) + b"he"])
@pytest.mark.parametrize("begun", [False, True])
def test_closing_early_closes_the_connection(start: bytes, begun: bool) -> None:
    with Server([start, GONE]) as server:
        with SyncTransport() as http:
            response = handle(http, request(server.url))
            if begun:
                assert response.stream.__next__() == b"he"
            response.close()
            response.stream.close()
            assert call_in_thread(server.wait_gone)
            assert idle(http) == 0
            with pytest.raises(httpx.ReadError, match="closed before its end"):
                read(response)


def test_closing_after_the_end_keeps_the_connection() -> None:
    with Server(HELLO, HELLO) as server:
        with SyncTransport() as http:
            response = handle(http, request(server.url))
            assert read(response) == b"hello"
            response.close()
            assert idle(http) == 1
            assert read(response) == b""
            assert ask(http, server.url) == b"hello"
        assert len(server.connections) == 1


def test_a_refusal_is_read_although_the_request_is_not() -> None:
    refused = threading.Event()

    def refuse(connection: Any) -> None:
        connection.take(head(413, {"content-length": "5"}) + b"large")
        refused.wait(PATIENCE)

    with RawServer(refuse) as server:
        with SyncTransport() as http:
            response = handle(http, request(server.url, content=bytes(50_000_000), timeout={"write": 0.3}))
            assert (response.status_code, read(response)) == (413, b"large")
            assert idle(http) == 0
        refused.set()


def test_a_large_request_is_bounded_by_the_deadline_however_slowly_it_is_taken() -> None:
    def take_slowly(connection: Any) -> None:
        while not connection.gone.wait(0.01):
            connection.socket.settimeout(PATIENCE)
            connection.receive()

    with RawServer(take_slowly) as server:
        with SyncTransport() as http:
            started = time.monotonic()
            with pytest.raises(httpx.WriteTimeout):
                handle(http, request(server.url, content=bytes(200_000_000), deadline=started + 0.5))
            assert time.monotonic() < started + PATIENCE / 2


def test_closing_the_transport_closes_all_connections() -> None:
    with Server(HELLO, [CHUNKED + b"5\r\nhe", GONE], [CHUNKED + b"1\r\nx\r\n", GONE]) as server:
        http = SyncTransport()
        first = handle(http, request(server.url))
        second = handle(http, request(server.url))
        assert read(first) == b"hello"
        third = handle(http, request(server.url))
        assert second.stream.__next__() == b"he"
        http.close()
        http.close()
        for response in (second, third):
            with pytest.raises(httpx.ReadError):
                read(response)
        for number in range(2):
            assert call_in_thread(server.wait_gone, number)
        assert idle(http) == 0
        with pytest.raises(httpx.ConnectError, match="closed"):
            handle(http, request(server.url))


def test_a_response_that_is_dropped_is_closed() -> None:
    with Server([CHUNKED + b"5\r\nhe", GONE], [head(200) + b"he", GONE]) as server:
        with SyncTransport() as http:
            for number in range(2):
                response = handle(http, request(server.url))
                assert response.stream.__next__() == b"he"
                del response
                gc.collect()
                assert call_in_thread(server.wait_gone, number)
            assert idle(http) == 0


def test_a_transport_that_is_dropped_is_closed() -> None:
    with Server(HELLO) as server:
        http = SyncTransport()
        assert ask(http, server.url) == b"hello"
        del http
        gc.collect()
        assert call_in_thread(server.wait_gone)
