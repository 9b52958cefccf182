"""Whole answers over real sockets: what is sent, and what comes back."""

from __future__ import annotations

import json
import socket
import sys
import traceback
from functools import partial
from typing import Any

import pytest

from llmkit import (
    LLMConfig,
    LLMProviderAuthenticationError,
    LLMProviderConfigurationError,
    LLMProviderConnectionError,
    LLMProviderServerError,
    LLMProviderTokenLimitError,
    LLMResponse,
    ToolCall,
    network,
)
from llmkit._async.provider import AsyncProvider
from llmkit._async.stream import AsyncStream

from ..answers import MODEL, Api, ChatCompletions, Responses
from ..server import CLOSE, Server, json_reply, raw_reply, stream_reply
from ._backend import KEY, Client, OtherClient, make_provider

pytestmark = pytest.mark.anyio

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "c2VhbGVk"}


async def test_answer_has_everything_that_the_service_said(server: Server, api: Api) -> None:
    server.add(json_reply(api.plain("Grüße 🦊"), x_request_id="req_1"))
    async with make_provider(server, api) as provider:
        response = await provider.execute("Greet me")
    assert (response.content, response.finish_reason, response.model) == ("Grüße 🦊", "stop", MODEL)
    assert (response.response_id, response.provider_type, response.api_type.value) == (api.id, "openai", api.api_type)
    assert (response.prompt_tokens, response.completion_tokens, response.total_tokens) == (11, 7, 18)
    assert response.usage is not None
    assert (response.usage.input_uncached, response.usage.cache_read) == (7, 4)
    assert (response.usage.output_text, response.usage.reasoning) == (5, 2)
    assert response.usage.raw == api.usage
    metadata = response.metadata
    assert (metadata["request_id"], metadata["wire_format"]) == ("req_1", api.name)
    assert (metadata["adjustments"], metadata["attempts"]) == ([], [])
    assert metadata["raw"] == api.plain("Grüße 🦊")
    assert json.loads(json.dumps(response.to_dict()))["content"] == "Grüße 🦊"


async def test_request_carries_key_model_and_prompt_once(server: Server, api: Api) -> None:
    server.add(json_reply(api.plain()))
    async with make_provider(server, api) as provider:
        await provider.execute("Say “hi”")
        preview = provider.build_request("Say “hi”")
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", api.path)
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.body["model"] == "gpt-4o"
    assert request.body["temperature"] == 0.7
    assert api.sent_text(request.body) == "Say “hi”"
    assert "stream" not in request.body
    # The dry run shows what was sent, but for the key.
    assert (preview.method, preview.url, preview.body) == ("POST", server.url + api.path, request.body)
    assert KEY not in str(preview)


async def test_settings_of_a_call_win_over_those_of_the_provider(server: Server, api: Api) -> None:
    server.default = json_reply(api.plain())
    async with make_provider(server, api, temperature=0.1, top_p=0.5) as provider:
        await provider.execute("Hi", temperature=0.2, max_tokens=50, extra_headers={"X-Trace": "7"})
        provider.update_config(model_name="gpt-4o-mini")
        await provider.execute("Hi")
    first, second = server.bodies
    limit = "max_completion_tokens" if api.name == "chat_completions" else "max_output_tokens"
    assert (first["temperature"], first["top_p"], first[limit], first["model"]) == (0.2, 0.5, 50, "gpt-4o")
    assert (second["temperature"], second["top_p"], second["model"]) == (0.1, 0.5, "gpt-4o-mini")
    assert limit not in second
    assert server.requests[0].headers["x-trace"] == "7"


async def test_each_api_can_be_called_by_its_name(server: Server, api: Api) -> None:
    # Whatever is configured, here the other API, and a stream mode that would return streams.
    server.add(json_reply(ChatCompletions().plain("chat")), json_reply(Responses().plain("responses")))
    async with make_provider(server, api) as provider:
        chat = await provider.execute_chat_completion([{"role": "user", "content": "Hi"}])
        answer = await provider.execute_responses_api("Go on", instructions="Be brief", previous_response_id="resp_0")
    assert [chat.content, answer.content] == ["chat", "responses"]
    assert [request.path for request in server.requests] == ["/v1/chat/completions", "/v1/responses"]
    body = server.bodies[1]
    assert (body["instructions"], body["previous_response_id"]) == ("Be brief", "resp_0")
    assert body["input"] == [{"role": "user", "content": "Go on"}]


