"""For the tests of code that uses llmkit: a scripted provider, and recordings of real exchanges.

    from llmkit.testing import SyncScriptedProvider

    provider = SyncScriptedProvider("Hello!", ["Hel", "lo"])
    assert provider.execute("Hi").content == "Hello!"
    assert list(provider.stream("Hi")) == ["Hel", "lo"]

`AsyncScriptedProvider` is the same for asyncio and trio.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from ._async.recording import recording_client as async_client
from ._async.scripted import AsyncScriptedProvider
from ._sync.recording import recording_client as sync_client
from ._sync.scripted import SyncScriptedProvider
from .cassette import Cassette, RecordMode, UnrecordedRequestError
from .http_library import httpx
from .scripted.replies import Reply, Scripted, ScriptedCall, tool_call
from .scripted.script import UnscriptedCallError

__all__ = [
    "AsyncScriptedProvider",
    "RecordMode",
    "Reply",
    "Scripted",
    "ScriptedCall",
    "SyncScriptedProvider",
    "UnrecordedRequestError",
    "UnscriptedCallError",
    "recording",
    "tool_call",
]


class recording:
    """Real exchanges, recorded in a file the first time, and replayed from it ever after.

    with recording("tests/recordings/hello.json") as client:
        provider = create_sync_llm_provider("openai", model_name="gpt-4o", http_client=client)
        assert provider.execute("Say hello in French").content == "Bonjour !"

    `async with` gives a client of the async world. `mode` is "once" (the default: record where there is no file yet),
    "none" (only replay), "new_episodes" (record what is not in the file) or "all" (record everything anew);
    LLMKIT_RECORD_MODE in the environment sets the default. A request is known again by its method, URL and JSON body;
    one that is not recorded, and may not be, raises an UnrecordedRequestError that shows the nearest one.

    The file is written where the block ends without an exception. Keys, cookies and names of organisations are not
    in it: headers of requests are not recorded at all, and what was secret in them is taken out of everything else.
    `scrub` gets each text that is to be recorded or compared, and returns it without the secrets of your own.
    `transport` is an httpx transport for the real exchanges (None: llmkit's own).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        mode: RecordMode | None = None,
        *,
        scrub: Callable[[str], str] | None = None,
        transport: Any = None,
    ) -> None:
        self.path = Path(path)
        self._mode: RecordMode | None = mode
        self._scrub = scrub
        self._transport = transport

    def __enter__(self) -> httpx.Client:
        self._cassette = Cassette(self.path, self._mode, self._scrub)
        self._client = sync_client(self._cassette, self._transport)
        return self._client

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()
        if kind is None:
            self._cassette.save()

    async def __aenter__(self) -> httpx.AsyncClient:
        self._cassette = Cassette(self.path, self._mode, self._scrub)
        self._async_client = async_client(self._cassette, self._transport)
        return self._async_client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._async_client.aclose()
        if kind is None:
            self._cassette.save()
