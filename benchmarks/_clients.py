"""How each client reads one streamed answer to its end: what `streaming.py` and `memory.py` measure.

A client is a context manager that takes a base URL and yields a function; each call of the function asks the same
question, reads the stream, and returns the length of its text. llmkit decodes JSON as it is installed without extras,
with pydantic-core, unless the client's name says otherwise.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]  # a checkout need not be installed

import httpx
from pydantic_core import from_json

from llmkit import AsyncProvider, SyncProvider, TextDelta, codec, create_llm_provider, create_sync_llm_provider

__all__ = [
    "ASYNC",
    "BLOCKING",
    "EVENTS",
    "FAST",
    "HAND",
    "HEADERS",
    "KEY",
    "LEAN",
    "OURS",
    "OVER_HTTPX",
    "PACKAGES",
    "PROMPT",
    "QUESTION",
    "SETTINGS",
    "SSE_JSON",
    "AsyncRead",
    "Read",
    "async_provider",
    "provider",
]

HAND = "httpx by hand"
OURS = "llmkit"
EVENTS = "llmkit, `events()`"
LEAN = "llmkit, `keep_text=False`"
OVER_HTTPX = "llmkit over httpx's transport"
FAST = "llmkit with the extra `fast`"
SSE_JSON = "httpx-sse and json"
PACKAGES = {
    SSE_JSON: "httpx_sse",
    FAST: "msgspec",
    **{name: name for name in ("aiohttp", "anthropic", "litellm", "openai")},
}
"""The module that a client needs, where it is not among llmkit's own."""

KEY = "sk-benchmark"
PROMPT = "When is high water?"
MESSAGES = [{"role": "user", "content": PROMPT}]
QUESTION: dict[str, Any] = {"model": "gpt-5-mini", "messages": MESSAGES, "stream": True}
HEADERS = {"authorization": f"Bearer {KEY}", "accept": "text/event-stream"}
SETTINGS: dict[str, Any] = {
    "limits": httpx.Limits(max_connections=None, max_keepalive_connections=None),
    "timeout": 120,
}

Read = Callable[[], int]
AsyncRead = Callable[[], Awaitable[int]]

codec._fast_decoder = functools.cache(codec._pydantic_decoder)
faster_decoder = functools.cache(codec._msgspec_decoder)


class HandParser:
    """The least that reads a Chat Completions stream; correct for what the server of the benchmarks sends."""

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


@contextmanager
def by_hand(base_url: str) -> Iterator[Read]:
    with httpx.Client(**SETTINGS) as client:

        def read() -> int:
            parser = HandParser()
            with client.stream("POST", f"{base_url}/chat/completions", json=QUESTION, headers=HEADERS) as response:
                for piece in response.iter_raw():
                    parser.feed(piece)
            return parser.length

        yield read


@asynccontextmanager
async def by_hand_async(base_url: str) -> AsyncIterator[AsyncRead]:
    async with httpx.AsyncClient(**SETTINGS) as client:

        async def read() -> int:
            parser = HandParser()
            url = f"{base_url}/chat/completions"
            async with client.stream("POST", url, json=QUESTION, headers=HEADERS) as response:
                async for piece in response.aiter_raw():
                    parser.feed(piece)
            return parser.length

        yield read


LONGEST_STREAM = 2**30
"""More than a stream may have by default: the longest here has a million events."""


def provider(base_url: str) -> SyncProvider:
    settings: dict[str, Any] = {"model_name": "gpt-5-mini", "api_key": KEY, "base_url": base_url}
    return create_sync_llm_provider("openai", max_stream_bytes=LONGEST_STREAM, **settings)


def async_provider(base_url: str) -> AsyncProvider:
    return create_llm_provider("openai", model_name="gpt-5-mini", api_key=KEY, base_url=base_url)


@contextmanager
def with_llmkit(base_url: str) -> Iterator[Read]:
    with provider(base_url) as llm:

        def read() -> int:
            with llm.stream(PROMPT) as stream:
                return sum(len(text) for text in stream)

        yield read


@asynccontextmanager
async def with_llmkit_async(base_url: str) -> AsyncIterator[AsyncRead]:
    async with async_provider(base_url) as llm:

        async def read() -> int:
            length = 0
            async with llm.stream(PROMPT) as stream:
                async for text in stream:
                    length += len(text)
            return length

        yield read


@contextmanager
def with_llmkit_lean(base_url: str) -> Iterator[Read]:
    with provider(base_url) as llm:

        def read() -> int:
            with llm.stream(PROMPT, keep_text=False) as stream:
                return sum(len(text) for text in stream)

        yield read


@contextmanager
def with_llmkit_events(base_url: str) -> Iterator[Read]:
    with provider(base_url) as llm:

        def read() -> int:
            with llm.stream(PROMPT) as stream:
                return sum(len(event.text) for event in stream.events() if type(event) is TextDelta)

        yield read


@asynccontextmanager
async def with_llmkit_events_async(base_url: str) -> AsyncIterator[AsyncRead]:
    async with async_provider(base_url) as llm:

        async def read() -> int:
            length = 0
            async with llm.stream(PROMPT) as stream:
                async for event in stream.events():
                    if type(event) is TextDelta:
                        length += len(event.text)
            return length

        yield read