async def test_system_prompt_goes_where_the_api_wants_it(server: Server, api: Api) -> None:
    server.add(json_reply(api.plain()))
    async with make_provider(server, api) as provider:
        await provider.execute("Hi", system_prompt="Be brief")
    (body,) = server.bodies
    user = {"role": "user", "content": "Hi"}
    if api.name == "chat_completions":
        assert body["messages"] == [{"role": "system", "content": "Be brief"}, user]
    else:
        assert (body["instructions"], body["input"]) == ("Be brief", [user])


@pytest.mark.parametrize("mode", ["disabled", "auto", "enabled"])
async def test_stream_mode_says_what_travels_and_what_is_returned(server: Server, api: Api, mode: Any) -> None:
    reply = json_reply(api.plain("Hello!")) if mode == "disabled" else stream_reply(api.stream("Hel", "lo!"))
    server.default = reply
    async with make_provider(server, api) as provider:
        answers: list[Any] = [await provider.execute("Hi", stream_mode=mode)]
    async with make_provider(server, api, stream_mode=mode) as provider:
        answers.append(await provider.execute("Hi"))
        for answer in answers:
            assert isinstance(answer, AsyncStream if mode == "enabled" else LLMResponse)
            response = await answer.response() if isinstance(answer, AsyncStream) else answer
            assert (response.content, response.total_tokens) == ("Hello!", 18)
            assert response.metadata["wire_format"] == api.name
    for request in server.requests:
        assert request.body.get("stream", False) is (mode != "disabled")
        assert request.headers["accept"] == ("application/json" if mode == "disabled" else "text/event-stream")


@pytest.mark.parametrize("is_configured", [True, False])
async def test_named_apis_return_answers_where_streams_are_asked_for(
    server: Server, api: Api, is_configured: bool
) -> None:
    settings: Any = {"stream_mode": "enabled"}
    configured, keywords = (settings, {}) if is_configured else ({}, settings)
    server.add(stream_reply(ChatCompletions().stream("chat")), stream_reply(Responses().stream("responses")))
    server.add(stream_reply(api.stream("tools")))
    async with make_provider(server, api, **configured) as provider:
        chat = await provider.execute_chat_completion("Hi", **keywords)
        answer = await provider.execute_responses_api("Hi", **keywords)
        last = await provider.run_tools("Hi", **keywords)
    assert [chat.content, answer.content, last.content] == ["chat", "responses", "tools"]
    assert [body["stream"] for body in server.bodies] == [True] * 3


@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_tool_calls_come_back_decoded(server: Server, api: Api, mode: Any) -> None:
    calls = [("weather", '{"city": "Malmö", "days": 2}'), ("weather", ""), ("weather", '{"city": ')]
    reply = json_reply(api.plain(None, calls=calls)) if mode == "disabled" else stream_reply(api.stream(calls=calls))
    server.add(reply)
    async with make_provider(server, api) as provider:
        response = await provider.execute("Weather?", tools=[WEATHER], tool_choice="weather", stream_mode=mode)
    assert (response.content, response.finish_reason) == ("", "tool_calls")
    good, empty, broken = response.tool_calls
    assert good == ToolCall("call_0", "weather", {"city": "Malmö", "days": 2}, calls[0][1])
    assert (empty.id, empty.arguments, empty.parse_error) == ("call_1", {}, None)
    assert (broken.arguments, broken.arguments_text) == ({}, '{"city": ')
    assert "not JSON" in (broken.parse_error or "")
    (body,) = server.bodies
    named = {"name": "weather"}
    tool, choice = body["tools"][0], body["tool_choice"]
    assert (tool["function"]["name"] if api.name == "chat_completions" else tool["name"]) == "weather"
    assert choice == {"type": "function"} | ({"function": named} if api.name == "chat_completions" else named)


