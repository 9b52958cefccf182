"""Real exchanges are recorded over real sockets, without secrets, and replayed without any."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from llmkit import (
    LLMProviderConfigurationError,
    LLMProviderConnectionError,
    LLMProviderError,
    LLMProviderRateLimitError,
    LLMProviderStreamError,
)
from llmkit._sync._backend import httpx
from llmkit.testing import UnrecordedRequestError, recording

from ..answers import Api, error_body
from ..server import CLOSE, GONE, Server, event, json_reply, pieces, raw_reply, stream_reply
from ._backend import KEY, make_provider

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the recording is to be."""
    return tmp_path / "recordings" / "exchanges.json"


def exchanges(path: Path) -> Any:
    """Return what the file has."""
    return json.loads(path.read_text("utf-8"))["exchanges"]


def test_exchanges_are_recorded_once_and_replayed_in_their_order(server: Server, api: Api, path: Path) -> None:
    server.add(json_reply(api.plain("One"), x_request_id="req_1"), json_reply(api.plain("Two")))
    server.add(stream_reply(api.stream("Hel", "lo")), raw_reply(b"Busy", 429, retry_after="3"))
    for _ in range(3):
        with recording(path) as client, make_provider(server, api, http_client=client, max_retries=0) as provider:
            first = provider.execute("Hi")
            assert (first.content, first.metadata["request_id"]) == ("One", "req_1")
            assert (provider.execute("Hi")).content == "Two"
            with provider.stream("Hi") as stream:
                assert [text for text in stream] == ["Hel", "lo"]
            with pytest.raises(LLMProviderRateLimitError, match="Busy") as caught:
                provider.execute("And?")
            assert caught.value.retry_after == 3
    assert len(server.requests) == 4
    assert all(request.headers["authorization"] == f"Bearer {KEY}" for request in server.requests)
    assert all(request.headers["accept-encoding"] == "identity" for request in server.requests)
    one, _, streamed, refused = exchanges(path)
    assert one["request"] == {"method": "POST", "url": server.url + api.path, "json": server.bodies[0]}
    assert one["response"]["json"] == api.plain("One")
    assert streamed["response"]["headers"] == {"content-type": "text/event-stream"}
    lines = [line for piece in streamed["response"]["pieces"] for line in piece]
    assert "".join(lines).encode() == b"".join(api.stream("Hel", "lo"))
    assert (refused["response"]["status"], refused["response"]["pieces"]) == (429, [["Busy"]])


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_stream_is_replayed_in_its_pieces(server: Server, api: Api, path: Path, size: int) -> None:
    # Pieces of one byte cut a fox in four.
    body = b"".join(api.stream("Grüße 🦊", " und\u2028mehr"))
    sent = pieces(body, size)
    gates = [server.gate() for _ in sent]
    steps = [step for pair in zip(sent, gates, strict=True) for step in pair]
    server.add(stream_reply(steps))
    found: list[list[bytes]] = []
    for _ in range(2):
        with recording(path) as client:
            with client.stream("POST", server.base_url, json={}) as response:
                got = []
                for piece in response.stream:
                    got.append(piece)
                    if gates:
                        gates.pop(0).set()
                found.append(got)
    assert found == [sent, sent]


