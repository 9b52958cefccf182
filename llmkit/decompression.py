"""Compressed bodies, incrementally and in bounded pieces: bytes in, bytes out. Depends on nothing.

A few bytes can stand for gigabytes, so each step gives no more than `LARGEST_PIECE`; and endless bytes can stand for
nothing, so no more than `MOST_FOR_NOTHING` are taken in a row. gzip (RFC 1952, also of several members) and deflate
(RFC 9110 §8.4.1.2, also without the zlib wrapping) are understood, one at a time.
"""

from __future__ import annotations

import zlib
from typing import Any, Final

__all__ = ["Decompressor", "content_coding", "understood"]

LARGEST_PIECE: Final = 256 * 1024
MOST_AT_ONCE: Final = 64 * 1024
MOST_FOR_NOTHING: Final = 1024 * 1024
GZIP: Final = ("gzip", "x-gzip")
GZIP_MAGIC: Final = b"\x1f\x8b"


def content_coding(header: str) -> str:
    """Return what a Content-Encoding header names, in lower case, "" where that is nothing."""
    names = (part.strip().lower() for part in header.split(","))
    return ", ".join(name for name in names if name not in ("", "identity"))


def understood(header: str) -> str:
    """Return an Accept-Encoding header with the codings that can be read, "identity" where there is none."""
    names = (part.strip().lower() for part in header.split(","))
    return ", ".join(name for name in names if name in (*GZIP, "deflate")) or "identity"


class Decompressor:
    """Takes a compressed body as it comes: `feed` it, then take pieces until there is none, and `end` it at the end.

    Raises ValueError for a coding that is not understood, and where the body is broken, or long and empty; `end`, where
    it is cut.
    """

    def __init__(self, coding: str) -> None:
        if coding not in (*GZIP, "deflate"):
            raise ValueError(f"content-encoding is {coding!r}; gzip and deflate are understood, one at a time")
        self._is_gzip = coding in GZIP
        self._zlib: Any = None
        self._waiting = b""
        self._at = 0
        self._for_nothing = 0
        # zlib may hold back output although it has taken all input.
        self._is_full = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body."""
        self._waiting = self._waiting[self._at :] + data
        self._at = 0

    def take(self) -> bytes:
        """Return a piece of what the bytes so far stand for, b"" where more are needed."""
        while (self._left() or self._is_full) and self._is_ready():
            # zlib copies what a member leaves over, and a body may have a member every 20 bytes.
            given = memoryview(self._waiting)[self._at : self._at + MOST_AT_ONCE]
            try:
                piece: bytes = self._zlib.decompress(given, LARGEST_PIECE)
            except zlib.error as error:
                raise ValueError(str(error)) from None
            self._is_full = len(piece) == LARGEST_PIECE
            self._pass(len(given) - len(self._zlib.unconsumed_tail or self._zlib.unused_data), bool(piece))
            if piece:
                return piece
        return b""

    def end(self) -> None:
        """Take note that no more bytes come."""
        is_whole = self._zlib.eof if self._zlib else not self._left()
        if not is_whole:
            raise ValueError("it ends before its time")

    def _is_ready(self) -> bool:
        """Return whether there is a stream to go on with: the first, or another member of gzip."""
        if self._zlib and not self._zlib.eof:
            return True
        if self._left() < 2:
            return False
        if self._zlib and not (self._is_gzip and self._waiting.startswith(GZIP_MAGIC, self._at)):
            # What follows the end is padding.
            self._pass(self._left(), False)
            return False
        self._zlib = zlib.decompressobj(self._window_bits())
        return True

    def _left(self) -> int:
        return len(self._waiting) - self._at

    def _pass(self, count: int, for_something: bool) -> None:
        self._at += count
        self._for_nothing = 0 if for_something else self._for_nothing + count
        if self._for_nothing > MOST_FOR_NOTHING:
            raise ValueError(f"more than {MOST_FOR_NOTHING} bytes of it stand for nothing")

    def _window_bits(self) -> int:
        if self._is_gzip:
            return zlib.MAX_WBITS | 16
        # RFC 1950 §2.2. Some servers leave the wrapping out.
        first = self._waiting[self._at : self._at + 2]
        is_wrapped = first[0] & 15 == 8 and int.from_bytes(first, "big") % 31 == 0
        return zlib.MAX_WBITS if is_wrapped else -zlib.MAX_WBITS
