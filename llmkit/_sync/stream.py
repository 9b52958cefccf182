# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""An answer while it arrives."""

from __future__ import annotations

import time
from collections.abc import Iterator, Iterator
from types import TracebackType
from typing import Any

from ..call import Call
from ..errors import (
    LLMProviderBadRequestError,
    LLMProviderConnectionError,
    LLMProviderError,
    LLMProviderStreamError,
    LLMProviderTimeoutError,
)
from ..events import Event, TextDelta
from ..http_provider import HTTPProvider
from ..response import LLMResponse, ResponseBuilder
from ..structured import OutputFormat, partial_object, with_parsed
from ._backend import close_soon
from .exchange import SyncExchange
from .reader import SyncEventReader

__all__ = ["SyncStream", "check_keep_text"]

BROKEN = (LLMProviderConnectionError, LLMProviderStreamError, LLMProviderTimeoutError)


class SyncStream:
    """An answer while it arrives: iterate over it for the text, over `events()` for everything.

    with provider.stream("Tell me a story") as stream:
        for text in stream:
            print(text, end="", flush=True)
        response = stream.response()

    The request is sent when the stream is entered or first read. Leaving the `with` block, `close()`, a bare `break`
    out of the loop where there is no `with` block, and what interrupts a wait (a cancellation, Ctrl-C), release the
    connection. Once the first event was read, nothing is tried again: an error then carries the answer so far as
    `partial`.
    """

    def __init__(self, exchange: SyncExchange, provider: HTTPProvider, call: Call, *, keep_text: bool = True) -> None:
        self._exchange = exchange
        self._provider = provider
        self._call = call
        self._reader: SyncEventReader | None = None
        self._builder = ResponseBuilder(keep_text=keep_text)
        self._unread: Iterator[Event] = iter(())
        self._entered = False
        self._resumed_at: tuple[str, int] | None = None

    def __enter__(self) -> SyncStream:
        self._entered = True
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[str]:
        return _AsyncTexts(self)

    def events(self) -> Iterator[Event]:
        """Iterate over the typed events that are still unread."""
        return _AsyncEvents(self)

    def objects(self) -> Iterator[Any]:
        """Iterate over what the JSON text is so far, as dicts and lists, one for all that has arrived together.

        Each is a whole of its own, and unchecked: its last string or number may be cut, and more be missing.
        The checked object is `(stream.response()).parsed`; where that raises, so does the end of this iteration.
        Raises LLMProviderBadRequestError for a stream without `keep_text`.
        """
        if not self._builder.keep_text:
            raise LLMProviderBadRequestError("objects() is made of all the text so far; leave keep_text=False out")
        return _AsyncObjects(self)

    def response(self) -> LLMResponse:
        """Read what is left and return the whole answer.

        Raises LLMProviderStreamError where the stream was closed before its end, with the answer so far, and
        LLMProviderOutputError where `response_format` is a type and the answer is not of it.
        """
        while self._next_events():
            pass
        self._unread = iter(())
        return with_parsed(self._built(), self._call.output_format)

    def close(self) -> None:
        """Release the connection; before the end of the answer this stops its generation. Safe to call twice."""
        if self._reader:
            try:
                self._reader.close()
            finally:
                self._end()

    def __del__(self) -> None:
        if getattr(self, "_reader", None):
            self._abandon()

    def _open(self) -> SyncEventReader:
        if self._reader is None:
            self._builder.max_tool_calls = self._call.config.max_tool_calls
            self._reader = self._exchange.open(self._call)
        return self._reader

    def _next_events(self) -> bool:
        """Read on; return False at the end. Raises, with `partial`, what ends the answer before its time."""
        reader = self._reader or self._open()
        try:
            events = reader.read()
            self._builder.extend(events)
        except LLMProviderError as error:
            if self._resume(reader, error):
                return True
            reader.close()
            error = self._with_partial(error)
            reader.record.end(time.monotonic(), error=error)
            raise error from None
        except BaseException:
            # Whoever keeps a cancelled task, or what Ctrl-C raised, keeps the stream.
            self.close()
            raise
        if events:
            self._unread = iter(events)
            if reader.record.hooks:
                reader.record.events(events)
            return True
        if not reader.decoder.finished:
            raise self._with_partial(LLMProviderStreamError("the stream was closed before its end"))
        self._end()
        return False

    def _end(self) -> None:
        """Note the end of the call, once, and put a whole answer in the cache."""
        reader = self._reader
        if reader and self._note_end(reader) and reader.keep and reader.decoder.finished:
            reader.keep.store(self._built(), self._call.output_format)

    def _note_end(self, reader: SyncEventReader) -> bool:
        """Note the end of the call; return False where that was done before."""
        record = reader.record
        if record.duration is not None:
            return False
        if reader.ticket:
            reader.ticket.settle(self._builder.total_tokens)
        record.end(time.monotonic(), self._built() if record.hooks else None)
        return True

    def _abandon(self) -> None:
        """Release the connection of a stream that nobody reads any more."""
        reader = self._reader
        if reader and close_soon is not None:  # None while the interpreter ends
            if not reader.closed:
                close_soon(reader.close, reader.home)
            self._note_end(reader)

    def _resume(self, reader: SyncEventReader, error: LLMProviderError) -> bool:
        """Take up a background answer again whose connection broke; return whether it goes on.

        Each time must bring at least one event, so that a service that always breaks off is given up.
        """
        point = reader.decoder.resume_point if self._call.background else None
        broke = isinstance(error, BROKEN) and error.code != "deadline" and error.should_retry is not False
        if not broke or point is None or point == self._resumed_at:
            return False
        self._resumed_at = point
        request = self._provider.operation("resume_response")(*point)
        try:
            self._reader = self._exchange.resume(self._call, reader, request)
        except LLMProviderError:
            return False
        return True

    def _left_by_break(self) -> None:
        if not self._entered:
            self._abandon()

    def _built(self) -> LLMResponse:
        wire_format = self._provider.wire_format(self._call.api_type)
        answer = self._builder.build(self._provider.issuer(self._call, wire_format), self._call.api_type)
        reader = self._reader
        if reader:
            record = reader.record
            answer.metadata = {
                **reader.metadata,
                "raw": reader.decoder.raw,
                "time_to_first_token": record.time_to_first_token,
                "duration": record.duration or time.monotonic() - record.started,
                "cached": record.cached,
            }
        return answer

    def _with_partial(self, error: LLMProviderError) -> LLMProviderError:
        error.partial = self._built()
        if self._reader:
            error.request_id = error.request_id or self._reader.metadata["request_id"]
            error.attempts = tuple(self._reader.metadata["attempts"])
        return self._provider.named(error, self._call.config)


