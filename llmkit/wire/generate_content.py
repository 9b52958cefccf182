"""Gemini generateContent.

Source: ai.google.dev/gemini-api/docs, the API reference and its pages on thinking, thought signatures and function
calling, and recorded answers of the Gemini API, of Vertex AI and of gateways in front of them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from ..call import Call, ToolChoice
from ..errors import (
    LLMProviderBadRequestError,
    LLMProviderContentFilterError,
    LLMProviderServerError,
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
from ..schema import GEMINI
from ..tools import Tool
from . import (
    SYSTEM_ROLES,
    Dialect,
    StreamDecoder,
    WireFormat,
    WireRequest,
    arguments_object,
    counts,
    join_pieces,
    sampling_parameters,
    split_total,
    split_turns,
    text_or_none,
)
from .operations import gemini_model, gemini_version

__all__ = ["GenerateContent"]

DEFAULT_VERSION: Final = "v1"

PARAMETERS: Final = {
    "temperature": "temperature",
    "max_tokens": "maxOutputTokens",
    "top_p": "topP",
    "frequency_penalty": "frequencyPenalty",
    "presence_penalty": "presencePenalty",
    "stop": "stopSequences",
    "seed": "seed",
    "reasoning_effort": "thinkingConfig",
}

# Models before the third generation are given a budget of tokens to think, later ones a level.
BUDGET_MODELS: Final = r"gemini-[12]\b"
BUDGETS: Final = {
    "none": 0,
    "minimal": 512,
    "low": 1_024,
    "medium": 8_192,
    "high": 24_576,
    "xhigh": 24_576,
    "max": 24_576,
}
LEVELS: Final = {"none": "MINIMAL", "max": "XHIGH"}
# ai.google.dev/gemini-api/docs/gemini-3: below 1.0 these may loop; and their calls must have a signature.
SIGNING_MODELS: Final = r"gemini-([3-9]|\d\d|flash|pro)"
NO_SIGNATURE: Final = "skip_thought_signature_validator"

MEDIA_TYPES: Final = {
    **{ending: f"image/{ending}" for ending in ("png", "jpeg", "webp", "gif", "heic", "heif")},
    "jpg": "image/jpeg",
    "pdf": "application/pdf",
    "mp4": "video/mp4",
}
MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY"}

FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "CONTINUATION": "length",
    **dict.fromkeys(
        ("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR", "ESCALATION"),
        "content_filter",
    ),
    **dict.fromkeys(("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION"), "content_filter"),
    **dict.fromkeys(("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS"), "error"),
    **dict.fromkeys(("MISSING_THOUGHT_SIGNATURE", "MALFORMED_RESPONSE", "NO_IMAGE", "LANGUAGE"), "error"),
}


class GenerateContent(WireFormat):
    """The wire format of `/models/{model}:generateContent`.

    The version stands in the path: `api_version`, "v1" by default; an empty one leaves it to the base URL.
    """

    name = "generate_content"
    schema_dialect = GEMINI

    def request(self, call: Call, dialect: Dialect, issuer: Issuer) -> WireRequest:
        """Return the request for a call; the model's name cannot lead to another path."""
        if call.previous_response_id:
            raise LLMProviderUnsupportedOperationError("generateContent stores no responses; send the history")
        if call.parallel_tool_calls is False:
            raise LLMProviderUnsupportedOperationError("generateContent cannot forbid parallel_tool_calls")
        request = WireRequest(path=_path(call), query={"alt": "sse"} if call.stream else {})
        opening, turns = split_turns(call.messages)
        system = [part for message in opening for part in _parts(message.parts)]
        if call.instructions:
            system.insert(0, {"text": call.instructions})
        body: dict[str, Any] = {"contents": _contents(turns, call, issuer, request)}
        if not body["contents"]:
            raise LLMProviderBadRequestError("the prompt is empty; generateContent wants a text")
        if system:
            body["systemInstruction"] = {"parts": system}
        declared = [_declaration(tool) for tool in call.tools if tool.native is None]
        tools = [dict(tool.native) for tool in call.tools if tool.native is not None]
        if declared or tools:
            body["tools"] = [{"functionDeclarations": declared}, *tools] if declared else tools
        tool_config = _tool_config(call.tool_choice, is_strict=any(tool.strict for tool in call.tools))
        if tool_config:
            body["toolConfig"] = tool_config
        config = _generation_config(call, dialect, request)
        if "tools" in body and "responseMimeType" in config and re.search(BUDGET_MODELS, call.model):
            told = "takes no response_format beside tools; newer models do, and so does a call without tools"
            raise LLMProviderUnsupportedOperationError(f"{call.model} {told}")
        if config:
            body["generationConfig"] = config
        request.body = body
        return request

    def decoder(self) -> StreamDecoder:
        """Return a fresh decoder for one answer."""
        return GenerateContentDecoder()


