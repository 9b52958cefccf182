"""What I/O means in the blocking world. Written by hand, as is its twin `_async/_backend.py`."""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from ..http_library import httpcore, httpx

if TYPE_CHECKING:
    from ..retry import Retries

__all__ = [
    "MAY_AWAIT",
    "BaseTransport",
    "ByteStream",
    "Client",
    "HTTPConnection",
    "HTTPTransport",
    "NetworkBackend",
    "NetworkStream",
    "Signal",
    "call_function",
    "call_in_thread",
    "close_at_end",
    "close_soon",
    "handle",
    "httpcore",
    "httpx",
    "may_close",
    "network_backend",
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
HTTPConnection = httpcore.HTTPConnection
NetworkBackend = httpcore.NetworkBackend
NetworkStream = httpcore.NetworkStream
sleep = time.sleep
shield = contextlib.nullcontext[None]


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
    """Wakes one thread, from whichever other; set before the wait, it ends the wait at once."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Wake the thread."""
        self._event.set()

    def wait(self, seconds: float | None) -> None:
        """Wait for `set`, or for `seconds` (None: for ever)."""
        self._event.wait(seconds)


def call_in_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call `function`: the blocking world is already in a thread that may wait."""
    return function(*arguments)


call_function = call_in_thread


class network_backend(httpcore.SyncBackend):
    """What opens network connections: `timeout` bounds all addresses of a host together, not each of them.

    The time that the system needs to look up a name is not bounded: only the system's resolver could do that.
    """

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> NetworkStream:
        give_up = None if timeout is None else time.monotonic() + timeout
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        while True:
            address = addresses.pop(0)
            if give_up is not None:
                timeout = max(give_up - time.monotonic(), 0.001) / (len(addresses) + 1)
            try:
                return super().connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not addresses:
                    raise


def handle(handler: Any, request: Any) -> Any:
    """Have a transport of httpx or a connection of httpcore answer a request of its library."""
    return handler.handle_request(request)


def may_close(stream: NetworkStream, home: Any, busy: bool) -> bool:
    """Return whether `stream` can be closed from here; else the thread that uses it is woken, and closes it.

    Closing a socket does not wake the thread that waits for it, and its number may soon be another socket's. In a
    forked child no thread is left to wake, and the connection is still the parent's: only the child's copy is closed.
    """
    if not busy or home is not scope():
        return True
    with contextlib.suppress(OSError):
        # Not SSLSocket.shutdown: that takes the TLS layer from under the thread.
        socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)
    return False


def within(deadline: float | None, result: Result) -> Result:
    """Return `result`, which has come: a thread that waits in httpx's own transport has the waits' timeouts alone."""
    return result


def retrying(retries: Retries) -> Any:
    """Return tenacity's driver of further tries: it calls, waits and calls again as `retries` decides.

    Where tenacity is not installed, a loop does the same.
    """
    try:
        import tenacity
    except ImportError:
        return functools.partial(_call_again, retries)
    return tenacity.Retrying(
        sleep=sleep,
        retry=tenacity.retry_if_exception(retries.allows),
        wait=lambda _: retries.wait,
        reraise=True,
    )


def _call_again(retries: Retries, attempt: Callable[[], Any]) -> Any:
    while True:
        try:
            return attempt()
        except Exception as error:
            if not retries.allows(error):
                raise
        sleep(retries.wait)


def close_soon(close: Callable[[], None]) -> None:
    """Call `close` now."""
    close()


def close_at_end(close: Callable[[], None]) -> Any:
    """Do nothing: the sockets of a process end with it."""
