"""What of a prompt costs tokens, in the shape that `conversation` reads: Chat Completions, with bytes as they are.

Imports messages, structured and tools.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from .messages import Audio, File, Image, Message, Part, RawPart, Text
from .structured import OutputFormat
from .tools import Tool

__all__ = ["Countable", "countable"]


class Countable(NamedTuple):
    """The arguments of `MessageTokenCounter.count`."""

    messages: list[dict[str, Any]]
    tools: list[Mapping[str, Any]] | None
    response_format: Mapping[str, Any] | None


def countable(
    messages: Iterable[Message],
    *,
    instructions: str | None = None,
    tools: Iterable[Tool] = (),
    response_format: Mapping[str, Any] | None = None,
    output_format: OutputFormat | None = None,
) -> Countable:
    """Return what of a prompt costs tokens.

    Not in it is what only its issuer can read, such as encrypted reasoning: what that costs is not known here.
    """
    system = [{"role": "system", "content": instructions}] if instructions else []
    if output_format is not None:
        response_format = {"type": "json_schema", "json_schema": {"schema": output_format.schema}}
    return Countable([*system, *map(_message, messages)], list(map(_tool, tools)) or None, response_format)


def _message(message: Message) -> dict[str, Any]:
    content = message.content
    shown: dict[str, Any] = {"role": message.role, "name": message.name, "refusal": message.refusal}
    shown["content"] = content if isinstance(content, str) else [_part(part) for part in message.parts]
    if message.tool_calls:
        calls = message.tool_calls
        shown["tool_calls"] = [{"function": {"name": call.name, "arguments": call.arguments_text}} for call in calls]
    return shown


def _part(part: Part) -> Mapping[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": part.data or part.url, "detail": part.detail}}
    if isinstance(part, Audio):
        return {"type": "input_audio", "input_audio": {"data": part.data}}
    if isinstance(part, File):
        return {"type": "file", "file": {"file_data": part.data}}
    return {"type": "text", "text": _said(part)}


# What a part or an item of a kind that is not known here says, in the APIs that there are.
_SAID = ("text", "thinking", "name", "arguments", "output", "content", "input")


def _said(part: RawPart) -> str:
    return " ".join(value for key in _SAID if isinstance(value := part.data.get(key), str))


def _tool(tool: Tool) -> Mapping[str, Any]:
    if tool.native is not None:
        return tool.native
    return {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
