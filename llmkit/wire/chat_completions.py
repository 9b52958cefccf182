"""OpenAI Chat Completions, and the services that imitate it.

Source: the vendor's API reference, "Chat Completions" and "Chat Completions streaming", and recorded answers of
twenty services. Where they differ, every variant seen is read; the dialect's fields say what is sent.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

from ..call import Call
from ..codec import decode_json
from ..errors import LLMProviderStreamError, LLMProviderUnsupportedOperationError
from ..events import (
    Event,
    Finish,
    NativePart,
    ReasoningDelta,
    RefusalDelta,
    ResponseStart,
    TextDelta,
    ToolCallDelta,
    UnknownEvent,
    Usage,
    UsageReport,
)
from ..failures import error_from_body
from ..messages import Audio, File, Image, Message, Part, RawPart, Text, data_url
from ..response import FinishReason, Issuer, ToolCall
from ..schema import OPENAI_STRICT
from ..tools import Tool
from . import Dialect, StreamDecoder, WireFormat, WireRequest, counts, join_pieces, sampling_parameters, split_total

__all__ = ["ChatCompletions"]

PARAMETERS: Final = {
    "temperature": "temperature",
    "max_tokens": "max_completion_tokens",
    "top_p": "top_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "stop": "stop",
    "seed": "seed",
    "reasoning_effort": "reasoning_effort",
}

FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "stop": "stop",
    "end_turn": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "model_context_window_exceeded": "length",
    "tool_calls": "tool_calls",
    "tool_call": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "guardrail_intervened": "content_filter",
    "sensitive": "content_filter",
    "error": "error",
    "insufficient_system_resource": "error",
    "abort": "error",
    "network_error": "error",
}


class ChatCompletions(WireFormat):
    """The wire format of `/chat/completions`."""

    name = "chat_completions"
    schema_dialect = OPENAI_STRICT

    def request(self, call: Call, dialect: Dialect, issuer: Issuer) -> WireRequest:
        """Return the request for a call: usage is always asked for, in streams too."""
        if call.previous_response_id:
            raise LLMProviderUnsupportedOperationError(
                "Chat Completions cannot continue a stored response; send the history, or use execute_responses_api"
            )
        request = WireRequest(path="/chat/completions")
        messages = [_message(message, issuer, dialect) for message in call.messages]
        if call.instructions:
            messages.insert(0, {"role": "system", "content": call.instructions})
        body: dict[str, Any] = {"model": call.model, "messages": messages}
        body |= sampling_parameters(call, PARAMETERS, dialect, request)
        if dialect.thinking_off and body.get("reasoning_effort") == "none":
            del body["reasoning_effort"]
            body |= dialect.thinking_off
        if call.stream:
            body["stream"] = True
            if dialect.stream_usage and "stream_options" not in call.omit:
                body["stream_options"] = {"include_usage": True}
                request.defaults["stream_options"] = "stream_options"
        if call.tools:
            body["tools"] = [_tool(tool) for tool in call.tools]
        if call.tool_choice is not None:
            body["tool_choice"] = _tool_choice(call.tool_choice)
        if call.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = call.parallel_tool_calls
        if call.response_format is not None:
            body["response_format"] = dict(call.response_format)
        request.body = body
        return request

    def decoder(self) -> StreamDecoder:
        """Return a fresh decoder for one answer."""
        return ChatCompletionsDecoder()


def _message(message: Message, issuer: Issuer, dialect: Dialect) -> dict[str, Any]:
    sent: dict[str, Any] = {"role": message.role}
    parts = message.parts
    plain = all(isinstance(part, Text) and not part.extra for part in parts)
    if parts and plain and (len(parts) == 1 or dialect.content_as_string):
        sent["content"] = message.text
    else:
        sent["content"] = [_part(part) for part in parts] or None
    if message.tool_calls:
        sent["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    for key, value in (("tool_call_id", message.tool_call_id), ("name", message.name), ("refusal", message.refusal)):
        if value is not None:
            sent[key] = value
    sent |= message.extra
    for part in message.native if message.issuer == issuer else ():
        sent |= {key: value for key, value in part.items() if key != "tool_calls"}
        for call, own in zip(sent.get("tool_calls") or (), part.get("tool_calls") or (), strict=False):
            call |= own
    return sent


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text, **part.extra}
        case Image(file_id=None):
            image = {"url": part.url or data_url(part.media_type, part.data or b"")}
            if part.detail:
                image["detail"] = part.detail
            return {"type": "image_url", "image_url": image, **part.extra}
        case Audio():
            audio = {"data": base64.b64encode(part.data).decode(), "format": part.format}
            return {"type": "input_audio", "input_audio": audio, **part.extra}
        case File(url=None):
            if part.file_id:
                return {"type": "file", "file": {"file_id": part.file_id}, **part.extra}
            file = {"filename": part.filename, "file_data": data_url(part.media_type, part.data or b"")}
            return {"type": "file", "file": file, **part.extra}
        case RawPart():
            return dict(part.data)
    raise LLMProviderUnsupportedOperationError(
        f"Chat Completions takes no {type(part).__name__.lower()} by {'file_id' if part.file_id else 'URL'}"
    )


def _tool_call(call: ToolCall) -> dict[str, Any]:
    if call.kind == "custom":
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": call.arguments_text}}
    arguments = call.arguments_text or json.dumps(call.arguments, ensure_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _tool(tool: Tool) -> dict[str, Any]:
    if tool.native is not None:
        return dict(tool.native)
    named = {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    return {"type": "function", "function": {key: value for key, value in named.items() if value is not None}}


def _tool_choice(choice: str | Mapping[str, Any]) -> Any:
    if isinstance(choice, str) and choice not in ("auto", "none", "required"):
        return {"type": "function", "function": {"name": choice}}
    return choice


class ChatCompletionsDecoder(StreamDecoder):
    """Reads chunks and whole completions; only choice 0 is read.

    A finish reason makes the answer complete, `[DONE]` ends it. Ten services send no `[DONE]`, one sends no finish
    reason; usage comes on any chunk, in several shapes, and the last value of each key counts. `raw` of a stream is
    the last chunk that had more than text: usage, a finish reason, citations.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started = False
        self._raw_finish: str | None = None
        self._usage: dict[str, Any] = {}
        self._calls = ToolCallAssembler()
        self._reasoning: list[str] = []
        self._details: list[dict[str, Any]] = []
        self._native: dict[str, Any] = {}
        self._refused = False

    def on_event(self, type: str, data: dict[str, Any], events: list[Event]) -> None:
        """Read one chunk: `choices[0].delta`, usage, id and model."""
        choices, usage = data.get("choices"), data.get("usage")
        if choices:
            if not self._started:
                self._start(data, events)
            choice = choices[0]
            if not choice.get("index"):
                delta = choice.get("delta")
                if delta is None:
                    delta = choice.get("message") or {}
                content = delta.get("content")
                is_text = False
                if isinstance(content, str) and content:
                    is_text = True
                    events.append(TextDelta(content))
                # Nearly all chunks have nothing but text: the rest is looked at in the others only.
                if not is_text or len(delta) > 1 or choice.get("finish_reason") is not None:
                    self._read_choice(choice, delta, events)
                    usage = usage or choice.get("usage") or (data.get("x_groq") or {}).get("usage")
                    self.raw = data
        elif data.get("message") and not usage:
            # Older vLLM: an error that is a chunk of its own.
            self.failure = error_from_body(data)
        if usage:
            self.raw = data
            self._usage |= {key: value for key, value in usage.items() if value is not None}
            events.append(UsageReport(read_usage(self._usage)))

    def on_body(self, body: dict[str, Any], events: list[Event]) -> None:
        """Read a whole completion: its message has the shape of one large delta."""
        if not isinstance(body["choices"], list) or not body["choices"]:
            raise LookupError("choices is empty")
        self.on_event("message", body, events)
        self.on_done(events)

    def on_done(self, events: list[Event]) -> None:
        """End the answer."""
        if not self._started:
            raise LLMProviderStreamError("the stream ended without an answer")
        self.finished = True
        self._close(events)

    def on_end(self, events: list[Event]) -> bool:
        """Return whether a finish reason was seen."""
        if not self.finished and self._raw_finish is not None:
            self.on_done(events)
        return self.finished

    def _start(self, data: dict[str, Any], events: list[Event]) -> None:
        self._started = True
        if data.get("id") or data.get("model"):
            # Adding raises TypeError, which ends the answer, for what is no text; so do all of these additions.
            id, model = "" + (data.get("id") or ""), "" + (data.get("model") or "")
            events.append(ResponseStart(id or None, model or None))

    def _read_choice(self, choice: dict[str, Any], delta: dict[str, Any], events: list[Event]) -> None:
        """Read everything but a plain text."""
        for key, value in delta.items():
            if value and key != "role":
                reader = _READERS.get(key)
                if reader:
                    reader(self, "" + value if key in _TEXTS else value, delta, events)
                else:
                    events.append(UnknownEvent(f"delta.{key}", value))
        finish = choice.get("finish_reason")
        if finish is not None and (finish or self._calls.count):
            self._raw_finish = "" + finish
        if choice.get("error"):
            self.failure = error_from_body(choice)

    def _on_content(self, content: Any, delta: dict[str, Any], events: list[Event]) -> None:
        """Read content as a list of parts: Mistral's `text` and `thinking` (docs.mistral.ai, "Reasoning")."""
        for part in () if isinstance(content, str) else content:
            if part.get("type") == "thinking":
                inner = part.get("thinking") or []
                text = inner if isinstance(inner, str) else "".join(piece.get("text") or "" for piece in inner)
                if text:
                    events.append(ReasoningDelta(text))
            elif part.get("text"):
                events.append(TextDelta("" + part["text"]))

    def _on_reasoning_content(self, text: str, delta: dict[str, Any], events: list[Event]) -> None:
        # DeepSeek, Moonshot and z.ai want this field back.
        self._reasoning.append(text)
        events.append(ReasoningDelta(text))

    def _on_reasoning(self, text: str, delta: dict[str, Any], events: list[Event]) -> None:
        if not delta.get("reasoning_content"):
            events.append(ReasoningDelta(text))

    def _on_reasoning_details(self, details: list[dict[str, Any]], delta: dict[str, Any], events: list[Event]) -> None:
        self._details += details
        text = "".join(detail.get("text") or detail.get("summary") or "" for detail in details)
        if text and not delta.get("reasoning") and not delta.get("reasoning_content"):
            events.append(ReasoningDelta(text))

    def _on_refusal(self, text: str, delta: dict[str, Any], events: list[Event]) -> None:
        self._refused = True
        events.append(RefusalDelta(text))

    def _on_tool_calls(self, pieces: list[dict[str, Any]], delta: dict[str, Any], events: list[Event]) -> None:
        self._calls.read(pieces, events)

    def _on_function_call(self, function: dict[str, Any], delta: dict[str, Any], events: list[Event]) -> None:
        if any(function.values()) and not delta.get("tool_calls"):
            self._calls.read([{"index": 0, "function": function}], events)

    def _on_extra_content(self, extra: dict[str, Any], delta: dict[str, Any], events: list[Event]) -> None:
        # ai.google.dev/gemini-api/docs/openai: thought signatures, of the message here, of a call with the call.
        self._native["extra_content"] = extra

    def _close(self, events: list[Event]) -> None:
        if self._reasoning:
            self._native["reasoning_content"] = join_pieces(self._reasoning)
        if self._details:
            self._native["reasoning_details"] = _joined_details(self._details)
        if any(self._calls.extras):
            self._native["tool_calls"] = self._calls.extras
        if self._native:
            events.append(NativePart(self._native))
        calls, raw = self._calls.count, self._raw_finish
        reason = FINISH_REASONS.get(raw, "other") if raw else "stop"
        if reason == "stop" and (calls or self._refused):
            reason = "tool_calls" if calls else "content_filter"
        events.append(Finish(reason, raw))


