# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""Several providers as one, over real sockets: when the next one is asked, and what is told of it."""

from __future__ import annotations

import gc
import logging
import pickle
import socket
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

from llmkit import (
    AsyncFallbackProvider,
    AsyncStream,
    LLMConfig,
    LLMProvider,
    LLMProviderAuthenticationError,
    LLMProviderBadRequestError,
    LLMProviderConfigurationError,
    LLMProviderError,
    LLMProviderNotFoundError,
    LLMProviderOutputError,
    LLMProviderOverloadedError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderTimeoutError,
    LLMProviderTokenLimitError,
    LLMProviderUnsupportedOperationError,
    LLMResponse,
    TextDelta,
    ToolCall,
)
from llmkit.fallback import MOVE_ON
from llmkit.limits import Limits

from ..answers import Api, ChatCompletions, Messages, Responses, error_body
from ..server import CLOSE, GONE, RESET, Server, json_reply, stream_reply
from ._backend import KEY, in_thread, make_provider, make_provider_of, run_together

pytestmark = pytest.mark.anyio

SHORT = 0.1
"""Seconds that a test waits for a time to run out."""
DOWN = json_reply(error_body("Down"), 503)


@pytest.fixture
def other() -> Iterator[Server]:
    """Return the server of the second provider."""
    with Server() as other:
        yield other


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose sum is the time: it stands still unless a test appends to it."""
    seconds = [1000.0]
    monkeypatch.setattr("llmkit._async.fallback.time", SimpleNamespace(monotonic=lambda: sum(seconds)))
    return seconds


def make_fallback(*servers: Server, api: Api, settings: Any = None, **options: Any) -> AsyncFallbackProvider:
    """Return the providers of the servers as one; the model of each is named after its place."""
    shared = {"max_retries": 0, **(settings or {})}
    providers = [make_provider(each, api, model_name=f"m{place}", **shared) for place, each in enumerate(servers)]
    return AsyncFallbackProvider(providers, **options)


def fallback(error: type[LLMProviderError], status: int | None = None, model: str = "m0", **values: Any) -> Any:
    told = {"provider": "openai", "model": model, "error": error.__name__, "status_code": status, "skipped": False}
    return told | values


def nowhere() -> str:
    """Return a URL at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def answered(api: Api, mode: str, text: str = "Hello!") -> Any:
    return json_reply(api.plain(text)) if mode == "plain" else stream_reply(api.stream(text))


async def ask(provider: Any, mode: str, **options: Any) -> LLMResponse:
    if mode == "plain":
        answer = await provider.execute("Hi", **options)
    else:
        answer = await provider.stream("Hi", **options).response()
    assert isinstance(answer, LLMResponse)
    return answer


MODES = pytest.mark.parametrize("mode", ["plain", "stream"])


@MODES
async def test_the_first_that_works_is_asked_alone(server: Server, other: Server, api: Api, mode: str) -> None:
    server.add(answered(api, mode))
    async with make_fallback(server, other, api=api) as provider:
        response = await ask(provider, mode)
    assert (response.content, response.metadata["fallbacks"]) == ("Hello!", [])
    assert response.metadata["wire_format"] == api.name
    assert (len(server.requests), len(other.requests)) == (1, 0)


@MODES
@pytest.mark.parametrize(
    ("reply", "error", "status"),
    [
        (json_reply(error_body("Down"), 503), LLMProviderOverloadedError, 503),
        (json_reply(error_body("Broken"), 500), LLMProviderServerError, 500),
        (json_reply(error_body("Slow down"), 429), LLMProviderRateLimitError, 429),
        (json_reply(error_body("Who?"), 401), LLMProviderAuthenticationError, 401),
        (json_reply(error_body("No such model"), 404), LLMProviderNotFoundError, 404),
        ([GONE], LLMProviderTimeoutError, None),
        (json_reply({"no": "answer"}), LLMProviderServerError, None),
    ],
    ids=["overloaded", "failed", "too much", "wrong key", "no such model", "silence", "no answer"],
)
async def test_the_next_is_asked_where_one_gives_no_answer(
    server: Server, other: Server, api: Api, mode: str, reply: Any, error: Any, status: int | None
) -> None:
    server.add(reply)
    other.add(answered(api, mode))
    settings = {"timeout": SHORT} if error is LLMProviderTimeoutError else {}
    first = make_provider(server, api, model_name="m0", max_retries=0, **settings)
    async with AsyncFallbackProvider([first, make_provider(other, api, model_name="m1")]) as provider:
        response = await ask(provider, mode)
    assert response.content == "Hello!"
    assert response.metadata["fallbacks"] == [fallback(error, status)]
    # On a busy machine the client has given up before the server's thread reads what it sent.
    assert server.wait_requests(1)
    assert (len(server.requests), other.bodies[0]["model"]) == (1, "m1")


