"""CPU per event of streamed answers, llmkit beside other clients: `python benchmarks/streaming.py [--quick]`.

Every client reads the same OpenAI Chat stream (anthropic: the same text in its own) from a server in another process
on another core, and hands out its text, whose length is checked. What is counted is the client's CPU, with the request
and the end of the stream in it. The first row is what a person would write by hand, with pydantic's JSON decoder.
Peers that are not installed are left out: `pip install aiohttp anthropic httpx-sse litellm openai`.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]  # a checkout need not be installed

import anyio
import httpx
from _report import Report, Turns, installed, prepare_client
from _server import serve
from pydantic_core import from_json

from llmkit import TextDelta, create_llm_provider, create_sync_llm_provider

__all__ = ["main"]

HAND = "httpx by hand"
OURS = "llmkit"
OVER_HTTPX = "llmkit over httpx's transport"
SSE_JSON = "httpx-sse and json"
EVENTS = "llmkit, `events()`"
KEY = "sk-benchmark"
QUESTION = {"model": "gpt-5-mini", "messages": [{"role": "user", "content": "When is high water?"}], "stream": True}
HEADERS = {"authorization": f"Bearer {KEY}", "accept": "text/event-stream"}
UNBOUNDED = httpx.Limits(max_connections=None, max_keepalive_connections=None)
PACKAGES = {SSE_JSON: "httpx_sse", **{name: name for name in ("aiohttp", "anthropic", "litellm", "openai")}}

Read = Callable[[], int]
AsyncRead = Callable[[], Awaitable[int]]


class HandParser:
    """The least that reads a Chat Completions stream; correct for what the server of this benchmark sends."""

    def __init__(self) -> None:
        self.length = 0
        self._rest = b""

    def feed(self, piece: bytes) -> None:
        *events, self._rest = (self._rest + piece).split(b"\n\n")
        for event in events:
            data = event[6:]
            if data != b"[DONE]":
                for choice in from_json(data)["choices"]:
                    self.length += len(choice["delta"].get("content") or "")


def read_by_hand(client: httpx.Client, url: str) -> int:
    parser = HandParser()
    with client.stream("POST", url, json=QUESTION, headers=HEADERS) as response:
        for piece in response.iter_raw():
            parser.feed(piece)
    return parser.length


async def aread_by_hand(client: httpx.AsyncClient, url: str) -> int:
    parser = HandParser()
    async with client.stream("POST", url, json=QUESTION, headers=HEADERS) as response:
        async for piece in response.aiter_raw():
            parser.feed(piece)
    return parser.length


def read_with_llmkit(provider: Any) -> int:
    with provider.stream("When is high water?") as stream:
        return sum(len(text) for text in stream)


async def aread_with_llmkit(provider: Any) -> int:
    length = 0
    async with provider.stream("When is high water?") as stream:
        async for text in stream:
            length += len(text)
    return length


def read_events_with_llmkit(provider: Any) -> int:
    with provider.stream("When is high water?") as stream:
        return sum(len(event.text) for event in stream.events() if type(event) is TextDelta)


async def aread_events_with_llmkit(provider: Any) -> int:
    length = 0
    async with provider.stream("When is high water?") as stream:
        async for event in stream.events():
            if type(event) is TextDelta:
                length += len(event.text)
    return length


def read_with_httpx_sse(client: httpx.Client, url: str) -> int:
    import httpx_sse

    length = 0
    with httpx_sse.connect_sse(client, "POST", url, json=QUESTION, headers=HEADERS) as source:
        for event in source.iter_sse():
            if event.data != "[DONE]":
                for choice in json.loads(event.data)["choices"]:
                    length += len(choice["delta"].get("content") or "")
    return length


async def aread_with_httpx_sse(client: httpx.AsyncClient, url: str) -> int:
    import httpx_sse

    length = 0
    async with httpx_sse.aconnect_sse(client, "POST", url, json=QUESTION, headers=HEADERS) as source:
        async for event in source.aiter_sse():
            if event.data != "[DONE]":
                for choice in json.loads(event.data)["choices"]:
                    length += len(choice["delta"].get("content") or "")
    return length


def read_with_openai(client: Any) -> int:
    return sum(len(c.delta.content or "") for chunk in client.chat.completions.create(**QUESTION) for c in chunk.choices)


async def aread_with_openai(client: Any) -> int:
    length = 0
    async for chunk in await client.chat.completions.create(**QUESTION):
        for choice in chunk.choices:
            length += len(choice.delta.content or "")
    return length


def read_with_litellm(base_url: str) -> int:
    import litellm

    chunks = litellm.completion(**{**QUESTION, "model": "openai/gpt-5-mini"}, api_base=base_url, api_key=KEY)
    return sum(len(chunk.choices[0].delta.content or "") for chunk in chunks)


def read_with_anthropic(client: Any) -> int:
    messages = [{"role": "user", "content": "When is high water?"}]
    events = client.messages.create(model="claude-sonnet-4-5", max_tokens=2000, messages=messages, stream=True)
    return sum(len(event.delta.text) for event in events if event.type == "content_block_delta")


async def aread_with_aiohttp(session: Any, url: str) -> int:
    parser = HandParser()
    async with session.post(url, json=QUESTION, headers=HEADERS) as response:
        async for piece in response.content.iter_any():
            parser.feed(piece)
    return parser.length


def readers(base_url: str, names: list[str], stack: ExitStack) -> dict[str, Read]:
    """Return a function for each blocking client of `names` that is installed, which reads one stream."""
    url, client = f"{base_url}/chat/completions", stack.enter_context(httpx.Client(limits=UNBOUNDED, timeout=120))

    def provider(**settings: Any) -> Any:
        made = create_sync_llm_provider("openai", model_name="gpt-5-mini", api_key=KEY, base_url=base_url, **settings)
        return stack.enter_context(made)

    made: dict[str, Callable[[], Read]] = {
        HAND: lambda: functools.partial(read_by_hand, client, url),
        OURS: lambda: functools.partial(read_with_llmkit, provider()),
        EVENTS: lambda: functools.partial(read_events_with_llmkit, provider()),
        OVER_HTTPX: lambda: functools.partial(read_with_llmkit, provider()),
        SSE_JSON: lambda: functools.partial(read_with_httpx_sse, client, url),
        "openai": lambda: functools.partial(read_with_openai, stack.enter_context(_openai("OpenAI", base_url))),
        "anthropic": lambda: functools.partial(read_with_anthropic, stack.enter_context(_anthropic(base_url))),
        "litellm": lambda: functools.partial(read_with_litellm, base_url),
    }
    found = {name: made[name]() for name in names if name in made and installed(PACKAGES.get(name, "httpx"))}
    if OVER_HTTPX in found:
        # A provider chooses its transport at its first request.
        os.environ["LLMKIT_TRANSPORT"] = "httpx"
        found[OVER_HTTPX]()
        del os.environ["LLMKIT_TRANSPORT"]
    return found


async def areaders(base_url: str, names: list[str], stack: AsyncExitStack, world: str) -> dict[str, AsyncRead]:
    """Return the same for the clients of an event loop."""
    url = f"{base_url}/chat/completions"
    client = await stack.enter_async_context(httpx.AsyncClient(limits=UNBOUNDED, timeout=120))

    async def provider(**settings: Any) -> Any:
        made = create_llm_provider("openai", model_name="gpt-5-mini", api_key=KEY, base_url=base_url, **settings)
        return await stack.enter_async_context(made)

    found: dict[str, AsyncRead] = {}
    for name in names:
        if not installed(PACKAGES.get(name, "httpx")):
            continue
        if name == HAND:
            found[name] = functools.partial(aread_by_hand, client, url)
        elif name == OURS:
            found[name] = functools.partial(aread_with_llmkit, await provider())
        elif name == EVENTS:
            found[name] = functools.partial(aread_events_with_llmkit, await provider())
        elif name == OVER_HTTPX:
            found[name] = functools.partial(aread_with_llmkit, await provider())
            os.environ["LLMKIT_TRANSPORT"] = "httpx"
            await found[name]()
            del os.environ["LLMKIT_TRANSPORT"]
        elif name == SSE_JSON:
            found[name] = functools.partial(aread_with_httpx_sse, client, url)
        elif name == "openai":
            found[name] = functools.partial(aread_with_openai, await stack.enter_async_context(_openai("AsyncOpenAI", base_url)))
        elif name == "aiohttp" and world == "asyncio":
            import aiohttp

            session = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
            found[name] = functools.partial(aread_with_aiohttp, session, url)
    return found


def _openai(kind: str, base_url: str) -> Any:
    import openai

    return getattr(openai, kind)(api_key=KEY, base_url=base_url, timeout=120)


def _anthropic(base_url: str) -> Any:
    import anthropic

    return anthropic.Anthropic(api_key=KEY, base_url=base_url.removesuffix("/v1"), timeout=120)


class Case:
    """Streams of one kind and length, `at_once` of them at the same time, `times` times a turn."""

    def __init__(self, address: str, kind: str, events: int, at_once: int = 1, times: int = 1) -> None:
        self.base_url = f"{address}/{kind}/{events}/v1"
        self.events, self.at_once, self.times = events, at_once, times

    def measure(self, world: str, names: list[str], rounds: int, warm_up: bool = True) -> Turns:
        """Return what an event costs each client of `names` that there is in a world."""
        turns = Turns(rounds, warm_up)
        if world == BLOCKING:
            return self._blocking(names, turns)
        return anyio.run(self._under, world, names, turns, backend=world)

    def _blocking(self, names: list[str], turns: Turns) -> Turns:
        with ExitStack() as stack, ThreadPoolExecutor(self.at_once) as threads:

            def work(read: Read) -> int:
                for _ in range(self.times):
                    lengths = [read()] if self.at_once == 1 else list(threads.map(lambda _: read(), range(self.at_once)))
                    self._check(lengths)
                return self.events * self.at_once * self.times

            found = readers(self.base_url, names, stack)
            return turns.run({name: functools.partial(work, read) for name, read in found.items()})

    async def _under(self, world: str, names: list[str], turns: Turns) -> Turns:
        async with AsyncExitStack() as stack:

            async def work(read: AsyncRead) -> int:
                for _ in range(self.times):
                    lengths: list[int] = []
                    if self.at_once == 1:
                        lengths.append(await read())
                    else:
                        async with anyio.create_task_group() as tasks:
                            for _ in range(self.at_once):
                                tasks.start_soon(_append, lengths, read)
                    self._check(lengths)
                return self.events * self.at_once * self.times

            found = await areaders(self.base_url, names, stack, world)
            return await turns.arun({name: functools.partial(work, read) for name, read in found.items()})

    def _check(self, lengths: list[int]) -> None:
        if len(lengths) != self.at_once or set(lengths) != {text_length(self.events)}:
            raise AssertionError(f"a client lost text: {sorted(set(lengths))} instead of {text_length(self.events)}")


async def _append(lengths: list[int], read: AsyncRead) -> None:
    lengths.append(await read())


@functools.cache
def text_length(events: int) -> int:
    return sum(len(piece) for piece in itertools.islice(itertools.cycle(answer_pieces()), events))


def first_text(read: Callable[[str], None], base_url: str, times: int) -> float:
    """Return the median of the milliseconds from the call to the first text."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        read(base_url)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1000


def growth(name: str, address: str) -> float:
    """Return the KiB that one more open stream of a client takes in an event loop; run in a process of its own."""
    streams = 1000

    async def open_all() -> float:
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            read = (await areaders(f"{address}/every-600000/3/v1", [name], stack, "asyncio"))[name]
            tasks.start_soon(read)
            await anyio.sleep(0.5)
            before = resident_kib()
            for _ in range(streams):
                tasks.start_soon(read)
            await anyio.sleep(5)
            grown = resident_kib() - before
            tasks.cancel_scope.cancel()
        return grown / streams

    prepare_client()
    return anyio.run(open_all)


def long_stream(address: str, events: int) -> float:
    """Return the MiB by which the process has grown at most when llmkit has read a stream whose text nobody keeps."""
    prepare_client()
    with ExitStack() as stack:
        read_short = readers(f"{address}/burst/1000/v1", [OURS], stack)[OURS]
        read_long = readers(f"{address}/burst/{events}/v1", [OURS], stack)[OURS]
        read_short()
        before = resident_kib()
        read_long()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def resident_kib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1024
