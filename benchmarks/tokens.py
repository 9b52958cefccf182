"""Count tokens with llmkit and with tiktoken: `python benchmarks/tokens.py`.

Needs `pip install toktok-rs`, which also supplies tiktoken's tables: they are written out of it into a temporary
folder, where tiktoken checks their hashes itself. llmkit is measured twice, with that extra and over tiktoken alone.
All figures are of one run, in which the contestants take turns: medians, with the ratio to tiktoken in brackets.
Counts are compared before they are timed. A turn is several calls, so each contestant has its tables in the cache.
"""

from __future__ import annotations

import base64
import glob
import os
import random
import string
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from functools import partial
from hashlib import sha1
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))  # a checkout need not be installed

import tiktoken
import toktok
from _report import Report, Turns

from llmkit.tokens import MessageTokenCounter, count_message_tokens, count_tokens, within_limit

__all__ = ["main"]

MODEL, ENCODING = "gpt-4o", "o200k_base"
TOKENS_IN_TABLE = 199_998
ROUNDS = 9


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_table(folder)
        os.environ["TIKTOKEN_CACHE_DIR"] = folder
        peer = tiktoken.get_encoding(ENCODING)
        report = Report("Token counts", ["tiktoken", "toktok-rs"])
        goals = [
            *plain_counting(report, peer, folder),
            *limits(report, peer, folder),
            *conversations(report, peer, folder),
            *hostile(report, peer, folder),
            *loading(report, folder),
        ]
        report.goals(goals)


Goals = list[tuple[str, float, float]]


def write_table(folder: str) -> None:
    tokens = toktok._encoding(ENCODING).token_byte_values()[:TOKENS_IN_TABLE]
    address = f"https://openaipublic.blob.core.windows.net/encodings/{ENCODING}.tiktoken"
    lines = [base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens)]
    Path(folder, sha1(address.encode()).hexdigest()).write_bytes(b"".join(lines))


def english(length: int) -> str:
    return "\n".join(topics.values())[20_000 : 20_000 + length]


def code(length: int) -> str:
    paths = sorted(glob.glob(os.path.join(sysconfig.get_path("stdlib"), "*.py")))
    return "".join(Path(path).read_text("utf-8", "replace") for path in paths[:60])[:length]


def turns(contestants: Mapping[str, Callable[[], Any]], repeat: int = 1, more: int = 1) -> Turns:
    """Time functions against each other, the first of them tiktoken's; a unit is one call.

    A turn is `repeat` calls, of the others `more` times as many.
    """

    def repeated(work: Callable[[], Any], times: int) -> Callable[[], int]:
        def run() -> int:
            for _ in range(times):
                work()
            return times

        return run

    first = next(iter(contestants))
    works = {name: repeated(work, repeat * (1 if name == first else more)) for name, work in contestants.items()}
    return Turns(ROUNDS).run(works)


def goal(timed: Turns, who: str, what: str, times: int = 1) -> tuple[str, float, float]:
    """Return the goal that a contestant is at least so many times as fast as tiktoken."""
    factor = f"{times:,} × " if times > 1 else ""
    return f"{what}: {factor}{who} / tiktoken", timed.ratio(who) * times, 1.0


def plain_counting(report: Report, peer: tiktoken.Encoding, folder: str) -> Goals:
    texts = {
        "English, 200 kB": (english(200_000), 5, 8),
        "code, 200 kB": (code(200_000), 5, 8),
        "English, 2 kB": (english(2_000), 200, 8),
        "code, 2 kB": (code(22_000)[20_000:], 200, 8),
        "English, 40 characters": (english(40), 4_000, 1),
    }
    rows, goals = [], []
    names = ("encode_ordinary", "encode", "llmkit on tiktoken", "llmkit with the extra")
    for name, (text, repeat, times) in texts.items():
        assert (
            count_tokens(text, MODEL) == count_tokens(text, MODEL, directory=folder) == len(peer.encode_ordinary(text))
        )
        timed = turns(
            {
                "encode_ordinary": lambda text=text: len(peer.encode_ordinary(text)),
                "encode": lambda text=text: len(peer.encode(text, disallowed_special=())),
                "llmkit on tiktoken": lambda text=text: count_tokens(text, MODEL, directory=folder),
                "llmkit with the extra": lambda text=text: count_tokens(text, MODEL),
            },
            repeat,
        )
        rows.append([name, *map(partial(cell, timed), names)])
        goals.append(goal(timed, "llmkit on tiktoken", name))
        goals.append(goal(timed, "llmkit with the extra", name, times))
    batch = [english(200_000)[begin : begin + 1_000] for begin in range(0, 200_000, 1_000)]
    timed = turns(
        {
            "encode_ordinary": lambda: sum(map(len, peer.encode_ordinary_batch(batch))),
            "encode": lambda: sum(map(len, peer.encode_batch(batch, disallowed_special=()))),
            "llmkit on tiktoken": lambda: sum(count_tokens(text, MODEL, directory=folder) for text in batch),
            "llmkit with the extra": lambda: sum(count_tokens(text, MODEL) for text in batch),
        }
    )
    rows.append(["batch of 200 × 1 kB (tiktoken: its batch calls)", *map(partial(cell, timed), names)])
    goals += [goal(timed, "llmkit on tiktoken", "batch"), goal(timed, "llmkit with the extra", "batch", 8)]
    report.table("Counting a text, CPU µs (ratio):", ("text", *names), rows)
    return goals


