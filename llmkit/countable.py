"""What of a prompt costs tokens, in the shape that `conversation` reads: Chat Completions, with bytes as they are.

Imports messages, response, structured and tools.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from .messages import Audio, File, Image, Message, Part, RawPart, Text
from .response import argument_text
from .structured import OutputFormat
from .tools import Tool

if TYPE_CHECKING:
    from .call import Call

__all__ = ["Countable", "countable", "fits_by_length"]


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
        calls = [{"name": call.name, "arguments": argument_text(call)} for call in message.tool_calls]
        shown["tool_calls"] = [{"function": call} for call in calls]
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


def fits_by_length(call: Call, limit: int) -> bool:
    """Return whether a call is so short that it need not be counted, nor what counts it be loaded.

    It has nothing but texts, tools and a format then. A token is at least one byte, a character at most four. Besides
    its text, a message costs a few tokens, a property less than its name and its braces have characters, and what some
    services add of their own up to 400.
    """
    length = len(call.instructions or "")
    for message in call.messages:
        for part in message.parts:
            if not isinstance(part, Text):
                return False
            length += len(part.text)
        if message.tool_calls or message.name or message.refusal:
            return False
    if call.tools or call.response_format is not None or call.output_format is not None:
        tools = [(tool.name, tool.description, tool.parameters, tool.native) for tool in call.tools]
        try:
            length += len(repr((tools, call.response_format, call.output_format and call.output_format.schema)))
        except RecursionError:
            return False
    return length * 4 + len(call.messages) * 8 + 400 <= limit
