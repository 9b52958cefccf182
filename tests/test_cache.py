"""Where answers are kept: how much, for how long, by whom, and what becomes of a broken file."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit import LLMProviderConfigurationError
from llmkit import cache as module
from llmkit.cache import CachedAnswer, MemoryCache, SQLiteCache, cache_key

PIECES = (b"data: 1\n\n", b"", b"data: \xff2\n\n")
ANSWER = CachedAnswer({"content-type": "text/event-stream"}, PIECES)


@pytest.fixture(params=["memory", "sqlite"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MemoryCache(max_age=60) if request.param == "memory" else SQLiteCache(tmp_path / "answers", max_age=60)


def test_what_was_put_is_given_back_piece_by_piece(cache: Any) -> None:
    assert cache.get("a") is None
    cache.put("a", ANSWER)
    cache.put("a", ANSWER)
    found = cache.get("a")
    assert tuple(found.pieces) == PIECES and dict(found.headers) == ANSWER.headers
    assert cache.get("b") is None
    cache.clear()
    assert cache.get("a") is None


def test_an_old_answer_is_none(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = "monotonic" if isinstance(cache, MemoryCache) else "time"
    monkeypatch.setattr(module.time, clock, lambda: 1_000.0)
    cache.put("a", ANSWER)
    monkeypatch.setattr(module.time, clock, lambda: 1_059.0)
    assert cache.get("a") is not None
    monkeypatch.setattr(module.time, clock, lambda: 1_061.0)
    assert cache.get("a") is None


def test_threads_share_a_cache(cache: Any) -> None:
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for round in range(20):
                cache.put(f"{number} {round}", ANSWER)
                assert cache.get(f"{number} {round}") is not None
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_memory_holds_what_was_used_last() -> None:
    cache = MemoryCache(max_bytes=30)
    for key in "ab":
        cache.put(key, CachedAnswer({}, [b"x" * 10]))
    assert cache.get("a")
    cache.put("c", CachedAnswer({}, [b"x" * 15]))
    assert [key for key in "abc" if cache.get(key)] == ["a", "c"]
    cache.put("d", CachedAnswer({}, [b"x" * 31]))
    assert [key for key in "abcd" if cache.get(key)] == ["a", "c"]
    cache.put("c", CachedAnswer({}, [b"x" * 31]))
    assert [key for key in "abcd" if cache.get(key)] == ["a"]
    cache.put("e", CachedAnswer({}, [b"x" * 30]))
    assert cache.get("e")


def test_a_file_holds_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SQLiteCache(tmp_path / "answers", max_entries=2)
    for moment, key in enumerate("abc"):
        monkeypatch.setattr(module.time, "time", lambda moment=moment: float(moment))
        cache.put(key, ANSWER)
    assert [key for key in "abc" if cache.get(key)] == ["b", "c"]


def test_a_file_is_its_owners_alone_and_outlives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "answers"
    cache = SQLiteCache(path)
    cache.put("a", ANSWER)
    cache.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    code = f"from llmkit.cache import SQLiteCache; print(SQLiteCache({str(path)!r}).get('a').pieces)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False, cwd=Path.cwd()
    )
    assert (done.stdout.strip(), done.stderr) == (str(list(PIECES)), "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_child_has_a_connection_of_its_own(tmp_path: Path) -> None:
    cache = SQLiteCache(tmp_path / "answers")
    cache.put("a", ANSWER)
    child = os.fork()
    if child == 0:
        cache.put("b", ANSWER)
        os._exit(0 if cache.get("a") else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert cache.get("b") is not None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_child_that_is_forked_while_a_cache_is_in_use_is_not_held_up(cache: Any) -> None:
    in_memory = isinstance(cache, MemoryCache)
    cache.put("a", ANSWER)
    with cache._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            cache.put("b", ANSWER)
            # SQLite may have been in the middle of anything, and has locks of its own.
            os._exit([bool(cache.get(key)) for key in "ab"] != [in_memory] * 2)
    assert os.waitpid(child, 0)[1] == 0
    assert cache.get("a") is not None and cache.get("b") is None


def test_a_locked_file_holds_up_nobody_and_is_used_again_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = SQLiteCache(tmp_path / "answers")
    cache.put("a", ANSWER)
    found: list[CachedAnswer | None] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get("a"))) for _ in range(20)]
    with contextlib.closing(sqlite3.connect(tmp_path / "answers", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cache.put("b", ANSWER)
        with pytest.raises(LLMProviderConfigurationError, match=r"answers cannot be cleared: .*locked"):
            cache.clear()
    # One of them waited for the file, and none of the others.
    assert found == [None] * 20
    assert [record.getMessage().rpartition(" cannot ")[2] for record in caplog.records] == [
        "be read: database is locked"
    ]
    assert cache.get("a") is None
    now = time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 6)
    assert cache.get("a") is not None and cache.get("b") is None
    cache.close()


def test_a_broken_file_is_no_cache_and_no_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "answers"
    cache = SQLiteCache(path)
    cache.put("a", ANSWER)
    cache.close()
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with caplog.at_level(logging.WARNING, "llmkit"):
        assert cache.get("a") is None
        cache.put("a", ANSWER)
    told = [record.getMessage() for record in caplog.records]
    assert ["cannot be read" in told[0], "cannot be written" in told[1]] == [True, True]
    with pytest.raises(LLMProviderConfigurationError, match="answers cannot be used"):
        SQLiteCache(path)
    with pytest.raises(LLMProviderConfigurationError, match="nowhere"):
        SQLiteCache(tmp_path / "nowhere" / "answers")


@pytest.mark.parametrize("make", [lambda **x: MemoryCache(**x), lambda **x: SQLiteCache(":memory:", **x)])
@pytest.mark.parametrize("age", [0, -1, float("nan"), "1", True])
def test_wrong_settings_are_refused_by_name(make: Any, age: Any) -> None:
    with pytest.raises(LLMProviderConfigurationError, match="max_age"):
        make(max_age=age)


@given(st.lists(st.none() | st.text() | st.binary(), max_size=5), st.lists(st.none() | st.binary(), max_size=5))
def test_other_parts_have_another_key(one: list[Any], other: list[Any]) -> None:
    as_bytes = [
        [p.encode("utf-8", "surrogatepass") if isinstance(p, str) else p for p in parts] for parts in (one, other)
    ]
    assert (cache_key(*one) == cache_key(*other)) == (as_bytes[0] == as_bytes[1])


@pytest.mark.parametrize("column", ["headers", "sizes", "body"])
def test_an_entry_that_is_broken_is_asked_for_again(
    tmp_path: Path, column: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = SQLiteCache(tmp_path / "answers")
    cache.put("key", CachedAnswer({"content-type": "application/json"}, [b"{}"]))
    with contextlib.closing(sqlite3.connect(tmp_path / "answers")) as connection, connection:
        connection.execute(f"UPDATE answers SET {column} = NULL")
    assert cache.get("key") is None
    assert "cannot be read" in caplog.text
    cache.close()
