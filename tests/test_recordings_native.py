"""Recorded exchanges of the Messages API and of generateContent, read as they came and cut in every way.

Extra: LLMKIT_RECORDINGS names the folder of the recordings, one JSON object a line; without it nothing is run.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmkit.codec import decode_json
from llmkit.config import APIType
from llmkit.errors import (
    LLMProviderAuthenticationError,
    LLMProviderBadRequestError,
    LLMProviderContentFilterError,
    LLMProviderError,
    LLMProviderNotFoundError,
)
from llmkit.events import Event, ReasoningDelta, TextDelta
from llmkit.failures import error_from_response, error_in_text
from llmkit.response import Issuer, LLMResponse, ResponseBuilder
from llmkit.sse import ServerSentEventParser
from llmkit.wire import StreamDecoder
from llmkit.wire.generate_content import GenerateContent
from llmkit.wire.messages import Messages

FOLDER = os.environ.get("LLMKIT_RECORDINGS")
FORMATS = {"messages": Messages, "generateContent": GenerateContent}
pytestmark = pytest.mark.skipif(not FOLDER, reason="LLMKIT_RECORDINGS names no folder of recordings")


def recordings() -> Iterator[dict[str, Any]]:
    for api in FORMATS:
        for path in sorted(Path(FOLDER or "").glob(f"*-{api}.jsonl")) if FOLDER else ():
            for line in path.read_text("utf-8").splitlines():
                yield json.loads(line)


RECORDINGS = list(recordings())
ANSWERED = [recording for recording in RECORDINGS if recording["response"]["status"] == 200]
REFUSED = [recording for recording in RECORDINGS if recording["response"]["status"] != 200]
STREAMED = [recording for recording in ANSWERED if recording["form"] == "sse"]


def name_of(recording: dict[str, Any]) -> str:
    return f"{recording['provider']}-{recording['id']}"


def decoder_of(recording: dict[str, Any]) -> StreamDecoder:
    return FORMATS[recording["api"]]().decoder()


def built(events: list[Event]) -> LLMResponse:
    builder = ResponseBuilder()
    builder.extend(events)
    return builder.build(Issuer("recorded", "recorded", "recorded"), APIType.CHAT_COMPLETION)


def streamed(recording: dict[str, Any], pieces: list[bytes]) -> tuple[list[Event], StreamDecoder]:
    parser, decoder = ServerSentEventParser(), decoder_of(recording)
    events = [event for piece in pieces for event in decoder.feed(parser.feed(piece))]
    return events + decoder.end(parser.close()), decoder


def read(recording: dict[str, Any]) -> tuple[list[Event], StreamDecoder]:
    """Return the events of a recorded answer in the form in which it came."""
    body = recording["response"]["body"].encode()
    if recording["form"] == "sse":
        return streamed(recording, [body])
    decoder = decoder_of(recording)
    value = decode_json(body)
    if isinstance(value, list):
        # Vertex AI streams an array where `alt=sse` was not asked for: its elements are the chunks.
        return streamed(recording, [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in value])
    return decoder.read(value), decoder


@pytest.mark.parametrize("recording", ANSWERED, ids=name_of)
def test_a_recorded_answer_is_read_as_expected(recording: dict[str, Any]) -> None:
    expected = recording["expect"]
    if expected.get("blocked"):
        with pytest.raises(LLMProviderContentFilterError, match=expected["blocked"]):
            read(recording)
        return
    events, decoder = read(recording)
    assert decoder.failure is None
    assert decoder.finished
    answer = built(events)
    assert answer.content == expected["text"]
    assert (answer.reasoning or "") == expected["reasoning"]
    assert answer.raw_finish_reason == expected["finish"]
    assert answer.finish_reason not in (None, "other")
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [
        (call["name"], json.loads(call["arguments"] or "{}")) for call in expected["tool_calls"]
    ]
    for call, wanted in zip(answer.tool_calls, expected["tool_calls"], strict=True):
        assert call.id == wanted["id"] if wanted["id"] else call.id.startswith("call_")
        assert call.parse_error is None
    assert len({call.id for call in answer.tool_calls}) == len(answer.tool_calls)


@pytest.mark.parametrize("recording", ANSWERED, ids=name_of)
def test_the_usage_of_a_recorded_answer_adds_up(recording: dict[str, Any]) -> None:
    expected = recording["expect"]
    if expected.get("blocked"):
        return
    usage = built(read(recording)[0]).usage
    assert usage is not None
    raw = usage.raw
    if recording["api"] == "messages":
        assert usage.input_uncached == expected["usage"]["input"]
        assert usage.output_tokens == expected["usage"]["output"]
    else:
        assert usage.input_tokens - raw.get("toolUsePromptTokenCount", 0) == expected["usage"]["input"]
        assert usage.output_text + usage.output_audio == (expected["usage"]["output"] or 0)
        assert usage.reasoning == (expected["usage"]["reasoning"] or 0)
        assert usage.total_tokens == raw["totalTokenCount"]


@pytest.mark.parametrize("recording", STREAMED, ids=name_of)
def test_a_stream_cut_anywhere_gives_the_same_events(recording: dict[str, Any]) -> None:
    body = recording["response"]["body"].encode()
    events, decoder = streamed(recording, [body])
    random_cuts = random.Random(recording["id"])
    for _ in range(3):
        places = sorted(random_cuts.randrange(len(body)) for _ in range(20))
        pieces = [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]
        assert streamed(recording, pieces)[0] == events
    assert streamed(recording, [body[i : i + 1] for i in range(len(body))])[0] == events
    assert decoder.raw


@pytest.mark.parametrize("recording", STREAMED, ids=name_of)
def test_a_stream_cut_short_is_never_a_whole_answer(recording: dict[str, Any]) -> None:
    body = recording["response"]["body"].encode()
    events, _ = streamed(recording, [body])
    text = "".join(event.text for event in events if isinstance(event, (TextDelta, ReasoningDelta)))
    first_end = body.find(b"message_stop") if recording["api"] == "messages" else body.find(b'"finishReason"')
    for end in sorted(random.Random(recording["id"]).randrange(first_end) for _ in range(10)):
        events, decoder = streamed(recording, [body[:end]])
        assert decoder.failure is not None
        came = "".join(event.text for event in events if isinstance(event, (TextDelta, ReasoningDelta)))
        assert text.startswith(came)


@pytest.mark.parametrize("recording", STREAMED, ids=name_of)
def test_the_raw_answer_of_a_stream_reads_like_a_plain_one(recording: dict[str, Any]) -> None:
    events, decoder = streamed(recording, [recording["response"]["body"].encode()])
    answer, again = built(events), built(decoder_of(recording).read(decoder.raw))
    for call in answer.tool_calls + again.tool_calls:
        call.arguments_text = ""  # the model's own spacing, or that of an object written anew
    assert again == answer


KINDS = {
    400: LLMProviderBadRequestError,
    401: LLMProviderAuthenticationError,
    404: LLMProviderNotFoundError,
}


@pytest.mark.parametrize("recording", REFUSED, ids=name_of)
def test_a_recorded_refusal_is_the_exception_of_its_kind(recording: dict[str, Any]) -> None:
    response = recording["response"]
    error = error_from_response(response["status"], response["headers"], response["body"].encode())
    kind = LLMProviderAuthenticationError if "API_KEY_INVALID" in response["body"] else KINDS[response["status"]]
    assert type(error) is kind
    assert error.status_code == response["status"]
    assert error.code
    # The same body inside a stream, as bare JSON without an event around it.
    inside: LLMProviderError | None = error_in_text(response["body"].encode(), is_whole=True)
    assert type(inside) is kind
