# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""The key is seen by the service and by nobody else, whatever the service or the network does."""

from __future__ import annotations

import json
import logging
import pickle
import re
import traceback
from typing import Any
from urllib.parse import quote

import pytest

from llmkit import LLMProviderConfigurationError, LLMProviderError, LLMProviderStreamError
from llmkit.traffic import MOST_TOLD

from ..answers import Api, error_body
from ..server import CLOSE, GONE, Reply, Server, event, json_reply, raw_reply, stream_reply
from ._backend import KEY, Client, in_thread, make_provider

pytestmark = pytest.mark.anyio

ECHO = f"Incorrect API key provided: {KEY}. You sent 'authorization: Bearer {KEY}'."
FAULTS: dict[str, Any] = {
    "401 JSON": lambda api: json_reply(error_body(ECHO, code="invalid_api_key"), 401),
    "500 text": lambda api: raw_reply(ECHO.encode(), 500),
    "200 HTML": lambda api: raw_reply(f"<p>{ECHO}</p>".encode(), content_type="text/html"),
    "200 error": lambda api: json_reply(error_body(ECHO)),
    "200 wrong shape": lambda api: json_reply({"choices": {KEY: ECHO}, "output": ECHO}),
    "redirect": lambda api: raw_reply(b"", 302, location=f"/login?key={KEY}"),
    "stream error": lambda api: stream_reply([*api.begun("One"), api.error(ECHO)]),
    "stream lie": lambda api: stream_reply([*api.begun("One"), event({"no": ECHO})]),
    "stream no JSON": lambda api: stream_reply([*api.begun("One"), event(ECHO)]),
    "stream cut": lambda api: stream_reply([*api.begun("One"), ECHO.encode()]),
    "no answer": lambda api: [CLOSE],
    "no HTTP": lambda api: [f"{ECHO}\r\n\r\n".encode(), CLOSE],
}


def shown(error: LLMProviderError) -> str:
    """Return what a program shows of an error in logs and tracebacks, and hands to other processes."""
    texts = [str(error), repr(error), repr(error.args), repr(vars(error)), json.dumps(error.to_dict())]
    return "\n".join([*texts, *traceback.format_exception(error), repr(pickle.dumps(error))])


