# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""Taking an answer out of a cache, or watching it come so that it can be put in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..cache import CachedAnswer, ResponseCache, cache_key
from ..errors import LLMProviderOutputError
from ..response import LLMResponse
from ..structured import OutputFormat, with_parsed
from ._backend import ByteStream, call_in_thread, httpx

if TYPE_CHECKING:
    from ..call import Call
    from ..http_provider import HTTPProvider

__all__ = ["AsyncKeep", "look_up"]

WHOLE = ("stop", "length", "tool_calls")
"""The finish reasons of answers that are kept: what was blocked, broken or interrupted may be another next time."""


async def look_up(cache: ResponseCache, provider: HTTPProvider, call: Call) -> AsyncKeep:
    """Look whether the answer to a call is there."""
    key = _key_of(provider, call)
    found = cache.get(key) if cache.in_memory else await call_in_thread(cache.get, key)
    return AsyncKeep(cache, key, found, call.config.max_body_bytes)


def _key_of(provider: HTTPProvider, call: Call) -> str:
    """Return under which key the answer to a call is kept."""
    # Headers and all: other keys, organisations or versions have answers of their own.
    method, url, headers, content = provider.http_request(call, provider.wire_request(call))
    parts = (f"{name}:{value}" for name, value in sorted(headers.items()))
    return cache_key(call.cache_scope, provider.provider_type, method, url, content, *parts)


class AsyncKeep:
    """What one call has to do with the cache: `found` is the answer that was there, None if the service is asked."""

    def __init__(self, cache: ResponseCache, key: str, found: CachedAnswer | None, most: int) -> None:
        self.found = found
        self._given = False
        self._cache = cache
        self._key = key
        self._most = most
        self._headers: dict[str, str] = {}
        self._pieces: list[bytes] = []
        self._size = 0

    def response(self) -> httpx.Response | None:
        """Return the answer that was found, as if it came now; None the next time, since it could not be read."""
        if self.found is None or self._given:
            return None
        self._given = True
        return httpx.Response(200, headers=dict(self.found.headers), stream=_AsyncPieces(self.found.pieces))

    def watch(self, response: httpx.Response, headers: dict[str, str]) -> None:
        """Keep what comes of a body from now on; an earlier try's is forgotten."""
        self.found = None
        self._headers = headers
        self._pieces = []
        self._size = 0
        if response.is_stream_consumed:
            # A caller's transport has read it already, and httpx decompressed it.
            self._headers = {name: text for name, text in headers.items() if name != "content-encoding"}
            self.add(response.content)
        else:
            response.stream = _AsyncWatched(response.stream, self)

    def add(self, piece: bytes) -> None:
        """Keep a piece, or none at all of a body that is larger than a body may be."""
        self._size += len(piece)
        if self._size <= self._most:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    async def store(self, answer: LLMResponse, output_format: OutputFormat | None) -> None:
        """Put a complete answer in the cache, if it is one that the same request may get again."""
        if self.found is not None or self._size > self._most or answer.finish_reason not in WHOLE:
            return
        try:
            with_parsed(answer, output_format)
        except LLMProviderOutputError:
            return
        kept = CachedAnswer(self._headers, tuple(self._pieces))
        put = self._cache.put
        if self._cache.in_memory:
            put(self._key, kept)
        else:
            await call_in_thread(put, self._key, kept)


class _AsyncPieces(ByteStream):
    """A body that is there already."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._left = iter(pieces)

    def __aiter__(self) -> _AsyncPieces:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._left:
            return piece
        raise StopAsyncIteration


class _AsyncWatched(ByteStream):
    """A body whose pieces are kept as they pass."""

    def __init__(self, stream: Any, keep: AsyncKeep) -> None:
        self._stream = stream
        self._keep = keep
        self._pieces: Any = None

    def __aiter__(self) -> _AsyncWatched:
        self._pieces = aiter(self._stream)
        return self

    async def __anext__(self) -> bytes:
        piece: bytes = await anext(self._pieces)
        self._keep.add(piece)
        return piece

    async def aclose(self) -> None:
        await self._stream.aclose()
