"""OpenAI Responses.

Source: the vendor's API reference, "Responses" and "Responses streaming", and recorded answers of OpenAI and of
services that imitate it: some name no event, number nothing, or leave the final `output` empty.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Container, Mapping, Set
from typing import Any, Final

from ..call import Call
from ..errors import LLMProviderServerError
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
from ..failures import error_from_body, excerpt
from ..messages import ITEM, Audio, File, Image, Message, Part, RawPart, Text, data_url
from ..response import FinishReason, Issuer, ToolCall, argument_text
from ..schema import OPENAI_STRICT
from ..tools import Tool
from . import (
    Dialect,
    StreamDecoder,
    WireFormat,
    WireRequest,
    counts,
    fitting_ids,
    sampling_parameters,
    sent_role,
    split_total,
    text_or_none,
)

__all__ = ["Responses"]

# None: the API has no such parameter.
PARAMETERS: Final = {
    "temperature": "temperature",
    "max_tokens": "max_output_tokens",
    "top_p": "top_p",
    "frequency_penalty": None,
    "presence_penalty": None,
    "stop": None,
    "seed": None,
    "reasoning_effort": "reasoning",
}

TOOL_CALL_IDS: Final = r".{1,64}"

LEAST_OUTPUT_TOKENS: Final = 16
"""The API answers 400 to a smaller `max_output_tokens`."""

FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "completed": "stop",
    "max_output_tokens": "length",
    "content_filter": "content_filter",
    "queued": "pause",
    "in_progress": "pause",
    "failed": "error",
    "cancelled": "error",
}


class Responses(WireFormat):
    """The wire format of `/responses`."""

    name = "responses"
    schema_dialect = OPENAI_STRICT

    def request(self, call: Call, dialect: Dialect, issuer: Issuer) -> WireRequest:
        """Return the request for a call; the system prompt travels as `instructions`."""
        request = WireRequest(path="/responses")
        messages = fitting_ids(call.messages, issuer, dialect, TOOL_CALL_IDS)
        custom = {made.id for message in messages for made in message.tool_calls if made.kind == "custom"}
        items = [item for message in messages for item in _items(message, issuer, custom, dialect)]
        body: dict[str, Any] = {"model": call.model, "input": items}
        if call.instructions:
            body["instructions"] = call.instructions
        if call.previous_response_id:
            body["previous_response_id"] = call.previous_response_id
        body |= sampling_parameters(call, PARAMETERS, dialect, request)
        if "reasoning" in body:
            body["reasoning"] = {"effort": body["reasoning"]}
        if body.get("max_output_tokens", LEAST_OUTPUT_TOKENS) < LEAST_OUTPUT_TOKENS:
            body["max_output_tokens"] = LEAST_OUTPUT_TOKENS
            reason = f"the API takes no max_output_tokens under {LEAST_OUTPUT_TOKENS}"
            request.adjust("max_tokens", f"raised to {LEAST_OUTPUT_TOKENS}", reason)
        if call.stream:
            body["stream"] = True
        if call.background:
            body["background"] = True
        if call.tools:
            body["tools"] = [_tool(tool) for tool in call.tools]
        if call.tool_choice is not None:
            body["tool_choice"] = _tool_choice(call.tool_choice)
        if call.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = call.parallel_tool_calls
        if call.response_format is not None:
            body["text"] = {"format": _flat(call.response_format)}
        reasons = any(re.search(pattern, call.model) for pattern, _ in dialect.model_rules)
        if reasons and call.config.extra_params.get("store") is False:
            # What the service does not store, the caller has to bring back.
            body["include"] = ["reasoning.encrypted_content"]
        request.body = body
        return request

    def decoder(self) -> StreamDecoder:
        """Return a fresh decoder for one answer."""
        return ResponsesDecoder()


def _items(message: Message, issuer: Issuer, custom: Set[str], dialect: Dialect) -> list[dict[str, Any]]:
    """Return the input items of a message: several for one with tool calls, the native ones for their issuer.

    `custom` has the ids of the calls of custom tools, whose results are items of another type.
    """
    if message.role == ITEM:
        return [dict(part.data) for part in message.parts if isinstance(part, RawPart)]
    if message.role == "tool":
        kind = "custom_tool_call_output" if message.tool_call_id in custom else "function_call_output"
        return [{"type": kind, "call_id": message.tool_call_id, "output": _content(message)}]
    if message.native and message.issuer == issuer and _says_the_same(message):
        # A reasoning item must be followed by its own message or call, with ids: all of them go back, unchanged. One
        # that nothing follows, because the answer was cut, is refused.
        native = [dict(item) for item in message.native]
        while native and native[-1].get("type") == "reasoning":
            native.pop()
        return native
    items: list[dict[str, Any]] = []
    role = sent_role(message, dialect)
    if message.parts:
        items.append({"role": role, "content": _content(message)})
    elif message.refusal:
        items.append({"role": role, "content": message.refusal})
    return items + [_tool_call(call) for call in message.tool_calls]


def _says_the_same(message: Message) -> bool:
    """Return whether a message still says what its native items say: a caller may have edited it."""
    contents = [part for item in message.native if item.get("type") == "message" for part in item.get("content") or ()]
    text = "".join(part.get("text") or "" for part in contents if isinstance(part, Mapping))
    calls = [item for item in message.native if str(item.get("type")) in _CALL_TEXT]
    made = {str(item.get("call_id")): item.get(_CALL_TEXT[item["type"]]) or "" for item in calls}
    functions = {str(item.get("call_id")) for item in calls if item["type"] == "function_call"}
    told = {call.id: call.arguments_text for call in message.tool_calls}
    return text == message.text and functions <= told.keys() and told.items() <= made.items()


def _content(message: Message) -> str | list[dict[str, Any]]:
    is_text = all(isinstance(part, Text) and not part.extra for part in message.parts)
    if is_text and (len(message.parts) == 1 or message.role in ("assistant", "tool")):
        return message.text
    parts = [_input_part(part) for part in message.parts]
    if message.role == "assistant":
        return [part | {"type": "output_text"} if part.get("type") == "input_text" else part for part in parts]
    return parts


def _input_part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "input_text", "text": part.text, **part.extra}
        case Image():
            image: dict[str, Any] = {"type": "input_image", "detail": part.detail or "auto"}
            if part.file_id:
                return image | {"file_id": part.file_id, **part.extra}
            return image | {"image_url": part.url or data_url(part.media_type, part.data or b""), **part.extra}
        case Audio():
            audio = {"data": base64.b64encode(part.data).decode(), "format": part.format}
            return {"type": "input_audio", "input_audio": audio, **part.extra}
        case File():
            if part.file_id or part.url:
                key = "file_id" if part.file_id else "file_url"
                return {"type": "input_file", key: part.file_id or part.url, **part.extra}
            data = data_url(part.media_type, part.data or b"")
            return {"type": "input_file", "filename": part.filename, "file_data": data, **part.extra}
        case RawPart():
            return dict(part.data)


def _tool_call(call: ToolCall) -> dict[str, Any]:
    kind = "custom_tool_call" if call.kind == "custom" else "function_call"
    return {"type": kind, "call_id": call.id, "name": call.name, _CALL_TEXT[kind]: argument_text(call)}


def _tool(tool: Tool) -> dict[str, Any]:
    if tool.native is not None:
        return _flat(tool.native)
    named = {"description": tool.description, "parameters": tool.parameters or {"type": "object", "properties": {}}}
    # `strict` is required by the API, and true by default there, unlike in Chat Completions.
    sent = {"type": "function", "name": tool.name, "strict": tool.strict or False}
    return sent | {key: value for key, value in named.items() if value is not None} | dict(tool.extra)


def _tool_choice(choice: str | Mapping[str, Any]) -> Any:
    if isinstance(choice, str):
        return choice if choice in ("auto", "none", "required") else {"type": "function", "name": choice}
    return _flat(choice)


def _flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Chat Completions nests under the name of its type, as this API has it: in one object.

    This is how tools, their grammars, the choice of tools and JSON schemas differ between the two.
    """
    flat = dict(nested)
    inner = flat.pop(str(flat.get("type")), None)
    flat |= inner if isinstance(inner, Mapping) else {}
    if isinstance(flat.get("format"), Mapping):
        flat["format"] = _flat(flat["format"])
    if isinstance(flat.get("tools"), list):
        flat["tools"] = [_flat(tool) if isinstance(tool, Mapping) else tool for tool in flat["tools"]]
    return flat


