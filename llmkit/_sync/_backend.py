"""What I/O means in the blocking world. Written by hand, as is its twin `_async/_backend.py`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

__all__ = ["Client", "HTTPTransport", "call_in_thread", "close_at_end", "close_soon", "scope", "shield", "sleep"]

Result = TypeVar("Result")
Client = httpx.Client
HTTPTransport = httpx.HTTPTransport
sleep = time.sleep
shield = contextlib.nullcontext[None]


class _Process:
    """One object per process: a forked child gets its own."""


_scope = _Process()


def scope() -> Any:
    """Return what a connection cannot outlive: this process, and not the child that it forks."""
    return _scope


def _forked() -> None:
    global _scope
    _scope = _Process()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def call_in_thread(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call `function`: the blocking world is already in a thread that may wait."""
    return function(*arguments)


def close_soon(close: Callable[[], None]) -> None:
    """Call `close` now."""
    close()


def close_at_end(close: Callable[[], None]) -> None:
    """Do nothing: the sockets of a process end with it."""
