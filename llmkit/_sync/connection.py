"""One network connection of the transport: requests out, heads and bodies in, bounded in time.

Knows nothing of LLMs, or of who uses the connection. h11 writes the heads of requests and judges those of responses.
"""

from __future__ import annotations

import re
import ssl
from time import monotonic
from typing import Any

import h11

from ..chunked import ChunkedError
from ._backend import connect, httpx, may_close, scope

__all__ = ["KEEPALIVE_SECONDS", "Origin", "Wire", "kind_to_raise"]

KEEPALIVE_SECONDS = 60.0
SEND_SIZE = 64 * 1024
LONGEST_HEAD = 100 * 1024
# A kept connection that the server had closed fails within a round trip. What fails later may have been worked on.
STALE_SECONDS = 1.0
HEAD_END = re.compile(rb"\n\r?\n")
PORTS = {b"http": 80, b"https": 443}
ERRORS: dict[type[BaseException], type[httpx.RequestError]] = {
    ChunkedError: httpx.RemoteProtocolError,
    h11.RemoteProtocolError: httpx.RemoteProtocolError,
    h11.LocalProtocolError: httpx.LocalProtocolError,
}

Origin = tuple[bytes, bytes, int | None]


class Wire:
    """One network connection to an origin, opened by its first request; it carries one request at a time.

    h11 is given the head of a response and not a byte more, then nothing or no more than the body's stated length:
    so what a server sends unasked shows in `unread`, and is never taken for the answer to the next request.
    """

    def __init__(
        self, origin: Origin, ssl_context: ssl.SSLContext | None, socket_options: list[tuple[int, int, int]]
    ) -> None:
        self.origin = origin
        self.reused = False
        self._ssl_context = ssl_context if origin[0] == b"https" else None
        self._socket_options = socket_options
        self._protocol = h11.Connection(h11.CLIENT, max_incomplete_event_size=LONGEST_HEAD)
        self._stream: Any = None
        self.home = scope()
        self._busy = self._closed = self._ended = False

    def begin(self, deadline: float | None) -> None:
        """Prepare for the next request."""
        self.deadline = deadline
        self._begun = monotonic()
        self._received = False
        self._left: int | None = None
        self.expect_head(b"")

    def expect_head(self, unread: bytes) -> None:
        """Have h11 given bytes up to an empty line, and no more; `unread` comes first."""
        self.unread = unread
        self._in_head = True
        self._tail = b""
        self._head_deadline: float | None = None

    def end_head(self, length: int | None) -> None:
        """Have h11 given a body of `length` bytes, or of all that comes."""
        self._in_head = False
        self._left = length

    def is_kept(self) -> bool:
        """Return whether the next request may be sent, now that a response was read to its end."""
        protocol = self._protocol
        if self.unread or self._ended or not protocol.our_state is protocol.their_state is h11.DONE:
            return False
        protocol.start_next_cycle()
        self.reused = True
        self._kept_until = monotonic() + KEEPALIVE_SECONDS
        return True

    def has_expired(self) -> bool:
        """Return whether a kept connection is of no use any more: too old, closed, or full of what nobody asked for."""
        return monotonic() > self._kept_until or self._stream.is_readable()

    def was_stale(self, error: httpx.TransportError) -> bool:
        """Return whether a request failed because the server had closed this kept connection before it came."""
        broken = isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError))
        return broken and self.reused and not self._received and monotonic() - self._begun < STALE_SECONDS

    def request(self, request: httpx.Request) -> h11.Response:
        """Send a request, and return the head of its response."""
        timeouts = request.extensions.get("timeout", {})
        if self._stream is None:
            self._connect(timeouts.get("connect"))
        # A server that refuses a request may answer before it has read all of it, and read no more.
        try:
            self._send(request, timeouts.get("write"))
        except httpx.WriteError:
            pass
        except httpx.WriteTimeout:
            if not self.get_extra_info("is_readable"):
                raise
            self._ended = True
        while True:
            event = self.next_event(timeouts.get("read"))
            if type(event) is h11.Response:
                return event

    def _connect(self, seconds: float | None) -> None:
        scheme, host, port = self.origin
        seconds = _clipped(seconds, self.deadline, httpx.ConnectTimeout)
        if self._ssl_context:
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        address = host.decode("ascii"), port or PORTS[scheme]
        try:
            self._stream = connect(*address, self._ssl_context, seconds, self._socket_options)
        except TimeoutError as error:
            raise httpx.ConnectTimeout("timed out") from error
        except TypeError:
            # A mistake in a program, and no news of the network.
            raise
        except Exception as error:
            raise httpx.ConnectError(str(error)) from error

    def _send(self, request: httpx.Request, seconds: float | None) -> None:
        """Send head and body, as one where they are small."""
        send = self._protocol.send
        head = h11.Request(
            method=request.method.encode("ascii"), target=request.url.raw_path, headers=request.headers.raw
        )
        unsent = send(head)
        body: Any = request.stream
        if isinstance(body, httpx.ByteStream):
            unsent += b"".join(send(h11.Data(data=piece)) for piece in body)
        else:
            for piece in body:
                if len(unsent) > SEND_SIZE:
                    self._write(unsent, seconds)
                    unsent = b""
                unsent += send(h11.Data(data=piece))
        self._write(unsent + send(h11.EndOfMessage()), seconds)

    def _write(self, data: bytes, seconds: float | None) -> None:
        """Send bytes; `seconds` bounds the wait for each `SEND_SIZE` of them, as much as any upload must make."""
        stream = self._use(httpx.WriteError)
        try:
            for start in range(0, len(data), SEND_SIZE):
                left = _clipped(seconds, self.deadline, httpx.WriteTimeout)
                stream.write(data[start : start + SEND_SIZE], left)
        except TimeoutError as error:
            raise httpx.WriteTimeout("timed out") from error
        except httpx.WriteTimeout:
            raise
        except Exception as error:
            self._ended = True
            raise httpx.WriteError(str(error)) from error
        finally:
            self._busy = False

    def next_event(self, seconds: float | None) -> Any:
        """Return what h11 makes of the response next: a head, a part of its body, or its end."""
        protocol = self._protocol
        while (event := protocol.next_event()) is h11.NEED_DATA:
            data = self._read(seconds)
            if not data and protocol.their_state is h11.SEND_RESPONSE:
                raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
            protocol.receive_data(data)
        return event

    def _read(self, seconds: float | None) -> bytes:
        """Return what h11 may see next."""
        if self._in_head:
            if self._head_deadline is None and seconds is not None:
                self._head_deadline = monotonic() + seconds
            seconds = _clipped(seconds, self._head_deadline, httpx.ReadTimeout)
            data = self.take_unread() or self.receive(seconds)
            end = HEAD_END.search(self._tail + data)
            cut = len(data) if end is None else end.end() - len(self._tail)
            self._tail = b"" if end else (self._tail + data)[-2:]
        else:
            data = self.take_unread() or self.receive(seconds)
            cut = len(data) if self._left is None else self._left
            if self._left is not None:
                self._left -= min(cut, len(data))
        self.unread = data[cut:]
        return data[:cut]

    def take_unread(self) -> bytes:
        """Return what came and was not yet taken."""
        data, self.unread = self.unread, b""
        return data

    def receive(self, seconds: float | None) -> bytes:
        """Return what the network gives next, b"" at its end."""
        if self.deadline is not None:
            seconds = _clipped(seconds, self.deadline, httpx.ReadTimeout)
        stream = self._use(httpx.ReadError)
        try:
            data: bytes = stream.read(seconds)
        except TimeoutError as error:
            raise httpx.ReadTimeout("timed out") from error
        except Exception as error:
            raise httpx.ReadError(str(error)) from error
        finally:
            self._busy = False
        if self._closed:
            raise httpx.ReadError("the connection was closed")
        if data:
            self._received = True
        else:
            self._ended = True
        return data

    def _use(self, failure: type[httpx.TransportError]) -> Any:
        """Return the stream, marked as in use until `_busy` is reset."""
        # In this order, so that a thread that closes at the same time sees one or the other.
        self._busy = True
        if self._closed:
            self._busy = False
            raise failure("the connection was closed")
        return self._stream

    def close(self) -> None:
        """Close the connection; a task or thread that waits for it is woken."""
        self._closed = True
        if self._stream is not None and may_close(self._stream, self.home, self._busy):
            self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        """Tell about the connection what httpcore's network streams tell: "server_addr", "ssl_object" …"""
        if self._stream is None:
            return None
        return self._stream.is_readable() if info == "is_readable" else self._stream.get_extra_info(info)


def _clipped(seconds: float | None, deadline: float | None, failure: type[httpx.TransportError]) -> float | None:
    """Return the seconds that `seconds` and `deadline` both leave; raises `failure` where none are left."""
    if deadline is None:
        return seconds
    left = deadline - monotonic()
    if left <= 0:
        raise failure("timed out")
    return left if seconds is None else min(left, seconds)


def kind_to_raise(error: BaseException, request: httpx.Request) -> type[httpx.RequestError] | None:
    """Return what a transport of httpx raises in place of `error`; None: `error` itself, which then knows its request.

    A class, not an exception: a frame that holds the exception it raises keeps all its frames alive.
    """
    if isinstance(error, httpx.RequestError):
        error.request = request
    return ERRORS.get(type(error))
