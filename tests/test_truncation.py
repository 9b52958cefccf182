"""A cut answer never looks whole, at whatever byte it is cut: in each wire format, as a stream and as a body."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmkit.codec import decode_json
from llmkit.config import APIType
from llmkit.response import LLMResponse, ResponseBuilder
from llmkit.sse import ServerSentEventParser
from llmkit.wire import StreamDecoder, WireFormat
from llmkit.wire.chat_completions import ChatCompletions
from llmkit.wire.generate_content import GenerateContent
from llmkit.wire.messages import Messages
from llmkit.wire.responses import Responses

from . import answers
from .decoding import issuer
from .server import event

CALLS = [("weather", '{"city": "Malmö"}'), ("time", "{}")]
TEXTS = ("One", " two ", "\u2028\U0001f600 three")
ANSWERS: dict[str, tuple[WireFormat, list[bytes]]] = {
    "chat_completions": (ChatCompletions(), answers.ChatCompletions().stream(*TEXTS, calls=CALLS, reasoning="Hm.")),
    "responses": (Responses(), answers.Responses().stream(*TEXTS, calls=CALLS)),
    "messages": (Messages(), answers.Messages().stream(*TEXTS)),
    "generate_content": (GenerateContent(), answers.GenerateContent().stream(*TEXTS)),
}


def read(wire_format: WireFormat, body: bytes) -> tuple[StreamDecoder, LLMResponse]:
    """Return the decoder after a body that has ended cleanly, and what it has read."""
    parser, decoder, builder = ServerSentEventParser(), wire_format.decoder(), ResponseBuilder()
    builder.extend(decoder.feed(parser.feed(body)))
    if not decoder.finished and not decoder.failure:
        builder.extend(decoder.end(parser.close()))
    return decoder, builder.build(issuer(wire_format), APIType.CHAT_COMPLETION)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("api", ANSWERS)
def test_a_stream_that_is_cut_at_any_byte(api: str, line_end: bytes) -> None:
    wire_format, events = ANSWERS[api]
    body = b"".join(events).replace(b"\n", line_end)
    decoder, whole = read(wire_format, body)
    assert decoder.finished and whole.content == "".join(TEXTS)
    cut = 0
    for end in range(len(body)):
        decoder, answer = read(wire_format, body[:end])
        if decoder.finished and not decoder.failure:
            told = (answer.content, answer.tool_calls, answer.reasoning, answer.finish_reason)
            assert told == (whole.content, whole.tool_calls, whole.reasoning, whole.finish_reason)
        else:
            cut += 1
            assert decoder.failure and whole.content.startswith(answer.content)
            assert answer.finish_reason is None
    assert cut > len(body) * 0.6


@pytest.mark.parametrize("api", ANSWERS)
def test_a_stream_that_lost_its_end_is_not_ended_by_another(api: str) -> None:
    wire_format, events = ANSWERS[api]
    stop = {"type": "message_stop"}
    ends = [event("[DONE]"), event(stop, "message_stop"), event({"type": "response.completed"}), event({}), b": x\n\n"]
    for end in ends:
        decoder, answer = read(wire_format, b"".join(events[: len(TEXTS)]) + end)
        if end == ends[0] and api == "chat_completions":
            # Ollama's end is this.
            assert decoder.finished and answer.raw_finish_reason is None
        elif end == ends[1] and api == "messages":
            assert decoder.finished and (answer.finish_reason, answer.raw_finish_reason) == ("other", None)
        else:
            assert decoder.failure


@pytest.mark.parametrize(
    ("api", "end"),
    [
        ("chat_completions", event("[DONE]")),
        ("messages", event({"type": "message_stop"}, "message_stop")),
        ("messages", event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}, "message_delta")),
        ("responses", event("[DONE]")),
        ("generate_content", event("[DONE]")),
    ],
)
def test_an_end_without_a_beginning_is_no_answer(api: str, end: bytes) -> None:
    decoder, answer = read(ANSWERS[api][0], end)
    assert decoder.failure and answer.finish_reason is None


@pytest.mark.parametrize("api", answers.ALL_APIS, ids=lambda api: api.name)
def test_a_body_that_is_cut_at_any_byte(api: Any) -> None:
    body = json.dumps(api.plain("".join(TEXTS)), ensure_ascii=False).encode()
    for end in range(len(body)):
        with pytest.raises(ValueError):
            decode_json(body[:end])
