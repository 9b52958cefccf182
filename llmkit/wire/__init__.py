"""How a service is spoken to: the shape that all wire formats share. No I/O, no clock; bytes and objects only.

A wire format turns a `Call` into a `WireRequest` and makes a `StreamDecoder`, which turns server-sent events, or
one plain body, into typed events. Error bodies need no format of their own: see `failures.py`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..call import Adjustment, Call
from ..codec import json_decoder, lenient_decode
from ..errors import LLMProviderError, LLMProviderServerError, LLMProviderStreamError, LLMProviderUnsupportedOperationError
from ..events import Event, ReasoningDelta, RefusalDelta, TextDelta
from ..failures import error_from_body
from ..response import Issuer
from ..sse import ServerSentEvent

__all__ = ["Dialect", "StreamDecoder", "WireFormat", "WireRequest", "sampling_parameters"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one service does otherwise than the wire format's own vendor.

    `rename` gives a parameter another name on the wire. `unsupported` names parameters that the service refuses:
    defaults are left out, what the caller set is an error. `model_rules` pairs a pattern of model names with
    the parameters that those models refuse. `stream_usage`: usage in a stream has to be asked for.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    unsupported: frozenset[str] = frozenset()
    model_rules: tuple[tuple[str, frozenset[str]], ...] = ()
    stream_usage: bool = True


@dataclass(slots=True, kw_only=True)
class WireRequest:
    """A request as the wire format has it: the path below the base URL, the JSON body, and headers of its own.

    `defaults` names the parameters in the body that the caller did not set: name on the wire → neutral name.
    """

    path: str
    body: dict[str, Any] | None = None
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    adjustments: list[Adjustment] = field(default_factory=list)
    defaults: dict[str, str] = field(default_factory=dict)


class WireFormat(Protocol):
    """A protocol that services speak. Its `name` stands in `response.metadata` and in the issuer of native parts."""

    name: str

    def request(self, call: Call, dialect: Dialect, issuer: Issuer) -> WireRequest:
        """Return the request for a call.

        `issuer` is who will answer: native parts of other issuers are left out.
        Raises LLMProviderUnsupportedOperationError, naming the part, for what the API cannot express.
        """

    def decoder(self) -> StreamDecoder:
        """Return a fresh decoder for one answer."""


class StreamDecoder(ABC):
    """Turns an answer into events. Feed it what arrives; it stops at the protocol's end or at a failure.

    `finished` is True once the protocol's own end was seen. `failure` is the exception that ends the answer;
    what `feed` returned before it is still good. Subclasses implement `on_event`, `on_body` and `on_end`.
    """

    def __init__(self) -> None:
        self.finished = False
        self.failure: LLMProviderError | None = None
        self.raw: Any = None
        self._halves: _SurrogateHalves | None = None

    @abstractmethod
    def on_event(self, type: str, data: dict[str, Any], events: list[Event]) -> None:
        """Append the events of one server-sent event's decoded data."""

    @abstractmethod
    def on_body(self, body: dict[str, Any], events: list[Event]) -> None:
        """Append the events of a whole plain body."""

    def on_done(self, events: list[Event]) -> None:
        """Take note of `[DONE]`; most protocols have an end of their own."""

    def on_end(self, events: list[Event]) -> bool:
        """Return whether the answer is complete now that no more bytes come; may append last events."""
        return self.finished

    def feed(self, received: Iterable[ServerSentEvent]) -> list[Event]:
        """Return the events of some server-sent events, in order; sets `failure` instead of raising."""
        events: list[Event] = []
        decode = json_decoder()
        data: Any = ""
        try:
            for event in received:
                data = event.data
                if not data or self.finished or self.failure:
                    continue
                if data == "[DONE]":
                    self.on_done(events)
                    continue
                try:
                    data = decode(data)
                except ValueError:
                    data = lenient_decode(data)
                    self._halves = self._halves or _SurrogateHalves()
                if type(data) is not dict or data.get("error"):
                    self.failure = _failure_in_stream(data)
                else:
                    self.on_event(event.type, data, events)
        except ValueError as error:
            self.failure = LLMProviderStreamError(f"a server-sent event holds no valid JSON: {error}", body=data[:2000])
        except (LookupError, TypeError, AttributeError) as error:
            self.failure = _unexpected_shape(error, LLMProviderStreamError, data)
        return self._halves.mend(events) if self._halves else events

    def read(self, body: Any) -> list[Event]:
        """Return the events of a plain body's decoded JSON; raises LLMProviderError where it is no answer."""
        events: list[Event] = []
        if not isinstance(body, dict) or body.get("error"):
            raise _failure_in_stream(body, LLMProviderServerError)
        try:
            self.on_body(body, events)
        except (LookupError, TypeError, AttributeError) as error:
            raise _unexpected_shape(error, LLMProviderServerError, body) from None
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
        if not self.failure and not self.on_end(events):
            self.failure = LLMProviderStreamError("the stream ended before the answer did; `partial` has what came")
        if self._halves and self._halves.open and not self.failure:
            self.failure = LLMProviderStreamError("the text ends in half a surrogate pair; `partial` has what came")
        if not self.failure:
            self.finished = True
        return events


