"""What I/O means in the async world, under asyncio and trio alike. Written by hand, as is its twin `_sync/_backend.py`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx

__all__ = ["Client", "HTTPTransport", "call_in_thread", "close_at_end", "close_soon", "scope", "shield", "sleep"]

Client = httpx.AsyncClient
HTTPTransport = httpx.AsyncHTTPTransport
call_in_thread = anyio.to_thread.run_sync
sleep = anyio.sleep
_closing: set[Any] = set()


def scope() -> Any:
    """Return what a connection cannot outlive: the running event loop."""
    return anyio.lowlevel.current_token().native_token


def shield() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which clean-up may await although its task is cancelled."""
    return anyio.CancelScope(shield=True)


def close_soon(close: Callable[[], Awaitable[None]]) -> None:
    """Have `close` awaited by the running event loop; without one there is nothing left to close it with."""

    async def closing() -> None:
        with shield():
            await close()

    try:
        asynclib = type(scope()).__module__.partition(".")[0]
    except RuntimeError:
        return
    if asynclib == "trio":
        sys.modules["trio"].lowlevel.spawn_system_task(closing)
    else:
        task = sys.modules["asyncio"].get_running_loop().create_task(closing())
        # The loop itself holds tasks weakly.
        _closing.add(task)
        task.add_done_callback(_closing.discard)


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
