"""Memory of open streams and of a long one: `python benchmarks/memory.py [--quick]`, on Linux.

Each figure comes from a process of its own: how much it has grown once 1,000 streams are open in one event loop and
wait for their next event, and by how much at most while a blocking script reads a million events and keeps none.
Peers that are not installed are left out: `pip install aiohttp openai`.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import multiprocessing
import resource
import sys
from contextlib import AsyncExitStack
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]  # a checkout need not be installed

import anyio
from _clients import ASYNC, BLOCKING, HAND, LEAN, OURS, PACKAGES
from _report import Report, installed, prepare_client
from _samples import answer_pieces
from _server import serve

__all__ = ["main"]

STREAMS = 1000


def idle_streams(name: str, address: str) -> float:
    """Return the KiB that one more waiting stream takes, between the first 100 and 1,000 more."""
    prepare_client()

    async def grown() -> float:
        async with AsyncExitStack() as stack, anyio.create_task_group() as tasks:
            read = await stack.enter_async_context(ASYNC[name](f"{address}/every-600000/9/v1"))
            before = 0.0
            for count in (100, STREAMS):
                before = resident_kib()
                for _ in range(count):
                    tasks.start_soon(read)
                # As long as something moves, more streams are being opened.
                settled = -1.0
                while settled != (settled := resident_kib()):
                    await anyio.sleep(1)
            tasks.cancel_scope.cancel()
        return (settled - before) / STREAMS

    return anyio.run(grown)


def long_stream(name: str, address: str, events: int) -> float:
    """Return the MiB by which the process grew at most while it read `events` events, after 1,000 of them."""
    prepare_client()
    with BLOCKING[name](f"{address}/burst/1000/v1") as read:
        read()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with BLOCKING[name](f"{address}/burst/{events}/v1") as read:
        read()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def resident_kib() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100,000 events, and llmkit alone")
    quick = parser.parse_args().quick
    logging.disable()
    report = Report("Memory", ["httpx", "aiohttp", "openai", "anyio"])
    events = 100_000 if quick else 1_000_000
    names = [OURS] if quick else [OURS, "aiohttp", HAND]
    with serve() as address, multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as processes:
        rows = [
            (name, f"{processes.apply(idle_streams, (name, address)):.1f}")
            for name in names
            if name not in PACKAGES or installed(PACKAGES[name])
        ]
        report.table("1,000 streams that wait, under asyncio:", ["client", "KiB each"], rows)
        grown = {name: processes.apply(long_stream, (name, address, events)) for name in (OURS, LEAN, HAND)}
    text = sys.getsizeof("".join(itertools.islice(itertools.cycle(answer_pieces()), events))) / 2**20
    report.table(
        f"A stream of {events:,} events, none of them kept by the caller. llmkit keeps the answer's text for "
        f"`response()` and `error.partial`, unless told not to: that is {text:.1f} MiB as a string.",
        ["client", "MiB at most"],
        [(name, f"{size:.1f}") for name, size in grown.items()],
    )
    goals = [
        ("MiB that llmkit takes beside the text of the answer", grown[OURS] - text, 1.0),
        ("MiB that it takes where no text is kept", grown[LEAN], 1.0),
    ]
    report.goals(goals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
