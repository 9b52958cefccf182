"""One network connection of the transport: what httpcore reads and writes, cut and bounded in time.

Knows nothing of LLMs, or of who uses the connection.
"""

from __future__ import annotations

import re
import ssl
from time import monotonic
from typing import Any

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

__all__ = ["KEEPALIVE_SECONDS", "Origin", "Wire"]

KEEPALIVE_SECONDS = 60.0
READ_SIZE = 256 * 1024
# A kept connection that the server had closed fails within a round trip. What fails later may have been worked on.
STALE_SECONDS = 2.0
HEAD_END = re.compile(rb"\n\r?\n")

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
        self._busy = self._closed = False

    def begin(self, deadline: float | None) -> None:
        """Prepare for the next request."""
        self.deadline = deadline
        self.unread = b""
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

    def was_stale(self, error: httpx.TransportError) -> bool:
        """Return whether a request failed because the server had closed this kept connection before it came."""
        broken = isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError))
        return broken and self.reused and not self._received and monotonic() - self._begun < STALE_SECONDS

    async def connect_tcp(
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
            stream = await network_backend().connect_tcp(host, port, timeout, local_address, socket_options)
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(str(error)) from error
        self._stream = stream
        return self

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> NetworkStream:
        assert self._stream is not None
        try:
            timeout = _clipped(timeout, self._connect_deadline, httpcore.ConnectTimeout)
            self._stream = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException as error:
            with shield():
                await self.aclose()
            if isinstance(error, OSError):
                raise httpcore.ConnectError(str(error)) from error
            raise
        return self

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        timeout = _clipped(timeout, self.deadline, httpcore.WriteTimeout)
        stream = self._use(httpcore.WriteError)
        try:
            await stream.write(buffer, timeout)
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error
        finally:
            self._busy = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what h11 may see next."""
        if self._in_head:
            if self._head_deadline is None and timeout is not None:
                self._head_deadline = monotonic() + timeout
            data = self.take_unread() or await self.receive(
                _clipped(timeout, self._head_deadline, httpcore.ReadTimeout)
            )
            end = HEAD_END.search(self._tail + data)
            cut = len(data) if end is None else end.end() - len(self._tail)
            self._tail = b"" if end else (self._tail + data)[-2:]
        else:
            data = self.take_unread() or await self.receive(timeout)
            cut = len(data) if self._left is None else self._left
            if self._left is not None:
                self._left -= min(cut, len(data))
        self.unread = data[cut:]
        return data[:cut]

    def take_unread(self) -> bytes:
        """Return what came and was not yet taken."""
        data, self.unread = self.unread, b""
        return data

    async def receive(self, timeout: float | None) -> bytes:
        """Return what the network gives next, b"" at its end."""
        if self.deadline is not None:
            timeout = _clipped(timeout, self.deadline, httpcore.ReadTimeout)
        stream = self._use(httpcore.ReadError)
        try:
            data = await stream.read(READ_SIZE, timeout)
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error
        finally:
            self._busy = False
        if data:
            self._received = True
        return data

    def _use(self, failure: type[Exception]) -> NetworkStream:
        """Return the stream, marked as in use until `_busy` is reset."""
        self._busy = True
        if self._closed or self._stream is None:
            raise failure("the connection was closed")
        return self._stream

    async def aclose(self) -> None:
        """Close the connection; a task or thread that waits for it is woken."""
        self._closed = True
        if self._stream is not None and may_close(self._stream, self._home, self._busy):
            await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        if self._stream is None:
            return info == "is_readable" or None
        found = self._stream.get_extra_info(info)
        if info == "is_readable" and not found:
            # TLS may have taken the bytes from the socket already. A blocking SSLSocket takes no more than it gives.
            tls = self._stream.get_extra_info("ssl_object")
            if isinstance(tls, ssl.SSLObject):
                try:
                    tls.read(1)
                except ssl.SSLError as error:
                    return not isinstance(error, ssl.SSLWantReadError)
                return True
        return found


def _clipped(timeout: float | None, deadline: float | None, failure: type[Exception]) -> float | None:
    """Return the seconds that `timeout` and `deadline` both leave; raises `failure` where none are left."""
    if deadline is None:
        return timeout
    left = deadline - monotonic()
    if left <= 0:
        raise failure("timed out")
    return left if timeout is None else min(left, timeout)
