"""What the benchmarks share: taking turns, medians and ratios, and tables in Markdown with machine and versions."""

from __future__ import annotations

import os
import platform
import statistics
import time
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _server import cores

__all__ = ["Report", "Turns", "installed", "prepare_client"]


def prepare_client() -> None:
    """Keep this process on the client's core, let it open as many sockets as the system allows, and silence peers."""
    # They call the names of models outdated.
    warnings.simplefilter("ignore", DeprecationWarning)
    core = cores()[0]
    if core:
        os.sched_setaffinity(0, core)
    with suppress(ImportError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def installed(package: str) -> bool:
    """Return whether a peer is there to be measured."""
    return find_spec(package) is not None


class Turns:
    """Microseconds a unit (event, request) of each contestant, from rounds in which they take turns.

    A contestant does its work once and returns how many units that was. The first turn of each warms it up and does
    not count, unless there is no other (`rounds` 0). `clock` is the CPU of this process, all threads, user and system.
    """

    def __init__(self, rounds: int, clock: Callable[[], float] = time.process_time) -> None:
        self._rounds = rounds
        self._clock = clock
        self._samples: dict[str, list[float]] = {}

    def run(self, contestants: Mapping[str, Callable[[], int]]) -> Turns:
        """Measure functions."""
        for number in range(self._rounds + 1):
            for name, work in contestants.items():
                started = self._clock()
                units = work()
                self._note(number, name, self._clock() - started, units)
        return self

    async def arun(self, contestants: Mapping[str, Callable[[], Awaitable[int]]]) -> Turns:
        """Measure coroutine functions."""
        for number in range(self._rounds + 1):
            for name, work in contestants.items():
                started = self._clock()
                units = await work()
                self._note(number, name, self._clock() - started, units)
        return self

    def add(self, other: Turns) -> None:
        """Take in the contestants of rounds of their own."""
        self._samples |= other._samples

    def _note(self, number: int, name: str, seconds: float, units: int) -> None:
        samples = self._samples.setdefault(name, [])
        if number or not self._rounds:
            samples.append(seconds / units * 1e6)

    @property
    def names(self) -> list[str]:
        """Those that were measured."""
        return list(self._samples)

    def median(self, name: str) -> float:
        """Return the median of the microseconds a unit."""
        return statistics.median(self._samples[name])

    def ratio(self, name: str, to: str | None = None) -> float:
        """Return the median of the ratios, round by round, to another contestant (None: to the first).

        Of contestants that took no turns with each other, the ratio of the medians.
        """
        ours, base = self._samples[name], self._samples[to or self.names[0]]
        if len(ours) != len(base):
            return statistics.median(ours) / statistics.median(base)
        return statistics.median(one / other for one, other in zip(ours, base, strict=True))

    def cell(self, name: str) -> str:
        """Return "median (ratio)", or a dash for one that was not measured."""
        return f"{self.median(name):.1f} ({self.ratio(name):.2f})" if name in self._samples else "–"


class Report:
    """Prints a benchmark's tables, and appends them to the file that LLMKIT_BENCH_REPORT names."""

    def __init__(self, title: str, packages: Sequence[str]) -> None:
        path = os.environ.get("LLMKIT_BENCH_REPORT")
        self._path = Path(path) if path else None
        self.say(f"## {title}\n")
        self.say(
            f"{_machine()}; {platform.python_implementation()} {platform.python_version()}; {_versions(packages)}.\n"
        )

    def say(self, text: str) -> None:
        """Print a line or several."""
        print(text, flush=True)
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{text}\n")

    def table(self, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table; all columns but the first are figures."""
        self.say(f"{caption}\n")
        table = [list(columns), ["---", *["--:"] * (len(columns) - 1)], *([str(cell) for cell in row] for row in rows)]
        self.say("\n".join(f"| {' | '.join(row)} |" for row in table) + "\n")

    def goals(self, goals: Sequence[tuple[str, float, float]]) -> None:
        """Print what was to be reached: a name, the figure, and the most that it may be."""
        rows = [
            (name, f"{value:.3f}", f"≤ {most:g}", "met" if value <= most else "lost") for name, value, most in goals
        ]
        self.table("Goals:", ("figure", "measured", "goal", "result"), rows)


def _machine() -> str:
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def _versions(packages: Sequence[str]) -> str:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            found.append(f"{package} not installed")
    return ", ".join(found)
