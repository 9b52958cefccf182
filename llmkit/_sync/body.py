# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""The body of an answer: its bytes as they come, decompressed and bounded, or all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

from ..config import LLMConfig
from ..decompression import Decompressor, content_coding
from ..errors import LLMProviderError, LLMProviderServerError, LLMProviderTimeoutError
from ..failures import error_from_exception
from ..traffic import Traffic
from ._backend import bounded, httpx, shield, within

__all__ = ["DRAIN_SECONDS", "body_pieces", "drain", "receive", "too_late"]

DRAIN_BYTES: Final = 65536
DRAIN_SECONDS: Final = 0.25
"""How long the end of a body is waited for, once the answer is complete, to keep the connection."""


def body_pieces(response: httpx.Response) -> Iterator[bytes]:
    """Return the body as it arrives, decompressed; what reads it may raise httpx's exceptions.

    A piece may be empty, as a frame of HTTP/2 may be.
    """
    if response.is_stream_consumed:
        return response.iter_bytes()
    body: Iterator[bytes] = iter(response.stream)  # type: ignore[arg-type]
    coding = content_coding(response.headers.get("content-encoding", ""))
    return _AsyncDecompressed(body, coding) if coding else body


def receive(
    response: httpx.Response, config: LLMConfig, deadline: float | None, limit: int, pieces: list[bytes]
) -> LLMProviderError | None:
    """Append the whole body to `pieces`, and release the connection; return what cut it short, at `limit` bytes too."""
    wire: Any = response.extensions.get("network_stream")
    own = hasattr(wire, "deadline")
    if own:
        wire.deadline = deadline
    size = 0
    ended = False
    failure: LLMProviderError | None = None
    traffic: Traffic | None = response.extensions.get("traffic")
    body = body_pieces(response)
    try:
        while (piece := within(None if own else deadline, next(body, None))) is not None:
            if failure:
                continue
            if traffic:
                traffic.receive(piece)
            pieces.append(piece)
            size += len(piece)
            if size > limit:
                # It is paid for, and would be as large again.
                told = f"the answer is larger than max_body_bytes ({limit} bytes)"
                failure = LLMProviderServerError(told, should_retry=False)
            elif deadline is not None and time.monotonic() >= deadline:
                failure = too_late(config, "deadline")
            if failure:
                # No `break`, which would leave httpx's generators suspended: reading on fails at once.
                response.close()
        ended = True
    except Exception as error:
        failure = failure or error_from_exception(error)
        if failure is None:
            raise
    finally:
        if traffic:
            traffic.end()
        with shield():
            response.close()
            if not (own or ended):
                # httpx's generators would stay suspended: reading on makes all of them fail.
                drain(body, response)
    is_late = deadline is not None and time.monotonic() >= deadline
    return too_late(config, "deadline") if is_late and isinstance(failure, LLMProviderTimeoutError) else failure


def too_late(config: LLMConfig, bound: str) -> LLMProviderTimeoutError:
    """Return the error of a call that took longer than one of its bounds, "timeout" or "deadline"."""
    seconds = getattr(config, bound)
    return LLMProviderTimeoutError(f"the call took longer than its {bound} ({seconds} s)", code=bound)


def drain(body: Iterator[bytes], response: httpx.Response) -> None:
    """Read on in a body that is of no use any more: whatever its connection does now only costs its reuse."""
    left = DRAIN_BYTES
    with bounded(DRAIN_SECONDS, response):
        try:
            while left > 0 and (rest := next(body, None)) is not None:
                left -= len(rest) + 1
        except Exception as error:
            if error_from_exception(error) is None:
                raise


class _AsyncDecompressed:
    """Iterates over a compressed body; httpx's own way of it knows no bounds."""

    def __init__(self, body: Iterator[bytes], coding: str) -> None:
        self._body = body
        self._coding = coding
        self._decompressor: Decompressor | None = None
        self._begun = self._failed = False

    def __iter__(self) -> _AsyncDecompressed:
        return self

    def __next__(self) -> bytes:
        if self._failed:
            # Whoever reads on wants the end of a body that was begun.
            if not self._begun:
                raise StopIteration
            return next(self._body)
        try:
            if self._decompressor is None:
                self._decompressor = Decompressor(self._coding)
            while not (piece := self._decompressor.take()):
                self._begun = True
                data = next(self._body, None)
                if data is None:
                    self._decompressor.end()
                    raise StopIteration
                self._decompressor.feed(data)
        except ValueError as error:
            self._failed = True
            raise httpx.DecodingError(str(error)) from None
        return piece
