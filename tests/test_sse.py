"""The event stream parser, against the text of the standard, a plain reading of it, and every way to cut a stream.

Extra: LLMKIT_SSE_CONFORMANCE names a file of cases for any parser; without it they are skipped.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import re
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmkit.sse import EventTooLargeError, ServerSentEvent, ServerSentEventParser

CASES_FILE = os.environ.get("LLMKIT_SSE_CONFORMANCE")
CASES: list[dict[str, Any]] = json.loads(Path(CASES_FILE).read_text("utf-8")) if CASES_FILE else []


@dataclass
class Outcome:
    """All that a stream comes to; `pending` is the event without its blank line."""

    events: list[ServerSentEvent]
    pending: ServerSentEvent | None
    last_event_id: str
    retry: int | None
    invalid_utf8: bool
    refused: bool = False


def read(chunks: Iterable[bytes], **options: int) -> Outcome:
    parser = ServerSentEventParser(**options)
    events: list[ServerSentEvent] = []
    pending, refused = None, False
    try:
        for chunk in chunks:
            events += parser.feed(chunk)
        pending = parser.close()
    except EventTooLargeError:
        refused = True
    return Outcome(
        events,
        pending,
        parser.last_event_id,
        parser.retry,
        parser.invalid_utf8,
        refused,
    )


def expected(body: bytes, limit: int | None = None) -> Outcome:
    """Read a whole stream as §9.2.6 is written, one line after the other; stop before an event over the limit."""
    try:
        text, invalid = body.decode(), False
    except UnicodeDecodeError:
        text, invalid = body.decode(errors="replace"), True
    outcome = Outcome([], None, "", None, invalid)
    raw_lines = (body + b"\n\n").splitlines(keepends=True)
    lines = re.split("\r\n|\r|\n", text.removeprefix("\ufeff") + "\n\n")
    finished = len(re.split(b"\r\n|\r|\n", body)) - 1
    event_type, data, event_id, retry, size = "", "", "", None, 0
    for number, (line, raw_line) in enumerate(zip(lines, raw_lines, strict=False)):
        size = size + len(raw_line) if raw_line.strip(b"\r\n") else 0
        if limit is not None and size > limit:
            outcome.refused = True
            return outcome
        field, _, value = line.partition(":")
        value = value[1:] if value[:1] == " " else value
        match field:
            case "event":
                event_type = value
            case "data":
                data += value + "\n"
            case "id" if "\0" not in value:
                event_id = value
            case "retry" if re.fullmatch("[0-9]+", value):
                outcome.retry = retry = int(value)
        if line:
            continue
        event = (event_type or "message", data[:-1], event_id, retry) if data else None
        if number >= finished:
            outcome.pending = outcome.pending or event
        else:
            outcome.last_event_id = event_id
            outcome.events += [event] if event else []
        event_type, data, retry = "", "", None
    return outcome


def cuts(body: bytes) -> Iterator[list[bytes]]:
    """Yield the body whole, after each blank line, byte by byte, and cut in two at every place."""
    yield [body]
    yield re.split(b"(?<=\n\n)|(?<=\r\n\r\n)", body)
    yield [body[position : position + 1] for position in range(len(body))]
    for position in range(len(body) + 1):
        yield [body[:position], body[position:]]


LINE_ENDS = [b"\n", b"\r\n", b"\r"]
LINES = [
    *[b"data: {}", b"data: two", b"data:x", b"data:  y", b"data:", b"data", b" data: no", b"Data: no"],
    *[b"event: delta", b"event: stop", b"event:", b"event", b"id: 1", b"id:", b"id", b"id: \x00", b"retry: 10"],
    *[b"retry: 1x", b"retry:", "retry: ²".encode(), b"retry: +1", b":", b": comment", b"other: x", b"data: data: x"],
    *["data: naïve 雨 😀".encode(), "data: \u2028\x85\x0b\x0c\x1c".encode(), "event: é".encode(), "\ufeff".encode()],
    *[b"data: \xff", b"data: \xe2\x82", b"event: \xff", b": \xed\xa0\x80", b"\xef\xbb"],
]
USUAL = [b"data: {}", b"event: delta\ndata: {}", b"event: delta\r\ndata: {}"]
PIECES = [
    *LINES,
    *LINE_ENDS,
    *(block + line_end * 2 for block in USUAL for line_end in LINE_ENDS),
    *(line + line_end for line in LINES for line_end in LINE_ENDS[:2]),
]
bodies = st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join)


@given(bodies)
@example(b"\xef\xbb\xbfdata: mark\n\n\xef\xbb\xbfdata: later\n\n")
@example(b"\xef\xbb\xbf\xef\xbb\xbfdata: two marks\n\ndata: {}\n\n")
@example(b"\n\xef\xbb\xbfdata: not at the start\n\n")
@example(b"data: first\n\n\xef\xbb\xbfdata: later\n\n")
@example(b"data: 1\n\ndata: 2\rid: 3\n\ndata: 4\nid: 5\n\n")
@example(b"event: a\ndata: \xff\n\nevent: a\ndata: \xe2\x82\n\n")
@example(b"data: a\r\n\r\ndata: b\n\n\ndata: c\r\rdata: d\r\n\n\rdata: e\n\r\n")
@example(b"event: a\ndata: 1\n\nevent: a\ndata: 2\n\ndata: 3\n\nevent: b\ndata: 4\n\n: no\n\nevent: a\ndata: 5\n\n")
def test_any_cut_of_any_stream_gives_what_the_standard_says(body: bytes) -> None:
    whole = expected(body)
    for chunks in cuts(body):
        assert read(chunks) == whole


@given(bodies)
def test_an_event_comes_with_the_byte_that_completes_it(body: bytes) -> None:
    parser = ServerSentEventParser()
    count = 0
    for position in range(len(body)):
        count += len(parser.feed(body[position : position + 1]))
        assert count == len(expected(body[: position + 1]).events)


@given(bodies, st.integers(0, 30))
@example(b"data: 1\n\ndata: 12\n\n", 8)
@example(b"data: 1\r\n\r\n\r\ndata: 1\r\n", 9)
@example(b": 34567\n\n\n: 345678\n\n", 8)
def test_the_limit_is_the_same_for_every_cut(body: bytes, limit: int) -> None:
    whole = expected(body, limit)
    for chunks in cuts(body):
        outcome = read(chunks, max_event_bytes=limit)
        assert (outcome.events, outcome.refused) == (whole.events, whole.refused)


def test_streams_of_services_and_all_that_may_stand_between_their_events() -> None:
    stream = (
        b": OPENROUTER PROCESSING\n\n"
        b'event: message_start\ndata: {"n":1}\n\n'
        b'event: ping\ndata: {"n":2}\n\n' + b'event: delta\ndata: {"n":3}\n\n' * 3 + b'data: {"n":4}\r\n\r\n' * 3
    )
    outcome = read([stream + b"data: [DONE]\n\n"])
    assert [(event_type, data) for event_type, data, _, _ in outcome.events] == [
        ("message_start", '{"n":1}'),
        ("ping", '{"n":2}'),
        *[("delta", '{"n":3}')] * 3,
        *[("message", '{"n":4}')] * 3,
        ("message", "[DONE]"),
    ]


@pytest.mark.parametrize(
    ("body", "data"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", ["YHOO\n+2\n10"]),
        (b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
         ["first event", "second event", " third event"]),
        (b"data\n\ndata\ndata\n\ndata:", ["", "\n"]),
        (b"data:test\n\ndata: test\n\n", ["test", "test"]),
    ],
    ids=["several lines", "comment and ids", "no values", "one space"],
)  # fmt: skip
def test_the_examples_of_the_standard(body: bytes, data: list[str]) -> None:
    for chunks in cuts(body):
        assert [event[1] for event in read(chunks).events] == data


def test_the_last_event_id_stays_for_later_events_but_an_unfinished_one_does_not_set_it() -> None:
    outcome = read([b"id: 1\ndata: a\n\ndata: b\n\nid: 2\n\ndata: c\n\nid: 3\ndata: d"])
    assert [event[2] for event in outcome.events] == ["1", "1", "2"]
    assert outcome.pending == ("message", "d", "3", None)
    assert outcome.last_event_id == "2"


def test_retry_belongs_to_its_own_event_and_to_the_parser() -> None:
    outcome = read([b"retry: 007\ndata: a\n\ndata: b\n\nretry: 20\n\n"])
    assert [event[3] for event in outcome.events] == [7, None]
    assert outcome.retry == 20


def test_a_retry_of_too_many_digits_is_ignored() -> None:
    assert read([b"retry: " + b"1" * 5000 + b"\ndata: a\n\n"]).events == [("message", "a", "", None)]


def test_close_gives_the_unfinished_event_once_and_nothing_where_there_is_none() -> None:
    parser = ServerSentEventParser()
    parser.feed(b"data: {}\n\nevent: end\ndata: [DO")
    pending = parser.close()
    assert pending
    assert pending[:2] == ("end", "[DO")
    assert parser.close() is None
    parser.feed(b": only a comment\nid: 5")
    assert parser.close() is None


def test_a_character_cut_in_two_is_valid_and_one_cut_off_is_not() -> None:
    parser = ServerSentEventParser()
    euro = "data: €\n\n".encode()
    assert [event[1] for event in parser.feed(euro[:7]) + parser.feed(euro[7:])] == ["€"]
    assert not parser.invalid_utf8
    assert parser.feed(b"data: ok\n\ndata: \xe2\x82\n\n")[1][1] == "\ufffd"
    assert parser.invalid_utf8


def test_an_endless_line_is_refused_at_the_limit_in_bounded_memory() -> None:
    limit, chunk = 1_000_000, b"x" * 10_000
    parser = ServerSentEventParser(max_event_bytes=limit)
    tracemalloc.start()
    try:
        assert len(parser.feed(b"data: a\n\n" + chunk)) == 1
        for _ in range(limit // len(chunk) - 1):
            assert parser.feed(chunk) == []
        with pytest.raises(EventTooLargeError) as caught:
            parser.feed(b"x")
        assert tracemalloc.get_traced_memory()[1] < 4 * limit
    finally:
        tracemalloc.stop()
    assert caught.value.limit == limit
    assert str(limit) in str(caught.value)
    for refused in (lambda: parser.feed(b"\n\ndata: a\n\n"), parser.close):
        with pytest.raises(EventTooLargeError):
            refused()


def test_events_before_one_over_the_limit_are_not_lost() -> None:
    parser = ServerSentEventParser(max_event_bytes=20)
    assert [event[1] for event in parser.feed(b"data: a\n\ndata: b\n\ndata: " + b"c" * 20)] == ["a", "b"]
    with pytest.raises(EventTooLargeError):
        parser.feed(b"")


def test_the_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(EventTooLargeError(5)))
    assert (error.limit, str(error)) == (5, str(EventTooLargeError(5)))


def test_a_large_event_byte_by_byte() -> None:
    # A parser that copies what it has for every byte would copy a hundred gigabytes here.
    lines = [b"x" * 1000] * 500
    body = b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"
    outcome = read(body[position : position + 1] for position in range(len(body)))
    assert outcome.events == [("message", b"\n".join(lines).decode(), "", None)]


@pytest.mark.skipif(not CASES_FILE, reason="LLMKIT_SSE_CONFORMANCE names no file of cases")
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_conformance(case: dict[str, Any]) -> None:
    chunks = [base64.b64decode(chunk) for chunk in case.get("chunks_base64") or [case["input_base64"]]]
    body = b"".join(chunks)
    events = [(event["type"], event["data"], event["id"], event["retry"]) for event in case["events"]]
    for pieces in (chunks, [body], [body[position : position + 1] for position in range(len(body))]):
        outcome = read(pieces)
        assert outcome.events == events
        assert {"last_event_id": outcome.last_event_id, "retry": outcome.retry} == case["end"]
    if "progress" in case:
        parser = ServerSentEventParser()
        counts = [len(parser.feed(chunk)) for chunk in chunks]
        assert [sum(counts[: number + 1]) for number in range(len(counts))] == case["progress"]