async def test_results_of_tools_go_back_with_the_history(server: Server, api: Api) -> None:
    server.add(json_reply(api.plain(None, calls=[("weather", "{}")])), json_reply(api.plain("Sunny")))
    history: list[Any] = [{"role": "user", "content": "Weather?"}]
    async with make_provider(server, api) as provider:
        response = await provider.execute(history, tools=[WEATHER])
        history.append(response.to_message())
        history.append({"role": "tool", "tool_call_id": response.tool_calls[0].id, "content": "sun"})
        assert (await provider.execute(history, tools=[WEATHER])).content == "Sunny"
    body = server.bodies[1]
    if api.name == "chat_completions":
        call = {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
        assert body["messages"][1] == {"role": "assistant", "content": None, "tool_calls": [call]}
        assert body["messages"][2] == {"role": "tool", "content": "sun", "tool_call_id": "call_0"}
    else:
        # The service's own item goes back, with its id.
        assert body["input"][1] == api.plain(None, calls=[("weather", "{}")])["output"][0]
        assert body["input"][2] == {"type": "function_call_output", "call_id": "call_0", "output": "sun"}


@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_native_parts_go_back_to_their_issuer_only(server: Server, api: Api, mode: Any) -> None:
    native = {"reasoning_content": "Hm."} if api.name == "chat_completions" else {"items": [REASONING]}
    first = (
        json_reply(api.plain("Hello!", **native))
        if mode == "disabled"
        else stream_reply(api.stream("Hello!", **native))
    )
    server.add(first)
    server.default = json_reply(api.plain())
    async with make_provider(server, api) as provider:
        answer = await provider.execute("Hi", stream_mode=mode)
        # As it comes out of a database.
        history = [{"role": "user", "content": "Hi"}, json.loads(json.dumps(answer.to_message()))]
        await provider.execute([*history, {"role": "user", "content": "And?"}])
        await provider.execute([*history, {"role": "user", "content": "And?"}], model_name="gpt-4.1")
    _, same, other = server.bodies
    plain = {"role": "assistant", "content": "Hello!"}
    if api.name == "chat_completions":
        assert answer.reasoning == "Hm."
        assert same["messages"][1] == plain | {"reasoning_content": "Hm."}
        assert other["messages"][1] == plain
    else:
        assert same["input"][1:-1] == api.plain("Hello!", items=[REASONING])["output"]
        assert other["input"][1:-1] == [plain]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [("stop", "stop"), ("length", "length"), ("content_filter", "content_filter"), ("moonrise", "other")],
)
@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_finish_reasons_of_chat_completions(server: Server, raw: str, expected: str, mode: Any) -> None:
    api = ChatCompletions()
    server.add(
        json_reply(api.plain(finish=raw)) if mode == "disabled" else stream_reply(api.stream("Hello!", finish=raw))
    )
    async with make_provider(server, api) as provider:
        response = await provider.execute("Hi", stream_mode=mode)
    assert (response.finish_reason, response.raw_finish_reason) == (expected, raw)


@pytest.mark.parametrize(
    ("raw", "expected"), [("max_output_tokens", "length"), ("content_filter", "content_filter"), ("moonrise", "other")]
)
@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_incomplete_responses(server: Server, raw: str, expected: str, mode: Any) -> None:
    api = Responses()
    cut: Any = {"status": "incomplete", "incomplete_details": {"reason": raw}}
    server.add(json_reply(api.plain("Hel", **cut)) if mode == "disabled" else stream_reply(api.stream("Hel", **cut)))
    async with make_provider(server, api) as provider:
        response = await provider.execute("Hi", stream_mode=mode)
    assert (response.content, response.finish_reason, response.raw_finish_reason) == ("Hel", expected, raw)


@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_refusals_stand_apart_from_the_text(server: Server, api: Api, mode: Any) -> None:
    refusal: Any = {"refusal": "I cannot."}
    if api.name == "responses":
        part = {"type": "refusal", "refusal": "I cannot."}
        refusal = {"items": [{"type": "message", "id": "msg_2", "role": "assistant", "content": [part]}]}
    server.add(json_reply(api.plain(None, **refusal)) if mode == "disabled" else stream_reply(api.stream(**refusal)))
    async with make_provider(server, api) as provider:
        response = await provider.execute("Hi", stream_mode=mode)
    assert (response.content, response.refusal, response.finish_reason) == ("", "I cannot.", "content_filter")


