"""Conversations: what messages, tools, formats, images and recordings cost, against what services charged."""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit import conversation
from llmkit.conversation import media_rules
from llmkit.media import audio_seconds, image_size
from llmkit.tokens import (
    MessageTokenCounter,
    count_message_tokens,
    estimate_text,
    load_encoding,
)

pytestmark = pytest.mark.usefixtures("no_tables")

RECORDINGS = os.environ.get("LLMKIT_RECORDINGS")
needs_recordings = pytest.mark.skipif(not RECORDINGS, reason="LLMKIT_RECORDINGS names no folder of recordings")
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "You translate corporate jargon into plain English."},
    {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
    {"role": "system", "name": "example_assistant", "content": "Things working well together will increase revenue."},
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean.",
    },
]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "description": "Get the current weather in a given location.",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                    "unit": {"type": "string", "description": "The unit.", "enum": ["celsius", "fahrenheit"]},
                },
                "required": ["location"],
            },
        },
    },
    {"type": "function", "function": {"name": "stop", "description": "", "parameters": {"properties": {}}}},
]


def test_messages_are_counted_by_the_published_recipe(counted: list[str]) -> None:
    def count(text: str) -> int:
        return (len(text.encode()) + 3) // 4

    # Of each message 3, its texts, the role (a token), and 1 for a name; 3 for the reply.
    expected = 3 + sum(3 + 1 + count(each["content"]) for each in CONVERSATION)
    expected += sum(1 + count(each["name"]) for each in CONVERSATION if "name" in each)
    found = count_message_tokens(CONVERSATION, "gpt-4o")
    assert (found, found.exact, found.encoding) == (expected, True, "o200k_base")
    # Each function 7 (10 for the older models), 3 for having properties, 3 for each, -3 for an enum and 3 for each
    # of its items; 12 at the end. A description's last full stop is dropped.
    expected += 12 + 2 * 7 + 3 + 2 * 3 - 3 + 2 * 3 + count("celsius") + count("fahrenheit") + count("stop:")
    expected += count("get_current_weather:Get the current weather in a given location")
    expected += count("location:string:The city and state, e.g. San Francisco, CA") + count("unit:string:The unit")
    found = count_message_tokens(CONVERSATION, "gpt-4o", tools=TOOLS)
    assert (found, found.exact) == (expected, False)
    assert count_message_tokens(CONVERSATION, "gpt-4", tools=TOOLS) == expected + 6


def test_reasoning_models_charge_other_overheads(counted: list[str]) -> None:
    turns = [{"role": "user", "content": ""}, {"role": "assistant", "content": ""}, {"role": "user", "content": ""}]
    assert [count_message_tokens(turns, model) for model in ("gpt-4o", "o3-mini", "gpt-5", "gpt-5-chat-latest")] == [
        15,
        14,
        16,
        15,
    ]


def test_a_conversation_that_grows_costs_the_new_message(counted: list[str]) -> None:
    counter = MessageTokenCounter("gpt-4o")
    messages = [{"role": "user", "content": f"message {number}"} for number in range(50)]
    first = counter.count(messages)
    counted.clear()
    messages.append({"role": "assistant", "content": "something new"})
    assert counter.count(messages) == first + 4 + 4
    assert counted == ["something new"]
    assert counter.within_limit(messages, first + 8)
    assert not counter.within_limit(messages, first + 7)


def test_a_counter_forgets_rather_than_grow(counted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmkit.tokens._REMEMBERED_CHARACTERS", 100)
    counter = MessageTokenCounter("gpt-4o")
    for number in range(30):
        counter.count([{"role": "user", "content": f"{number:050}"}])
    assert sum(map(len, counter._counts)) <= 100


def test_a_counter_shows_no_prompt(counted: list[str]) -> None:
    counter = MessageTokenCounter("gpt-4o")
    counter.count([{"role": "user", "content": "my secret"}])
    assert "secret" not in repr(counter)
    assert b"secret" not in pickle.dumps(counter)
    assert pickle.loads(pickle.dumps(counter)).count([]) == 3


def test_a_limit_of_messages_is_settled_by_their_length(counted: list[str]) -> None:
    counter = MessageTokenCounter("gpt-4o")
    assert counter.within_limit([{"role": "user", "content": "word " * 100}], 507)
    assert not counter.within_limit([{"role": "user", "content": "word " * 100_000}], 3_000)
    assert not counter.within_limit([{"role": "user", "content": "word"}] * 10, 42)
    assert not counted


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
FIELDS = [*conversation._FIELDS, "role", "reasoning_content"]
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from([*conversation._PARTS, "video_url"]) | JSON},
    optional=dict.fromkeys(("text", "image_url", "source", "detail", "input_audio", "file", "refusal"), JSON),
)


