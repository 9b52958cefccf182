"""What the tests need of the async world. Written by hand, as is its twin `_sync/_backend.py`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread

from llmkit import APIType, AsyncProvider, LLMConfig, ProviderSpec, create_llm_provider
from llmkit._async._backend import httpx
from llmkit.specs import messages

from ..answers import Api
from ..server import PATIENCE, Server

__all__ = [
    "KEY",
    "Client",
    "OtherClient",
    "httpx",
    "in_thread",
    "make_local_provider",
    "make_messages_provider",
    "make_provider",
    "make_provider_of",
    "run_together",
]

KEY = "sk-test-0123456789abcdef"
# Where a test makes one, `verify=False` saves the loading of certificates, which plain http has no use for.
Client = httpx.AsyncClient
OtherClient = httpx.Client
in_thread = anyio.to_thread.run_sync


def make_messages_provider(base_url: str) -> AsyncProvider:
    """Return a provider that speaks Anthropic Messages with the small model's server."""
    spec = ProviderSpec(name="claude-like", base_url=base_url, formats={APIType.CHAT_COMPLETION: messages})
    return AsyncProvider(LLMConfig(model_name="smollm2-135m-instruct", temperature=0.0), spec=spec)


def make_provider(server: Server, api: Api, **settings: Any) -> AsyncProvider:
    """Return a provider that talks to the server through the API."""
    own: dict[str, Any] = {"model_name": "gpt-4o", "api_key": KEY, "timeout": PATIENCE, "idle_timeout": PATIENCE}
    own |= {"base_url": server.base_url, "api_type": api.api_type}
    return create_llm_provider("openai", **own | settings)


def make_local_provider(**settings: Any) -> AsyncProvider:
    """Return a provider of the small model on this machine."""
    return create_llm_provider("local", **{"temperature": 0.0} | settings)


def make_provider_of(name: str, server: Server, **settings: Any) -> AsyncProvider:
    """Return a provider of any service that talks to the server instead."""
    return create_llm_provider(name, **{"model_name": "m", "api_key": KEY, "base_url": server.base_url} | settings)


async def run_together(*functions: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Call all functions at the same time, and return what they return, in their order."""
    results: list[Any] = [None] * len(functions)

    async def run(position: int, function: Callable[[], Awaitable[Any]]) -> None:
        results[position] = await function()

    async with anyio.create_task_group() as group:
        for position, function in enumerate(functions):
            group.start_soon(run, position, function)
    return results
