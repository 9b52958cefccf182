"""OpenAI Chat Completions, and the services that imitate it.

Source: the vendor's API reference, "Chat Completions" and "Chat Completions streaming", and recorded answers of
twenty services. Where they differ, every variant seen is read; the dialect's fields say what is sent.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any, Final

from ..call import Call
from ..errors import LLMProviderStreamError, LLMProviderUnsupportedOperationError
from ..events import (
    Event,
    Finish,
    NativePart,
    ReasoningDelta,
    RefusalDelta,
    ResponseStart,
    TextDelta,
    UnknownEvent,
    Usage,
    UsageReport,
)
from ..failures import error_from_body, excerpt
from ..messages import Audio, File, Image, Message, Part, RawPart, Text, data_url
from ..response import FinishReason, Issuer, chat_tool_call
from ..schema import OPENAI_STRICT
from ..tools import Tool
from . import (
    Dialect,
    StreamDecoder,
    WireFormat,
    WireRequest,
    counts,
    fitting_ids,
    join_pieces,
    sampling_parameters,
    sent_role,
    split_total,
)
from .tool_call_pieces import ToolCallAssembler

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

TOOL_CALL_IDS: Final = r".{1,40}"

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
        fitting = fitting_ids(call.messages, issuer, dialect, TOOL_CALL_IDS)
        messages = [_message(message, issuer, dialect) for message in fitting]
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
    sent: dict[str, Any] = {"role": sent_role(message, dialect)}
    parts, refusal = message.parts, message.refusal
    if not dialect.full_messages:
        parts, refusal = parts or ((Text(refusal),) if refusal else ()), None
    plain = all(isinstance(part, Text) and not part.extra for part in parts)
    if parts and plain and (len(parts) == 1 or dialect.content_as_string):
        sent["content"] = "".join(part.text for part in parts if isinstance(part, Text))
    else:
        sent["content"] = [_part(part) for part in parts] or None
    if message.tool_calls:
        sent["tool_calls"] = [chat_tool_call(call) for call in message.tool_calls]
    for key, value in (("tool_call_id", message.tool_call_id), ("name", message.name), ("refusal", refusal)):
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


def _tool(tool: Tool) -> dict[str, Any]:
    if tool.native is not None:
        return dict(tool.native)
    named = {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    function = {key: value for key, value in named.items() if value is not None}
    return {"type": "function", "function": function, **tool.extra}


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
        super().__init__("content")
        self._started = False
        self._raw_finish: str | None = None
        self._usage: dict[str, Any] = {}
        self._calls = ToolCallAssembler()
        self._reasoning: list[str] = []
        self._details: list[dict[str, Any]] = []
        self._native: dict[str, Any] = {}
        self._refused = False
        self._unknown: dict[str, Any] | None = None

    def on_event(self, type: str, data: dict[str, Any], events: list[Event]) -> None:
        """Read one chunk: `choices[0].delta`, usage, id and model."""
        choices, usage = data.get("choices"), data.get("usage")
        if choices:
            if not self._started:
                self._start(data, events)
            choice = choices[0]
            if choice.get("index"):
                choice = next((other for other in choices if not other.get("index")), None)
            if choice is not None:
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
                elif not usage:
                    self.text_alone = content
        elif data.get("message") and not usage:
            # Older vLLM: an error that is a chunk of its own.
            self.failure = error_from_body(data)
        elif not usage and choices is None:
            self._unknown = data
            events.append(UnknownEvent(type, data))
        if usage:
            self.raw = data
            self._usage |= {key: value for key, value in usage.items() if value is not None}
            events.append(UsageReport(read_usage(self._usage)))

    def on_body(self, body: dict[str, Any], events: list[Event]) -> None:
        """Read a whole completion: its message has the shape of one large delta."""
        choices = body["choices"]
        if not isinstance(choices, list) or not choices:
            raise LookupError("choices is empty")
        if not any(choice.get("message") or choice.get("delta") for choice in choices if not choice.get("index")):
            raise LookupError("choice 0 has no message")
        self.on_event("message", body, events)
        self.on_done(events)

    def on_done(self, events: list[Event]) -> None:
        """End the answer."""
        if not self._started:
            raise LLMProviderStreamError("the stream ended without an answer")
        if self._unknown and self._raw_finish is None:
            raise LLMProviderStreamError(f"the answer broke off: {excerpt(self._unknown, 200)}")
        self._close(events)
        self.finished = True

    def on_end(self, events: list[Event]) -> bool:
        """Return whether a finish reason was seen; an empty one, as some write on every chunk, ends nothing."""
        if not self.finished and self._raw_finish:
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
        if self.keep_text:
            self._reasoning.append(text)
        events.append(ReasoningDelta(text))

    def _on_reasoning(self, text: str, delta: dict[str, Any], events: list[Event]) -> None:
        if not delta.get("reasoning_content"):
            events.append(ReasoningDelta(text))

    def _on_reasoning_details(self, details: list[dict[str, Any]], delta: dict[str, Any], events: list[Event]) -> None:
        if self.keep_text:
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

    def _on_audio(self, audio: dict[str, Any], delta: dict[str, Any], events: list[Event]) -> None:
        # developers.openai.com/api/docs/guides/audio: spoken text is no content, and its audio goes back by its id.
        events.append(UnknownEvent("delta.audio", audio))
        if audio.get("transcript"):
            events.append(TextDelta("" + audio["transcript"]))
        if audio.get("id"):
            self._native["audio"] = {"id": audio["id"]}

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
    "audio": ChatCompletionsDecoder._on_audio,
}
_TEXTS: Final = {"reasoning_content", "reasoning", "refusal"}


def _joined_details(pieces: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return OpenRouter's `reasoning_details` with the deltas of each put together: they must go back as they were."""
    joined = []
    for _, group in groupby(pieces, key=_detail_of):
        deltas = list(group)
        whole: dict[str, Any] = {key: None for delta in deltas for key in delta}
        whole |= {key: value for delta in deltas for key, value in delta.items() if value is not None}
        for key in {"text", "summary", "data"} & {key for key, value in whole.items() if value is not None}:
            whole[key] = join_pieces(delta.get(key) or "" for delta in deltas)
        joined.append(whole)
    return joined


def _detail_of(piece: dict[str, Any]) -> Any:
    """Return which detail a piece belongs to: without an `index`, that of neighbours that differ in text alone."""
    if piece.get("index") is not None:
        return piece.get("type"), piece["index"]
    return {key: value for key, value in piece.items() if key not in ("text", "summary")}


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
