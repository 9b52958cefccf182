"""Faults at random, under load, in all three worlds at once, repeatable by a seed; `make soak` runs it for ten minutes.

    python -m tests.soak --seconds 600 --seed 7

A server in a process of its own does to each call what the call's headers name. Every call must end as it should: with
its own answer, whole, or with a right error, in time. Every fault is followed by a call that works. At the end there
must be as many descriptors, tasks and threads as before. A table tells; the exit status is 1 where anything is amiss.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anyio
import anyio.to_thread
import trio

from llmkit import LLMProviderError, create_llm_provider, create_sync_llm_provider

from . import soak_faults
from .answers import ALL_APIS, AnyApi
from .soak_faults import CUT, FAULTS, KEY, TIMEOUT, story

WORKERS = 8
"""Callers at the same time, in each world."""
SERVICES = ("openai", "anthropic", "gemini")
SHORT, LONG = 0.3, 10.0
"""Seconds that a call may take where nothing will come, and where something must."""
GRACE = 1.0
MEMORY = 150_000_000
"""Bytes that a run may take after its first calls: less than the smallest leak of a thousand calls."""
BOUNDS = {"max_body_bytes": 150_000, "max_event_bytes": 100_000, "max_stream_bytes": 150_000}


@dataclass
class Tally:
    """What happened, in all worlds."""

    calls: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    slowest: dict[str, float] = field(default_factory=dict)
    over: float = 0.0
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 10**12)))


@dataclass
class Question:
    """One call: where it goes, what is done to it, and how it is asked."""

    world: str
    number: int
    service: int
    api: AnyApi
    fault: str
    how: str
    moment: float
    retries: int
    started: float = field(default_factory=time.monotonic)

    @property
    def right_errors(self) -> set[str]:
        return FAULTS[self.fault][1]

    @property
    def seconds(self) -> float:
        return 3 * SHORT if self.right_errors is TIMEOUT else LONG

    @property
    def settings(self) -> dict[str, Any]:
        timeout = SHORT if self.right_errors is TIMEOUT else LONG
        headers = {"x-fault": self.fault, "x-number": str(self.number), "x-api": self.api.name}
        times = {"timeout": timeout, "idle_timeout": timeout, "deadline": self.seconds}
        retries = {"max_retries": self.retries, "retry_delay": 0.01}
        return {"api_type": self.api.api_type, "extra_headers": headers, **times, **retries, **BOUNDS}

    def judge(self, tally: Tally, answer: Any, error: BaseException | None) -> None:
        """Tell whether the call has ended as it should: `answer` is None where it was broken off."""
        self.check_time(tally)
        text = "".join(story(self.number))
        who = f"{self.world} {self.api.name} {self.how} “{self.fault}” {self.number}"
        if error is None:
            if answer is not None and self.right_errors and self.fault != "reset afterwards":
                tally.findings.append(f"{who}: an answer, {answer!r}")
            elif answer not in (None, text):
                tally.findings.append(f"{who}: another answer, {answer!r}")
            tally.ends["answers" if answer is not None else "broken off"] += 1
            return
        tally.ends["errors"] += 1
        tally.errors[type(error).__name__] += 1
        right = self.right_errors | ({*CUT, *TIMEOUT} if self.how == "closed by another" else set())
        if not isinstance(error, LLMProviderError) or type(error).__name__ not in right:
            tally.findings.append(f"{who}: {error!r}")
        elif KEY in f"{error!r} {error} {error.to_dict()}":
            tally.findings.append(f"{who}: the key is shown")
        elif error.partial and not text.startswith(error.partial.content) and self.fault != "an endless answer":
            tally.findings.append(f"{who}: another's part, {error.partial.content!r}")

    def check_time(self, tally: Tally) -> None:
        over = time.monotonic() - self.started - self.seconds
        tally.over = max(tally.over, over)
        if over > GRACE:
            tally.findings.append(f"{self.world} “{self.fault}” {self.how}: {over:.2f} s over its time")

    def recovered(self, tally: Tally, answer: Any, error: BaseException | None, seconds: float) -> None:
        """Take note of the call that followed a fault."""
        if error or answer != "".join(story(self.number)):
            tally.findings.append(f"{self.world} after “{self.fault}”: {error!r} {answer!r}")
        tally.slowest[self.world] = max(tally.slowest.get(self.world, 0.0), seconds)


HOWS = ("plain", "gathered", "iterated", "forgotten", "broken off", "cancelled", "cancelled")


def question(world: str, chance: random.Random, tally: Tally) -> Question:
    """Return the next call of a caller."""
    service = chance.randrange(len(SERVICES))
    own = [ALL_APIS[:2], ALL_APIS[2:3], ALL_APIS[3:]][service]
    how = chance.choice(HOWS)
    if world == "blocking" and how == "cancelled":
        how = "closed by another"
    fault, retries = chance.choice(list(FAULTS)), chance.choice([0, 0, 2])
    number = next(tally.numbers)
    tally.calls[world] += 1
    tally.faults[fault] += 1
    return Question(world, number, service, chance.choice(own), fault, how, chance.uniform(0, 0.1), retries)


def afterwards(asked: Question, tally: Tally) -> Question:
    """Return the call that follows a fault, and must work."""
    tally.calls[asked.world] += 1
    return Question(asked.world, next(tally.numbers), asked.service, asked.api, "none", "plain", 0.0, 0)


async def ask(provider: Any, asked: Question) -> str | None:
    """Return the answer's text, None where it was broken off."""
    if asked.how in ("plain", "gathered"):
        mode = "disabled" if asked.how == "plain" else "auto"
        text: str = (await provider.execute("Hi", stream_mode=mode, **asked.settings)).content
        return text
    stream = provider.stream("Hi", **asked.settings)
    if asked.how == "forgotten":
        await anext(aiter(stream), None)
        return None
    async for _ in stream:
        if asked.how == "broken off":
            return None
    return (await stream.response()).content  # type: ignore[no-any-return]


