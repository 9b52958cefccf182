"""Server-sent events that differ from an earlier one in nothing but their text. Imports codec."""

from __future__ import annotations

from typing import Final

from ..codec import decode_json

__all__ = ["TextTemplate"]

TRIES: Final = 8
"""So many templates in a row that no event fitted: something else changes in this stream, too."""
PADDING: Final = ',"obfuscation":"'
"""OpenAI's random letters, which hide the length of the text from whoever sees the size of its packets
(developers.openai.com/api/reference, `stream_options.include_obfuscation`)."""


class TextTemplate:
    """Reads the text of an event's JSON by comparing the rest of it with that of an event that was decoded.

    JSON that is the same but for the inside of a string has the same structure, and differs in that string's value
    alone: to find that out takes half the time of decoding it. `key` is the key of the string.
    """

    __slots__ = ("_after", "_before", "_end", "_key", "_padded", "_tries")

    def __init__(self, key: str) -> None:
        self._key = f'"{key}"'
        self._before, self._after, self._end = "", "", ""
        self._padded = False
        self._tries = TRIES

    def learn(self, json: str, text: str) -> None:
        """Take the JSON of an event for a template; `text` is what its one string of the key has as its value."""
        if not self._tries or "\\" in json or json.count(self._key) != 1:
            return
        before, key, rest = json.partition(self._key)
        colon = ': "' if rest.startswith(': "') else ':"'
        if not rest.startswith(f'{colon}{text}"'):
            return
        self._tries -= 1
        self._before = before + key + colon if self._tries else ""
        rest = rest[len(colon) + len(text) :]
        after, padding, padded = rest.partition(PADDING)
        self._padded = bool(padding)
        # The last bracket is the end of what is not padded.
        self._after = after + padding if padding else rest[:-1]
        self._end = padded[padded.index('"') :] if padding else rest[-1]

    def text_of(self, json: str) -> str | None:
        """Return the text of an event, never an empty one; None where it has to be decoded."""
        before, end = self._before, self._end
        if not (before and json.startswith(before)):
            return None
        text, _, rest = json[len(before) :].partition(self._after)
        if rest != end and not (self._padded and rest.endswith(end) and rest[: -len(end)].isalnum()):
            return None
        if "\\" in text or '"' in text or not text.isprintable():
            text = _unescaped(text)
        if text:
            self._tries = TRIES
        return text or None


def _unescaped(text: str) -> str:
    """Return the value of a JSON string, "" where `text` is not the inside of one."""
    try:
        value: str = decode_json(f'"{text}"')
    except ValueError:
        return ""
    return value