@settings(max_examples=150, deadline=None)
@given(
    messages=st.lists(st.dictionaries(st.sampled_from(FIELDS), JSON | st.lists(PARTS, max_size=3)), max_size=4),
    tools=st.lists(
        st.dictionaries(
            st.sampled_from(["type", "function", "name", "description", "parameters", "input_schema"]),
            JSON | st.dictionaries(st.sampled_from(["properties", "items", "anyOf", "$defs", "enum"]), JSON),
        ),
        max_size=2,
    ),
)
def test_no_message_and_no_tool_is_refused_for_what_is_in_it(messages: Any, tools: Any) -> None:
    for model in ("gpt-4o", "claude-sonnet-4-5"):
        assert count_message_tokens(messages, model, tools=tools) >= 0


def test_parts_that_refer_to_themselves_or_nest_without_end() -> None:
    schema: dict[str, Any] = {"type": "object"}
    schema["properties"] = {"again": schema}
    circle: dict[str, Any] = {"type": "circle"}
    circle["self"] = circle
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    messages = [{"role": "user", "content": [circle, {"type": "deep", "deep": deep}, {1, 2}, b"\xff"]}]
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
    assert not count_message_tokens(messages, "gpt-4o", tools=tools).exact


def test_calls_of_tools_and_results() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    turns = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "tool_call_id": "call_1"}]
    texts = estimate_text("add") + estimate_text('{"a": 1}')
    assert count_message_tokens(turns, "gpt-4o") == 3 + 4 + 4 + 8 + texts
    turns[0]["tool_calls"] = [call, call]
    assert count_message_tokens(turns, "gpt-4o") == 3 + 4 + 4 + 2 * (8 + texts) + 13


@pytest.mark.parametrize(
    ("model", "width", "height", "low", "tokens"),
    [
        # The examples of OpenAI's guide.
        ("gpt-4o", 1024, 1024, False, 765),
        ("gpt-4o", 2048, 4096, False, 1105),
        ("gpt-4o", 4096, 8192, True, 85),
        ("gpt-4.1-nano", 1024, 1024, False, 2520),
        ("o4-mini", 1800, 2400, False, 2498),
        # What services charged.
        ("gpt-4o", 100, 100, False, 255),
        ("gpt-4.1-nano", 540, 360, False, 502),
        ("gemini-2.5-flash", 100, 100, False, 258),
        ("claude-sonnet-4-5", 1092, 1092, False, 1590),
        ("unknown", 0, 0, False, 85),
        ("gpt-5-mini", 0, 0, False, 0),
        ("gpt-5-mini", 10**9, 1, False, 2489),
    ],
)
def test_images_are_counted_as_documented(model: str, width: int, height: int, low: bool, tokens: int) -> None:
    assert media_rules(model).image(width, height, low) == tokens


_IMAGES = {
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (300).to_bytes(4) + (200).to_bytes(4),
    "gif": b"GIF89a" + (300).to_bytes(2, "little") + (200).to_bytes(2, "little"),
    "jpeg": b"\xff\xd8\xff\xe0\0\x04ab\xff\xc0\0\x11\x08" + (200).to_bytes(2) + (300).to_bytes(2) + b"\x03\x01",
    "webp": b"RIFF\0\0\0\0WEBPVP8X\0\0\0\0\0\0\0\0" + (299).to_bytes(3, "little") + (199).to_bytes(3, "little"),
    "webp-lossy": b"RIFF\0\0\0\0WEBPVP8 " + bytes(10) + (300).to_bytes(2, "little") + (200).to_bytes(2, "little"),
    "webp-lossless": b"RIFF\0\0\0\0WEBPVP8L" + bytes(4) + b"\x2f" + (299 | 199 << 14).to_bytes(4, "little"),
}


