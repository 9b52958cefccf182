"""The scripted provider answers as a service would, errors and all, and keeps what it was asked."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest
from pydantic import BaseModel

from llmkit import (
    AsyncFallbackProvider,
    Hooks,
    LLMConfig,
    LLMProviderAuthenticationError,
    LLMProviderBadRequestError,
    LLMProviderConfigurationError,
    LLMProviderConnectionError,
    LLMProviderContentFilterError,
    LLMProviderError,
    LLMProviderNotFoundError,
    LLMProviderOutputError,
    LLMProviderOverloadedError,
    LLMProviderPermissionError,
    LLMProviderQuotaError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderTimeoutError,
    LLMProviderTokenLimitError,
    MemoryCache,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from llmkit.testing import AsyncScriptedProvider, Reply, ScriptedCall, UnscriptedCallError, tool_call

from ._backend import run_together

pytestmark = pytest.mark.anyio

SAID_BY_A_SERVICE = [
    LLMProviderAuthenticationError,
    LLMProviderBadRequestError,
    LLMProviderContentFilterError,
    LLMProviderNotFoundError,
    LLMProviderOverloadedError,
    LLMProviderPermissionError,
    LLMProviderQuotaError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderTokenLimitError,
]
OF_THE_NETWORK = [
    (LLMProviderConnectionError, None, "ConnectError"),
    (LLMProviderConnectionError, "RemoteProtocolError", "RemoteProtocolError"),
    (LLMProviderTimeoutError, None, "ReadTimeout"),
    (LLMProviderTimeoutError, "ConnectTimeout", "ConnectTimeout"),
]


class City(BaseModel):
    name: str
    inhabitants: int = 0


async def test_texts_are_answered_whole_and_streamed(api_type: Any) -> None:
    async with AsyncScriptedProvider("Hello!", ["Hel", "lo"], "", api_type=api_type) as provider:
        response = await provider.execute("Hi", "Be brief")
        assert (response.content, response.finish_reason, response.response_id) == ("Hello!", "stop", "reply-1")
        assert (response.prompt_tokens, response.completion_tokens, response.model) == (10, 5, "scripted-model")
        assert [text async for text in provider.stream("And?")] == ["Hel", "lo"]
        assert (await provider.execute([{"role": "user", "content": "Say nothing"}])).content == ""
        first, second, _ = provider.calls
        assert (first.prompt, second.prompt, first.api_type) == ("Hi", "And?", api_type)
        assert (first.settings["model"], first.settings["temperature"]) == ("scripted-model", 0.7)
        assert (first.settings.get("stream"), second.settings["stream"]) == (None, True)
        assert "Be brief" in str(first.body) and first.tools == []
        assert provider.replies_left == 0
    assert "Hi" not in repr(provider.calls)


async def test_a_reply_says_whatever_an_answer_can(api_type: Any) -> None:
    usage = Usage(input_uncached=3, cache_read=4, output_text=2, reasoning=1)
    reply = Reply(["Once", " upon"], "length", reasoning="Hm.", usage=usage, headers={"x-request-id": "req_1"})
    async with AsyncScriptedProvider(reply, reply, api_type=api_type, config=LLMConfig(model_name="m")) as provider:
        for response in [await provider.execute("Hi"), await provider.stream("Hi").response()]:
            assert (response.content, response.reasoning, response.model) == ("Once upon", "Hm.", "m")
            assert (response.finish_reason, response.metadata["request_id"]) == ("length", "req_1")
            assert (response.prompt_tokens, response.completion_tokens, response.total_tokens) == (7, 3, 10)
            assert response.usage is not None
            assert (response.usage.cache_read, response.usage.reasoning) == (4, 1)


@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_every_finish_reason_and_a_refusal(api_type: Any, mode: Any) -> None:
    async with AsyncScriptedProvider(api_type=api_type, stream_mode=mode) as provider:
        for reason in ("stop", "length", "content_filter", "error", "other"):
            provider.add(Reply("Well", reason))
            assert (await provider.execute("Hi")).finish_reason == reason
        provider.add(Reply(refusal="I cannot."))
        response = await provider.execute("Hi")
        assert (response.content, response.refusal, response.finish_reason) == ("", "I cannot.", "content_filter")


@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_tools_are_called_until_there_is_an_answer(api_type: Any, mode: Any) -> None:
    def weather(city: str) -> str:
        """Look up the weather."""
        return f"Sunny in {city}"

    script = [["Let me see.", tool_call("weather", city="Rome"), tool_call("weather", city="Oslo")], "Sunny."]
    async with AsyncScriptedProvider(*script, api_type=api_type, stream_mode=mode) as provider:
        response = await provider.run_tools("How is it?", tools=[weather])
        assert response.content == "Sunny."
        first, second = provider.calls
        assert first.tools == second.tools == ["weather"]
        assert all(result in str(second.messages) for result in ("Sunny in Rome", "Sunny in Oslo", "Let me see."))


async def test_calls_come_in_pieces_with_their_own_ids(api_type: Any) -> None:
    script = [tool_call("weather", city="Rome"), ToolCall("call_x", "grep", arguments_text="^a", kind="custom")]
    async with AsyncScriptedProvider(script, script, api_type=api_type) as provider:
        whole = await provider.execute("How is it?")
        assert (whole.finish_reason, [call.id for call in whole.tool_calls]) == ("tool_calls", ["call_1_0", "call_x"])
        assert whole.tool_calls[0].arguments == {"city": "Rome"}
        async with provider.stream("How is it?") as stream:
            deltas = [event async for event in stream.events() if isinstance(event, ToolCallDelta)]
            response = await stream.response()
        assert len([delta for delta in deltas if delta.arguments]) == 4
        assert response.tool_calls[0].arguments == {"city": "Rome"}
        assert (response.tool_calls[1].kind, response.tool_calls[1].arguments_text) == ("custom", "^a")


async def test_objects_are_answered_as_their_json(api_type: Any) -> None:
    oslo = City(name="Oslo", inhabitants=700_000)
    script = [oslo, {"name": "Oslo"}, ['{"name": "Os', 'lo"}'], "Oslo"]
    async with AsyncScriptedProvider(*script, api_type=api_type) as provider:
        assert (await provider.execute("Where?", response_format=City)).parsed == oslo
        assert (await provider.execute("Where?", response_format=City)).parsed == City(name="Oslo")
        stream = provider.stream("Where?", response_format=City)
        assert [each async for each in stream.objects()] == [{"name": "Os"}, {"name": "Oslo"}]
        with pytest.raises(LLMProviderOutputError, match="the answer is no JSON"):
            await provider.execute("Where?", response_format=City)
        assert "inhabitants" in str(provider.calls[0].settings)


@pytest.mark.parametrize("mode", ["disabled", "auto"])
@pytest.mark.parametrize("kind", SAID_BY_A_SERVICE)
async def test_an_error_of_the_service_comes_out_as_itself(api_type: Any, mode: Any, kind: Any) -> None:
    error = kind("That is all", parameter="p", request_id="req_1", retry_after=0.5)
    async with AsyncScriptedProvider(error, api_type=api_type, max_retries=0) as provider:
        with pytest.raises(kind, match="That is all") as caught:
            await provider.execute("Hi", stream_mode=mode)
    found = caught.value
    assert type(found) is kind and found is not error
    assert (found.provider, found.parameter, found.request_id, found.retry_after) == ("scripted", "p", "req_1", 0.5)
    assert found.status_code is not None and found.code


@pytest.mark.parametrize("kind", SAID_BY_A_SERVICE)
async def test_an_error_inside_of_a_stream_keeps_what_came(api_type: Any, kind: Any) -> None:
    async with AsyncScriptedProvider(["Hel", kind("That is all")], api_type=api_type) as provider:
        with pytest.raises(kind, match="That is all") as caught:
            await provider.stream("Hi").response()
    assert type(caught.value) is kind
    assert caught.value.partial is not None and caught.value.partial.content == "Hel"


@pytest.mark.parametrize("mode", ["disabled", "auto"])
@pytest.mark.parametrize(("kind", "code", "found"), OF_THE_NETWORK)
async def test_a_failure_of_the_network_comes_out_as_itself(
    api_type: Any, mode: Any, kind: Any, code: str | None, found: str
) -> None:
    async with AsyncScriptedProvider(kind("Alas", code=code), api_type=api_type, max_retries=0) as provider:
        with pytest.raises(kind, match="Alas") as caught:
            await provider.execute("Hi", stream_mode=mode)
        assert caught.value.code == found
        provider.add(kind(status_code=504 if kind is LLMProviderTimeoutError else None))
        with pytest.raises(kind):
            await provider.execute("Hi", stream_mode=mode)


@pytest.mark.parametrize("error", [LLMProviderStreamError, LLMProviderConnectionError, LLMProviderTimeoutError])
async def test_a_broken_stream_keeps_what_came(api_type: Any, error: Any) -> None:
    async with AsyncScriptedProvider(["Hel", "lo", error("Alas")], api_type=api_type) as provider:
        kind = LLMProviderTimeoutError if error is LLMProviderTimeoutError else LLMProviderStreamError
        with pytest.raises(kind, match="Alas") as caught:
            await provider.stream("Hi").response()
        assert caught.value.partial is not None and caught.value.partial.content == "Hello"
        # A plain call has no part to keep.
        provider.add(["Hel", error("Alas")])
        kind = LLMProviderTimeoutError if error is LLMProviderTimeoutError else LLMProviderConnectionError
        with pytest.raises(kind, match="Alas"):
            await provider.execute("Hi", max_retries=0)
        provider.add(LLMProviderStreamError("Alas"))
        with pytest.raises(LLMProviderStreamError, match="Alas"):
            await provider.stream("Hi", max_retries=0).response()


async def test_what_can_be_tried_again_is_and_nothing_is_waited_for(api_type: Any, sleeps: list[float]) -> None:
    failures = [LLMProviderRateLimitError(retry_after=30), LLMProviderOverloadedError(), LLMProviderConnectionError()]
    async with AsyncScriptedProvider(*failures, "At last", api_type=api_type) as provider:
        response = await provider.execute("Hi")
        assert (response.content, len(provider.calls)) == ("At last", 4)
        attempts = response.metadata["attempts"]
        assert [attempt["status_code"] for attempt in attempts] == [429, 503, None]
        assert attempts[0]["wait"] >= 30
        assert set(sleeps) == {0.0}
        provider.add(LLMProviderQuotaError(), *failures, LLMProviderServerError("Down"))
        with pytest.raises(LLMProviderQuotaError):
            await provider.execute("Hi")
        with pytest.raises(LLMProviderServerError, match="Down") as caught:
            await provider.stream("Hi").response()
        assert len(caught.value.attempts) == 3
        provider.add(LLMProviderServerError(should_retry=False))
        with pytest.raises(LLMProviderServerError):
            await provider.execute("Hi")
    assert (len(provider.calls), provider.replies_left) == (10, 0)


async def test_steps_wait_for_functions(api_type: Any) -> None:
    gate = threading.Event()
    async with AsyncScriptedProvider(["Hel", gate.wait, "lo"], [gate.wait, "!"], api_type=api_type) as provider:
        texts = []
        async for text in provider.stream("Hi"):
            texts.append(text)
            assert gate.is_set() == (len(texts) == 2)
            gate.set()
        assert texts == ["Hel", "lo"]
        assert (await provider.execute("Hi")).content == "!"


async def test_steps_wait_for_seconds_within_the_configured_times(api_type: Any) -> None:
    settings: Any = {"api_type": api_type, "max_retries": 0}
    async with AsyncScriptedProvider(["Hel", 0.001, "lo"], [0, "Hello"], **settings) as provider:
        assert [text async for text in provider.stream("Hi")] == ["Hel", "lo"]
        assert (await provider.execute("Hi")).content == "Hello"
        provider.add(["Hel", 60, "lo"], [60, "Hello"], [60, "Hello"], ["Hel", 60, "lo"])
        with pytest.raises(LLMProviderTimeoutError, match=r"no event came within idle_timeout \(0.01 s\)") as caught:
            await provider.stream("Hi", idle_timeout=0.01).response()
        assert caught.value.partial is not None and caught.value.partial.content == "Hel"
        with pytest.raises(LLMProviderTimeoutError, match="ReadTimeout"):
            await provider.execute("Hi", timeout=0.01)
        with pytest.raises(LLMProviderTimeoutError, match=r"longer than its deadline \(0.01 s\)"):
            await provider.execute("Hi", deadline=0.01)
        with pytest.raises(LLMProviderTimeoutError, match="longer than its deadline"):
            await provider.stream("Hi", deadline=0.01).response()


@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_a_call_without_a_reply_is_named_and_not_tried_again(api_type: Any, mode: Any) -> None:
    async with AsyncScriptedProvider("Hello", api_type=api_type, stream_mode=mode) as provider:
        await provider.execute("Hi")
        told = r"call 2 \(POST /\w+(/\w+)?, 1 messages\) has no reply: the script had 1;"
        with pytest.raises(UnscriptedCallError, match=told) as caught:
            await provider.execute("Hi")
        assert not isinstance(caught.value, LLMProviderError)
        assert len(provider.calls) == 2


async def test_functions_and_defaults_answer_any_number_of_callers(api_type: Any) -> None:
    def echo(call: ScriptedCall) -> Any:
        return [*call.prompt] if call.settings.get("stream") else call.prompt

    async with AsyncScriptedProvider("First", echo, default=echo, api_type=api_type) as provider:
        assert (await provider.execute("Hi")).content == "First"
        assert (await provider.execute("Second")).content == "Second"
        prompts = [f"prompt {number}" for number in range(50)]
        calls = [partial(provider.execute, prompt, stream_mode="auto") for prompt in prompts]
        assert [response.content for response in await run_together(*calls)] == prompts
        assert len(provider.calls) == 52


async def test_answers_of_the_responses_api_can_be_continued_and_waited_for() -> None:
    async with AsyncScriptedProvider("One", "Two", Reply(finish_reason="pause"), default="Done") as provider:
        first = await provider.execute_responses_api("Hi", "Be brief")
        await provider.execute_responses_api("And?", previous_response_id=first.response_id)
        assert provider.calls[0].settings["instructions"] == "Be brief"
        assert provider.calls[1].settings["previous_response_id"] == "reply-1"
        started = await provider.execute_responses_api("Think", background=True)
        assert started.finish_reason == "pause"
        assert (await provider.wait_for_response(started.response_id or "", poll_interval=0)).content == "Done"
        await provider.delete_response("reply-1")
        assert len(provider.calls) == 4


async def test_what_asks_no_model_takes_nothing_from_the_script() -> None:
    async with AsyncScriptedProvider("Hello", provider_type="openai") as provider:
        one, other, again = (await provider.embed(["a", "b", "a"])).vectors
        assert one == again != other and len(one) == 8 and all(-1 <= number <= 1 for number in one)
        assert len((await provider.embed("a", dimensions=3)).vectors[0]) == 3
        assert [model.id for model in await provider.list_models()] == ["scripted-model"]
        assert await provider.count_tokens("How long?") > 0
        assert (provider.calls, provider.replies_left, provider.provider_type) == ([], 1, "openai")
        assert (await provider.execute("Hi")).provider_type == "openai"


async def test_what_any_provider_has_it_has_too() -> None:
    seen: list[int] = []
    hooks = Hooks(after=lambda record: seen.append(len(record.attempts)))
    script = [LLMProviderOverloadedError(), "Hello", LLMProviderServerError("Down"), LLMProviderServerError("Down")]
    async with AsyncScriptedProvider(*script, hooks=hooks, cache=MemoryCache(), temperature=0) as first:
        for _ in range(2):
            assert (await first.execute("Hi")).content == "Hello"
        assert (len(first.calls), seen[0]) == (2, 1)
        second = AsyncScriptedProvider("Well", config=first.config)
        response = await AsyncFallbackProvider([first, second]).execute("And?", max_retries=1)
        assert (response.content, first.replies_left, second.config.temperature) == ("Well", 0, 0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (7, "a reply of the script is an int"),
        ([{"a": 1}], "a step of the reply is {'a': 1}, a dict; it must be a text"),
        ([True], "a step of the reply is True, a bool"),
        ([-1.0], "a step of the reply is -1.0, a float; it must be a text, seconds from 0"),
        (LLMProviderOutputError(), "no service causes LLMProviderOutputError"),
        (["Hel", LLMProviderError()], "no service causes LLMProviderError"),
        (LLMProviderBadRequestError(status_code=401), "would come out as LLMProviderAuthenticationError"),
        (LLMProviderRateLimitError("insufficient balance"), "would come out as LLMProviderQuotaError"),
    ],
)
async def test_a_wrong_script_is_refused_at_once(wrong: Any, told: str) -> None:
    with pytest.raises(LLMProviderConfigurationError, match=told):
        AsyncScriptedProvider(wrong)
    with pytest.raises(LLMProviderConfigurationError, match=told):
        AsyncScriptedProvider().add("Hello", wrong)