def limits(report: Report, peer: tiktoken.Encoding, folder: str) -> Goals:
    prose = english(300_000)
    near = prose[:33_000]
    at = len(peer.encode_ordinary(near))
    # text, limit, repetitions of tiktoken and of llmkit for each, and how many times as fast it is to be
    cases = {
        "1.2 MB, 8,192": (prose * 4, 8_192, 1, 200, 1_000),
        "100 kB, 128,000": (prose[:100_000], 128_000, 5, 200, 1_000),
        "100 kB of Cyrillic, 1,000,000": ("Привет, мир! " * 7_700, 1_000_000, 5, 200, 1_000),
        "8 kB, 8,192": (prose[:8_000], 8_192, 20, 20, 1),
        "40 characters, 8,192": (prose[:40], 8_192, 2_000, 1, 1),
        "300 kB, 8,192": (prose, 8_192, 3, 1, 1),
        f"33 kB, {at:,} (just fits)": (near, at, 20, 1, 1),
        f"33 kB, {at - 1:,} (just too long)": (near, at - 1, 20, 1, 1),
    }
    rows, goals = [], []
    names = ("tiktoken", "llmkit on tiktoken", "llmkit with the extra")
    for name, (text, limit, repeat, more, times) in cases.items():
        fits = len(peer.encode_ordinary(text)) <= limit
        assert within_limit(text, limit, MODEL) is within_limit(text, limit, MODEL, directory=folder) is fits
        timed = turns(
            {
                "tiktoken": lambda text=text, limit=limit: len(peer.encode_ordinary(text)) <= limit,
                "llmkit on tiktoken": lambda text=text, limit=limit: within_limit(text, limit, MODEL, directory=folder),
                "llmkit with the extra": lambda text=text, limit=limit: within_limit(text, limit, MODEL),
            },
            repeat,
            more,
        )
        rows.append([name, *map(partial(cell, timed), names)])
        goals += [goal(timed, f"llmkit {who}", f"limit, {name}", times) for who in ("on tiktoken", "with the extra")]
    report.table("Is a text within a limit? CPU µs (ratio):", ("text, limit", *names), rows)
    return goals


def cell(timed: Turns, name: str) -> str:
    return f"{timed.median(name):.1f} ({timed.ratio(name):.2g})"


def conversations(report: Report, peer: tiktoken.Encoding, folder: str) -> Goals:
    prose = english(100_000)
    messages = [
        {"role": ("user", "assistant")[number % 2], "content": prose[number * 600 : number * 600 + 600]}
        for number in range(100)
    ]

    def by_recipe(messages: list[dict[str, str]]) -> int:
        return 3 + sum(3 + sum(len(peer.encode(value)) for value in message.values()) for message in messages)

    def growing(count: Callable[[list[dict[str, str]]], int]) -> int:
        return sum(count(messages[: number + 1]) for number in range(len(messages)))

    assert by_recipe(messages) == count_message_tokens(messages, MODEL)
    timed = turns(
        {
            "tiktoken": lambda: growing(by_recipe),
            "llmkit on tiktoken": lambda: growing(MessageTokenCounter(MODEL, directory=folder).count),
            "llmkit with the extra": lambda: growing(MessageTokenCounter(MODEL).count),
            "…, nothing remembered": lambda: growing(lambda some: count_message_tokens(some, MODEL)),
        }
    )
    names = ("tiktoken", "llmkit on tiktoken", "llmkit with the extra", "…, nothing remembered")
    report.table(
        "A conversation that grows to 100 messages of 600 characters, counted after each, CPU µs (ratio):",
        ("", *names),
        [["all counts", *map(partial(cell, timed), names)]],
    )
    return [goal(timed, f"llmkit {who}", "growing conversation", 20) for who in ("on tiktoken", "with the extra")]


