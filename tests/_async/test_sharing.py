# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""One provider for many tasks or threads, and what becomes of its connections."""

from __future__ import annotations

import gc
from functools import partial
from typing import Any

import pytest

from llmkit import LLMProviderError

from ..answers import Api
from ..server import CLOSE, GONE, Reply, Request, Server, json_reply, stream_reply
from ._backend import in_thread, make_provider, run_together

pytestmark = pytest.mark.anyio

MANY = 200
"""Callers at the same time: tasks of one loop, or threads."""


def echo(api: Api, request: Request) -> Reply:
    """Answer each prompt with itself, in the way that was asked for."""
    text = api.sent_text(request.body)
    return stream_reply(api.stream(*text)) if request.body.get("stream") else json_reply(api.plain(text))


async def ask(provider: Any, prompt: str, mode: str) -> str:
    """Return the answer to a prompt, asked for in one of three ways."""
    if mode == "iterated":
        return "".join([text async for text in provider.stream(prompt)])
    content: str = (await provider.execute(prompt, stream_mode=mode)).content
    return content


async def test_many_callers_get_their_own_answers(server: Server, api: Api) -> None:
    server.default = partial(echo, api)
    modes = ["disabled", "auto", "iterated"]
    prompts = [f"prompt {number}" for number in range(MANY)]
    async with make_provider(server, api) as provider:
        for _ in range(2):
            calls = [partial(ask, provider, prompt, modes[i % 3]) for i, prompt in enumerate(prompts)]
            assert await run_together(*calls) == prompts
        assert await ask(provider, "and once more", "iterated") == "and once more"
        # The second round was served by the connections of the first, or by some of them.
        assert len(server.connections) <= MANY
    for number in range(len(server.connections)):
        assert await in_thread(server.wait_gone, number)


async def test_failures_of_one_caller_do_not_reach_the_others(server: Server, api: Api) -> None:
    def reply(request: Request) -> Reply:
        text = api.sent_text(request.body)
        return [*stream_reply(api.begun(text), end=False), CLOSE] if text.endswith("1") else echo(api, request)

    async def attempt(provider: Any, prompt: str) -> str:
        try:
            return await ask(provider, prompt, "auto")
        except LLMProviderError as error:
            return f"{type(error).__name__} after {error.partial.content if error.partial else None}"

    server.default = reply
    prompts = [f"prompt {number}" for number in range(MANY)]
    async with make_provider(server, api) as provider:
        answers = await run_together(*[partial(attempt, provider, prompt) for prompt in prompts])
    expected = [f"LLMProviderStreamError after {text}" if text.endswith("1") else text for text in prompts]
    assert answers == expected


async def test_two_streams_may_be_read_in_turns(server: Server, api: Api) -> None:
    server.default = partial(echo, api)
    async with make_provider(server, api) as provider, provider.stream("abc") as one, provider.stream("xyz") as other:
        letters = []
        iterators = [aiter(one), aiter(other)]
        for _ in range(3):
            for iterator in iterators:
                letters.append(await anext(iterator))
    assert letters == ["a", "x", "b", "y", "c", "z"]


async def test_calls_under_way_keep_their_settings(server: Server, api: Api) -> None:
    server.default = partial(echo, api)
    async with make_provider(server, api) as provider:
        stream = provider.stream("Hi")
        provider.update_config(model_name="gpt-4.1", temperature=0.1)
        assert (await stream.response()).content == "Hi"
        await provider.execute("Hi")
    assert [(body["model"], body["temperature"]) for body in server.bodies] == [("gpt-4o", 0.7), ("gpt-4.1", 0.1)]


async def test_closed_provider_opens_new_connections(server: Server, api: Api) -> None:
    server.default = partial(echo, api)
    async with make_provider(server, api) as provider:
        await provider.execute("Hi")
    assert await in_thread(server.wait_gone)
    await provider.execute("Hi")
    assert [request.connection for request in server.requests] == [0, 1]
    await provider.aclose()
    await provider.aclose()
    assert await in_thread(server.wait_gone)


@pytest.mark.parametrize("streamed", [False, True])
async def test_connection_that_the_server_closed_is_replaced(server: Server, api: Api, streamed: bool) -> None:
    reply = stream_reply(api.stream("Hello!")) if streamed else json_reply(api.plain("Hello!"))
    server.add([*reply, CLOSE], [*reply, CLOSE], reply)
    async with make_provider(server, api, max_retries=0) as provider:
        for _ in range(3):
            assert (await provider.execute("Hi", stream_mode="auto" if streamed else "disabled")).content == "Hello!"
    assert [request.connection for request in server.requests] == [0, 1, 2]


async def test_forgotten_provider_closes_its_connections(server: Server, api: Api) -> None:
    server.default = partial(echo, api)
    provider = make_provider(server, api)
    await provider.execute("Hi")
    del provider
    gc.collect()
    assert await in_thread(server.wait_gone)


async def test_forgotten_streams_close_their_connections(server: Server, api: Api) -> None:
    server.default = stream_reply([*api.begun("One"), GONE], end=False)
    async with make_provider(server, api) as provider:
        streams = [provider.stream("Count") for _ in range(20)]
        unread = [provider.stream("Count") for _ in range(20)]
        for stream in streams:
            assert await anext(aiter(stream)) == "One"
        iterators = [aiter(stream) for stream in streams]
        del stream, streams, unread, iterators
        gc.collect()
        for number in range(20):
            assert await in_thread(server.wait_gone, number)
    assert len(server.requests) == 20
