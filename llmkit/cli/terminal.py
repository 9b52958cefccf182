"""What a terminal shows: notes, tables, progress. Plain text elsewhere, and where rich is not installed.

Depends on nothing of the package. NO_COLOR and TERM=dumb are respected.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import TracebackType
from typing import Any, TextIO

__all__ = ["Progress", "command_name", "dim", "is_terminal", "note", "print_table", "printable", "waiting"]

# All but line breaks and tabs: among them is what begins a command to a terminal.
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def command_name() -> str:
    """Return what is typed to run this command: that of a copy of the package is run by the copy's name."""
    package = __name__.removesuffix(".cli.terminal")
    return package if package == "llmkit" else f"python -m {package}"


def note(text: str) -> None:
    """Print a line for the person on standard error."""
    if sys.stderr:
        print(f"llmkit: {' '.join(text.split())}".translate(_CONTROLS), file=sys.stderr, flush=True)


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a person sees what goes to a stream, or types what comes from it; None is a closed one."""
    return bool(stream and not stream.closed and stream.isatty())


def printable(text: str, stream: TextIO) -> str:
    """Return text as it may be shown: without control characters where it goes to a terminal, which obeys them."""
    return text.translate(_CONTROLS) if is_terminal(stream) else text


def dim(text: str, stream: TextIO) -> str:
    """Return text in faint letters where the stream shows them."""
    if _moves(stream) and not os.environ.get("NO_COLOR"):
        return f"\x1b[2m{text}\x1b[0m"
    return text


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: Sequence[int] = ()) -> None:
    """Print rows under a header; `numbers` has the positions of the columns that are set flush right."""
    rich = _rich() if _moves(sys.stdout) else None
    cells = [[cell.translate(_CONTROLS) for cell in row] for row in rows]
    if rich is None:
        widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
        for row in [list(header), *cells]:
            aligned = [
                cell.rjust(width) if position in numbers else cell.ljust(width)
                for position, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            print("  ".join(aligned).rstrip())
        return
    table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for position, title in enumerate(header):
        table.add_column(title, justify="right" if position in numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(rich.text.Text, row))
    rich.console.Console(highlight=False).print(table)


class Progress:
    """Shows on standard error how far things have come, while its `with` block runs; nothing without a terminal."""

    def __init__(self) -> None:
        self._is_shown = _moves(sys.stderr)
        self._bar: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Progress:
        rich = _rich() if self._is_shown else None
        if rich:
            progress = rich.progress
            columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn())
            self._bar = progress.Progress(*columns, console=rich.console.Console(stderr=True), transient=True)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif self._is_shown and self._tasks:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def update(self, name: str, done: int, total: int | None) -> None:
        """Say that so many bytes of a thing are done; `total` is None while nobody knows it."""
        if not self._is_shown:
            return
        if self._bar is None:
            self._tasks[name] = None
            share = f"{done / total:4.0%}" if total else f"{done:,} bytes"
            print(f"\r{name.translate(_CONTROLS)}  {share}\x1b[K", end="", file=sys.stderr, flush=True)
            return
        if name not in self._tasks:
            self._tasks[name] = self._bar.add_task(_rich().markup.escape(name), total=total)
        self._bar.update(self._tasks[name], completed=done, total=total)


@contextlib.contextmanager
def waiting(text: str) -> Iterator[Callable[[], None]]:
    """Show on standard error that something is awaited, until what is yielded is called, or the block ends."""
    rich = _rich() if _moves(sys.stderr) else None
    if rich is None:
        yield lambda: None
        return
    status = rich.console.Console(stderr=True).status(rich.markup.escape(text))
    status.start()
    try:
        yield status.stop
    finally:
        status.stop()


def _moves(stream: TextIO) -> bool:
    """Return whether lines can be drawn over, and letters set apart."""
    return is_terminal(stream) and os.environ.get("TERM") != "dumb"


def _rich() -> Any:
    try:
        for part in ("console", "markup", "progress", "table", "text"):
            import_module(f"rich.{part}")
        return import_module("rich")
    except ImportError:
        return None
