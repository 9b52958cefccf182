"""Type-checked, never run: what callers write must pass mypy --strict and pyright."""

from __future__ import annotations

from typing import Any, assert_type

from pydantic import BaseModel

from llmkit import (
    APIType,
    AsyncProvider,
    AsyncStream,
    Event,
    LLMConfig,
    LLMProvider,
    LLMResponse,
    ProviderSpec,
    StreamMode,
    SyncProvider,
    SyncStream,
    TextDelta,
    Tool,
    ToolCall,
    create_llm_provider,
    create_sync_llm_provider,
    get_cached_provider,
    register_provider,
)


def blocking() -> None:
    provider = create_sync_llm_provider("openai", model_name="gpt-4o", temperature=0.2, timeout=10)
    assert_type(provider, SyncProvider)
    response = provider.execute("Hello", system_prompt="Be brief", max_tokens=100)
    assert_type(response, LLMResponse)
    assert_type(response.content, str)
    assert_type(response.tool_calls, list[ToolCall])
    assert_type(provider.execute("Hello", stream_mode=StreamMode.ENABLED), SyncStream)
    assert_type(provider.execute("Hello", stream_mode="enabled"), SyncStream)
    assert_type(provider.execute("Hello", stream_mode="auto"), LLMResponse)
    messages = [{"role": "user", "content": "Hello"}]
    answer = provider.execute_chat_completion(messages, tools=[Tool(name="now")], tool_choice="auto")
    messages.append(answer.to_message())
    provider.execute_responses_api("Hello", instructions="Be brief", previous_response_id=answer.response_id)
    with provider.stream(messages) as stream:
        for text in stream:
            assert_type(text, str)
        for event in stream.events():
            assert_type(event, Event)
            if isinstance(event, TextDelta):
                print(event.text)
        assert_type(stream.response(), LLMResponse)
    provider.update_config(temperature=0.1)
    tokens: int = provider.estimate_tokens("Hello")
    tokens += provider.estimate_tokens(messages, tools=[])
    fits: bool = provider.validate_token_limit("Hello", max_tokens=tokens)
    fits = provider.validate_token_limit(messages, response_format=Person)
    print(fits, provider.get_model_info()["token_limit"], provider.build_request("Hello").body)


class Person(BaseModel):
    name: str


def weather(city: str) -> dict[str, Any]:
    return {"city": city}


async def clock(zone: str) -> str:
    return zone


def structured() -> None:
    provider = create_sync_llm_provider("openai", model_name="gpt-4o")
    person: Person = provider.execute("Who was Ada?", response_format=Person).parsed
    numbers: list[int] = provider.execute("Which?", response_format=list[int]).parsed
    for each in provider.stream("Who was Ada?", response_format=Person).objects():
        print(each["name"], person, numbers)
    response = provider.run_tools("An umbrella?", tools=[weather, Person, Tool(function=weather)], max_turns=3)
    assert_type(response, LLMResponse)


async def asynchronous() -> None:
    config = LLMConfig(model_name="gpt-4o", api_type=APIType.RESPONSES)
    async with create_llm_provider("openai", config=config, api_key="…") as provider:
        assert_type(provider, AsyncProvider)
        assert_type(await provider.execute("Hello"), LLMResponse)
        assert_type(await provider.execute("Hello", stream_mode="enabled"), AsyncStream)
        async with provider.stream("Hello", reasoning_effort="low") as stream:
            async for text in stream:
                assert_type(text, str)
            async for event in stream.events():
                assert_type(event, Event)
            assert_type(await stream.response(), LLMResponse)
        async for each in provider.stream("Who was Ada?", response_format=Person).objects():
            print(each["name"])
        assert_type(await provider.run_tools("An umbrella?", tools=[weather, clock]), LLMResponse)
    assert_type(get_cached_provider("openai", model_name="gpt-4o"), AsyncProvider)


class CustomProvider(LLMProvider):
    async def execute(self, prompt: str) -> LLMResponse:
        return LLMResponse(content=prompt, model=self.config.model_name, provider_type="custom")


register_provider("custom", CustomProvider)
register_provider(
    "acme", ProviderSpec(name="acme", base_url="https://llm.example.com/v1", key_variables=("ACME_API_KEY",))
)
