"""How a service is spoken to: the shape that all wire formats share. No I/O, no clock; bytes and objects only.

A wire format turns a `Call` into a `WireRequest` and makes a `StreamDecoder`, which turns server-sent events, or
one plain body, into typed events. Error bodies need no format of their own: see `failures.py`.
"""

from __future__ import annotations

import re
import struct
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import dropwhile, groupby
from typing import Any, Final, Protocol, TypeVar

from ..call import Adjustment, Call
from ..codec import DEEPEST, WORTH_LOADING, json_decoder, lenient_decode
from ..errors import (
    LLMProviderError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderUnsupportedOperationError,
    type_with_article,
)
from ..events import Event, NativePart, RawEvent, ReasoningDelta, RefusalDelta, TextDelta, ToolCallDelta
from ..failures import error_from_body, excerpt
from ..messages import Message
from ..response import Issuer, ToolCall
from ..schema import SchemaDialect
from ..sse import ServerSentEvent

__all__ = [
    "Dialect",
    "StreamDecoder",
    "WireFormat",
    "WireRequest",
    "arguments_object",
    "counts",
    "fitting_ids",
    "join_pieces",
    "read_object",
    "sampling_parameters",
    "sent_role",
    "split_total",
    "split_turns",
    "text_or_none",
]


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What one service does otherwise than the wire format's own vendor.

    `rename` gives a parameter another name on the wire. `unsupported` names parameters that the service refuses:
    defaults are left out, what the caller set is an error. `model_rules` pairs a pattern of model names with
    the parameters that those models refuse. `stream_usage`: usage in a stream has to be asked for.
    `content_as_string`: content that is text alone goes out as one string. `thinking_off` is merged into the body
    for a `reasoning_effort` of "none", where the service has a switch of its own instead. `tool_call_ids` is a pattern
    of the ids that it takes, "" as the wire format's vendor does. `full_messages`: messages may have the role developer
    and the field `refusal`, which nobody but OpenAI has to know.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    unsupported: frozenset[str] = frozenset()
    model_rules: tuple[tuple[str, frozenset[str]], ...] = ()
    stream_usage: bool = True
    content_as_string: bool = False
    thinking_off: Mapping[str, Any] = field(default_factory=dict)
    tool_call_ids: str = ""
    full_messages: bool = False


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

    def adjust(self, parameter: str, action: str, reason: str) -> None:
        """Note a change to what the caller, or a default, asked for."""
        self.adjustments.append(Adjustment(parameter=parameter, action=action, reason=reason))


class WireFormat(Protocol):
    """A protocol that services speak.

    Its `name` stands in `response.metadata` and in the issuer of native parts. `schema_dialect` is the part of JSON
    schema that it takes: the schemas of a call that come of Python's types are in it. An answer that may have more
    tokens than `largest_plain_answer` has to travel as a stream (None: none has to).
    """

    name: str
    schema_dialect: SchemaDialect
    largest_plain_answer: int | None = None

    def request(self, call: Call, dialect: Dialect, issuer: Issuer) -> WireRequest:
        """Return the request for a call.

        `issuer` is who will answer: native parts of other issuers are left out.
        Raises LLMProviderUnsupportedOperationError, naming the part, for what the API cannot express.
        """
        ...

    def decoder(self) -> StreamDecoder:
        """Return a fresh decoder for one answer."""
        ...


class StreamDecoder(ABC):
    """Turns an answer into events. Feed it what arrives; it stops at the protocol's end or at a failure.

    `finished` is True once the protocol's own end was seen. `failure` is the exception that ends the answer;
    what `feed` returned before it is still good. `raw_events` set to True adds a `RawEvent` for each server-sent
    event; `keep_text` set to False leaves out native parts, and the text in `raw`, so that nothing grows with the
    answer; `max_json_depth` bounds the nesting of each. Subclasses implement `on_event`, `on_body` and `on_end`.
    """

    def __init__(self) -> None:
        self.finished = False
        self.failure: LLMProviderError | None = None
        self.raw_events = False
        self.keep_text = True
        self.max_json_depth = DEEPEST
        self.raw: Any = None
        self._decode: Callable[[str | bytes], Any] | None = None
        self._decoded = 0
        self._halves: _SurrogateHalves | None = None

    @abstractmethod
    def on_event(self, type: str, data: dict[str, Any], events: list[Event]) -> None:
        """Append the events of one server-sent event's decoded data."""

    @abstractmethod
    def on_body(self, body: dict[str, Any], events: list[Event]) -> None:
        """Append the events of a whole plain body."""

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
        data: Any = None
        decode = self._decode or self._decoder_for_now()
        try:
            for type, text, _, _ in received:
                if self.finished or self.failure:
                    break
                if self.raw_events:
                    events.append(RawEvent(type, text))
                if text == "[DONE]":
                    self.on_done(events)
                elif text:
                    try:
                        data = decode(text)
                    except ValueError:
                        data = self._decode_leniently(text)
                    if data.__class__ is not dict or data.get("error"):
                        self.failure = _failure_in_stream(data)
                    else:
                        self.on_event(type, data, events)
        except LLMProviderError as error:
            self.failure = error
        except _SHAPE_ERRORS as error:
            self.failure = _unexpected_shape(error, LLMProviderStreamError, data)
        if self._halves:
            events = self._halves.mend(events)
            self._refuse_halves()
        if not self.keep_text:
            events = [event for event in events if not isinstance(event, NativePart)]
        self._decoded += len(events)
        return events

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
        if self._decoded >= WORTH_LOADING:
            self._decode = decoder
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


