"""One network connection of the transport: what httpcore reads and writes, cut and bounded in time.

Knows nothing of LLMs, or of who uses the connection.
"""
# ruff: noqa: ASYNC109 (the signatures are httpcore's)

from __future__ import annotations

import contextlib
import re
import select
import ssl
from time import monotonic
from typing import Any

from ..chunked import ChunkedError
from ._backend import (
    HTTPConnection,
    NetworkBackend,
    NetworkStream,
    httpcore,
    httpx,
    may_close,
    network_backend,
    scope,
    shield,
)

__all__ = ["ERRORS", "KEEPALIVE_SECONDS", "Origin", "Wire", "as_httpx"]

KEEPALIVE_SECONDS = 60.0
READ_SIZE = 64 * 1024  # above 128 KiB each read takes memory from the system, and several times as long
SEND_SIZE = 64 * 1024
# A kept connection that the server had closed fails within a round trip. What fails later may have been worked on.
STALE_SECONDS = 2.0
# What httpcore's streams raise. TLS, names that are no names, and streams closed by another task add their own.
BROKEN = (httpcore.NetworkError, httpcore.TimeoutException)
HEAD_END = re.compile(rb"\n\r?\n")
ERRORS: dict[type[BaseException], type[httpx.RequestError]] = {ChunkedError: httpx.RemoteProtocolError}
for _name in ("Timeout", "Error"):
    for _kind in ("Connect", "Read", "Write"):
        ERRORS[getattr(httpcore, _kind + _name)] = getattr(httpx, _kind + _name)
for _name in ("LocalProtocolError", "RemoteProtocolError", "UnsupportedProtocol"):
    ERRORS[getattr(httpcore, _name)] = getattr(httpx, _name)

Origin = tuple[bytes, bytes, int | None]


