"""The chunked transfer coding, against what was sent and against h11's reader."""

from __future__ import annotations

from itertools import pairwise

import h11
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmkit.chunked import LONGEST_SIZE_LINE, ChunkedDecoder, ChunkedError, body_length

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_LINES = [b"0\r\n", b"000\r\n", b"0;last\r\n", b"0 \t\r\n"]
TRAILERS = [b"\r\n", b"Digest: abc\r\nAge: 1\r\n\r\n"]


def decode(wire: list[bytes]) -> tuple[bytes, ChunkedDecoder]:
    decoder = ChunkedDecoder()
    body = b""
    for position, piece in enumerate(wire):
        body += decoder.feed(piece)
        if decoder.failure or decoder.complete:
            decoder.rest += b"".join(wire[position + 1 :])
            break
    return body, decoder


def h11_decode(wire: bytes) -> tuple[bytes, bool]:
    """Return the body that h11 makes of it and whether it is complete; raises h11.RemoteProtocolError."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "test")]))
    connection.receive_data(HEAD + wire)
    body = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return body, True
        elif event is h11.NEED_DATA:
            return body, False


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """Return a body, one way to write it in chunks, and the part of that after the last chunk's line."""
    body = wire = b""
    for part in draw(st.lists(st.binary(min_size=1, max_size=40) | st.sampled_from([b"\r\n", b"0\r\n\r\n", b"\r"]))):
        size = draw(st.sampled_from([b"%x", b"%X", b"0%x", b"%x;name", b'%x;a="b;c"', b"%x \t"])) % len(part)
        body, wire = body + part, wire + size + b"\r\n" + part + b"\r\n"
    rest = draw(st.sampled_from(TRAILERS))
    return body, wire + draw(st.sampled_from(LAST_LINES)) + rest, rest


@given(chunked_bodies(), st.lists(st.integers(0, 400)), st.binary(max_size=10))
def test_any_split_gives_the_same_body_and_rest(
    sent: tuple[bytes, bytes, bytes], cuts: list[int], after: bytes
) -> None:
    body, wire, rest = sent
    wire += after
    places = [0, *sorted(cut for cut in cuts if cut < len(wire)), len(wire)]
    got, decoder = decode([wire[start:end] for start, end in pairwise(places)])
    assert (got, decoder.complete, decoder.rest) == (body, True, rest + after)


@given(chunked_bodies())
def test_every_byte_alone_gives_the_same_body(sent: tuple[bytes, bytes, bytes]) -> None:
    body, wire, rest = sent
    got, decoder = decode([bytes([byte]) for byte in wire])
    assert (got, decoder.complete, decoder.rest) == (body, True, rest)


@given(chunked_bodies(), st.integers(0, 400))
def test_what_came_is_given_at_once(sent: tuple[bytes, bytes, bytes], cut: int) -> None:
    """A cut body gives as much as h11 gives of it: nothing waits for the end of its chunk."""
    _, wire, _ = sent
    got, _ = decode([wire[:cut]])
    assert got == h11_decode(wire[:cut])[0]


alphabet = st.sampled_from(
    [b"\r\n", b"\r", b"\n", b"0", b"1", b"2", b"a", b"F", b";x", b" ", b"\t", b"g", b"-", b"+", b"_"]
)


@given(st.lists(alphabet, max_size=12).map(b"".join))
@example(b"5\nhello\n0\n\n")
@example(b"0x5\r\nhello\r\n")
@example(b"+5\r\nhello\r\n")
@example(b"1_0\r\n")
@example(b" 5\r\nhello\r\n")
@example(b"\r\n5\r\nhello\r\n")
@example(b"5\r\nhelloX\r\n")
@example(b"5\r\nhello\n0\r\n\r\n")
@example(b"-1\r\n")
@example(b"1" * 20 + b"\r\nx")
@example(b"1" * 21 + b"\r\nx")
def test_accepts_and_refuses_what_h11_does(wire: bytes) -> None:
    try:
        expected = h11_decode(wire)
    except h11.RemoteProtocolError:
        expected = None
    body, decoder = decode([wire])
    if decoder.failure:
        assert expected is None
        return
    if expected is None:
        # h11 reads on to the trailers, which this decoder leaves to h11.
        assert decoder.complete
        return
    assert body == expected[0]
    assert decoder.complete >= expected[1]


def test_a_line_end_that_is_missing_after_a_chunk_is_seen_at_once() -> None:
    body, decoder = decode([b"1\r\nab"])
    assert body == b"a"
    assert isinstance(decoder.failure, ChunkedError)
    assert str(decoder.failure) == "malformed chunk footer"


def test_a_size_line_without_end_is_an_error_not_a_full_memory() -> None:
    _, decoder = decode([b"1;"] + [b"x" * 1000] * (LONGEST_SIZE_LINE // 1000))
    assert not decoder.failure
    decoder.feed(b"x" * 1000)
    assert decoder.failure


def test_a_large_chunk_passes_piece_by_piece() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"f4240\r\n") == b""
    piece = bytes(100_000)
    assert all(decoder.feed(piece) is piece for _ in range(10))
    assert decoder.feed(b"\r\n0\r\n\r\n") == b""
    assert (decoder.complete, decoder.rest) == (True, b"\r\n")


def test_many_different_size_lines_are_not_all_remembered() -> None:
    from llmkit import chunked

    wire = b"".join(b"%x\r\n%s\r\n" % (size, bytes(size)) for size in range(1, chunked.REMEMBERED_LINES + 500))
    body, _ = decode([wire])
    assert len(body) == sum(range(1, chunked.REMEMBERED_LINES + 500))
    assert len(chunked._sizes) <= chunked.REMEMBERED_LINES


@pytest.mark.parametrize(
    ("method", "status", "headers", "length"),
    [
        (b"GET", 200, [(b"Content-Length", b"12")], 12),
        (b"GET", 200, [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"12")], "chunked"),
        (b"GET", 500, [(b"TRANSFER-ENCODING", b"chunked")], "chunked"),
        (b"GET", 200, [(b"Server", b"test")], None),
        (b"HEAD", 200, [(b"Content-Length", b"12")], 0),
        (b"HEAD", 200, [(b"Transfer-Encoding", b"chunked")], 0),
        (b"GET", 204, [(b"Transfer-Encoding", b"chunked")], 0),
        (b"GET", 304, [(b"Content-Length", b"12")], 0),
    ],
)
def test_how_a_body_ends(
    method: bytes, status: int, headers: list[tuple[bytes, bytes]], length: int | str | None
) -> None:
    assert body_length(method, status, headers) == length
