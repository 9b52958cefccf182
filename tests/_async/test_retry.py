# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""Which failures are tried again over real sockets, after which waits, and what is told about it."""

from __future__ import annotations

from typing import Any

import pytest

from llmkit import (
    LLMProviderAuthenticationError,
    LLMProviderBadRequestError,
    LLMProviderConnectionError,
    LLMProviderContentFilterError,
    LLMProviderError,
    LLMProviderNotFoundError,
    LLMProviderOverloadedError,
    LLMProviderPermissionError,
    LLMProviderQuotaError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderTimeoutError,
    LLMProviderTokenLimitError,
)

from ..answers import Api, ChatCompletions, error_body
from ..server import CLOSE, GONE, RESET, Server, head, json_reply, raw_reply, stream_reply
from ._backend import Client, make_provider

pytestmark = pytest.mark.anyio

MODES = pytest.mark.parametrize("mode", ["disabled", "auto"])


def good(api: Api, mode: str) -> Any:
    """Return the reply that the mode wants."""
    return json_reply(api.plain("Hello!")) if mode == "disabled" else stream_reply(api.stream("Hel", "lo!"))


@MODES
async def test_retry_after_is_waited_for(server: Server, api: Api, mode: Any, sleeps: list[float]) -> None:
    limited = error_body("Slow down", code="rate_limit_exceeded")
    server.add(json_reply(limited, 429, retry_after="7"), good(api, mode))
    async with make_provider(server, api) as provider:
        response = await provider.execute("Hi", stream_mode=mode)
    assert response.content == "Hello!"
    (seconds,) = sleeps
    assert 7 <= seconds <= 8
    (attempt,) = response.metadata["attempts"]
    assert (attempt["number"], attempt["status_code"], attempt["error"]) == (1, 429, "LLMProviderRateLimitError")
    assert attempt["wait"] == pytest.approx(seconds, abs=0.001)
    assert server.bodies[0] == server.bodies[1]


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"retry_after_ms": "2500"}, 2.5, 3.5),
        ({"retry_after": "Wed, 21 Oct 2015 07:28:30 GMT", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 30, 31),
        ({"retry_after": "-5"}, 0, 1),
        ({"retry_after": "NaN"}, 0, 1),
        ({"retry_after": "soon"}, 0, 1),
        ({}, 0, 1),
    ],
)
async def test_wait_is_what_the_service_asks_for_else_jitter(
    server: Server, api: Api, sleeps: list[float], headers: Any, low: float, high: float
) -> None:
    server.add(json_reply(error_body("Busy"), 503, **headers), json_reply(api.plain()))
    async with make_provider(server, api, retry_delay=1.0) as provider:
        await provider.execute("Hi")
    (seconds,) = sleeps
    assert low <= seconds <= high


async def test_waits_grow_up_to_the_cap(server: Server, api: Api, sleeps: list[float], monkeypatch: Any) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    server.default = json_reply(error_body("Down"), 500)
    async with make_provider(server, api, max_retries=6, retry_delay=2.0, max_retry_wait=20.0) as provider:
        with pytest.raises(LLMProviderServerError) as caught:
            await provider.execute("Hi")
    assert sleeps == [2, 4, 8, 16, 20, 20]
    assert [attempt["number"] for attempt in caught.value.attempts] == [1, 2, 3, 4, 5, 6]
    assert [attempt["wait"] for attempt in caught.value.attempts] == sleeps
    assert len(server.requests) == 7


@MODES
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
async def test_passing_failures_are_tried_again(
    server: Server, api: Api, mode: Any, status: int, sleeps: list[float]
) -> None:
    server.add(raw_reply(b"<h1>Try later</h1>", status, content_type="text/html"), good(api, mode))
    async with make_provider(server, api) as provider:
        response = await provider.execute("Hi", stream_mode=mode)
    assert response.content == "Hello!"
    assert [attempt["status_code"] for attempt in response.metadata["attempts"]] == [status]
    assert len(sleeps) == 1


