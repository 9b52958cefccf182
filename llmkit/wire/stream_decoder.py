"""From server-sent events, or one plain body, to the typed events of an answer: what all wire formats share."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from ..codec import DEEPEST, fast_decoder_pays, json_decoder, lenient_decode
from ..errors import LLMProviderError, LLMProviderServerError, LLMProviderStreamError
from ..events import Event, NativePart, RawEvent, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta
from ..failures import error_from_body, excerpt
from ..sse import ServerSentEvent
from .text_template import TextTemplate

__all__ = ["StreamDecoder", "read_object"]

Result = TypeVar("Result")


class StreamDecoder(ABC):
    """Turns an answer into events. Feed it what arrives; it stops at the protocol's end or at a failure.

    `finished` is True once the protocol's own end was seen. `failure` is the exception that ends the answer;
    what `feed` returned before it is still good. `raw_events` set to True adds a `RawEvent` for each server-sent
    event; `keep_text` set to False leaves out native parts, and the text in `raw`, so that nothing grows with the
    answer; `max_json_depth` bounds the nesting of each. Subclasses implement `on_event` and `on_body`, and `on_end`
    where the end of the bytes can be that of the answer.

    Most events of an answer differ from the one before in nothing but their text. `text_key` names the key of that
    text, "" where more than the text changes. `on_event` sets `text_alone` to the text of an event that tells nothing
    else; the next ones like it are not decoded as JSON, and go to `on_text` alone.
    """

    def __init__(self, text_key: str = "") -> None:
        self.finished = False
        self.failure: LLMProviderError | None = None
        self.raw_events = False
        self.keep_text = True
        self.max_json_depth = DEEPEST
        self.raw: Any = None
        self.text_alone: str | None = None
        self._decode: Callable[[str | bytes], Any] | None = None
        self._decoded = 0
        self._halves: _SurrogateHalves | None = None
        self._template = TextTemplate(text_key) if text_key else None

    @abstractmethod
    def on_event(self, type: str, data: dict[str, Any], events: list[Event]) -> None:
        """Append the events of one server-sent event's decoded data."""

    @abstractmethod
    def on_body(self, body: dict[str, Any], events: list[Event]) -> None:
        """Append the events of a whole plain body."""

    def on_text(self, text: str, events: list[Event]) -> None:
        """Append the events of a server-sent event like the last one with `text_alone`, but for its text."""
        events.append(TextDelta(text))

    def on_done(self, events: list[Event]) -> None:
        """Take note of `[DONE]`: of nothing, where the protocol has an end of its own."""
        return

    def on_end(self, events: list[Event]) -> bool:
        """Return whether the answer is complete now that no more bytes come; may append last events."""
        return self.finished

    @property
    def resume_point(self) -> tuple[str, int] | None:
        """The answer's id and the number of the last event, where a broken stream can be taken up again after it."""
        return None

    def feed(self, received: Iterable[ServerSentEvent]) -> list[Event]:
        """Return the events of some server-sent events, in order; sets `failure` instead of raising."""
        events: list[Event] = []
        template = self._template
        try:
            for type, json, _, _ in received:
                if self.finished or self.failure:
                    break
                if self.raw_events:
                    events.append(RawEvent(type, json))
                text = template.text_of(json) if template else None
                if text is not None:
                    self.on_text(text, events)
                elif json == "[DONE]":
                    self.on_done(events)
                elif json:
                    self._read_event(type, json, events)
        except LLMProviderError as error:
            self.failure = error
        except _SHAPE_ERRORS as error:
            self.failure = _unexpected_shape(error, LLMProviderStreamError, self.raw)
        if self._halves:
            events = self._halves.mend(events)
            self._refuse_halves()
        if not self.keep_text:
            events = [event for event in events if not isinstance(event, NativePart)]
        return events

    def _read_event(self, type: str, json: str, events: list[Event]) -> None:
        try:
            data = (self._decode or self._decoder_for_now())(json)
        except ValueError:
            data = self._decode_leniently(json)
        if data.__class__ is not dict or data.get("error"):
            self.failure = _failure_in_stream(data)
            return
        self.text_alone = None
        try:
            self.on_event(type, data, events)
        except LLMProviderError as error:
            self.failure = error
        except _SHAPE_ERRORS as error:
            self.failure = _unexpected_shape(error, LLMProviderStreamError, data)
        if self.text_alone and self._template:
            self._template.learn(json, self.text_alone)

    def read(self, body: Any) -> list[Event]:
        """Return the events of a plain body's decoded JSON; raises LLMProviderError where it is no answer."""
        events: list[Event] = []
        read_object(body, lambda decoded: self.on_body(decoded, events))
        self.raw = body
        if self.failure:
            raise self.failure
        return events

    def end(self, pending: ServerSentEvent | None) -> list[Event]:
        """Return the last events once the body has ended; sets `failure` where the answer is cut short.

        `pending` is an event without its closing blank line. The standard drops it; here it counts, because it
        can be the protocol's end, and the answer is cut if it is not.
        """
        events = [] if pending is None or self.finished else self.feed([pending])
        try:
            if not self.failure and not self.on_end(events):
                self.failure = LLMProviderStreamError("the stream ended before the answer did; `partial` has what came")
        except _SHAPE_ERRORS as error:
            self.failure = _unexpected_shape(error, LLMProviderStreamError, self.raw)
        if not self.failure:
            self.finished = True
            self._refuse_halves()
        return events

    def _decoder_for_now(self) -> Callable[[str | bytes], Any]:
        decoder = json_decoder(self._decoded, self.max_json_depth)
        if fast_decoder_pays(self._decoded):
            self._decode = decoder
        self._decoded += 1
        return decoder

    def _decode_leniently(self, text: str) -> Any:
        try:
            data = lenient_decode(text, self.max_json_depth)
        except ValueError as error:
            told = f"a server-sent event holds no valid JSON: {error}"
            raise LLMProviderStreamError(told, body=excerpt(text)) from None
        self._halves = self._halves or _SurrogateHalves()
        return data

    def _refuse_halves(self) -> None:
        if self._halves and (self._halves.broken or (self.finished and self._halves.open)):
            self.finished = False
            self.failure = LLMProviderStreamError("the text holds half a surrogate pair; `partial` has what came")


