"""Bytes of a response body in, server-sent events out: the parser of WHATWG HTML §9.2.6. No I/O; depends on nothing.

However a stream is cut into chunks, its events are the same, and each comes with the chunk that completes it.

The plan, and what it costs. Nearly all events of one stream open alike, with `data: `, or with `event: name` and
`data: ` below it, and have one line of data. So the parser learns that opening, the blank line before it included, and
splits whatever is complete at it: between two openings is the data of one event, found in one call and without a look
at lines. What lies there and is more than one line is read by the rules of the standard, line by line. An event that is
not yet complete waits in a buffer. Time is linear in the size of the stream, also byte by byte; memory is bounded by
the largest event and chunk. `benchmarks/sse.py` measures this beside other parsers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from typing import TypeAlias

__all__ = ["EventTooLargeError", "ServerSentEvent", "ServerSentEventParser"]

_LF, _CR = b"\n\r"  # as numbers: `in` finds a number in bytes many times as fast as bytes
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANK_LINE_CORES = (b"\n\n", b"\n\r", b"\r\r")  # the end of a line and the next byte, where that ends a line too
_BLOCK = re.compile(rb"(?:[^\r\n]++(?:\r\n|\r|\n)?+)++")
_OPENING = re.compile(rb"\n(\r?)\n((?:event: ([^\r\n]+)\1\n)?data: )")
_SHORT = 2048
_MAX_RETRY_DIGITS = 640  # what int() takes in any case, see sys.set_int_max_str_digits()


ServerSentEvent: TypeAlias = tuple[str, str, str, int | None]
"""One event as dispatched: `type, data, id, retry`. A plain tuple: one with names takes three times as long to make.

`type` is the `event` field, `"message"` where that is missing or empty. `data` is the `data` fields, joined by LF. `id`
is the last `id` field of the stream up to this event, `""` where there was none. `retry` is in milliseconds, from a
valid `retry` field of this very event; `None` without one. An end marker such as `[DONE]` is an event like any other.
"""


class EventTooLargeError(ValueError):
    """An event has more than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def __str__(self) -> str:
        return f"a server-sent event has more than {self.limit} bytes; max_event_bytes sets the limit"


