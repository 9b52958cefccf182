# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""What the tests of faults share: each is told to all wire formats, plain and streamed, over llmkit's own connections
and a caller's client that has a single one, and followed by a call that works, since a fault may hold no connection.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from llmkit import LLMProviderError

from ..answers import ALL_APIS, AnyApi
from ..server import PATIENCE, Server, head, raw_reply
from ._backend import Client, httpx, in_thread, make_provider_of

# A caller's client is httpx's own matter up to the body: one wire format shows that it makes no difference.
PLACES = [(api, True) for api in ALL_APIS] + [(ALL_APIS[0], False)]
FAULTS = [
    pytest.mark.anyio,
    pytest.mark.parametrize(
        ("api", "own"), PLACES, ids=[f"{api.name}{'' if own else ' by the caller'}" for api, own in PLACES]
    ),
]
MODES = pytest.mark.parametrize("mode", ["plain", "stream"])

TEXTS = ("Hel", "lo, wörld\u2028\x85 \U0001f600!")
TEXT = "".join(TEXTS)
CHUNKED = head(200, {"transfer-encoding": "chunked"})
SHORT = 0.1
"""Seconds that a test waits for a time to run out."""


def whole(api: AnyApi, mode: str) -> bytes:
    """Return the body of a good answer."""
    return json.dumps(api.plain(TEXT)).encode() if mode == "plain" else b"".join(api.stream(*TEXTS))


def rewritten(body: bytes, mode: str, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Return the body with each JSON object in it changed, and with its characters as they are, unescaped."""

    def changed(found: Any) -> bytes:
        return json.dumps(change(json.loads(found[0])), ensure_ascii=False).encode()

    return re.sub(rb"\{.*\}", changed, body)


def everywhere(value: Any, change: Callable[[dict[str, Any]], Any]) -> Any:
    """Return the value with each object in it changed, however deep it is."""
    if isinstance(value, dict):
        return change({name: everywhere(inner, change) for name, inner in value.items()})
    return [everywhere(inner, change) for inner in value] if isinstance(value, list) else value


def with_value(wanted: str, instead: Any) -> Callable[[dict[str, Any]], Any]:
    """Return what puts another value in the place of a string."""
    return lambda data: everywhere(
        data, lambda inner: {name: instead if value == wanted else value for name, value in inner.items()}
    )


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


async def ask(provider: Any, mode: str, texts: list[str] | None = None, **settings: Any) -> Any:
    """Return the answer; `texts` gets the pieces of a stream."""
    if mode == "plain":
        return await provider.execute("Hi", stream_mode="disabled", **settings)
    async with provider.stream("Hi", **settings) as stream:
        async for text in stream:
            if texts is not None:
                texts.append(text)
        return await stream.response()


def make_client() -> Any:
    return Client(verify=False, limits=httpx.Limits(max_connections=1))


def make_provider(server: Server, api: AnyApi, client: Any, **settings: Any) -> Any:
    name = {"messages": "anthropic", "generate_content": "gemini"}.get(api.name, "openai")
    bounds: dict[str, Any] = {"timeout": PATIENCE, "idle_timeout": PATIENCE, "max_retries": 0}
    return make_provider_of(name, server, api_type=api.api_type, http_client=client, **bounds | settings)


async def answer_to(server: Server, api: AnyApi, mode: str, own: bool, reply: Any) -> Any:
    """Return the answer that a reply is, and see that the next request gets an answer of its own."""
    server.add(reply, raw_reply(json.dumps(api.plain("Next")).encode()))
    async with make_client() as client, make_provider(server, api, None if own else client) as provider:
        response = await ask(provider, mode)
        assert (await ask(provider, "plain")).content == "Next"
    return response


async def error_of(
    server: Server, api: AnyApi, mode: str, own: bool, reply: Any, kinds: Any, **settings: Any
) -> LLMProviderError:
    """Return the error that a reply becomes, and see that what came before it is on it, and that a call then works."""
    texts: list[str] = []
    before = len(server.requests)
    server.add(reply, raw_reply(whole(api, mode)))
    async with make_client() as client, make_provider(server, api, None if own else client) as provider:
        with pytest.raises(kinds) as caught:
            await ask(provider, mode, texts, **settings)
        # Else a server that is slow to read could give this reply to the next request.
        assert await in_thread(server.wait_requests, before + 1)
        assert (await ask(provider, mode)).content == TEXT
    error: LLMProviderError = caught.value
    assert error.provider == provider.spec.name
    assert len(error.message) <= 2200 and len(error.body or "") <= 2001
    assert (error.partial.content if error.partial else "") == "".join(texts)
    assert error.partial is None or error.partial.finish_reason is None
    assert len(server.requests) == before + 2
    return error
