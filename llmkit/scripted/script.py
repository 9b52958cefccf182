"""The script of a scripted provider: the replies to come, and the calls that came. Pure."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final

from ..config import APIType
from ..specs import CHAT_AND_RESPONSES, ProviderSpec
from ..wire.operations import OPENAI
from .answers import Answer, operation, render
from .replies import Reply, Scripted, ScriptedCall, as_reply

__all__ = ["SCRIPTED", "Script", "UnscriptedCallError"]

SCRIPTED: Final = ProviderSpec(
    name="scripted",
    base_url="http://scripted.invalid/v1",
    formats=CHAT_AND_RESPONSES,
    operations=OPENAI,
)
"""The service that a scripted provider talks to: like OpenAI's, and nowhere."""


class UnscriptedCallError(AssertionError):
    """A call has no reply in the script. No LLMProviderError, so that the tested code does not handle it."""


class Script:
    """The replies to come, and the calls that came."""

    def __init__(self, replies: Iterable[Scripted], default: Scripted | None) -> None:
        self.calls: list[ScriptedCall] = []
        self._replies = deque(map(as_reply, replies))
        self._default = None if default is None else as_reply(default)

    def add(self, replies: Iterable[Scripted]) -> None:
        """Append replies."""
        self._replies += map(as_reply, replies)

    @property
    def left(self) -> int:
        """How many replies were not asked for yet."""
        return len(self._replies)

    def answer(self, method: str, path: str, headers: Mapping[str, str], content: bytes) -> Answer:
        """Return the answer to a request; raises UnscriptedCallError where no reply is left."""
        body = json.loads(content) if content else {}
        route = path.removeprefix("/v1")
        answer = operation(method, route, body)
        if answer:
            return answer
        api_type = APIType.RESPONSES if route.startswith("/responses") else APIType.CHAT_COMPLETION
        call = ScriptedCall(api_type, body, headers)
        self.calls.append(call)
        number = len(self.calls)
        try:
            reply = self._replies.popleft()
        except IndexError:
            if self._default is None:
                raise UnscriptedCallError(
                    f"call {number} ({method} {route}, {len(call.messages)} messages) has no reply: the script had "
                    f"{number - 1}; give it more, or a default"
                ) from None
            reply = self._default
        # What a function returns may be short for a reply, too.
        while not isinstance(reply, Reply):
            reply = as_reply(reply(call))
        return render(reply, call, number)