class Wire(NetworkBackend, NetworkStream):
    """One network connection as httpcore sees it: the backend that opens it, and the stream that the backend gives.

    h11 is given the head of a response and not a byte more, then nothing or no more than the body's stated length:
    so what a server sends unasked shows in `unread`, and is never taken for the answer to the next request.
    """

    def __init__(
        self, origin: Origin, ssl_context: ssl.SSLContext | None, socket_options: list[tuple[int, int, int]]
    ) -> None:
        scheme, host, port = self.origin = origin
        self.connection = HTTPConnection(
            origin=httpcore.URL(scheme=scheme, host=host, port=port).origin,
            ssl_context=ssl_context,
            keepalive_expiry=KEEPALIVE_SECONDS,
            network_backend=self,
            socket_options=socket_options,
        )
        self.reused = False
        self._stream: NetworkStream | None = None
        self._home = scope()
        self._busy = self._closed = self._ended = False

    def begin(self, deadline: float | None) -> None:
        """Prepare for the next request."""
        self.deadline = deadline
        self.unread = b""
        self._begun = monotonic()
        self._received = False
        self._unsent = b""
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

    def is_reusable(self) -> bool:
        """Return whether the next request may be sent, now that a response was read to its end."""
        return self.connection.is_idle() and not self.unread and not self._ended

    def was_stale(self, error: httpx.TransportError) -> bool:
        """Return whether a request failed because the server had closed this kept connection before it came."""
        broken = isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError))
        return broken and self.reused and not self._received and monotonic() - self._begun < STALE_SECONDS

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> NetworkStream:
        timeout = _clipped(timeout, self.deadline, httpcore.ConnectTimeout)
        self._connect_deadline = None if timeout is None else monotonic() + timeout
        try:
            stream = network_backend().connect_tcp(host, port, timeout, local_address, socket_options)
        except BROKEN:
            raise
        except Exception as error:
            raise httpcore.ConnectError(str(error)) from error
        self._opened(stream)
        return self

    def _opened(self, stream: NetworkStream) -> None:
        self._stream = stream
        # Asked for once: anyio takes long to tell.
        self._socket = stream.get_extra_info("socket")
        self._tls = stream.get_extra_info("ssl_object")

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> NetworkStream:
        try:
            timeout = _clipped(timeout, self._connect_deadline, httpcore.ConnectTimeout)
            stream = self._use(httpcore.ConnectError)
            self._opened(stream.start_tls(ssl_context, server_hostname, timeout))
        except BaseException as error:
            self._busy = False
            with shield():
                self.close()
            if not isinstance(error, Exception) or isinstance(error, BROKEN):
                raise
            raise httpcore.ConnectError(str(error)) from error
        self._busy = False
        return self

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Keep `buffer` to be sent before more is read or much more is written.

        So head and body are sent as one, and what can go wrong goes wrong outside of the iteration over the body,
        whose async generator nobody would close.
        """
        if buffer and len(self._unsent) > SEND_SIZE:
            self._send()
        self._unsent += buffer
        self._write_timeout = timeout

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, b""
        timeout = _clipped(self._write_timeout, self.deadline, httpcore.WriteTimeout)
        stream = self._use(httpcore.WriteError)
        try:
            stream.write(unsent, timeout)
        except BROKEN:
            raise
        except Exception as error:
            raise httpcore.WriteError(str(error)) from error
        finally:
            self._busy = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what h11 may see next."""
        if self._unsent:
            # As httpcore does: a server that refuses a request may answer before it has read all of it.
            with contextlib.suppress(httpcore.WriteError):
                self._send()
        if self._in_head:
            if self._head_deadline is None and timeout is not None:
                self._head_deadline = monotonic() + timeout
            timeout = _clipped(timeout, self._head_deadline, httpcore.ReadTimeout)
            data = self.take_unread() or self.receive(timeout)
            end = HEAD_END.search(self._tail + data)
            cut = len(data) if end is None else end.end() - len(self._tail)
            self._tail = b"" if end else (self._tail + data)[-2:]
        else:
            data = self.take_unread() or self.receive(timeout)
            cut = len(data) if self._left is None else self._left
            if self._left is not None:
                self._left -= min(cut, len(data))
        self.unread = data[cut:]
        return data[:cut]

    def take_unread(self) -> bytes:
        """Return what came and was not yet taken."""
        data, self.unread = self.unread, b""
        return data

    def receive(self, timeout: float | None) -> bytes:
        """Return what the network gives next, b"" at its end."""
        if self.deadline is not None:
            timeout = _clipped(timeout, self.deadline, httpcore.ReadTimeout)
        stream = self._use(httpcore.ReadError)
        try:
            data = stream.read(READ_SIZE, timeout)
        except BROKEN:
            raise
        except Exception as error:
            raise httpcore.ReadError(str(error)) from error
        finally:
            self._busy = False
        if self._closed:
            raise httpcore.ReadError("the connection was closed")
        if data:
            self._received = True
        else:
            self._ended = True
        return data

    def _use(self, failure: type[Exception]) -> NetworkStream:
        """Return the stream, marked as in use until `_busy` is reset."""
        # In this order, so that a thread that closes at the same time sees one or the other.
        self._busy = True
        if self._closed or self._stream is None:
            self._busy = False
            raise failure("the connection was closed")
        return self._stream

    def close(self) -> None:
        """Close the connection; a task or thread that waits for it is woken."""
        self._closed = True
        if self._stream is not None and may_close(self._stream, self._home, self._busy):
            self._stream.close()

    def get_extra_info(self, info: str) -> Any:
        if self._stream is None:
            return None
        return self._is_readable() if info == "is_readable" else self._stream.get_extra_info(info)

    def _is_readable(self) -> bool:
        """Return whether bytes or the end are there to be read."""
        number = self._socket.fileno()
        if number < 0 or _has_bytes(number):
            return True
        # TLS may have taken the bytes from the socket already. A blocking SSLSocket takes no more than it gives.
        if isinstance(self._tls, ssl.SSLObject):
            try:
                self._tls.read(1)
            except ssl.SSLError as error:
                return not isinstance(error, ssl.SSLWantReadError)
            return True
        return False


def _has_bytes(number: int) -> bool:
    """Return whether a socket is readable. `select` has no place for numbers over 1,023, so `poll` is used if there."""
    if not hasattr(select, "poll"):
        return bool(select.select([number], [], [], 0)[0])
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))


def _clipped(timeout: float | None, deadline: float | None, failure: type[Exception]) -> float | None:
    """Return the seconds that `timeout` and `deadline` both leave; raises `failure` where none are left."""
    if deadline is None:
        return timeout
    left = deadline - monotonic()
    if left <= 0:
        raise failure("timed out")
    return left if timeout is None else min(left, timeout)


def as_httpx(error: BaseException, request: httpx.Request) -> httpx.RequestError:
    """Return httpx's exception for one of the kinds in `ERRORS`."""
    return ERRORS[type(error)](str(error), request=request)
