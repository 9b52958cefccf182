# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""A client that records real exchanges in a file, and replays them from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..cassette import ABANDONED, Cassette, Exchange
from ..scripted.faults import NetworkFailure
from ._backend import BaseTransport, ByteStream, Client, handle, httpx
from .scripted import SyncScriptedBody
from .transport import transport_for

__all__ = ["SyncRecordingTransport", "recording_client"]


def recording_client(cassette: Cassette, transport: Any) -> Client:
    """Return a client that answers from a cassette, or records what `transport` answers (None: llmkit's own)."""
    # Compressed answers could neither be read nor be scrubbed.
    headers = {"accept-encoding": "identity"}
    return Client(transport=SyncRecordingTransport(cassette, transport), headers=headers, trust_env=False)


class SyncRecordingTransport(BaseTransport):
    """Answers from a cassette; what is not in it is sent on and recorded, where the cassette's mode allows that."""

    def __init__(self, cassette: Cassette, transport: Any = None) -> None:
        self._cassette = cassette
        self._transport = transport

    def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the answer, recorded or real, in its pieces."""
        sent = request.method, str(request.url), dict(request.headers), request.content
        played = self._cassette.play(*sent)
        if played:
            end = [NetworkFailure(played.broken, "so it was recorded")] if played.broken else []
            body = SyncScriptedBody([*played.pieces, *end], request)
            return httpx.Response(played.status, headers=played.headers, stream=body)
        if self._transport is None:
            self._transport = transport_for(request.url)
        exchange = self._cassette.record(*sent)
        response = handle(self._transport, request)
        exchange.status, exchange.headers = response.status_code, dict(response.headers)
        recorded = SyncRecordedBody(response.stream, exchange)
        return httpx.Response(response.status_code, headers=response.headers, stream=recorded)

    # The name in the blocking world.
    handle_request = handle_async_request

    def close(self) -> None:
        """Close the transport of the real exchanges."""
        if self._transport is not None:
            self._transport.close()


class SyncRecordedBody(ByteStream):
    """A body whose pieces are recorded as they are read, and its end, whatever that is."""

    def __init__(self, body: Any, exchange: Exchange) -> None:
        self._body = body
        self._pieces: Iterator[bytes] = iter(body)
        self._exchange = exchange

    def __iter__(self) -> SyncRecordedBody:
        return self

    def __next__(self) -> bytes:
        try:
            piece = next(self._pieces)
        except StopIteration:
            self._exchange.finish()
            raise
        except httpx.TransportError as error:
            self._exchange.finish(type(error).__name__)
            raise
        self._exchange.pieces.append(piece)
        return piece

    def close(self) -> None:
        """Release the connection; a body that was not read to its end is recorded as one that breaks there."""
        self._exchange.finish(ABANDONED)
        self._body.close()
