"""Replies as bytes of OpenAI's two APIs, whole and streamed. Pure.

Source: the vendor's API reference, "Chat Completions", "Responses" and their pages on streaming.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ..config import APIType
from ..errors import LLMProviderError, LLMProviderStreamError
from ..response import ToolCall, argument_text
from .faults import NetworkFailure, error_object, error_response, network_failure
from .replies import Reply, ScriptedCall

__all__ = ["Answer", "operation", "render"]

DIMENSIONS: Final = 8
# What a reply's finish reason is in a response: its status, and why it is incomplete.
STATUSES: Final[Mapping[str, tuple[str, str | None]]] = {
    "length": ("incomplete", "max_output_tokens"),
    "content_filter": ("incomplete", "content_filter"),
    "pause": ("in_progress", None),
    "error": ("cancelled", None),
    "other": ("incomplete", "other"),
}
# The kind of a call → its item in a response, and where its text stands in either API.
ITEMS: Final = {"function": ("function_call", "arguments"), "custom": ("custom_tool_call", "input")}

Sent = bytes | float | NetworkFailure | Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a scripted service sends: bytes, with seconds to wait, functions to call and failures between them.

    Where `status` is 0 no head of an answer comes, and the only step is a failure.
    """

    steps: Sequence[Sent]
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


def render(reply: Reply, call: ScriptedCall, number: int) -> Answer:
    """Return what a service would send for a reply, the `number`th of its script, to a call."""
    form = (_Response if call.api_type is APIType.RESPONSES else _Completion)(reply, call, number)
    if not call.body.get("stream"):
        return _whole(form, reply)
    first = reply.steps[0] if reply.steps else None
    if isinstance(first, LLMProviderError) and not isinstance(first, LLMProviderStreamError):
        return _failed(first, [], reply)
    return Answer(list(_streamed(form, reply)), headers={"content-type": "text/event-stream", **reply.headers})


def operation(method: str, route: str, body: Mapping[str, Any]) -> Answer | None:
    """Return the answer to what asks no model, None for what does: embeddings made of digests, one model, a count."""
    answers: dict[tuple[str, str], Callable[[], dict[str, Any]]] = {
        ("POST", "/embeddings"): lambda: _embeddings(body),
        ("GET", "/models"): lambda: {"data": [{"id": "scripted-model"}]},
        ("POST", "/responses/input_tokens"): lambda: {"input_tokens": len(json.dumps(body)) // 4},
    }
    answer = answers.get((method, route))
    if answer:
        return Answer([json.dumps(answer()).encode()])
    return Answer([b'{"deleted": true}']) if method == "DELETE" else None


def _embeddings(body: Mapping[str, Any]) -> dict[str, Any]:
    count = body.get("dimensions") or DIMENSIONS
    rows = [
        {"index": index, "embedding": [_number(f"{place} {text}") for place in range(count)]}
        for index, text in enumerate(body["input"])
    ]
    return {"data": rows, "model": body["model"]}


def _number(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) / 2**31 - 1


def _whole(form: _Completion | _Response, reply: Reply) -> Answer:
    steps: list[Sent] = []
    for step in reply.steps:
        if isinstance(step, LLMProviderError):
            return _failed(step, steps, reply)
        if not isinstance(step, str | ToolCall):
            steps.append(step)
    body = json.dumps(form.body(), ensure_ascii=False).encode()
    return Answer([*steps, body], headers={"content-type": "application/json", **reply.headers})


def _failed(error: LLMProviderError, before: Sequence[Sent], reply: Reply) -> Answer:
    """Return the answer that is an error: of the network before any head of an answer, unless steps come first."""
    failure = network_failure(error)
    if failure:
        has_head = before or isinstance(error, LLMProviderStreamError)
        return Answer([*before, failure], status=200 if has_head else 0, headers=reply.headers)
    status, headers, body = error_response(error)
    return Answer([*before, body], status, {"content-type": "application/json", **headers, **reply.headers})


def _streamed(form: _Completion | _Response, reply: Reply) -> Iterator[Sent]:
    yield from form.begin()
    for step in reply.steps:
        if isinstance(step, LLMProviderError):
            yield network_failure(step) or _event(error_object(step))
            return
        if isinstance(step, str):
            yield from form.text_delta(step) if step else ()
        elif isinstance(step, ToolCall):
            yield from form.call_deltas()
        else:
            yield step
    yield from form.end()


class _Told:
    """What a reply says as a whole."""

    def __init__(self, reply: Reply, call: ScriptedCall, number: int) -> None:
        self.id = f"reply-{number}"
        self.model = call.body.get("model", "scripted-model")
        self.reply = reply
        self.text = "".join(step for step in reply.steps if isinstance(step, str))
        self.calls = [step for step in reply.steps if isinstance(step, ToolCall)]
        self.ids = [call.id or f"call_{number}_{index}" for index, call in enumerate(self.calls)]
        self.finish_reason = reply.finish_reason or ("tool_calls" if self.calls else "stop")
        self.called = 0


class _Completion(_Told):
    """A reply as Chat Completions."""

    def body(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text or None, **self._beside()}
        if self.calls:
            message["tool_calls"] = [self._call(index, argument_text(call)) for index, call in enumerate(self.calls)]
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        return {**self._named("chat.completion"), "choices": [choice], "usage": self._usage()}

    def begin(self) -> Iterator[bytes]:
        yield self._chunk({"role": "assistant", "content": ""})
        for name, text in self._beside().items():
            yield self._chunk({name: text})

    def text_delta(self, text: str) -> Iterator[bytes]:
        yield self._chunk({"content": text})

    def call_deltas(self) -> Iterator[bytes]:
        index, call = self.called, self.calls[self.called]
        self.called += 1
        yield self._chunk({"tool_calls": [{"index": index, **self._call(index, "")}]})
        _, name = ITEMS[call.kind]
        for piece in _halves(argument_text(call)):
            yield self._chunk({"tool_calls": [{"index": index, call.kind: {name: piece}}]})

    def end(self) -> Iterator[bytes]:
        yield self._chunk({}, self.finish_reason)
        yield _event({**self._named("chat.completion.chunk"), "choices": [], "usage": self._usage()})
        yield b"data: [DONE]\n\n"

    def _beside(self) -> dict[str, str]:
        named = {"reasoning": self.reply.reasoning, "refusal": self.reply.refusal}
        return {name: text for name, text in named.items() if text}

    def _named(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "model": self.model}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _event({**self._named("chat.completion.chunk"), "choices": [choice]})

    def _call(self, index: int, text: str) -> dict[str, Any]:
        call = self.calls[index]
        _, name = ITEMS[call.kind]
        return {"id": self.ids[index], "type": call.kind, call.kind: {"name": call.name, name: text}}

    def _usage(self) -> dict[str, Any]:
        usage = self.reply.usage
        return {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
            "prompt_tokens_details": {
                "cached_tokens": usage.cache_read,
                "cache_write_tokens": usage.cache_write,
                "audio_tokens": usage.input_audio,
            },
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning, "audio_tokens": usage.output_audio},
        }