async def call(providers: list[Any], chance: random.Random, tally: Tally, world: str) -> None:
    """Make a call, and one after it that must work."""
    asked = question(world, chance, tally)
    answer, error = None, None
    with anyio.move_on_after(asked.moment if asked.how == "cancelled" else None):
        try:
            answer = await ask(providers[asked.service], asked)
        except Exception as caught:
            error = caught
    asked.judge(tally, answer, error)
    if error or asked.how == "cancelled":
        following = afterwards(asked, tally)
        try:
            answer, error = await ask(providers[asked.service], following), None
        except Exception as caught:
            answer, error = None, caught
        following.recovered(tally, answer, error, time.monotonic() - following.started)


def ask_blocking(provider: Any, asked: Question) -> str | None:
    if asked.how in ("plain", "gathered"):
        mode = "disabled" if asked.how == "plain" else "auto"
        text: str = provider.execute("Hi", stream_mode=mode, **asked.settings).content
        return text
    stream = provider.stream("Hi", **asked.settings)
    if asked.how == "forgotten":
        next(iter(stream), None)
        return None
    closer = threading.Timer(asked.moment, stream.close)
    if asked.how == "closed by another":
        closer.start()
    try:
        for _ in stream:
            if asked.how == "broken off":
                return None
        return stream.response().content  # type: ignore[no-any-return]
    finally:
        if asked.how == "closed by another":
            closer.cancel()
            closer.join()


def call_blocking(providers: list[Any], chance: random.Random, tally: Tally) -> None:
    asked = question("blocking", chance, tally)
    answer, error = None, None
    try:
        answer = ask_blocking(providers[asked.service], asked)
    except Exception as caught:
        error = caught
    asked.judge(tally, answer, error)
    if error:
        following = afterwards(asked, tally)
        try:
            answer, error = ask_blocking(providers[asked.service], following), None
        except Exception as caught:
            answer, error = None, caught
        following.recovered(tally, answer, error, time.monotonic() - following.started)


