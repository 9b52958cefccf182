"""A loopback server that answers as OpenAI and Anthropic do, from bytes that are ready before the request comes.

It runs in a process of its own, on another core than the client where there are several, so that a benchmark can count
the client's CPU alone and never waits for the server. What a path asks for: `/KIND/EVENTS/v1/…`, where KIND is

- `plain`: the whole answer as one JSON body,
- `burst`: a stream of EVENTS pieces of text, each event an HTTP chunk of its own, as fast as the network takes them,
- `every-N`: the same, one event a write, N milliseconds apart. The first piece of text comes at once.

`…` is `chat/completions`, `responses` or `messages`.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from _samples import anthropic_messages, openai_chat, openai_responses

__all__ = ["cores", "serve"]

STREAMS = {"completions": openai_chat, "responses": openai_responses, "messages": anthropic_messages}
# What tells the events that carry text from those at the beginning and at the end.
TEXT = {"completions": b'"delta":{"content"', "responses": b"output_text.delta", "messages": b"content_block_delta"}
HEADERS = b"""\
date: Mon, 05 Jan 2026 10:00:00 GMT\r
connection: keep-alive\r
openai-version: 2020-10-01\r
openai-processing-ms: 412\r
x-request-id: req_5f0d1c2b3a4958677665544332211000\r
x-ratelimit-limit-requests: 10000\r
x-ratelimit-remaining-requests: 9999\r
x-ratelimit-limit-tokens: 2000000\r
x-ratelimit-remaining-tokens: 1999960\r
server: cloudflare\r
cf-ray: 9b2f1c0a1d2e3f40-FRA\r
"""
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
ANSWER = b"""{"id":"chatcmpl-Bq4sW0vYd7Tn1mXfR2kLh8JcUe5aG","object":"chat.completion","created":1767600000,\
"model":"gpt-5-mini-2025-08-07","choices":[{"index":0,"message":{"role":"assistant","content":"The tide table is only \
half of the story: what the harbour master reads off the gauge is the water, and the water keeps no appointments.",\
"refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":31,\
"completion_tokens":27,"total_tokens":58,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},\
"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,\
"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":"fp_44709d6fcb"}"""


def cores() -> tuple[set[int] | None, set[int] | None]:
    """Return the core of the client and the core of the server; None where the system cannot tell, or has only one."""
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return ({usable[0]}, {usable[-1]}) if len(usable) > 1 else (None, None)


@contextmanager
def serve(certificate: str | None = None) -> Iterator[str]:
    """Run the server and yield its address; `certificate` is a PEM file with chain and key, for https."""
    command = [sys.executable, __file__, *([certificate] if certificate else [])]
    core = cores()[1]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if core:
            os.sched_setaffinity(process.pid, core)
        try:
            yield f"{'https' if certificate else 'http'}://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            # The end of its input is what the server ends at.
            process.stdin.close()


@functools.cache
def chunks(api: str) -> tuple[bytes, list[bytes], bytes]:
    """Return the beginning of a body, the HTTP chunks of its pieces of text, and its end."""
    events = [event + b"\n\n" for event in STREAMS[api]().split(b"\n\n") if event]
    coded = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]
    texts = [TEXT[api] in event for event in events]
    start, end = texts.index(True), len(texts) - texts[::-1].index(True)
    return b"".join(coded[:start]), coded[start:end], b"".join(coded[end:]) + b"0\r\n\r\n"


def body(api: str, count: int, one_by_one: bool) -> Iterator[bytes]:
    """Yield a chunked body with `count` pieces of text, one at a time or many."""
    begin, texts, end = chunks(api)
    if one_by_one:
        pieces = itertools.islice(itertools.cycle(texts), count)
        return itertools.chain([begin + next(pieces)], pieces, [end])
    rounds, rest = divmod(count, len(texts))
    return itertools.chain([begin], itertools.repeat(joined(api), rounds), [b"".join(texts[:rest]) + end])


@functools.cache
def joined(api: str) -> bytes:
    return b"".join(chunks(api)[1])


class Connection(asyncio.Protocol):
    """Answers one request after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._received = b""
        self._seconds = 0.0
        self._pieces: Iterator[bytes] = iter(())
        self._paused = False

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, content = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
        if not found or len(content) < (int(length[1]) if length else 0):
            return
        self._received = b""
        kind, count, *_, api = head.split(b" ", 2)[1].decode().strip("/").split("/")
        if kind == "plain":
            self._transport.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n\r\n%s"
                % (HEADERS, len(ANSWER), ANSWER)
            )
            return
        milliseconds = kind.removeprefix("every-")
        self._seconds = int(milliseconds) / 1000 if milliseconds != kind else 0.0
        self._pieces = body(api, int(count), one_by_one=bool(self._seconds))
        self._transport.write(STREAM_HEAD + HEADERS + b"\r\n" + next(self._pieces))
        self._later()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._write()

    def connection_lost(self, exc: Exception | None) -> None:
        self._pieces = iter(())

    def _later(self) -> None:
        if self._seconds:
            asyncio.get_running_loop().call_later(self._seconds, self._write)
        else:
            self._write()

    def _write(self) -> None:
        for piece in self._pieces:
            self._transport.write(piece)
            if self._seconds:
                self._later()
            if self._seconds or self._paused:
                return


async def main() -> None:
    tls = None
    if sys.argv[1:]:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(sys.argv[1])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, ssl=tls, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(main())