REFUSALS: list[tuple[int, dict[str, Any], type[LLMProviderError]]] = [
    (400, {}, LLMProviderBadRequestError),
    (413, {}, LLMProviderBadRequestError),
    (422, {}, LLMProviderBadRequestError),
    (400, {"code": "context_length_exceeded"}, LLMProviderTokenLimitError),
    (400, {"code": "content_filter"}, LLMProviderContentFilterError),
    (401, {"code": "invalid_api_key"}, LLMProviderAuthenticationError),
    (403, {}, LLMProviderPermissionError),
    (404, {"code": "model_not_found"}, LLMProviderNotFoundError),
    (402, {}, LLMProviderQuotaError),
    (429, {"code": "insufficient_quota", "type": "insufficient_quota"}, LLMProviderQuotaError),
]


@MODES
@pytest.mark.parametrize(("status", "fields", "kind"), REFUSALS)
async def test_lasting_failures_are_one_request(
    server: Server, api: Api, mode: Any, sleeps: list[float], status: int, fields: Any, kind: type[LLMProviderError]
) -> None:
    body = error_body("It cannot be", **fields)
    server.add(json_reply(body, status, x_request_id="req_5"))
    async with make_provider(server, api) as provider:
        with pytest.raises(kind, match="It cannot be") as caught:
            await provider.execute("Hi", stream_mode=mode)
    error = caught.value
    assert type(error) is kind
    assert (error.provider, error.status_code, error.request_id) == ("openai", status, "req_5")
    assert error.code == fields.get("code", "invalid_request_error")
    assert "It cannot be" in (error.body or "")
    assert (sleeps, len(server.requests), error.attempts) == ([], 1, ())


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (408, LLMProviderTimeoutError),
        (409, LLMProviderBadRequestError),
        (429, LLMProviderRateLimitError),
        (500, LLMProviderServerError),
        (502, LLMProviderServerError),
        (503, LLMProviderOverloadedError),
        (504, LLMProviderTimeoutError),
        (529, LLMProviderOverloadedError),
    ],
)
async def test_without_retries_one_request_is_sent(
    server: Server, api: Api, status: int, kind: type[LLMProviderError]
) -> None:
    server.add(raw_reply(b"Try later", status, retry_after="3"))
    async with make_provider(server, api, max_retries=0) as provider:
        with pytest.raises(kind, match="Try later") as caught:
            await provider.execute("Hi")
    assert type(caught.value) is kind
    assert (caught.value.status_code, caught.value.retry_after, caught.value.body) == (status, 3.0, "Try later")
    assert len(server.requests) == 1


async def test_service_has_the_last_word(server: Server, api: Api, sleeps: list[float]) -> None:
    server.add(json_reply(error_body("No"), 500, x_should_retry="false"))
    server.add(json_reply(error_body("Yes"), 400, x_should_retry="true"), json_reply(api.plain()))
    async with make_provider(server, api) as provider:
        with pytest.raises(LLMProviderServerError):
            await provider.execute("Hi")
        assert len(server.requests) == 1
        assert (await provider.execute("Hi")).content == "Hello!"
    assert len(sleeps) == 1


async def test_wait_over_the_cap_fails_at_once(server: Server, api: Api, sleeps: list[float]) -> None:
    server.add(json_reply(error_body("Tomorrow"), 429, retry_after="3600"))
    async with make_provider(server, api, max_retry_wait=30) as provider:
        with pytest.raises(LLMProviderRateLimitError) as caught:
            await provider.execute("Hi")
    assert (caught.value.retry_after, sleeps, len(server.requests)) == (3600.0, [], 1)


async def test_wait_beyond_the_deadline_fails_at_once(server: Server, api: Api, sleeps: list[float]) -> None:
    server.add(json_reply(error_body("Later"), 429, retry_after="50"))
    async with make_provider(server, api, deadline=40) as provider:
        with pytest.raises(LLMProviderRateLimitError) as caught:
            await provider.execute("Hi")
    assert (caught.value.retry_after, sleeps, len(server.requests)) == (50.0, [], 1)


