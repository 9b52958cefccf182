"""Answers with anything in the place of anything: an error of ours, or an answer that can be used."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmkit import APIType, LLMProviderError
from llmkit.events import ReasoningDelta, TextDelta
from llmkit.response import LLMResponse, ResponseBuilder
from llmkit.sse import ServerSentEventParser
from llmkit.wire import WireFormat
from llmkit.wire.chat_completions import ChatCompletions
from llmkit.wire.generate_content import GenerateContent
from llmkit.wire.messages import Messages
from llmkit.wire.responses import Responses

from . import answers
from .decoding import issuer

CALLS = [("weather", '{"city": 1}')]
REASONING = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}], "content": []}
BLOCKS = [
    {"type": "thinking", "thinking": "Hm.", "signature": "s"},
    {"type": "text", "text": "Hello", "citations": [{"type": "char_location", "cited_text": "x"}]},
    {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": 1}},
]
PARTS = [
    {"text": "Hm.", "thought": True},
    {"text": "Hello", "thoughtSignature": "s"},
    {"functionCall": {"id": "c", "name": "weather", "args": {"city": 1}}},
]
DETAILS = [{"type": "reasoning.text", "index": 0, "text": "Hm."}]


def chat(plain: bool) -> list[Any]:
    api = answers.ChatCompletions()
    extra: Any = {"reasoning": "Hm.", "reasoning_details": DETAILS, "refusal": "No", "reasoning_content": "Hm."}
    if plain:
        return [api.plain("Hello", calls=CALLS, **extra)]
    return decoded(api.stream("Hello", calls=CALLS, **extra))


def responses(plain: bool) -> list[Any]:
    api = answers.Responses()
    if plain:
        return [api.plain("Hello", calls=CALLS, items=[REASONING], incomplete_details=None, error=None)]
    return decoded(api.stream("Hello", calls=CALLS, items=[REASONING]))


def messages(plain: bool) -> list[Any]:
    api = answers.Messages()
    if plain:
        return [api.plain(content=BLOCKS, stop_details={"explanation": "No"})]
    start, *_, message_delta, message_stop = decoded(api.stream("Hello"))
    deltas = [
        {"type": "thinking_delta", "thinking": "Hm."},
        {"type": "signature_delta", "signature": "s"},
        {"type": "text_delta", "text": "Hello"},
        {"type": "citations_delta", "citation": {"type": "char_location"}},
        {"type": "input_json_delta", "partial_json": '{"city": 1}'},
    ]
    events = [start]
    for index, block in enumerate(BLOCKS):
        empty = {key: "" if key in ("text", "thinking") else value for key, value in block.items()}
        events.append({"type": "content_block_start", "index": index, "content_block": empty})
        mine = {"thinking": deltas[:2], "text": deltas[2:4], "tool_use": deltas[4:]}[str(block["type"])]
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in mine]
        events.append({"type": "content_block_stop", "index": index})
    return [*events, message_delta, message_stop]


def generate_content(plain: bool) -> list[Any]:
    answer: Any = answers.GenerateContent().plain()
    answer["candidates"][0] |= {"content": {"role": "model", "parts": PARTS}, "finishMessage": "Done"}
    answer["usageMetadata"] = {
        "promptTokenCount": 3,
        "candidatesTokenCount": 4,
        "totalTokenCount": 7,
        "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 1}],
    }
    answer["promptFeedback"] = {"blockReason": ""}
    return [answer]


FORMATS: dict[str, tuple[WireFormat, Any]] = {
    "chat_completions": (ChatCompletions(), chat),
    "responses": (Responses(), responses),
    "messages": (Messages(), messages),
    "generate_content": (GenerateContent(), generate_content),
}
VALUES: list[Any] = [None, 0, 7, 1.5, True, "", "x", [], {}, [7], [{}], {"a": 1}]


def decoded(events: list[bytes]) -> list[Any]:
    texts = [event.decode().partition("data: ")[2].strip() for event in events]
    return [json.loads(text) for text in texts if text != "[DONE]"]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def changed(value: Any, path: tuple[Any, ...], instead: Any) -> Any:
    """Return a copy with another value in a place."""
    if not path:
        return instead
    value = copy.copy(value)
    value[path[0]] = changed(value[path[0]], path[1:], instead)
    return value


def without(value: Any, path: tuple[Any, ...]) -> Any:
    """Return a copy in which a place is missing."""
    value = copy.deepcopy(value)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    del holder[path[-1]]
    return value


def variants(events: list[Any]) -> Iterator[list[Any]]:
    for path in places(events):
        if path:
            yield without(events, path)
            for instead in VALUES:
                yield changed(events, path, instead)


def read(wire_format: WireFormat, events: list[Any], plain: bool) -> LLMResponse | None:
    """Return the answer, as far as it came; None where the body is an error."""
    decoder, builder = wire_format.decoder(), ResponseBuilder(10)
    if plain:
        try:
            builder.extend(decoder.read(events[0] if events else {}))
        except LLMProviderError:
            return None
    else:
        parser = ServerSentEventParser()
        body = b"".join(answers.event(event) for event in events)
        builder.extend(decoder.feed(parser.feed(body)))
        if not decoder.finished and not decoder.failure:
            builder.extend(decoder.end(parser.close()))
        assert decoder.finished or isinstance(decoder.failure, LLMProviderError)
    return builder.build(issuer(wire_format), APIType.CHAT_COMPLETION)


@pytest.mark.parametrize("plain", [True, False], ids=["plain", "stream"])
@pytest.mark.parametrize("name", FORMATS)
def test_anything_in_the_place_of_anything(name: str, plain: bool) -> None:
    wire_format, story = FORMATS[name]
    events = story(plain)
    whole = read(wire_format, events, plain)
    assert whole and whole.tool_calls and whole.reasoning and whole.content == "Hello"
    wrong = []
    for variant in variants(events):
        try:
            answer = read(wire_format, variant, plain)
            if answer:
                json.dumps([answer.to_dict(), answer.to_message()])
                assert are_texts(answer.content, answer.model, answer.reasoning or "", answer.response_id or "")
                assert are_texts(answer.raw_finish_reason or "", answer.finish_reason or "")
                assert are_texts(*(text for call in answer.tool_calls for text in (call.id, call.name)))
        except Exception as error:
            wrong.append((repr(error)[:200], variant))
    assert not wrong


# Where an answer's last chunk is kept, as it says more than text.
LAST: dict[str, list[Any]] = {
    "chat_completions": [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}],
    "generate_content": [{"candidates": [{"content": {"parts": []}, "finishReason": "STOP"}]}],
}


@pytest.mark.parametrize("name", FORMATS)
def test_without_text_a_decoder_keeps_nothing_of_the_answer(name: str) -> None:
    wire_format, story = FORMATS[name]
    decoder, builder = wire_format.decoder(), ResponseBuilder(keep_text=False)
    decoder.keep_text = False
    handed_out = []
    for event in story(plain=False) + LAST.get(name, []):
        received = ServerSentEventParser().feed(answers.event(event))
        events = decoder.feed(received)
        builder.extend(events)
        handed_out += [event.text for event in events if isinstance(event, TextDelta | ReasoningDelta)]
    builder.extend(decoder.end(None))
    answer = builder.build(issuer(wire_format), APIType.CHAT_COMPLETION)
    assert decoder.finished and {"Hello", "Hm."} <= {*handed_out}
    assert answer.tool_calls and not answer.native and not answer.content
    kept = repr(vars(decoder))
    assert "Hello" not in kept and "Hm." not in kept


def are_texts(*values: Any) -> bool:
    return all(type(value) is str for value in values)
