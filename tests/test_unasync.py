"""The generator of the blocking twins: line for line, checked as whole texts, for any folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import llmkit

PACKAGE = Path(llmkit.__file__).parent
GENERATOR = PACKAGE / "_unasync.py"
SOURCE = '''"""Uses `_async`."""
from collections.abc import AsyncIterator, Awaitable, Callable

from ._backend import sleep


class AsyncThing:
    async def __aenter__(self) -> "AsyncThing":
        return self

    async def read(self, call: Callable[[], Awaitable[list[int]]], source: AsyncIterator[int]) -> int:
        await sleep(1)
        async with self as thing:
            async for number in source:
                return number + len(await call())
        raise StopAsyncIteration

    async def aclose(self) -> None:
        await anext(aiter([]))
'''
TWIN = '''"""Uses `_sync`."""
from collections.abc import Iterator, Awaitable, Callable

from ._backend import sleep


class SyncThing:
    def __enter__(self) -> "SyncThing":
        return self

    def read(self, call: Callable[[], list[int]], source: Iterator[int]) -> int:
        sleep(1)
        with self as thing:
            for number in source:
                return number + len(call())
        raise StopIteration

    def close(self) -> None:
        next(iter([]))
'''


def run(*arguments: str | Path, generator: Path = GENERATOR) -> tuple[int, str]:
    command = [sys.executable, "-P", str(generator), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    source = tmp_path / "my_async"
    source.mkdir()
    (source / "thing.py").write_text(SOURCE)
    (source / "_backend.py").write_text("from anyio import sleep\n")
    return source, tmp_path / "my_sync"


def test_a_folder_of_ones_own_gets_its_twin_line_for_line(folders: tuple[Path, Path]) -> None:
    assert run(*folders) == (0, "")
    assert [path.name for path in folders[1].iterdir()] == ["thing.py"]
    assert (folders[1] / "thing.py").read_text() == TWIN
    assert TWIN.count("\n") == SOURCE.count("\n")
    assert run("--check", *folders) == (0, "")


@pytest.mark.parametrize("change", [lambda text: text + "\n", lambda text: text[:-20], lambda text: ""])
def test_a_twin_that_is_longer_shorter_or_empty_fails_the_check(folders: tuple[Path, Path], change: object) -> None:
    run(*folders)
    twin = folders[1] / "thing.py"
    twin.write_text(change(TWIN))  # type: ignore[operator]
    status, told = run("--check", *folders)
    assert (status, "thing.py is not what" in told) == (1, True)
    assert twin.read_text() == change(TWIN)  # type: ignore[operator]


def test_a_missing_twin_and_one_without_a_source_are_told(folders: tuple[Path, Path]) -> None:
    run(*folders)
    (folders[1] / "thing.py").rename(folders[1] / "orphan.py")
    (folders[1] / "_backend.py").write_text("from time import sleep\n")
    status, told = run("--check", *folders)
    assert status == 1
    assert [line.split(" ")[0].rpartition("/")[2] for line in told.splitlines()] == ["thing.py", "orphan.py"]


def test_a_rule_that_nothing_uses_is_an_error(tmp_path: Path) -> None:
    package = tmp_path / "package"
    for folder in ("_async", "_sync"):
        (package / folder).mkdir(parents=True)
    text = GENERATOR.read_text("utf-8")
    (package / "_unasync.py").write_text(text, "utf-8")
    (package / "_async" / "thing.py").write_text(SOURCE)
    assert "aclose" in SOURCE
    assert r"\ba(close" not in run(generator=package / "_unasync.py")[1]
    (package / "_async" / "thing.py").write_text("x = 1\n")
    status, told = run(generator=package / "_unasync.py")
    assert (status, told.count("is never used: delete it")) == (1, text.count('        (r"'))
