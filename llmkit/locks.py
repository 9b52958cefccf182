"""A lock that does not outlive its process. Depends on nothing."""

from __future__ import annotations

import os
import threading

__all__ = ["ProcessLock"]


class ProcessLock:
    """A lock for a `with` block, which a forked child finds open: who held it there is a thread of its parent."""

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = {}

    @property
    def was_held(self) -> bool:
        """Whether this process was forked while the lock was held, so that what it guards may be half done for ever.

        To be asked while it is held.
        """
        return any(lock.locked() for process, lock in self._locks.items() if process != os.getpid())

    def __enter__(self) -> None:
        self._locks.setdefault(os.getpid(), threading.Lock()).acquire()

    def __exit__(self, *_: object) -> None:
        self._locks[os.getpid()].release()
