"""llmkit's own HTTP/1.1 transport for httpx, over h11. Knows nothing of LLMs.

Three things differ from `httpx.SyncHTTPTransport`. The body of a chunked response does not pass through h11, which
makes an event of each chunk: h11 gets the head and the end, the bytes between go straight to the caller. Idle
connections stand in one stack per origin, so a request costs the same whether 10 or 1,000 run beside it. And waits
are bounded in total: connecting with TLS by the timeout "connect", the head of a response by "read", everything by
a deadline.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections import deque
from time import monotonic
from typing import Any

import h11

from ..chunked import ChunkedDecoder, body_length
from ..network import environment_proxy, keep_alive_options, proxy_error, shared_tls_context
from ._backend import (
    BaseTransport,
    ByteStream,
    HTTPTransport,
    call_in_thread,
    close_at_end,
    close_soon,
    httpx,
    shield,
)
from .connection import KEEPALIVE_SECONDS, Origin, Wire, kind_to_raise

__all__ = ["SyncBody", "SyncKept", "SyncTransport", "transport_for"]

IDLE_CONNECTIONS = 1000
CUT = "peer closed connection without sending complete message body (incomplete chunked read)"


def transport_for(url: httpx.URL | str) -> BaseTransport:
    """Return the transport for requests to `url`: ours, or httpx's where the environment names a proxy for it.

    LLMKIT_TRANSPORT=httpx in the environment always chooses httpx's. The response streams of httpx's transport have
    no `deadline` and no `drain`. Raises LLMProviderConfigurationError for a proxy that cannot be used.
    """
    url = httpx.URL(url)
    proxy = environment_proxy(url.scheme, url.host, url.port)
    if proxy is None and os.environ.get("LLMKIT_TRANSPORT") != "httpx":
        return SyncTransport()
    encrypted = url.scheme == "https" or (proxy or "").startswith("https:")
    # A context without certificates costs nothing, and plain HTTP never looks at it.
    context = shared_tls_context(httpx.create_ssl_context) if encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_SECONDS)
    try:
        return HTTPTransport(
            verify=context,
            proxy=proxy and httpx.Proxy(proxy, ssl_context=context if proxy.startswith("https:") else None),
            limits=limits,
            socket_options=keep_alive_options(),
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        raise proxy_error(url.scheme, proxy or "", error) from None


class SyncKept:
    """The transport of one event loop, and what closes it when the loop ends."""

    def __init__(self, transport: BaseTransport) -> None:
        self.transport = transport
        self._closer: Any = None

    def until_end(self) -> None:
        """Have the transport closed when the running event loop ends."""
        self._closer = close_at_end(self.transport.close)

    def close(self) -> None:
        """Close the transport now."""
        self.transport.close()
        if self._closer:
            # The end of the loop may be at it already.
            with contextlib.suppress(RuntimeError):
                self._closer.close()


class SyncTransport(BaseTransport):
    """An `httpx` transport for HTTP/1.1 without proxies; also for `httpx.SyncClient(transport=…)`.

    Requests may run at the same time, as many as the system has sockets for. `ssl_context` is used for https; None
    means the process's shared one, made at the first https request. A request may carry two extensions: httpx's
    "timeout" (seconds for "connect", "read", "write"), and "deadline", a time of `time.monotonic()` that bounds
    everything. Responses carry an `SyncBody` as `stream` and as the extension "network_stream".

    In the blocking world it may be shared by threads: the shared containers are used through single operations
    that the interpreter runs undivided.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self._ssl_context = ssl_context
        self._socket_options = keep_alive_options()
        self._idle: dict[Origin, deque[Wire]] = {}
        self._active: set[Wire] = set()
        self._closed = False

    def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`, and return the response as soon as its head is there; raises httpx's exceptions."""
        url = request.url
        origin = url.raw_scheme, url.raw_host, url.port
        if url.scheme not in ("http", "https"):
            raise httpx.UnsupportedProtocol(f"no http or https URL: {url.scheme!r}", request=request)
        if url.scheme == "https" and self._ssl_context is None:
            self._ssl_context = call_in_thread(shared_tls_context, httpx.create_ssl_context)
        wire = self._take_idle(origin)
        if wire is not None:
            try:
                return self._exchange(wire, request)
            except httpx.TransportError as error:
                if not wire.was_stale(error) or not isinstance(request.stream, httpx.ByteStream):
                    raise
        return self._exchange(Wire(origin, self._ssl_context, self._socket_options), request)

    # The name in the blocking world.
    handle_request = handle_async_request

    def close(self) -> None:
        """Close all connections, also those in use: what waits for them fails with an httpx exception."""
        self._closed = True
        wires = list(self._active)
        while self._idle:
            wires += _emptied(self._idle.popitem()[1])
        _close(wires)

    def __del__(self) -> None:
        wires = [wire for stack in self._idle.values() for wire in stack]
        if wires and not self._closed and close_soon is not None:  # None while the interpreter ends
            close_soon(self.close, wires[0].home)

    def _take_idle(self, origin: Origin) -> Wire | None:
        """Return the idle connection that was used last, or None; closes those that are of no use any more."""
        stack = self._idle.setdefault(origin, deque())
        with contextlib.suppress(IndexError):
            while (wire := stack.pop()).has_expired():
                _close([wire])
            return wire
        return None

    def _exchange(self, wire: Wire, request: httpx.Request) -> httpx.Response:
        self._active.add(wire)
        wire.begin(request.extensions.get("deadline"))
        try:
            if self._closed:
                raise httpx.ConnectError("the transport is closed")
            head = wire.request(request)
        except BaseException as error:
            self._drop(wire)
            kind = kind_to_raise(error, request)
            if kind is None:
                raise
            raise kind(str(error), request=request) from error
        body = SyncBody(self, wire, request, head)
        extensions = {
            "http_version": b"HTTP/" + head.http_version,
            "reason_phrase": head.reason,
            "network_stream": body,
        }
        return httpx.Response(head.status_code, headers=head.headers.raw_items(), stream=body, extensions=extensions)

    def _drop(self, wire: Wire) -> None:
        """Close a connection that is in use."""
        self._active.discard(wire)
        _close([wire])

    def _release(self, wire: Wire) -> None:
        """Take back a connection whose response was read to its end."""
        stack = self._idle.setdefault(wire.origin, deque())
        stale = []
        # Those that no request has needed for long stand at the bottom, where `_take_idle` may never come.
        with contextlib.suppress(IndexError):
            while (oldest := stack.popleft()).has_expired():
                stale.append(oldest)
            stack.appendleft(oldest)
        # Before another thread can take it from the stack.
        self._active.discard(wire)
        if len(stack) < IDLE_CONNECTIONS and wire.is_kept():
            stack.append(wire)
        else:
            stale.append(wire)
        # In the blocking world another thread may close the transport while the oldest is in no stack.
        if self._closed:
            stale += _emptied(stack)
        if stale:
            _close(stale)


def _close(wires: list[Wire]) -> None:
    with shield():
        try:
            while wires:
                wires.pop().close()
        finally:
            # A task that asyncio cancels, and not anyio, is not shielded.
            if wires:
                _close(wires)


class SyncBody(ByteStream):
    """The body of one response: iterate over it once for its bytes as they come, before content decoding.

    `deadline` is a time of `time.monotonic()`, or None: each later wait ends by then with `httpx.ReadTimeout`; it
    begins as the request's. The timeout "read" bounds each wait as well. Read to the end, the body gives its
    connection back for the next request; whatever else happens to it closes the connection.
    """

    def __init__(self, transport: SyncTransport, wire: Wire, request: httpx.Request, head: h11.Response) -> None:
        self.deadline = wire.deadline
        self._transport = transport
        self._wire = wire
        self._request = request
        self._timeout: float | None = request.extensions.get("timeout", {}).get("read")
        self._ended = self._closed = False
        length = body_length(request.method.encode(), head.status_code, head.headers)
        self._decoder = ChunkedDecoder() if length == "chunked" else None
        if length != "chunked":
            wire.end_head(length)

    def __iter__(self) -> SyncBody:
        return self

    def __next__(self) -> bytes:
        if self._ended:
            raise StopIteration
        if self._closed:
            raise httpx.ReadError("the response was closed before its end", request=self._request)
        wire = self._wire
        wire.deadline = self.deadline
        try:
            decoder = self._decoder
            while decoder is not None:
                if decoder.failure:
                    raise decoder.failure
                data = wire.take_unread() or wire.receive(self._timeout)
                if not data:
                    raise httpx.RemoteProtocolError(CUT)
                piece = decoder.feed(data)
                if decoder.complete:
                    # h11 reads the trailers and the end, so that its cycle ends.
                    wire.expect_head(b"0\r\n" + decoder.rest)
                    decoder = self._decoder = None
                if piece:
                    return piece
            event = wire.next_event(self._timeout)
            if type(event) is h11.Data:
                return bytes(event.data)
        except BaseException as error:
            self._abort()
            kind = kind_to_raise(error, self._request)
            if kind is None:
                raise
            raise kind(str(error), request=self._request) from error
        self._ended = True
        self._transport._release(wire)
        raise StopIteration

    def drain(self, seconds: float) -> None:
        """Read what is left for at most `seconds`, to give the connection back; closes it where that is too short."""
        deadline = monotonic() + seconds
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)
        try:
            for _ in self:
                pass
        except httpx.TransportError:
            pass

    def get_extra_info(self, info: str) -> Any:
        """Tell about the connection what httpcore's network streams tell: "server_addr", "ssl_object" …"""
        return self._wire.get_extra_info(info)

    def close(self) -> None:
        """Close the connection unless the body was read to its end. May be called at any time, from anywhere, twice."""
        if not self._ended and not self._closed:
            self._abort()

    def _abort(self) -> None:
        self._closed = True
        self._transport._drop(self._wire)

    def __del__(self) -> None:
        if not self._ended and not self._closed and close_soon is not None:
            close_soon(self.close, self._wire.home)


def _emptied(stack: deque[Wire]) -> list[Wire]:
    """Return all of `stack`, taken one by one: another thread may be taking them as well."""
    wires = []
    with contextlib.suppress(IndexError):
        while True:
            wires.append(stack.pop())
    return wires