def test_secrets_are_in_no_recording(server: Server, api: Api, path: Path) -> None:
    told = f"You sent {KEY}. \N{FOX FACE}"
    named: Any = {
        "set_cookie": "session=abcdefgh1",
        "openai_organization": "acme-corp",
        "x_echo": f"Bearer {KEY} {KEY[::-1]}",
    }
    server.add(json_reply({**api.plain(told), "api_key": "other-secret"}, **named))
    server.add(stream_reply([*api.begun("One"), event({"password": "hunter2!"}), event({"k": KEY})]))
    server.add(json_reply(error_body(told), 401))
    settings: Any = {
        "max_retries": 0,
        "extra_headers": {"OpenAI-Organization": "org-12345678", "Cookie": "session=abcdefgh2", "X-Acme": KEY[::-1]},
        "extra_query": {"key": "query-secret/1", "tag": "blue"},
        "extra_params": {"metadata": {"authorization": "Bearer in-the-body", "n": "org-12345678", "p": "Project X"}},
    }

    def scrub(text: str) -> str:
        return text.replace("Project X", "(a project)")

    outcomes = []
    for api_key in (KEY, "another-key-in-ci"):
        settings["api_key"] = api_key
        with recording(path, scrub=scrub) as client:
            with make_provider(server, api, http_client=client, **settings) as provider:
                outcomes.append((provider.execute("Hi")).content)
                with pytest.raises(LLMProviderError):
                    provider.stream("Hi").response()
                with pytest.raises(LLMProviderError, match=r"You sent \[redacted\]\. \N{FOX FACE}"):
                    provider.execute("Hi")
    assert len(server.requests) == 3
    assert server.requests[0].path == f"{api.path}?key=query-secret%2F1&tag=blue"
    text = path.read_text("utf-8")
    secrets = [KEY, KEY[::-1], "abcdefgh", "org-12345678", "acme-corp", "query-secret", "in-the-body", "hunter2!"]
    for secret in [*secrets, "other-secret", "Project X"]:
        assert secret not in text
    assert all(word in text for word in ("[redacted]", "(a project)", "tag=blue", "\N{FOX FACE}"))
    assert outcomes[1] == "You sent [redacted]. \N{FOX FACE}"


def test_a_request_that_is_not_recorded_is_shown_beside_the_nearest(server: Server, api: Api, path: Path) -> None:
    server.default = json_reply(api.plain())
    with pytest.raises(UnrecordedRequestError, match=r"exchanges.json \(mode 'none'\), which does not exist; record"):
        with recording(path, "none") as client, make_provider(server, api, http_client=client) as provider:
            provider.execute("Hi")
    with recording(path) as client, make_provider(server, api, http_client=client) as provider:
        provider.execute("Say hello")
        provider.execute("Say goodbye", temperature=0.1)
    with recording(path) as client, make_provider(server, api, http_client=client) as provider:
        provider.execute("Say hello")
        with pytest.raises(UnrecordedRequestError, match="any more: it was recorded 1 times"):
            provider.execute("Say hello")
        with pytest.raises(UnrecordedRequestError) as caught:
            provider.execute("Say bye", temperature=0.1)
        assert "The nearest is number 2 of 2:" in str(caught.value)
        assert '[0].content: recorded "Say goodbye", now "Say bye"' in str(caught.value)
        assert "temperature" not in str(caught.value)
        with pytest.raises(UnrecordedRequestError, match=r"temperature: recorded 0\.7, now nothing"):
            provider.execute("Say hello", model_name="o3")
        messages = [{"role": "user", "content": str(number)} for number in range(20)]
        with pytest.raises(UnrecordedRequestError, match=r"… and \d+ more"):
            provider.execute(messages)
    assert len(server.requests) == 2


def test_the_mode_says_what_is_recorded(
    server: Server, api: Api, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*prompts: str, mode: Any = None) -> list[str]:
        with recording(path, mode) as client, make_provider(server, api, http_client=client) as provider:
            return [(provider.execute(prompt)).content for prompt in prompts]

    server.add(*[json_reply(api.plain(f"Answer {number}")) for number in range(1, 9)])
    assert ask("a", "b") == ["Answer 1", "Answer 2"]
    assert ask("b", "c", mode="new_episodes") == ["Answer 2", "Answer 3"]
    assert ask("c", "a", "b", mode="none") == ["Answer 3", "Answer 1", "Answer 2"]
    assert [each["response"]["json"]["id"] for each in exchanges(path)] == [api.id] * 3
    monkeypatch.setenv("LLMKIT_RECORD_MODE", "all")
    assert ask("a", "a") == ["Answer 4", "Answer 5"]
    monkeypatch.delenv("LLMKIT_RECORD_MODE")
    assert ask("a", "a") == ["Answer 4", "Answer 5"]
    with pytest.raises(UnrecordedRequestError):
        ask("b")
    with pytest.raises(LLMProviderConfigurationError, match="the record mode is 'twice'; it must be one of none, once"):
        ask("a", mode="twice")
    assert len(server.requests) == 5


