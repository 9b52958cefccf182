"""CPU of calls whose answer comes whole, llmkit beside other clients: `python benchmarks/calls.py [--quick]`.

Every client asks the same question, gets the same Chat Completions answer of 0.9 KB with twelve headers from a server
in another process on another core, over connections that stay open, and reads the text out of it. The first row is
what a person would write by hand: `httpx.Client.request` with `json=…`, and `response.json()`.
Peers that are not installed are left out: `pip install aiohttp openai`.
"""

from __future__ import annotations

import argparse
import functools
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]  # a checkout need not be installed

import anyio
import httpx
from _clients import HAND, HEADERS, KEY, OURS, PROMPT, QUESTION, SETTINGS, async_provider, provider
from _report import Report, Turns, installed, prepare_client
from _server import serve

__all__ = ["main"]

WORLDS = ("blocking", "asyncio", "trio")
WHOLE: dict[str, Any] = {**QUESTION, "stream": False}
Ask = Callable[[], str]
AsyncAsk = Callable[[], Awaitable[str]]


@contextmanager
def by_hand(base_url: str) -> Iterator[Ask]:
    with httpx.Client(**SETTINGS) as client:

        def ask() -> str:
            response = client.request("POST", f"{base_url}/chat/completions", json=WHOLE, headers=HEADERS)
            text: str = response.raise_for_status().json()["choices"][0]["message"]["content"]
            return text

        yield ask


@asynccontextmanager
async def by_hand_async(base_url: str) -> AsyncIterator[AsyncAsk]:
    async with httpx.AsyncClient(**SETTINGS) as client:

        async def ask() -> str:
            response = await client.request("POST", f"{base_url}/chat/completions", json=WHOLE, headers=HEADERS)
            text: str = response.raise_for_status().json()["choices"][0]["message"]["content"]
            return text

        yield ask


@contextmanager
def with_llmkit(base_url: str) -> Iterator[Ask]:
    with provider(base_url) as llm:
        yield lambda: llm.execute(PROMPT).content


@asynccontextmanager
async def with_llmkit_async(base_url: str) -> AsyncIterator[AsyncAsk]:
    async with async_provider(base_url) as llm:

        async def ask() -> str:
            return (await llm.execute(PROMPT)).content

        yield ask


@contextmanager
def with_openai(base_url: str) -> Iterator[Ask]:
    from openai import OpenAI

    with OpenAI(api_key=KEY, base_url=base_url) as client:
        yield lambda: client.chat.completions.create(**WHOLE).choices[0].message.content or ""


@asynccontextmanager
async def with_openai_async(base_url: str) -> AsyncIterator[AsyncAsk]:
    from openai import AsyncOpenAI

    async with AsyncOpenAI(api_key=KEY, base_url=base_url) as client:

        async def ask() -> str:
            return (await client.chat.completions.create(**WHOLE)).choices[0].message.content or ""

        yield ask


@asynccontextmanager
async def with_aiohttp_async(base_url: str) -> AsyncIterator[AsyncAsk]:
    import aiohttp

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def ask() -> str:
            async with session.post(f"{base_url}/chat/completions", json=WHOLE, headers=HEADERS) as response:
                response.raise_for_status()
                text: str = (await response.json())["choices"][0]["message"]["content"]
                return text

        yield ask


BLOCKING = {HAND: by_hand, OURS: with_llmkit, "openai": with_openai}
ASYNC = {HAND: by_hand_async, OURS: with_llmkit_async, "openai": with_openai_async, "aiohttp": with_aiohttp_async}


def blocking(base_url: str, at_once: int, requests: int, rounds: int) -> Turns:
    """Measure the blocking clients, in threads where there are several calls at once."""
    with ExitStack() as stack, ThreadPoolExecutor(at_once) as threads:

        def several(ask: Ask, count: int) -> None:
            for _ in range(count):
                check(ask())

        def work(ask: Ask) -> int:
            if at_once == 1:
                several(ask, requests)
            else:
                for call in [threads.submit(several, ask, requests // at_once) for _ in range(at_once)]:
                    call.result()
            return requests

        found = {name: stack.enter_context(client(base_url)) for name, client in BLOCKING.items() if present(name)}
        return Turns(rounds).run({name: functools.partial(work, ask) for name, ask in found.items()})


async def under(base_url: str, at_once: int, requests: int, rounds: int, names: list[str]) -> Turns:
    """Measure the clients of an event loop."""
    async with AsyncExitStack() as stack:

        async def several(ask: AsyncAsk) -> None:
            for _ in range(requests // at_once):
                check(await ask())

        async def work(ask: AsyncAsk) -> int:
            async with anyio.create_task_group() as tasks:
                for _ in range(at_once):
                    tasks.start_soon(several, ask)
            return requests

        found = {name: await stack.enter_async_context(ASYNC[name](base_url)) for name in names if present(name)}
        return await Turns(rounds).arun({name: functools.partial(work, ask) for name, ask in found.items()})


def check(text: str) -> None:
    if not text.startswith("The tide table"):
        raise AssertionError(f"a client read {text!r}")


def present(name: str) -> bool:
    return name in (HAND, OURS) or installed(name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    quick = parser.parse_args().quick
    logging.disable()
    prepare_client()
    report = Report("Calls", ["httpx", "httpcore", "aiohttp", "openai", "anyio", "trio"])
    results: dict[tuple[str, int], Turns] = {}
    # At 256 at once httpx takes ten times as long for a request, and two rounds are enough to see it.
    plan = {1: 1, 16: 1} if quick else {1: 7, 16: 5, 256: 2}
    requests = 128 if quick else 256
    with serve() as address:
        base_url = f"{address}/plain/0/v1"
        for at_once, rounds in plan.items():
            results["blocking", at_once] = blocking(base_url, at_once, requests, rounds)
            for world in WORLDS[1:]:
                names = [name for name in ASYNC if world == "asyncio" or name != "aiohttp"]
                results[world, at_once] = anyio.run(under, base_url, at_once, requests, rounds, names, backend=world)
            rows = [(name, *(results[world, at_once].cell(name) for world in WORLDS)) for name in ASYNC]
            report.table(f"{at_once} at once: CPU microseconds per request (ratio)", ["client", *WORLDS], rows)
    goals = [
        (f"{OURS} / {peer}, {world}, {at_once} at once", turns.ratio(OURS, peer), most)
        for peer, most in ((HAND, 0.75), ("openai", 0.333))
        for (world, at_once), turns in results.items()
        if peer in turns.names
    ]
    report.goals(goals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