@pytest.mark.parametrize("mode", ["disabled", "auto"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_key_is_in_no_error_and_no_log(
    server: Server, api: Api, fault: str, mode: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reply: Reply = FAULTS[fault](api)
    server.add(reply)
    caplog.set_level(logging.DEBUG)
    async with make_provider(server, api, max_retries=0) as provider:
        with pytest.raises(LLMProviderError) as caught:
            await provider.execute("Hi", stream_mode=mode)
        assert KEY in server.requests[0].headers["authorization"]
        assert KEY not in shown(caught.value)
        assert KEY not in f"{provider!r} {vars(provider)} {provider.config} {provider.get_model_info()}"
    logged = {record.name.partition(".")[0]: [] for record in caplog.records}
    for record in caplog.records:
        logged[record.name.partition(".")[0]].append(vars(record))
    assert KEY not in repr(logged.pop("llmkit"))
    # httpcore tells the headers of responses at the level DEBUG, but no header of a request and no body.
    assert fault in ("redirect", "no HTTP") or KEY not in repr(logged)


@pytest.mark.parametrize("mode", ["disabled", "auto"])
@pytest.mark.parametrize("fault", [[CLOSE], raw_reply(b"No", 401), raw_reply(b""), [GONE]], ids=range(4))
async def test_key_is_in_no_variable_that_a_crash_report_shows(
    server: Server, api: Api, fault: Reply, mode: Any
) -> None:
    server.add(fault)
    async with make_provider(server, api, max_retries=0, timeout=0.1) as provider:
        with pytest.raises(LLMProviderError) as caught:
            await provider.execute("Hi", stream_mode=mode)
    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    ours = [frame for frame in frames if frame.f_globals["__name__"].startswith("llmkit.")]
    assert len(ours) > 3
    for frame in ours:
        assert KEY not in repr(frame.f_locals), frame.f_code.co_qualname


async def test_prompt_and_answer_are_in_no_log(server: Server, api: Api, caplog: pytest.LogCaptureFixture) -> None:
    server.add(json_reply(api.plain("the answer")), stream_reply(api.stream("the answer")))
    server.add(json_reply(error_body("the refusal"), 400))
    caplog.set_level(logging.DEBUG)
    async with make_provider(server, api) as provider:
        await provider.execute("the question")
        await provider.stream("the question").response()
        with pytest.raises(LLMProviderError):
            await provider.execute("the question")
    texts = [record.getMessage() for record in caplog.records if record.name.startswith("llmkit")]
    statuses = (200, 200, 400)
    for status, request, head, end in zip(statuses, server.requests, texts[::2], texts[1::2], strict=True):
        sent = request.headers["content-length"]
        assert re.fullmatch(rf"POST {server.url}{api.path}: {status} in \d\.\d+ s, {sent} bytes sent", head)
        assert re.fullmatch(rf"POST {server.url}{api.path}: \d+ bytes received in \d\.\d+ s", end)
    assert not [text for text in texts for word in ("question", "answer", "refusal") if word in text]


async def test_bodies_are_in_the_log_when_asked_for(
    server: Server, api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = f"the answer, which tells {KEY}"
    server.add(json_reply(api.plain(told)), stream_reply(api.stream(told)))
    server.add(json_reply(error_body(f"the refusal of {KEY}"), 400), [b"HTTP", CLOSE])
    server.add(stream_reply([*api.begun("the answer"), GONE], end=False))
    monkeypatch.setenv("LLMKIT_LOG_BODIES", "1")
    caplog.set_level(logging.DEBUG)
    async with make_provider(server, api, max_retries=0) as provider:
        await provider.execute(f"the question of {KEY}", extra_query={"key": "another-secret"})
        await provider.stream("the question").response()
        for _ in range(2):
            with pytest.raises(LLMProviderError):
                await provider.execute("the question")
        async for _ in provider.stream("the question"):
            break
        assert await in_thread(server.wait_gone)
    assert server.requests[0].path.endswith("key=another-secret")
    texts = [record.getMessage() for record in caplog.records if record.name.startswith("llmkit")]
    for kind, count in ((": sent {", 5), (" bytes received in ", 4), (": received ", 4)):
        assert len([text for text in texts if kind in text]) == count
    joined = "\n".join(texts)
    for words, count in (("the question", 5), ("the refusal", 1)):
        assert joined.count(words) == count
    assert joined.count("the answer") >= 3 and joined.count("[redacted]") >= 4
    assert KEY not in joined and "another-secret" not in joined


@pytest.mark.parametrize("value", ["", "0"])
async def test_bodies_are_not_asked_for_by_a_zero(
    server: Server, api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    server.add(json_reply(api.plain("the answer")))
    monkeypatch.setenv("LLMKIT_LOG_BODIES", value)
    caplog.set_level(logging.DEBUG)
    async with make_provider(server, api) as provider:
        await provider.execute("the question")
    texts = [record.getMessage() for record in caplog.records if record.name.startswith("llmkit")]
    assert len(texts) == 2 and not [text for text in texts if "question" in text or "answer" in text]


@pytest.mark.parametrize("key", ["sk/test+0123456789/abc=", 'sk"test\\0123456789abc'])
async def test_key_is_found_however_it_is_written(server: Server, api: Api, key: str) -> None:
    in_json = json.dumps(key)[1:-1]
    for form in {key, in_json, key.replace("/", "\\/"), quote(key, safe="")}:
        server.add(raw_reply(f'{{"error": {{"message": "No {form}"}}, "x": "{form}"'.encode(), 401))
        async with make_provider(server, api, api_key=key) as provider:
            with pytest.raises(LLMProviderError) as caught:
                await provider.execute("Hi")
        assert form not in f"{caught.value} {caught.value.body}"
        assert "[redacted]" in str(caught.value)


async def test_key_is_not_shown_where_an_excerpt_cuts_it(server: Server, api: Api) -> None:
    async with make_provider(server, api, max_retries=0) as provider:
        for most in (200, 2000):
            for place in range(most - len(KEY), most, 3):
                server.add(raw_reply(b"x" * place + KEY.encode() + b" and more" * 1000, 500))
                with pytest.raises(LLMProviderError) as caught:
                    await provider.execute("Hi")
                assert KEY[:8] not in shown(caught.value)


async def test_key_follows_no_redirect_of_a_client_that_follows_them(server: Server, api: Api) -> None:
    with Server(default=json_reply(api.plain())) as other:
        for status in (301, 302, 303, 307, 308):
            server.add(raw_reply(b"", status, location=f"{other.url}{api.path}"))
        async with (
            Client(verify=False, follow_redirects=True) as client,
            make_provider(server, api, http_client=client) as provider,
            make_provider(server, api) as own,
        ):
            for number in range(5):
                with pytest.raises(LLMProviderError, match="30"):
                    await (own if number % 2 else provider).execute("Hi")
        assert len(server.requests) == 5 and not other.connections


async def test_key_is_in_no_answer_and_no_dry_run(server: Server, api: Api) -> None:
    server.add(json_reply(api.plain()))
    async with make_provider(server, api, extra_headers={"x-key": KEY}) as provider:
        response = await provider.execute("Hi")
        preview = provider.build_request("Hi")
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(provider)
    assert KEY not in json.dumps(response.to_dict()) + repr(response) + repr(pickle.dumps(response))
    assert KEY not in repr(preview)
    assert preview.headers["authorization"] == "[redacted]"


@pytest.mark.parametrize("key", ["", " ", "sk-\nx", "sk-ключ", "sk-\x00x", 7])
async def test_unusable_key_is_refused_and_not_shown(server: Server, api: Api, key: Any) -> None:
    with pytest.raises(LLMProviderConfigurationError, match="no usable key") as caught:
        make_provider(server, api, api_key=key)
    assert "sk-" not in str(caught.value)
    assert server.connections == []


async def test_netrc_does_not_replace_the_key(
    server: Server, api: Api, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1\nlogin someone\npassword else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.add(json_reply(api.plain(), set_cookie="session=1"), json_reply(api.plain()))
    async with make_provider(server, api) as provider:
        response = await provider.execute("Hi")
        await provider.execute("Hi")
    for request in server.requests:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert "cookie" not in request.headers
    assert "set-cookie" not in response.metadata["headers"]


async def test_errors_survive_pickle_with_what_came(server: Server, api: Api, sleeps: list[float]) -> None:
    server.add(raw_reply(b"Busy", 503, retry_after="1"))
    server.add(stream_reply([*api.begun("One", " two"), CLOSE], end=False, x_request_id="req_8"))
    async with make_provider(server, api) as provider:
        with pytest.raises(LLMProviderStreamError) as caught:
            await provider.stream("Count").response()
    error = caught.value
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is LLMProviderStreamError
    assert (str(copy), copy.to_dict()) == (str(error), error.to_dict())
    assert (copy.provider, copy.request_id) == ("openai", "req_8")
    assert copy.partial == error.partial
    assert copy.partial.content == "One two"
    assert [attempt["status_code"] for attempt in copy.attempts] == [503]


async def test_long_bodies_are_cut_in_the_log(
    server: Server, api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMKIT_LOG_BODIES", "1")
    caplog.set_level(logging.DEBUG)
    async with make_provider(server, api, max_retries=0) as provider:
        for place in range(MOST_TOLD - len(KEY), MOST_TOLD, 5):
            server.add(raw_reply(b"x" * place + KEY.encode() + b"y" * 500_000))
            with pytest.raises(LLMProviderError):
                await provider.execute("Hi")
    texts = [record.getMessage() for record in caplog.records if ": received x" in record.getMessage()]
    assert len(texts) == len(range(MOST_TOLD - len(KEY), MOST_TOLD, 5))
    assert all(len(text) < MOST_TOLD + 200 and text.endswith("…") and KEY[:5] not in text for text in texts)
