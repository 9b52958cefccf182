"""CPU per event of streamed answers, llmkit beside other clients: `python benchmarks/streaming.py [--quick]`.

Every client reads the same OpenAI Chat stream (anthropic: the same text in its own) from a server in another process
on another core, and hands out its text, whose length is checked. What is counted is the client's CPU, with the request
and the end of the stream in it. The first row is what a person would write by hand, with pydantic's JSON decoder.
Peers that are not installed are left out: `pip install aiohttp anthropic httpx-sse litellm msgspec openai`.
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import logging
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TypeVar

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]  # a checkout need not be installed

import anyio
from _clients import ASYNC, BLOCKING, EVENTS, FAST, HAND, OURS, OVER_HTTPX, PACKAGES, SSE_JSON, AsyncRead, Read
from _report import Report, Turns, installed, prepare_client
from _samples import answer_pieces
from _server import serve

__all__ = ["main"]

WORLDS = ("blocking", "asyncio", "trio")
Client = TypeVar("Client")
Result = TypeVar("Result")


class Case:
    """Streams of one kind and length; `crowds` tells how many at once, and how often that a turn.

    Several crowds take turns with each other, as contestants of their own.
    """

    def __init__(self, address: str, kind: str, events: int, crowds: dict[int, int]) -> None:
        self.base_url = f"{address}/{kind}/{events}/v1"
        self.events, self.crowds = events, crowds

    def measure(
        self, world: str, names: list[str], rounds: int, clock: Callable[[], float] = time.process_time
    ) -> Turns:
        """Return what an event costs each of the clients `names`, as far as the world has it."""
        names = [name for name in names if name not in PACKAGES or installed(PACKAGES[name])]
        if world == "blocking":
            return self._blocking(names, Turns(rounds, clock))
        if world == "trio":
            names = [name for name in names if name != "aiohttp"]
        return anyio.run(self._under, names, Turns(rounds, clock), backend=world)

    def _blocking(self, names: list[str], turns: Turns) -> Turns:
        with ExitStack() as stack, ThreadPoolExecutor(max(self.crowds)) as threads:

            def work(read: Read, at_once: int) -> int:
                for _ in range(self.crowds[at_once]):
                    calls = [threads.submit(read) for _ in range(at_once)] if at_once > 1 else []
                    self._check([call.result() for call in calls] or [read()], at_once)
                return self.events * at_once * self.crowds[at_once]

            found = {name: stack.enter_context(BLOCKING[name](self.base_url)) for name in names if name in BLOCKING}
            return turns.run(self._contestants(found, work))

    async def _under(self, names: list[str], turns: Turns) -> Turns:
        async with AsyncExitStack() as stack:

            async def work(read: AsyncRead, at_once: int) -> int:
                for _ in range(self.crowds[at_once]):
                    lengths: list[int] = []
                    if at_once == 1:
                        await _append(lengths, read)
                    else:
                        async with anyio.create_task_group() as tasks:
                            for _ in range(at_once):
                                tasks.start_soon(_append, lengths, read)
                    self._check(lengths, at_once)
                return self.events * at_once * self.crowds[at_once]

            enter = stack.enter_async_context
            found = {name: await enter(ASYNC[name](self.base_url)) for name in names if name in ASYNC}
            return await turns.arun(self._contestants(found, work))

    def _contestants(
        self, clients: dict[str, Client], work: Callable[[Client, int], Result]
    ) -> dict[str, Callable[[], Result]]:
        several = len(self.crowds) > 1
        return {
            of_crowd(name, at_once) if several else name: functools.partial(work, read, at_once)
            for name, read in clients.items()
            for at_once in self.crowds
        }

    def _check(self, lengths: list[int], at_once: int) -> None:
        if len(lengths) != at_once or set(lengths) != {text_length(self.events)}:
            raise AssertionError(f"a client lost text: {sorted(set(lengths))} instead of {text_length(self.events)}")


def of_crowd(name: str, at_once: int) -> str:
    return f"{name}, {at_once:,}"


async def _append(lengths: list[int], read: AsyncRead) -> None:
    lengths.append(await read())


@functools.cache
def text_length(events: int) -> int:
    return sum(len(piece) for piece in itertools.islice(itertools.cycle(answer_pieces()), events))


def table(report: Report, caption: str, results: dict[str, Turns]) -> None:
    """Print clients as rows and worlds as columns."""
    names = dict.fromkeys(name for turns in results.values() for name in turns.names)
    rows = [(name, *(turns.cell(name) for turns in results.values())) for name in names]
    report.table(caption, ["client", *results], rows)


def one_stream(report: Report, address: str, quick: bool) -> dict[str, Turns]:
    names = [HAND, OURS, EVENTS, FAST, OVER_HTTPX, "aiohttp", SSE_JSON, "openai"]
    case = Case(address, "burst", 773, {1: 1 if quick else 2})
    if not quick:
        names += ["anthropic", "litellm"]
    results = {world: case.measure(world, names, 2 if quick else 5) for world in WORLDS}
    table(
        report, "One stream of 773 pieces of text, as fast as they come: CPU microseconds per event (ratio):", results
    )
    return results


def many_streams(report: Report, address: str, quick: bool) -> dict[str, Turns]:
    hundred = Case(address, "burst", 50, {100: 1})
    results = {world: hundred.measure(world, [HAND, OURS, "aiohttp"], 1 if quick else 2) for world in WORLDS}
    table(report, "100 streams at once, of 50 pieces; blocking: in threads:", results)
    if quick:
        return {}
    # The collector would look through all that the peers have imported, the more often the more streams there are.
    gc.collect()
    gc.freeze()
    crowds = Case(address, "burst", 50, {1: 100, 1000: 1})
    results = {world: crowds.measure(world, [OURS, "aiohttp"], 5) for world in WORLDS}
    # Once and cold: httpx takes a quarter of a minute.
    by_hand = Case(address, "burst", 50, {1000: 1}).measure("asyncio", [HAND], 0)
    results["asyncio"].add(by_hand)
    table(report, "1 and 1,000 streams at once, of 50 pieces; httpx by hand: 1,000, once:", results)
    return results


def one_by_one(report: Report, address: str, quick: bool) -> None:
    case = Case(address, "every-1", 100, {1: 1})
    names = [HAND, OURS, "aiohttp"] if quick else [HAND, OURS, OVER_HTTPX, "aiohttp", SSE_JSON, "openai"]
    results = {world: case.measure(world, names, 1 if quick else 3) for world in WORLDS}
    table(
        report,
        "One stream, one event a millisecond: each wakes the client, and most of the CPU is spent on that:",
        results,
    )
    if not quick:
        case = Case(address, "every-20", 50, {100: 1})
        results = {world: case.measure(world, [HAND, OURS, "aiohttp"], 1) for world in WORLDS}
        table(report, "100 streams at once, each of 50 events a second:", results)


def first_text(report: Report, address: str, quick: bool) -> None:
    case = Case(address, "burst", 1, {1: 10})
    names = [HAND, OURS, "aiohttp"] if quick else [HAND, OURS, "aiohttp", "openai"]
    results = {world: case.measure(world, names, 3 if quick else 7, time.perf_counter) for world in WORLDS}
    table(report, "Wall microseconds from the call to the end of a stream of a single piece, connection open:", results)


def goals(report: Report, one: dict[str, Turns], many: dict[str, Turns]) -> None:
    found = [
        (f"{OURS} / {HAND}, {world}", turns.ratio(OURS, HAND), 0.40 if world == "blocking" else 0.45)
        for world, turns in one.items()
    ]
    found += [(f"{OVER_HTTPX} / {HAND}, {world}", turns.ratio(OVER_HTTPX, HAND), 1.10) for world, turns in one.items()]
    for peer, most in (("openai", 0.05), ("litellm", 0.025), ("aiohttp", 1.0)):
        found += [
            (f"{OURS} / {peer}, {world}", turns.ratio(OURS, peer), most)
            for world, turns in one.items()
            if peer in turns.names
        ]
    if many:
        alone, crowd = of_crowd(OURS, 1), of_crowd(OURS, 1000)
        found.append((f"1,000 streams: {OURS} / {HAND}, asyncio", many["asyncio"].ratio(crowd, HAND), 0.20))
        found += [
            (f"{OURS}: 1,000 streams / 1 stream, {world}", turns.ratio(crowd, alone), 1.5)
            for world, turns in many.items()
        ]
    report.goals(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and not 1,000 streams")
    quick = parser.parse_args().quick
    logging.disable()
    prepare_client()
    packages = [
        "httpx",
        "httpcore",
        "pydantic-core",
        "msgspec",
        "aiohttp",
        "httpx-sse",
        "anthropic",
        "openai",
        "litellm",
        "anyio",
        "trio",
    ]
    report = Report("Streaming", packages)
    with serve() as address:
        one = one_stream(report, address, quick)
        one_by_one(report, address, quick)
        first_text(report, address, quick)
        many = many_streams(report, address, quick)
    goals(report, one, many)
    return 0


if __name__ == "__main__":
    sys.exit(main())
