"""Anthropic Messages.

Source: platform.claude.com/docs, the API reference of Messages, its pages on streaming, thinking, API versions and
models, and recorded answers of Anthropic and of gateways in front of it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ..call import Call, ToolChoice
from ..errors import (
    LLMProviderBadRequestError,
    LLMProviderConfigurationError,
    LLMProviderUnsupportedOperationError,
)
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
from ..messages import Audio, File, Image, Message, Part, RawPart, Text
from ..response import FinishReason, Issuer, ToolCall
from ..schema import ANTHROPIC
from ..tools import Tool
from . import (
    SYSTEM_ROLES,
    Dialect,
    StreamDecoder,
    WireFormat,
    WireRequest,
    arguments_object,
    counts,
    fitting_ids,
    join_pieces,
    split_total,
    split_turns,
    text_or_none,
)
from .messages_parameters import DEFAULT_VERSION, PLAIN_OUTPUT_TOKENS, parameters

__all__ = ["Messages"]

TOOL_CALL_IDS: Final = r"[a-zA-Z0-9_-]+"

FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "compaction": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "pause_turn": "pause",
}


class Messages(WireFormat):
    """The wire format of `/messages`, below a base URL that ends in `/v1`."""

    name = "messages"
    largest_plain_answer = PLAIN_OUTPUT_TOKENS
    schema_dialect = ANTHROPIC

    def request(self, call: Call, dialect: Dialect, issuer: Issuer) -> WireRequest:
        """Return the request for a call: `max_tokens`, which the API requires, is always sent."""
        if call.previous_response_id:
            raise LLMProviderUnsupportedOperationError("the Messages API stores no responses; send the history")
        version = call.config.api_version or DEFAULT_VERSION
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", version):
            raise LLMProviderConfigurationError(f"api_version is {version!r}; it must be like {DEFAULT_VERSION}")
        request = WireRequest(path="/messages", headers={"anthropic-version": version})
        opening, turns = split_turns(fitting_ids(call.messages, issuer, dialect, TOOL_CALL_IDS))
        system = [block for message in opening for block in _blocks(message.parts)]
        if call.instructions:
            system.insert(0, {"type": "text", "text": call.instructions})
        messages = _messages(turns, issuer, version > DEFAULT_VERSION, request)
        body: dict[str, Any] = {"model": call.model, "messages": messages}
        if system:
            body["system"] = system[0]["text"] if [{*block} for block in system] == [{"type", "text"}] else system
        body |= parameters(call, version, dialect, request)
        if body.get("thinking", {}).get("type") == "enabled" and _acts_without_thinking(messages):
            del body["thinking"]
            request.adjust("reasoning_effort", "left out", "the last tool calls came without thinking of this model's")
        if call.stream:
            body["stream"] = True
        if call.tools:
            body["tools"] = [_tool(tool) for tool in call.tools]
        choice = _tool_choice(call.tool_choice, call.parallel_tool_calls if call.tools else None)
        if choice:
            body["tool_choice"] = choice
        if call.response_format is not None and call.response_format.get("type") != "text":
            body["output_config"] = body.get("output_config", {}) | {"format": _output_format(call.response_format)}
        request.body = body
        return request

    def decoder(self) -> StreamDecoder:
        """Return a fresh decoder for one answer."""
        return MessagesDecoder()


def _messages(
    turns: list[list[Message]], issuer: Issuer, system_role: bool, request: WireRequest
) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for turn in turns:
        if turn[0].role == "assistant":
            _add(messages, "assistant", [block for message in turn for block in _answer(message, issuer)])
        else:
            _add_question(messages, turn, system_role, request)
    if not messages:
        raise LLMProviderBadRequestError("the prompt is empty or blank; the Messages API wants a text")
    return messages


def _add(messages: list[dict[str, Any]], role: str, blocks: list[dict[str, Any]]) -> None:
    """Append a message; one of the same role as the last continues it, and one of nothing is left out."""
    if blocks and messages and messages[-1]["role"] == role:
        messages[-1]["content"] += blocks
    elif blocks:
        messages.append({"role": role, "content": blocks})


def _add_question(messages: list[dict[str, Any]], turn: list[Message], system_role: bool, request: WireRequest) -> None:
    """Append a user's turn: the results of tools before anything else, and system messages at its end.

    The API takes a system message after a user's only, and only in front of an answer.
    """
    results = [_tool_result(message) for message in turn if message.role == "tool"]
    system = [block for message in turn if message.role in SYSTEM_ROLES for block in _blocks(message.parts)]
    system_role = system_role and any(message.role not in SYSTEM_ROLES for message in turn)
    said = ("user",) if system_role else ("user", *SYSTEM_ROLES)
    _add(messages, "user", results + [b for message in turn if message.role in said for b in _blocks(message.parts)])
    if system_role:
        _add(messages, "system", system)
    elif system:
        request.adjust("messages", "system message sent as user's", "the API takes none in this place")


def _answer(message: Message, issuer: Issuer) -> list[dict[str, Any]]:
    if message.native and message.issuer == issuer and _says_the_same(message):
        # Signed thinking goes back unchanged and in its place, with the blocks around it.
        return [dict(block) for block in message.native if block.get("type") != "text" or _is_said(block.get("text"))]
    said = _blocks(message.parts) or _blocks([Text(message.refusal or "")])
    return said + [_tool_use(call) for call in message.tool_calls]


def _says_the_same(message: Message) -> bool:
    """Return whether a message still says what its native blocks say: a caller may have edited it."""
    text = "".join(block.get("text") or "" for block in message.native if block.get("type") == "text")
    calls = [(block.get("id"), block.get("input")) for block in message.native if block.get("type") == "tool_use"]
    return text == message.text and calls == [(call.id, arguments_object(call)) for call in message.tool_calls]


def _tool_use(call: ToolCall) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id, "name": call.name, "input": arguments_object(call)}


def _acts_without_thinking(messages: list[dict[str, Any]]) -> bool:
    """Return whether the last answer calls tools and does not begin with thinking, as one with a budget has to.

    platform.claude.com/docs, "Extended thinking with tool use". Those calls were another model's, or were edited.
    """
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    kinds = [block.get("type") for block in answers[-1]] if answers else []
    return "tool_use" in kinds and kinds[0] not in ("thinking", "redacted_thinking")


def _tool_result(message: Message) -> dict[str, Any]:
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": message.tool_call_id or ""}
    # The API refuses an error that says nothing.
    content = _blocks(message.parts) or _blocks([Text("error")] if message.is_error else [])
    if content:
        result["content"] = content
    return result | {"is_error": True} if message.is_error else result


def _blocks(parts: Iterable[Part]) -> list[dict[str, Any]]:
    """Return the blocks of a content; a blank text is none."""
    return [_block(part) for part in parts if not isinstance(part, Text) or _is_said(part.text)]


def _is_said(text: Any) -> bool:
    """Return whether the API takes a text: it refuses those of white space alone."""
    return not isinstance(text, str) or bool(text.strip())


def _block(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text, **part.extra}
        case Image():
            return {"type": "image", "source": _source(part), **part.extra}
        case File(data=None):
            return {"type": "document", "source": _source(part), **part.extra}
        case File() if part.media_type.startswith(("text/", "application/pdf")):
            return {"type": "document", "title": part.filename, "source": _source(part), **part.extra}
        case RawPart():
            return dict(part.data)
    kind = "audio" if isinstance(part, Audio) else f"document of type {part.media_type}"
    raise LLMProviderUnsupportedOperationError(f"the Messages API takes no {kind}; it takes text, images and PDF")


def _source(part: Image | File) -> dict[str, Any]:
    data = part.data or b""
    if part.file_id:
        return {"type": "file", "file_id": part.file_id}
    if part.url:
        return {"type": "url", "url": part.url}
    if not part.media_type.startswith("text/"):
        return {"type": "base64", "media_type": part.media_type, "data": base64.b64encode(data).decode()}
    try:
        return {"type": "text", "media_type": "text/plain", "data": bytes(data).decode()}
    except UnicodeDecodeError:
        raise LLMProviderUnsupportedOperationError("the Messages API takes text documents in UTF-8 only") from None


def _tool(tool: Tool) -> dict[str, Any]:
    if tool.native is not None:
        return dict(tool.native)
    named = {"description": tool.description, "strict": tool.strict}
    sent = {"name": tool.name, "input_schema": {"type": "object", "properties": {}, **(tool.parameters or {})}}
    return sent | {key: value for key, value in named.items() if value is not None} | dict(tool.extra)


def _tool_choice(choice: ToolChoice | None, parallel: bool | None) -> dict[str, Any]:
    sent: dict[str, Any] = {}
    if isinstance(choice, Mapping):
        name = choice["function"]["name"] if isinstance(choice.get("function"), Mapping) else choice.get("name")
        sent = {"type": "tool", "name": name} if choice.get("type") == "function" else dict(choice)
    elif choice is not None:
        kinds = {"auto": "auto", "none": "none", "required": "any"}
        sent = {"type": kinds[choice]} if choice in kinds else {"type": "tool", "name": choice}
    if parallel is False and sent.get("type") != "none":
        sent = {"type": "auto", **sent, "disable_parallel_tool_use": True}
    return sent


def _output_format(response_format: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat form of Chat Completions' nested `json_schema`, which has a schema and nothing else."""
    inner = response_format.get("json_schema")
    schema = (inner if isinstance(inner, Mapping) else response_format).get("schema")
    if not isinstance(schema, Mapping):
        told = f"response_format is {dict(response_format)!r}; the Messages API takes type json_schema, with a schema"
        raise LLMProviderUnsupportedOperationError(told)
    return {"type": "json_schema", "schema": dict(schema)}