def _path(call: Call) -> str:
    method = "streamGenerateContent" if call.stream else "generateContent"
    kind, name = gemini_model(call.model)
    return f"{gemini_version(call.config.api_version, DEFAULT_VERSION)}/{kind}/{quote(name, safe='')}:{method}"


def _contents(turns: list[list[Message]], call: Call, issuer: Issuer, request: WireRequest) -> list[dict[str, Any]]:
    """Return the contents; a tool's result gets the name, and where there is one the id, of the call it answers."""
    contents: list[dict[str, Any]] = []
    calls: dict[str, tuple[str, str | None]] = {}
    for turn in turns:
        is_model = turn[0].role == "assistant"
        if is_model:
            parts = [part for message in turn for part in _answer(message, issuer, calls, call.model)]
        else:
            parts = [_function_response(message, calls) for message in turn if message.role == "tool"]
            parts += [part for message in turn if message.role != "tool" for part in _parts(message.parts)]
            if any(message.role in SYSTEM_ROLES for message in turn):
                request.adjust("messages", "system message sent as user's", "the API takes it at the start only")
        role = "model" if is_model else "user"
        if parts and contents and contents[-1]["role"] == role:
            contents[-1]["parts"] += parts
        elif parts:
            contents.append({"role": role, "parts": parts})
    return contents


def _answer(
    message: Message, issuer: Issuer, calls: dict[str, tuple[str, str | None]], model: str
) -> list[dict[str, Any]]:
    """Return the parts of the model's message, and remember its calls."""
    if message.native and message.issuer == issuer and _says_the_same(message):
        # A thought signature goes back on the very part that it came on.
        native = [dict(part) for part in message.native]
        ids = [part["functionCall"].get("id") for part in native if part.get("functionCall")]
        calls |= {call.id: (call.name, id) for call, id in zip(message.tool_calls, ids, strict=True)}
        return native
    calls |= {call.id: (call.name, call.id) for call in message.tool_calls}
    function_calls = [_function_call(call) for call in message.tool_calls]
    if function_calls and re.search(SIGNING_MODELS, model):
        function_calls[0]["thoughtSignature"] = NO_SIGNATURE
    return (_parts(message.parts) or _parts([Text(message.refusal or "")])) + function_calls


def _says_the_same(message: Message) -> bool:
    """Return whether a message still says what its native parts say: a caller may have edited it."""
    text = "".join(part.get("text") or "" for part in message.native if not part.get("thought"))
    made = [part["functionCall"] for part in message.native if part.get("functionCall")]
    calls = [(call.name, arguments_object(call)) for call in message.tool_calls]
    return text == message.text and calls == [(call["name"], call.get("args") or {}) for call in made]


def _function_call(call: ToolCall) -> dict[str, Any]:
    return {"functionCall": {"id": call.id, "name": call.name, "args": arguments_object(call)}}


def _function_response(message: Message, calls: Mapping[str, tuple[str, str | None]]) -> dict[str, Any]:
    name, id = calls.get(message.tool_call_id or "", (message.name, None))
    if not name:
        raise LLMProviderUnsupportedOperationError(
            f"generateContent wants the name of the function that a result is of, and no message before calls it: "
            f"tool_call_id is {message.tool_call_id!r}"
        )
    sent: dict[str, Any] = {"name": name, "response": {"error" if message.is_error else "result": message.text}}
    parts = _parts(part for part in message.parts if not isinstance(part, Text))
    return {"functionResponse": sent | ({"id": id} if id else {}) | ({"parts": parts} if parts else {})}


def _parts(parts: Iterable[Part]) -> list[dict[str, Any]]:
    """Return the parts of a content; an empty text is none."""
    return [_part(part) for part in parts if not isinstance(part, Text) or part.text]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"text": part.text, **part.extra}
        case Image(data=None) | File(data=None):
            # The service knows the type of a file that was uploaded to it; that of a URL is told by its ending, where
            # the caller has not set another than the default.
            is_set = isinstance(part, File) and part.media_type != MEDIA_TYPES["pdf"]
            ending = urlsplit(part.url or "").path.rpartition(".")[2].lower()
            known = part.media_type if is_set else MEDIA_TYPES.get(ending)
            data = {"fileUri": part.file_id or part.url} | ({"mimeType": known} if known else {})
            return {"fileData": data, **part.extra}
        case Image() | File():
            return {"inlineData": _blob(part.media_type, part.data or b""), **part.extra}
        case Audio():
            return {"inlineData": _blob(f"audio/{part.format}", part.data), **part.extra}
        case RawPart():
            return dict(part.data)


