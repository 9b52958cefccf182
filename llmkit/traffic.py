"""What the log tells of a request and its answer: method, URL without its query, status, seconds, sizes.

The records have the level DEBUG. LLMKIT_LOG_BODIES=1 in the environment adds the bodies; the key is taken out of all.
Imports codec only.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any, Final

from .codec import encode_json

__all__ = ["Traffic", "traffic_of"]

logger = logging.getLogger(__name__)
MOST_TOLD: Final = 100_000
"""How much of a body is told, in bytes."""


def traffic_of(method: str, url: str, body: Any, redacted: Callable[[str], str]) -> Traffic | None:
    """Return what logs a request that is about to be sent, None where nobody listens; `redacted` takes keys out."""
    return Traffic(method, url, body, redacted) if logger.isEnabledFor(logging.DEBUG) else None


class Traffic:
    """One request and its answer, told as they go."""

    def __init__(self, method: str, url: str, body: Any, redacted: Callable[[str], str]) -> None:
        self._name = f"{method} {url}"
        self._redacted = redacted
        self._with_bodies = os.environ.get("LLMKIT_LOG_BODIES", "") not in ("", "0")
        self._size = 0
        self._pieces: list[bytes] = []
        self._started = time.monotonic()
        if self._with_bodies and body is not None:
            self._tell("sent", encode_json(body))

    def answered(self, status: int, sent: str) -> None:
        """Tell that the head of the answer has come, to a body of `sent` bytes."""
        logger.debug("%s: %d in %.3f s, %s bytes sent", self._name, status, time.monotonic() - self._started, sent)

    def failed(self, failure: Exception) -> None:
        """Tell that no answer came."""
        logger.debug("%s: %s after %.3f s", self._name, failure, time.monotonic() - self._started)

    def receive(self, piece: bytes) -> None:
        """Take note of a piece of the answer's body, decompressed."""
        if self._with_bodies and self._size <= MOST_TOLD:
            self._pieces.append(piece)
        self._size += len(piece)

    def end(self) -> None:
        """Tell that no more of the answer is read."""
        logger.debug("%s: %d bytes received in %.3f s", self._name, self._size, time.monotonic() - self._started)
        if self._with_bodies:
            self._tell("received", b"".join(self._pieces))

    def _tell(self, what: str, body: bytes) -> None:
        text = body.decode("utf-8", "replace")
        # Cut before keys are taken out, for what takes them out knows how a cut text may end.
        cut = text if len(text) <= MOST_TOLD else f"{text[:MOST_TOLD]}…"
        logger.debug("%s: %s %s", self._name, what, self._redacted(cut))