class ResponsesDecoder(StreamDecoder):
    """Reads typed events and whole response objects.

    Pieces are told apart by `output_index`, or by `item_id` where a service numbers nothing, or not at all where it
    names nothing either. An item that came without deltas is read when it is done, or from the final object.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started = False
        self._id: str | None = None
        self._sequence_number: int | None = None
        self._calls: dict[Any, int] = {}
        self._with_deltas: set[Any] = set()
        self._text_item: Any = None
        self._items = 0
        self._own_tools = False
        self._refused = False
        self._reasoning_open = False

    @property
    def resume_point(self) -> tuple[str, int] | None:
        """Where a background answer can be taken up again (its guide, "Streaming a background response")."""
        return (self._id, self._sequence_number) if self._id and self._sequence_number is not None else None

    def on_event(self, type: str, data: dict[str, Any], events: list[Event]) -> None:
        """Dispatch on the type in the data, since some services name no event."""
        kind = data.get("type") or type
        self._sequence_number = data.get("sequence_number")
        if kind == "response.output_text.delta":
            delta = text_or_none(data["delta"])
            if delta:
                key = data.get("output_index")
                if key is None or key != self._text_item:
                    self._text_item = key
                    self._with_deltas.add(_key(data))
                events.append(TextDelta(delta))
            return
        handler = _HANDLERS.get(kind)
        if handler:
            handler(self, data, events)
        elif kind not in _REPEATED:
            events.append(UnknownEvent(kind, data))

    def on_body(self, body: dict[str, Any], events: list[Event]) -> None:
        """Read a whole response object."""
        if not isinstance(body["output"], list):
            raise TypeError("output is no list")
        self._on_final({"response": body}, events)

    def _on_start(self, data: dict[str, Any], events: list[Event]) -> None:
        response = data["response"]
        if self._started or not response.get("id"):
            return
        self._started = True
        self._id = text_or_none(response["id"])
        events.append(ResponseStart(self._id, text_or_none(response.get("model"))))
        # xAI reports the calls of its own tools as custom tool calls; no caller can answer them.
        tools = response.get("tools") or ()
        self._own_tools = bool(tools) and not any(tool.get("type") in _CUSTOM_TOOLS for tool in tools)

    def _on_refusal(self, data: dict[str, Any], events: list[Event]) -> None:
        delta = text_or_none(data["delta"])
        if delta:
            self._with_deltas.add(_key(data))
            self._refused = True
            events.append(RefusalDelta(delta))

    def _on_reasoning(self, data: dict[str, Any], events: list[Event]) -> None:
        delta = text_or_none(data["delta"])
        if delta:
            self._with_deltas.add(_key(data))
            self._reasoning_open = True
            events.append(ReasoningDelta(delta))

    def _on_summary_part(self, data: dict[str, Any], events: list[Event]) -> None:
        if self._reasoning_open:
            events.append(ReasoningDelta("\n\n"))

    def _on_item_added(self, data: dict[str, Any], events: list[Event]) -> None:
        if self._is_call(data["item"]):
            self._add_to_call(_key(data, data["item"]), data["item"], "", events)

    def _is_call(self, item: dict[str, Any]) -> bool:
        return item.get("type") == "function_call" or (item.get("type") == "custom_tool_call" and not self._own_tools)

    def _add_to_call(self, key: Any, item: dict[str, Any], text: str, events: list[Event]) -> None:
        position = self._calls.setdefault(key, len(self._calls))
        kind = "custom" if item["type"] == "custom_tool_call" else "function"
        id, name = text_or_none(item.get("call_id") or item.get("id")), text_or_none(item.get("name"))
        events.append(ToolCallDelta(position, id, name, text, kind))

    def _on_arguments(self, data: dict[str, Any], events: list[Event]) -> None:
        self._on_call_text("function_call", data, events)

    def _on_custom_input(self, data: dict[str, Any], events: list[Event]) -> None:
        self._on_call_text("custom_tool_call", data, events)

    def _on_call_text(self, kind: str, data: dict[str, Any], events: list[Event]) -> None:
        delta = text_or_none(data["delta"])
        if delta and self._is_call({"type": kind}):
            self._with_deltas.add(_key(data))
            self._add_to_call(_key(data), {"type": kind}, delta, events)

    def _on_item_done(self, data: dict[str, Any], events: list[Event]) -> None:
        item = data["item"]
        is_call = self._is_call(item)
        key = self._key_of_done(data, item, self._calls if is_call else self._with_deltas)
        self._items += 1
        if is_call:
            text = text_or_none(item.get(_CALL_TEXT[item["type"]])) or ""
            self._add_to_call(key, item, "" if key in self._with_deltas else text, events)
        elif key not in self._with_deltas:
            self._read_item(item, events)
        events.append(NativePart(item))

    def _key_of_done(self, data: dict[str, Any], item: dict[str, Any], known: Container[Any]) -> Any:
        """Return the key under which an item's pieces came: its number, its id or its place, or none at all."""
        key, place = _key(data, item), self._items if data.get("output_index") is None else None
        return next((found for found in (key, item.get("id"), place, None) if found in known), key)

    def _read_item(self, item: dict[str, Any], events: list[Event]) -> None:
        """Read a message or reasoning item that came whole."""
        parts = (item.get("summary") or []) + (item.get("content") or [])
        for part in parts:
            kind, text = part.get("type"), text_or_none(part.get("text") or part.get("refusal"))
            if not text:
                continue
            if kind in ("summary_text", "reasoning_text"):
                events.append(ReasoningDelta(f"\n\n{text}" if self._reasoning_open else text))
                self._reasoning_open = True
            elif kind == "refusal":
                self._refused = True
                events.append(RefusalDelta(text))
            elif kind == "output_text":
                events.append(TextDelta(text))

    def _on_final(self, data: dict[str, Any], events: list[Event]) -> None:
        response = data["response"]
        self._on_start(data, events)
        if response.get("status") == "failed" or response.get("error"):
            self._on_failure(data, events)
            return
        if not self._items:
            # Where deltas had no numbers, the items of the final object have none, either.
            numbered = all(isinstance(key, int) for key in (*self._with_deltas, *self._calls))
            for index, item in enumerate(response.get("output") or ()):
                self._on_item_done({"item": item, "output_index": index if numbered else None}, events)
        if response.get("usage"):
            events.append(UsageReport(read_usage(response["usage"])))
        raw = text_or_none((response.get("incomplete_details") or {}).get("reason") or response.get("status"))
        reason: FinishReason = FINISH_REASONS.get(raw or "completed", "other")
        if reason == "stop" and (self._calls or self._refused):
            reason = "tool_calls" if self._calls else "content_filter"
        events.append(Finish(reason, raw))
        self.raw = response if self.keep_text else response | {"output": []}
        self.finished = True

    def _on_failure(self, data: dict[str, Any], events: list[Event]) -> None:
        failed = data.get("response") or data
        if failed.get("error") or failed.get("message"):
            raise error_from_body(failed)
        raise LLMProviderServerError("the service reports that the response failed", body=excerpt(failed))