def test_a_block_that_fails_records_nothing(server: Server, api: Api, path: Path) -> None:
    def fail() -> None:
        with recording(path) as client, make_provider(server, api, http_client=client) as provider:
            provider.execute("Hi")
            raise ZeroDivisionError

    server.default = json_reply(api.plain())
    with pytest.raises(ZeroDivisionError):
        fail()
    assert len(server.requests) == 1
    assert not path.exists()
    with recording(path):
        pass
    assert not path.exists()


def test_a_file_that_is_none_is_named(path: Path) -> None:
    path.parent.mkdir()
    for text in ("", "[]", '{"exchanges": [{"request": {}}]}', '{"exchanges": 7}'):
        path.write_text(text)
        with pytest.raises(LLMProviderConfigurationError, match=r"exchanges\.json is no recording .*; delete it"):
            with recording(path):
                pass


def test_broken_and_abandoned_streams_are_replayed_as_such(server: Server, api: Api, path: Path) -> None:
    server.add([*stream_reply(api.begun("One", " two"), end=False), CLOSE])
    server.add(stream_reply([*api.begun("One"), GONE], end=False))
    for _ in range(2):
        with recording(path) as client, make_provider(server, api, http_client=client) as provider:
            with pytest.raises(LLMProviderStreamError, match=r"cut: .*Error") as caught:
                provider.stream("Count").response()
            assert caught.value.partial is not None and caught.value.partial.content == "One two"
            for text in provider.stream("Count on"):
                assert text == "One"
                break
    assert len(server.requests) == 2
    assert [each["response"]["broken"] for each in exchanges(path)] == ["RemoteProtocolError", "ReadError"]


def test_a_connection_that_fails_is_not_recorded(server: Server, api: Api, path: Path) -> None:
    server.add([CLOSE], json_reply(api.plain()))
    with recording(path) as client, make_provider(server, api, http_client=client, max_retries=0) as provider:
        with pytest.raises(LLMProviderConnectionError):
            provider.execute("Hi")
        provider.execute("Hi")
    assert len(exchanges(path)) == 1


# httpx leaves generators of its own behind, at which trio warns; httpx2 closes them.
@pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
def test_compressed_answers_are_recorded_as_what_they_say(server: Server, api: Api, path: Path) -> None:
    body = json.dumps(api.plain(f"It is {KEY}")).encode()
    server.add(raw_reply(gzip.compress(body), content_type="application/json", content_encoding="gzip"))
    server.add(raw_reply(b"no gzip", content_encoding="gzip"))
    for _ in range(2):
        with recording(path) as client, make_provider(server, api, http_client=client, max_retries=0) as provider:
            assert (provider.execute("Hi")).content.startswith("It is ")
            with pytest.raises(LLMProviderError, match="compression is broken"):
                provider.execute("Hi")
    assert exchanges(path)[0]["response"]["json"] == api.plain("It is [redacted]")
    assert exchanges(path)[1]["response"]["broken"] == "DecodingError"


def test_a_transport_of_the_callers_answers_what_is_recorded(server: Server, api: Api, path: Path) -> None:
    mock = httpx.MockTransport(lambda _: httpx.Response(200, json=api.plain("Mocked"), headers={"x-n": "1"}))
    for transport in (mock, None):
        with recording(path, transport=transport) as client:
            with make_provider(server, api, http_client=client) as provider:
                response = provider.execute("Hi")
        assert (response.content, response.metadata["headers"]["x-n"]) == ("Mocked", "1")
    assert server.requests == []


def test_bytes_of_any_kind_survive_the_file(path: Path) -> None:
    bodies = [bytes(range(256)), b'{"half": "\\ud83d"}', b'"a string"', b"7", b"", b"\r\n\r\nx\n\r", "\u2028".encode()]
    answers = iter(bodies)
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=next(answers)))
    for _ in range(2):
        with recording(path, transport=transport) as client:
            for body in bodies:
                response = client.post("http://service.test/", content=body)
                same = response.content == body
                assert same or json.loads(response.content) == json.loads(body)