@dataclass(slots=True)
class _Block:
    """A block that is still arriving: as it began, and the pieces that came since, by the field they belong to."""

    value: dict[str, Any]
    call: int | None
    pieces: dict[str, list[str]] = field(default_factory=dict)
    citations: list[Any] = field(default_factory=list)

    def finished(self) -> dict[str, Any]:
        if self.citations:
            self.value["citations"] = [*(self.value.get("citations") or ()), *self.citations]
        for name, pieces in self.pieces.items():
            if name == "partial_json":
                self.value["input"] = arguments_object(ToolCall.from_text("", "", join_pieces(pieces)))
            else:
                self.value[name] = (self.value.get(name) or "") + join_pieces(pieces)
        return self.value


class MessagesDecoder(StreamDecoder):
    """Reads named events and whole messages; only `message_stop` ends an answer.

    Every block is a native part once it is whole, in the order in which the model made them: thinking with its
    signature, text with its citations, the service's own tools and their results.
    """

    def __init__(self) -> None:
        super().__init__("text")
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._open: dict[Any, _Block] = {}
        self._text_index: Any = None
        self._content: list[dict[str, Any]] = []
        self._calls = 0
        self._thought = False

    def on_event(self, type: str, data: dict[str, Any], events: list[Event]) -> None:
        """Dispatch on the type in the data, which repeats the event's name."""
        kind = data.get("type") or type
        handler = _HANDLERS.get(kind)
        if handler:
            handler(self, data, events)
        elif kind != "ping":
            events.append(UnknownEvent(kind, data))

    def on_text(self, text: str, events: list[Event]) -> None:
        """Add a piece to the block of text that the event before it was for."""
        self._on_piece(self._open[self._text_index], "text", text, events)

    def on_body(self, body: dict[str, Any], events: list[Event]) -> None:
        """Read a whole message."""
        if not isinstance(body["content"], list):
            raise TypeError("content is no list")
        self._on_message_start({"message": body}, events)
        for index, block in enumerate(body["content"]):
            self._on_block_start({"index": index, "content_block": block}, events)
            self._on_block_stop({"index": index}, events)
        self._on_message_stop({}, events)

    def _on_message_start(self, data: dict[str, Any], events: list[Event]) -> None:
        self._message = dict(data["message"])
        events.append(ResponseStart(*(text_or_none(self._message.get(name)) for name in ("id", "model"))))
        self._add_usage(self._message.get("usage"), events)

    def _add_usage(self, usage: dict[str, Any] | None, events: list[Event]) -> None:
        """Take the latest figures: they are totals, and `input_tokens` can change after the start."""
        if usage:
            self._usage |= {key: value for key, value in usage.items() if value is not None}
            events.append(UsageReport(read_usage(self._usage)))

    def _on_block_start(self, data: dict[str, Any], events: list[Event]) -> None:
        value = dict(data["content_block"])
        block = self._open[data["index"]] = _Block(value, None)
        if value["type"] == "tool_use":
            block.call, self._calls = self._calls, self._calls + 1
            events.append(ToolCallDelta(block.call, text_or_none(value["id"]), text_or_none(value["name"])))
        if name := _TEXTS.get(value["type"]):
            text, value[name] = value.get(name), ""
            self._on_piece(block, name, text, events)

    def _on_delta(self, data: dict[str, Any], events: list[Event]) -> None:
        block, delta = self._open[data["index"]], data["delta"]
        name = _PIECES.get(delta["type"])
        if name:
            self._on_piece(block, name, delta[name], events)
            if name == "text" and data.get("type"):
                self._text_index, self.text_alone = data["index"], delta[name]
        elif delta["type"] == "citations_delta":
            if self.keep_text:
                block.citations.append(delta["citation"])
        else:
            events.append(UnknownEvent(delta["type"], data))

    def _on_piece(self, block: _Block, name: str, value: Any, events: list[Event]) -> None:
        piece = text_or_none(value)
        if not piece:
            return
        is_first = name not in block.pieces
        pieces = block.pieces.setdefault(name, [])
        if self.keep_text or name not in _TEXTS:
            pieces.append(piece)
        if name == "text":
            events.append(TextDelta(piece))
        elif name == "thinking":
            events.append(ReasoningDelta(f"\n\n{piece}" if is_first and self._thought else piece))
            self._thought = True
        elif name == "partial_json" and block.call is not None:
            events.append(ToolCallDelta(block.call, arguments=piece))

    def _on_block_stop(self, data: dict[str, Any], events: list[Event]) -> None:
        block = self._open.pop(data["index"])
        value = block.finished()
        if block.call is not None and "partial_json" not in block.pieces:
            # No piece at all, or empty ones, mean no arguments; a whole message has them as an object.
            text = json.dumps(value.get("input") or {}, ensure_ascii=False)
            events.append(ToolCallDelta(block.call, arguments=text))
        self._content.append(value)
        events.append(NativePart(value))

    def _on_message_delta(self, data: dict[str, Any], events: list[Event]) -> None:
        self._message |= {key: value for key, value in data["delta"].items() if value is not None}
        self._add_usage(data.get("usage"), events)

    def _on_message_stop(self, data: dict[str, Any], events: list[Event]) -> None:
        if not self._message:
            raise LookupError("message_stop came before message_start")
        for index in list(self._open):
            self._on_block_stop({"index": index}, events)
        if explanation := text_or_none((self._message.get("stop_details") or {}).get("explanation")):
            events.append(RefusalDelta(explanation))
        raw = text_or_none(self._message.get("stop_reason"))
        reason = FINISH_REASONS.get(raw or "", "other")
        events.append(Finish("tool_calls" if reason == "stop" and self._calls else reason, raw))
        self.raw = self._message | {"content": self._content, "usage": self._usage}
        self.finished = True


