"""What the tests need of the blocking world. Written by hand, as is its twin `_async/_backend.py`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llmkit import APIType, LLMConfig, ProviderSpec, SyncProvider, create_sync_llm_provider
from llmkit._sync._backend import httpx
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
Client = httpx.Client
OtherClient = httpx.AsyncClient


def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call `function`: in the blocking world nothing else is held up meanwhile."""
    return function(*arguments)


def make_messages_provider(base_url: str) -> SyncProvider:
    """Return a provider that speaks Anthropic Messages with the small model's server."""
    spec = ProviderSpec(name="claude-like", base_url=base_url, formats={APIType.CHAT_COMPLETION: messages})
    return SyncProvider(LLMConfig(model_name="smollm2-135m-instruct", temperature=0.0), spec=spec)


def make_provider(server: Server, api: Api, **settings: Any) -> SyncProvider:
    """Return a provider that talks to the server through the API."""
    own: dict[str, Any] = {
        "model_name": "gpt-4o",
        "api_key": KEY,
        "base_url": server.base_url,
        "api_type": api.api_type,
    }
    own |= {"timeout": PATIENCE, "idle_timeout": PATIENCE}
    return create_sync_llm_provider("openai", **own | settings)


def make_local_provider(**settings: Any) -> SyncProvider:
    """Return a provider of the small model on this machine."""
    return create_sync_llm_provider("local", **{"temperature": 0.0} | settings)


def make_provider_of(name: str, server: Server, **settings: Any) -> SyncProvider:
    """Return a provider of any service that talks to the server instead."""
    return create_sync_llm_provider(name, **{"model_name": "m", "api_key": KEY, "base_url": server.base_url} | settings)


def run_together(*functions: Callable[[], Any]) -> list[Any]:
    """Call all functions at the same time, each in a thread, and return what they return, in their order."""
    with ThreadPoolExecutor(len(functions)) as threads:
        return list(threads.map(lambda function: function(), functions))