def sampling_parameters(
    call: Call,
    names: Mapping[str, str | None],
    dialect: Dialect,
    request: WireRequest,
    refusals: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the sampling parameters under their names on the wire, and note every change in the request.

    A default that the format, the service or the model refuses is left out. What the caller set is sent, or
    refused by name where the API has no such parameter (LLMProviderUnsupportedOperationError). `refusals` says
    which defaults the rest of this very request rules out, and why: parameter → reason.
    """
    rules = [group for pattern, group in dialect.model_rules if re.search(pattern, call.model)]
    refused = {name: f"{call.model} refuses it" for group in rules for name in group} | dict(refusals or {})
    sent: dict[str, Any] = {}
    for name, value in call.sampling().items():
        wire_name = dialect.rename.get(name, names.get(name))
        explicit = name in call.config.explicit
        if wire_name is None or name in dialect.unsupported:
            if explicit:
                raise LLMProviderUnsupportedOperationError(f"this API has no parameter for {name}; it is {value!r}")
            reason = "the API has no such parameter"
        elif not explicit and name in refused:
            reason = refused[name]
        elif not explicit and name in call.omit:
            reason = f"the service refused it for {call.model}"
        else:
            sent[wire_name] = value
            if not explicit:
                request.defaults[wire_name] = name
            continue
        request.adjust(name, "omitted", reason)
    return sent


SYSTEM_ROLES: Final = ("system", "developer")


def split_turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """Return the system messages that open a conversation, and its turns, for APIs whose roles alternate.

    A turn is a run of messages of the model, or a run of messages of anyone else.
    """
    rest = list(dropwhile(lambda message: message.role in SYSTEM_ROLES, messages))
    turns = [list(turn) for _, turn in groupby(rest, key=lambda message: message.role == "assistant")]
    return list(messages[: len(messages) - len(rest)]), turns


def sent_role(message: Message, dialect: Dialect) -> str:
    """Return the role under which a service of OpenAI's kind knows a message."""
    return "system" if message.role == "developer" and not dialect.full_messages else message.role


def fitting_ids(messages: Sequence[Message], issuer: Issuer, dialect: Dialect, vendors: str) -> list[Message]:
    """Return messages whose tool calls have ids that an API takes, and one that no earlier answer has.

    `vendors` is the pattern of the ids that the wire format's vendor takes; the dialect may have another. An id that
    does not match the whole pattern, or is there again, becomes a hash that fits everywhere, in the call and in its
    result alike. What `issuer` itself answered keeps its ids.
    """
    pattern = dialect.tool_call_ids or vendors
    fitting, used, sent_as = [], set[str](), dict[str, str]()
    for message in messages:
        calls = []
        for call in message.tool_calls:
            id = call.id
            if message.issuer != issuer and (id in used or not re.fullmatch(pattern, id, re.ASCII | re.DOTALL)):
                id = sha256(f"{len(used)} {id}".encode("utf-8", "surrogatepass")).hexdigest()[:9]
            used.add(id)
            sent_as[call.id] = id
            calls.append(call if id == call.id else replace(call, id=id))
        answers = message.tool_call_id and sent_as.get(message.tool_call_id, message.tool_call_id)
        changed = tuple(calls) != message.tool_calls or answers != message.tool_call_id
        fitting.append(replace(message, tool_calls=tuple(calls), tool_call_id=answers) if changed else message)
    return fitting


def arguments_object(call: ToolCall) -> dict[str, Any]:
    """Return a call's arguments for an API that takes nothing but an object.

    Free text stands under `input`. Text that is no JSON stands under `INVALID_JSON`
    (platform.claude.com/docs/en/agents-and-tools/tool-use/fine-grained-tool-streaming).
    """
    if call.kind == "custom":
        return {"input": call.arguments_text}
    return {"INVALID_JSON": call.arguments_text} if call.parse_error else call.arguments


def text_or_none(value: Any) -> str | None:
    """Return a text that an answer has or lacks; raises TypeError, which ends the answer, for anything else."""
    if value is None or isinstance(value, str):
        return value
    raise TypeError(f"{type_with_article(value)} stands where a text belongs")


def join_pieces(pieces: Iterable[str]) -> str:
    """Return the text of deltas, in which surrogate pairs may have been cut in half."""
    text = "".join(pieces)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def counts(usage: Any) -> defaultdict[str, int]:
    """Return the numbers of tokens in a usage object; what is missing, null or no number counts 0."""
    named = usage.items() if isinstance(usage, Mapping) else ()
    return defaultdict(int, {name: value for name, value in named if type(value) is int and value > 0})


def split_total(total: int, *parts: int) -> list[int]:
    """Return the parts of a total, each cut to what those before it left, and what all of them leave.

    Services round, and some count a token twice; the parts of a `Usage` must add up all the same.
    """
    split = []
    for part in parts:
        split.append(min(part, total))
        total -= split[-1]
    return [*split, total]
