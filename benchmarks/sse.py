"""CPU time of llmkit's server-sent events parser beside those of other clients: `python benchmarks/sse.py`.

Every parser gets the same chunks from memory and is driven as its own client drives it: the SDKs' decoders by an
iterator of bytes, httpx-sse and google-genai by a response, as they take no less. The figures end where the data of an
event is text; no JSON is read. google-genai takes `event:` lines for text of an error, so it reads two of the streams.
The events of all parsers are compared before anything is measured.
"""

from __future__ import annotations

import codecs
import statistics
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]  # a checkout need not be installed

import anthropic._streaming
import httpx
import httpx_sse
import openai._streaming
from _report import Report, Turns, prepare_client
from _samples import STREAMS
from google.genai._api_client import HttpResponse

from llmkit.sse import ServerSentEventParser

__all__ = ["main"]

CHUNK_SIZES = {"one event": None, "64 B": 64, "1 KiB": 1024, "16 KiB": 16384}
GOALS = {
    ("one event", "openai"): 1 / 5,
    ("one event", "httpx-sse"): 1 / 2,
    ("16 KiB", "openai"): 1 / 12,
    ("16 KiB", "httpx-sse"): 1 / 5,
}
"""The most that llmkit may take of another parser's time."""
ROUNDS = 9
RUNS = 10
"""Of one parser, before it is the next one's turn."""


class ChunkedResponse(httpx.Response):
    """A response whose body is a list, given out with no more work than to decode it where text is asked for."""

    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks
        super().__init__(200, headers={"content-type": "text/event-stream"})

    def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
        return iter(self._chunks)

    def iter_text(self, chunk_size: int | None = None) -> Iterator[str]:
        decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        return (text for chunk in self._chunks if (text := decode(chunk)))


def parse_with_llmkit(response: ChunkedResponse) -> list[Any]:
    parser = ServerSentEventParser()
    events = []
    for chunk in response.iter_bytes():
        events += parser.feed(chunk)
    return events


def parse_with_openai(response: ChunkedResponse) -> list[Any]:
    return list(openai._streaming.SSEDecoder().iter_bytes(response.iter_bytes()))


def parse_with_anthropic(response: ChunkedResponse) -> list[Any]:
    return list(anthropic._streaming.SSEDecoder().iter_bytes(response.iter_bytes()))


def parse_with_google(response: ChunkedResponse) -> list[Any]:
    return list(HttpResponse({}, response_stream=response)._iter_response_stream())


def parse_with_httpx_sse(response: ChunkedResponse) -> list[Any]:
    return list(httpx_sse.EventSource(response).iter_sse())


PARSERS: dict[str, Callable[[ChunkedResponse], list[Any]]] = {
    "llmkit": parse_with_llmkit,
    "openai": parse_with_openai,
    "anthropic": parse_with_anthropic,
    "google-genai": parse_with_google,
    "httpx-sse": parse_with_httpx_sse,
}


def cut(body: bytes, size: int | None) -> list[bytes]:
    """Return `body` in chunks of `size` bytes; `None`: of one event each."""
    if size:
        return [body[start : start + size] for start in range(0, len(body), size)]
    blank_line = b"\r\n\r\n" if b"\r" in body else b"\n\n"
    return [block + blank_line for block in body.split(blank_line)[:-1]]


def plain(event: Any) -> tuple[str, str]:
    """Return type and data of an event of any parser; for google-genai it is the data alone."""
    if isinstance(event, str):
        return "message", event
    if isinstance(event, tuple):
        return event[:2]
    return getattr(event, "type", None) or event.event or "message", event.data


def measure(body: bytes, size: int | None) -> tuple[Turns, list[str]]:
    """Return the times and who was measured; raises AssertionError where two parsers read different events."""
    response = ChunkedResponse(cut(body, size))
    parsers = {name: parse for name, parse in PARSERS.items() if name != "google-genai" or body.startswith(b"data:")}
    expected = [plain(event) for event in parse_with_llmkit(ChunkedResponse([body]))]
    for name, parse in parsers.items():
        if [plain(event) for event in parse(response)] != expected:
            raise AssertionError(f"{name} reads other events in chunks of {size} bytes")

    def work(parse: Callable[[ChunkedResponse], list[Any]]) -> int:
        return sum(len(parse(response)) for _ in range(RUNS))

    return Turns(ROUNDS).run({name: partial(work, parse) for name, parse in parsers.items()}), list(parsers)


def main() -> int:
    prepare_client()
    report = Report("Server-sent events", [name for name in PARSERS if name != "llmkit"])
    rows = []
    shares: dict[tuple[str, str], list[float]] = {}
    for stream, make in STREAMS.items():
        body = make()
        for label, size in CHUNK_SIZES.items():
            turns, names = measure(body, size)
            cells = {name: f"{turns.median(name):.2f} ({turns.ratio(name):.1f})" for name in names}
            rows.append((stream, label, *(cells.get(name, "–") for name in PARSERS)))
            for name in names[1:]:
                shares.setdefault((label, name), []).append(turns.ratio("llmkit", to=name))
    columns = ("stream", "chunks of", *PARSERS)
    report.table("Microseconds an event (median), and how many times llmkit's that is:", columns, rows)
    goals = []
    for (label, name), most in GOALS.items():
        figure = f"llmkit's time in % of {name}'s, chunks of {label}"
        goals.append((f"{figure}, mean of the streams", statistics.mean(shares[label, name]) * 100, most * 100))
        goals.append((f"{figure}, worst stream", max(shares[label, name]) * 100, most * 100))
    slowest = max(share for values in shares.values() for share in values)
    report.goals([*goals, ("llmkit's time in % of any parser's, any chunks, worst stream", slowest * 100, 100)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