@pytest.mark.parametrize("kind", _IMAGES)
def test_the_size_of_an_image_is_in_its_header(kind: str) -> None:
    encoded = base64.b64encode(_IMAGES[kind]).decode()
    assert image_size(encoded) == image_size(f"data:image/{kind};base64,{encoded}") == (300, 200)
    part = {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{encoded}"}}
    count = count_message_tokens([{"role": "user", "content": [part]}], "gpt-4o")
    assert (count, count.exact) == (3 + 4 + 255, False)
    part["image_url"] = {"url": "https://example.com/a.png", "detail": "low"}  # type: ignore[assignment]
    assert count_message_tokens([{"role": "user", "content": [part]}], "gpt-4o") == 3 + 4 + 85


@settings(max_examples=300, deadline=None)
@given(
    header=st.sampled_from([b"", b"\xff\xd8", *_IMAGES.values()]), rest=st.binary(max_size=60), cut=st.integers(0, 40)
)
def test_no_image_is_too_broken(header: bytes, rest: bytes, cut: int) -> None:
    size = image_size(base64.b64encode(header[: len(header) - cut] + rest).decode())
    assert size is None or min(size) >= 0
    assert image_size("data:;base64,\u20ac" + rest.decode("latin-1")) is None or rest


def _recorded(names: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Return model, request and reported input, cached parts included, of the calls in recorded exchanges."""
    for name in names:
        for line in (Path(RECORDINGS or "") / f"{name}.jsonl").read_text("utf-8").splitlines():
            record = json.loads(line)
            usage = record.get("expect", {}).get("usage") or {}
            if record["response"]["status"] == 200 and usage.get("input"):
                apart = re.findall(r'"cache_(?:creation|read)_input_tokens": *(\d+)', record["response"]["body"])
                charged = usage["input"] + (sum(map(int, apart[:2])) if record["api"] == "messages" else 0)
                yield record["model"], json.loads(record["request"]["body"]), charged


SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "description": "Ñame"}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "City", "strict": True, "schema": SCHEMA}}


@pytest.mark.parametrize("response_format", [FORMAT, {"type": "json_schema", "name": "City", "schema": SCHEMA}])
def test_an_output_format_costs_its_schema(response_format: dict[str, Any], counted: list[str]) -> None:
    found = count_message_tokens(CONVERSATION, "gpt-4o", response_format=response_format)
    shown = '{"type":"object","properties":{"name":{"type":"string","description":"Ñame"}}}'
    expected = count_message_tokens(CONVERSATION, "gpt-4o") + 4 + (len(shown.encode()) + 3) // 4
    assert (found, found.exact) == (expected, False)
    counter = MessageTokenCounter("gpt-4o")
    assert counter.within_limit(CONVERSATION, expected, response_format=response_format)
    assert not counter.within_limit(CONVERSATION, expected - 1, response_format=response_format)


@pytest.mark.parametrize("kind", ["text", "json_object"])
def test_an_output_format_without_a_schema_costs_nothing(kind: str, counted: list[str]) -> None:
    found = count_message_tokens(CONVERSATION, "gpt-4o", response_format={"type": kind})
    assert (found, found.exact) == (count_message_tokens(CONVERSATION, "gpt-4o"), True)


def wav(seconds: int, *, said: int | None = None, before: bytes = b"") -> bytes:
    length = 16_000 * seconds
    form = b"fmt " + (16).to_bytes(4, "little") + b"\1\0\1\0" + (8_000).to_bytes(4, "little")
    form += (16_000).to_bytes(4, "little") + b"\2\0\x10\0"
    data = b"data" + (length if said is None else said).to_bytes(4, "little") + bytes(length)
    return b"RIFF\0\0\0\0WAVE" + before + form + data


def mp3(header: str, length: int, *, frames: int | None = None, tag: int = 0) -> bytes:
    name = b"ID3\4\0\0" + bytes([0, 0, tag >> 7, tag & 127]) + bytes(tag) if tag else b""
    count = b"" if frames is None else b"\0" * 17 + b"Xing\0\0\0\1" + frames.to_bytes(4)
    return name + (bytes.fromhex(header) + count).ljust(length, b"\0")


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (wav(3), 3),
        (wav(3, before=b"LIST\3\0\0\0abc\0"), 3),
        (wav(3, said=0xFFFFFFFF), 3),  # streamed
        (wav(3, said=0), 3),
        (mp3("fffb90c4", 16_000), 1),  # MPEG 1, 128 kbit/s
        (mp3("fffb54c4", 16_000, tag=300), 2),  # MPEG 1, 64 kbit/s
        (mp3("fff380c4", 16_000), 2),  # MPEG 2, 64 kbit/s
        (mp3("fffb54c4", 16_000, frames=250, tag=300), 6),  # 48 kHz
        (mp3("fff354c4", 16_000, frames=250), 6),  # MPEG 2, 24 kHz
        (b"OggS" + bytes(15_996), 1),
        (b"\xff\xfb\xff\xff" + bytes(15_996), 1),
        (b"RIFF\0\0\0\0WAVE" + bytes(15_988), 1),
        (b"", 0),
    ],
)
def test_how_long_a_recording_is(data: bytes, seconds: float) -> None:
    encoded = base64.b64encode(data).decode()
    for form in (data, encoded, f"data:audio/wav;base64,{encoded}"):
        assert audio_seconds(form) == pytest.approx(seconds, rel=0.001, abs=0.001)


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from([b"", b"\xff\xfb", b"ID3", b"RIFF", wav(0), mp3("fffb54c4", 40, frames=9)]), rest=st.binary()
)
def test_no_recording_is_too_broken(start: bytes, rest: bytes) -> None:
    assert audio_seconds(start + rest) >= 0
    assert audio_seconds(base64.b64encode(start + rest).decode()[1:]) >= 0


@pytest.mark.parametrize(("model", "tokens"), [("gpt-audio", 3 + 4 + 3 + 30), ("gemini-2.5-flash", 3 + 96)])
def test_a_recording_costs_by_the_second(model: str, tokens: int) -> None:
    for data in (base64.b64encode(wav(3)).decode(), wav(3)):
        part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
        count = count_message_tokens([{"role": "user", "content": [part]}], model)
        assert (count, count.exact) == (tokens, False)


def test_what_takes_long_is_left_to_a_thread(directory: Path) -> None:
    counter = MessageTokenCounter("gpt-4o", directory=directory)
    short, long = [{"role": "user", "content": "abc "}], [{"role": "user", "content": "abc " * 10_000}]
    assert counter.within_limit_at_once(short, 100) is True
    assert counter.within_limit_at_once(short, 10) is None  # the table is not loaded
    assert load_encoding("gpt-4o", directory=directory)
    assert counter.within_limit_at_once(short, 8) is False
    assert counter.within_limit_at_once(long, 10) is None  # its length tells, but not how many tokens it has
    assert counter.within_limit_at_once(long, 30_007) is None
    count = counter.count(long)
    assert counter.within_limit_at_once(long, count) is True
    assert counter.within_limit_at_once([*long, *short], count) is False


@needs_recordings
@pytest.mark.usefixtures("published_tables")
def test_exact_counts_are_what_the_service_charged() -> None:
    compared = formats = recordings = 0
    for model, body, charged in _recorded(("openai-chat", "azure-chat")):
        response_format = body.get("response_format")
        count = count_message_tokens(body["messages"], model, tools=body.get("tools"), response_format=response_format)
        compared += count.exact
        assert not count.exact or count == charged, model
        if (response_format or {}).get("type") == "json_schema":
            formats += 1
            assert abs(count - charged) <= 8, model
        if "input_audio" in str(body):
            recordings += 1
            assert count == charged
    assert compared >= 50
    assert (formats >= 8, recordings) == (True, 2)


@needs_recordings
def test_estimates_for_claude_err_as_stated() -> None:
    services = ("anthropic-messages", "vertex-anthropic-messages", "azure-messages", "mirascope-router-messages")
    plain = {"messages", "model", "system", "stream", "stream_options", "max_tokens", "temperature", "stop_sequences"}
    errors = {}
    for model, body, charged in _recorded((*services, "openrouter-chat", "snowflake-chat", "heroku-chat")):
        system = [{"role": "system", "content": body["system"]}] if body.get("system") else []
        messages = [*system, *body["messages"]]
        texts = all(_only_text(each["content"]) for each in messages)
        if "claude" in model and charged >= 20 and texts and set(body) <= {*plain, "anthropic_version"}:
            count = count_message_tokens(messages, model)
            errors[str(messages), charged] = abs(count - charged) / charged
    assert len(errors) >= 12
    in_order = sorted(errors.values())
    assert in_order[len(in_order) // 2] <= 0.10
    assert in_order[-1] <= 0.45


@needs_recordings
def test_estimates_for_gemini_err_as_stated() -> None:
    errors = {}
    for model, body, charged in _recorded(("gemini-generateContent", "vertex-generateContent")):
        contents = [*filter(None, [body.get("systemInstruction")]), *body["contents"]]
        parts = [part for content in contents for part in content["parts"]]
        plain = not body.get("tools") and "Schema" not in str(body.get("generationConfig"))
        if charged >= 20 and plain and all(set(part) == {"text"} for part in parts):
            messages = [{"role": "user", "content": [{"type": "text", **part} for part in parts]}]
            errors[str(messages), charged] = abs(count_message_tokens(messages, model) - charged) / charged
    assert len(errors) >= 12
    in_order = sorted(errors.values())
    assert in_order[len(in_order) // 2] <= 0.15
    assert in_order[len(in_order) * 9 // 10] <= 0.25


def _only_text(content: Any) -> bool:
    parts = [] if isinstance(content, str) else content or [{}]
    return all(part.get("type") == "text" for part in parts)