@MODES
async def test_the_next_is_asked_where_no_connection_is_made(server: Server, api: Api, mode: str) -> None:
    server.add(answered(api, mode))
    first = make_provider(server, api, base_url=nowhere(), max_retries=0)
    async with AsyncFallbackProvider([first, make_provider(server, api)]) as provider:
        response = await ask(provider, mode)
    assert response.metadata["fallbacks"][0]["error"] == "LLMProviderConnectionError"


async def test_retries_of_a_provider_come_first(server: Server, other: Server, api: Api, sleeps: list[float]) -> None:
    server.add(DOWN, DOWN)
    other.add(answered(api, "plain"))
    async with make_fallback(server, other, api=api, settings={"max_retries": 1}) as provider:
        assert (await provider.execute("Hi")).content == "Hello!"
    assert (len(server.requests), len(sleeps)) == (2, 1)


@pytest.mark.parametrize("fault", ["cut at once", "aborted", "cut after its start", "error", "silence", "nothing"])
async def test_a_stream_moves_on_before_its_first_output(server: Server, other: Server, api: Api, fault: str) -> None:
    steps: dict[str, list[Any]] = {
        "cut at once": [CLOSE],
        "aborted": [RESET],
        "cut after its start": [*api.begun(), CLOSE],
        "error": [*api.begun(), api.error("Broken")],
        "silence": [*api.begun(), GONE],
        "nothing": [],
    }
    server.add(stream_reply(steps[fault], end=fault == "nothing"))
    other.add(stream_reply(api.stream("Hel", "lo!")))
    settings = {"timeout": SHORT} if fault == "silence" else {}
    first = make_provider(server, api, max_retries=0, **settings)
    async with AsyncFallbackProvider([first, make_provider(other, api)]) as provider:
        async with provider.stream("Hi") as stream:
            assert [text async for text in stream] == ["Hel", "lo!"]
            response = await stream.response()
        # What the server has not closed, the client has.
        assert fault not in ("error", "silence") or await in_thread(server.wait_gone)
    assert [each["model"] for each in response.metadata["fallbacks"]] == ["gpt-4o"]


async def test_nothing_is_repeated_after_the_first_output(server: Server, other: Server, api: Api) -> None:
    for end in ([CLOSE], [api.error("Broken")]):
        server.add(DOWN)
        other.add(stream_reply([*api.begun("One"), *end], end=False))
        async with make_fallback(server, other, other, api=api) as provider:
            with pytest.raises(LLMProviderError) as caught:
                await provider.stream("Count").response()
        assert caught.value.partial is not None
        assert caught.value.partial.content == "One"
        assert caught.value.fallbacks == (fallback(LLMProviderOverloadedError, 503),)
        assert caught.value.provider == "openai"
    assert len(other.requests) == 2


@MODES
async def test_a_wrong_request_is_told_at_once(server: Server, other: Server, api: Api, mode: str) -> None:
    server.add(json_reply(error_body("No such parameter"), 400))
    async with make_fallback(server, other, api=api) as provider:
        with pytest.raises(LLMProviderBadRequestError, match="No such parameter") as caught:
            await ask(provider, mode)
        assert caught.value.fallbacks == ()
        with pytest.raises(LLMProviderTokenLimitError, match="token_limit 5"):
            await provider.execute("a long prompt " * 100, token_limit=5)
        with pytest.raises(LLMProviderConfigurationError, match="temperature is 9"):
            await ask(provider, mode, temperature=9)
        with pytest.raises(LLMProviderConfigurationError, match="extra_headers belongs to one provider"):
            await ask(provider, mode, extra_headers={"authorization": "Bearer of the first"})
    assert other.requests == []


