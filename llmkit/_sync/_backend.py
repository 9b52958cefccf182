"""What I/O means in the blocking world. Written by hand, as is its twin `_async/_backend.py`."""

from __future__ import annotations

import atexit
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

from ..http_library import httpx
from ..network import READ_SIZE, is_readable, seconds_left

if TYPE_CHECKING:
    import ssl

    from ..retry import Retries

__all__ = [
    "MAY_AWAIT",
    "BaseTransport",
    "ByteStream",
    "Client",
    "HTTPTransport",
    "Signal",
    "bounded",
    "call_function",
    "call_in_thread",
    "close_at_end",
    "close_soon",
    "connect",
    "handle",
    "httpx",
    "may_close",
    "retrying",
    "scope",
    "shield",
    "sleep",
    "within",
]

Result = TypeVar("Result")
MAY_AWAIT = False
Client = httpx.Client
HTTPTransport = httpx.HTTPTransport
BaseTransport = httpx.BaseTransport
ByteStream = httpx.SyncByteStream
sleep = time.sleep
shield = contextlib.nullcontext[None]
_open: WeakSet[Any] = WeakSet()


class _Process:
    """One object per process: a forked child gets its own."""


_scope = _Process()


def scope() -> Any:
    """Return what a connection cannot outlive: this process, and not the child that it forks."""
    return _scope


def _forked() -> None:
    global _scope
    _scope = _Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class Signal:
    """Wakes one thread, from whichever other, once; set before the wait, it ends the wait at once.

    A bare lock: the garbage collector may set the signal in the very thread that is about to wait, and would wait for
    ever for the lock inside a `threading.Event`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Wake the thread."""
        with contextlib.suppress(RuntimeError):  # it was set before
            self._lock.release()

    def wait(self, seconds: float | None) -> None:
        """Wait for `set`, or for `seconds` (None: for ever)."""
        self._lock.acquire(timeout=-1 if seconds is None else min(seconds, threading.TIMEOUT_MAX))


def call_in_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call `function`: the blocking world is already in a thread that may wait."""
    return function(*arguments)


call_function = call_in_thread


def connect(
    host: str, port: int, tls: ssl.SSLContext | None, seconds: float | None, options: Sequence[tuple[int, int, int]]
) -> Stream:
    """Return a connection; `seconds` bounds all addresses of a host together, and the TLS handshake.

    The time that the system needs to look up a name is not bounded: only the system's resolver could do that.
    """
    give_up = None if seconds is None else time.monotonic() + seconds

    def left() -> float | None:
        return _waitable(None if give_up is None else give_up - time.monotonic())

    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    while True:
        address, share = addresses.pop(0), left()
        try:
            connected = socket.create_connection((address, port), share and share / (len(addresses) + 1))
            break
        except OSError:
            if not addresses:
                raise
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in options:
            connected.setsockopt(*option)
        connected.settimeout(left())
        return Stream(tls.wrap_socket(connected, server_hostname=host) if tls else connected)
    except BaseException:
        connected.close()
        raise


class Stream:
    """A network connection. Waits last at most `seconds`, None for ever; TimeoutError is raised then."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected

    def read(self, seconds: float | None) -> bytes:
        """Return what has come, as soon as there is any; b"" at the end."""
        self.socket.settimeout(_waitable(seconds))
        return self.socket.recv(READ_SIZE)

    def write(self, data: bytes, seconds: float | None) -> None:
        """Send all of `data`."""
        give_up = None if seconds is None else time.monotonic() + seconds
        unsent = memoryview(data)
        while unsent:
            self.socket.settimeout(_waitable(seconds_left(give_up)))
            unsent = unsent[self.socket.send(unsent) :]

    def close(self) -> None:
        """Close at once."""
        self.socket.close()

    def is_readable(self) -> bool:
        """Return whether bytes or the end are there to be read."""
        return is_readable(self.socket)

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore's streams know under `info`, None for what they do not know."""
        names = {"client_addr": "getsockname", "server_addr": "getpeername"}
        if info in names:
            return getattr(self.socket, names[info])()
        found = info == "socket" or (info == "ssl_object" and hasattr(self.socket, "cipher"))
        return self.socket if found else None


def _waitable(seconds: float | None) -> float | None:
    """Return seconds that a socket can wait: 0 would not wait, and too many are refused."""
    return None if seconds is None else min(max(seconds, 0.001), threading.TIMEOUT_MAX)


def handle(handler: Any, request: Any) -> Any:
    """Have a transport of httpx answer a request."""
    return handler.handle_request(request)


def may_close(stream: Stream, home: Any, busy: bool) -> bool:
    """Return whether `stream` can be closed from here; else the thread that uses it is woken, and closes it.

    Closing a socket does not wake the thread that waits for it, and its number may soon be another socket's. In a
    forked child no thread is left to wake, and the connection is still the parent's: only the child's copy is closed.
    """
    if not busy or home is not scope():
        return True
    _cut(stream.socket)
    return False


@contextlib.contextmanager
def bounded(seconds: float, response: httpx.Response) -> Iterator[None]:
    """Return a context in which waits for the body of `response` end after `seconds`: its connection is cut then.

    That is left out where the connection serves others, too (HTTP/2), and where there is none.
    """
    stream = response.extensions.get("network_stream")
    shared = response.is_closed or response.http_version == "HTTP/2"
    connected = None if stream is None or shared else stream.get_extra_info("socket")
    if connected is None:
        yield
        return
    timer = threading.Timer(seconds, _cut, [connected])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(connected: socket.socket) -> None:
    with contextlib.suppress(OSError):
        # Not SSLSocket.shutdown: that takes the TLS layer from under the thread that reads.
        socket.socket.shutdown(connected, socket.SHUT_RDWR)


def within(deadline: float | None, result: Result) -> Result:
    """Return `result`, which has come: a thread that waits in httpx's own transport has the waits' timeouts alone."""
    return result


def retrying(retries: Retries) -> Any:
    """Return tenacity's driver of further tries: it calls, waits and calls again as `retries` decides.

    None where tenacity is not installed.
    """
    try:
        import tenacity  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    return tenacity.Retrying(
        sleep=sleep,
        retry=tenacity.retry_if_exception(retries.allows),
        wait=lambda _: retries.wait,
        reraise=True,
    )


def close_soon(close: Callable[[], None], home: Any) -> None:
    """Call `close` now; any thread may."""
    close()


def close_at_end(close: Callable[[], None]) -> Any:
    """Have `close`, a method, called when the interpreter ends, unless its object is gone by then."""
    _open.add(close.__self__)  # type: ignore[attr-defined]


def _close_all() -> None:
    if threading.active_count() > 1:
        # A daemon thread would print that its connection was closed under it. The system closes it with the process.
        return
    for transport in list(_open):
        transport.close()


atexit.register(_close_all)
