# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""The body of one streamed answer as lists of events, with its times and bounds."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

from ..config import LLMConfig
from ..errors import LLMProviderConnectionError, LLMProviderError, LLMProviderStreamError, LLMProviderTimeoutError
from ..events import Event, is_output
from ..failures import error_from_exception, error_in_text
from ..sse import EventTooLargeError, ServerSentEvent, ServerSentEventParser
from ..traffic import Traffic
from ..wire import StreamDecoder
from ._backend import httpx, scope, shield, within
from .body import DRAIN_SECONDS, body_pieces, drain

if TYPE_CHECKING:
    from ..hooks import CallRecord
    from ..limits import Ticket
    from .caching import SyncKeep

__all__ = ["SyncEventReader"]

REST_BYTES: Final = 65536
"""How much is kept of what is no event, for the words of a service that answers with JSON or HTML instead."""


class SyncEventReader:
    """Reads an open answer: `read` gives the next events, [] once the answer is complete, or raises.

    What came before a failure is given first. After the end or a failure the connection is released, and with it the
    `ticket` of a provider with limits. `record` is the call's; `keep` puts the whole answer in the provider's cache;
    `left` is how many bytes may still come.
    """

    def __init__(
        self,
        response: httpx.Response,
        decoder: StreamDecoder,
        config: LLMConfig,
        deadline: float | None,
        metadata: dict[str, Any],
    ) -> None:
        self.decoder = decoder
        self.metadata = metadata
        self.closed = False
        self.home = scope()
        self.left = config.max_stream_bytes
        self.record: CallRecord
        self.keep: SyncKeep | None = None
        self.ticket: Ticket | None = None
        self._response = response
        self._config = config
        self._deadline = deadline
        self._parser = ServerSentEventParser(max_event_bytes=config.max_event_bytes)
        # The body of llmkit's own transport: it can be told when to give up, and to read on to its end.
        wire = response.extensions.get("network_stream")
        self._wire = wire if hasattr(wire, "drain") else None
        # Where one read of a connection gives a piece, the request's timeout ends it: not in HTTP/2, whose frames need
        # bear no data, nor decompressed, nor in a mock transport, which knows no time.
        plain = response.http_version == "HTTP/1.1" and "content-encoding" not in response.headers
        self._longest_wait = config.timeout if wire and plain and deadline is None else math.inf
        self._pieces: Iterator[bytes] = body_pieces(response)
        self._traffic: Traffic | None = response.extensions.get("traffic")
        self._reading = False
        self._until = 0.0
        self._rest = b""
        self._seen_event = False
        self._failure: LLMProviderError | None = None
        self._ahead: list[Event] = []

    def start(self) -> None:
        """Read up to the first output, which `read` then gives: a failure before it may be tried again."""
        ahead: list[Event] = []
        while events := self.read():
            ahead += events
            if any(is_output(event) for event in events):
                break
        self._ahead = ahead

    def read(self) -> list[Event]:
        """Return the next events, [] at the end; raises LLMProviderError once what came before it was read."""
        if self._ahead:
            ahead, self._ahead = self._ahead, []
            return ahead
        # What the caller takes to handle an event is no wait for the next one.
        now = time.monotonic()
        until = now + self._config.idle_timeout
        self._until = until if self._deadline is None or until < self._deadline else self._deadline
        while not self.closed:
            piece = self._next_piece(now)
            if not piece:
                if piece is not None:
                    now = time.monotonic()
                    continue
                piece = b""
            if self._traffic:
                self._traffic.receive(piece)
            events = self._decode(piece)
            if self._failure or self.decoder.finished:
                # Not lost where the wait for the end of the body is cancelled.
                self._ahead = events
                self._finish(piece)
                self._ahead = []
            if events:
                return events
            now = time.monotonic()
        if self._failure:
            raise self._failure
        return []

    def close(self) -> None:
        """Release the connection; before the end of the body it is closed, not reused."""
        if not self.closed:
            self.closed = True
            if self._traffic:
                self._traffic.end()
            if self.ticket:
                self.ticket.release()
            with shield():
                self._response.close()
                if self._pieces is not self._wire and not self._reading:
                    # httpx's generators are nested: closing the outer one would leave the inner ones suspended.
                    # Reading on makes all of them fail.
                    drain(self._pieces, self._response)

    def _decode(self, piece: bytes) -> list[Event]:
        """Return the events of a piece of the body (b"": of its end); sets `_failure`."""
        events: list[Event] = []
        parser, decoder = self._parser, self.decoder
        try:
            received = parser.feed(piece)
            if parser.invalid_utf8:
                received = _before_broken(received)
            if received:
                self._rest, self._seen_event = piece, True
                events = decoder.feed(received)
            elif piece:
                self._keep(piece)
            elif not decoder.failure and not decoder.finished:
                pending = parser.close()
                events += decoder.end(None if parser.invalid_utf8 else pending)
                if decoder.finished:
                    # The answer was complete before its connection broke.
                    self._failure = None
        except EventTooLargeError as error:
            self._failure = self._failure or LLMProviderStreamError(str(error), should_retry=False)
        self.left -= len(piece)
        if self.left < 0 and not (decoder.finished or self._failure):
            limit = self._config.max_stream_bytes
            told = f"the stream has more than max_stream_bytes ({limit} bytes)"
            # It is paid for, and would be as large again.
            self._failure = LLMProviderStreamError(told, should_retry=False)
        if parser.invalid_utf8 and not self._failure:
            self._failure = LLMProviderStreamError("the stream holds bytes that are not UTF-8")
        if decoder.failure and not self._failure:
            self._failure = decoder.failure
            if not piece:
                # Some services end a stream with an error as bare JSON, or answer with JSON or HTML from the start.
                self._failure = error_in_text(self._rest, not self._seen_event) or self._failure
        return events

    def _keep(self, piece: bytes) -> None:
        """Keep the beginning of a body without events, and of a stream what came since its last event."""
        if len(self._rest) <= REST_BYTES:
            self._rest += piece
        elif self._seen_event:
            self._rest = piece

    def _next_piece(self, now: float) -> bytes | None:
        """Return the next piece of the body, None at its end; a broken connection is a failure and an end, too."""
        if now >= self._until:
            self._failure = self._too_late()
            return None
        if self._wire:
            self._wire.deadline = self._until
        self._reading = True
        try:
            piece = next(self._pieces, None)
            # A cancel scope for each piece would cost as much as all the rest.
            ends_in_time = self._wire or now + self._longest_wait <= self._until
            return (piece if ends_in_time else within(self._until, piece))
        except Exception as error:
            failure = error_from_exception(error)
            if failure is None:
                raise
        finally:
            self._reading = False
        # Outside of the handler, so that no httpx exception, which knows the request, hangs on ours.
        if isinstance(failure, LLMProviderTimeoutError) and time.monotonic() >= self._until:
            failure = self._too_late()
        elif isinstance(failure, LLMProviderConnectionError) and self._seen_event:
            failure = LLMProviderStreamError(f"the stream was cut: {failure.message}", code=failure.code)
        self._failure = failure
        return None

    def _too_late(self) -> LLMProviderError:
        bound, what = "idle_timeout", "no event came within idle_timeout"
        if self._until == self._deadline:
            bound, what = "deadline", "the call took longer than its deadline"
        seconds = getattr(self._config, bound)
        return LLMProviderTimeoutError(f"{what} ({seconds} s); `partial` has what came", code=bound)

    def _finish(self, piece: bytes) -> None:
        """Release the connection; after a complete answer, read to the end of the body first, so that it is reused."""
        if piece and not self._failure:
            if self._wire:
                self._wire.drain(DRAIN_SECONDS)
            elif self._response.http_version != "HTTP/2":  # whose connection stays when a stream is closed
                drain(self._pieces, self._response)
        self.close()


def _before_broken(received: list[ServerSentEvent]) -> list[ServerSentEvent]:
    """Return the events before the first with invalid UTF-8, where the parser puts U+FFFD; none where it is hidden."""
    unbroken = list(takewhile(lambda event: "\ufffd" not in event[1], received))
    return unbroken if len(unbroken) < len(received) else []
