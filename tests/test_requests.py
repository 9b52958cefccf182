"""The shape of what is sent, seen from outside: respx stands in for the service, the client is the caller's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmkit import Image, LLMProviderServerError, Message, SyncProvider, Text, Tool, create_sync_llm_provider

from .answers import ChatCompletions, Responses

# Its client works whichever library llmkit uses itself; respx knows no other.
httpx = pytest.importorskip("httpx")
respx = pytest.importorskip("respx")
BASE = "https://api.openai.com/v1"


@pytest.fixture
def routes() -> Iterator[Any]:
    with respx.mock(base_url=BASE, assert_all_called=False) as router:
        router.post("/chat/completions").respond(json=ChatCompletions().plain())
        router.post("/responses").respond(json=Responses().plain())
        yield router


@pytest.fixture
def provider(routes: Any) -> Iterator[SyncProvider]:
    with httpx.Client(headers={"x-team": "blue"}) as client:
        yield create_sync_llm_provider("openai", model_name="gpt-4o", api_key="sk-test", http_client=client)


def sent(routes: Any) -> tuple[Any, dict[str, Any]]:
    request = routes.calls.last.request
    return request.headers, json.loads(request.content)


def test_the_headers(provider: SyncProvider, routes: Any) -> None:
    provider.execute("Hello", extra_headers={"OpenAI-Project": "p1"})
    headers, _ = sent(routes)
    assert headers["authorization"] == "Bearer sk-test"
    assert headers["content-type"] == headers["accept"] == "application/json"
    # The caller's client keeps its own headers.
    assert (headers["openai-project"], headers["x-team"]) == ("p1", "blue")
    with pytest.raises(LLMProviderServerError, match=r"no stream of events: it begins with '\{"):
        list(provider.stream("Hello"))
    assert sent(routes)[0]["accept"] == "text/event-stream"


def test_a_chat_completion(provider: SyncProvider, routes: Any) -> None:
    tool = Tool(name="now", description="The time", parameters={"type": "object", "properties": {}})
    picture = Message(role="user", content=["What is this?", Image(data=b"png", detail="low")])
    provider.execute_chat_completion(
        [{"role": "system", "content": "Be brief"}, picture],
        tools=[tool],
        tool_choice="now",
        parallel_tool_calls=False,
        max_tokens=10,
        stop="END",
        response_format={"type": "json_object"},
    )
    assert sent(routes)[1] == {
        "model": "gpt-4o",
        "messages": [
            {"role": "system", "content": "Be brief"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,cG5n", "detail": "low"}},
                ],
            },
        ],
        "temperature": 0.7,
        "max_completion_tokens": 10,
        "stop": ["END"],
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "now",
                    "description": "The time",
                    "parameters": {"type": "object", "properties": {}},
                },
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "now"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_object"},
    }


def test_a_stream_asks_for_its_usage(provider: SyncProvider, routes: Any) -> None:
    body = b"".join(ChatCompletions().stream("Hi"))
    routes.post("/chat/completions").respond(content=body, content_type="text/event-stream")
    with provider.stream("Hello") as stream:
        assert stream.response().content == "Hi"
    assert sent(routes)[1]["stream"] is True
    assert sent(routes)[1]["stream_options"] == {"include_usage": True}


def test_a_response(provider: SyncProvider, routes: Any) -> None:
    provider.execute_responses_api(
        [
            {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "Sunny"},
        ],
        instructions="Be brief",
        previous_response_id="resp_0",
        tools=[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}],
        reasoning_effort="low",
        max_tokens=100,
        response_format={"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
    )
    assert sent(routes)[1] == {
        "model": "gpt-4o",
        "input": [
            {"role": "user", "content": "Weather?"},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "Sunny"},
        ],
        "instructions": "Be brief",
        "previous_response_id": "resp_0",
        "temperature": 0.7,
        "max_output_tokens": 100,
        "reasoning": {"effort": "low"},
        "tools": [{"type": "function", "name": "weather", "strict": False, "parameters": {"type": "object"}}],
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": {"type": "object"}}},
    }


def test_parts_with_keys_of_their_own_keep_them(provider: SyncProvider, routes: Any) -> None:
    cached = Text("A long text", extra={"cache_control": {"type": "ephemeral"}})
    provider.execute([Message(role="user", content=[cached]), {"role": "user", "content": "x", "weight": 2}])
    messages = sent(routes)[1]["messages"]
    assert messages[0]["content"] == [
        {"type": "text", "text": "A long text", "cache_control": {"type": "ephemeral"}},
    ]
    assert messages[1] == {"role": "user", "content": "x", "weight": 2}
