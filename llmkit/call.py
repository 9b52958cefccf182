"""One call, neutral of the provider and checked: what a wire format turns into a request. Floor 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from .config import SAMPLING, APIType, LLMConfig, Settings
from .messages import Message
from .tools import Tool

__all__ = ["Adjustment", "Call", "CallOptions", "ToolChoice"]

ToolChoice = str | Mapping[str, Any]


class CallOptions(Settings, total=False):
    """The keywords of a single call: every setting, and what belongs to one call only."""

    tools: Sequence[Tool | Mapping[str, Any]] | None
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    response_format: Mapping[str, Any] | None


class Adjustment(TypedDict):
    """A change that was made to what would have been sent: which parameter, what was done, and why."""

    parameter: str
    action: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is asked, with the settings in force.

    `instructions` is the system prompt. `tool_choice` is "auto", "none", "required", the name of a tool, or a dict
    in the API's own shape. `previous_response_id` continues an answer that the service stored (Responses API).
    `stream`: the answer travels as server-sent events. `omit` names defaults that the service has refused before.
    """

    config: LLMConfig
    api_type: APIType
    messages: tuple[Message, ...]
    instructions: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: Mapping[str, Any] | None = None
    previous_response_id: str | None = None
    stream: bool = False
    omit: frozenset[str] = field(default_factory=frozenset)

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.config.model_name

    def sampling(self) -> dict[str, Any]:
        """Return the sampling parameters to send: those that the caller set, and the default temperature."""
        explicit = self.config.explicit
        named = {name: getattr(self.config, name) for name in SAMPLING if name in explicit or name == "temperature"}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in named.items() if v is not None}
