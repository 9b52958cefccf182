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
    import httpx

__all__ = ["httpx", "is_client", "load_httpcore", "network_errors"]

# Each with the library below it.
LIBRARIES = {"httpx": "httpcore", "httpx2": "httpcore2"}


def is_client(client: Any, kind: str) -> bool:
    """Return whether `client` is of the class `kind`, "Client" or "AsyncClient", of either library."""
    return any(isinstance(client, getattr(library, kind)) for library in _loaded())


def network_errors() -> tuple[type[Exception], ...]:
    """Return what a client of either library raises where a request fails, for an `except`."""
    return tuple(error for library in _loaded() for error in (library.HTTPError, library.InvalidURL))


def _loaded() -> list[Any]:
    # Whoever made a client of a library has loaded it.
    return [library for name in LIBRARIES if (library := sys.modules.get(name))]


def load_httpcore() -> Any:
    """Return the library below the one that is used; it takes longer to import than httpx without it."""
    return import_module(LIBRARIES[httpx.__name__])


def _load(chosen: str) -> Any:
    """Return the library that is chosen by name, or the first that is installed for ""."""
    if chosen not in ("", *LIBRARIES):
        raise LLMProviderConfigurationError(f"LLMKIT_HTTP_LIBRARY is {chosen!r}; it must be httpx or httpx2")
    for name in [chosen] if chosen else LIBRARIES:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise
    wanted = chosen or next(iter(LIBRARIES))
    raise LLMProviderConfigurationError(f"{wanted} is not installed: pip install {wanted}")


if not TYPE_CHECKING:
    httpx = _load(os.environ.get("LLMKIT_HTTP_LIBRARY", "").strip())
