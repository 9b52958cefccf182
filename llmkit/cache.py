"""Answers kept by the content of their requests: in memory, in a SQLite file, or wherever a caller keeps them.

What is kept is the body as it came, piece by piece, so a cached stream streams. Knows nothing of who asks; imports
errors and locks.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from .errors import LLMProviderConfigurationError, type_with_article
from .locks import ProcessLock

if TYPE_CHECKING:
    import sqlite3

__all__ = ["CachedAnswer", "MemoryCache", "ResponseCache", "SQLiteCache", "cache_key", "check_cache"]

MAKE_TABLE = """
    CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, stored REAL, headers TEXT, sizes TEXT, body BLOB)
"""
REMOVE_OLDEST = """
    DELETE FROM answers WHERE rowid IN (SELECT rowid FROM answers ORDER BY stored DESC LIMIT -1 OFFSET ?)
"""

Result = TypeVar("Result")
OPEN_SECONDS = 5.0
BUSY_SECONDS = 0.1
"""How long one call waits for a file that another process writes."""
LEAVE_ALONE_SECONDS = 5.0
SQLITE_BUSY = 5
# sqlite.org/howtocorrupt.html, "Carrying an open database connection across a fork": a child may not even close it.
_of_parents: list[sqlite3.Connection] = []


class CachedAnswer(NamedTuple):
    """A complete answer as it came: its headers, without cookies and keys, and the pieces of its body."""

    headers: Mapping[str, str]
    pieces: Sequence[bytes]


class ResponseCache(Protocol):
    """What a provider keeps answers in. Threads and tasks share it.

    `key` is the SHA-256 of the whole request in hexadecimal digits. Where `in_memory` is False, an async provider
    calls `get` and `put` in a worker thread. Neither should raise: an answer that is not found is asked for.
    """

    in_memory: bool

    def get(self, key: str) -> CachedAnswer | None:
        """Return the answer that was put under a key, None where there is none (any more)."""
        ...

    def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep an answer."""
        ...


