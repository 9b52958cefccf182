"""Type-checked, never run: what callers write must pass mypy --strict and pyright."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, assert_type

import httpx
from pydantic import BaseModel

from llmkit import (
    APIType,
    AsyncFallbackProvider,
    AsyncProvider,
    AsyncStream,
    CallRecord,
    Event,
    Hooks,
    Limits,
    LLMConfig,
    LLMProvider,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMResponse,
    MemoryCache,
    ProviderSpec,
    SQLiteCache,
    StreamMode,
    SyncProvider,
    SyncStream,
    TextDelta,
    Tool,
    ToolCall,
    create_llm_provider,
    create_sync_llm_provider,
    get_cached_provider,
    get_cached_sync_provider,
    register_provider,
)
from llmkit.prices import cost
from llmkit.telemetry import opentelemetry_hooks
from llmkit.testing import AsyncScriptedProvider, Reply, ScriptedCall, SyncScriptedProvider, recording, tool_call


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
    mode: StreamMode = StreamMode(input())
    assert_type(provider.execute("Hello", stream_mode=mode), LLMResponse | SyncStream)
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
    provider.update_config(temperature=0.1, model_name="gpt-4.1", stream_mode="auto")
    # A wrong name or kind of value is an error that an editor shows: an ignored error that is none would fail here.
    provider.update_config(temprature=0.1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    provider.execute("Hello", max_tokens="many")  # type: ignore[call-overload]  # pyright: ignore
    create_sync_llm_provider("openai", timeout="long")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    tokens: int = provider.estimate_tokens("Hello")
    tokens += provider.estimate_tokens(messages, tools=[])
    fits: bool = provider.validate_token_limit("Hello", max_tokens=tokens)
    fits = provider.validate_token_limit(messages, response_format=Person)
    print(fits, provider.get_model_info()["token_limit"], provider.build_request("Hello").body)


def watched() -> None:
    def log(record: CallRecord) -> None:
        print(record.duration, record.response and record.response.usage)

    provider = create_sync_llm_provider(
        "anthropic",
        model_name="claude-sonnet-4-5",
        hooks=[Hooks(after=log, event=lambda record, event: print(event)), opentelemetry_hooks(content=True)],
        limits=Limits(concurrency=8, tokens_per_minute=30_000),
        cache=SQLiteCache("answers.sqlite", max_age=3600),
    )
    response = provider.execute("Hello", use_cache=False, cache_scope="ada")
    assert_type(cost(response), Decimal | None)
    get_cached_sync_provider("openai", model_name="gpt-4o", cache=MemoryCache(max_bytes=1_000_000))


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
    either: int | str = provider.execute("Which?", response_format=int | str).parsed
    for each in provider.stream("Who was Ada?", response_format=Person).objects():
        print(each["name"], person, numbers, either)
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


async def fallback() -> None:
    providers = [create_llm_provider("openai", model_name="gpt-4o"), create_llm_provider("anthropic")]
    async with AsyncFallbackProvider(providers, move_on=(LLMProviderServerError,), max_failures=3) as provider:
        assert_type(provider, AsyncFallbackProvider)
        assert_type(await provider.execute("Hello", deadline=60), LLMResponse)
        assert_type(await provider.execute("Hello", stream_mode="enabled"), AsyncStream)
        assert_type(provider.stream("Hello"), AsyncStream)
        assert_type(await provider.run_tools("An umbrella?", tools=[weather, clock]), LLMResponse)
    AsyncFallbackProvider([provider, CustomProvider(provider.config)], move_on=lambda error: error.status_code == 503)


class CustomProvider(LLMProvider):
    async def execute(self, prompt: str) -> LLMResponse:
        return LLMResponse(content=prompt, model=self.config.model_name, provider_type="custom")


register_provider("custom", CustomProvider)
register_provider(
    "acme", ProviderSpec(name="acme", base_url="https://llm.example.com/v1", key_variables=("ACME_API_KEY",))
)


async def tests_of_a_caller() -> None:
    class City(BaseModel):
        name: str

    def echo(call: ScriptedCall) -> list[str]:
        return [call.prompt, *call.tools]

    steps = Reply(["Hel", 0.1, "lo", tool_call("f", a=1), LLMProviderStreamError("cut")], "length")
    script = (
        "Hello!",
        ["Hel", "lo"],
        City(name="Oslo"),
        {"name": "Oslo"},
        echo,
        LLMProviderRateLimitError("no"),
        steps,
    )
    with SyncScriptedProvider(*script, default=echo, temperature=0.1) as provider:
        assert_type(provider, SyncScriptedProvider)
        assert_type(provider.execute("Hi"), LLMResponse)
        assert_type(provider.calls[0].prompt, str)
    async with AsyncScriptedProvider(["Hel", 1], config=LLMConfig(model_name="m")) as waiting:
        assert_type(waiting, AsyncScriptedProvider)
        waiting.add("More", lambda call: call.prompt)
    with recording("recordings/hello.json", "none") as client:
        assert_type(client, httpx.Client)
        create_sync_llm_provider("openai", http_client=client)
    async with recording("recordings/hello.json", scrub=str.lower) as async_client:
        assert_type(async_client, httpx.AsyncClient)
