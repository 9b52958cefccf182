"""OpenAI Chat Completions, and the services that imitate it.

Source: the vendor's API reference, "Chat Completions" and "Chat Completions streaming", and recorded answers of
twenty services. Where they differ, every variant seen is read; the dialect's fields say what is sent.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ..call import Call
from ..errors import LLMProviderUnsupportedOperationError
from ..events import (
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
from ..failures import error_from_body
from ..messages import Audio, File, Image, Message, Part, RawPart, Text
from ..response import FinishReason, Issuer, ToolCall
from ..tools import Tool
from . import Dialect, StreamDecoder, WireRequest, sampling_parameters

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


class ChatCompletions:
    """The wire format of `/chat/completions`."""

    name = "chat_completions"

    def request(self, call: Call, dialect: Dialect, issuer: Issuer) -> WireRequest:
        """Return the request for a call: usage is always asked for, in streams too."""
        if call.previous_response_id:
            raise LLMProviderUnsupportedOperationError(
                "Chat Completions cannot continue a stored response; send the history, or use execute_responses_api"
            )
        request = WireRequest(path="/chat/completions")
        messages = [_message(message, issuer) for message in call.messages]
        if call.instructions:
            messages.insert(0, {"role": "system", "content": call.instructions})
        body: dict[str, Any] = {"model": call.model, "messages": messages}
        body |= sampling_parameters(call, PARAMETERS, dialect, request)
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


def _message(message: Message, issuer: Issuer) -> dict[str, Any]:
    sent: dict[str, Any] = {"role": message.role}
    parts = message.parts
    if len(parts) == 1 and isinstance(parts[0], Text) and not parts[0].extra:
        sent["content"] = parts[0].text
    elif parts or not message.tool_calls:
        sent["content"] = [_part(part) for part in parts] if parts else message.content if message.content == "" else None
    else:
        sent["content"] = None
    if message.tool_calls:
        sent["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    for key, value in (("tool_call_id", message.tool_call_id), ("name", message.name), ("refusal", message.refusal)):
        if value is not None:
            sent[key] = value
    sent |= message.extra
    if message.issuer == issuer:
        for part in message.native:
            sent |= part
    return sent


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text, **part.extra}
        case Image(file_id=None):
            image = {"url": part.url or _data_url(part.media_type, part.data)}
            if part.detail:
                image["detail"] = part.detail
            return {"type": "image_url", "image_url": image, **part.extra}
        case Audio():
            audio = {"data": base64.b64encode(part.data).decode(), "format": part.format}
            return {"type": "input_audio", "input_audio": audio, **part.extra}
        case File(url=None):
            if part.file_id:
                return {"type": "file", "file": {"file_id": part.file_id}, **part.extra}
            file = {"filename": part.filename, "file_data": _data_url(part.media_type, part.data)}
            return {"type": "file", "file": file, **part.extra}
        case RawPart():
            return dict(part.data)
    raise LLMProviderUnsupportedOperationError(
        f"Chat Completions takes no {type(part).__name__.lower()} by {'file_id' if part.file_id else 'URL'}"
    )


def _data_url(media_type: str, data: bytes | None) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data or b'').decode()}"


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
    """Reads chunks and whole completions; only choice 0 is read, the others stand in `raw`.

    A finish reason makes the answer complete, `[DONE]` ends it. Ten services send no `[DONE]`, one sends no finish
    reason; usage comes on any chunk, in several shapes, and the last value of each key counts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started = False
        self._raw_finish: str | None = None
        self._usage: dict[str, Any] = {}
        self._calls = ToolCallAssembler()
        self._native: dict[str, Any] = {}
        self._refused = False

    def on_event(self, type: str, data: dict[str, Any], events: list[Event]) -> None:
        """Read one chunk: `choices[0].delta`, usage, id and model."""
        choices = data.get("choices")
        if choices:
            choice = choices[0]
            if choice.get("index", 0) == 0:
                self._read_choice(choice, choice.get("delta") or choice.get("message") or {}, events)
        if not self._started and (data.get("id") or data.get("model")):
            self._started = True
            events.append(ResponseStart(data.get("id") or None, data.get("model") or None))
        usage = data.get("usage") or (choices and choices[0].get("usage")) or (data.get("x_groq") or {}).get("usage")
        if usage:
            self._usage |= {key: value for key, value in usage.items() if value is not None}
            events.append(UsageReport(read_usage(self._usage)))

    def on_body(self, body: dict[str, Any], events: list[Event]) -> None:
        """Read a whole completion: its message has the shape of one large delta."""
        if not isinstance(body["choices"], list) or not body["choices"]:
            raise LookupError("choices is empty")
        self.on_event("message", body, events)
        self.finished = True
        self._close(events)

    def on_done(self, events: list[Event]) -> None:
        """End the answer."""
        self.finished = True
        self._close(events)

    def on_end(self, events: list[Event]) -> bool:
        """Return whether a finish reason was seen."""
        if not self.finished and self._raw_finish is not None:
            self.finished = True
            self._close(events)
        return self.finished

    def _read_choice(self, choice: dict[str, Any], delta: dict[str, Any], events: list[Event]) -> None:
        content = delta.get("content")
        if content:
            if content.__class__ is str:
                events.append(TextDelta(content))
            else:
                _read_content_list(content, events)
        if len(delta) > 1:
            self._read_rare(delta, events)
        finish = choice.get("finish_reason")
        if finish is not None and (finish or self._calls.count):
            self._raw_finish = finish
        if choice.get("error"):
            self.failure = error_from_body(choice)

    def _read_rare(self, delta: dict[str, Any], events: list[Event]) -> None:
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning and isinstance(reasoning, str):
            events.append(ReasoningDelta(reasoning))
        for key in ("reasoning_content", "reasoning_details"):
            if delta.get(key):
                self._native[key] = self._native[key] + delta[key] if key in self._native else delta[key]
        if delta.get("refusal"):
            self._refused = True
            events.append(RefusalDelta(delta["refusal"]))
        if delta.get("tool_calls"):
            self._calls.read(delta["tool_calls"], events)
        elif delta.get("function_call"):
            self._calls.read([{"index": 0, "function": delta["function_call"]}], events)

    def _close(self, events: list[Event]) -> None:
        if self._native:
            events.append(NativePart(self._native))
        calls, raw = self._calls.count, self._raw_finish
        reason = FINISH_REASONS.get(raw, "other") if raw else "tool_calls" if calls else "stop"
        if reason == "stop" and (calls or self._refused):
            reason = "tool_calls" if calls else "content_filter"
        events.append(Finish(reason, raw))


