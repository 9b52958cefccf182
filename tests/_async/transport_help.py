"""What the tests of the transport share."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from typing import Any

import trustme

from llmkit._async._backend import call_in_thread, handle, httpx
from llmkit._async.transport import AsyncTransport

from ..server import Connection, Server, head, raw_reply

CHUNKED = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
HELLO = [CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"]
TIMEOUTS = {"connect": 10.0, "read": 10.0, "write": 10.0, "pool": 10.0}
SECOND = raw_reply(b"not asked for")[0]


def request(url: str, method: str = "POST", content: Any = b"{}", **extensions: Any) -> httpx.Request:
    return httpx.Request(method, url, content=content, extensions={"timeout": TIMEOUTS, **extensions})


async def read(response: httpx.Response) -> bytes:
    return b"".join([piece async for piece in response.stream])


async def ask(http: Any, url: str, **options: Any) -> bytes:
    """Send a request, and return the whole body."""
    return await read(await handle(http, request(url, **options)))


def idle(http: AsyncTransport) -> int:
    """Return how many connections wait for a request, where none is in use."""
    assert not http._active
    return sum(len(stack) for stack in http._idle.values())


class RawServer(Server):
    """A server that does what a function does with a connection, and reads no request."""

    def __init__(self, behave: Callable[[Connection], Any]) -> None:
        super().__init__()
        self._behave = behave

    def _serve(self, connection: Connection) -> None:
        with connection.socket:
            self._behave(connection)


class TLSServer(Server):
    """The same over TLS, with a certificate for 127.0.0.1; `options` are those of trustme's `issue_cert`."""

    def __init__(self, authority: trustme.CA, *script: Any, name: str = "127.0.0.1", **options: Any) -> None:
        super().__init__(*script)
        self.url = self.url.replace("http:", "https:")
        self.base_url = f"{self.url}/v1"
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name, **options).configure_cert(self.context)

    def _serve(self, connection: Connection) -> None:
        try:
            connection.socket = self.context.wrap_socket(connection.socket, server_side=True)
        except OSError:
            connection.gone.set()
            return
        self._run(connection)

    def _run(self, connection: Connection) -> None:
        super()._serve(connection)


async def closed_by_server(http: AsyncTransport, number: int = 0) -> None:
    """Wait until the end that the server sent has come to an idle connection."""
    (stack,) = http._idle.values()
    until = time.monotonic() + 10
    while not stack[number].get_extra_info("is_readable"):
        assert time.monotonic() < until
        await call_in_thread(time.sleep, 0.001)