@MODES
@pytest.mark.parametrize("fault", [CLOSE, RESET], ids=["closed", "reset"])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\ncontent-le"], ids=["nothing", "half a head"])
async def test_broken_connection_is_tried_again(
    server: Server, api: Api, mode: Any, fault: Any, sent: bytes, sleeps: list[float]
) -> None:
    server.add([sent, fault], good(api, mode))
    async with make_provider(server, api) as provider:
        response = await provider.execute("Hi", stream_mode=mode)
    assert response.content == "Hello!"
    (attempt,) = response.metadata["attempts"]
    assert (attempt["error"], attempt["status_code"]) == ("LLMProviderConnectionError", None)
    assert len(sleeps) == 1


async def test_refused_connection_is_tried_again_and_told(api: Api, sleeps: list[float]) -> None:
    with Server() as server:
        pass
    async with make_provider(server, api, max_retries=2) as provider:
        with pytest.raises(LLMProviderConnectionError) as caught:
            await provider.execute("Hi")
    assert (caught.value.provider, caught.value.code) == ("openai", "ConnectError")
    assert (len(caught.value.attempts), len(sleeps)) == (2, 2)


async def test_stream_is_tried_again_until_its_first_output(server: Server, api: Api, sleeps: list[float]) -> None:
    failure = api.error("The engine stopped", code="server_error")
    server.add(stream_reply([*api.begun(), failure]), stream_reply([*api.begun(), CLOSE], end=False))
    server.add(stream_reply(api.stream("Hel", "lo!")))
    async with make_provider(server, api) as provider, provider.stream("Hi") as stream:
        assert [text async for text in stream] == ["Hel", "lo!"]
        response = await stream.response()
    assert [attempt["number"] for attempt in response.metadata["attempts"]] == [1, 2]
    assert len(sleeps) == 2


@MODES
async def test_nothing_is_tried_again_after_the_first_output(
    server: Server, api: Api, mode: Any, sleeps: list[float]
) -> None:
    server.add(stream_reply([*api.begun("Hel"), CLOSE], end=False), stream_reply(api.stream("Hello!")))
    async with make_provider(server, api) as provider:
        with pytest.raises(LLMProviderStreamError) as caught:
            await (provider.stream("Hi").response() if mode == "disabled" else provider.execute("Hi", stream_mode=mode))
    assert caught.value.partial is not None
    assert caught.value.partial.content == "Hel"
    assert (sleeps, len(server.requests)) == ([], 1)


async def test_read_timeouts_are_tried_again_only_when_asked_for(server: Server, api: Api, sleeps: list[float]) -> None:
    server.add([GONE], [GONE], json_reply(api.plain()))
    async with make_provider(server, api, timeout=0.1) as provider:
        with pytest.raises(LLMProviderTimeoutError) as caught:
            await provider.execute("Hi")
        assert (caught.value.code, sleeps, len(server.requests)) == ("ReadTimeout", [], 1)
        response = await provider.execute("Hi", retry_read_timeouts=True, timeout=0.2)
    assert (response.content, len(sleeps)) == ("Hello!", 1)


@MODES
async def test_a_service_that_refuses_each_call_once_and_names_the_wait_answers_all(
    server: Server, api: Api, mode: Any, sleeps: list[float]
) -> None:
    limited = json_reply(error_body("Slow down", code="rate_limit_exceeded"), 429, retry_after="7")
    server.add(*[limited, good(api, mode)] * 20)
    async with make_provider(server, api) as provider:
        for _ in range(20):
            assert (await provider.execute("Hi", stream_mode=mode)).content == "Hello!"
    assert len(server.requests) == 40


async def test_an_outage_is_not_amplified(server: Server, api: Api, sleeps: list[float]) -> None:
    server.default = raw_reply(b"Down", 500)
    async with make_provider(server, api) as provider:
        for _ in range(100):
            with pytest.raises(LLMProviderServerError, match="Down") as caught:
                await provider.execute("Hi")
    assert "openai: the service answered 500: Down; not tried again: the provider's budget" in str(caught.value)
    # Ten tries in reserve, and one for each ten calls.
    assert 100 < len(server.requests) <= 120
    assert len(sleeps) == len(server.requests) - 100


REFUSED = error_body(
    "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1) value is supported.",
    param="temperature",
    code="unsupported_value",
)


