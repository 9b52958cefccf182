"""What the soak does to calls, and the server that does it, in a process of its own: `python -m tests.soak_faults`.

Each call names its fault in a header, and a number, of which its answer is made.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .answers import ALL_APIS, AnyApi
from .server import CLOSE, GONE, RESET, Reply, Request, Server, event, head, pieces, raw_reply

__all__ = ["CUT", "FAULTS", "KEY", "TIMEOUT", "story"]

KEY = "sk-soak-0123456789abcdef"


def story(number: int) -> list[str]:
    """Return the pieces of the answer to a call, which no other call has."""
    return [f"Call {number}: ", *(f"wörld\u2028{place} \U0001f600 " for place in range(number % 7)), "the end."]


CHUNKED = head(200, {"transfer-encoding": "chunked"})


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@dataclass
class Scene:
    """What a fault is made of: a good body, a place in it before which it is no answer, and chance."""

    api: AnyApi
    body: bytes
    place: int
    streamed: bool
    random: random.Random

    def endless(self, step: bytes) -> Iterator[Any]:
        yield CHUNKED + (b"".join(map(chunk, self.api.begun("Call"))) if self.streamed else b"")
        while True:
            yield chunk(step)

    def trickle(self) -> Iterator[Any]:
        yield head(200, {"content-length": str(len(self.body))})
        for piece in pieces(self.body, 150):
            time.sleep(self.random.uniform(0, 0.004))
            yield piece

    def failing(self) -> Reply:
        told = {"error": {"message": "Down", "type": "server_error", "code": "INTERNAL", "status": "INTERNAL"}}
        body = b"".join([*self.api.begun("Call"), event(told)]) if self.streamed else json.dumps(told).encode()
        return raw_reply(body)


CONNECTION = {"LLMProviderConnectionError"}
CUT = {"LLMProviderConnectionError", "LLMProviderStreamError", "LLMProviderServerError"}
TIMEOUT = {"LLMProviderTimeoutError"}
WRONG = {"LLMProviderServerError", "LLMProviderStreamError"}

# Name → what the server does, and the errors that are right; none: the answer is.
FAULTS: dict[str, tuple[Callable[[Scene], Iterable[Any]], set[str]]] = {
    "none": (lambda s: raw_reply(s.body), set()),
    "chunks": (lambda s: [CHUNKED, *map(chunk, pieces(s.body, 97)), b"0\r\n\r\n"], set()),
    "trickle": (lambda s: s.trickle(), set()),
    "gzip": (lambda s: raw_reply(gzip.compress(s.body), content_encoding="gzip"), set()),
    "HTTP/1.0": (lambda s: [head(version="1.0") + s.body, CLOSE], set()),
    "closed afterwards": (lambda s: [*raw_reply(s.body), CLOSE], set()),
    "reset afterwards": (lambda s: [CHUNKED + chunk(s.body) + b"0\r\n\r\n", b"", RESET], {*CONNECTION, *CUT}),
    "another answer": (lambda s: [raw_reply(s.body)[0] + raw_reply(b'{"not": "yours"}')[0]], set()),
    "closed": (lambda s: [CLOSE], CONNECTION),
    "reset": (lambda s: [RESET], CONNECTION),
    "closed in the head": (lambda s: [b"HTTP/1.1 200 OK\r\ncont", CLOSE], CONNECTION),
    "reset in the head": (lambda s: [b"HTTP/1.1 200 OK\r\ncont", RESET], CONNECTION),
    "no HTTP": (lambda s: [b"\x15\x03\x01\0\x02\x02\x28\r\n\r\n", CLOSE], CONNECTION),
    "closed in the body": (lambda s: [head() + s.body[: s.place], CLOSE], CUT),
    "reset in the body": (lambda s: [CHUNKED + chunk(s.body[: s.place]), RESET], CUT),
    "length too long": (lambda s: [head(200, {"content-length": "99999"}) + s.body[: s.place], CLOSE], CUT),
    "chunk cut": (lambda s: [CHUNKED + chunk(s.body)[: s.place], CLOSE], CUT),
    "chunk that is none": (lambda s: [CHUNKED + chunk(s.body[: s.place]) + b"?\r\n", CLOSE], CUT),
    "end too early": (lambda s: [CHUNKED + chunk(s.body[: s.place]) + b"0\r\n\r\n"], CUT),
    "gzip cut": (lambda s: raw_reply(gzip.compress(s.body[: s.place])[:-9], content_encoding="gzip"), CUT),
    "silence": (lambda s: [GONE], TIMEOUT),
    "silence in the head": (lambda s: [b"HTTP/1.1 200 OK\r\ncont", GONE], TIMEOUT),
    "silence in the body": (lambda s: [CHUNKED + chunk(s.body[: s.place]), GONE], TIMEOUT),
    "HTML": (lambda s: raw_reply(b"<html>" + b"<p>Sign in</p>" * 500, content_type="text/html"), WRONG),
    "nothing": (lambda s: raw_reply(b""), WRONG),
    "an error": (lambda s: s.failing(), WRONG),
    "broken JSON": (lambda s: raw_reply(s.body.replace(b'"', b"", 1)), WRONG),
    "no UTF-8": (lambda s: raw_reply(s.body.replace(b"Call", b"C\xffll")), WRONG),
    "nesting": (lambda s: raw_reply(s.body.replace(b"{", b'{"x":' + b"[" * 999 + b"]" * 999 + b",", 1)), WRONG),
    "an endless line": (lambda s: s.endless(b"data: " + b"x" * 40_000), WRONG),
    "an endless answer": (lambda s: s.endless(s.api.delta("x" * 9_000)), WRONG),
    "a bomb": (lambda s: raw_reply(BOMB, content_encoding="gzip"), WRONG),
    "redirect": (lambda s: raw_reply(b"", 302, location="http://127.0.0.1:9/"), {"LLMProviderServerError"}),
    "401": (lambda s: raw_reply(f"No such key: {KEY}".encode(), 401), {"LLMProviderAuthenticationError"}),
    "429": (lambda s: raw_reply(b"Slow down", 429, retry_after="0.01"), {"LLMProviderRateLimitError"}),
    "500": (lambda s: raw_reply(b"Oh", 500), {"LLMProviderServerError"}),
    "529": (lambda s: raw_reply(b"Oh", 529), {"LLMProviderOverloadedError"}),
}
BOMB = gzip.compress(b"data: " + b"x" * 5_000_000)


def reply_to(request: Request) -> Reply:
    """Do to a call what its headers name."""
    number = int(request.headers["x-number"])
    streamed = "stream" in request.path.lower() or bool(isinstance(request.body, dict) and request.body.get("stream"))
    api = next(api for api in ALL_APIS if api.name == request.headers["x-api"])
    parts = story(number)
    body = b"".join(api.stream(*parts)) if streamed else json.dumps(api.plain("".join(parts))).encode()
    # Whatever is cut before its last piece of text is no answer.
    scene = Scene(api, body, 0, streamed, random.Random(number))
    scene.place = scene.random.randrange(1, body.rindex(b"the end."))
    return FAULTS[request.headers["x-fault"]][0](scene)


def serve() -> None:
    """Answer calls until standard input ends; the address is told on standard output."""
    with Server(default=reply_to) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    serve()