def _blob(media_type: str, data: bytes) -> dict[str, str]:
    return {"mimeType": media_type, "data": base64.b64encode(data).decode()}


def _declaration(tool: Tool) -> dict[str, Any]:
    declared: dict[str, Any] = {"name": tool.name, "description": tool.description or ""}
    return declared | ({"parametersJsonSchema": dict(tool.parameters)} if tool.parameters else {}) | dict(tool.extra)


def _tool_config(choice: ToolChoice | None, *, is_strict: bool) -> dict[str, Any]:
    """Return the `toolConfig`; the mode VALIDATED, not the tool, makes the model keep to a schema."""
    if isinstance(choice, Mapping):
        function = choice.get("function") or choice
        if choice.get("type") != "function":
            return {"functionCallingConfig": dict(choice)} if "mode" in choice else dict(choice)
        choice = str(function["name"])
    if choice is None or choice == "auto":
        mode = "VALIDATED" if is_strict else "AUTO"
        return {"functionCallingConfig": {"mode": mode}} if choice or is_strict else {}
    if choice in MODES:
        return {"functionCallingConfig": {"mode": MODES[choice]}}
    return {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [choice]}}


def _generation_config(call: Call, dialect: Dialect, request: WireRequest) -> dict[str, Any]:
    refusals = {}
    if re.search(SIGNING_MODELS, call.model):
        refusals["temperature"] = f"{call.model} works best with its own"
    config = sampling_parameters(call, PARAMETERS, dialect, request, refusals)
    if "thinkingConfig" in config:
        config["thinkingConfig"] = _thinking(config["thinkingConfig"], call.model, request)
    return config | _response_format(call.response_format or {"type": "text"})


def _thinking(effort: str, model: str, request: WireRequest) -> dict[str, Any]:
    if re.search(BUDGET_MODELS, model):
        return {"includeThoughts": effort != "none", "thinkingBudget": BUDGETS[effort]}
    if effort in LEVELS:
        request.adjust("reasoning_effort", f"sent as {LEVELS[effort]}", "it is the nearest that the API has")
    return {"includeThoughts": effort != "none", "thinkingLevel": LEVELS.get(effort, effort.upper())}


def _response_format(response_format: Mapping[str, Any]) -> dict[str, Any]:
    kind, inner = response_format.get("type"), response_format.get("json_schema")
    schema = (inner if isinstance(inner, Mapping) else response_format).get("schema")
    if kind == "json_schema" and isinstance(schema, Mapping):
        return {"responseMimeType": "application/json", "responseJsonSchema": dict(schema)}
    if kind == "json_object":
        return {"responseMimeType": "application/json"}
    if kind == "text":
        return {}
    raise LLMProviderUnsupportedOperationError(
        f"response_format is {dict(response_format)!r}; generateContent takes text, json_object and json_schema"
    )


