"""What llmkit sends is what the vendors' own schemas allow, for a matrix of features and formats.

An extra test: LLMKIT_SPECS names a folder with the schemas; skipped elsewhere.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from llmkit import Audio, File, Image, LLMProviderUnsupportedOperationError, Message, Text, Tool
from llmkit import create_sync_llm_provider as create
from llmkit.response import Issuer

FOLDER = os.environ.get("LLMKIT_SPECS")
pytestmark = pytest.mark.skipif(not FOLDER, reason="LLMKIT_SPECS names no folder of schemas")

# Format → its service, API type, model, file of schemas, and the operation in it.
FORMATS = {
    "chat_completions": ("openai", "chat_completion", "gpt-4o", "openai", "chat"),
    "responses": ("openai", "responses", "gpt-4o", "openai", "responses"),
    "messages": ("anthropic", "chat_completion", "claude-sonnet-4-5", "anthropic", "messages"),
    "generate_content": ("gemini", "chat_completion", "gemini-2.5-flash", "gemini", "generateContent"),
}
WEATHER = Tool(
    name="get_weather",
    description="The weather in a city",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)
CALLED = [
    {"role": "user", "content": "Weather in Oslo and Rome?"},
    {
        "role": "assistant",
        "content": "Let me see.",
        "tool_calls": [
            {
                "id": f"call_{i}",
                "type": "function",
                "function": {"name": "get_weather", "arguments": f'{{"city": "{c}"}}'},
            }
            for i, c in enumerate(("Oslo", "Rome"))
        ],
    },
    {"role": "tool", "tool_call_id": "call_0", "content": "Snow"},
    {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "Sun"}]},
    {"role": "user", "content": "Thanks. And tomorrow?"},
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False}
FOREIGN = Message(role="assistant", content="Hi", native=({"x": 1},), issuer=Issuer("acme", "other", "m"))


@dataclass
class Reading:
    place: str
    degrees: dict[str, float]
    hours: tuple[int, str] | None = None


def forecast(city: str, reading: Reading | None = None) -> str:
    """Look ahead."""
    return f"{city} {reading}"


FEATURES: dict[str, tuple[Any, dict[str, Any]]] = {
    "text": ("Hello", {}),
    "system": ("Hello", {"system_prompt": "Be brief"}),
    "roles": (
        [
            {"role": "system", "content": "Be brief"},
            {"role": "developer", "content": "Be kind"},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": [{"type": "text", "text": "Again"}]},
        ],
        {},
    ),
    "sampling": ("Hello", {"temperature": 0.5, "top_p": 0.9, "max_tokens": 100}),
    "seed": ("Hello", {"seed": 1}),
    "stop": ("Hello", {"stop": ["END", "STOP"]}),
    "penalties": ("Hello", {"frequency_penalty": 0.5, "presence_penalty": 0.5}),
    "effort": ("Hello", {"reasoning_effort": "low", "max_tokens": 9000}),
    "stream": ("Hello", {"stream_mode": "enabled"}),
    "image": ([Message(role="user", content=["What is it?", Image(data=b"png", detail="low")])], {}),
    "image url": ([Message(role="user", content=[Image(url="https://example.com/a.png"), "What is it?"])], {}),
    "image file": ([Message(role="user", content=[Image(file_id="file_1")])], {}),
    "audio": ([Message(role="user", content=[Audio(data=b"wav"), "What is said?"])], {}),
    "pdf": ([Message(role="user", content=["Sum up", File(data=b"%PDF", filename="a.pdf")])], {}),
    "pdf url": ([Message(role="user", content=[File(url="https://example.com/a.pdf")])], {}),
    "tools": ("Weather?", {"tools": [WEATHER]}),
    "tool choice": ("Weather?", {"tools": [WEATHER], "tool_choice": "get_weather"}),
    "tool required": ("Weather?", {"tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}),
    "tool none": ("Weather?", {"tools": [WEATHER], "tool_choice": "none"}),
    "tool results": (CALLED, {"tools": [WEATHER]}),
    "schema": (
        "Hello",
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}},
    ),
    "function": ("Weather?", {"tools": [forecast, Tool(function=forecast, name="strict", strict=True)]}),
    "type": ("Hello", {"response_format": Reading}),
    "foreign history": ([{"role": "user", "content": "Hi"}, FOREIGN, {"role": "user", "content": "Go on"}], {}),
    "refusal": (
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "refusal": "No"},
            {"role": "user", "content": "?"},
        ],
        {},
    ),
    "cache control": (
        [Message(role="user", content=[Text("Long", extra={"cache_control": {"type": "ephemeral"}})])],
        {},
    ),
}
# What an API cannot express, or what only one API knows.
REFUSED = {
    ("chat_completions", "image file"),
    ("chat_completions", "pdf url"),
    ("responses", "seed"),
    ("responses", "stop"),
    ("responses", "penalties"),
    ("messages", "seed"),
    ("messages", "penalties"),
    ("messages", "audio"),
    ("generate_content", "tool required"),
}
ONE_API_ALONE = {"cache control": "messages"}


# What the vendors' libraries and pages have, and these schemas do not yet.
NEWER = {("responses", "audio"), ("messages", "image file")}


def closed(schema: Any) -> Any:
    """Return the schema with objects that allow no unknown keys, so that a misspelt one shows.

    `oneOf` becomes `anyOf`: the vendors' alternatives overlap.
    """
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {"anyOf" if key == "oneOf" else key: closed(value) for key, value in schema.items()}
    return {"additionalProperties": False, **inner} if "properties" in inner and "x-output-only" in inner else inner


def validator(file: str, operation: str) -> Draft202012Validator:
    document = json.loads((Path(FOLDER or "") / f"{file}.json").read_text("utf-8"))
    schemas = closed(document["schemas"])
    return Draft202012Validator({"$ref": f"#/$defs/{document['operations'][operation]['request']}", "$defs": schemas})


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("wire_format", FORMATS)
def test_a_request_is_what_the_schema_allows(wire_format: str, feature: str) -> None:
    name, api_type, model, file, operation = FORMATS[wire_format]
    if ONE_API_ALONE.get(feature, wire_format) != wire_format:
        pytest.skip(f"only {ONE_API_ALONE[feature]} knows it")
    if (wire_format, feature) in NEWER:
        pytest.skip("newer than the schemas")
    provider = create(name, model_name=model, api_key="key", api_type=api_type)  # type: ignore[arg-type]
    prompt, options = FEATURES[feature]
    if (wire_format, feature) in REFUSED:
        with pytest.raises(LLMProviderUnsupportedOperationError):
            provider.build_request(prompt, **options)
        return
    body = provider.build_request(prompt, **options).body
    # Gemini's document wants the model in the body, where the API has it in the path.
    complete = {"model": f"models/{model}", **(body or {})}
    errors = [f"{error.json_path}: {error.message[:300]}" for error in validator(file, operation).iter_errors(complete)]
    assert not errors, json.dumps(body)[:2000]
