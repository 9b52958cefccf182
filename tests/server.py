"""A scripted HTTP/1.1 server on loopback: real sockets, one thread a connection, no framework. Depends on nothing.

    with Server(json_reply({"ok": True})) as server:
        ...                                  # talk to server.url
        assert server.requests[0].path == "/v1/chat/completions"

A reply is an iterable of steps, which a connection takes one after the other:

    bytes               are sent as they are, a step at a time (a TCP segment each, as long as the client reads)
    threading.Event     is waited for; `server.gate()` makes one that also opens when the server stops
    GONE                waits until the client has closed the connection
    CLOSE               closes the connection (FIN), RESET aborts it (RST)

The functions at the end build the usual replies; a generator makes an endless one.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

__all__ = [
    "CLOSE",
    "GONE",
    "PATIENCE",
    "RESET",
    "Connection",
    "Reply",
    "Request",
    "Server",
    "chunked",
    "event",
    "head",
    "json_reply",
    "pieces",
    "raw_reply",
    "stream_reply",
]

PATIENCE = 10.0
"""Seconds after which a wait that should have ended is a failure, or is given up by the server's threads."""


class _Do(Enum):
    CLOSE = "close the connection"
    RESET = "abort the connection"
    GONE = "wait for the client to go"


CLOSE, RESET, GONE = _Do.CLOSE, _Do.RESET, _Do.GONE
Step = bytes | threading.Event | _Do
Reply = Iterable[Step]


@dataclass(frozen=True)
class Request:
    """What a client sent: header names in lower case, `body` as decoded JSON (else bytes, else None)."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    connection: int
    """Which connection it came on, counted from 0."""


@dataclass
class Connection:
    """One connection of a client; `gone` is set once the client has closed it."""

    socket: socket.socket
    number: int
    gone: threading.Event = field(default_factory=threading.Event)
    buffer: bytes = b""

    def receive(self) -> bool:
        """Read on into `buffer`; return False once the client has closed the connection."""
        try:
            data = self.socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.gone.set()
        self.buffer += data
        return bool(data)

    def request(self) -> Request | None:
        """Return the next request, or None where none comes any more."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.receive():
                return None
        top, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        first, *lines = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        method, path, _ = first.split(" ")
        length = int(headers.get("content-length", 0))
        while len(self.buffer) < length:
            if not self.receive():
                return None
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Request(method, path, headers, _decoded(body), self.number)

    def take(self, step: Step) -> bool:
        """Do one step of a reply; return whether the connection is still open."""
        if isinstance(step, threading.Event):
            step.wait(PATIENCE)
        elif isinstance(step, bytes):
            try:
                self.socket.sendall(step)
            except OSError:
                self.gone.set()
        elif step is GONE:
            while self.receive():
                pass
        else:
            self.close(abort=step is RESET)
            return False
        return not self.gone.is_set()

    def close(self, abort: bool = False) -> None:
        """Close the connection, with RST where `abort`."""
        if abort:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Server:
    """Listens on loopback while its `with` block runs.

    `script` holds the replies to come, in the order of the requests; `default` answers when it is used up. A reply
    may also be a function of the `Request`. A request that nothing answers gets the status 418. `base_url` is what
    to give to a provider.
    """

    def __init__(self, *script: Reply | Callable[[Request], Reply], default: Any = None) -> None:
        self.script = list(script)
        self.default = default
        self.requests: list[Request] = []
        self.connections: list[Connection] = []
        self._gates: list[threading.Event] = []
        self._threads: list[threading.Thread] = []
        self._arrived = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.base_url = f"{self.url}/v1"

    @property
    def bodies(self) -> list[Any]:
        """The bodies of all requests."""
        return [request.body for request in self.requests]

    def add(self, *script: Reply | Callable[[Request], Reply]) -> None:
        """Append replies to the script."""
        self.script += script

    def gate(self) -> threading.Event:
        """Return an event for a reply to wait for; it is set at the latest when the server stops."""
        gate = threading.Event()
        self._gates.append(gate)
        return gate

    def wait_requests(self, count: int) -> bool:
        """Wait until so many requests have come; return whether they did."""
        with self._arrived:
            return self._arrived.wait_for(lambda: len(self.requests) >= count, PATIENCE)

    def wait_gone(self, connection: int = -1) -> bool:
        """Wait until the client has closed a connection, by default the last; return whether it did."""
        return self.connections[connection].gone.wait(PATIENCE)

    def __enter__(self) -> Server:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            # On Linux, closing alone does not wake the thread that accepts.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for gate in self._gates:
            gate.set()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(accepted, len(self.connections))
            self.connections.append(connection)
            self._start(self._serve, connection)

    def _serve(self, connection: Connection) -> None:
        with connection.socket:
            while request := connection.request():
                for step in self._reply_to(request):
                    if not connection.take(step):
                        return

    def _reply_to(self, request: Request) -> Reply:
        with self._arrived:
            self.requests.append(request)
            self._arrived.notify_all()
            reply = self.script.pop(0) if self.script else self.default
        if reply is None:
            return raw_reply(b"the test expects no such request", status=418)
        return reply(request) if callable(reply) else reply


def head(status: int = 200, headers: Mapping[str, str] | None = None, version: str = "1.1") -> bytes:
    """Return status line and headers, with the empty line."""
    lines = [f"HTTP/{version} {status} Status", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    return "\r\n".join([*lines, "", ""]).encode()


def raw_reply(body: bytes, status: int = 200, **headers: str) -> list[Step]:
    """Return a whole answer; `_` in the name of a header stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return [head(status, {"content-length": str(len(body)), **named}) + body]


def json_reply(body: Any, status: int = 200, **headers: str) -> list[Step]:
    """Return a whole answer of JSON."""
    return raw_reply(json.dumps(body).encode(), status, **{"content_type": "application/json", **headers})


def event(data: Any, name: str | None = None) -> bytes:
    """Return one server-sent event; `data` is a string, or what is to be JSON."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def chunked(steps: Iterable[Step]) -> Iterator[Step]:
    """Make a chunk of each step of bytes."""
    for step in steps:
        yield f"{len(step):x}\r\n".encode() + step + b"\r\n" if isinstance(step, bytes) else step


def pieces(data: bytes, size: int) -> list[bytes]:
    """Cut bytes into pieces of a size."""
    return [data[start : start + size] for start in range(0, len(data), size)]


def stream_reply(events: Iterable[Step], *, end: bool = True, **headers: str) -> list[Step]:
    """Return a chunked stream of events; without `end` its body stays open, so a last step should say what then."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    first = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked", **named})
    return [first, *chunked(events), *([b"0\r\n\r\n"] if end else [])]


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body