@contextmanager
def decoding_fast() -> Iterator[None]:
    usual, codec._fast_decoder = codec._fast_decoder, faster_decoder
    yield
    codec._fast_decoder = usual


@contextmanager
def with_llmkit_fast(base_url: str) -> Iterator[Read]:
    with with_llmkit(base_url) as read:
        yield decoding_fast()(read)


@asynccontextmanager
async def with_llmkit_fast_async(base_url: str) -> AsyncIterator[AsyncRead]:
    async with with_llmkit_async(base_url) as read:

        async def read_fast() -> int:
            with decoding_fast():
                return await read()

        yield read_fast


# A provider chooses its transport at its first request.
@contextmanager
def with_llmkit_over_httpx(base_url: str) -> Iterator[Read]:
    with with_llmkit(base_url) as read:
        os.environ["LLMKIT_TRANSPORT"] = "httpx"
        read()
        del os.environ["LLMKIT_TRANSPORT"]
        yield read


@asynccontextmanager
async def with_llmkit_over_httpx_async(base_url: str) -> AsyncIterator[AsyncRead]:
    async with with_llmkit_async(base_url) as read:
        os.environ["LLMKIT_TRANSPORT"] = "httpx"
        await read()
        del os.environ["LLMKIT_TRANSPORT"]
        yield read


@contextmanager
def with_httpx_sse(base_url: str) -> Iterator[Read]:
    from httpx_sse import connect_sse

    with httpx.Client(**SETTINGS) as client:

        def read() -> int:
            length = 0
            url = f"{base_url}/chat/completions"
            with connect_sse(client, "POST", url, json=QUESTION, headers=HEADERS) as source:
                for event in source.iter_sse():
                    if event.data != "[DONE]":
                        for choice in json.loads(event.data)["choices"]:
                            length += len(choice["delta"].get("content") or "")
            return length

        yield read


@asynccontextmanager
async def with_httpx_sse_async(base_url: str) -> AsyncIterator[AsyncRead]:
    from httpx_sse import aconnect_sse

    async with httpx.AsyncClient(**SETTINGS) as client:

        async def read() -> int:
            length = 0
            url = f"{base_url}/chat/completions"
            async with aconnect_sse(client, "POST", url, json=QUESTION, headers=HEADERS) as source:
                async for event in source.aiter_sse():
                    if event.data != "[DONE]":
                        for choice in json.loads(event.data)["choices"]:
                            length += len(choice["delta"].get("content") or "")
            return length

        yield read


@contextmanager
def with_openai(base_url: str) -> Iterator[Read]:
    from openai import OpenAI

    with OpenAI(api_key=KEY, base_url=base_url, timeout=120) as client:

        def read() -> int:
            chunks = client.chat.completions.create(**QUESTION)
            return sum(len(choice.delta.content or "") for chunk in chunks for choice in chunk.choices)

        yield read


@asynccontextmanager
async def with_openai_async(base_url: str) -> AsyncIterator[AsyncRead]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(api_key=KEY, base_url=base_url, timeout=120) as client:

        async def read() -> int:
            length = 0
            async for chunk in await client.chat.completions.create(**QUESTION):
                for choice in chunk.choices:
                    length += len(choice.delta.content or "")
            return length

        yield read


@contextmanager
def with_anthropic(base_url: str) -> Iterator[Read]:
    from anthropic import Anthropic

    with Anthropic(api_key=KEY, base_url=base_url.removesuffix("/v1"), timeout=120) as client:

        def read() -> int:
            messages: Any = MESSAGES
            events = client.messages.create(model="claude-sonnet-4-5", max_tokens=2000, messages=messages, stream=True)
            return sum(len(event.delta.text) for event in events if event.type == "content_block_delta")

        yield read


@contextmanager
def with_litellm(base_url: str) -> Iterator[Read]:
    import litellm

    def read() -> int:
        question = {**QUESTION, "model": "openai/gpt-5-mini"}
        chunks = litellm.completion(**question, api_base=base_url, api_key=KEY, timeout=120)
        return sum(len(chunk.choices[0].delta.content or "") for chunk in chunks)

    yield read


@asynccontextmanager
async def with_aiohttp_async(base_url: str) -> AsyncIterator[AsyncRead]:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def read() -> int:
            parser = HandParser()
            async with session.post(f"{base_url}/chat/completions", json=QUESTION, headers=HEADERS) as response:
                async for piece in response.content.iter_any():
                    parser.feed(piece)
            return parser.length

        yield read


BLOCKING: dict[str, Callable[[str], AbstractContextManager[Read]]] = {
    HAND: by_hand,
    OURS: with_llmkit,
    EVENTS: with_llmkit_events,
    LEAN: with_llmkit_lean,
    OVER_HTTPX: with_llmkit_over_httpx,
    FAST: with_llmkit_fast,
    SSE_JSON: with_httpx_sse,
    "openai": with_openai,
    "anthropic": with_anthropic,
    "litellm": with_litellm,
}
ASYNC: dict[str, Callable[[str], AbstractAsyncContextManager[AsyncRead]]] = {
    HAND: by_hand_async,
    OURS: with_llmkit_async,
    EVENTS: with_llmkit_events_async,
    OVER_HTTPX: with_llmkit_over_httpx_async,
    FAST: with_llmkit_fast_async,
    SSE_JSON: with_httpx_sse_async,
    "openai": with_openai_async,
    "aiohttp": with_aiohttp_async,
}
