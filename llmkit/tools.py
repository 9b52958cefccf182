"""What a model may call, in one shape whatever the caller passed, and answers to its calls.

Imports errors, config, response, checked and functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import NoneType
from typing import Any, Final

from .checked import CheckedType
from .config import nearest
from .errors import LLMProviderBadRequestError, check_fields, type_with_article
from .functions import python_function
from .response import LLMResponse, ToolCall

__all__ = ["Tool", "Toolbox", "forces_call", "parse_tools", "tool_result"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call, described by a JSON schema.

    Tool(name="weather", description="Look up the weather", parameters={"type": "object", "properties": {…}})
    Tool(function=weather, strict=True)             # name, description and parameters are those of the function

    `parameters` is the schema of its arguments (None: it takes none); `strict` asks the service to enforce it.
    `function` is the Python function, or the type of the arguments, that the tool is made of; it is not sent. `extra`
    holds keys that one API knows besides, e.g. Anthropic's `cache_control`, as do the other keys of a dict. A tool
    that the service itself runs, or of a kind that llmkit does not know, is `native`: the service's own dict, sent as
    it is.
    """

    name: str = ""
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None
    native: Mapping[str, Any] | None = None
    function: Callable[..., Any] | None = field(default=None, repr=False)
    extra: Mapping[str, Any] = field(default_factory=dict)


_FIELDS: Final[Mapping[str, tuple[Any, str]]] = {
    "name": (str, "a string"),
    "description": ((str, NoneType), "a string, or None"),
    "parameters": ((Mapping, NoneType), "a dict, or None"),
    "native": ((Mapping, NoneType), "a dict, or None"),
    "function": ((Callable, NoneType), "a function, or None"),
    "extra": (Mapping, "a dict"),
}
_KNOWN_KEYS: Final = {"type", "function", "name", "description", "parameters", "input_schema", "strict"}


def parse_tools(tools: Any) -> tuple[Tool, ...]:
    """Return the tools that a caller passed: typed functions, pydantic models, `Tool` objects and dicts.

    A dict may have the shape of Chat Completions (`{"type": "function", "function": {…}}`), of the Responses API
    (`{"type": "function", "name": …}`) or of Anthropic (`{"name": …, "input_schema": {…}}`).
    Raises LLMProviderBadRequestError, naming the place, or the function.
    """
    if tools is None:
        return ()
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise LLMProviderBadRequestError(f"tools is {type_with_article(tools)}; it must be a list")
    return tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools))


def _tool(tool: Any, place: str) -> Tool:
    if isinstance(tool, Tool):
        check_fields(tool, place, _FIELDS)
        return tool if tool.function is None or tool.parameters is not None else _made_of(tool.function, tool)
    if callable(tool):
        return _made_of(tool, Tool(function=tool))
    if not isinstance(tool, Mapping):
        raise LLMProviderBadRequestError(
            f"{place} is {type_with_article(tool)}; it must be a function, a pydantic model, a dict or a Tool"
        )
    kind, outer = tool.get("type", "function"), tool
    if kind == "function" and isinstance(tool.get("function"), Mapping):
        tool = tool["function"]
    elif kind not in ("function", "custom") or "custom" in tool or (kind == "custom" and "input_schema" not in tool):
        return Tool(native=dict(tool))
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise LLMProviderBadRequestError(
            f"{place} has no name; it must be like {{'type': 'function', 'function': {{'name': …, 'parameters': …}}}}"
        )
    made = Tool(
        name=name,
        description=tool.get("description"),
        parameters=tool.get("parameters", tool.get("input_schema")),
        strict=tool.get("strict"),
        extra={key: value for key, value in {**outer, **tool}.items() if key not in _KNOWN_KEYS},
    )
    check_fields(made, place, _FIELDS)
    return made


def _made_of(function: Callable[..., Any], tool: Tool) -> Tool:
    """Return a tool with what a function, or a type, says of itself, where the tool does not say it."""
    if not isinstance(function, type):
        made = python_function(function)
        name, description, parameters = made.name, made.description, made.parameters
    else:
        name, parameters = function.__name__, dict(CheckedType(function, function.__name__).schema)
        if parameters.get("type") != "object":
            raise LLMProviderBadRequestError(f"{name} is no model: a tool takes parameters with names")
        description = parameters.pop("description", None)
        parameters.pop("title", None)
    return replace(tool, name=tool.name or name, description=tool.description or description, parameters=parameters)


class Toolbox:
    """The tools of a conversation in which llmkit makes the calls: each call of the model, bound to its function.

    Raises LLMProviderBadRequestError for an async function where nothing can await it (`may_await` is False).
    """

    def __init__(self, tools: Any, *, may_await: bool) -> None:
        self.tools = parse_tools(tools)
        self._functions = {
            tool.name: python_function(tool.function)
            for tool in self.tools
            if tool.function is not None and not isinstance(tool.function, type)
        }
        self._strict = {tool.name for tool in self.tools if tool.strict}
        self._others = {tool.name or (tool.native or {}).get("name") for tool in self.tools} - self._functions.keys()
        for name, function in self._functions.items():
            if function.is_async and not may_await:
                raise LLMProviderBadRequestError(f"the tool {name} is an async function; run it by an async provider")

    def message(self, answer: LLMResponse, position: int) -> dict[str, Any]:
        """Return an answer as the message at a position; a call without an id gets one.

        Only an `LLMProvider` of the user's own may leave it out: the answers of services have ids when they are built.
        """
        for number, call in enumerate(answer.tool_calls):
            call.id = call.id or f"call_{position}_{number}"
        return answer.to_message()

    def goes_on(self, answer: LLMResponse) -> bool:
        """Return whether something follows: results of calls that can all be made here, or the rest of a pause."""
        if answer.finish_reason == "pause" and answer.native:
            return True
        return bool(answer.tool_calls) and not any(call.name in self._others for call in answer.tool_calls)

    def bound(self, call: ToolCall) -> Callable[[], Any]:
        """Return what makes a call; raises ValueError, with what the model is to be told, where it is none."""
        function = self._functions.get(call.name)
        if function is None:
            raise ValueError(f"there is no tool {call.name!r}{nearest(call.name, self._functions)}")
        if call.parse_error:
            raise ValueError(call.parse_error)
        return function.bound(call.arguments, adapted=call.name in self._strict)


def tool_result(call: ToolCall, value: Any, *, is_error: bool = False) -> dict[str, Any]:
    """Return the message that answers a call: a string as it is, any other value as JSON."""
    if not isinstance(value, str):
        from pydantic_core import PydanticSerializationError, to_json  # type: ignore[import-not-found, unused-ignore]

        try:
            value = to_json(value).decode()
        except PydanticSerializationError as error:
            raise TypeError(f"the tool {call.name} returned {type_with_article(value)}: {error}") from None
    message = {"role": "tool", "tool_call_id": call.id, "content": value}
    return message | {"is_error": True} if is_error else message


def forces_call(tool_choice: Any) -> bool:
    """Return whether a `tool_choice` leaves the model no other answer than a call: then it would never end."""
    if isinstance(tool_choice, Mapping):
        return tool_choice.get("type") in ("any", "custom", "function", "required", "tool")
    return tool_choice not in (None, "auto", "none")