def check_keep_text(keep_text: bool, output_format: OutputFormat | None) -> None:
    """Raise LLMProviderBadRequestError for a stream that is to keep no text, and to read an object out of it."""
    if output_format and not keep_text:
        raise LLMProviderBadRequestError("response_format needs the whole text; leave keep_text=False out")


class _AsyncEvents:
    """Iterates over events; an object, not a generator, so that a `break` leaves nothing suspended."""

    def __init__(self, stream: SyncStream) -> None:
        self._stream = stream

    def __iter__(self) -> _AsyncEvents:
        return self

    def __next__(self) -> Event:
        stream = self._stream
        while True:
            for event in stream._unread:
                return event
            if not stream._next_events():
                raise StopIteration

    def __del__(self) -> None:
        self._stream._left_by_break()


class _AsyncObjects:
    """Iterates over the object as it grows."""

    def __init__(self, stream: SyncStream) -> None:
        self._stream = stream
        self._length = 0
        self._last: Any = None

    def __iter__(self) -> _AsyncObjects:
        return self

    def __next__(self) -> Any:
        stream = self._stream
        while True:
            stream._unread = iter(())
            text = stream._builder.text
            if len(text) > self._length:
                self._length = len(text)
                found = partial_object(text, stream._call.output_format)
                if found is not None and found != self._last:
                    self._last = found
                    return found
            if not stream._next_events():
                stream.response()
                raise StopIteration

    def __del__(self) -> None:
        self._stream._left_by_break()


class _AsyncTexts:
    """Iterates over the pieces of text."""

    def __init__(self, stream: SyncStream) -> None:
        self._stream = stream

    def __iter__(self) -> _AsyncTexts:
        return self

    def __next__(self) -> str:
        stream = self._stream
        while True:
            for event in stream._unread:
                if type(event) is TextDelta:
                    return event.text
            if not stream._next_events():
                raise StopIteration

    def __del__(self) -> None:
        self._stream._left_by_break()
