"""Streamed answers in the four wire formats, as the services send them: one short piece of text per event.

The text is made up; fields, their order, spacing and line ends are those of real answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable

__all__ = ["ANSWER", "STREAMS", "answer_pieces", "anthropic_messages", "gemini", "openai_chat", "openai_responses"]

_PARAGRAPH = """\
The tide table is only half of the story: what the harbour master reads off the gauge is the water, and the water \
doesn't keep appointments. A low-pressure system raises the surface by about one centimetre per hectopascal; an \
onshore wind of 15 m/s adds more — “storm surge” in the leaflet, a wet cellar in practice. So take the prediction, \
add the measured residual of the last six hours, and plan for the higher of the two.

1. **Read the gauge.** Note the time zone: `UTC+1` in winter.
2. Compute `residual = observed - predicted` for every row.
3. If the residual grows faster than 4 cm/h, call the café at the quay; they close the gates early.

```python
residuals = [row["observed"] - row["predicted"] for row in rows]
print(f"worst case: {max(residuals):+.1f} cm")
```
"""

ANSWER = _PARAGRAPH * 4
"""The text of every stream: prose, a list and code in English, with a few characters beyond ASCII."""


def answer_pieces() -> list[str]:
    """Cut the answer as a tokenizer would: words with the space before them, punctuation alone."""
    return re.findall(r"\s?\w+|\s?[^\w\s]+|\s+", ANSWER)


def _padding(text: str) -> str:
    """Return what OpenAI fills an event with, so that its size does not tell the length of its text."""
    return "kP3xYb9tQq7Rk2Ls0"[len(text) % 16 :]


def openai_chat() -> bytes:
    """Chat Completions: `data:` alone, an event with the usage and `[DONE]` at the end."""
    head = {
        "id": "chatcmpl-Bq4sW0vYd7Tn1mXfR2kLh8JcUe5aG",
        "object": "chat.completion.chunk",
        "created": 1767600000,
        "model": "gpt-5-mini-2025-08-07",
        "service_tier": "default",
        "system_fingerprint": None,
    }

    def chunk(delta: dict[str, object], finish_reason: str | None = None) -> dict[str, object]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**head, "choices": [choice], "usage": None, "obfuscation": _padding(str(delta.get("content", "")))}

    usage = {"prompt_tokens": 31, "completion_tokens": 940, "total_tokens": 971}
    events = [
        chunk({"role": "assistant", "content": "", "refusal": None}),
        *(chunk({"content": piece}) for piece in answer_pieces()),
        chunk({}, "stop"),
        {**head, "choices": [], "usage": usage, "obfuscation": "w"},
    ]
    return _body(f"data: {_compact(event)}\n\n" for event in events) + b"data: [DONE]\n\n"


def openai_responses() -> bytes:
    """Responses: `event:` and `data:`, the whole response in the first and the last events."""
    item_id = "msg_0c41d7f09be2a6530068f0b1c2d3e4819ab7"
    response: dict[str, object] = {
        "id": "resp_0c41d7f09be2a6530068f0b1c1a2b3819a5e",
        "object": "response",
        "created_at": 1767600000,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": "You are a patient harbour pilot.",
        "model": "gpt-5-mini-2025-08-07",
        "output": [],
        "parallel_tool_calls": True,
        "reasoning": {"effort": "low", "summary": None},
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
        "metadata": {},
    }
    place = {"item_id": item_id, "output_index": 0, "content_index": 0}
    message = {"id": item_id, "type": "message", "status": "completed", "role": "assistant"}
    text_part = {"type": "output_text", "annotations": [], "logprobs": [], "text": ANSWER}
    completed = {**response, "status": "completed", "output": [{**message, "content": [text_part]}]}
    events: list[tuple[str, dict[str, object]]] = [
        ("response.created", {"response": response}),
        ("response.in_progress", {"response": response}),
        (
            "response.output_item.added",
            {"output_index": 0, "item": {**message, "status": "in_progress", "content": []}},
        ),
        ("response.content_part.added", {**place, "part": {**text_part, "text": ""}}),
        *(
            ("response.output_text.delta", {**place, "delta": piece, "logprobs": [], "obfuscation": _padding(piece)})
            for piece in answer_pieces()
        ),
        ("response.output_text.done", {**place, "text": ANSWER, "logprobs": []}),
        ("response.content_part.done", {**place, "part": text_part}),
        ("response.output_item.done", {"output_index": 0, "item": {**message, "content": [text_part]}}),
        ("response.completed", {"response": completed}),
    ]
    return _body(
        f"event: {name}\ndata: {_compact({'type': name, 'sequence_number': number, **fields})}\n\n"
        for number, (name, fields) in enumerate(events)
    )


def anthropic_messages() -> bytes:
    """Messages: `event:` and `data:`, short events, a ping among them, spaces before the closing brace."""
    message = {
        "model": "claude-sonnet-4-5-20250929",
        "id": "msg_01Tn5QhVbX8cYw2LrDk7ZsPe",
        "type": "message",
        "role": "assistant",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 31, "cache_read_input_tokens": 0, "output_tokens": 1, "service_tier": "standard"},
    }
    events: list[dict[str, object]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
            for piece in answer_pieces()
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 940}},
        {"type": "message_stop"},
    ]
    return _body(
        f"event: {event['type']}\ndata: {_compact(event)[:-1]}{' ' * (number % 12)}}}\n\n"
        for number, event in enumerate(events)
    )


def gemini() -> bytes:
    """Gemini's generateContent: `data:` alone, CRLF, several words and the usage in every event."""
    pieces = answer_pieces()
    texts = ["".join(pieces[start : start + 4]) for start in range(0, len(pieces), 4)]

    def event(number: int, text: str) -> dict[str, object]:
        candidate: dict[str, object] = {"content": {"parts": [{"text": text}], "role": "model"}, "index": 0}
        if number == len(texts):
            candidate["finishReason"] = "STOP"
        usage = {
            "promptTokenCount": 31,
            "candidatesTokenCount": 4 * number,
            "totalTokenCount": 128 + 4 * number,
            "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 31}],
            "thoughtsTokenCount": 97,
        }
        return {
            "candidates": [candidate],
            "usageMetadata": usage,
            "modelVersion": "gemini-2.5-flash",
            "responseId": "w2L0aKvPBtqZ7dcPyYmR4Ak",
        }

    return _body(
        f"data: {json.dumps(event(number, text), ensure_ascii=False, separators=(',', ': '))}\r\n\r\n"
        for number, text in enumerate(texts, 1)
    )


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _body(blocks: Iterable[str]) -> bytes:
    return "".join(blocks).encode()


STREAMS: dict[str, Callable[[], bytes]] = {
    "OpenAI Chat": openai_chat,
    "OpenAI Responses": openai_responses,
    "Anthropic Messages": anthropic_messages,
    "Gemini": gemini,
}
"""The body of each stream by its name in tables."""
