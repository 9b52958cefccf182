"""A network connection under asyncio: what arrives is kept here until it is read. Imports network; knows no HTTP.

It is a protocol of asyncio's own, without the layers of a library for several event loops: a read that has to wait
costs one future, and no change to what the loop watches.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
from collections.abc import Callable, Sequence
from itertools import zip_longest
from time import monotonic
from typing import Any

from .network import READ_SIZE, holds_bytes, is_readable, seconds_left

__all__ = ["AsyncioStream", "TLSStream", "connect"]

# RFC 8305 §8.
NEXT_ADDRESS_SECONDS = 0.25
# Memory to read into. A stream holds some only while bytes are on their way to it, so a few serve thousands.
_spare: list[memoryview] = []


async def connect(
    host: str, port: int, tls: ssl.SSLContext | None, seconds: float | None, options: Sequence[tuple[int, int, int]]
) -> AsyncioStream | TLSStream:
    """Return a connection; `seconds` bounds all of it, the TLS handshake too."""
    literal = ":" in host or host.replace(".", "").isdigit()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds):
        place: Any = {"host": host, "port": port} if literal else {"sock": await _first_connected(loop, host, port)}
        _, stream = await loop.create_connection(AsyncioStream, **place)
        try:
            for option in options:
                stream.get_extra_info("socket").setsockopt(*option)
            if tls is None:
                return stream
            encrypted = TLSStream(stream, tls, host)
            await encrypted.shake_hands()
        except BaseException:
            await stream.aclose()
            raise
    return encrypted


async def _first_connected(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """Return a socket that is connected to the first address of a name that answers: one of them may be dead.

    So has it RFC 8305 §5, and asyncio with `happy_eyeballs_delay`: but that leaves it to the garbage collector to close
    a socket whose task is cancelled as it connects.
    """
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    families = [[each for each in found if each[0] == family] for family in dict.fromkeys(each[0] for each in found)]
    places = [place for turn in zip_longest(*families) for place in turn if place]
    attempts: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException | None = None
    try:
        for number, place in enumerate(places, 1):
            attempts.add(loop.create_task(_connected(loop, place)))
            delay = NEXT_ADDRESS_SECONDS if number < len(places) else None
            while attempts:
                done, _ = await asyncio.wait(attempts, timeout=delay, return_when=asyncio.FIRST_COMPLETED)
                for attempt in done:
                    failure = attempt.exception()
                    attempts.discard(attempt)
                    if failure is None:
                        return attempt.result()
                if delay:
                    break
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close_late)
    raise failure or OSError(f"{host} has no address")


async def _connected(loop: asyncio.AbstractEventLoop, place: tuple[Any, ...]) -> socket.socket:
    connected = socket.socket(*place[:3])
    try:
        connected.setblocking(False)
        await loop.sock_connect(connected, place[4])
    except BaseException:
        connected.close()
        raise
    return connected


def _close_late(attempt: asyncio.Task[socket.socket]) -> None:
    """Close the socket of an attempt that nobody waits for any more."""
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()


class AsyncioStream(asyncio.BufferedProtocol):
    """Reads and writes for one task at a time; any task of the loop may close it, which wakes the one that waits.

    Waits last at most `seconds`, None for ever; TimeoutError is raised then, OSError when the connection breaks.
    """

    _transport: Any

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer: memoryview | None = None
        self._received = b""
        self._ended = self._full = self._clogged = False
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._give_up_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, seconds: float | None) -> bytes:
        """Return what has come, as soon as there is any; b"" at the end."""
        if not self._received and not self._ended:
            give_up_at = self._end_of(seconds)
            while not self._received and not self._ended:
                await self._wait(give_up_at)
        data, self._received = self._received, b""
        if self._full:
            self._full = False
            self._transport.resume_reading()
        if self._failure and not data:
            raise self._failure
        return data

    async def write(self, data: bytes, seconds: float | None) -> None:
        """Send `data`; returns when the last of it is on its way or among the few KiB that the loop still has."""
        self.send(data)
        if self._clogged:
            give_up_at = self._end_of(seconds)
            while self._clogged and not self._ended:
                await self._wait(give_up_at)
        if self._failure:
            raise self._failure

    def send(self, data: bytes) -> None:
        """Begin to send `data`, and wait for nothing."""
        self._transport.write(data)

    def abort(self) -> None:
        """Have the loop close the socket in its next round; nothing more is sent."""
        if self._timer:
            self._timer.cancel()
        self._transport.abort()

    async def aclose(self) -> None:
        """Close at once."""
        self.abort()
        await asyncio.sleep(0)

    def is_readable(self) -> bool:
        """Return whether bytes or the end are there to be read, or in the socket."""
        return bool(self._received) or self._ended or is_readable(self.get_extra_info("socket"))

    def get_extra_info(self, info: str) -> Any:
        """Return what asyncio knows under `info`, also under httpcore's names for addresses."""
        return self._transport.get_extra_info({"server_addr": "peername", "client_addr": "sockname"}.get(info, info))

    def _end_of(self, seconds: float | None) -> float:
        return math.inf if seconds is None else self._loop.time() + seconds

    async def _wait(self, give_up_at: float) -> None:
        """Wait until something happens to the connection."""
        if self._waiter:
            raise RuntimeError("another task waits for this connection already")
        self._give_up_at = give_up_at
        # A timer that is set already goes on when it is over: setting one for each wait takes longer.
        if self._timer is None or self._give_up_at < self._timer.when():
            self._set_timer()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _set_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
        timed = self._give_up_at < math.inf
        self._timer = self._loop.call_at(self._give_up_at, self._time_is_up) if timed else None

    def _time_is_up(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return
        if self._loop.time() < self._give_up_at:
            self._set_timer()
        else:
            self._waiter.set_exception(TimeoutError())

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._buffer is None:
            try:
                self._buffer = _spare.pop()
            except IndexError:
                self._buffer = memoryview(bytearray(READ_SIZE))
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        buffer = self.get_buffer(nbytes)
        self._received += buffer[:nbytes].tobytes()
        _spare.append(buffer)
        self._buffer = None
        if len(self._received) >= READ_SIZE and not self._full:
            self._full = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        return True  # the other direction stays open

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._failure = exc
        self._wake()

    def pause_writing(self) -> None:
        self._clogged = True

    def resume_writing(self) -> None:
        self._clogged = False
        self._wake()


class TLSStream:
    """TLS over a stream, for which OpenSSL is asked directly: asyncio's own layer takes 256 KiB for each connection."""

    def __init__(self, stream: AsyncioStream, context: ssl.SSLContext, host: str) -> None:
        self._stream = stream
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self.aclose = stream.aclose

    async def shake_hands(self) -> None:
        """Do the handshake; raises ssl.SSLError, also where the peer's certificate is not trusted."""
        await self._do(None, self._tls.do_handshake)

    async def read(self, seconds: float | None) -> bytes:
        """Return what has come, as soon as there is any; b"" at the end, whether TLS was told of it or not."""
        try:
            data: bytes = await self._do(seconds, self._tls.read, READ_SIZE)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""
        # OpenSSL gives one record at a time. What goes wrong with a later one goes wrong again in the next read.
        with contextlib.suppress(ssl.SSLError):
            more = data
            while more and self._incoming.pending and len(data) < READ_SIZE:
                more = self._tls.read(READ_SIZE)
                data += more
        return data

    async def write(self, data: bytes, seconds: float | None) -> None:
        """Send `data`, as the stream does."""
        await self._do(seconds, self._tls.write, data)

    def is_readable(self) -> bool:
        """Return whether bytes or the end are there to be read."""
        return self._stream.is_readable() or holds_bytes(self._tls)

    def get_extra_info(self, info: str) -> Any:
        """Return what asyncio and httpcore know under `info`."""
        return self._tls if info == "ssl_object" else self._stream.get_extra_info(info)

    async def _do(self, seconds: float | None, call: Callable[..., Any], *arguments: Any) -> Any:
        """Return what OpenSSL returns, once it has been given the records that it wants and its own are sent."""
        # A record may come in any number of reads.
        give_up_at = None if seconds is None else monotonic() + seconds
        while True:
            result, wanting = None, False
            try:
                result = call(*arguments)
            except ssl.SSLWantReadError:
                wanting = True
            except ssl.SSLError:
                # The alert, by which the peer learns what is wrong.
                self._stream.send(self._outgoing.read())
                raise
            if self._outgoing.pending:
                await self._stream.write(self._outgoing.read(), seconds_left(give_up_at))
            if not wanting:
                return result
            received = await self._stream.read(seconds_left(give_up_at))
            if received:
                self._incoming.write(received)
            else:
                self._incoming.write_eof()