def hostile(report: Report, peer: tiktoken.Encoding, folder: str) -> Goals:
    texts = {
        "one letter": "a" * 1_000_000,
        "letters": "".join(random.Random(1).choices(string.ascii_lowercase, k=1_000_000)),
        "digits": "7" * 1_000_000,
        "exclamation marks": "!" * 1_000_000,
        "equals signs": "=" * 1_000_000,
        "spaces": " " * 1_000_000,
        "spaces before a word": " " * 1_000_000 + "x",
        "line breaks": "\n" * 1_000_000,
        "Chinese": "中文的人" * 83_333,
        "emoji": "😀" * 250_000,
        "base64": base64.b64encode(os.urandom(750_000)).decode(),
        "<|endoftext|>": "<|endoftext|>" * 77_000,
        "lone surrogates": "\ud800 a" * 200_000,
        "all of Unicode": "".join(map(chr, range(0xD800))) * 6,
    }
    ways = {
        "tiktoken": lambda text: len(peer.encode_ordinary(text)),
        "llmkit on tiktoken": lambda text: count_tokens(text, MODEL, directory=folder),
        "llmkit with the extra": lambda text: count_tokens(text, MODEL),
    }
    rows, growth = [], dict.fromkeys(ways, 0.0)
    for name, text in texts.items():
        cells = []
        for way, count in ways.items():
            once, again = seconds(count, text), seconds(count, text * 4)
            growth[way] = max(growth[way], again / once if once > 0.01 else 0.0)
            cells.append(f"{once * 1e3:.0f}" if once < float("inf") else "panic")
        rows.append([name, *cells])
    report.table("A megabyte of one thing, CPU ms, once:", ("text", *ways), rows)
    return [
        (f"4 MB / 1 MB, the worst (16 is quadratic): {way}", growth[way], 10.0) for way in ways if way != "tiktoken"
    ]


def seconds(count: Callable[[str], int], text: str) -> float:
    started = time.process_time()
    try:
        with silence():
            count(text)
    except BaseException as error:  # tiktoken's PanicException is no Exception
        if isinstance(error, KeyboardInterrupt):
            raise
        return float("inf")
    return time.process_time() - started


@contextmanager
def silence() -> Any:
    """Keep the backtrace of a panic off the terminal."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


_START = """
import sys, time
sys.path.insert(0, {checkout!r})
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6 if sys.platform == "linux" else float("nan")
memory, started = resident(), time.perf_counter()
{work}
print((time.perf_counter() - started) * 1e3, resident() - memory)
"""


def loading(report: Report, folder: str) -> Goals:
    fits = f"from llmkit.tokens import within_limit; within_limit('x' * 4000, 8_192, {MODEL!r})"
    count = f"from llmkit.tokens import count_tokens; count_tokens('x', {MODEL!r}"
    works = {
        "tiktoken: first count": f"import tiktoken; tiktoken.get_encoding({ENCODING!r}).encode('x')",
        "llmkit: first limit check, settled by length": fits,
        "llmkit on tiktoken: first count": f"{count}, directory={folder!r})",
        "llmkit with the extra: first count": f"{count})",
    }
    runs: dict[str, list[list[float]]] = {name: [] for name in works}
    for name, work in list(works.items()) * 5:
        program = _START.format(checkout=str(Path(__file__).parents[1]), work=work)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        runs[name].append([float(figure) for figure in done.stdout.split()])
    found = [[sorted(column)[2] for column in zip(*each, strict=True)] for each in runs.values()]
    rows = [(name, *(f"{figure:.0f}" for figure in figures)) for name, figures in zip(runs, found, strict=True)]
    report.table("A fresh process, imports included, median of 5:", ("", "ms", "MB more"), rows)
    (time_of_peer, memory_of_peer), _, *ours = found
    whose = ("llmkit on tiktoken", "llmkit with the extra")
    goals = [
        (f"first count: {who} / tiktoken", each[0] / time_of_peer, 1.0) for who, each in zip(whose, ours, strict=True)
    ]
    return goals + [
        (f"memory: {who} / tiktoken", each[1] / memory_of_peer, 1.0) for who, each in zip(whose, ours, strict=True)
    ]


if __name__ == "__main__":
    main()