class _Response(_Told):
    """A reply as Responses."""

    def body(self) -> dict[str, Any]:
        status, reason = STATUSES.get(self.finish_reason, ("completed", None))
        usage = self.reply.usage
        return {
            "id": self.id,
            "object": "response",
            "model": self.model,
            "status": status,
            "incomplete_details": {"reason": reason} if reason else None,
            "output": self._items(),
            "usage": {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "total_tokens": usage.total_tokens,
                "input_tokens_details": {
                    "cached_tokens": usage.cache_read,
                    "cache_write_tokens": usage.cache_write,
                },
                "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            },
        }

    def begin(self) -> Iterator[bytes]:
        started = {**self.body(), "status": "in_progress", "output": [], "usage": None}
        yield self._event("response.created", response=started)
        if self.reply.reasoning:
            yield self._added(0)
            yield self._event("response.reasoning_summary_text.delta", output_index=0, delta=self.reply.reasoning)
            yield self._done(0)
        if self._has_message():
            yield self._added(self._message_index())
        if self.reply.refusal:
            yield self._delta("response.refusal.delta", self.reply.refusal)

    def text_delta(self, text: str) -> Iterator[bytes]:
        yield self._delta("response.output_text.delta", text)

    def call_deltas(self) -> Iterator[bytes]:
        call = self.calls[self.called]
        index = self._message_index() + self._has_message() + self.called
        self.called += 1
        kind, name = ITEMS[call.kind]
        yield self._event("response.output_item.added", output_index=index, item={**self._items()[index], name: ""})
        for piece in _halves(argument_text(call)):
            yield self._event(f"response.{kind}_{name}.delta", output_index=index, delta=piece)
        yield self._done(index)

    def end(self) -> Iterator[bytes]:
        if self._has_message():
            yield self._done(self._message_index())
        body = self.body()
        kind = body["status"] if body["status"] in ("incomplete", "cancelled") else "completed"
        yield self._event(f"response.{kind}", response=body)

    def _has_message(self) -> bool:
        return bool(self.text or self.reply.refusal or not self.calls)

    def _message_index(self) -> int:
        return 1 if self.reply.reasoning else 0

    def _items(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        if self.reply.reasoning:
            summary = [{"type": "summary_text", "text": self.reply.reasoning}]
            items.append({"type": "reasoning", "id": f"rs_{self.id}", "summary": summary})
        if self._has_message():
            content = [{"type": "output_text", "text": self.text, "annotations": []}] if self.text else []
            content += [{"type": "refusal", "refusal": self.reply.refusal}] if self.reply.refusal else []
            items.append({"type": "message", "id": f"msg_{self.id}", "role": "assistant", "content": content})
        for id, call in zip(self.ids, self.calls, strict=True):
            kind, name = ITEMS[call.kind]
            named = {"id": f"item_{id}", "call_id": id, "name": call.name}
            items.append({"type": kind, **named, name: argument_text(call)})
        return items

    def _added(self, index: int) -> bytes:
        empty = {**self._items()[index], "content": [], "summary": []}
        return self._event("response.output_item.added", output_index=index, item=empty)

    def _done(self, index: int) -> bytes:
        return self._event("response.output_item.done", output_index=index, item=self._items()[index])

    def _delta(self, kind: str, text: str) -> bytes:
        return self._event(kind, output_index=self._message_index(), content_index=0, delta=text)

    def _event(self, kind: str, **data: Any) -> bytes:
        return f"event: {kind}\n".encode() + _event({"type": kind, **data})


def _halves(text: str) -> list[str]:
    """Return a text in two pieces, as services cut the arguments of a call wherever it happens."""
    middle = len(text) // 2
    return [piece for piece in (text[:middle], text[middle:]) if piece]


def _event(data: Any) -> bytes:
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
