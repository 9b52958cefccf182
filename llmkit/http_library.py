"""Which HTTP library is used: httpx, or its successor httpx2, whose names are the same. Imports errors only.

LLMKIT_HTTP_LIBRARY in the environment chooses; without it httpx is taken, and httpx2 where httpx is not installed.
A client of the other library works as `http_client` all the same. Type checkers see httpx.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import LLMProviderConfigurationError

if TYPE_CHECKING:
    import httpcore
    import httpx

__all__ = ["httpcore", "httpx", "is_client"]

# Each with the library below it.
LIBRARIES = {"httpx": "httpcore", "httpx2": "httpcore2"}


def is_client(client: Any, kind: str) -> bool:
    """Return whether `client` is of the class `kind`, "Client" or "AsyncClient", of either library."""
    # Whoever made a client of a library has loaded it.
    loaded = [sys.modules.get(name) for name in LIBRARIES]
    return any(library and isinstance(client, getattr(library, kind)) for library in loaded)


def _load(chosen: str) -> tuple[Any, Any]:
    """Return the library that is chosen by name, or the first that is installed for "", and the one below it."""
    if chosen not in ("", *LIBRARIES):
        raise LLMProviderConfigurationError(f"LLMKIT_HTTP_LIBRARY is {chosen!r}; it must be httpx or httpx2")
    for name in [chosen] if chosen else LIBRARIES:
        try:
            return import_module(name), import_module(LIBRARIES[name])
        except ModuleNotFoundError as error:
            if error.name not in (name, LIBRARIES[name]):
                raise
    wanted = chosen or next(iter(LIBRARIES))
    raise LLMProviderConfigurationError(f"{wanted} is not installed: pip install {wanted}")


if not TYPE_CHECKING:
    httpx, httpcore = _load(os.environ.get("LLMKIT_HTTP_LIBRARY", "").strip())
