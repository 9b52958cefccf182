"""One call, neutral of the provider and checked: what a wire format turns into a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, TypedDict

from .config import SAMPLING, APIType, LLMConfig, Settings
from .errors import LLMProviderBadRequestError, type_with_article
from .messages import Message
from .schema import AdaptedSchema, SchemaDialect
from .structured import OutputFormat
from .tools import Tool

__all__ = ["Adjustment", "Call", "CallOptions", "ToolChoice", "checked_tool_choice"]

ToolChoice = str | Mapping[str, Any]


class CallOptions(Settings, total=False):
    """The keywords of a single call: every setting, and what belongs to one call only.

    `tools` are typed functions, pydantic models, dicts in the shape of Chat Completions, or `Tool` objects.
    `response_format` is a pydantic model or another type, whose object the response then has in `parsed`, or a dict
    in the shape of Chat Completions, which is sent as it is; `structured.schema_format` makes a type of a JSON schema.
    With `background` the Responses API works on although nobody is connected: a plain answer comes at once, with
    `finish_reason` "pause" and an id to wait for, and a broken stream is taken up again where it broke. With
    `raw_events` the events of a stream hold each server-sent event as it came, too. Where the provider has a cache,
    `use_cache` False leaves it out of this call, and a `cache_scope`, such as a user's id, keeps this call's answer
    for calls of the same scope.
    """

    model_name: str
    tools: Sequence[Tool | Mapping[str, Any] | Callable[..., Any]] | None
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    response_format: type[Any] | UnionType | OutputFormat | Mapping[str, Any] | None
    background: bool
    raw_events: bool
    use_cache: bool
    cache_scope: str | None


def checked_tool_choice(choice: Any) -> ToolChoice | None:
    """Return a `tool_choice`; raises LLMProviderBadRequestError for what is none, and for a function without a name."""
    if choice is None or isinstance(choice, str):
        return choice
    if not isinstance(choice, Mapping):
        allowed = "'auto', 'none', 'required', the name of a tool, or a dict"
        raise LLMProviderBadRequestError(f"tool_choice is {type_with_article(choice)}; it must be {allowed}")
    if choice.get("type") == "function" or "function" in choice:
        function = choice.get("function", choice)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            shape = "{'type': 'function', 'function': {'name': …}}"
            raise LLMProviderBadRequestError(f"tool_choice names no function; it must be like {shape}")
        return {"type": "function", **choice}
    return choice


class Adjustment(TypedDict):
    """A change that was made to what would have been sent: which parameter, what was done, and why."""

    parameter: str
    action: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is asked, with the settings in force.

    `instructions` is the system prompt. `tool_choice` is "auto", "none", "required", the name of a tool, or a dict
    in the API's own shape. `output_format` is the type that the answer must be; `in_dialect` makes a
    `response_format` of it. `previous_response_id` continues an answer that the service stored (Responses API).
    `stream`: the answer travels as server-sent events. `omit` names defaults that the service has refused before.
    `operation` is "chat" for what a model answers; other requests have names of their own, and no messages.
    """

    config: LLMConfig
    api_type: APIType
    messages: tuple[Message, ...]
    instructions: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: Mapping[str, Any] | None = None
    output_format: OutputFormat | None = None
    previous_response_id: str | None = None
    background: bool = False
    raw_events: bool = False
    keep_text: bool = True
    use_cache: bool = True
    cache_scope: str | None = None
    stream: bool = False
    omit: frozenset[str] = field(default_factory=frozenset)
    operation: str = "chat"

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.config.model_name

    def sampling(self) -> dict[str, Any]:
        """Return the sampling parameters to send: those that the caller set, and the default temperature."""
        explicit = self.config.explicit
        named = {name: getattr(self.config, name) for name in SAMPLING if name in explicit or name == "temperature"}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in named.items() if v is not None}

    def in_dialect(self, dialect: SchemaDialect) -> tuple[Call, list[Adjustment]]:
        """Return the call with the schemas of Python's types in the service's dialect, and what they lost by it.

        The caller's own schemas stay as they are.
        """
        if not self.output_format and not self.tools:
            return self, []
        adjustments: list[Adjustment] = []
        response_format, tools = self.response_format, []
        if self.output_format:
            response_format, adapted = self.output_format.adapted(dialect)
            adjustments += _adjustments("response_format", adapted, dialect)
        for tool in self.tools:
            if tool.function is not None and tool.parameters is not None and (tool.strict or not dialect.any_tool):
                adapted = dialect.adapt(tool.parameters)
                adjustments += _adjustments(f"tools.{tool.name}", adapted, dialect)
                tool = replace(tool, parameters=adapted.schema)
            tools.append(tool)
        return replace(self, response_format=response_format, tools=tuple(tools)), adjustments


def _adjustments(parameter: str, adapted: AdaptedSchema, dialect: SchemaDialect) -> list[Adjustment]:
    reason = f"{dialect.name} cannot say it; llmkit checks the answer"
    notes = adapted.notes.items()
    return [Adjustment(parameter=parameter, action=f"{what}: {', '.join(at)}", reason=reason) for what, at in notes]
