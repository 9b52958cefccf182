"""Recorded exchanges of every service, read as they came and cut in every way.

Extra: LLMKIT_RECORDINGS names the folder of the recordings (files `service-api.jsonl`, one JSON object a line);
without it nothing is run. `expect` in a recording is a plain reading of it by another program.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, get_args

import pytest

from llmkit import errors
from llmkit.codec import decode_json
from llmkit.errors import LLMProviderError
from llmkit.failures import error_from_response
from llmkit.response import FinishReason, LLMResponse
from llmkit.wire import WireFormat
from llmkit.wire.chat_completions import ChatCompletions
from llmkit.wire.responses import Responses

from .decoding import Decoded, answer, cut_everywhere, decoded

FOLDER = os.environ.get("LLMKIT_RECORDINGS")
pytestmark = pytest.mark.skipif(not FOLDER, reason="LLMKIT_RECORDINGS names no folder of recordings")


@dataclass(frozen=True)
class Api:
    """What reads the recordings of an API, and what ends its streams, or stands in the event that does."""

    wire_format: WireFormat
    end: bytes


APIS: Final[Mapping[str, Api]] = {
    "chat": Api(ChatCompletions(), rb'"finish_reason": ?"|\[DONE\]'),
    "responses": Api(Responses(), rb"response\.(completed|incomplete)"),
}

# Streams up to this size are fed byte by byte; larger ones take too long.
MOST_BYTEWISE = 20_000

# What is read otherwise than expected, and why.
EXCEPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    # The reading passes over reasoning that came as `reasoning_details` alone.
    "pydantic-ai-b2bcafdd2d": ("reasoning",),
    "pydantic-ai-989d282b3e": ("reasoning",),
}

STATUSES: Final[Mapping[int, tuple[str, ...]]] = {
    400: ("BadRequest", "TokenLimit", "NotFound", "ContentFilter"),
    401: ("Authentication",),
    403: ("Permission", "ContentFilter"),
    404: ("NotFound",),
    422: ("BadRequest",),
    429: ("RateLimit", "Quota"),
}


def recordings() -> Iterator[dict[str, Any]]:
    for path in sorted(Path(FOLDER).glob("*.jsonl")) if FOLDER else ():
        if path.stem.rpartition("-")[2] in APIS:
            for line in path.read_text("utf-8").splitlines():
                yield json.loads(line)


RECORDINGS = list(recordings())
ANSWERS = [recording for recording in RECORDINGS if recording["response"]["status"] == 200]
STREAMS = [recording for recording in ANSWERS if recording["form"] == "sse"]
REFUSALS = [recording for recording in RECORDINGS if recording["response"]["status"] != 200]


def wire_format_of(recording: dict[str, Any]) -> WireFormat:
    return APIS[recording["api"]].wire_format


def name(recording: dict[str, Any]) -> str:
    return f"{recording['provider']}-{recording['api']}-{recording['id']}"


def read(recording: dict[str, Any]) -> Decoded:
    """Return what becomes of a recorded answer, whole or streamed."""
    body = recording["response"]["body"].encode()
    wire_format = wire_format_of(recording)
    if recording["form"] == "sse":
        return decoded(wire_format, [body])
    decoder = wire_format.decoder()
    try:
        return Decoded(decoder.read(decode_json(body)), None, decoder.finished, decoder.raw)
    except LLMProviderError as error:
        return Decoded([], error, False, None)


@pytest.mark.parametrize("api", APIS)
def test_there_are_recordings(api: str) -> None:
    for kind in (ANSWERS, STREAMS, REFUSALS):
        assert any(recording["api"] == api for recording in kind)


@pytest.mark.parametrize("recording", ANSWERS, ids=name)
def test_an_answer_is_what_another_program_read(recording: dict[str, Any]) -> None:
    made, expected = read(recording), recording["expect"]
    response = answer(wire_format_of(recording), made.events)
    if "error" in expected:
        assert isinstance(made.failure, LLMProviderError)
        assert type(made.failure) not in (LLMProviderError, errors.LLMProviderStreamError)
        assert expected["error"]["message"] in made.failure.message
    else:
        assert (made.failure, made.finished) == (None, True)
        assert (response.raw_finish_reason or None) == expected["finish"]
        assert response.finish_reason in get_args(FinishReason)
        assert told_usage(response) == wanted_usage(response, expected.get("usage"))
    if made.events:
        excepted = EXCEPTIONS.get(recording["id"], ())
        assert told(response, excepted) == wanted(expected, excepted)


def told(response: LLMResponse, excepted: tuple[str, ...]) -> dict[str, Any]:
    parts = {
        "text": response.content,
        "reasoning": words(response.reasoning),
        "refusal": response.refusal or "",
        "tool_calls": [(call.id, call.name, value_of(call.arguments_text)) for call in response.tool_calls],
    }
    return {key: value for key, value in parts.items() if key not in excepted}


def wanted(expected: dict[str, Any], excepted: tuple[str, ...]) -> dict[str, Any]:
    calls = expected.get("tool_calls") or []
    parts = {
        "text": expected.get("text") or "",
        "reasoning": words(expected.get("reasoning")),
        "refusal": expected.get("refusal") or "",
        "tool_calls": [(call.get("id") or AnyText(), call["name"], value_of(call["arguments"])) for call in calls],
    }
    return {key: value for key, value in parts.items() if key not in excepted}


class AnyText:
    """Equals every text that is not empty: the id of a call to which the service gave none."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and bool(other)

    __hash__ = None  # type: ignore[assignment]


