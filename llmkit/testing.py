"""For the tests of code that uses llmkit: a scripted provider, and recordings of real exchanges.

from llmkit.testing import SyncScriptedProvider

provider = SyncScriptedProvider("Hello!", ["Hel", "lo"])
assert provider.execute("Hi").content == "Hello!"
assert list(provider.stream("Hi")) == ["Hel", "lo"]
"""

from __future__ import annotations

from ._async.scripted import AsyncScriptedProvider
from ._sync.scripted import SyncScriptedProvider
from .scripted.replies import Reply, Scripted, ScriptedCall, tool_call
from .scripted.script import UnscriptedCallError

__all__ = [
    "AsyncScriptedProvider",
    "Reply",
    "Scripted",
    "ScriptedCall",
    "SyncScriptedProvider",
    "UnscriptedCallError",
    "tool_call",
]
