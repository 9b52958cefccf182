"""A provider's token counts and limits: of conversations as well, with all that costs tokens in them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from llmkit import (
    Image,
    LLMProviderBadRequestError,
    LLMProviderConfigurationError,
    LLMProviderError,
    LLMProviderTokenLimitError,
    Message,
    ToolCall,
)
from llmkit.config import LLMConfig
from llmkit.countable import fits_by_length
from llmkit.http_provider import HTTPProvider
from llmkit.messages import Audio, File, RawPart
from llmkit.provider import LLMProvider
from llmkit.structured import output_format
from llmkit.tokens import count_message_tokens, count_tokens

pytestmark = pytest.mark.usefixtures("no_tables")

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (300).to_bytes(4) + (200).to_bytes(4)
QUESTION = {"role": "user", "content": "How is the weather in Oslo, and what are its sights?"}


class City(BaseModel):
    name: str
    inhabitants: int


def get_weather(city: str) -> str:
    """The weather in a city."""
    return city


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def made(**settings: Any) -> HTTPProvider:
    return HTTPProvider(LLMConfig(**{"model_name": "gpt-4o", **settings}), "key")


def test_a_text_alone_is_counted_as_a_text() -> None:
    assert made().estimate_tokens("How are you?") == count_tokens("How are you?", "gpt-4o")


@pytest.mark.parametrize("messages", [[QUESTION], QUESTION, (Message(**QUESTION),), Message(**QUESTION)])
def test_a_conversation_is_counted_by_the_recipe(messages: Any, counted: list[str]) -> None:
    count = made().estimate_tokens(messages)
    assert (count, count.exact) == (count_message_tokens([QUESTION], "gpt-4o"), True)


@pytest.mark.parametrize("prompt", [[QUESTION], QUESTION["content"]])
def test_tools_and_output_formats_are_counted(prompt: Any, counted: list[str]) -> None:
    found = made().estimate_tokens(prompt, tools=[get_weather], response_format=City)
    schema = output_format(City).schema
    expected = count_message_tokens(
        [QUESTION], "gpt-4o", tools=[TOOL], response_format={"type": "json_schema", "schema": schema}
    )
    assert (found, found.exact) == (expected, False)
    plain = {"type": "json_schema", "json_schema": {"name": "City", "schema": schema}}
    assert made().estimate_tokens(prompt, tools=[TOOL], response_format=plain) == expected


def test_everything_in_a_message_is_counted(counted: list[str]) -> None:
    url = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    recording = base64.b64encode(bytes(16_000)).decode()
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    plain: list[dict[str, Any]] = [
        {
            "role": "user",
            "name": "ada",
            "content": [
                {"type": "text", "text": "Look"},
                {"type": "image_url", "image_url": {"url": url}},
                {"type": "input_audio", "input_audio": {"data": recording, "format": "mp3"}},
                {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{recording}"}},
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "Sunny"},
        {"role": "assistant", "content": None, "refusal": "No"},
    ]
    parts = ["Look", Image(PNG), Audio(bytes(16_000), "mp3"), File(bytes(16_000))]
    expected = count_message_tokens(plain, "gpt-4o")
    assert made().estimate_tokens(plain) == expected
    assert made().estimate_tokens([Message(role="user", name="ada", content=parts), *plain[1:]]) == expected


def test_a_call_made_by_hand_costs_what_is_sent(counted: list[str]) -> None:
    by_hand = ToolCall("1", "get_weather", {"city": "Oslo"})
    made().estimate_tokens([Message(role="assistant", tool_calls=(by_hand,))])
    assert '{"city": "Oslo"}' in counted


def test_what_only_the_issuer_can_read_is_not_counted(counted: list[str]) -> None:
    thought = RawPart({"type": "thinking", "thinking": "Hm", "signature": "x" * 9_999})
    item = {"type": "reasoning", "encrypted_content": "x" * 9_999, "summary": []}
    count = made().estimate_tokens([Message(role="assistant", content=[thought]), item])
    assert count == 3 + 2 * 4 + 1
    assert sorted(counted) == ["", "Hm"]


def test_a_conversation_that_grows_costs_the_new_message(counted: list[str]) -> None:
    provider = made(token_limit=100)
    first = provider.estimate_tokens([QUESTION])
    counted.clear()
    assert provider.estimate_tokens([QUESTION, {"role": "user", "content": "And in Rome?"}]) == first + 4 + 3
    assert counted == ["And in Rome?"]
    assert not provider.validate_token_limit([QUESTION] * 20)
    assert counted == ["And in Rome?"]


def test_a_limit_is_of_all_that_is_counted(counted: list[str]) -> None:
    for extra in ({}, {"tools": [get_weather]}, {"response_format": City}):
        count = made().estimate_tokens([QUESTION], **extra)
        assert made(token_limit=count).validate_token_limit([QUESTION], max_tokens=0, **extra)
        assert not made(token_limit=count).validate_token_limit([QUESTION], max_tokens=1, **extra)
        assert not made(token_limit=count, max_tokens=1).validate_token_limit([QUESTION], **extra)


@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"tools": [get_weather]},
        {"response_format": City},
        {"response_format": {"type": "json_schema", "name": "n"}},
    ],
)
def test_a_call_over_the_limit_is_refused_whatever_it_is_made_of(extra: dict[str, Any], counted: list[str]) -> None:
    count = made().estimate_tokens([QUESTION], **extra)
    provider = made(token_limit=count)
    assert provider.check_token_limit(provider.make_call([QUESTION], **extra), at_once=True)
    provider.update_config(token_limit=count - 1)
    with pytest.raises(LLMProviderTokenLimitError, match=rf"the prompt has (about )?{count} tokens, more than"):
        provider.check_token_limit(provider.make_call([QUESTION], **extra), at_once=True)


JSON_SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {}, optional={"type": st.sampled_from(["string", "null"]), "description": st.text(max_size=9)}
    )
    | st.fixed_dictionaries({"enum": st.lists(st.text(max_size=3) | st.integers(), max_size=6)}),
    lambda inner: st.fixed_dictionaries(
        {"properties": st.dictionaries(st.text(max_size=3), inner, max_size=4)},
        optional={"items": inner, "anyOf": st.lists(inner, max_size=3), "$defs": st.dictionaries(st.text(), inner)},
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(
    schemas=st.lists(JSON_SCHEMAS, max_size=4),
    texts=st.lists(st.text(max_size=20), min_size=1, max_size=4).map(lambda texts: texts * 50),
    model=st.sampled_from(["gpt-4o", "gpt-4", "gpt-5", "gpt-oss-20b", "claude-sonnet-4-5", "grok-code", "gemini-2.5"]),
)
def test_what_fits_by_its_length_fits(schemas: list[Any], texts: list[str], model: str) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": schema}} for schema in schemas[1:]] * 50
    response_format = {"type": "json_schema", "schema": schemas[0]} if schemas else None
    provider = made(model_name=model)
    call = provider.make_call([{"role": "user", "content": texts}], tools=tools, response_format=response_format)
    count = provider.estimate_tokens(
        [{"role": "user", "content": texts}], tools=tools or None, response_format=response_format
    )
    assert not fits_by_length(call, count - 1)
    assert fits_by_length(call, 1_000_000)


def test_a_schema_without_end_does_not_fit_by_its_length() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"items": deep}
    call = made().make_call("text", response_format={"type": "json_schema", "schema": deep})
    assert not fits_by_length(call, 100_000)


def test_a_picture_can_be_over_the_limit(counted: list[str]) -> None:
    provider = made(token_limit=100)
    with pytest.raises(LLMProviderTokenLimitError, match="has about 2"):
        provider.check_token_limit(provider.make_call([Message(role="user", content=[Image(PNG)])]))


def test_a_long_prompt_is_left_to_a_thread(counted: list[str]) -> None:
    provider = made(token_limit=9_000)
    fits, too_long = (provider.make_call("word " * length) for length in (5_000, 10_000))
    assert not provider.check_token_limit(fits, at_once=True)
    assert not provider.check_token_limit(too_long, at_once=True)
    assert not counted
    assert provider.check_token_limit(fits)
    assert provider.check_token_limit(fits, at_once=True)
    with pytest.raises(LLMProviderTokenLimitError):
        provider.check_token_limit(too_long)


@pytest.mark.parametrize("prompt", [None, 3, b"text", [], ["text"], [{"role": "nobody"}], {"content": "text"}])
def test_what_is_no_prompt_is_a_clear_error(prompt: Any) -> None:
    for count in (made().estimate_tokens, made().validate_token_limit):
        with pytest.raises(LLMProviderError, match=r"must be|there are|has no role") as caught:
            count(prompt)
        assert isinstance(caught.value, (LLMProviderBadRequestError, LLMProviderConfigurationError))


@pytest.mark.parametrize("max_tokens", [-1, 1.5, "1"])
def test_what_is_no_length_of_an_answer_is_a_clear_error(max_tokens: Any) -> None:
    with pytest.raises(LLMProviderConfigurationError, match=r"max_tokens is .*; it must be a whole number"):
        made().validate_token_limit("text", max_tokens)


def test_a_provider_without_http_counts_conversations_too() -> None:
    provider = LLMProvider(LLMConfig(model_name="claude-sonnet-4-5"))
    assert provider.estimate_tokens([QUESTION]) == count_message_tokens([QUESTION], "claude-sonnet-4-5")