@pytest.mark.parametrize("usage", [None, {}])
async def test_usage_may_be_absent(server: Server, api: Api, usage: Any) -> None:
    server.add(json_reply({**api.plain(), "usage": usage}))
    async with make_provider(server, api) as provider:
        response = await provider.execute("Hi")
    assert (response.usage, response.prompt_tokens, response.total_tokens) == (None, None, None)


async def test_prompt_over_the_token_limit_is_not_sent(server: Server, api: Api) -> None:
    async with make_provider(server, api, token_limit=20) as provider:
        with pytest.raises(LLMProviderTokenLimitError, match="20"):
            await provider.execute("word " * 500)
        with pytest.raises(LLMProviderTokenLimitError):
            provider.stream("word " * 500)
    assert server.connections == []


@pytest.mark.parametrize(
    ("base_url", "path"),
    [("", ""), ("/", "/"), ("/gateway/openai/v2", "/gateway/openai/v2"), ("/v1/?tenant=7", "/v1?tenant=7")],
)
async def test_base_url_is_taken_as_it_is(server: Server, api: Api, base_url: str, path: str) -> None:
    server.add(json_reply(api.plain()))
    async with make_provider(server, api, base_url=server.url + base_url) as provider:
        await provider.execute("Hi")
    before, _, query = path.partition("?")
    expected = before.rstrip("/") + api.path.removeprefix("/v1") + (f"?{query}" if query else "")
    assert server.requests[0].path == expected


async def test_base_url_and_key_come_from_the_environment(
    server: Server, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    server.add(json_reply(api.plain()))
    async with AsyncProvider(LLMConfig(model_name="gpt-4o", api_type=api.api_type)) as provider:
        assert (await provider.execute("Hi")).content == "Hello!"
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("HTTPS_PROXY", "socks5://user:pa55word@127.0.0.1:9", "HTTPS_PROXY is 'socks5://…@127.0.0.1:9'; for SOCKS a"),
        ("ALL_PROXY", "foo://user:pa55word@127.0.0.1:9", "ALL_PROXY is 'foo://…@127.0.0.1:9'; it must be like http"),
        ("ALL_PROXY", "http://user:pa55word@host:port", "ALL_PROXY is 'http://…@host:port'; it must be like http"),
        ("SSL_CERT_FILE", "/nowhere.pem", "SSL_CERT_FILE is '/nowhere.pem', but the certificates cannot be read"),
    ],
)
@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_variables_that_leave_no_way_to_the_service_are_named(
    server: Server, api: Api, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str, mode: Any
) -> None:
    monkeypatch.setattr(network, "_tls_context", None)
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(variable, value)
    async with make_provider(server, api, base_url="https://service.invalid/v1") as provider:
        for _ in range(2):
            with pytest.raises(LLMProviderConfigurationError) as caught:
                await provider.execute("Hi", stream_mode=mode)
            assert str(caught.value).startswith(f"openai: {told}")
            assert "pa55word" not in repr(vars(caught.value)) + "".join(traceback.format_exception(caught.value))


async def test_client_of_the_caller_sends_and_stays_open(server: Server, api: Api) -> None:
    server.add(json_reply(api.plain()), stream_reply(api.stream("Hel", "lo!")), json_reply(api.plain()))
    async with Client(verify=False, headers={"x-team": "blue"}) as client:
        async with make_provider(server, api, http_client=client) as provider:
            assert (await provider.execute("Hi")).content == "Hello!"
            assert (await provider.stream("Hi").response()).content == "Hello!"
        assert not client.is_closed
        async with make_provider(server, api, http_client=client) as provider:
            assert (await provider.execute("Hi")).content == "Hello!"
    assert [request.headers["x-team"] for request in server.requests] == ["blue"] * 3
    # Its pool is used: a stream that was read to its end gives the connection back.
    assert len(server.connections) == 1


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_client_of_either_library_sends(server: Server, api: Api, library: str) -> None:
    server.add(json_reply(api.plain()), raw_reply(b"No", 401), stream_reply(api.stream("Hel", "lo!")), [CLOSE])
    client = getattr(pytest.importorskip(library), Client.__name__)(verify=False, base_url="http://elsewhere.invalid")
    async with client, make_provider(server, api, http_client=client, max_retries=0) as provider:
        assert (await provider.execute("Hi", extra_query={"tag": "blue sky"})).content == "Hello!"
        with pytest.raises(LLMProviderAuthenticationError):
            await provider.execute("Hi")
        assert (await provider.stream("Hi").response()).content == "Hello!"
        with pytest.raises(LLMProviderConnectionError, match="the service broke the HTTP protocol"):
            await provider.execute("Hi")
    assert server.requests[0].path == f"{api.path}?tag=blue+sky"
    assert len(server.requests) == 4