class GenerateContentDecoder(StreamDecoder):
    """Reads chunks, and whole answers, which have the same shape; only candidate 0 is read.

    There is no end marker: an answer is complete once a finish reason was seen. A blocked prompt has no answer:
    it is an LLMProviderContentFilterError, as where other services answer 400. Every part is a native part once
    it is whole, in the order in which it came, so that signatures stay where they were; pieces of text are joined.
    """

    def __init__(self) -> None:
        super().__init__()
        self._started = False
        self._answer: dict[str, Any] = {}
        self._candidate: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._parts: list[dict[str, Any]] = []
        self._pieces: list[str] = []
        self._is_thought = False
        self._calls = 0
        self._raw_finish: str | None = None

    def on_event(self, type: str, data: dict[str, Any], events: list[Event]) -> None:
        """Read one chunk."""
        if not self._started and (data.get("responseId") or data.get("modelVersion")):
            self._started = True
            events.append(ResponseStart(*(text_or_none(data.get(name)) for name in ("responseId", "modelVersion"))))
        self._answer.update(data)
        candidates, usage, feedback = (data.get(name) for name in ("candidates", "usageMetadata", "promptFeedback"))
        for candidate in candidates or ():
            if not candidate.get("index"):
                self._read_candidate(candidate, events)
        if usage:
            self._read_usage(usage, events)
        if feedback and feedback.get("blockReason"):
            reason, told = feedback["blockReason"], feedback.get("blockReasonMessage")
            message = f"the service blocked the prompt ({reason}){f': {told}' if told else ''}"
            self.failure = LLMProviderContentFilterError(message, code=str(reason))
        if candidates is usage is feedback is None:
            events.append(UnknownEvent(type, data))

    def on_body(self, body: dict[str, Any], events: list[Event]) -> None:
        """Read a whole answer."""
        self.on_event("message", body, events)
        if self._candidate:
            self.finished = True
            self._close(events)
        elif not self.failure:
            self.failure = LLMProviderServerError("the service sent no candidate, and no reason why")

    def on_end(self, events: list[Event]) -> bool:
        """Return whether a finish reason was seen."""
        if not self.finished and self._raw_finish:
            self.finished = True
            self._close(events)
        return self.finished

    def _read_candidate(self, candidate: dict[str, Any], events: list[Event]) -> None:
        for part in (candidate.get("content") or {}).get("parts") or ():
            self._read_part(part, events)
        self._candidate.update(candidate)
        finish = text_or_none(candidate.get("finishReason"))
        if finish and finish != "FINISH_REASON_UNSPECIFIED":
            self._raw_finish = finish

    def _read_part(self, part: dict[str, Any], events: list[Event]) -> None:
        text, is_thought = text_or_none(part.get("text")), bool(part.get("thought"))
        if text:
            events.append(ReasoningDelta(text) if is_thought else TextDelta(text))
        if is_thought is not self._is_thought or not part.keys() <= {"text", "thought"}:
            self._close_text(events)
        if part.keys() <= {"text", "thought"}:
            self._is_thought = is_thought
            if self.keep_text:
                self._pieces.append(text or "")
            return
        call = part.get("functionCall")
        if call is not None:
            arguments = json.dumps(call.get("args") or {}, ensure_ascii=False)
            id, name = text_or_none(call.get("id")), text_or_none(call["name"])
            events.append(ToolCallDelta(self._calls, id or None, name, arguments))
            self._calls += 1
        self._keep(part, events)

    def _close_text(self, events: list[Event]) -> None:
        text = join_pieces(self._pieces)
        self._pieces = []
        if text:
            self._keep({"text": text, "thought": True} if self._is_thought else {"text": text}, events)

    def _keep(self, part: dict[str, Any], events: list[Event]) -> None:
        if self.keep_text:
            self._parts.append(part)
            events.append(NativePart(part))

    def _read_usage(self, usage: dict[str, Any], events: list[Event]) -> None:
        """Take the last figure of each key: they can fall, and keys can be missing from a later chunk."""
        self._usage |= {key: value for key, value in usage.items() if value is not None}
        if "promptTokenCount" in self._usage or "totalTokenCount" in self._usage:
            events.append(UsageReport(read_usage(self._usage)))

    def _close(self, events: list[Event]) -> None:
        self._close_text(events)
        raw = self._raw_finish
        reason: FinishReason = FINISH_REASONS.get(raw, "other") if raw else "stop"
        told = self._candidate.get("finishMessage")
        if reason == "content_filter" and told:
            events.append(RefusalDelta(str(told)))
        events.append(Finish("tool_calls" if reason == "stop" and self._calls else reason, raw))
        content = {"role": "model", "parts": self._parts}
        self.raw = self._answer | {"candidates": [self._candidate | {"content": content}]}
        self.raw["usageMetadata"] = self._usage


def read_usage(raw: Mapping[str, Any]) -> Usage:
    """Return the usage in disjoint parts.

    `promptTokenCount` includes the cached and excludes the prompts of the service's own tools;
    `candidatesTokenCount` excludes the thoughts.
    """
    total = counts(raw)
    prompt = total["promptTokenCount"] + total["toolUsePromptTokenCount"]
    audio = _audio(raw.get("promptTokensDetails")) - _audio(raw.get("cacheTokensDetails"))
    cache_read, input_audio, uncached = split_total(prompt, total["cachedContentTokenCount"], max(0, audio))
    output_audio, text = split_total(total["candidatesTokenCount"], _audio(raw.get("candidatesTokensDetails")))
    return Usage(uncached, cache_read, 0, input_audio, text, total["thoughtsTokenCount"], output_audio, dict(raw))


def _audio(details: Any) -> int:
    listed = details if isinstance(details, list) else ()
    return sum(counts(d)["tokenCount"] for d in listed if isinstance(d, Mapping) and d.get("modality") == "AUDIO")
