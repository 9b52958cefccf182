# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""A provider whose service is a script, for tests of the code that uses one: all else is the real provider's."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Any, Unpack

from ..cache import ResponseCache
from ..config import ConfigSettings, LLMConfig
from ..hooks import Hooks
from ..limits import Limits
from ..retry import RetryBudget
from ..scripted.answers import Sent
from ..scripted.faults import NetworkFailure
from ..scripted.replies import Scripted, ScriptedCall
from ..scripted.script import SCRIPTED, Script
from ._backend import BaseTransport, ByteStream, Client, call_function, httpx, sleep
from .provider import AsyncProvider

__all__ = ["AsyncScriptedBody", "AsyncScriptedProvider"]


class AsyncScriptedProvider(AsyncProvider):
    """A provider that answers from a script, without a network: one reply a call, in their order.

    provider = AsyncScriptedProvider("Hello!", ["Hel", "lo"], LLMProviderRateLimitError(retry_after=2), "At last")
    assert (await provider.execute("Hi")).content == "Hello!"
    assert provider.calls[0].prompt == "Hi"

    A reply is a text, a list of steps (see `Reply`), a `ToolCall` (see `tool_call`), an error, a pydantic object or a
    dict, whose JSON is the text, or a function that returns one of these for a `ScriptedCall`. `default` answers when
    the script is used up; without one an UnscriptedCallError is raised. An error is caused in the way of a service, or
    of the network, so it is retried, and comes out with its attempts and `partial`, as in earnest; only the waits
    between tries are left out. Embeddings, models and token counts are made up, and take nothing from the script.

    The settings are those of `LLMConfig`, or of `config`; `hooks`, `limits` and `cache` are those of any provider.
    `calls` has every call, each try of its own.
    """

    def __init__(
        self,
        *replies: Scripted,
        default: Scripted | None = None,
        config: LLMConfig | None = None,
        provider_type: str = "scripted",
        hooks: Hooks | Iterable[Hooks] | None = None,
        limits: Limits | None = None,
        cache: ResponseCache | None = None,
        **settings: Unpack[ConfigSettings],
    ) -> None:
        self._script = Script(replies, default)
        config = config or LLMConfig(model_name="scripted-model")
        config = config.replace(**settings) if settings else config
        client = Client(transport=AsyncScriptedTransport(self._script), trust_env=False)
        options: dict[str, Any] = {"hooks": hooks, "limits": limits, "cache": cache}
        super().__init__(config, provider_type=provider_type, spec=SCRIPTED, http_client=client, **options)
        self.budget = RetryBudget(waits=False)

    @property
    def calls(self) -> list[ScriptedCall]:
        """What was asked so far."""
        return self._script.calls

    @property
    def replies_left(self) -> int:
        """How many replies of the script were not asked for yet."""
        return self._script.left

    def add(self, *replies: Scripted) -> None:
        """Append replies to the script."""
        self._script.add(replies)


class AsyncScriptedTransport(BaseTransport):
    """The transport whose answers are a script's."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the next answer; raises as the network would."""
        answer = self._script.answer(request.method, request.url.path, dict(request.headers), request.content)
        body = AsyncScriptedBody(answer.steps, request)
        if not answer.status:
            await anext(body)
        return httpx.Response(
            answer.status, headers=dict(answer.headers), stream=body, extensions={"network_stream": body}
        )

    # The name in the blocking world.
    handle_request = handle_async_request


class AsyncScriptedBody(ByteStream):
    """A body that is made of steps: bytes are given, seconds waited for, functions called, failures raised.

    The request's timeout "read" and `deadline`, which a reader may set, bound each wait in seconds.
    """

    def __init__(self, steps: Iterable[Sent], request: httpx.Request) -> None:
        self.deadline: float | None = request.extensions.get("deadline")
        self._timeout: float | None = request.extensions.get("timeout", {}).get("read")
        self._request = request
        self._steps = deque(steps)

    def __aiter__(self) -> AsyncScriptedBody:
        return self

    async def __anext__(self) -> bytes:
        while self._steps:
            step = self._steps.popleft()
            if isinstance(step, NetworkFailure):
                self._steps.clear()
                raise getattr(httpx, step.name)(step.message, request=self._request)
            if isinstance(step, bytes):
                # Other tasks run between two pieces, as they do where a network is waited for.
                await sleep(0)
                return step
            if callable(step):
                await call_function(step)
            else:
                await self._wait(step)
        raise StopAsyncIteration

    async def _wait(self, seconds: float) -> None:
        left = None if self.deadline is None else max(0.0, self.deadline - monotonic())
        most = min((bound for bound in (self._timeout, left) if bound is not None), default=seconds)
        await sleep(min(seconds, most))
        if seconds > most:
            self._steps.clear()
            raise httpx.ReadTimeout("scripted", request=self._request)

    async def drain(self, seconds: float) -> None:
        """Forget what is left."""
        self._steps.clear()

    async def aclose(self) -> None:
        """Forget what is left."""
        self._steps.clear()