async def test_which_errors_move_on_can_be_set(server: Server, other: Server, api: Api) -> None:
    other.default = answered(api, "plain")
    small = make_provider(server, api, token_limit=5, max_retries=0)
    large = make_provider(other, api)
    async with AsyncFallbackProvider([small, large], move_on=(*MOVE_ON, LLMProviderTokenLimitError)) as provider:
        response = await provider.execute("a long prompt " * 100)
        assert response.metadata["fallbacks"] == [fallback(LLMProviderTokenLimitError, None, "gpt-4o")]
    server.add(json_reply(error_body("Slow down"), 429), DOWN)
    small.update_config(token_limit=500)
    async with AsyncFallbackProvider([small, large], move_on=lambda error: error.status_code == 503) as provider:
        with pytest.raises(LLMProviderRateLimitError):
            await provider.execute("Hi")
        assert (await provider.execute("Hi")).content == "Hello!"


class City(BaseModel):
    name: str


async def test_an_answer_of_the_wrong_type_moves_on_only_if_told_to(server: Server, other: Server, api: Api) -> None:
    server.default, other.default = answered(api, "plain"), answered(api, "plain", '{"name": "Oslo"}')
    async with make_fallback(server, other, api=api) as provider:
        with pytest.raises(LLMProviderOutputError):
            await provider.execute("Which?", response_format=City)
    async with make_fallback(server, other, api=api, move_on=[LLMProviderOutputError]) as provider:
        assert (await provider.execute("Which?", response_format=City)).parsed == City(name="Oslo")