class ServerSentEventParser:
    """Turns the chunks of one event stream into events.

    An event may have `max_event_bytes`: all its lines with their line ends, comments too. One that has more is refused
    with EventTooLargeError as soon as that is known, complete or not. Events that the same chunk completes before it
    are returned first; then the next call raises, and so does every one after that.
    """

    last_event_id: str
    """The last `id` field, once its event or block was complete; `""` where there was none."""
    retry: int | None
    """The last valid `retry` field, in milliseconds; `None` where there was none."""
    invalid_utf8: bool
    """Whether the stream so far held bytes that are not UTF-8, even in a comment. The text has U+FFFD for them, as the
    standard says; it is for the caller to make it an error."""

    def __init__(self, *, max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self.last_event_id = ""
        self.retry = None
        self.invalid_utf8 = False
        self._max_event_bytes = max_event_bytes
        self._too_large = False
        self._at_start = True
        self._blank_line = b"\n\n"
        self._head = b"data: "
        self._opening = b"\n\ndata: "
        self._type = "message"  # of the events that open so
        # The last blank line and what came since. A short one grows at less cost as bytes, a long one as a bytearray.
        self._waiting: bytes | bytearray = self._blank_line

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that `chunk` completes, in order; raises EventTooLargeError.

        A chunk may be empty, and may end anywhere: inside of a character, between CR and LF.
        """
        if self._too_large:
            raise EventTooLargeError(self._max_event_bytes)
        if _LF in chunk:
            if self._waiting == self._blank_line and chunk.startswith(self._head) and chunk.endswith(self._blank_line):
                # Most likely one event, as a model sends it while it writes: a third less of the time.
                data = chunk[len(self._head) : -len(self._blank_line)]
                if not (_LF in data or _CR in data or self._at_start or len(chunk) > self._max_event_bytes):
                    return [(self._type, self._decode(data), self.last_event_id, None)]
            blocks, blank_line, rest = chunk.rpartition(self._blank_line)
            if rest and (_CR in rest or (_LF in rest and _CR in self._blank_line)):
                blocks, blank_line, rest = _partition(chunk)
        elif _CR in chunk:
            blocks, blank_line, rest = _partition(chunk)
        else:
            return self._wait(chunk)
        waiting = self._waiting
        if not blank_line:
            if waiting[-1:] + chunk[:1] not in _BLANK_LINE_CORES:
                return self._wait(chunk)
            blank_line, rest = chunk[:1], chunk[1:]
        blocks = b"".join((waiting, blocks))
        if len(waiting) + len(chunk) > self._max_event_bytes:
            blocks = self._allowed(blocks + blank_line + rest)[: len(blocks)]
        if self._at_start:
            self._at_start = False
            blocks = blank_line + blocks.removeprefix(b"\n\n").removeprefix(_BYTE_ORDER_MARK)
            self._learn_opening(blocks)
        events = self._parse(blocks)
        self._waiting = self._blank_line + rest
        return events

    def close(self) -> ServerSentEvent | None:
        """End the stream; return the event that lacks its blank line, `None` without one; raises EventTooLargeError.

        The standard drops that event, since more of it may have been lost, and so `last_event_id` stays as it was. But
        it may be the end marker of a complete answer: a decoder, who knows the service's protocol, can tell.
        """
        last_event_id = self.last_event_id
        events = self.feed(b"\n\n")
        self.last_event_id = last_event_id
        return events[0] if events else None

    def _wait(self, chunk: bytes) -> list[ServerSentEvent]:
        self._waiting += chunk
        size = len(self._waiting)
        if size > self._max_event_bytes:
            self._allowed(bytes(self._waiting))
        elif size > _SHORT and isinstance(self._waiting, bytes):
            self._waiting = bytearray(self._waiting)
        return []

    def _allowed(self, blocks: bytes) -> bytes:
        """Return the blocks before the first one over the limit; raises EventTooLargeError where there are none."""
        for number, block in enumerate(_BLOCK.finditer(blocks)):
            if block.end() - block.start() > self._max_event_bytes:
                self._too_large = True
                self._waiting = b""
                if number == 0:
                    raise EventTooLargeError(self._max_event_bytes)
                return blocks[: block.start()]
        return blocks

    def _parse(self, blocks: bytes) -> list[ServerSentEvent]:
        # From the end, CPython looks for the first byte of the opening, a rare one: half of the time. The pieces are
        # the same, for two openings cannot overlap.
        pieces = blocks.rsplit(self._opening)
        values = b"".join(pieces)
        mixed = _LF in values or _CR in values
        if mixed and self._learn_opening(blocks):
            pieces = blocks.rsplit(self._opening)
        events: list[ServerSentEvent] = []
        before = pieces.pop(0)
        if before:
            events += self._parse_lines(before)
        event_type, event_id = self._type, self.last_event_id
        for piece in pieces:
            if mixed and (_LF in piece or _CR in piece):
                events += self._parse_lines(self._opening + piece)
                event_id = self.last_event_id
                continue
            try:
                data = piece.decode()
            except UnicodeDecodeError:
                data = self._decode(piece)
            events.append((event_type, data, event_id, None))
        return events

    def _learn_opening(self, blocks: bytes) -> bool:
        """Take the opening of the block in the middle, for the ends of a stream are special; return if it is new."""
        known = self._opening
        found = _OPENING.search(blocks, len(blocks) // 2) or _OPENING.search(blocks)
        if found:
            self._blank_line = (found[1] + b"\n") * 2
            self._head = found[2]
            self._opening = self._blank_line + self._head
            self._type = self._decode(found[3] or b"message")
        return self._opening != known

    def _parse_lines(self, blocks: bytes) -> Iterator[ServerSentEvent]:
        event_type, retry = "", None
        data: list[str] = []
        if _CR in blocks:
            blocks = blocks.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        for line in BytesIO(blocks + b"\n\n"):  # finds line ends in a small part of the time that `split` takes
            if line == b"\n":
                if data:
                    yield event_type or "message", "\n".join(data), self.last_event_id, retry
                event_type, data, retry = "", [], None
                continue
            field, _, value = self._decode(line[:-1]).partition(":")
            value = value.removeprefix(" ")
            if field == "data":
                data.append(value)
            elif field == "event":
                event_type = value
            elif field == "id" and "\0" not in value:
                self.last_event_id = value
            elif field == "retry" and value.isascii() and value.isdigit() and len(value) <= _MAX_RETRY_DIGITS:
                self.retry = retry = int(value)

    def _decode(self, value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError:
            self.invalid_utf8 = True
            return value.decode(errors="replace")


def _partition(chunk: bytes) -> tuple[bytes, bytes, bytes]:
    """Do what `chunk.rpartition` does, at the last blank line with any line ends."""
    blocks, blank_line, rest = chunk.rpartition(b"\r\n\r\n")
    if blank_line and _LF not in rest and _CR not in rest:
        return blocks, blank_line, rest
    core = max(chunk.rfind(core) for core in _BLANK_LINE_CORES)
    if core < 0:
        return b"", b"", chunk
    return chunk[: core + 1], chunk[core + 1 : core + 2], chunk[core + 2 :]
