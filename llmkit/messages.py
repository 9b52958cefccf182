"""What callers may say: messages, and the parts of their content. Imports errors, codec, config and response."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any, Final

from .codec import encode_json
from .config import nearest
from .errors import LLMProviderBadRequestError, check_fields, type_with_article
from .response import Issuer, ToolCall

__all__ = [
    "Audio",
    "File",
    "Image",
    "Message",
    "Part",
    "RawPart",
    "Text",
    "data_url",
    "parse_messages",
]

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
ITEM: Final = "item"
"""The role of an input item of the Responses API that is no message: it goes there as it is, and nowhere else."""
Extra = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text. `extra` holds keys that one API knows besides, e.g. Anthropic's `cache_control`."""

    text: str
    extra: Extra = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Image:
    """A picture: its bytes and their media type, or a URL, or the id of an uploaded file.

    Image.from_path("cat.png")
    Image(url="https://example.com/cat.png", detail="low")
    """

    data: bytes | None = field(default=None, repr=False)
    media_type: str = "image/png"
    url: str | None = None
    file_id: str | None = None
    detail: str | None = None
    extra: Extra = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_source(self)

    @classmethod
    def from_path(cls, path: str | Path, **settings: Any) -> Image:
        """Read a picture; raises OSError, and LLMProviderBadRequestError where the name has no image ending."""
        return cls(Path(path).read_bytes(), _media_type(path, "image/"), **settings)


@dataclass(frozen=True, slots=True)
class Audio:
    """A recording: its bytes and their format, "wav" or "mp3"."""

    data: bytes = field(repr=False)
    format: str = "wav"
    extra: Extra = field(default_factory=dict)

    @classmethod
    def from_path(cls, path: str | Path) -> Audio:
        """Read a recording; its format is the ending of its name."""
        return cls(Path(path).read_bytes(), Path(path).suffix.lstrip(".").lower() or "wav")


@dataclass(frozen=True, slots=True)
class File:
    """A document, most often a PDF: its bytes with name and media type, or a URL, or the id of an uploaded file."""

    data: bytes | None = field(default=None, repr=False)
    filename: str = "document.pdf"
    media_type: str = "application/pdf"
    url: str | None = None
    file_id: str | None = None
    extra: Extra = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_source(self)

    @classmethod
    def from_path(cls, path: str | Path) -> File:
        """Read a document; its media type follows from its name."""
        return cls(Path(path).read_bytes(), Path(path).name, _media_type(path, ""))


@dataclass(frozen=True, slots=True)
class RawPart:
    """A part of a kind that llmkit does not know: it goes to the service as it is."""

    data: Mapping[str, Any]