class MemoryCache:
    """Keeps the answers that were used last, in this process.

    `max_bytes` bounds the bodies together; `max_age` is in seconds, None: for as long as there is room.
    """

    in_memory = True

    def __init__(self, *, max_bytes: int = 64 * 1024 * 1024, max_age: float | None = None) -> None:
        _check_above_zero(max_bytes=max_bytes, max_age=max_age)
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._bytes = 0
        self._answers: OrderedDict[str, tuple[float, CachedAnswer]] = OrderedDict()
        self._lock = ProcessLock()

    def get(self, key: str) -> CachedAnswer | None:
        """Return an answer, None where there is none, or one that is too old."""
        with self._lock:
            found = self._answers.get(key)
            if found is None:
                return None
            if self._max_age is not None and time.monotonic() - found[0] > self._max_age:
                self._remove(key)
                return None
            self._answers.move_to_end(key)
            return found[1]

    def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep an answer, in place of those used longest ago where there is no room; one too large is not kept."""
        with self._lock:
            self._remove(key)
            if _size(answer) > self._max_bytes:
                return
            self._answers[key] = time.monotonic(), answer
            # In this order: a child that is forked in between may hold a little more, and never counts what it lacks.
            self._bytes += _size(answer)
            while self._bytes > self._max_bytes:
                self._remove(next(iter(self._answers)))

    def clear(self) -> None:
        """Forget all answers."""
        with self._lock:
            self._bytes = 0
            self._answers.clear()

    def _remove(self, key: str) -> None:
        found = self._answers.get(key)
        if found:
            self._bytes -= _size(found[1])
            del self._answers[key]


class SQLiteCache:
    """Keeps answers in a SQLite file, which processes may share and which only its owner can read.

    `max_age` is in seconds, None: for ever; `max_entries` bounds the file: the oldest go first. A file that turns out
    broken or locked is logged, and the answer asked for; one that stays locked is left alone for some seconds. A
    process that was forked while the file was in use does without it: SQLite cannot go on there. Raises
    LLMProviderConfigurationError for a file that cannot be opened or is none of SQLite's.
    """

    in_memory = False

    def __init__(
        self, path: str | os.PathLike[str], *, max_age: float | None = None, max_entries: int = 10_000
    ) -> None:
        _check_above_zero(max_entries=max_entries, max_age=max_age)
        self._path = os.path.abspath(path)
        self._max_age = max_age
        self._max_entries = max_entries
        self._lock = ProcessLock()
        self._connection: tuple[int, sqlite3.Connection] | None = None
        self._unused_until = 0.0
        import sqlite3

        self._error = sqlite3.Error
        try:
            # SQLite would make it readable for all.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            with self._lock:
                self._open(OPEN_SECONDS).execute("SELECT count(*) FROM answers").fetchone()
        except (OSError, sqlite3.Error) as error:
            told = getattr(error, "strerror", None) or error
            raise LLMProviderConfigurationError(f"the cache {self._path} cannot be used: {told}") from None

    def get(self, key: str) -> CachedAnswer | None:
        """Return an answer, None where there is none, one that is too old, or the file cannot be read."""
        oldest = 0.0 if self._max_age is None else time.time() - self._max_age
        query = "SELECT headers, sizes, body FROM answers WHERE key = ? AND stored >= ?"
        try:
            found = self._use(lambda connection: connection.execute(query, (key, oldest)).fetchone())
            if found is None:
                return None
            headers, sizes, body = found
            ends = [0, *accumulate(json.loads(sizes))]
            return CachedAnswer(json.loads(headers), [body[a:b] for a, b in pairwise(ends)])
        except (self._error, ValueError, TypeError) as error:
            self._warn("read", error)
            return None

    def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep an answer; one that cannot be written is not kept."""
        sizes = json.dumps([len(piece) for piece in answer.pieces])
        row = key, time.time(), json.dumps(dict(answer.headers)), sizes, b"".join(answer.pieces)

        def write(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", row)
            connection.execute(REMOVE_OLDEST, (self._max_entries,))

        try:
            self._use(write)
        except self._error as error:
            self._warn("written", error)

    def clear(self) -> None:
        """Forget all answers; raises LLMProviderConfigurationError where the file cannot be written."""
        try:
            self._use(lambda connection: connection.execute("DELETE FROM answers"), insists=True)
        except self._error as error:
            raise LLMProviderConfigurationError(f"the cache {self._path} cannot be cleared: {error}") from None

    def close(self) -> None:
        """Close the file; a later call opens it again."""
        with self._lock:
            self._leave_to_parent()
            opened, self._connection = self._connection, None
        if opened:
            opened[1].close()

    def __del__(self) -> None:
        if getattr(self, "_connection", None):
            self.close()

    def _use(self, work: Callable[[sqlite3.Connection], Result], insists: bool = False) -> Result | None:
        """Return what `work` returns in a transaction; None while the file is left alone, unless it `insists`."""
        with self._lock:
            if time.monotonic() < self._unused_until and not insists:
                return None
            if self._lock.was_held:
                self._unused_until = math.inf
                raise self._error("this process was forked while it was in use")
            try:
                with self._open(BUSY_SECONDS) as connection:
                    return work(connection)
            except self._error as error:
                if getattr(error, "sqlite_errorcode", 0) & 0xFF == SQLITE_BUSY:
                    # Here, so that those who wait for the lock do not wait for the file, one after the other.
                    self._unused_until = time.monotonic() + LEAVE_ALONE_SECONDS
                raise

    def _open(self, patience: float) -> sqlite3.Connection:
        """Return this process's connection; a new one waits for others for as many seconds until its table is there."""
        self._leave_to_parent()
        if self._connection is None:
            import sqlite3

            connection = sqlite3.connect(self._path, timeout=patience, check_same_thread=False)
            try:
                connection.execute(MAKE_TABLE)
                connection.execute("CREATE INDEX IF NOT EXISTS by_age ON answers (stored)")
                connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
            except BaseException:
                connection.close()
                raise
            self._connection = os.getpid(), connection
        return self._connection[1]

    def _leave_to_parent(self) -> None:
        """Have a forked child not use its parent's connection."""
        if self._connection and self._connection[0] != os.getpid():
            _of_parents.append(self._connection[1])
            self._connection = None

    def _warn(self, what: str, error: Exception) -> None:
        from logging import getLogger

        getLogger(__name__).warning("the cache %s cannot be %s: %s", self._path, what, error)


def check_cache(cache: Any) -> None:
    """Raise LLMProviderConfigurationError for what is no `ResponseCache`."""
    if not all(hasattr(cache, name) for name in ("get", "put", "in_memory")):
        told = f"cache is {type_with_article(cache)}; it must be a MemoryCache, a SQLiteCache or another ResponseCache"
        raise LLMProviderConfigurationError(told)


def cache_key(*parts: str | bytes | None) -> str:
    """Return one name for the parts of a request: other parts, or parts cut elsewhere, have another."""
    digest = sha256()
    for part in parts:
        data = b"" if part is None else part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(b"%d:" % (-1 if part is None else len(data)))
        digest.update(data)
    return digest.hexdigest()


def _size(answer: CachedAnswer) -> int:
    return sum(map(len, answer.pieces))


def _check_above_zero(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0):
            raise LLMProviderConfigurationError(f"{name} is {value!r}; it must be a number above 0")
