"""The transport over TLS, and which transport an address gets."""
# ruff: noqa: C416, RUF100, SIM117 (the blocking twin)

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trustme

from llmkit import network
from llmkit._sync._backend import HTTPTransport, call_in_thread, handle, httpx
from llmkit._sync.transport import SyncBody, SyncTransport, transport_for

from ..server import CLOSE, GONE, RESET, Server, chunked, pieces, raw_reply
from .transport_help import CHUNKED, HELLO, SECOND, RawServer, TLSServer, ask, closed_by_server, idle, read, request

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def test_tls(authority: trustme.CA, trust: ssl.SSLContext) -> None:
    large = [CHUNKED, *chunked(pieces(bytes(1_000_000), 10_000)), b"0\r\n\r\n"]
    with TLSServer(authority, HELLO, large, raw_reply(b"hello"), [*HELLO, CLOSE], HELLO) as server:
        with SyncTransport(trust) as http:
            response = handle(http, request(server.url))
            assert response.stream.get_extra_info("ssl_object").selected_alpn_protocol() is None
            assert read(response) == b"hello"
            assert ask(http, server.url) == bytes(1_000_000)
            assert ask(http, server.url) == b"hello"
            assert ask(http, server.url) == b"hello"
            closed_by_server(http)
            assert ask(http, server.url) == b"hello"
        assert [each.connection for each in server.requests] == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("reply", [[HELLO[0] + SECOND], [*HELLO, SECOND], [CHUNKED + b"0\r\n\r\n" + SECOND * 1000]])
def test_bytes_not_asked_for_within_tls(authority: trustme.CA, trust: ssl.SSLContext, reply: Any) -> None:
    with TLSServer(authority, [*reply, GONE], HELLO) as server:
        with SyncTransport(trust) as http:
            ask(http, server.url)
            if idle(http):
                closed_by_server(http)
            assert ask(http, server.url) == b"hello"
        assert [each.connection for each in server.requests] == [0, 1]


def test_tls_that_cannot_be_trusted(authority: trustme.CA, trust: ssl.SSLContext) -> None:
    with TLSServer(trustme.CA(), HELLO) as unknown, TLSServer(authority, HELLO, name="example.org") as misnamed:
        with SyncTransport(trust) as http:
            for server in (unknown, misnamed):
                with pytest.raises(httpx.ConnectError, match=r"certificate verify failed|^$"):
                    handle(http, request(server.url))
                assert not server.requests
            assert idle(http) == 0


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_tls_that_is_cut(authority: trustme.CA, trust: ssl.SSLContext, end: Any) -> None:
    with TLSServer(authority, [CHUNKED + b"5\r\nhe", end]) as server:
        with SyncTransport(trust) as http:
            with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
                ask(http, server.url)
            assert idle(http) == 0


def test_a_server_that_speaks_no_tls(trust: ssl.SSLContext) -> None:
    with RawServer(lambda connection: connection.take(b"HTTP/1.1 400 no TLS\r\n\r\n")) as server:
        with SyncTransport(trust) as http:
            with pytest.raises(httpx.ConnectError):
                handle(http, request(server.url.replace("http:", "https:")))


def test_connecting_is_bounded_with_its_handshake(trust: ssl.SSLContext) -> None:
    with RawServer(lambda connection: connection.take(GONE)) as server:
        with SyncTransport(trust) as http:
            with pytest.raises(httpx.ConnectTimeout):
                handle(http, request(server.url.replace("http:", "https:"), timeout={"connect": 0.1}))
            assert idle(http) == 0
            assert call_in_thread(server.wait_gone)


def test_the_tls_context_is_made_once_and_for_https_only(
    monkeypatch: pytest.MonkeyPatch, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    made: list[ssl.SSLContext] = []
    monkeypatch.setattr(network, "_tls_context", None)
    monkeypatch.setattr(network, "certificate_directory", lambda: None)
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: made.append(trust) or trust)
    with Server(HELLO) as plain, TLSServer(authority, HELLO, HELLO) as encrypted:
        with SyncTransport() as http, SyncTransport() as other:
            assert ask(http, plain.url) == b"hello"
            assert not made
            assert ask(http, encrypted.url) == ask(other, encrypted.url) == b"hello"
            assert made == [trust]


def test_the_environment_chooses_the_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(raw_reply(b"through the proxy"), HELLO) as server:
        monkeypatch.setenv("HTTP_PROXY", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,example.com")
        with transport_for("http://service.invalid/v1") as http:
            assert isinstance(http, HTTPTransport)
            assert ask(http, "http://service.invalid/v1") == b"through the proxy"
        assert server.requests[0].path == "http://service.invalid/v1"
        for direct in (server.url, "http://example.com/v1", "https://service.invalid/v1"):
            assert isinstance(transport_for(direct), SyncTransport)
        monkeypatch.setenv("LLMKIT_TRANSPORT", "httpx")
        with transport_for(server.url) as http:
            assert isinstance(http, HTTPTransport)
            response = handle(http, request(server.url))
            assert not isinstance(response.stream, SyncBody)
            assert read(response) == b"hello"


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "127.0.0.1:9", "https://127.0.0.1:9"])
def test_a_proxy_for_https_shares_the_tls_context(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    made: list[ssl.SSLContext] = []
    monkeypatch.setattr(network, "_tls_context", None)
    monkeypatch.setattr(network, "certificate_directory", lambda: None)
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: made.append(ssl.create_default_context()) or made[0])
    monkeypatch.setenv("ALL_PROXY", proxy)
    with transport_for("https://service.invalid/v1") as http, transport_for("https://other.invalid/v1"):
        assert len(made) == 1
        with pytest.raises(httpx.ConnectError):
            handle(http, request("https://service.invalid/v1"))
