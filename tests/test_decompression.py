"""Compressed bodies in bounded pieces."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit.decompression import (
    LARGEST_PIECE,
    MOST_AT_ONCE,
    MOST_FOR_NOTHING,
    Decompressor,
    content_coding,
    understood,
)


def deflated(data: bytes, wbits: int) -> bytes:
    compressor = zlib.compressobj(wbits=wbits)
    return compressor.compress(data) + compressor.flush()


WRITTEN = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("x-gzip", gzip.compress),
    "gzip of two members": ("gzip", lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:])),
    "gzip and zeros": ("gzip", lambda data: gzip.compress(data) + bytes(9)),
    "deflate": ("deflate", lambda data: deflated(data, zlib.MAX_WBITS)),
    "deflate without its wrapping": ("deflate", lambda data: deflated(data, -zlib.MAX_WBITS)),
}


def decompressed(coding: str, pieces: list[bytes]) -> bytes:
    decompressor = Decompressor(coding)
    taken = []
    for piece in pieces:
        decompressor.feed(piece)
        while given := decompressor.take():
            assert len(given) <= LARGEST_PIECE
            taken.append(given)
    decompressor.end()
    return b"".join(taken)


@pytest.mark.parametrize("written", WRITTEN)
@given(data=st.binary(max_size=300), size=st.integers(1, 400))
def test_what_was_compressed_is_read_however_it_is_cut(written: str, data: bytes, size: int) -> None:
    coding, compress = WRITTEN[written]
    body = compress(data)
    assert decompressed(coding, [body[start : start + size] for start in range(0, len(body), size)]) == data


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_comes_in_small_pieces(coding: str) -> None:
    body = WRITTEN[coding][1](bytes(20_000_000))
    assert decompressed(coding, [body, b""]) == bytes(20_000_000)


def test_a_body_of_many_members_is_read_in_one_piece() -> None:
    data = bytes(range(256)) * 400
    body = b"".join(gzip.compress(data[start : start + 10], 1) for start in range(0, len(data), 10))
    assert len(body) > 4 * MOST_AT_ONCE
    assert decompressed("gzip", [body]) == decompressed("gzip", [body[:99_999], body[99_999:]]) == data


EMPTY = {
    "members": ("gzip", b"", gzip.compress(b"")),
    "padding": ("gzip", gzip.compress(b"a"), bytes(20)),
    "a name": ("gzip", b"\x1f\x8b\x08\x08" + bytes(6), b"a"),
    "blocks": ("deflate", b"\x78\x9c", b"\0\0\0\xff\xff"),
}


@pytest.mark.parametrize("size", [1000, 10_000_000])
@pytest.mark.parametrize("empty", EMPTY)
def test_bytes_without_end_that_stand_for_nothing_are_refused(empty: str, size: int) -> None:
    coding, begun, part = EMPTY[empty]
    pieces = [begun, *[part * (size // len(part))] * (MOST_FOR_NOTHING // size + 2)]
    with pytest.raises(ValueError, match="stand for nothing"):
        decompressed(coding, pieces)


def test_what_stands_for_nothing_is_counted_from_the_last_output_on() -> None:
    body = gzip.compress(b"a") + gzip.compress(b"") * (MOST_FOR_NOTHING // 50)
    assert decompressed("gzip", [body] * 5) == b"aaaaa"


@pytest.mark.parametrize("written", ["gzip", "gzip of two members", "deflate", "deflate without its wrapping"])
def test_a_cut_body_is_none_wherever_it_is_cut(written: str) -> None:
    coding, compress = WRITTEN[written]
    body = compress(b"a text that is long enough to be cut")
    whole = {len(gzip.compress(b"a text ")) + more for more in (0, 1)} if "two" in written else set()
    for end in set(range(1, len(body))) - whole:
        with pytest.raises(ValueError):
            decompressed(coding, [body[:end]])
    assert decompressed(coding, []) == b""


def test_a_changed_body_is_none() -> None:
    body = gzip.compress(b"a text")
    with pytest.raises(ValueError, match="check"):
        decompressed("gzip", [body[:-8] + b"\0\0\0\0" + body[-4:]])
    for coding in ("gzip", "deflate"):
        with pytest.raises(ValueError):
            decompressed(coding, [b"\xff\xffplain"])


def test_the_header() -> None:
    assert [content_coding(text) for text in ("", "identity", " GZIP ", "identity, deflate")] == [
        "",
        "",
        "gzip",
        "deflate",
    ]
    assert [understood(text) for text in ("gzip, deflate, br, zstd", "br", "identity", "")] == [
        "gzip, deflate",
        *["identity"] * 3,
    ]
    for text in ("", "br", "gzip, gzip", "zstd", "gzip;q=1"):
        with pytest.raises(ValueError, match=f"content-encoding is '{text}'"):
            Decompressor(text)
