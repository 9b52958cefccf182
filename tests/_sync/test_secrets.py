# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""The key is seen by the service and by nobody else, whatever the service or the network does."""

from __future__ import annotations

import json
import logging
import math
import pickle
import re
import traceback
from typing import Any
from urllib.parse import quote

import pytest

from llmkit import (
    CallRecord,
    Hooks,
    LLMProviderBadRequestError,
    LLMProviderConfigurationError,
    LLMProviderError,
    LLMProviderStreamError,
    MemoryCache,
)
from llmkit.traffic import MOST_TOLD

from ..answers import Api, error_body
from ..server import CLOSE, GONE, Reply, Server, event, json_reply, raw_reply, stream_reply
from ._backend import KEY, Client, in_thread, make_provider

pytestmark = pytest.mark.anyio

GATEWAY_KEY = "gw-0123456789-abcdef"
ECHO = f"Incorrect API key provided: {KEY}. You sent 'authorization: Bearer {KEY}'."
FAULTS: dict[str, Any] = {
    "401 JSON": lambda api: json_reply(error_body(ECHO, code="invalid_api_key"), 401),
    "500 text": lambda api: raw_reply(ECHO.encode(), 500),
    "200 HTML": lambda api: raw_reply(f"<p>{ECHO}</p>".encode(), content_type="text/html"),
    "401 fields": lambda api: json_reply(error_body("No", code=KEY, param=f"key {KEY}"), 401, x_request_id=KEY),
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
def test_key_is_in_no_error_and_no_log(
    server: Server, api: Api, fault: str, mode: Any, caplog: pytest.LogCaptureFixture
) -> None:
    reply: Reply = FAULTS[fault](api)
    server.add(reply)
    caplog.set_level(logging.DEBUG)
    with make_provider(server, api, max_retries=0) as provider:
        with pytest.raises(LLMProviderError) as caught:
            provider.execute("Hi", stream_mode=mode)
        assert KEY in server.requests[0].headers["authorization"]
        assert KEY not in shown(caught.value)
        assert KEY not in f"{provider!r} {vars(provider)} {provider.config} {provider.get_model_info()}"
    logged = {record.name.partition(".")[0]: [] for record in caplog.records}
    for record in caplog.records:
        logged[record.name.partition(".")[0]].append(vars(record))
    assert KEY not in repr(logged.pop("llmkit"))
    # httpcore tells the headers of responses at the level DEBUG, but no header of a request and no body.
    assert fault in ("401 fields", "redirect", "no HTTP") or KEY not in repr(logged)


@pytest.mark.parametrize("mode", ["disabled", "auto"])
@pytest.mark.parametrize("fault", [[CLOSE], raw_reply(b"No", 401), raw_reply(b""), [GONE]], ids=range(4))
def test_key_is_in_no_variable_that_a_crash_report_shows(
    server: Server, api: Api, fault: Reply, mode: Any
) -> None:
    server.add(fault)
    settings: dict[str, Any] = {"max_retries": 0, "timeout": 0.1, "extra_query": {"key": GATEWAY_KEY}}
    with make_provider(server, api, **settings) as provider:
        with pytest.raises(LLMProviderError) as caught:
            provider.execute("Hi", stream_mode=mode)
    check_variables(caught.value)


@pytest.mark.parametrize("cached", [False, True])
def test_key_is_in_no_variable_where_nothing_can_be_sent(server: Server, api: Api, cached: bool) -> None:
    cache = MemoryCache() if cached else None
    with make_provider(server, api, cache=cache, extra_headers={"x-key": GATEWAY_KEY}) as provider:
        with pytest.raises(LLMProviderBadRequestError, match="cannot be written as JSON") as caught:
            provider.execute("Hi", extra_params={"x": math.nan})
    check_variables(caught.value)


def test_key_is_in_no_variable_where_a_cache_fails(server: Server, api: Api) -> None:
    class Broken(MemoryCache):
        def get(self, key: str) -> None:
            raise OSError("the disk is gone")

    with make_provider(server, api, cache=Broken()) as provider:
        with pytest.raises(OSError) as caught:
            provider.execute("Hi")
    check_variables(caught.value)


def check_variables(error: BaseException) -> None:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [frame for frame in frames if frame.f_globals["__name__"].startswith("llmkit.")]
    assert len(ours) > 3
    for frame in ours:
        shown = repr(frame.f_locals)
        assert KEY not in shown and GATEWAY_KEY not in shown, frame.f_code.co_qualname


@pytest.mark.parametrize("place", ["extra_headers", "extra_query", "base_url"])
@pytest.mark.parametrize("at_call", [False, True])
def test_keys_of_a_gateway_are_shown_nowhere(
    server: Server,
    api: Api,
    place: str,
    at_call: bool,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LLMKIT_LOG_BODIES", "1")
    caplog.set_level(logging.DEBUG)
    settings: dict[str, Any] = {
        "extra_headers": {"extra_headers": {"Authorization": f"Bearer {GATEWAY_KEY}", "x-team": "blue"}},
        "extra_query": {"extra_query": {"subscription-key": GATEWAY_KEY, "team": "blue"}},
        "base_url": {"base_url": f"{server.base_url}?team=blue&Subscription-Key={GATEWAY_KEY}"},
    }[place]
    options = settings if at_call and place != "base_url" else {}
    told = f"No {GATEWAY_KEY}"
    server.add(json_reply(error_body(told), 401), stream_reply([*api.begun("One"), api.error(told)]))
    server.add(json_reply(api.plain(), x_echo=told))
    records: list[CallRecord] = []
    own = {"hooks": Hooks(after=records.append), "max_retries": 0} | ({} if options else settings)
    with make_provider(server, api, **own) as provider:
        preview = provider.build_request("Hi", **options)
        for mode in ("disabled", "auto"):
            with pytest.raises(LLMProviderError, match=r"No \[redacted\]") as caught:
                provider.execute("Hi", stream_mode=mode, **options)
            assert GATEWAY_KEY not in shown(caught.value)
        response = provider.execute("Hi", **options)
    assert response.metadata["headers"]["x-echo"] == "No [redacted]"
    assert all(GATEWAY_KEY in f"{request.path} {request.headers}" for request in server.requests)
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("llmkit")]
    assert logged and GATEWAY_KEY not in f"{preview} {records} {logged}"
    assert "blue" in f"{preview.url} {preview.headers}" and "[redacted]" in f"{preview.url} {preview.headers}"
    assert {record.address for record in records} == {server.base_url}


def test_prompt_and_answer_are_in_no_log(server: Server, api: Api, caplog: pytest.LogCaptureFixture) -> None:
    server.add(json_reply(api.plain("the answer")), stream_reply(api.stream("the answer")))
    server.add(json_reply(error_body("the refusal"), 400))
    caplog.set_level(logging.DEBUG)
    with make_provider(server, api) as provider:
        provider.execute("the question")
        provider.stream("the question").response()
        with pytest.raises(LLMProviderError):
            provider.execute("the question")
    texts = [record.getMessage() for record in caplog.records if record.name.startswith("llmkit")]
    statuses = (200, 200, 400)
    for status, request, head, end in zip(statuses, server.requests, texts[::2], texts[1::2], strict=True):
        sent = request.headers["content-length"]
        assert re.fullmatch(rf"POST {server.url}{api.path}: {status} in \d\.\d+ s, {sent} bytes sent", head)
        assert re.fullmatch(rf"POST {server.url}{api.path}: \d+ bytes received in \d\.\d+ s", end)
    assert not [text for text in texts for word in ("question", "answer", "refusal") if word in text]


def test_bodies_are_in_the_log_when_asked_for(
    server: Server, api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = f"the answer, which tells {KEY}"
    server.add(json_reply(api.plain(told)), stream_reply(api.stream(told)))
    server.add(json_reply(error_body(f"the refusal of {KEY}"), 400), [b"HTTP", CLOSE])
    server.add(stream_reply([*api.begun("the answer"), GONE], end=False))
    monkeypatch.setenv("LLMKIT_LOG_BODIES", "1")
    caplog.set_level(logging.DEBUG)
    with make_provider(server, api, max_retries=0) as provider:
        provider.execute(f"the question of {KEY}", extra_query={"key": "another-secret"})
        provider.stream("the question").response()
        for _ in range(2):
            with pytest.raises(LLMProviderError):
                provider.execute("the question")
        for _ in provider.stream("the question"):
            break
        assert in_thread(server.wait_gone)
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
def test_bodies_are_not_asked_for_by_a_zero(
    server: Server, api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    server.add(json_reply(api.plain("the answer")))
    monkeypatch.setenv("LLMKIT_LOG_BODIES", value)
    caplog.set_level(logging.DEBUG)
    with make_provider(server, api) as provider:
        provider.execute("the question")
    texts = [record.getMessage() for record in caplog.records if record.name.startswith("llmkit")]
    assert len(texts) == 2 and not [text for text in texts if "question" in text or "answer" in text]


@pytest.mark.parametrize("key", ["sk/test+0123456789/abc=", 'sk"test\\0123456789abc'])
def test_key_is_found_however_it_is_written(server: Server, api: Api, key: str) -> None:
    in_json = json.dumps(key)[1:-1]
    for form in {key, in_json, key.replace("/", "\\/"), quote(key, safe="")}:
        server.add(raw_reply(f'{{"error": {{"message": "No {form}"}}, "x": "{form}"'.encode(), 401))
        with make_provider(server, api, api_key=key) as provider:
            with pytest.raises(LLMProviderError) as caught:
                provider.execute("Hi")
        assert form not in f"{caught.value} {caught.value.body}"
        assert "[redacted]" in str(caught.value)


def test_key_is_not_shown_where_an_excerpt_cuts_it(server: Server, api: Api) -> None:
    with make_provider(server, api, max_retries=0) as provider:
        for most in (200, 2000):
            for place in range(most - len(KEY), most, 3):
                server.add(raw_reply(b"x" * place + KEY.encode() + b" and more" * 1000, 500))
                with pytest.raises(LLMProviderError) as caught:
                    provider.execute("Hi")
                assert KEY[:8] not in shown(caught.value)


def test_key_follows_no_redirect_of_a_client_that_follows_them(server: Server, api: Api) -> None:
    with Server(default=json_reply(api.plain())) as other:
        for status in (301, 302, 303, 307, 308):
            server.add(raw_reply(b"", status, location=f"{other.url}{api.path}"))
        with (
            Client(verify=False, follow_redirects=True) as client,
            make_provider(server, api, http_client=client) as provider,
            make_provider(server, api) as own,
        ):
            for number in range(5):
                with pytest.raises(LLMProviderError, match="30"):
                    (own if number % 2 else provider).execute("Hi")
        assert len(server.requests) == 5 and not other.connections


def test_key_is_in_no_answer_and_no_dry_run(server: Server, api: Api) -> None:
    server.add(json_reply(api.plain()))
    with make_provider(server, api, extra_headers={"x-key": KEY}) as provider:
        response = provider.execute("Hi")
        preview = provider.build_request("Hi")
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(provider)
    assert KEY not in json.dumps(response.to_dict()) + repr(response) + repr(pickle.dumps(response))
    assert KEY not in repr(preview)
    assert preview.headers["authorization"] == "[redacted]"


@pytest.mark.parametrize("key", ["", " ", "sk-\nx", "sk-ключ", "sk-\x00x", 7])
def test_unusable_key_is_refused_and_not_shown(server: Server, api: Api, key: Any) -> None:
    with pytest.raises(LLMProviderConfigurationError, match="no usable key") as caught:
        make_provider(server, api, api_key=key)
    assert "sk-" not in str(caught.value)
    assert server.connections == []


def test_netrc_does_not_replace_the_key(
    server: Server, api: Api, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1\nlogin someone\npassword else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    server.add(json_reply(api.plain(), set_cookie="session=1"), json_reply(api.plain()))
    with make_provider(server, api) as provider:
        response = provider.execute("Hi")
        provider.execute("Hi")
    for request in server.requests:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert "cookie" not in request.headers
    assert "set-cookie" not in response.metadata["headers"]


def test_errors_survive_pickle_with_what_came(server: Server, api: Api, sleeps: list[float]) -> None:
    server.add(raw_reply(b"Busy", 503, retry_after="1"))
    server.add(stream_reply([*api.begun("One", " two"), CLOSE], end=False, x_request_id="req_8"))
    with make_provider(server, api) as provider:
        with pytest.raises(LLMProviderStreamError) as caught:
            provider.stream("Count").response()
    error = caught.value
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is LLMProviderStreamError
    assert (str(copy), copy.to_dict()) == (str(error), error.to_dict())
    assert (copy.provider, copy.request_id) == ("openai", "req_8")
    assert copy.partial == error.partial
    assert copy.partial.content == "One two"
    assert [attempt["status_code"] for attempt in copy.attempts] == [503]


def test_long_bodies_are_cut_in_the_log(
    server: Server, api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMKIT_LOG_BODIES", "1")
    caplog.set_level(logging.DEBUG)
    with make_provider(server, api, max_retries=0) as provider:
        for place in range(MOST_TOLD - len(KEY), MOST_TOLD, 5):
            server.add(raw_reply(b"x" * place + KEY.encode() + b"y" * 500_000))
            with pytest.raises(LLMProviderError):
                provider.execute("Hi")
    texts = [record.getMessage() for record in caplog.records if ": received x" in record.getMessage()]
    assert len(texts) == len(range(MOST_TOLD - len(KEY), MOST_TOLD, 5))
    assert all(len(text) < MOST_TOLD + 200 and text.endswith("…") and KEY[:5] not in text for text in texts)
