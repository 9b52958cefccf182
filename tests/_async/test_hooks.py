# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""What hooks are told of calls: in which order, with which times, and how each kind of end shows."""

from __future__ import annotations

import gc
import logging
from typing import Any

import pytest

from llmkit import LLMProviderBadRequestError, LLMProviderConfigurationError, LLMProviderStreamError, TextDelta
from llmkit.cache import CachedAnswer, MemoryCache
from llmkit.hooks import CallRecord, Hooks

from ..answers import Api, error_body
from ..server import CLOSE, GONE, Server, json_reply, stream_reply
from ._backend import in_thread, make_provider

pytestmark = pytest.mark.anyio


class Watcher:
    """Hooks that write down what they are told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.records: list[CallRecord] = []
        self.hooks = Hooks(
            before=self.before,
            retry=lambda record, attempt: self.told.append(("retry", attempt["status_code"])),
            event=lambda record, event: self.told.append(event),
            after=lambda record: self.told.append("after"),
        )

    def before(self, record: CallRecord) -> None:
        self.told.append("before")
        self.records.append(record)

    @property
    def last(self) -> CallRecord:
        return self.records[-1]


async def test_a_plain_call(server: Server, api: Api, sleeps: list[float]) -> None:
    server.add(json_reply({}, 500), json_reply(api.plain("Hello!")))
    watcher = Watcher()
    async with make_provider(server, api, hooks=watcher.hooks) as provider:
        response = await provider.execute("Say hello")
    assert watcher.told == ["before", ("retry", 500), "after"]
    record = watcher.last
    assert (record.provider, record.operation, record.address) == ("openai", "chat", server.base_url)
    assert record.response is response and record.error is None and record.time_to_first_token is None
    assert record.attempts == response.metadata["attempts"] and len(record.attempts) == 1
    assert record.duration == response.metadata["duration"] and record.duration > 0
    assert record.call.messages[0].content == "Say hello"
    assert "Say hello" not in repr(record) and "Hello!" not in repr(record)


async def test_a_stream(server: Server, api: Api) -> None:
    server.add(stream_reply(api.stream("Hel", "lo!")))
    watcher = Watcher()
    async with make_provider(server, api, hooks=[Hooks(), watcher.hooks]) as provider:
        async with provider.stream("Say hello") as stream:
            seen = [event async for event in stream.events()]
            response = await stream.response()
    assert watcher.told == ["before", *seen, "after"]
    record = watcher.last
    assert record.response is not None and record.response.content == response.content == "Hello!"
    assert record.duration is not None and record.time_to_first_token is not None
    assert 0 < record.time_to_first_token <= record.duration
    assert response.metadata["time_to_first_token"] == record.time_to_first_token
    assert response.metadata["duration"] == record.duration


@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_a_refused_call(server: Server, api: Api, mode: Any) -> None:
    server.add(json_reply(error_body("no", code="bad"), 400))
    watcher = Watcher()
    async with make_provider(server, api, hooks=watcher.hooks) as provider:
        with pytest.raises(LLMProviderBadRequestError) as caught:
            await provider.execute("Hi", stream_mode=mode)
    assert watcher.told == ["before", "after"]
    assert watcher.last.error is caught.value and watcher.last.response is None


async def test_a_stream_that_is_cut(server: Server, api: Api) -> None:
    server.add([*stream_reply(api.begun("Hel"), end=False), CLOSE])
    watcher = Watcher()
    async with make_provider(server, api, hooks=watcher.hooks) as provider:
        with pytest.raises(LLMProviderStreamError) as caught:
            await provider.execute("Hi", stream_mode="auto")
    assert watcher.told[-1] == "after" and watcher.told.count("after") == 1
    assert watcher.last.error is caught.value


async def test_a_stream_that_failed_ends_once_however_often_it_is_read(server: Server, api: Api) -> None:
    server.add([*stream_reply(api.begun("Hel"), end=False), CLOSE])
    watcher = Watcher()
    async with make_provider(server, api, hooks=watcher.hooks) as provider:
        stream = provider.stream("Hi")
        ends = []
        for _ in range(2):
            with pytest.raises(LLMProviderStreamError, match="cut"):
                await stream.response()
            ends.append((watcher.last.duration, watcher.told.count("after")))
        await stream.aclose()
    assert ends[0] == ends[1] and watcher.told.count("after") == 1


@pytest.mark.parametrize("way", ["closed", "left by a break", "forgotten"])
async def test_a_stream_that_nobody_reads_to_its_end(server: Server, api: Api, way: str) -> None:
    server.add(stream_reply([*api.begun("Hel"), GONE], end=False))
    watcher = Watcher()
    async with make_provider(server, api, hooks=watcher.hooks) as provider:
        stream = provider.stream("Hi")
        if way == "closed":
            await anext(aiter(stream))
            await stream.aclose()
            await stream.aclose()
        elif way == "left by a break":
            async for _ in stream:
                break
        else:
            iterator = stream.events()
            while type(await anext(iterator)) is not TextDelta:
                pass
            del iterator
        del stream
        gc.collect()
        assert await in_thread(server.wait_gone)
    assert watcher.told[-1] == "after" and watcher.told.count("after") == 1
    record = watcher.last
    assert record.error is None and record.response is not None
    assert (record.response.content, record.response.finish_reason) == ("Hel", None)


async def test_a_break_from_an_answer_that_is_there_already_is_an_end(server: Server, api: Api) -> None:
    server.add(stream_reply(api.stream("Hel", "lo!")))
    watcher = Watcher()
    async with make_provider(server, api, hooks=watcher.hooks) as provider:
        async for _ in provider.stream("Hi"):
            break
        gc.collect()
    assert watcher.told[-1] == "after" and watcher.told.count("after") == 1


async def test_other_operations(server: Server, api: Api) -> None:
    server.add(
        json_reply({"data": [{"id": "m"}]}), json_reply({"data": [{"embedding": [1.0]}]}), json_reply({"object": "x"})
    )
    watcher = Watcher()
    async with make_provider(server, api, hooks=watcher.hooks, max_retries=0) as provider:
        await provider.list_models()
        await provider.embed("text", model_name="e")
        with pytest.raises(Exception, match="unexpected shape"):
            await provider.count_tokens("Hi")
    assert [record.operation for record in watcher.records] == ["list_models", "embeddings", "count_tokens"]
    assert watcher.told == ["before", "after"] * 3
    assert [record.error is None for record in watcher.records] == [True, True, False]


@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_what_a_hook_raises_goes_to_the_caller(server: Server, api: Api, mode: Any) -> None:
    def refuse(record: CallRecord) -> None:
        raise PermissionError("not today")

    server.default = stream_reply(api.stream("Hi")) if mode == "auto" else json_reply(api.plain("Hi"))
    async with make_provider(server, api, hooks=Hooks(before=refuse)) as provider:
        with pytest.raises(PermissionError, match="not today"):
            await provider.execute("Hi", stream_mode=mode)
    assert not server.requests
    async with make_provider(server, api, hooks=Hooks(after=refuse)) as provider:
        with pytest.raises(PermissionError):
            await provider.execute("Hi", stream_mode=mode)
    assert await in_thread(server.wait_gone)


async def test_a_hook_that_raises_keeps_no_other_from_its_end(server: Server, api: Api) -> None:
    def refuse(record: CallRecord) -> None:
        raise PermissionError("not today")

    def fail(record: CallRecord) -> None:
        raise OSError("the disk is full")

    server.add(json_reply(api.plain("Hi")))
    watcher = Watcher()
    hooks = [Hooks(after=refuse), watcher.hooks, Hooks(after=fail)]
    async with make_provider(server, api, hooks=hooks) as provider:
        with pytest.raises(PermissionError, match="not today"):
            await provider.execute("Hi")
    assert watcher.told == ["before", "after"]


@pytest.mark.parametrize("mode", ["disabled", "auto"])
async def test_a_cache_that_raises_is_an_end(server: Server, api: Api, mode: Any) -> None:
    class Full(MemoryCache):
        def put(self, key: str, answer: CachedAnswer) -> None:
            raise OSError("the disk is full")

    server.add(stream_reply(api.stream("Hi")) if mode == "auto" else json_reply(api.plain("Hi")))
    watcher = Watcher()
    async with make_provider(server, api, hooks=watcher.hooks, cache=Full()) as provider:
        with pytest.raises(OSError, match="full"):
            await provider.execute("Hi", stream_mode=mode)
    assert watcher.told[-1] == "after" and watcher.told.count("after") == 1


async def test_what_are_no_hooks_is_refused(server: Server, api: Api) -> None:
    for wrong in (print, [print], "after"):
        with pytest.raises(LLMProviderConfigurationError, match="hooks"):
            make_provider(server, api, hooks=wrong)


async def test_each_retry_is_one_line_in_the_log(
    server: Server, api: Api, sleeps: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    server.add(json_reply({}, 503), json_reply({}, 500), json_reply(api.plain("Hello!")))
    with caplog.at_level(logging.INFO, "llmkit"):
        async with make_provider(server, api) as provider:
            await provider.execute("Say hello")
    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(" in ")[0] for line in lines] == [
        "openai: try 1 failed (503); again",
        "openai: try 2 failed (500); again",
    ]


async def test_the_tries_of_a_request_have_one_name_where_the_service_knows_them(
    server: Server, api: Api, sleeps: list[float]
) -> None:
    from dataclasses import replace

    server.add(json_reply({}, 500), json_reply(api.plain()), json_reply(api.plain()))
    async with make_provider(server, api) as provider:
        provider.spec = replace(provider.spec, idempotency_header="Idempotency-Key")
        await provider.execute("Hi")
        await provider.execute("Hi")
    first, again, other = (request.headers["idempotency-key"] for request in server.requests)
    assert first == again != other
