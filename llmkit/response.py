"""The whole answer, and how it is built from events. Imports codec, config, errors and events."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .codec import decode_finite
from .config import APIType
from .errors import LLMProviderServerError
from .events import (
    Event,
    Finish,
    NativePart,
    ReasoningDelta,
    RefusalDelta,
    ResponseStart,
    TextDelta,
    ToolCallDelta,
    Usage,
    UsageReport,
)

__all__ = [
    "FinishReason",
    "Issuer",
    "LLMResponse",
    "ResponseBuilder",
    "ToolCall",
    "argument_text",
    "chat_tool_call",
]

BATCH = 1000
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "pause", "error", "other"]


@dataclass(slots=True)
class ToolCall:
    """A call that the model wants made.

    `arguments` is the decoded JSON object. Where the model wrote something else, `arguments` is empty,
    `parse_error` says why, and `arguments_text` has what it wrote. For a tool of kind "custom",
    `arguments_text` is its input and there is nothing to decode.
    """

    id: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    arguments_text: str = ""
    parse_error: str | None = None
    kind: str = "function"

    @classmethod
    def from_text(cls, id: str, name: str, text: str, kind: str = "function") -> ToolCall:
        """Return the call with `text` decoded; an empty text, or `null`, means no arguments."""
        call = cls(id, name, arguments_text=text, kind=kind)
        if kind == "function" and text.strip():
            try:
                value = decode_finite(text)
            except ValueError as error:
                call.parse_error = f"the arguments are not JSON: {error}"
                return call
            if isinstance(value, dict):
                call.arguments = value
            elif value is not None:
                call.parse_error = f"the arguments are a JSON {type(value).__name__}, not an object"
        return call


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who made a native part: only the same provider, wire format and model understands it."""

    provider: str
    wire_format: str
    model: str