_HANDLERS: Final[Mapping[str, Callable[[MessagesDecoder, dict[str, Any], list[Event]], None]]] = {
    "content_block_delta": MessagesDecoder._on_delta,
    "content_block_start": MessagesDecoder._on_block_start,
    "content_block_stop": MessagesDecoder._on_block_stop,
    "message_start": MessagesDecoder._on_message_start,
    "message_delta": MessagesDecoder._on_message_delta,
    "message_stop": MessagesDecoder._on_message_stop,
}
# Type of a block → the field of its text. Type of a delta → the field of its piece, which the block has too.
_TEXTS: Final = {"text": "text", "thinking": "thinking"}
_PIECES: Final = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
    "compaction_delta": "content",
}


def read_usage(raw: Mapping[str, Any]) -> Usage:
    """Return the usage in disjoint parts: `input_tokens` excludes the cached, `output_tokens` includes thinking."""
    total, details = counts(raw), counts(raw.get("output_tokens_details"))
    reasoning, text = split_total(total["output_tokens"], details["thinking_tokens"])
    cache_read, cache_write = total["cache_read_input_tokens"], total["cache_creation_input_tokens"]
    return Usage(total["input_tokens"], cache_read, cache_write, output_text=text, reasoning=reasoning, raw=dict(raw))
