"""How an HTTP/1.1 body ends, and the chunked transfer coding, incrementally: bytes in, bytes out. Depends on nothing.

RFC 9112 §6.3 and §7.1. What is accepted is what h11 accepts: sizes of up to 20 hexadecimal digits, chunk extensions
(ignored), blanks at the end of a size line, CRLF alone as the end of a line. It takes a small part of h11's time,
because it makes no event of a chunk: what one read brought is given as one piece.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

__all__ = ["ChunkedDecoder", "ChunkedError", "body_length"]

LONGEST_SIZE_LINE = 16 * 1024
SIZE_LINE = re.compile(rb"\r\n([0-9A-Fa-f]{1,20})(?:;.*)?[ \t]*")
REMEMBERED_LINES = 4096


class ChunkedError(ValueError):
    """The bytes are no chunked body."""


class ChunkedDecoder:
    """Takes a chunked body as it comes, and gives at once what it carries, also of a chunk that is not yet whole.

    `complete` turns True with the size line of the last chunk. `rest` then holds the bytes after that line: the
    trailer section, the empty line that ends the body, and whatever follows it. `failure` is what is wrong with the
    body after the part that was given, or None; nothing more can be fed then.
    """

    __slots__ = ("_held", "_left", "complete", "failure", "rest")

    def __init__(self) -> None:
        self.complete = False
        self.rest = b""
        self.failure: ChunkedError | None = None
        # The line end that a chunk closes with and the size line after it are read as one; the first size line
        # has no chunk before it.
        self._held = b"\r\n"
        self._left = 0

    def feed(self, data: bytes) -> bytes:
        """Return the part of the body that `data` brought, b"" where it brought none."""
        position = self._left
        length = len(data)
        if position >= length:
            self._left = position - length
            return data
        pieces = [data[:position]]
        if self._held:
            data = self._held + data
            length = len(data)
        line_end = -1
        while position <= length:
            line_end = data.find(b"\r\n", position + 2)
            if line_end < 0:
                break
            size = _size(data[position:line_end])
            if size is None:
                break
            start = line_end + 2
            if size == 0:
                self.complete, self.rest = True, data[start:]
                return b"".join(pieces)
            position = start + size
            pieces.append(data[start:position])
        self._left = max(position - length, 0)
        self._held = line = data[position:]
        whole = position <= length and line_end >= 0
        if not b"\r\n".startswith(line[:2]):
            self.failure = ChunkedError("malformed chunk footer")
        elif whole or len(line) > LONGEST_SIZE_LINE:
            self.failure = ChunkedError("illegal chunk header")
        return b"".join(pieces)


def body_length(method: bytes, status: int, headers: Iterable[tuple[bytes, bytes]]) -> int | Literal["chunked"] | None:
    """Return how the body of a response ends, for headers that h11 has accepted: RFC 9112 §6.3.

    None is the end of the connection.
    """
    if method == b"HEAD" or status in (204, 304):
        return 0
    fields = {name.lower(): value for name, value in headers}
    if b"transfer-encoding" in fields:
        return "chunked"
    length = fields.get(b"content-length")
    return None if length is None else int(length)


_sizes: dict[bytes, int] = {}


def _size(line: bytes) -> int | None:
    """Return the size that a size line states, None for a line of another kind.

    The lines of a stream repeat: a look-up is cheaper than parsing.
    """
    size = _sizes.get(line)
    if size is None and (match := SIZE_LINE.fullmatch(line)):
        size = int(match[1], 16)
        if len(line) < 16 and len(_sizes) < REMEMBERED_LINES:
            _sizes[line] = size
    return size