_Reader = Callable[[ChatCompletionsDecoder, Any, dict[str, Any], list[Event]], None]
_READERS: Final[Mapping[str, _Reader]] = {
    "content": ChatCompletionsDecoder._on_content,
    "reasoning_content": ChatCompletionsDecoder._on_reasoning_content,
    "reasoning": ChatCompletionsDecoder._on_reasoning,
    "reasoning_details": ChatCompletionsDecoder._on_reasoning_details,
    "refusal": ChatCompletionsDecoder._on_refusal,
    "tool_calls": ChatCompletionsDecoder._on_tool_calls,
    "function_call": ChatCompletionsDecoder._on_function_call,
    "extra_content": ChatCompletionsDecoder._on_extra_content,
}
_TEXTS: Final = {"reasoning_content", "reasoning", "refusal"}


def _joined_details(pieces: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return OpenRouter's `reasoning_details` with the deltas of each put together."""
    joined = []
    for _, group in groupby(pieces, key=lambda piece: (piece.get("type"), piece.get("index"))):
        deltas = list(group)
        whole = {key: value for delta in deltas for key, value in delta.items() if value is not None}
        for key in whole.keys() & {"text", "summary", "data"}:
            whole[key] = join_pieces(delta.get(key) or "" for delta in deltas)
        joined.append(whole)
    return joined


@dataclass(slots=True)
class _OpenCall:
    position: int
    kind: str
    id: str | None = None
    name: str | None = None
    pieces: list[str] = field(default_factory=list)

    def is_whole(self) -> bool:
        """Return whether the arguments so far are JSON, after which no more can follow."""
        try:
            decode_json("".join(self.pieces))
        except ValueError:
            return False
        return True


class ToolCallAssembler:
    """Tells which call a piece belongs to, since services set `index`, `id` and `name` each in a way of their own.

    A piece continues the call of its index, else that of its id; without either, or with an index that is new but
    nothing to open a call with, it continues the last. Another id or another name opens a new call even so, and so
    does the same name once the arguments are whole. `extras` has the keys that a service put on a call besides.
    """

    def __init__(self) -> None:
        self.count = 0
        self.extras: list[dict[str, Any]] = []
        self._by_index: dict[int, _OpenCall] = {}
        self._by_id: dict[str, _OpenCall] = {}
        self._last: _OpenCall | None = None

    def read(self, pieces: Iterable[dict[str, Any]], events: list[Event]) -> None:
        """Append a delta for every piece."""
        for piece in pieces:
            kind = piece.get("type") or ("custom" if "custom" in piece and "function" not in piece else "function")
            body = piece.get(kind) or {}
            text = body.get("input" if kind == "custom" else "arguments")
            if not isinstance(text, str):
                text = "" if text is None else json.dumps(text, ensure_ascii=False)
            id, name = "" + (piece.get("id") or "") or None, "" + (body.get("name") or "") or None
            index = piece.get("index")
            if not isinstance(index, int) or index < 0:
                index = None
            call = self._continued(index, id, name, text) or self._opened(kind)
            call.id, call.name = call.id or id, call.name or name
            call.pieces.append(text)
            self.extras[call.position] |= {key: value for key, value in piece.items() if key not in _CALL_KEYS}
            self._last = call
            if index is not None:
                self._by_index[index] = call
            if id:
                self._by_id[id] = call
            events.append(ToolCallDelta(call.position, call.id, call.name, text, call.kind))

    def _continued(self, index: int | None, id: str | None, name: str | None, text: str) -> _OpenCall | None:
        """Return the call that a piece continues, None where it opens one."""
        call = self._by_index.get(index) if index is not None else None
        named_by_index = call is not None
        if call is None and id:
            call = self._by_id.get(id)
        if call is None and self._last and not (id and self._last.id):
            call = self._last if not name or (index is None and not id) else None
        if call is None or (id and call.id and id != call.id):
            return None
        if not name or not call.name:
            return call
        repeated = not text or (id and named_by_index) or not call.is_whole()
        return call if name == call.name and repeated else None

    def _opened(self, kind: str) -> _OpenCall:
        call = _OpenCall(self.count, kind)
        self.count += 1
        self.extras.append({})
        return call


_CALL_KEYS: Final = frozenset({"index", "id", "type", "function", "custom"})


def read_usage(raw: Mapping[str, Any]) -> Usage:
    """Return the usage in disjoint parts.

    `prompt_tokens` includes cached and audio tokens, `completion_tokens` the reasoning. Where a service leaves the
    reasoning out of it (some of xAI's and Google's models), `total_tokens` shows it.
    """
    inputs, outputs = counts(raw.get("prompt_tokens_details")), counts(raw.get("completion_tokens_details"))
    total = counts(raw)
    prompt, completion = total["prompt_tokens"], total["completion_tokens"]
    hidden = max(0, total["total_tokens"] - prompt - completion)
    cached = inputs["cached_tokens"] or total["prompt_cache_hit_tokens"] or total["cached_tokens"]
    cache_read, cache_write, audio, uncached = split_total(
        prompt, cached, inputs["cache_write_tokens"], inputs["audio_tokens"]
    )
    reasoning, output_audio, text = split_total(
        completion + hidden, outputs["reasoning_tokens"] or hidden, outputs["audio_tokens"]
    )
    return Usage(uncached, cache_read, cache_write, audio, text, reasoning, output_audio, dict(raw))