def _key(data: dict[str, Any], item: dict[str, Any] | None = None) -> Any:
    key = data.get("output_index")
    return key if key is not None else data.get("item_id") or (item or {}).get("id")


_CUSTOM_TOOLS: Final = frozenset({"custom", "namespace", "tool_search", "programmatic_tool_calling"})

# Item type → where the text of the call stands.
_CALL_TEXT: Final = {"function_call": "arguments", "custom_tool_call": "input"}

_HANDLERS: Final[Mapping[str, Callable[[ResponsesDecoder, dict[str, Any], list[Event]], None]]] = {
    "response.created": ResponsesDecoder._on_start,
    "response.queued": ResponsesDecoder._on_start,
    "response.in_progress": ResponsesDecoder._on_start,
    "response.refusal.delta": ResponsesDecoder._on_refusal,
    "response.reasoning_text.delta": ResponsesDecoder._on_reasoning,
    "response.reasoning_summary_text.delta": ResponsesDecoder._on_reasoning,
    "response.reasoning_summary_part.added": ResponsesDecoder._on_summary_part,
    "response.output_item.added": ResponsesDecoder._on_item_added,
    "response.function_call_arguments.delta": ResponsesDecoder._on_arguments,
    "response.custom_tool_call_input.delta": ResponsesDecoder._on_custom_input,
    "response.output_item.done": ResponsesDecoder._on_item_done,
    "response.completed": ResponsesDecoder._on_final,
    "response.incomplete": ResponsesDecoder._on_final,
    "response.cancelled": ResponsesDecoder._on_final,
    "response.failed": ResponsesDecoder._on_failure,
    "error": ResponsesDecoder._on_failure,
}

# These say again what other events say.
_REPEATED: Final = frozenset(
    f"response.{name}"
    for name in (
        "content_part.added",
        "content_part.done",
        "output_text.done",
        "refusal.done",
        "reasoning_text.done",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "function_call_arguments.done",
        "custom_tool_call_input.done",
    )
)


def read_usage(raw: Mapping[str, Any]) -> Usage:
    """Return the usage in disjoint parts: `input_tokens` includes the cached, `output_tokens` the reasoning."""
    total, inputs = counts(raw), counts(raw.get("input_tokens_details"))
    cache_read, cache_write, uncached = split_total(
        total["input_tokens"], inputs["cached_tokens"], inputs["cache_write_tokens"]
    )
    details = counts(raw.get("output_tokens_details"))
    reasoning, text = split_total(total["output_tokens"], details["reasoning_tokens"])
    return Usage(uncached, cache_read, cache_write, output_text=text, reasoning=reasoning, raw=dict(raw))
