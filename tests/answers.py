"""What the APIs answer, for the test server: the same story told by each API, whole and streamed. Depends on nothing.

Every test that holds for all APIs takes its `api` from `APIS`: `plain` is an answer's body, `stream` its events.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .server import event

__all__ = [
    "ALL_APIS",
    "APIS",
    "MODEL",
    "AnyApi",
    "Api",
    "ChatCompletions",
    "GenerateContent",
    "Messages",
    "Responses",
    "error_body",
]

MODEL = "gpt-4o-2024-08-06"


class ChatCompletions:
    """OpenAI's Chat Completions."""

    name = "chat_completions"
    api_type = "chat_completion"
    path = "/v1/chat/completions"
    id = "chatcmpl-1"
    usage: ClassVar = {
        "prompt_tokens": 11,
        "completion_tokens": 7,
        "total_tokens": 18,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }

    def plain(self, text: str | None = "Hello!", *, finish: str = "stop", calls: Any = (), **message: Any) -> Any:
        """Return the body of a whole answer; `calls` are pairs of name and arguments."""
        message = {"role": "assistant", "content": text, **message}
        if calls:
            message["tool_calls"] = [self._call(position, *call) for position, call in enumerate(calls)]
        choice = {"index": 0, "message": message, "finish_reason": finish}
        return {"id": self.id, "object": "chat.completion", "model": MODEL, "choices": [choice], "usage": self.usage}

    def stream(self, *texts: str, finish: str = "stop", calls: Any = (), **delta: Any) -> list[bytes]:
        """Return the events of an answer, its end included; arguments of calls come in pieces of five characters."""
        events = self.begun(*texts) + ([self._chunk(delta)] if delta else [])
        for position, (name, arguments) in enumerate(calls):
            events.append(self._chunk({"tool_calls": [{"index": position, **self._call(position, name, "")}]}))
            for piece in _fives(arguments):
                events.append(self._chunk({"tool_calls": [{"index": position, "function": {"arguments": piece}}]}))
        events += [self._chunk({}, finish), event({"id": self.id, "model": MODEL, "choices": [], "usage": self.usage})]
        return [*events, event("[DONE]")]

    def begun(self, *texts: str) -> list[bytes]:
        """Return the events of an answer up to these texts."""
        return [self._chunk({"role": "assistant", "content": ""}), *(self.delta(text) for text in texts)]

    def delta(self, text: str) -> bytes:
        """Return the event of a piece of text."""
        return self._chunk({"content": text})

    def error(self, message: str, **fields: Any) -> bytes:
        """Return the event of an error."""
        return event(error_body(message, type=fields.get("code"), **fields))

    def sent_text(self, body: Any) -> str:
        """Return the last message of a request."""
        text: str = body["messages"][-1]["content"]
        return text

    def _chunk(self, delta: Any, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return event({"id": self.id, "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]})

    def _call(self, position: int, name: str, arguments: str) -> dict[str, Any]:
        return {"id": f"call_{position}", "type": "function", "function": {"name": name, "arguments": arguments}}


class Responses:
    """OpenAI's Responses."""

    name = "responses"
    api_type = "responses"
    path = "/v1/responses"
    id = "resp_1"
    usage: ClassVar = {
        "input_tokens": 11,
        "output_tokens": 7,
        "total_tokens": 18,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 2},
    }

    def plain(self, text: str | None = "Hello!", *, calls: Any = (), items: Any = (), **response: Any) -> Any:
        """Return the body of a whole answer; `items` come before its message, `calls` after it."""
        output = list(items)
        if text is not None:
            output.append(self._message([{"type": "output_text", "text": text, "annotations": []}]))
        output += [self._call(position, *call) for position, call in enumerate(calls)]
        return {
            "id": self.id,
            "object": "response",
            "status": "completed",
            "model": MODEL,
            "output": output,
            "usage": self.usage,
            **response,
        }

    def stream(self, *texts: str, calls: Any = (), items: Any = (), **response: Any) -> list[bytes]:
        """Return the events of an answer, its end included; arguments of calls come in pieces of five characters."""
        whole = self.plain("".join(texts) if texts else None, calls=calls, items=items, **response)
        events = self.begun()
        position = len(items)
        for index, item in enumerate(items):
            events.append(self._event("response.output_item.added", output_index=index, item=item))
            events.append(self._event("response.output_item.done", output_index=index, item=item))
        if texts:
            events += self.begun(*texts, position=position)[1:]
            done = whole["output"][position]
            events.append(self._event("response.output_item.done", output_index=position, item=done))
        for call in whole["output"][position + bool(texts) :]:
            events += self._call_events(whole["output"].index(call), call)
        kind = "response.incomplete" if whole["status"] == "incomplete" else "response.completed"
        return [*events, self._event(kind, response=whole)]

    def begun(self, *texts: str, position: int = 0) -> list[bytes]:
        """Return the events of an answer up to these texts."""
        started = {**self.plain(None), "status": "in_progress", "usage": None}
        events = [self._event("response.created", response=started)]
        if texts:
            empty = self._message([])
            events.append(self._event("response.output_item.added", output_index=position, item=empty))
        return events + [self.delta(text, position) for text in texts]

    def delta(self, text: str, position: int = 0) -> bytes:
        """Return the event of a piece of text."""
        return self._event("response.output_text.delta", output_index=position, content_index=0, delta=text)

    def error(self, message: str, **fields: Any) -> bytes:
        """Return the event of an error."""
        return self._event("error", message=message, **{"code": None, "param": None, **fields})

    def sent_text(self, body: Any) -> str:
        """Return the last message of a request."""
        text: str = body["input"][-1]["content"]
        return text

    def _call_events(self, position: int, call: dict[str, Any]) -> list[bytes]:
        opened = {**call, "arguments": ""}
        added = self._event("response.output_item.added", output_index=position, item=opened)
        kind = "response.function_call_arguments.delta"
        deltas = [self._event(kind, output_index=position, delta=piece) for piece in _fives(call["arguments"])]
        return [added, *deltas, self._event("response.output_item.done", output_index=position, item=call)]

    def _event(self, kind: str, **data: Any) -> bytes:
        return event({"type": kind, **data}, kind)

    def _message(self, content: Any) -> dict[str, Any]:
        return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}

    def _call(self, position: int, name: str, arguments: str) -> dict[str, Any]:
        identity = {"id": f"fc_{position}", "call_id": f"call_{position}"}
        return {"type": "function_call", **identity, "name": name, "arguments": arguments, "status": "completed"}


class Messages:
    """Anthropic's Messages."""

    name = "messages"
    api_type = "chat_completion"
    path = "/v1/messages"
    id = "msg_1"
    usage: ClassVar = {"input_tokens": 7, "cache_read_input_tokens": 4, "output_tokens": 7}

    def plain(self, text: str = "Hello!", **message: Any) -> Any:
        """Return the body of a whole answer."""
        answer = {"id": self.id, "type": "message", "role": "assistant", "model": MODEL, "usage": self.usage}
        return {**answer, "content": [{"type": "text", "text": text}], "stop_reason": "end_turn", **message}

    def stream(self, *texts: str) -> list[bytes]:
        """Return the events of an answer, its end included."""
        stopped = self._event("message_delta", delta={"stop_reason": "end_turn"}, usage=self.usage)
        ends = [self._event("content_block_stop", index=0), stopped, self._event("message_stop")]
        return self.begun(*texts) + ends

    def begun(self, *texts: str) -> list[bytes]:
        """Return the events of an answer up to these texts."""
        started = self._event("message_start", message=self.plain(content=[], stop_reason=None))
        block = self._event("content_block_start", index=0, content_block={"type": "text", "text": ""})
        return [started, block, *(self.delta(text) for text in texts)]

    def delta(self, text: str) -> bytes:
        """Return the event of a piece of text."""
        return self._event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    def error(self, message: str, code: str = "api_error") -> bytes:
        """Return the event of an error."""
        return self._event("error", error={"type": code, "message": message})

    def _event(self, kind: str, **data: Any) -> bytes:
        return event({"type": kind, **data}, kind)


class GenerateContent:
    """Google's generateContent."""

    name = "generate_content"
    api_type = "chat_completion"
    path = "/v1/models/m:generateContent"
    id = "response-1"
    usage: ClassVar = {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}

    def plain(self, text: str = "Hello!", *, finish: str | None = "STOP") -> Any:
        """Return the body of a whole answer, which is also the shape of a chunk."""
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
        if finish:
            candidate["finishReason"] = finish
        return {
            "candidates": [candidate],
            "usageMetadata": self.usage,
            "modelVersion": MODEL,
            "responseId": self.id,
        }

    def stream(self, *texts: str) -> list[bytes]:
        """Return the events of an answer, its end included: a chunk without text that has the finish reason."""
        return [*self.begun(*texts), event(self.plain(""))]

    def begun(self, *texts: str) -> list[bytes]:
        """Return the events of an answer up to these texts."""
        return [self.delta(text) for text in ("", *texts)]

    def delta(self, text: str) -> bytes:
        """Return the event of a piece of text."""
        return event(self.plain(text, finish=None))

    def error(self, message: str, code: str = "INTERNAL") -> bytes:
        """Return the event of an error."""
        return event({"error": {"message": message, "status": code}})


def _fives(text: str) -> list[str]:
    return [text[start : start + 5] for start in range(0, len(text), 5)]


def error_body(message: str, **fields: Any) -> dict[str, Any]:
    """Return an error as OpenAI words it."""
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **fields}}


Api = ChatCompletions | Responses
APIS: list[Api] = [ChatCompletions(), Responses()]
AnyApi = ChatCompletions | Responses | Messages | GenerateContent
ALL_APIS: list[AnyApi] = [*APIS, Messages(), GenerateContent()]
"""The two of OpenAI have calls of tools and more; what all four can do is text and errors."""
