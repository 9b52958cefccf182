"""Server-sent events that differ from an earlier one in nothing but their text. Depends on nothing."""

from __future__ import annotations

from typing import Final

__all__ = ["TextTemplate"]

TRIES: Final = 8
"""So many templates in a row that no event fitted: something else changes in this stream, too."""
PADDING: Final = ',"obfuscation":"'
"""OpenAI's random letters, which hide the length of the text from whoever sees the size of its packets
(developers.openai.com/api/reference, `stream_options.include_obfuscation`)."""


class TextTemplate:
    """Reads the text of an event's JSON by comparing the rest of it with that of an event that was decoded.

    JSON that is the same but for a string without quotes, backslashes and control characters has the same structure,
    and differs in that string's value alone: to find that out takes an eighth of the time of decoding it. `key` is the
    key of the string.
    """

    __slots__ = ("_after", "_before", "_end", "_key", "_padded", "_start", "_tries")

    def __init__(self, key: str) -> None:
        self._key = f'"{key}"'
        self._before, self._after, self._end = "", "", ""
        self._start = 0
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
        self._before = before + key + colon
        self._start = len(self._before) if self._tries else 0
        rest = rest[len(colon) + len(text) :]
        after, padding, padded = rest.partition(PADDING)
        self._padded = bool(padding)
        # The last bracket is the end of what is not padded.
        self._after = after + padding if padding else rest[:-1]
        self._end = padded[padded.index('"') :] if padding else rest[-1]

    def text_of(self, json: str) -> str | None:
        """Return the text of an event, never an empty one; None where it has to be decoded."""
        start = self._start
        if not (start and json.startswith(self._before)):
            return None
        quote = json.find('"', start)
        if not (json.startswith(self._after, quote) and json.endswith(self._end)):
            return None
        text, padding = json[start:quote], json[quote + len(self._after) : -len(self._end)]
        if len(json) != quote + len(self._after) + len(padding) + len(self._end):
            return None  # what stands before the padding overlaps what stands after it
        if "\\" in text or not (text and text.isprintable()) or (padding and not (self._padded and padding.isalnum())):
            return None
        self._tries = TRIES
        return text