def of_other_world(library: str) -> Any:
    """Return a client of a library that is none of this world."""
    return getattr(pytest.importorskip(library), OtherClient.__name__)(verify=False)


@pytest.mark.parametrize("make", [partial(of_other_world, "httpx"), partial(of_other_world, "httpx2"), object])
async def test_wrong_kind_of_client_is_refused(server: Server, api: Api, make: Any) -> None:
    kind = Client.__name__
    with pytest.raises(LLMProviderConfigurationError, match=f"it must be an httpx.{kind} or an httpx2.{kind}"):
        make_provider(server, api, http_client=make())


async def test_an_address_that_nobody_has_is_told_without_its_secrets(server: Server, api: Api) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        base_url = f"http://127.0.0.1:{port}/v1?key=secret-0123456789"
        async with make_provider(server, api, base_url=base_url, max_retries=0) as provider:
            with pytest.raises(LLMProviderConnectionError) as caught:
                await provider.execute("Hi")
    assert f"the address is http://127.0.0.1:{port}/v1" in caught.value.message
    assert "secret" not in str(caught.value)


async def test_reasoning_models_get_no_temperature_by_default(server: Server, api: Api) -> None:
    server.default = json_reply(api.plain())
    async with make_provider(server, api, model_name="o3") as provider:
        left_out = await provider.execute("Hi")
        explicit = await provider.execute("Hi", temperature=1)
    (adjustment,) = left_out.metadata["adjustments"]
    assert (adjustment["parameter"], adjustment["action"]) == ("temperature", "omitted")
    assert "o3" in adjustment["reason"]
    assert "temperature" not in server.bodies[0]
    assert (server.bodies[1]["temperature"], explicit.metadata["adjustments"]) == (1, [])


@pytest.mark.parametrize("own", [True, False], ids=["own client", "caller's client"])
async def test_body_over_the_limit_is_refused_and_not_asked_for_again(server: Server, api: Api, own: bool) -> None:
    server.add(json_reply(api.plain("x" * 300_000)), json_reply(api.plain()))
    async with (
        Client(verify=False) as client,
        make_provider(server, api, http_client=None if own else client) as provider,
    ):
        with pytest.raises(LLMProviderServerError, match=r"max_body_bytes \(100000 bytes\)"):
            await provider.execute("Hi", max_body_bytes=100_000)
        assert (await provider.execute("Hi")).content == "Hello!"
    assert len(server.requests) == 2


ANSWERS_THAT_ARE_NONE = [
    (b"<html>Sign in</html>", "Sign in"),
    (b"", "empty"),
    (b"null", "null|None"),
    (b"[]", "no answer"),
    (b'"hello"', "hello"),
    (b"{}", "unexpected shape"),
    (b'{"choices": [], "output": null}', "unexpected shape"),
    (b'{"error": {"message": "The model is asleep"}}', "The model is asleep"),
    (b'{"choices": [{"message": {"content": "Hel', "Hel"),
    (b'{"text": "\xff"}', "not JSON"),
    (b'{"choices": NaN}', "not JSON"),
    (b'{"choices": ' + b"9" * 5000 + b"}", "shape|JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"choices": "\\ud83d"}', "shape|JSON"),
]


@pytest.mark.parametrize(
    ("body", "told"), ANSWERS_THAT_ARE_NONE, ids=[repr(body[:20]) for body, _ in ANSWERS_THAT_ARE_NONE]
)
async def test_body_that_is_no_answer(server: Server, api: Api, body: bytes, told: str) -> None:
    server.add(raw_reply(body, x_request_id="req_4"))
    async with make_provider(server, api, max_retries=0) as provider:
        with pytest.raises(LLMProviderServerError, match=told) as caught:
            await provider.execute("Hi")
    assert (caught.value.provider, caught.value.request_id) == ("openai", "req_4")
    assert len(caught.value.message) < 500
    assert len(caught.value.body or "") <= 2001
