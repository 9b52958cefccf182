# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""A provider with a cache: what is answered without being asked again, and what never is."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from llmkit import LLMProviderError, LLMProviderOutputError
from llmkit.cache import CachedAnswer, MemoryCache, SQLiteCache
from llmkit.hooks import CallRecord, Hooks
from llmkit.limits import Limits

from ..answers import Api, ChatCompletions, error_body
from ..server import CLOSE, GONE, Server, json_reply, raw_reply, stream_reply
from ._backend import KEY, Client, httpx, make_provider

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "sqlite"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Run the test with each kind of cache."""
    return MemoryCache() if request.param == "memory" else SQLiteCache(tmp_path / "answers")


def replies(api: Api, mode: str) -> Any:
    """Return a reply that the mode wants."""
    return json_reply(api.plain("Hello!")) if mode == "disabled" else stream_reply(api.stream("Hel", "lo!"))


def with_gate(api: Api, gate: threading.Event) -> list[Any]:
    """Return the events of an answer that goes on after its first text once the gate is open."""
    begun = len(api.begun("Hel"))
    events = api.stream("Hel", "lo", "!")
    return [*events[:begun], gate, *events[begun:]]


@pytest.mark.parametrize("mode", ["disabled", "auto"])
def test_the_same_question_is_asked_once(server: Server, api: Api, mode: Any, cache: Any) -> None:
    server.add(replies(api, mode))
    records: list[CallRecord] = []
    with make_provider(server, api, cache=cache, hooks=Hooks(after=records.append)) as provider:
        first = provider.execute("Say hello", stream_mode=mode)
        again = provider.execute("Say hello", stream_mode=mode)
    assert len(server.requests) == 1
    assert [first.metadata["cached"], again.metadata["cached"]] == [False, True]
    assert [record.cached for record in records] == [False, True]
    told = [(r.content, r.usage, r.finish_reason, r.response_id, r.metadata["raw"]) for r in (first, again)]
    assert told[0] == told[1]
    assert again.metadata["headers"]["content-type"] == first.metadata["headers"]["content-type"]


def test_a_stream_comes_again_as_a_stream(server: Server, api: Api, cache: Any) -> None:
    gate = server.gate()
    server.add(stream_reply(with_gate(api, gate)))
    with make_provider(server, api, cache=cache) as provider:
        seen = []
        with provider.stream("Say hello") as stream:
            gate.set()
            seen.append([event for event in stream.events()])
        with provider.stream("Say hello") as stream:
            seen.append([event for event in stream.events()])
            response = stream.response()
    assert seen[0] == seen[1] and len(seen[0]) > 4
    assert response.metadata["cached"] is True and len(server.requests) == 1


@pytest.mark.parametrize(
    "difference",
    [
        {"api_key": "sk-another"},
        {"extra_headers": {"x-tenant": "2"}},
        {"temperature": 0.1},
        {"extra_query": {"tenant": "2"}},
        {"extra_params": {"user": "2"}},
        {"model_name": "gpt-4.1"},
    ],
)
def test_another_key_or_setting_is_another_question(
    server: Server, api: Api, cache: Any, difference: dict[str, Any]
) -> None:
    server.default = replies(api, "disabled")
    with (
        make_provider(server, api, cache=cache) as one,
        make_provider(server, api, cache=cache, **difference) as other,
    ):
        for provider in (one, other, one, other):
            provider.execute("Say hello")
    assert len(server.requests) == 2


def test_scopes_keep_answers_apart_and_a_call_may_do_without(server: Server, api: Api, cache: Any) -> None:
    server.default = replies(api, "disabled")
    with make_provider(server, api, cache=cache) as provider:
        for options in ({"cache_scope": "ada"}, {"cache_scope": "bob"}, {"cache_scope": "ada"}, {}, {}):
            provider.execute("Say hello", **options)
        assert len(server.requests) == 3
        fresh = provider.execute("Say hello", use_cache=False)
    assert len(server.requests) == 4 and fresh.metadata["cached"] is False


@pytest.mark.parametrize("mode", ["disabled", "auto"])
def test_what_is_no_whole_answer_is_not_kept(server: Server, api: Api, mode: Any, cache: Any) -> None:
    wrong = [
        json_reply(error_body("no", code="bad"), 400),
        json_reply(error_body("no", code="bad")) if mode == "disabled" else stream_reply([b"data: {}\n\n"]),
        raw_reply(b"<html>") if mode == "disabled" else [*stream_reply(api.begun("Hel"), end=False), CLOSE],
    ]
    server.add(*wrong, replies(api, mode))
    contents = []
    with make_provider(server, api, cache=cache, max_retries=0) as provider:
        for _ in range(5):
            try:
                contents.append((provider.execute("Say hello", stream_mode=mode)).content)
            except LLMProviderError:
                contents.append(None)
    assert contents == [None, None, None, "Hello!", "Hello!"]
    assert len(server.requests) == 4


def test_a_blocked_answer_is_not_kept(server: Server, cache: Any) -> None:
    api = ChatCompletions()
    server.default = json_reply(api.plain("No", finish="content_filter"))
    with make_provider(server, api, cache=cache) as provider:
        for _ in range(2):
            assert (provider.execute("Say it")).finish_reason == "content_filter"
    assert len(server.requests) == 2


def test_a_stream_that_was_left_is_not_kept_but_one_read_to_its_end_is(
    server: Server, api: Api, cache: Any
) -> None:
    held = stream_reply([*api.begun("Hel"), GONE], end=False)
    server.add(held, held, replies(api, "auto"))
    with make_provider(server, api, cache=cache) as provider:
        with provider.stream("Say hello") as stream:
            next(iter(stream))
        for _ in provider.stream("Say hello"):
            break
        assert "".join([text for text in provider.stream("Say hello")]) == "Hello!"
        assert "".join([text for text in provider.stream("Say hello")]) == "Hello!"
    assert len(server.requests) == 3


class Greeting(BaseModel):
    """What an answer has to be."""

    word: str


@pytest.mark.parametrize("mode", ["disabled", "auto"])
def test_an_answer_of_the_wrong_type_is_asked_for_again(server: Server, api: Api, mode: Any, cache: Any) -> None:
    texts = ["{}", '{"word": "Hello"}']
    server.add(*[json_reply(api.plain(t)) if mode == "disabled" else stream_reply(api.stream(t)) for t in texts])
    with make_provider(server, api, cache=cache) as provider:
        with pytest.raises(LLMProviderOutputError):
            provider.execute("Hi", response_format=Greeting, stream_mode=mode)
        for _ in range(2):
            answer = provider.execute("Hi", response_format=Greeting, stream_mode=mode)
            assert answer.parsed == Greeting(word="Hello")
    assert len(server.requests) == 2


@pytest.mark.parametrize("mode", ["disabled", "auto"])
def test_compressed_answers_and_failed_tries(
    server: Server, api: Api, mode: Any, cache: Any, sleeps: list[float]
) -> None:
    body = json.dumps(api.plain("Hello!")).encode() if mode == "disabled" else b"".join(api.stream("Hello!"))
    server.add(json_reply({}, 500), raw_reply(gzip.compress(body), content_encoding="gzip"))
    with make_provider(server, api, cache=cache) as provider:
        for _ in range(2):
            assert (provider.execute("Say hello", stream_mode=mode)).content == "Hello!"
    assert len(server.requests) == 2


class Kept(MemoryCache):
    """A cache that tells what was put in."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []

    def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep an answer, and its body."""
        self.bodies.append(b"".join(answer.pieces))
        super().put(key, answer)


def test_of_a_stream_that_was_tried_again_the_last_try_alone_is_kept(
    server: Server, api: Api, sleeps: list[float]
) -> None:
    events = api.stream("Hel", "lo!")
    server.add([*stream_reply(api.begun(), end=False), CLOSE], stream_reply(events))
    cache = Kept()
    with make_provider(server, api, cache=cache) as provider:
        for cached in (False, True):
            response = provider.stream("Say hello").response()
            assert (response.content, response.metadata["cached"]) == ("Hello!", cached)
    assert cache.bodies == [b"".join(events)]
    assert len(server.requests) == 2 and len(sleeps) == 1


def test_a_cached_answer_takes_no_turn(server: Server, api: Api, cache: Any) -> None:
    server.add(replies(api, "disabled"), stream_reply(api.stream("One")))
    with make_provider(server, api, cache=cache, limits=Limits(concurrency=1)) as provider:
        provider.execute("Say hello")
        with provider.stream("Count"):
            assert (provider.execute("Say hello", deadline=5)).metadata["cached"]


def test_neither_key_nor_cookie_is_kept(server: Server, api: Api, tmp_path: Path) -> None:
    server.add(json_reply(api.plain("Hello!"), set_cookie="session=1234", x_echo=KEY))
    path = tmp_path / "answers"
    with make_provider(server, api, cache=SQLiteCache(path)) as provider:
        provider.execute("Say hello")
        response = provider.execute("Say hello")
    assert response.metadata["headers"]["x-echo"] == "[redacted]"
    assert b"Hello!" in path.read_bytes()
    for secret in (KEY.encode(), b"session=1234", b"Say hello"):
        assert secret not in path.read_bytes()


def test_an_answer_larger_than_a_body_may_be_is_not_kept(server: Server, api: Api, cache: Any) -> None:
    server.default = stream_reply(api.stream(*["word "] * 100))
    with make_provider(server, api, cache=cache, max_body_bytes=1_000) as provider:
        for _ in range(2):
            assert (provider.stream("Say hello").response()).content == "word " * 100
    assert len(server.requests) == 2


@pytest.mark.parametrize("mode", ["disabled", "auto"])
def test_a_body_that_a_callers_client_has_read_already_is_kept(server: Server, api: Api, mode: Any) -> None:
    content = json.dumps(api.plain("Hello!")).encode() if mode == "disabled" else b"".join(api.stream("Hello!"))
    headers = {"content-encoding": "gzip", "content-type": "text/event-stream"}
    requests: list[Any] = []

    def answer(request: Any) -> Any:
        requests.append(request)
        return httpx.Response(200, content=gzip.compress(content), headers=headers)

    with (
        Client(transport=httpx.MockTransport(answer)) as client,
        make_provider(server, api, cache=MemoryCache(), http_client=client, max_retries=0) as provider,
    ):
        for _ in range(2):
            assert (provider.execute("Say hello", stream_mode=mode)).content == "Hello!"
    assert len(requests) == 1


def test_a_cached_answer_pays_nothing_into_the_budget_of_retries(server: Server, api: Api, cache: Any) -> None:
    server.add(replies(api, "disabled"), json_reply({}, 500))
    with make_provider(server, api, cache=cache) as provider:
        provider.execute("Say hello")
        while provider.budget.take():
            pass
        for _ in range(20):
            provider.execute("Say hello")
        with pytest.raises(LLMProviderError) as caught:
            provider.execute("Hi")
    assert caught.value.attempts == () and len(server.requests) == 2


class Damaged(MemoryCache):
    """A cache that gives back something else."""

    def get(self, key: str) -> CachedAnswer | None:
        """Return no answer of any service."""
        found = super().get(key)
        return found and found._replace(pieces=[b"<html>"])


@pytest.mark.parametrize("mode", ["disabled", "auto"])
def test_what_cannot_be_read_is_asked_for_again(server: Server, api: Api, mode: Any, sleeps: list[float]) -> None:
    server.default = replies(api, mode)
    records: list[CallRecord] = []
    with make_provider(server, api, cache=Damaged(), hooks=Hooks(after=records.append)) as provider:
        answers = [provider.execute("Say hello", stream_mode=mode) for _ in range(3)]
    assert [(answer.content, answer.metadata["cached"]) for answer in answers] == [("Hello!", False)] * 3
    assert [record.cached for record in records] == [False] * 3
    assert len(server.requests) == 3 and len(answers[2].metadata["attempts"]) == 1
