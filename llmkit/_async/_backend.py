"""What I/O means in the async world, asyncio and trio alike. Written by hand, as is its twin `_sync/_backend.py`."""

from __future__ import annotations

import contextlib
import inspect
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread

from ..http_library import httpx, load_httpcore
from ..network import READ_SIZE, holds_bytes, is_readable

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

MAY_AWAIT = True
Client = httpx.AsyncClient
HTTPTransport = httpx.AsyncHTTPTransport
BaseTransport = httpx.AsyncBaseTransport
ByteStream = httpx.AsyncByteStream
call_in_thread = anyio.to_thread.run_sync
sleep = anyio.sleep
_closing: set[Any] = set()


def scope() -> Any:
    """Return what a connection cannot outlive: the running event loop."""
    token = anyio.lowlevel.current_token()
    # Before anyio 4.11 the token is the event loop, or trio's own token, itself.
    return getattr(token, "native_token", token)


class Signal:
    """Wakes one task, from whichever thread or event loop; set before the wait, it ends the wait at once."""

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._home = scope()

    def set(self) -> None:
        """Wake the task."""
        _call_in(self._home, self._event.set)

    async def wait(self, seconds: float | None) -> None:
        """Wait for `set`, or for `seconds` (None: for ever)."""
        with anyio.move_on_after(seconds):
            await self._event.wait()


def shield() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which clean-up may await although its task is cancelled."""
    return anyio.CancelScope(shield=True)


async def call_function(function: Callable[[], Any]) -> Any:
    """Call a function of the caller's: an async one here, any other in a thread, since it may block."""
    if inspect.iscoroutinefunction(function):
        return await function()
    # In a list, since trio wants no awaitable as the result of a thread.
    (result,) = await call_in_thread(lambda: [function()])
    return await result if inspect.isawaitable(result) else result


async def connect(
    host: str, port: int, tls: ssl.SSLContext | None, seconds: float | None, options: Sequence[tuple[int, int, int]]
) -> Any:
    """Return a connection under the running event loop; `seconds` bounds all of it, the TLS handshake too."""
    if type(scope()).__module__.startswith("trio."):
        return await _connect_trio(host, port, tls, seconds, options)
    from .. import asyncio_stream

    return await asyncio_stream.connect(host, port, tls, seconds, options)


async def _connect_trio(
    host: str, port: int, tls: ssl.SSLContext | None, seconds: float | None, options: Sequence[tuple[int, int, int]]
) -> _TrioStream:
    httpcore = load_httpcore()
    give_up = None if seconds is None else time.monotonic() + seconds
    try:
        backend: Any = httpcore.TrioBackend()
        stream = await backend.connect_tcp(host, port, seconds, None, options)
        if tls:
            try:
                left = None if give_up is None else max(give_up - time.monotonic(), 0.0)
                stream = await stream.start_tls(tls, host, left)
            except BaseException:
                with shield():
                    await stream.aclose()
                raise
    except httpcore.TimeoutException as error:
        raise TimeoutError from error
    return _TrioStream(stream, httpcore.TimeoutException)


class _TrioStream:
    """A stream of httpcore's for trio, with what the other worlds' streams have."""

    def __init__(self, stream: Any, too_late: type[Exception]) -> None:
        self._stream = stream
        self._too_late = too_late
        self._socket = stream.get_extra_info("socket")
        self._tls = stream.get_extra_info("ssl_object")
        self.get_extra_info = stream.get_extra_info
        self.aclose = stream.aclose

    async def read(self, seconds: float | None) -> bytes:
        try:
            data: bytes = await self._stream.read(READ_SIZE, seconds)
        except self._too_late as error:
            raise TimeoutError from error
        return data

    async def write(self, data: bytes, seconds: float | None) -> None:
        try:
            await self._stream.write(data, seconds)
        except self._too_late as error:
            raise TimeoutError from error

    def is_readable(self) -> bool:
        return is_readable(self._socket) or (self._tls is not None and holds_bytes(self._tls))


def handle(handler: Any, request: Any) -> Awaitable[Any]:
    """Have a transport of httpx answer a request."""
    answer: Awaitable[Any] = handler.handle_async_request(request)
    return answer


def may_close(stream: Any, home: Any, busy: bool) -> bool:
    """Return whether `stream` can be closed from here: its event loop, `home`, must be the running one."""
    return home is scope()


def bounded(seconds: float, response: httpx.Response) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which waits for the body of `response` end after `seconds`."""
    return anyio.move_on_after(seconds)


async def within(deadline: float | None, result: Awaitable[Any]) -> Any:
    """Return `result`; raises `httpx.ReadTimeout` at `deadline`, a time of `time.monotonic()`, or None for no bound."""
    if deadline is None:
        return await result
    with anyio.move_on_after(deadline - time.monotonic()):
        return await result
    raise httpx.ReadTimeout("timed out")


def retrying(retries: Retries) -> Any:
    """Return tenacity's driver of further tries: it calls, waits and calls again as `retries` decides.

    None where tenacity is not installed.
    """
    try:
        import tenacity  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    return tenacity.AsyncRetrying(
        sleep=sleep,
        retry=tenacity.retry_if_exception(retries.allows),
        wait=lambda _: retries.wait,
        reraise=True,
    )


def close_soon(close: Callable[[], Awaitable[None]], home: Any) -> None:
    """Have `close` awaited by the event loop `home`, from any thread; one that has ended has closed all it had.

    The garbage collector runs in whichever thread it likes.
    """

    async def closing() -> None:
        with shield():
            await close()

    def begin() -> None:
        if asynclib == "trio":
            sys.modules["trio"].lowlevel.spawn_system_task(closing)
            return
        task = home.create_task(closing())
        # The loop itself holds tasks weakly.
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    asynclib = type(home).__module__.partition(".")[0]
    try:
        here = scope()
    except RuntimeError:
        here = None
    if here is home:
        with contextlib.suppress(RuntimeError):  # trio is about to end
            begin()
    else:
        _call_in(home, begin)


def _call_in(home: Any, function: Callable[[], None]) -> None:
    """Have an event loop call a function, from any thread."""
    # asyncio's name for it, and trio's.
    soon = getattr(home, "call_soon_threadsafe", None) or home.run_sync_soon
    with contextlib.suppress(RuntimeError):  # the event loop has ended
        soon(function)


async def close_at_end(close: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    """Have `close` awaited when the running event loop ends; the caller keeps what is returned until then.

    `asyncio.run` and `trio.run` both finish suspended async generators before they close their loop.
    """

    async def closing() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            with shield():
                await close()

    generator = closing()
    await anext(generator)
    return generator
