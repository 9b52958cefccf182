"""How much memory a hostile answer can cost at the default limits, in a process that does nothing else."""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from .answers import ChatCompletions
from .server import Server, event, head, json_reply, stream_reply
from .test_house import PROJECT

API = ChatCompletions()
PIECE = 1 << 18
CHUNKED = head(200, {"transfer-encoding": "chunked"})
ASK = """
import resource, sys
from llmkit import LLMProviderError, create_sync_llm_provider
provider = create_sync_llm_provider("openai", model_name="m", api_key="sk-0123456789", base_url=sys.argv[1])
def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
def ask(mode):
    return len(provider.execute("Hi", stream_mode=mode, max_retries=0).content)
assert ask(sys.argv[2]) == 6
before = resident()
try:
    ask(sys.argv[2])
except LLMProviderError as error:
    print(resident() - before, error)
print(ask("disabled"))
"""


def endless(piece: bytes, start: bytes = CHUNKED) -> Callable[[], Any]:
    step = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    return lambda: itertools.chain([start], itertools.repeat(step))


def bomb() -> Any:
    compressed = gzip.compress(bytes(60_000_000)) * 10
    return [head(200, {"content-encoding": "gzip", "content-length": str(len(compressed))}), compressed]


def deltas() -> Any:
    step = event({"choices": [{"index": 0, "delta": {"content": "x" * PIECE}}]})
    return endless(step)()


# The reply, how it is asked for, and what the error says.
HOSTILE: dict[str, tuple[Callable[[], Any], str, str]] = {
    "a bomb of 600 MB": (bomb, "disabled", "max_body_bytes"),
    "a bomb of 600 MB in a stream": (bomb, "auto", "max_event_bytes"),
    "an endless body": (endless(b"[1, 2]" * (PIECE // 6)), "disabled", "max_body_bytes"),
    "an endless line": (endless(b"data: " + b"x" * PIECE), "auto", "max_event_bytes"),
    "an endless answer": (deltas, "auto", "max_stream_bytes"),
    "an endless error": (endless(b"Down. " * (PIECE // 6), CHUNKED.replace(b"200", b"500")), "disabled", "Down"),
}


@pytest.mark.skipif(not importlib.util.find_spec("resource"), reason="the system does not tell how much memory is used")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_answer_takes_little_memory(name: str) -> None:
    reply, mode, told = HOSTILE[name]
    good = stream_reply(API.stream("Hello!")) if mode == "auto" else json_reply(API.plain("Hello!"))
    with Server(good, reply(), json_reply(API.plain("x" * 8_000_000))) as server:
        command = [sys.executable, "-c", ASK, server.base_url, mode]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120, check=True)
    taken, last = done.stdout.splitlines()
    assert told in taken
    assert int(taken.partition(" ")[0]) < 300_000_000
    # An answer of 8 MB is read as any other.
    assert last == "8000000"
