# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""Recorded exchanges of every service, replayed through real sockets: the client reads what the recording says.

Extra: LLMKIT_RECORDINGS names the folder of the recordings; without it nothing is run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from llmkit import LLMProviderError, LLMResponse
from llmkit.failures import error_from_response
from llmkit.services import find_spec

from ..decoding import answer, decoded, read
from ..server import Server, Step, chunked, head, raw_reply
from ._backend import make_provider_of

FOLDER = os.environ.get("LLMKIT_RECORDINGS")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not FOLDER, reason="LLMKIT_RECORDINGS names no folder of recordings"),
]
# The end of a file's name → the service that speaks the format, and the API type.
APIS = {
    "chat": ("openai", "chat_completion"),
    "responses": ("openai", "responses"),
    "messages": ("anthropic", "chat_completion"),
    "generateContent": ("gemini", "chat_completion"),
}
FILES = sorted(path for path in Path(FOLDER or "none").glob("*.jsonl") if path.stem.rpartition("-")[2] in APIS)


def reply_of(recording: dict[str, Any]) -> Iterable[Step]:
    """Return the recorded answer, a stream in the pieces in which it came."""
    response = recording["response"]
    body = response["body"].encode()
    if recording["form"] != "sse":
        return raw_reply(body, response["status"], content_type="application/json")
    pieces, start = [], 0
    for size in response.get("pieces", [len(body)]):
        pieces.append(body[start : start + size])
        start += size
    first = head(response["status"], {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
    return [first, *chunked(pieces), b"0\r\n\r\n"]


def expected(recording: dict[str, Any], api: str) -> LLMResponse | LLMProviderError:
    """Return what the wire format alone makes of the recording."""
    name, api_type = APIS[api]
    wire_format = find_spec(name).wire_format(api_type)  # type: ignore[arg-type]
    assert wire_format
    response = recording["response"]
    body = response["body"].encode()
    if response["status"] >= 300:
        return error_from_response(response["status"], {}, body)
    if recording["form"] == "sse":
        made = decoded(wire_format, [body])
        return made.failure or answer(wire_format, made.events)
    try:
        return read(wire_format, json.loads(body))
    except LLMProviderError as error:
        return error


def told(outcome: LLMResponse | LLMProviderError) -> Any:
    if isinstance(outcome, LLMProviderError):
        return type(outcome), outcome.message, outcome.code
    calls = [(call.id, call.name, call.arguments, call.arguments_text) for call in outcome.tool_calls]
    usage = outcome.prompt_tokens, outcome.completion_tokens, outcome.total_tokens
    finish = outcome.finish_reason, outcome.raw_finish_reason
    return outcome.content, outcome.reasoning, outcome.refusal, calls, usage, finish, outcome.native


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_client_reads_what_was_recorded(path: Path, server: Server) -> None:
    api = path.stem.rpartition("-")[2]
    name, api_type = APIS[api]
    recordings = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    # Arrays are what Vertex answers to requests that llmkit never makes.
    recordings = [each for each in recordings if not each["response"]["body"].lstrip().startswith("[")]
    # With a temperature of the caller's own, no recorded refusal of it is answered by another request.
    settings: Any = {"api_type": api_type, "max_retries": 0, "temperature": 1.0}
    with make_provider_of(name, server, **settings) as provider:
        for recording in recordings:
            server.add(reply_of(recording))
            mode = "auto" if recording["form"] == "sse" else "disabled"
            outcome: LLMResponse | LLMProviderError
            try:
                outcome = provider.execute("Hello", stream_mode=mode)
            except LLMProviderError as error:
                outcome = error
            assert told(outcome) == told(expected(recording, api)), recording["id"]
    assert len(server.requests) == len(recordings) > 0
    # Whatever was answered, and however it ended, the connection served the next request.
    failed = sum(isinstance(expected(each, api), LLMProviderError) for each in recordings)
    assert len(server.connections) <= 1 + failed
