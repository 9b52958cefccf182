"""What the tests of the wire formats share: answers as bytes, fed to a decoder in any pieces. No socket, no clock."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from llmkit.call import Call
from llmkit.config import APIType, LLMConfig
from llmkit.errors import LLMProviderError
from llmkit.events import Event
from llmkit.messages import parse_messages
from llmkit.response import Issuer, LLMResponse, ResponseBuilder
from llmkit.sse import ServerSentEventParser
from llmkit.tools import parse_tools
from llmkit.wire import Dialect, StreamDecoder, WireFormat, WireRequest

__all__ = ["Decoded", "answer", "cut", "cut_everywhere", "decoded", "issuer", "make_request", "read", "sse"]


def issuer(wire_format: WireFormat, model: str = "gpt-4o", provider: str = "openai") -> Issuer:
    """Return who answers."""
    return Issuer(provider, wire_format.name, model)


def make_request(
    wire_format: WireFormat,
    messages: Any = "Hello",
    *,
    dialect: Dialect | None = None,
    provider: str = "openai",
    **options: Any,
) -> WireRequest:
    """Return what a call becomes; `options` are fields of `Call` and settings of `LLMConfig`."""
    names = Call.__dataclass_fields__.keys() & options.keys() - {"api_type"}
    named = {name: options.pop(name) for name in names}
    named["tools"] = parse_tools(named.get("tools"))
    config = LLMConfig(**{"model_name": "gpt-4o", **options})
    call = Call(config=config, api_type=config.api_type, messages=parse_messages(messages), **named)
    return wire_format.request(call, dialect or Dialect(), issuer(wire_format, call.model, provider))


def sse(*events: Any, end: str = "\n\n") -> bytes:
    """Return the body of a stream: one event for each value, named after its type; text is data as it is."""
    blocks = []
    for value in events:
        name = f"event: {value['type']}\n" if isinstance(value, dict) and "type" in value else ""
        data = value if isinstance(value, str) else json.dumps(value)
        blocks.append(f"{name}data: {data}{end}")
    return "".join(blocks).encode()


@dataclass(frozen=True)
class Decoded:
    """What a decoder made of a stream."""

    events: list[Event]
    failure: LLMProviderError | None
    finished: bool
    raw: Any


def decoded(wire_format: WireFormat, pieces: Iterable[bytes]) -> Decoded:
    """Return what a fresh decoder makes of a body that comes in these pieces."""
    parser, decoder = ServerSentEventParser(), wire_format.decoder()
    events: list[Event] = []
    for piece in pieces:
        events += decoder.feed(parser.feed(piece))
        if decoder.finished or decoder.failure:
            break
    else:
        events += decoder.end(parser.close())
    return Decoded(events, decoder.failure, decoder.finished, decoder.raw)


def read(wire_format: WireFormat, body: Any) -> LLMResponse:
    """Return the answer that a plain body is."""
    decoder: StreamDecoder = wire_format.decoder()
    return answer(wire_format, decoder.read(body))


def answer(wire_format: WireFormat, events: Iterable[Event]) -> LLMResponse:
    """Return the answer that events make."""
    builder = ResponseBuilder()
    builder.extend(events)
    return builder.build(issuer(wire_format), APIType.CHAT_COMPLETION)


def cut(body: bytes, places: Sequence[int]) -> list[bytes]:
    """Return a body cut at these places."""
    inner = (place for place in places if 0 < place < len(body))
    return [body[start:end] for start, end in pairwise([0, *sorted(inner), len(body)])]


def cut_everywhere(body: bytes, seed: str = "", bytewise: bool = True) -> Iterable[list[bytes]]:
    """Yield a body byte by byte, and in random pieces that are the same in every run."""
    if bytewise:
        yield [body[position : position + 1] for position in range(len(body))]
    generator = random.Random(seed or len(body))
    for count in (1, 2, 5, 20):
        yield cut(body, [generator.randrange(len(body) + 1) for _ in range(count)])