@MODES
@pytest.mark.parametrize("named", [True, False], ids=["param", "message"])
async def test_refused_default_is_left_out_and_remembered(
    server: Server, api: Api, mode: Any, named: bool, sleeps: list[float]
) -> None:
    body = REFUSED if named else {"error": {**REFUSED["error"], "param": None}}
    server.add(json_reply(body, 400), good(api, mode), good(api, mode), good(api, mode))
    async with make_provider(server, api, model_name="gpt-4o-search", max_retries=0) as provider:
        for _ in range(2):
            response = await provider.execute("Hi", stream_mode=mode)
            (adjustment,) = response.metadata["adjustments"]
            assert (adjustment["parameter"], adjustment["action"]) == ("temperature", "omitted")
            assert "gpt-4o-search" in adjustment["reason"]
        await provider.execute("Hi", model_name="gpt-4o", stream_mode=mode)
    # Refused once, repeated without; then remembered for this model, and for no other.
    assert ["temperature" in body for body in server.bodies] == [True, False, False, True]
    assert sleeps == []


async def test_what_the_caller_set_is_never_dropped(server: Server, api: Api) -> None:
    server.default = json_reply(REFUSED, 400)
    async with make_provider(server, api, temperature=0.7) as provider:
        with pytest.raises(LLMProviderBadRequestError, match="does not support") as caught:
            await provider.execute("Hi")
        assert (caught.value.parameter, len(server.requests)) == ("temperature", 1)
        with pytest.raises(LLMProviderBadRequestError):
            await provider.execute("Hi", temperature=0.2)
    assert [body["temperature"] for body in server.bodies] == [0.7, 0.2]


async def test_repeat_without_a_default_happens_once(server: Server, api: Api) -> None:
    server.default = json_reply(REFUSED, 400)
    async with make_provider(server, api) as provider:
        with pytest.raises(LLMProviderBadRequestError, match="does not support"):
            await provider.execute("Hi")
    assert ["temperature" in body for body in server.bodies] == [True, False]


async def test_refusal_of_stream_options_is_healed(server: Server) -> None:
    api = ChatCompletions()
    refused = error_body("Unrecognized request argument supplied: stream_options")
    server.add(json_reply(refused, 400), stream_reply(api.stream("Hello!")))
    async with make_provider(server, api) as provider:
        assert (await provider.stream("Hi").response()).content == "Hello!"
    assert ["stream_options" in body for body in server.bodies] == [True, False]


async def test_repeat_has_its_own_retries(server: Server, api: Api, sleeps: list[float]) -> None:
    replies = [raw_reply(b"Down", 500), json_reply(api.plain())]
    server.default = lambda request: json_reply(REFUSED, 400) if "temperature" in request.body else replies.pop(0)
    async with make_provider(server, api) as provider:
        response = await provider.execute("Hi")
    assert (response.content, replies) == ("Hello!", [])
    assert [adjustment["parameter"] for adjustment in response.metadata["adjustments"]] == ["temperature"]
    assert len(sleeps) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_redirect_is_an_error_and_not_followed(server: Server, api: Api, status: int) -> None:
    with Server(default=json_reply(api.plain())) as elsewhere:
        server.add(raw_reply(b"", status, location=f"{elsewhere.url}{api.path}"))
        async with make_provider(server, api, max_retries=0) as provider:
            with pytest.raises(LLMProviderError, match=str(status)) as caught:
                await provider.execute("Hi")
        assert caught.value.status_code == status
        assert elsewhere.connections == []


@pytest.mark.parametrize("own", [True, False], ids=["own client", "caller's client"])
async def test_error_body_is_told_in_short(server: Server, api: Api, own: bool) -> None:
    page = b"<html><title>Bad gateway</title>" + b"<p>lorem ipsum</p>" * 100_000
    server.add([head(502, {"content-type": "text/html"}), page, CLOSE])
    async with (
        Client(verify=False) as client,
        make_provider(server, api, http_client=None if own else client) as provider,
    ):
        with pytest.raises(LLMProviderServerError, match="Bad gateway") as caught:
            await provider.execute("Hi", max_retries=0)
    assert (caught.value.status_code, len(caught.value.body or "")) == (502, 2001)
    assert len(caught.value.message) < 300
