"""What a model may call: tools in one shape, whatever the caller passed. Imports errors only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import LLMProviderBadRequestError

__all__ = ["Tool", "parse_tools"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may call, described by a JSON schema.

    `parameters` is the schema of its arguments (None: it takes none); `strict` asks the service to enforce it.
    A tool that the service itself runs, or of a kind that llmkit does not know, is `native`: the service's own
    dict, sent as it is.
    """

    name: str = ""
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    strict: bool | None = None
    native: Mapping[str, Any] | None = None


def parse_tools(tools: Any) -> tuple[Tool, ...]:
    """Return the tools that a caller passed: `Tool` objects and dicts.

    A dict may have the shape of Chat Completions (`{"type": "function", "function": {…}}`), of the Responses API
    (`{"type": "function", "name": …}`) or of Anthropic (`{"name": …, "input_schema": {…}}`).
    Raises LLMProviderBadRequestError, naming the place.
    """
    if tools is None:
        return ()
    if not isinstance(tools, Sequence) or isinstance(tools, str):
        raise LLMProviderBadRequestError(f"tools is a {type(tools).__name__}; it must be a list")
    return tuple(_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools))


def _tool(tool: Any, place: str) -> Tool:
    if isinstance(tool, Tool):
        return tool
    if not isinstance(tool, Mapping):
        raise LLMProviderBadRequestError(f"{place} is a {type(tool).__name__}; it must be a dict or a Tool")
    kind = tool.get("type", "function")
    if kind == "function" and isinstance(tool.get("function"), Mapping):
        tool = tool["function"]
    elif kind not in ("function", "custom") or "custom" in tool or kind == "custom" and "input_schema" not in tool:
        return Tool(native=dict(tool))
    name = tool.get("name")
    if not isinstance(name, str) or not name:
        raise LLMProviderBadRequestError(f"{place} has no name; it must be like "
                                         "{'type': 'function', 'function': {'name': …, 'parameters': {…}}}")  # fmt: skip
    return Tool(
        name=name,
        description=tool.get("description"),
        parameters=tool.get("parameters", tool.get("input_schema")),
        strict=tool.get("strict"),
    )