def _read_content_list(content: Iterable[Any], events: list[Event]) -> None:
    """Read content as a list of parts: Mistral's `text` and `thinking` (docs.mistral.ai, "Reasoning")."""
    for part in content:
        if part.get("type") == "thinking":
            inner = part.get("thinking") or []
            text = inner if isinstance(inner, str) else "".join(piece.get("text") or "" for piece in inner)
            if text:
                events.append(ReasoningDelta(text))
        elif part.get("text"):
            events.append(TextDelta(part["text"]))


@dataclass(slots=True)
class _OpenCall:
    position: int
    id: str | None
    name: str | None


class ToolCallAssembler:
    """Tells which call a piece belongs to, since services set `index` and `id` each in a way of their own.

    A piece continues the call of its index, unless it brings another id, or a name without an id where the call
    has a name already: that opens a new call. Without an index (or with -1), a known id continues its call, a new
    id or a name opens one, and anything else continues the last.
    """

    def __init__(self) -> None:
        self.count = 0
        self._by_index: dict[int, _OpenCall] = {}
        self._last: _OpenCall | None = None

    def read(self, pieces: Iterable[dict[str, Any]], events: list[Event]) -> None:
        """Append a delta for every piece."""
        for piece in pieces:
            kind = "custom" if "custom" in piece else "function"
            body = piece.get(kind) or {}
            name, id = body.get("name") or None, piece.get("id") or None
            call = self._find(piece.get("index"), id, name)
            text = body.get("arguments" if kind == "function" else "input")
            text = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False) if text is not None else ""
            events.append(ToolCallDelta(call.position, call.id, call.name, text, kind))

    def _find(self, index: int | None, id: str | None, name: str | None) -> _OpenCall:
        indexed = isinstance(index, int) and index >= 0
        call = self._by_index.get(index) if indexed else self._last  # type: ignore[arg-type]
        if not indexed and id:
            call = next((known for known in self._by_index.values() if known.id == id), None)
        another = call is not None and (
            (id is not None and call.id is not None and id != call.id) or (id is None and bool(name and call.name))
        )
        if call is None or another:
            call = _OpenCall(self.count, id, name)
            self.count += 1
            self._by_index[index if indexed else -1 - call.position] = call  # type: ignore[index]
        call.id, call.name = call.id or id, call.name or name
        self._last = call
        return call


def read_usage(raw: Mapping[str, Any]) -> Usage:
    """Return the usage in disjoint parts.

    `prompt_tokens` includes cached and audio tokens, `completion_tokens` the reasoning; where a service leaves the
    reasoning out of it (some of xAI's models), `total_tokens` shows it.
    """
    prompt, completion = raw.get("prompt_tokens") or 0, raw.get("completion_tokens") or 0
    inputs, outputs = raw.get("prompt_tokens_details") or {}, raw.get("completion_tokens_details") or {}
    cache_read = inputs.get("cached_tokens") or raw.get("prompt_cache_hit_tokens") or 0
    cache_write, audio = inputs.get("cache_write_tokens") or 0, inputs.get("audio_tokens") or 0
    reasoning, output_audio = outputs.get("reasoning_tokens") or 0, outputs.get("audio_tokens") or 0
    if reasoning and (raw.get("total_tokens") or 0) == prompt + completion + reasoning:
        completion += reasoning
    return Usage(
        input_uncached=max(0, prompt - cache_read - cache_write - audio),
        cache_read=cache_read,
        cache_write=cache_write,
        input_audio=audio,
        output_text=max(0, completion - reasoning - output_audio),
        reasoning=reasoning,
        output_audio=output_audio,
        raw=dict(raw),
    )
