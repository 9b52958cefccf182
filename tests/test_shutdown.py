"""Programs that end without closing anything: in the middle of a stream, with threads and tasks at work. No warning."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .answers import ChatCompletions
from .server import GONE, Reply, Request, Server, json_reply, stream_reply
from .test_house import PROJECT

API = ChatCompletions()
START = """
import asyncio, sys, threading, trio
from llmkit import create_llm_provider, create_sync_llm_provider
create = create_sync_llm_provider if sys.argv[2] == "blocking" else create_llm_provider
provider = create("openai", model_name="m", api_key="sk-0123456789", base_url=sys.argv[1])
run = {"asyncio": asyncio.run, "trio": lambda coroutine: trio.run(lambda: coroutine)}.get(sys.argv[2])
"""
BLOCKING = {
    "a stream left open": "stream = provider.stream('Hi')\nprint(next(iter(stream)))",
    "an iterator left open": "texts = iter(provider.stream('Hi'))\nprint(next(texts))",
    "a kept connection": "print(provider.execute('One').content)",
    "an error in the loop": "for text in provider.stream('Hi'):\n    print(text)\n    sys.exit(0)",
    "a thread that waits": """
begun = threading.Event()
def ask():
    for text in provider.stream("Hi"):
        print(text, flush=True)
        begun.set()
threading.Thread(target=ask, daemon=True).start()
begun.wait()
""",
}
SUSPENDED = """
async def texts():
    async for text in provider.stream("Hi"):
        yield text
async def main():
    global kept
    kept = texts()
    print(await anext(kept))
run(main())
"""
ASYNC = {
    "a stream left open": "global s; s = provider.stream('Hi'); print(await anext(aiter(s)))",
    "a kept connection": "print((await provider.execute('One')).content)",
    "an error in the loop": "async for text in provider.stream('Hi'): print(text); sys.exit(0)",
    "an iterator dropped": "print(await anext(aiter(provider.stream('Hi'))))",
}
CASES = {f"blocking, {name}": ("blocking", code) for name, code in BLOCKING.items()} | {
    f"{world}, {name}": (world, f"async def main():\n    {code}\nrun(main())")
    for world in ("asyncio", "trio")
    for name, code in ASYNC.items()
}
CASES |= {f"{world}, a generator over a stream": (world, SUSPENDED) for world in ("asyncio", "trio")}


def reply(request: Request) -> Reply:
    if request.body.get("stream"):
        return stream_reply([*API.begun("One"), GONE], end=False)
    return json_reply(API.plain("One"))


@pytest.mark.parametrize(("world", "code"), CASES.values(), ids=CASES)
def test_a_program_ends_in_silence(world: str, code: str) -> None:
    with Server(default=reply) as server:
        command = [sys.executable, "-W", "error", "-c", START + code, server.base_url, world]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr, set(done.stdout.split())) == (0, "", {"One"})
        assert all(server.wait_gone(number) for number in range(len(server.connections)))
