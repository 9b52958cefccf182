"""Children that are forked while another thread holds a lock of llmkit's: they are not held up."""

from __future__ import annotations

import os
import signal
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmkit import clear_provider_cache, factory, limits, network, token_tables
from llmkit.cassette import Cassette
from llmkit.limits import CallQueue, Limits

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")


def in_child(lock: Any, work: Callable[[], object]) -> int:
    """Fork while `lock` is held; return how the child that does the work ended."""
    with lock:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            work()
            os._exit(0)
    return os.waitpid(child, 0)[1]


def test_locks_of_the_parent_are_open_in_its_child(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    monkeypatch.setattr(network, "_tls_context", None)
    monkeypatch.setattr(network, "certificate_directory", lambda: None)
    monkeypatch.setattr(token_tables, "_counters", {})
    monkeypatch.setattr(token_tables, "_find_counter", lambda *_: None)
    cassette = Cassette(tmp_path / "one.json", "all")
    request: Any = ("GET", "https://acme.test", {}, b"")
    assert in_child(network._tls_lock, lambda: network.shared_tls_context(lambda: context)) == 0
    assert in_child(factory._cache_lock, clear_provider_cache) == 0
    assert in_child(token_tables._lock, lambda: token_tables.load_counter("o200k_base")) == 0
    assert in_child(cassette._lock, lambda: cassette.play(*request)) == 0


def test_threads_of_a_child_find_one_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = CallQueue(Limits(concurrency=1))
    begun, gate, second = threading.Event(), threading.Event(), threading.Event()

    class Slow(limits._Bucket):
        def __init__(self, most: int | None) -> None:
            begun.set()
            gate.wait(10)
            super().__init__(most)

    monkeypatch.setattr(limits, "_Bucket", Slow)
    queue.process = 0  # as in a child, whose number is another
    tickets: list[Any] = []

    def join(done: threading.Event) -> None:
        tickets.append(queue.join(0))
        done.set()

    threads = [threading.Thread(target=join, args=(event,)) for event in (threading.Event(), second)]
    threads[0].start()
    assert begun.wait(10)
    threads[1].start()
    assert not second.wait(0.1)
    gate.set()
    for thread in threads:
        thread.join(10)
    assert {*queue._waiting} == {*tickets} and len(tickets) == 2