class Soak:
    """One run: three worlds that call until the time is up, and meet where the leaks are counted."""

    def __init__(self, url: str, seconds: float, seed: int) -> None:
        self.tally = Tally()
        self._settings = {"model_name": "m", "api_key": KEY, "base_url": f"{url}/v1"}
        self._seconds, self._seed = seconds, seed
        self._meeting = threading.Barrier(4)

    def run(self) -> list[tuple[str, Any]]:
        """Return the figures."""
        tally = self.tally
        before = descriptors(), threads()
        worlds = [
            threading.Thread(target=self._blocking),
            threading.Thread(target=lambda: asyncio.run(self._async("asyncio", lambda: len(asyncio.all_tasks())))),
            threading.Thread(target=lambda: trio.run(self._async, "trio", trio_tasks)),
        ]
        for world in worlds:
            world.start()
        self._meeting.wait()
        gc.collect()
        warm, memory = descriptors(), resident()
        self._until = time.monotonic() + self._seconds
        self._meeting.wait()
        self._meeting.wait()
        gc.collect()
        used, grown = descriptors(), resident() - memory
        self._meeting.wait()
        for world in worlds:
            world.join()
        gc.collect()
        after = descriptors(), threads()
        if after != before:
            tally.findings.append(f"descriptors and threads: {before} before, {after} after")
        # Each caller can have left an idle connection to each service, and each loop has a few of its own.
        if used > before[0] + 3 * WORKERS * len(SERVICES) + 20:
            tally.findings.append(f"{used} descriptors at the end, {warm} after the first calls")
        if grown > MEMORY:
            tally.findings.append(f"{grown} bytes of memory more than after the first calls")
        return [
            ("calls", tally.calls.total()),
            *((f"  {world}", count) for world, count in tally.calls.items()),
            ("faults", tally.faults.total() - tally.faults["none"]),
            *((f"  {end}", count) for end, count in tally.ends.most_common()),
            *((f"    {kind}", count) for kind, count in tally.errors.most_common()),
            ("longest over its time, s", f"{tally.over:.3f}"),
            *((f"slowest recovery, {world}, s", f"{seconds:.3f}") for world, seconds in tally.slowest.items()),
            ("descriptors before, after 100 calls, at the end, closed", f"{before[0]}, {warm}, {used}, {after[0]}"),
            ("threads before, closed", f"{before[1]}, {after[1]}"),
            ("memory, growth in MB", f"{grown / 1e6:.1f}"),
            ("findings", len(tally.findings)),
        ]

    def _chance(self, world: str, worker: int, phase: str) -> random.Random:
        return random.Random(f"{self._seed} {world} {worker} {phase}")

    def _blocking(self) -> None:
        providers = [create_sync_llm_provider(name, **self._settings) for name in SERVICES]

        def work(worker: int, phase: str, goes_on: Callable[[int], bool]) -> None:
            chance, done = self._chance("blocking", worker, phase), 0
            while goes_on(done):
                call_blocking(providers, chance, self.tally)
                done += 1

        for phase, goes_on in self._phases():
            callers = [threading.Thread(target=work, args=(worker, phase, goes_on)) for worker in range(WORKERS)]
            for caller in callers:
                caller.start()
            for caller in callers:
                caller.join()
            self._meeting.wait()
            self._meeting.wait()
        for provider in providers:
            provider.close()

    async def _async(self, world: str, count_tasks: Callable[[], int]) -> None:
        providers = [create_llm_provider(name, **self._settings) for name in SERVICES]
        tasks = count_tasks()

        async def work(worker: int, phase: str, goes_on: Callable[[int], bool]) -> None:
            chance, done = self._chance(world, worker, phase), 0
            while goes_on(done):
                await call(providers, chance, self.tally, world)
                done += 1

        for phase, goes_on in self._phases():
            async with anyio.create_task_group() as group:
                for worker in range(WORKERS):
                    group.start_soon(work, worker, phase, goes_on)
            await self._settled(world, count_tasks, tasks)
            await anyio.to_thread.run_sync(self._meeting.wait)
            await anyio.to_thread.run_sync(self._meeting.wait)
        for provider in providers:
            await provider.aclose()
        await self._settled(world, count_tasks, tasks)

    def _phases(self) -> Iterator[tuple[str, Callable[[int], bool]]]:
        """Yield the first calls, about 100 of them, and all others."""
        yield "first", lambda done: done < 100 // (3 * WORKERS)
        yield "others", lambda done: time.monotonic() < self._until

    async def _settled(self, world: str, count_tasks: Callable[[], int], expected: int) -> None:
        """Wait until the tasks that close connections are done."""
        gc.collect()
        give_up = time.monotonic() + 5
        while count_tasks() > expected:
            if time.monotonic() > give_up:
                self.tally.findings.append(f"{world}: {count_tasks()} tasks, {expected} before")
                return
            await anyio.sleep(0.01)


def trio_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def threads() -> int:
    """Return how many threads there are, without those that trio keeps for ten seconds."""
    return len([thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")])


def descriptors() -> int:
    """Return how many descriptors are open, 0 where the system does not tell."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def resident() -> int:
    """Return the most bytes of memory that the process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def soak(seconds: float, seed: int) -> tuple[list[tuple[str, Any]], list[str]]:
    """Return the figures and the findings of a run."""
    with subprocess.Popen(
        [sys.executable, "-m", soak_faults.__name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        try:
            run = Soak(process.stdout.readline().strip(), seconds, seed)
            return run.run(), run.tally.findings
        finally:
            process.stdin.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    figures, findings = soak(arguments.seconds, arguments.seed)
    for name, value in figures:
        print(f"{name:58} {value:>16}")
    for finding in findings[:50]:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
