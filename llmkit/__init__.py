"""llmkit: one small client for every LLM service, blocking, under asyncio and under trio.

    from llmkit import create_sync_llm_provider

    provider = create_sync_llm_provider("openai", model_name="gpt-4o")
    print(provider.execute("Say hello").content)

The names below are loaded when they are first used, so that `import llmkit` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._async.fallback import AsyncFallbackProvider
    from ._async.provider import AsyncProvider
    from ._async.stream import AsyncStream
    from ._sync.fallback import SyncFallbackProvider
    from ._sync.provider import SyncProvider
    from ._sync.stream import SyncStream
    from .cache import MemoryCache, SQLiteCache
    from .call import CallOptions
    from .config import APIType, LLMConfig, StreamMode
    from .errors import (
        LLMProviderAuthenticationError,
        LLMProviderBadRequestError,
        LLMProviderConfigurationError,
        LLMProviderConnectionError,
        LLMProviderContentFilterError,
        LLMProviderError,
        LLMProviderNotFoundError,
        LLMProviderOutputError,
        LLMProviderOverloadedError,
        LLMProviderPermissionError,
        LLMProviderQuotaError,
        LLMProviderRateLimitError,
        LLMProviderServerError,
        LLMProviderStreamError,
        LLMProviderTimeoutError,
        LLMProviderTokenLimitError,
        LLMProviderUnsupportedOperationError,
    )
    from .events import (
        Event,
        Finish,
        NativePart,
        RawEvent,
        ReasoningDelta,
        RefusalDelta,
        ResponseStart,
        TextDelta,
        ToolCallDelta,
        UnknownEvent,
        Usage,
        UsageReport,
    )
    from .factory import (
        clear_provider_cache,
        create_llm_provider,
        create_sync_llm_provider,
        get_cached_provider,
        get_cached_sync_provider,
        register_provider,
    )
    from .hooks import CallRecord, Hooks
    from .http_provider import RequestPreview
    from .limits import Limits
    from .messages import Audio, File, Image, Message, Text
    from .provider import LLMProvider
    from .response import FinishReason, LLMResponse, ToolCall
    from .specs import ProviderSpec
    from .tools import Tool
    from .wire import Dialect

__version__ = "0.1.0"

__all__ = [
    "APIType",
    "AsyncFallbackProvider",
    "AsyncProvider",
    "AsyncStream",
    "Audio",
    "CallOptions",
    "CallRecord",
    "Dialect",
    "Event",
    "File",
    "Finish",
    "FinishReason",
    "Hooks",
    "Image",
    "LLMConfig",
    "LLMProvider",
    "LLMProviderAuthenticationError",
    "LLMProviderBadRequestError",
    "LLMProviderConfigurationError",
    "LLMProviderConnectionError",
    "LLMProviderContentFilterError",
    "LLMProviderError",
    "LLMProviderNotFoundError",
    "LLMProviderOutputError",
    "LLMProviderOverloadedError",
    "LLMProviderPermissionError",
    "LLMProviderQuotaError",
    "LLMProviderRateLimitError",
    "LLMProviderServerError",
    "LLMProviderStreamError",
    "LLMProviderTimeoutError",
    "LLMProviderTokenLimitError",
    "LLMProviderUnsupportedOperationError",
    "LLMResponse",
    "Limits",
    "MemoryCache",
    "Message",
    "NativePart",
    "ProviderSpec",
    "RawEvent",
    "ReasoningDelta",
    "RefusalDelta",
    "RequestPreview",
    "ResponseStart",
    "SQLiteCache",
    "StreamMode",
    "SyncFallbackProvider",
    "SyncProvider",
    "SyncStream",
    "Text",
    "TextDelta",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "UnknownEvent",
    "Usage",
    "UsageReport",
    "__version__",
    "clear_provider_cache",
    "create_llm_provider",
    "create_sync_llm_provider",
    "get_cached_provider",
    "get_cached_sync_provider",
    "register_provider",
]

# Module → the names that it gives to the package; a test compares them with the imports above.
_MODULES = {
    "_async.fallback": "AsyncFallbackProvider",
    "_async.provider": "AsyncProvider",
    "_async.stream": "AsyncStream",
    "_sync.fallback": "SyncFallbackProvider",
    "_sync.provider": "SyncProvider",
    "_sync.stream": "SyncStream",
    "cache": "MemoryCache SQLiteCache",
    "call": "CallOptions",
    "config": "APIType LLMConfig StreamMode",
    "errors": (
        "LLMProviderAuthenticationError LLMProviderBadRequestError LLMProviderConfigurationError "
        "LLMProviderConnectionError LLMProviderContentFilterError LLMProviderError "
        "LLMProviderNotFoundError LLMProviderOutputError LLMProviderOverloadedError LLMProviderPermissionError "
        "LLMProviderQuotaError LLMProviderRateLimitError LLMProviderServerError LLMProviderStreamError "
        "LLMProviderTimeoutError LLMProviderTokenLimitError LLMProviderUnsupportedOperationError"
    ),
    "events": (
        "Event Finish NativePart RawEvent ReasoningDelta RefusalDelta ResponseStart TextDelta ToolCallDelta "
        "UnknownEvent Usage UsageReport"
    ),
    "factory": (
        "clear_provider_cache create_llm_provider create_sync_llm_provider get_cached_provider "
        "get_cached_sync_provider register_provider"
    ),
    "hooks": "CallRecord Hooks",
    "limits": "Limits",
    "messages": "Audio File Image Message Text",
    "http_provider": "RequestPreview",
    "provider": "LLMProvider",
    "response": "FinishReason LLMResponse ToolCall",
    "specs": "ProviderSpec",
    "tools": "Tool",
    "wire": "Dialect",
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
