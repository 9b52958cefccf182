"""What scripts are made of: a reply to each call, and the calls that came. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..config import APIType
from ..errors import LLMProviderConfigurationError, LLMProviderError, type_with_article
from ..events import Usage
from ..response import FinishReason, ToolCall
from .faults import check_error

__all__ = ["Reply", "Scripted", "ScriptedCall", "Step", "as_reply", "tool_call"]

Step = str | float | ToolCall | LLMProviderError | Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What is answered to one call.

    Reply("Hello", finish_reason="length")
    Reply(["Hel", 0.2, "lo"], usage=Usage(input_uncached=3, output_text=2))
    Reply(["Hel", LLMProviderStreamError("cut")])

    `content` is a text, or steps. In a stream they happen one after the other: a text is a delta, a `ToolCall` a
    call, a number is waited for in seconds, a function without arguments is called, and awaited if it is async (the
    `wait` of an event of your world, say), and an error ends the answer there. A plain call waits for all of them and
    gets the whole, or the error. `finish_reason` (None: "tool_calls" after calls, else "stop") is what the service
    says; "pause" belongs to the Responses API. `headers` are answered beside the usual ones.
    """

    content: str | Sequence[Step] = ()
    finish_reason: FinishReason | None = None
    reasoning: str | None = None
    refusal: str | None = None
    usage: Usage = field(default_factory=lambda: Usage(input_uncached=10, output_text=5))
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.content, str):
            object.__setattr__(self, "content", tuple(self.content))
        for step in self.steps:
            if isinstance(step, LLMProviderError):
                check_error(step)
            elif not _is_step(step):
                raise LLMProviderConfigurationError(
                    f"a step of the reply is {step!r}, {type_with_article(step)}; it must be a text, seconds from 0, a "
                    "ToolCall, an LLMProviderError or a function without arguments"
                )

    @property
    def steps(self) -> Sequence[Step]:
        """The content as steps."""
        return (self.content,) if isinstance(self.content, str) else self.content


def _is_step(step: Any) -> bool:
    if isinstance(step, (int, float)):
        return not isinstance(step, bool) and step >= 0
    return isinstance(step, (str, ToolCall)) or callable(step)


class PydanticModel(Protocol):
    """A pydantic model, which need not be installed."""

    def model_dump_json(self) -> str:
        """Return it as JSON."""
        ...


Scripted = (
    str
    | Sequence[Step]
    | ToolCall
    | LLMProviderError
    | PydanticModel
    | Mapping[str, Any]
    | Reply
    | Callable[["ScriptedCall"], Any]
)
"""What a script is made of: a `Reply`, or what one is made from; see `AsyncScriptedProvider`."""


def tool_call(name: str, /, **arguments: Any) -> ToolCall:
    """Return a call that the scripted model makes: `tool_call("get_weather", city="Oslo")`; its id is made up."""
    return ToolCall("", name, arguments)


@dataclass(frozen=True, slots=True)
class ScriptedCall:
    """What a scripted provider was asked: each try of a call is one.

    `body` is the JSON that would have gone to OpenAI; `headers` have lower-case names. Neither is in the repr.
    """

    api_type: APIType
    body: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages, or the input items of the Responses API, as they were sent."""
        messages: list[dict[str, Any]] = self.body.get("messages", self.body.get("input", []))
        return messages

    @property
    def prompt(self) -> str:
        """The text of the last message."""
        content = self.messages[-1].get("content") if self.messages else ""
        parts = [{"text": content}] if isinstance(content, str) else content or []
        return "".join(part.get("text") or "" for part in parts)

    @property
    def tools(self) -> list[str]:
        """The names of the tools that were offered."""
        return [(tool.get("function") or tool).get("name", "") for tool in self.body.get("tools", ())]

    @property
    def settings(self) -> dict[str, Any]:
        """Everything else that was asked for, by the names of the API: model, temperature, stream …"""
        return {key: value for key, value in self.body.items() if key not in ("messages", "input", "tools")}


def as_reply(scripted: Any) -> Reply | Callable[[ScriptedCall], Any]:
    """Return what the short forms of a reply stand for."""
    if isinstance(scripted, Reply):
        return scripted
    if isinstance(scripted, (ToolCall, LLMProviderError)):
        return Reply([scripted])
    if isinstance(scripted, Mapping):
        return Reply(json.dumps(dict(scripted), ensure_ascii=False))
    if hasattr(scripted, "model_dump_json"):
        return Reply(scripted.model_dump_json())
    if isinstance(scripted, (str, list, tuple)):
        return Reply(scripted)
    if callable(scripted):
        function: Callable[[ScriptedCall], Any] = scripted
        return function
    raise LLMProviderConfigurationError(
        f"a reply of the script is {type_with_article(scripted)}; it must be a text, a list of steps, a ToolCall, "
        "an LLMProviderError, a pydantic object, a dict, a Reply or a function of the call"
    )
