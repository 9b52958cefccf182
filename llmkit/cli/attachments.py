"""What a prompt is made of: its words, files, and standard input. Text is put into the text; the rest are parts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

from ..errors import LLMProviderConfigurationError
from ..messages import Audio, File, Image, Message, Part, Text
from .terminal import is_terminal

__all__ = ["read_bytes", "read_part", "read_standard_input", "text_of", "user_message"]

# What the files begin with: the W3C's and the IETF's registrations of their media types.
_KINDS: tuple[tuple[bytes, bytes, Callable[[bytes, str], Part]], ...] = (
    (b"\x89PNG\r\n\x1a\n", b"", lambda data, name: Image(data, "image/png")),
    (b"\xff\xd8\xff", b"", lambda data, name: Image(data, "image/jpeg")),
    (b"GIF87a", b"", lambda data, name: Image(data, "image/gif")),
    (b"GIF89a", b"", lambda data, name: Image(data, "image/gif")),
    (b"RIFF", b"WEBP", lambda data, name: Image(data, "image/webp")),
    (b"RIFF", b"WAVE", lambda data, name: Audio(data, "wav")),
    *((beginning, b"", lambda data, name: Audio(data, "mp3")) for beginning in (b"ID3\3", b"ID3\4", b"\xff\xfb")),
    (b"%PDF-", b"", lambda data, name: File(data, name if name.endswith(".pdf") else "document.pdf")),
)


def read_standard_input() -> bytes:
    """Return what is piped in; nothing where somebody sits at a keyboard, or it is closed."""
    return b"" if sys.stdin is None or is_terminal(sys.stdin) else sys.stdin.buffer.read()


def read_bytes(path: str) -> bytes:
    """Return a file's content, "-" being standard input; raises LLMProviderConfigurationError for an unreadable one."""
    if path == "-":
        return b"" if sys.stdin is None else sys.stdin.buffer.read()
    try:
        return Path(path).expanduser().read_bytes()
    except (OSError, ValueError) as error:
        told = error.strerror if isinstance(error, OSError) else error
        raise LLMProviderConfigurationError(f"{path} cannot be read: {told}") from None


def read_part(data: bytes, name: str) -> Part:
    """Return a file's content as what it is: an image, a recording, a PDF, or else UTF-8 text.

    Raises LLMProviderConfigurationError for anything else.
    """
    for beginning, eighth, make in _KINDS:
        if data.startswith(beginning) and data[8:].startswith(eighth):
            return make(data, Path(name).name)
    return Text(text_of(data, name))


def text_of(data: bytes, name: str) -> str:
    """Return the text that bytes are; raises LLMProviderConfigurationError where they are none."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise LLMProviderConfigurationError(f"{name} is no text in UTF-8, and no image, sound or PDF that is known")
    return text


def user_message(prompt: str, files: Iterable[str] = (), piped: bytes = b"") -> Message | None:
    """Return the message of a prompt, files and what was piped in, None where there is nothing in it.

    All text is joined, that of a file with its name, the prompt first; the other parts come after it.
    """
    texts: list[str] = [prompt]
    parts: list[Part] = []
    for path in files:
        name, part = Path(path).name, read_part(read_bytes(path), path)
        if isinstance(part, Text):
            texts.append(f'<file name="{escape(name)}">\n{part.text}\n</file>')
        else:
            parts.append(part)
    if piped:
        part = read_part(piped, "standard input")
        if isinstance(part, Text):
            texts.append(part.text)
        else:
            parts.append(part)
    text = "\n\n".join(text for text in texts if text.strip())
    if not text and not parts:
        return None
    return Message(role="user", content=[*([text] if text else []), *parts] if parts else text)