def read_object(body: Any, read: Callable[[dict[str, Any]], Result]) -> Result:
    """Return what `read` makes of a decoded body; raises LLMProviderError where it is an error or of another shape."""
    if not isinstance(body, dict) or body.get("error"):
        raise _failure_in_stream(body, LLMProviderServerError)
    try:
        return read(body)
    except LLMProviderError:
        raise
    except _SHAPE_ERRORS as error:
        raise _unexpected_shape(error, LLMProviderServerError, body) from None


def _failure_in_stream(data: Any, otherwise: type[LLMProviderError] = LLMProviderStreamError) -> LLMProviderError:
    """Return the exception for JSON that is no part of an answer: an error object, or something else."""
    if isinstance(data, (dict, list)) and data:
        first = data[0] if isinstance(data, list) else data
        if isinstance(first, dict) and first.get("error"):
            error = error_from_body(data)
            # Without a known code, an error inside a stream is the stream's.
            return error if type(error) is not LLMProviderServerError else _as_kind(error, otherwise)
    return otherwise(f"the service sent JSON that is no answer: {excerpt(data, 200)}", body=excerpt(data))


def _as_kind(error: LLMProviderError, kind: type[LLMProviderError]) -> LLMProviderError:
    if error.status_code is not None or error.code is not None:
        return error
    return kind(error.message, body=error.body, request_id=error.request_id)


def _unexpected_shape(error: Exception, kind: type[LLMProviderError], data: Any) -> LLMProviderError:
    told = f"{type(error).__name__}: {error}"
    return kind(f"the service sent JSON of an unexpected shape ({told}): {excerpt(data, 200)}", body=excerpt(data))


# What reading JSON of a shape that no service documents can raise.
_SHAPE_ERRORS: Final = (
    *(LookupError, TypeError, AttributeError, ValueError, RecursionError),
    *(ArithmeticError, struct.error),  # of numbers that no float holds, and of vectors cut short
)

# Where events have pieces of text that may be cut.
_PIECES: Final[Mapping[type, str]] = {
    TextDelta: "text",
    ReasoningDelta: "text",
    RefusalDelta: "text",
    ToolCallDelta: "arguments",
}


class _SurrogateHalves:
    """Joins surrogate pairs that a service cut between two deltas of the same kind, or of the same tool call.

    `open` has the first halves that wait for their second; `broken` tells that a half came without the other.
    """

    def __init__(self) -> None:
        self.open: dict[tuple[type, int], str] = {}
        self.broken = False

    def mend(self, events: list[Event]) -> list[Event]:
        """Return the events with whole characters only, up to the first that cannot be mended."""
        mended: list[Event] = []
        for event in events:
            name = _PIECES.get(type(event))
            if name:
                key = (type(event), getattr(event, "index", 0))
                text = self.open.pop(key, "") + getattr(event, name)
                if "\ud800" <= text[-1:] <= "\udbff":
                    self.open[key], text = text[-1], text[:-1]
                try:
                    setattr(event, name, text.encode("utf-16", "surrogatepass").decode("utf-16"))
                except UnicodeDecodeError:
                    self.broken = True
                    break
                if not text and type(event) is not ToolCallDelta:
                    continue
            mended.append(event)
        return mended