@dataclass(slots=True)
class LLMResponse:
    """One answer.

    `content` is its text ("" where there is none). Token counts are None where the service sent no usage;
    `usage` has them in disjoint parts. `finish_reason` is one of a closed set, `raw_finish_reason` the service's
    word. `metadata` has `adjustments`, `attempts`, `request_id`, `headers`, `wire_format`, `duration` in seconds (of a
    stream also `time_to_first_token`), `cached`, and `raw`, the body as it came (of a stream: the final object, where
    the API sends one); of a fallback provider also `fallbacks`. `parsed` is the object that the answer is, where
    `response_format` was a type.
    """

    content: str
    model: str = ""
    provider_type: str = ""
    api_type: APIType = APIType.CHAT_COMPLETION
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    finish_reason: FinishReason | None = None
    response_id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    tool_calls: list[ToolCall] = field(default_factory=list)
    reasoning: str | None = None
    refusal: str | None = None
    usage: Usage | None = None
    raw_finish_reason: str | None = None
    native: list[dict[str, Any]] = field(default_factory=list, repr=False)
    issuer: Issuer | None = field(default=None, repr=False)
    parsed: Any = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-serialisable values; bytes in the messages of `run_tools` as base64."""
        values = asdict(self) | {"api_type": self.api_type.value}
        if self.parsed is None and "messages" not in self.metadata:
            return values
        jsonable: dict[str, Any]
        try:
            from pydantic_core import to_jsonable_python  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            # Without pydantic there are no objects of types in it, only bytes.
            jsonable = json.loads(json.dumps(values, default=lambda data: base64.b64encode(data).decode()))
        else:
            jsonable = to_jsonable_python(values, bytes_mode="base64")
        return jsonable

    def to_message(self) -> dict[str, Any]:
        """Return the message to append to the history: Chat Completions' shape, and one key more.

        `native` keeps what the service wants back word for word (encrypted reasoning, signatures) beside its
        issuer; llmkit sends it to that issuer only. The message is JSON-serialisable and works with any provider.
        """
        nothing = None if self.tool_calls or self.refusal else ""
        message: dict[str, Any] = {"role": "assistant", "content": self.content or nothing}
        if self.refusal:
            message["refusal"] = self.refusal
        if self.tool_calls:
            message["tool_calls"] = [chat_tool_call(call) for call in self.tool_calls]
        if self.native and self.issuer:
            message["native"] = {"issuer": asdict(self.issuer), "parts": self.native}
        return message


def argument_text(call: ToolCall) -> str:
    """Return the text that a call is sent with: what the model wrote, for a call made by hand its arguments as JSON."""
    return call.arguments_text or ("" if call.kind == "custom" else json.dumps(call.arguments, ensure_ascii=False))


def chat_tool_call(call: ToolCall) -> dict[str, Any]:
    """Return a call in the shape of Chat Completions."""
    if call.kind == "custom":
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": argument_text(call)}}
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": argument_text(call)}}


class ResponseBuilder:
    """Builds the answer from its events: of a stream as they come, of a plain body all at once.

    It keeps the answer so far, and little more than that: no event, and no piece of text by itself; without `keep_text`
    no text and no reasoning at all. Raises LLMProviderServerError for more tool calls than `max_tool_calls` (None: no
    bound).
    """

    def __init__(self, max_tool_calls: int | None = None, *, keep_text: bool = True) -> None:
        self.max_tool_calls = max_tool_calls
        self.keep_text = keep_text
        self._text = _GrowingText(keep_text)
        self._reasoning = _GrowingText(keep_text)
        self._refusal = _GrowingText()
        self._tool_calls: dict[int, _ToolCallText] = {}
        self._native: list[dict[str, Any]] = []
        self._start = ResponseStart()
        self._usage: Usage | None = None
        self._finish: Finish | None = None

    def extend(self, events: Iterable[Event]) -> None:
        """Take the next events."""
        append_text = self._text.pieces.append
        for event in events:
            if type(event) is TextDelta:
                append_text(event.text)
            else:
                handler = _HANDLERS.get(type(event))
                if handler:
                    handler(self, event)
        self._text.fold()

    @property
    def text(self) -> str:
        """The text so far."""
        return str(self._text)

    @property
    def total_tokens(self) -> int | None:
        """The tokens of prompt and answer, None where the service has not told them."""
        return self._usage.total_tokens if self._usage else None

    def build(self, issuer: Issuer, api_type: APIType) -> LLMResponse:
        """Return the answer as far as it has come."""
        # Some services give a call no id, but a result has to name the call that it answers; ids over 40 characters
        # are refused by others.
        id = f"call_{(self._start.id or '')[:30]}_"
        calls = [call.finished(f"{id}{index}") for index, call in sorted(self._tool_calls.items())]
        usage = self._usage
        return LLMResponse(
            content=self.text,
            model=self._start.model or issuer.model,
            provider_type=issuer.provider,
            api_type=api_type,
            prompt_tokens=usage.input_tokens if usage else None,
            completion_tokens=usage.output_tokens if usage else None,
            total_tokens=usage.total_tokens if usage else None,
            finish_reason=self._finish.reason if self._finish else None,  # type: ignore[arg-type]
            response_id=self._start.id,
            tool_calls=calls,
            reasoning=str(self._reasoning) or None,
            refusal=str(self._refusal) or None,
            usage=usage,
            raw_finish_reason=self._finish.raw_reason if self._finish else None,
            native=self._native,
            issuer=issuer,
        )

    def _on_reasoning(self, event: ReasoningDelta) -> None:
        self._reasoning.append(event.text)

    def _on_refusal(self, event: RefusalDelta) -> None:
        self._refusal.append(event.text)

    def _on_tool_call(self, event: ToolCallDelta) -> None:
        if self.max_tool_calls is not None and event.index >= self.max_tool_calls:
            told = f"the answer has more tool calls than max_tool_calls ({self.max_tool_calls})"
            # It is paid for, and would be as large again.
            raise LLMProviderServerError(told, should_retry=False)
        call = self._tool_calls.setdefault(event.index, _ToolCallText())
        call.id = call.id or event.id or ""
        call.name = call.name or event.name or ""
        call.kind = event.kind
        call.arguments.append(event.arguments)

    def _on_usage(self, event: UsageReport) -> None:
        self._usage = event.usage

    def _on_start(self, event: ResponseStart) -> None:
        self._start = ResponseStart(self._start.id or event.id, self._start.model or event.model)

    def _on_native(self, event: NativePart) -> None:
        self._native.append(event.part)

    def _on_finish(self, event: Finish) -> None:
        self._finish = event


class _GrowingText:
    """A text that comes in pieces. They are joined in batches: a short piece takes ten times the memory of its text,
    and joining all of the text now and again would take quadratic time.
    """

    __slots__ = ("_batches", "_keep", "pieces")

    def __init__(self, keep: bool = True) -> None:
        self._keep = keep
        self.pieces: list[str] = []
        self._batches: list[str] = []

    def append(self, piece: str) -> None:
        self.pieces.append(piece)
        self.fold()

    def fold(self) -> None:
        """Join the pieces if they are many; let go of them if nothing is kept."""
        if not self._keep:
            self.pieces.clear()
        elif len(self.pieces) >= BATCH:
            self._batches.append("".join(self.pieces))
            self.pieces.clear()

    def __str__(self) -> str:
        return "".join(self._batches + self.pieces)


@dataclass(slots=True)
class _ToolCallText:
    id: str = ""
    name: str = ""
    kind: str = "function"
    arguments: _GrowingText = field(default_factory=_GrowingText)

    def finished(self, default_id: str) -> ToolCall:
        return ToolCall.from_text(self.id or default_id, self.name, str(self.arguments), self.kind)


_HANDLERS: dict[type, Callable[[ResponseBuilder, Any], None]] = {
    ReasoningDelta: ResponseBuilder._on_reasoning,
    RefusalDelta: ResponseBuilder._on_refusal,
    ToolCallDelta: ResponseBuilder._on_tool_call,
    UsageReport: ResponseBuilder._on_usage,
    ResponseStart: ResponseBuilder._on_start,
    NativePart: ResponseBuilder._on_native,
    Finish: ResponseBuilder._on_finish,
}