def _failure_in_stream(data: Any, otherwise: type[LLMProviderError] = LLMProviderStreamError) -> LLMProviderError:
    """Return the exception for JSON that is no part of an answer: an error object, or something else."""
    if isinstance(data, (dict, list)) and data:
        first = data[0] if isinstance(data, list) else data
        if isinstance(first, dict) and first.get("error"):
            error = error_from_body(data)
            # Without a known code, an error inside a stream is the stream's.
            return error if type(error) is not LLMProviderServerError else _as_kind(error, otherwise)
    return otherwise(f"the service sent JSON that is no answer: {str(data)[:200]}", body=str(data)[:2000])


def _as_kind(error: LLMProviderError, kind: type[LLMProviderError]) -> LLMProviderError:
    if error.status_code is not None or error.code is not None:
        return error
    return kind(error.message, body=error.body, request_id=error.request_id)


def _unexpected_shape(error: Exception, kind: type[LLMProviderError], data: Any) -> LLMProviderError:
    told = f"{type(error).__name__}: {error}"
    return kind(f"the service sent JSON of an unexpected shape ({told})", body=str(data)[:2000])


class _SurrogateHalves:
    """Joins surrogate pairs that a service cut between two deltas of the same kind."""

    def __init__(self) -> None:
        self.open: dict[type, str] = {}

    def mend(self, events: list[Event]) -> list[Event]:
        mended: list[Event] = []
        for event in events:
            if isinstance(event, (TextDelta, ReasoningDelta, RefusalDelta)):
                text = self.open.pop(type(event), "") + event.text
                if "\ud800" <= text[-1:] <= "\udbff":
                    self.open[type(event)], text = text[-1], text[:-1]
                # A half without its other half has no UTF-8 form: U+FFFD says that something was lost.
                event.text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
                if not event.text:
                    continue
            mended.append(event)
        return mended


def sampling_parameters(
    call: Call, names: Mapping[str, str | None], dialect: Dialect, request: WireRequest
) -> dict[str, Any]:
    """Return the sampling parameters under their names on the wire, and note every change in the request.

    A default that the format, the service or the model refuses is left out. What the caller set is sent, or
    refused by name where the API has no such parameter (LLMProviderUnsupportedOperationError).
    """
    refused = {name for pattern, group in dialect.model_rules if re.search(pattern, call.model) for name in group}
    sent: dict[str, Any] = {}
    for name, value in call.sampling().items():
        wire_name = dialect.rename.get(name, names.get(name))
        explicit = name in call.config.explicit
        if wire_name is None or name in dialect.unsupported:
            if explicit:
                raise LLMProviderUnsupportedOperationError(f"this API has no parameter for {name}; it is {value!r}")
            reason = "the API has no such parameter"
        elif not explicit and name in refused:
            reason = f"{call.model} refuses it"
        elif not explicit and name in call.omit:
            reason = f"the service refused it for {call.model}"
        else:
            sent[wire_name] = value
            if not explicit:
                request.defaults[wire_name] = name
            continue
        request.adjustments.append(Adjustment(parameter=name, action="omitted", reason=reason))
    return sent