Part = Text | Image | Audio | File | RawPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of a conversation.

    `role` is system, developer, user, assistant or tool; `content` a string, or a list of strings and parts.
    An assistant's message may have `tool_calls`, a `refusal`, and native parts with their issuer;
    a tool's result has the `tool_call_id` that it answers, and `is_error` where the tool failed. `extra` holds
    other keys of a plain dict; they go to APIs of the Chat Completions kind only.
    """

    role: str
    content: str | Sequence[str | Part] | None = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    refusal: str | None = None
    is_error: bool = False
    native: tuple[Mapping[str, Any], ...] = ()
    issuer: Issuer | None = None
    extra: Extra = field(default_factory=dict)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The content as parts."""
        content = (self.content,) if isinstance(self.content, str) else self.content or ()
        return tuple(Text(part) if isinstance(part, str) else part for part in content)

    @property
    def text(self) -> str:
        """The text of the content, without its other parts."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


_STRING: Final = (str, "a string")
_OPTIONAL: Final = ((str, NoneType), "a string, or None")
# The usual type first: asking for it takes a quarter of the time that the abstract one takes.
_MAPPING: Final = ((dict, Mapping), "a dict")
_DATA: Final = ((bytes, bytearray, memoryview, NoneType), "bytes, or None")
_FILE_FIELDS: Final = {"data": _DATA, "media_type": _STRING, "url": _OPTIONAL, "file_id": _OPTIONAL}
_PART_FIELDS: Final[Mapping[type, Mapping[str, tuple[Any, str]]]] = {
    Text: {"text": _STRING, "extra": _MAPPING},
    Image: {**_FILE_FIELDS, "detail": _OPTIONAL, "extra": _MAPPING},
    Audio: {"data": ((bytes, bytearray, memoryview), "bytes"), "format": _STRING, "extra": _MAPPING},
    File: {**_FILE_FIELDS, "filename": _STRING, "extra": _MAPPING},
    RawPart: {"data": _MAPPING},
}
_CALL_FIELDS: Final = {"id": _STRING, "name": _STRING, "arguments": _MAPPING, "arguments_text": _STRING}
_MESSAGE_FIELDS: Final = {
    "name": _OPTIONAL,
    "refusal": _OPTIONAL,
    "native": ((tuple, list), "a tuple of dicts"),
    "issuer": ((Issuer, NoneType), "an Issuer, or None"),
    "extra": _MAPPING,
}


def parse_messages(messages: Any) -> tuple[Message, ...]:
    """Return the messages that a caller passed, checked.

    A string is one message of the user; a list may hold `Message` objects and dicts in the shape of Chat
    Completions. Raises LLMProviderBadRequestError, naming the place, the value and what is allowed.
    """
    if isinstance(messages, str):
        return (Message(role="user", content=messages),)
    if isinstance(messages, (Message, Mapping)):
        messages = [messages]
    listed = _list(messages, "messages", "a string or a list of messages")
    if not listed:
        raise LLMProviderBadRequestError("messages is empty; there must be at least one message")
    return tuple(parse_message(message, f"messages[{i}]") for i, message in enumerate(listed))


def parse_message(message: Any, place: str) -> Message:
    """Return one message, checked; `place` names it in errors."""
    if isinstance(message, Mapping):
        parsed = _from_mapping(message, place)
    elif isinstance(message, Message):
        parsed = replace(
            message,
            content=_content(message.content, f"{place}.content"),
            tool_calls=_tool_calls(message.tool_calls, f"{place}.tool_calls"),
        )
    else:
        raise LLMProviderBadRequestError(f"{place} is {type_with_article(message)}; it must be a dict or a Message")
    is_item = parsed.role == ITEM and all(isinstance(part, RawPart) for part in parsed.parts)
    if parsed.role not in ROLES and not is_item:
        raise LLMProviderBadRequestError(f"{place}.role is {parsed.role!r}{nearest(parsed.role, ROLES)}")
    if parsed.role == "tool" and not (parsed.tool_call_id and isinstance(parsed.tool_call_id, str)):
        raise LLMProviderBadRequestError(f"{place} answers no tool call; it needs the tool_call_id of the call")
    if parsed.content in (None, ()) and not (parsed.tool_calls or parsed.refusal or parsed.native):
        what = "None" if parsed.content is None else "empty"
        raise LLMProviderBadRequestError(f"{place}.content is {what}; it must be a string or a list of parts")
    check_fields(parsed, place, _MESSAGE_FIELDS)
    if not all(isinstance(part, Mapping) for part in parsed.native):
        raise LLMProviderBadRequestError(f"{place}.native holds what is no dict; it must be a tuple of dicts")
    return parsed


def _from_mapping(message: Mapping[str, Any], place: str) -> Message:
    if "role" not in message and isinstance(message.get("type"), str):
        return Message(role=ITEM, content=(RawPart(message),))
    if "role" not in message:
        raise LLMProviderBadRequestError(f"{place} has no role; it must be one of {', '.join(ROLES)}")
    known = {key: message[key] for key in ("role", "name", "tool_call_id", "is_error", "refusal") if key in message}
    if message.get("native"):
        known["issuer"], known["native"] = _native(message["native"], place)
    return Message(
        **known,
        content=_content(message.get("content"), f"{place}.content"),
        tool_calls=_tool_calls(message.get("tool_calls"), f"{place}.tool_calls"),
        extra={key: value for key, value in message.items() if key not in _MESSAGE_KEYS},
    )


_MESSAGE_KEYS: Final = {"role", "content", "name", "tool_call_id", "is_error", "refusal", "tool_calls", "native"}


def _native(native: Any, place: str) -> tuple[Issuer, tuple[Mapping[str, Any], ...]]:
    try:
        return Issuer(**native["issuer"]), tuple(dict(part) for part in native["parts"])
    except (LookupError, TypeError, ValueError):
        raise LLMProviderBadRequestError(f"{place}.native is not as LLMResponse.to_message() made it") from None


def _content(content: Any, place: str) -> str | tuple[Part, ...] | None:
    if content is None or isinstance(content, str):
        return content
    return tuple(
        _part(part, f"{place}[{i}]") for i, part in enumerate(_list(content, place, "a string or a list of parts"))
    )


def _part(part: Any, place: str) -> Part:
    made = _made_part(part, place)
    check_fields(made, place, _PART_FIELDS.get(type(made), {}))
    return made


def _made_part(part: Any, place: str) -> Part:
    if isinstance(part, (Text, Image, Audio, File, RawPart)):
        return part
    if isinstance(part, str):
        return Text(part)
    if not isinstance(part, Mapping) or not isinstance(part.get("type"), str):
        shape = "{'type': 'text', 'text': '…'}"
        raise LLMProviderBadRequestError(f"{place} must be a string, a part, or a dict with a type, like {shape}")
    reader = _PART_READERS.get(part["type"])
    try:
        return reader(part) if reader else RawPart(part)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        told = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise LLMProviderBadRequestError(f"{place} is no valid part of type {part['type']!r}: {told}") from None


def _others(part: Mapping[str, Any], *known: str) -> Extra:
    return {key: value for key, value in part.items() if key != "type" and key not in known}


def _read_text(part: Mapping[str, Any]) -> Part:
    if not isinstance(part["text"], str):
        raise TypeError("its text is no string")
    return Text(part["text"], _others(part, "text"))


def _read_image(part: Mapping[str, Any]) -> Part:
    image = part["image_url"]
    image = {"url": image} if isinstance(image, str) else image
    url, detail, extra = image["url"], image.get("detail"), _others(part, "image_url")
    if url.startswith("data:"):
        media_type, data = _read_data_url(url)
        return Image(data, media_type, detail=detail, extra=extra)
    return Image(url=url, detail=detail, extra=extra)


def _read_audio(part: Mapping[str, Any]) -> Part:
    audio = part["input_audio"]
    return Audio(base64.b64decode(audio["data"], validate=True), audio["format"], _others(part, "input_audio"))


def _read_file(part: Mapping[str, Any]) -> Part:
    file, extra = part["file"], _others(part, "file")
    if "file_data" not in file:
        return File(file_id=file["file_id"], extra=extra)
    media_type, data = _read_data_url(file["file_data"])
    return File(data, file.get("filename", "document.pdf"), media_type, extra=extra)


# developers.openai.com/api/reference/resources/chat: the content parts of a user's message.
_PART_READERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Part]]] = {
    "text": _read_text,
    "image_url": _read_image,
    "input_audio": _read_audio,
    "file": _read_file,
}


def _tool_calls(calls: Any, place: str) -> tuple[ToolCall, ...]:
    parsed = tuple(_tool_call(call, f"{place}[{i}]") for i, call in enumerate(_list(calls or (), place)))
    for i, call in enumerate(parsed):
        check_fields(call, f"{place}[{i}]", _CALL_FIELDS)
        if not call.arguments_text:
            encode_json(call.arguments, f"{place}[{i}].arguments")
    return parsed


def _tool_call(call: Any, place: str) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    try:
        if call.get("type") == "custom":
            return ToolCall.from_text(call["id"], call["custom"]["name"], call["custom"]["input"], "custom")
        return ToolCall.from_text(call["id"], call["function"]["name"], call["function"].get("arguments") or "")
    except (KeyError, TypeError, AttributeError) as error:
        told = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        shape = "{'id': …, 'type': 'function', 'function': {'name': …, 'arguments': '{}'}}"
        raise LLMProviderBadRequestError(f"{place} is no tool call: {told}; it must be like {shape}") from None


def _list(value: Any, place: str, allowed: str = "a list") -> Sequence[Any]:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return value
    raise LLMProviderBadRequestError(f"{place} is {type_with_article(value)}; it must be {allowed}")


def data_url(media_type: str, data: bytes) -> str:
    """Return bytes as a base64 data URL (RFC 2397)."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _read_data_url(url: str) -> tuple[str, bytes]:
    """Return the media type and the bytes of a base64 data URL (RFC 2397)."""
    head, comma, data = url.removeprefix("data:").partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError("a data URL must be like data:image/png;base64,…")
    return head.removesuffix(";base64"), base64.b64decode(data, validate=True)


def _check_source(part: Image | File) -> None:
    given = [name for name in ("data", "url", "file_id") if getattr(part, name) not in (None, "")]
    if len(given) != 1:
        has = " and ".join(given) or "no content"
        raise LLMProviderBadRequestError(f"{type(part).__name__} has {has}; pass one of data, url and file_id")


def _media_type(path: str | Path, kind: str) -> str:
    import mimetypes

    media_type = mimetypes.guess_type(str(path))[0] or ""
    if not media_type.startswith(kind):
        told = f"{path} has no ending of an {kind.rstrip('/')} file; pass the bytes and media_type"
        raise LLMProviderBadRequestError(told)
    return media_type or "application/octet-stream"