def words(text: str | None) -> str:
    """Return a text without its white space: paragraphs of reasoning are joined in several ways."""
    return "".join((text or "").split())


def value_of(arguments: str) -> Any:
    try:
        return decode_json(arguments or "{}")
    except ValueError:
        return arguments


def told_usage(response: LLMResponse) -> tuple[int | None, int | None]:
    return response.prompt_tokens, response.completion_tokens


def wanted_usage(response: LLMResponse, usage: dict[str, int] | None) -> tuple[int | None, int | None]:
    """Return the totals, the reasoning that xAI and Google count in `total_tokens` alone included."""
    if usage is None:
        return None, None
    raw = response.usage.raw if response.usage else {}
    return usage["input"], max(usage["output"], raw.get("total_tokens", 0) - usage["input"])


@pytest.mark.parametrize("recording", STREAMS, ids=name)
def test_however_a_stream_is_cut_its_events_are_the_same(recording: dict[str, Any]) -> None:
    body = recording["response"]["body"].encode()
    wire_format, whole = wire_format_of(recording), read(recording)
    for pieces in (*cut_everywhere(body, recording["id"], len(body) < MOST_BYTEWISE), as_received(recording, body)):
        made = decoded(wire_format, pieces)
        assert made.events == whole.events
        assert (made.finished, made.raw, str(made.failure)) == (whole.finished, whole.raw, str(whole.failure))


def as_received(recording: dict[str, Any], body: bytes) -> list[bytes]:
    pieces, start = [], 0
    for size in recording["response"].get("pieces", [len(body)]):
        pieces.append(body[start : start + size])
        start += size
    return pieces


@pytest.mark.parametrize("recording", STREAMS, ids=name)
def test_a_stream_without_its_end_is_an_error(recording: dict[str, Any]) -> None:
    body = recording["response"]["body"].encode()
    end = re.search(APIS[recording["api"]].end, body)
    made = decoded(wire_format_of(recording), [body[: end.start() if end else -2]])
    assert isinstance(made.failure, LLMProviderError)
    assert not made.finished


@pytest.mark.parametrize("recording", REFUSALS, ids=name)
def test_an_error_is_the_exception_of_its_kind(recording: dict[str, Any]) -> None:
    response = recording["response"]
    error = error_from_response(response["status"], response["headers"], response["body"].encode())
    allowed = [getattr(errors, f"LLMProvider{kind}Error") for kind in STATUSES[response["status"]]]
    assert type(error) in allowed
    assert error.status_code == response["status"]
    assert error.body
    inner = json.loads(response["body"]).get("error")
    param = inner.get("param") if isinstance(inner, dict) else None
    assert param is None or error.parameter == param