@MODES
async def test_where_all_fail_the_last_error_tells_of_the_others(
    server: Server, other: Server, api: Api, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.add(json_reply(error_body(f"Down, said {KEY} to {KEY}"), 503))
    other.add(json_reply(error_body("Slow down"), 429, retry_after="7"))
    caplog.set_level(logging.INFO, "llmkit")
    async with make_fallback(server, other, api=api) as provider:
        with pytest.raises(LLMProviderRateLimitError, match="Slow down") as caught:
            await ask(provider, mode)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.fallbacks == (fallback(LLMProviderOverloadedError, 503),)
    assert error.retry_after == 7
    moves = [record for record in caplog.records if record.name.endswith("fallback")]
    assert [(record.levelname, record.getMessage()) for record in moves] == [
        ("WARNING", "openai m0 failed with LLMProviderOverloadedError (503); openai m1 is asked")
    ]
    assert KEY not in str(vars(error))


class Own(LLMProvider):
    """A provider of no service: it keeps what it is asked with, and takes time for it."""

    def __init__(self, *answers: Any, later: list[float] | None = None, **settings: Any) -> None:
        super().__init__(LLMConfig(model_name="own", **settings))
        self.answers = list(answers)
        self.asked: list[Any] = []
        self.later = later

    async def execute(self, prompt: str, **options: Any) -> LLMResponse:
        self.asked.append(options)
        if self.later is not None:
            self.later.append(3.0)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer if isinstance(answer, LLMResponse) else LLMResponse(answer)


async def test_a_provider_of_your_own_is_a_member_as_any(server: Server, api: Api) -> None:
    class Plain(LLMProvider):
        async def execute(self, prompt: str) -> LLMResponse:
            return LLMResponse(prompt.upper())

    server.default = DOWN
    first = make_provider(server, api, max_retries=0)
    provider = AsyncFallbackProvider([first, Plain(LLMConfig(model_name="plain"))])
    async with provider:
        assert (await provider.execute("hi")).content == "HI"
        # What it does not offer is no answer, either.
        with pytest.raises(
            LLMProviderUnsupportedOperationError, match="custom: it does not support execute_chat"
        ) as caught:
            await provider.execute_chat_completion("hi")
        assert caught.value.fallbacks == (fallback(LLMProviderOverloadedError, 503, "gpt-4o"),)
        with pytest.raises(LLMProviderUnsupportedOperationError, match="custom has no stream"):
            await provider.stream("hi").response()


async def test_the_deadline_bounds_all_providers_together(later: list[float]) -> None:
    down = [LLMProviderOverloadedError("Down") for _ in range(4)]
    first, second = Own(*down[:2], later=later), Own(down[2], later=later, deadline=2)
    third = Own("Hello!", down[3], later=later)
    provider = AsyncFallbackProvider([first, second, third])
    await provider.execute("Hi", deadline=10)
    # Each gets what is left, and its own deadline holds beside it.
    assert [each.asked[0]["deadline"] for each in (first, second, third)] == [10, 2, 4]
    with pytest.raises(LLMProviderOverloadedError):
        await provider.execute("Hi", deadline=3)
    assert (len(first.asked), len(second.asked)) == (2, 1)
    with pytest.raises(LLMProviderConfigurationError, match="deadline is 0"):
        await provider.execute("Hi", deadline=0)


@MODES
async def test_a_deadline_that_ran_out_leaves_nothing_to_the_next(
    server: Server, other: Server, api: Api, mode: str
) -> None:
    server.add([GONE])
    async with make_fallback(server, other, api=api) as provider:
        with pytest.raises(LLMProviderTimeoutError, match="deadline") as caught:
            await ask(provider, mode, deadline=SHORT)
        assert await in_thread(server.wait_gone)
    assert (caught.value.code, other.requests) == ("deadline", [])


@MODES
async def test_a_provider_that_keeps_failing_is_skipped_for_a_while(
    server: Server, other: Server, api: Api, mode: str, later: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    server.add(DOWN, DOWN, DOWN, answered(api, mode, "Back"), answered(api, mode, "Back"))
    other.default = answered(api, mode)
    async with make_fallback(server, other, api=api, max_failures=2, cool_down=30) as provider:
        for _ in range(2):
            await ask(provider, mode)
        assert [state["state"] for state in provider.states] == ["open", "closed"]
        later.append(10.0)
        assert provider.states[0] == {
            "provider": "openai", "model": "m0", "state": "open", "failures": 2, "wait": 20.0
        }  # fmt: skip
        response = await ask(provider, mode)
        assert response.metadata["fallbacks"] == [fallback(LLMProviderOverloadedError, 503, skipped=True)]
        assert (len(server.requests), len(other.requests)) == (2, 3)
        # The trial fails, and the time doubles.
        later.append(20.0)
        assert provider.states[0]["state"] == "half-open"
        await ask(provider, mode)
        assert (len(server.requests), provider.states[0]["wait"]) == (3, 60.0)
        later.append(60.0)
        assert [(await ask(provider, mode)).content for _ in range(2)] == ["Back", "Back"]
        assert [state["failures"] for state in provider.states] == [0, 0]
    assert caplog.text.count("openai m0 failed 2 times in a row; it is skipped for 30 s") == 1


async def test_where_all_are_skipped_one_is_asked_all_the_same(
    server: Server, other: Server, api: Api, later: list[float]
) -> None:
    server.add(json_reply(error_body("Slow down"), 429, retry_after="300"))
    other.add(DOWN, DOWN, answered(api, "plain"))
    async with make_fallback(server, other, api=api, max_failures=1) as provider:
        with pytest.raises(LLMProviderOverloadedError):
            await provider.execute("Hi")
        assert [state["wait"] for state in provider.states] == [300.0, 30.0]
        skipped = fallback(LLMProviderRateLimitError, 429, skipped=True)
        with pytest.raises(LLMProviderOverloadedError) as caught:
            await provider.execute("Hi")
        assert caught.value.fallbacks == (skipped,)
        assert provider.states[1]["wait"] == 30.0
        response = await provider.execute("Hi")
        assert response.metadata["fallbacks"] == [skipped]
        assert provider.states[1]["state"] == "closed"
    assert len(server.requests) == 1


async def test_one_call_at_a_time_tries_a_provider_again(
    server: Server, other: Server, api: Api, later: list[float]
) -> None:
    gate = server.gate()
    server.add(DOWN, [gate, *answered(api, "plain", "Back")], answered(api, "plain", "Back"))
    other.default = answered(api, "plain")
    async with make_fallback(server, other, api=api, max_failures=1) as provider:
        await provider.execute("Hi")
        later.append(30.0)

        async def trial() -> str:
            return (await provider.execute("Hi")).content

        async def meanwhile() -> list[str]:
            assert await in_thread(server.wait_requests, 2)
            contents = [(await provider.execute("Hi")).content for _ in range(3)]
            gate.set()
            return contents

        assert await run_together(trial, meanwhile) == ["Back", ["Hello!"] * 3]
        assert (await provider.execute("Hi")).content == "Back"


async def test_a_trial_that_is_broken_off_is_followed_by_another(later: list[float]) -> None:
    first = Own(LLMProviderServerError("Down"), KeyboardInterrupt(), TypeError("a bug"), "Back")
    provider = AsyncFallbackProvider([first, Own("Hello!")], max_failures=1)
    await provider.execute("Hi")
    later.append(30.0)
    for broken in (KeyboardInterrupt, TypeError):
        with pytest.raises(broken):
            await provider.execute("Hi")
        assert provider.states[0]["state"] == "half-open"
    assert (await provider.execute("Hi")).content == "Back"
    assert provider.states[0]["state"] == "closed"


async def test_a_wrong_request_does_not_count_as_a_failure(server: Server, other: Server, api: Api) -> None:
    server.default = json_reply(error_body("No"), 400)
    async with make_fallback(server, other, api=api, max_failures=1) as provider:
        for _ in range(3):
            with pytest.raises(LLMProviderBadRequestError):
                await provider.execute("Hi")
        assert provider.states[0]["failures"] == 0


async def test_a_stream_is_read_as_any_other(server: Server, other: Server, api: Api) -> None:
    server.default, other.default = DOWN, stream_reply(api.stream('{"name": ', '"Oslo"}'))
    async with make_fallback(server, other, api=api) as provider:
        stream = provider.stream("Which?", response_format=City)
        assert isinstance(stream, AsyncStream) and server.connections == []
        assert [each async for each in stream.objects()][-1] == {"name": "Oslo"}
        assert (await stream.response()).parsed == City(name="Oslo")
        events = [event async for event in provider.stream("Which?").events()]
        assert [event.text for event in events if isinstance(event, TextDelta)] == ['{"name": ', '"Oslo"}']
        stream = await provider.execute("Which?", stream_mode="enabled")
        assert "".join([text async for text in stream]) == '{"name": "Oslo"}'
        assert (await stream.response()).metadata["fallbacks"] == [fallback(LLMProviderOverloadedError, 503)]
        assert (await provider.execute("Which?", stream_mode="auto")).content == '{"name": "Oslo"}'


async def test_text_is_handed_out_as_it_arrives(server: Server, other: Server, api: Api) -> None:
    gate = other.gate()
    rest = api.stream("One", " two")[len(api.begun("One")) :]
    server.add(DOWN)
    other.add(stream_reply([*api.begun("One"), gate, *rest]))
    async with make_fallback(server, other, api=api) as provider:
        texts = []
        async for text in provider.stream("Count"):
            texts.append(text)
            # The server sends the rest only now, to the stream that took over.
            gate.set()
    assert texts == ["One", " two"]


@pytest.mark.parametrize("leave", ["break", "block", "aclose", "garbage"])
async def test_leaving_a_stream_releases_the_connection(server: Server, other: Server, api: Api, leave: str) -> None:
    server.add(DOWN)
    other.add(stream_reply([*api.begun("One"), GONE], end=False))
    async with make_fallback(server, other, api=api) as provider:
        stream = provider.stream("Count")
        if leave == "break":
            async for _ in stream:
                break
        elif leave == "block":
            async with stream:
                async for _ in stream:
                    break
                assert not other.connections[0].gone.is_set()
        else:
            iterator = aiter(stream)
            assert await anext(iterator) == "One"
            if leave == "aclose":
                await stream.aclose()
            del stream, iterator
            gc.collect()
        assert await in_thread(other.wait_gone)
        if leave == "block":
            with pytest.raises(LLMProviderStreamError, match="closed before its end"):
                await stream.response()


async def test_a_conversation_with_tools_goes_on_at_the_next(server: Server, other: Server) -> None:
    api, second = Responses(), ChatCompletions()
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "secret"}
    first_turn = api.plain(None, calls=[("weather", '{"city": "Oslo"}')], items=[reasoning])
    server.add(json_reply(first_turn), DOWN)
    other.add(json_reply(second.plain("Take an umbrella.")))

    def weather(city: str) -> str:
        """The weather."""
        return f"Rain in {city}"

    providers = [make_provider(server, api, max_retries=0), make_provider_of("deepseek", other)]
    async with AsyncFallbackProvider(providers) as provider:
        response = await provider.run_tools("Do I need an umbrella in Oslo?", "Be brief", tools=[weather])
    assert (response.content, response.provider_type) == ("Take an umbrella.", "deepseek")
    assert [each["provider"] for each in response.metadata["fallbacks"]] == ["openai"]
    system, prompt, call, result = other.bodies[0]["messages"]
    assert (system["role"], prompt["role"], result["content"]) == ("system", "user", "Rain in Oslo")
    assert call["tool_calls"][0]["function"]["name"] == "weather"
    assert "secret" in str(server.bodies[1]) and "secret" not in str(other.bodies)


async def test_the_calls_of_a_provider_of_your_own_need_no_id_and_no_text(server: Server, api: Api) -> None:
    def weather(city: str) -> str:
        """The weather."""
        return f"Rain in {city}"

    calls = [ToolCall("", "weather", {"city": city}) for city in ("Oslo", "Bergen")]
    first = Own(LLMResponse("", tool_calls=calls), LLMProviderServerError("Down"))
    server.add(json_reply(api.plain("Take an umbrella.")))
    async with AsyncFallbackProvider([first, make_provider(server, api)]) as provider:
        response = await provider.run_tools("Do I need an umbrella?", tools=[weather])
    assert response.content == "Take an umbrella."
    sent = str(server.bodies[0])
    for id, city in (("call_1_0", "Oslo"), ("call_1_1", "Bergen")):
        # The call, and its result.
        assert sent.count(f"'{id}'") == 2
        assert f"Rain in {city}" in sent
        assert f'{{"city": "{city}"}}' in sent


async def test_each_operation_is_asked_of_each_provider(server: Server, other: Server) -> None:
    api, messages = Responses(), Messages()
    server.default, other.default = DOWN, json_reply(messages.plain())
    claude = make_provider_of("anthropic", other)
    last = make_provider(other, api, model_name="m2")
    providers = [make_provider(server, api, max_retries=0), claude, last]
    async with AsyncFallbackProvider(providers) as provider:
        assert (await provider.execute_chat_completion("Hi", "Be brief")).provider_type == "anthropic"
        assert other.bodies[-1]["system"]
        # A service without the API is passed over.
        other.add(json_reply(api.plain()))
        response = await provider.execute_responses_api("Hi", instructions="Be brief", previous_response_id="resp_7")
        kinds = [each["error"] for each in response.metadata["fallbacks"]]
        assert kinds == ["LLMProviderOverloadedError", "LLMProviderUnsupportedOperationError"]
        assert (other.bodies[-1]["instructions"], other.bodies[-1]["previous_response_id"]) == ("Be brief", "resp_7")
        assert [state["failures"] for state in provider.states] == [2, 0, 0]


async def test_a_stored_answer_is_looked_for_at_the_next(server: Server, other: Server) -> None:
    api = Responses()
    unknown = error_body("Not found", param="previous_response_id", code="previous_response_not_found")
    server.add(json_reply(unknown, 400))
    other.add(json_reply(api.plain()))
    async with make_fallback(server, other, api=api) as provider:
        response = await provider.execute_responses_api("Hi", previous_response_id="resp_7")
    assert response.metadata["fallbacks"] == [fallback(LLMProviderBadRequestError, 400)]


async def test_a_provider_that_streams_by_itself_still_answers_whole(server: Server, other: Server, api: Api) -> None:
    server.default = DOWN
    other.default = answered(api, "stream")
    first = make_provider(server, api, max_retries=0)
    async with AsyncFallbackProvider([first, make_provider(other, api, stream_mode="enabled")]) as provider:
        assert (await provider.execute("Hi")).content == "Hello!"
    async with AsyncFallbackProvider([make_provider(other, api, stream_mode="enabled"), first]) as provider:
        stream: Any = await provider.execute("Hi")
        assert (await stream.response()).content == "Hello!"


async def test_calls_that_never_stream_answer_whole_where_a_stream_is_asked_for(
    server: Server, other: Server, api: Api
) -> None:
    server.default, other.default = DOWN, answered(api, "stream")
    options: Any = {"stream_mode": "enabled"}
    async with make_fallback(server, other, api=api) as provider:
        named = provider.execute_responses_api if api.name == "responses" else provider.execute_chat_completion
        for call in (named, provider.run_tools):
            assert (await call("Hi", **options)).content == "Hello!"
    assert [body["stream"] for body in other.bodies] == [True, True]


@MODES
async def test_fallbacks_may_be_nested(server: Server, other: Server, api: Api, mode: str) -> None:
    server.default = DOWN
    other.add(DOWN, answered(api, mode), DOWN, DOWN)
    inner = make_fallback(server, other, api=api)
    last = make_provider(other, api, model_name="m2", max_retries=0)
    async with AsyncFallbackProvider([inner, last]) as provider:
        told = [fallback(LLMProviderOverloadedError, 503, f"m{place}") for place in (0, 1)]
        told[1] |= {"provider": "fallback", "model": "m0"}
        response = await ask(provider, mode)
        assert response.metadata["fallbacks"] == told
        with pytest.raises(LLMProviderOverloadedError) as caught:
            await ask(provider, mode)
        assert list(caught.value.fallbacks) == told


async def test_connections_of_all_are_closed(server: Server, other: Server, api: Api) -> None:
    server.default, other.default = DOWN, answered(api, "plain")
    provider = make_fallback(server, other, api=api)
    await provider.execute("Hi")
    await provider.aclose()
    assert await in_thread(server.wait_gone) and await in_thread(other.wait_gone)
    # As one provider alone, they open new ones.
    assert (await provider.execute("Hi")).content == "Hello!"
    await provider.aclose()


async def test_many_at_once_share_one_provider(server: Server, other: Server, api: Api) -> None:
    server.default, other.default = DOWN, answered(api, "plain")
    async with make_fallback(server, other, api=api, max_failures=3) as provider:

        async def one() -> str:
            return (await provider.execute("Hi")).content

        assert await run_together(*[one] * 20) == ["Hello!"] * 20
        assert provider.states[0]["state"] == "open"
        asked = len(server.requests)
        assert await run_together(*[one] * 5) == ["Hello!"] * 5
        assert (len(server.requests), provider.states[0]["failures"]) == (asked, 3)


async def test_a_stream_keeps_to_the_bounds_of_the_provider_that_gives_it(server: Server, api: Api) -> None:
    server.add(stream_reply(api.stream(calls=[("f", "{}"), ("f", "{}")])))
    async with make_fallback(server, api=api, settings={"max_tool_calls": 1}) as provider:
        with pytest.raises(LLMProviderServerError, match="max_tool_calls"):
            await ask(provider, "stream")


async def test_a_turn_that_does_not_come_speaks_against_no_service(server: Server, api: Api) -> None:
    server.add(stream_reply([*api.begun("One"), GONE], end=False))
    options = {"limits": Limits(concurrency=1)}
    async with make_fallback(server, api=api, settings=options, max_failures=1) as provider:
        async with provider.stream("Count"):
            with pytest.raises(LLMProviderTimeoutError, match="turn"):
                await provider.execute("Hi", deadline=SHORT)
            assert provider.states[0]["state"] == "closed"


async def test_a_stream_that_keeps_no_text_keeps_none_of_any_provider(server: Server, other: Server, api: Api) -> None:
    server.default, other.default = DOWN, stream_reply(api.stream("Hel", "lo!"))
    async with make_fallback(server, other, api=api) as provider:
        stream = provider.stream("Hi", keep_text=False)
        assert [text async for text in stream] == ["Hel", "lo!"]
        response = await stream.response()
        assert (response.content, response.finish_reason, response.native) == ("", "stop", [])
        with pytest.raises(LLMProviderBadRequestError, match="keep_text"):
            provider.stream("Hi", keep_text=False, response_format=dict[str, str])
