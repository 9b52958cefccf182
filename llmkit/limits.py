"""How much a provider sends at once and in a minute, and whose turn is next. Told the time; imports errors, locks.

The order is that of arrival. A call that waits holds a `Ticket`; who drives it (`_async/turns.py`) asks
`CallQueue.wait` whether it may begin, and sleeps until its signal or for as long as it was told.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from .errors import LLMProviderConfigurationError, LLMProviderRateLimitError, type_with_article
from .locks import ProcessLock

__all__ = ["CallQueue", "Limits", "RateLimit", "Ticket", "check_limits", "rate_limits"]

LONGEST_PAUSE: Final = 60.0
"""Seconds for which one refusal of the service holds up the other calls, however long it asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a provider has under way at once and begins in a minute; what is more waits, first come first served.

    Limits(concurrency=16)
    Limits(requests_per_minute=500, tokens_per_minute=30_000)

    `concurrency` counts the calls under way, a stream until it is closed. `requests_per_minute` and
    `tokens_per_minute` count what is begun, each try of a call anew; a minute's worth may begin at once. Tokens are
    guessed from the length of the prompt and `max_tokens`, and put right by the usage that the service reports. None:
    no bound but, with `learn`, what the service itself tells in its rate-limit headers; a 429 that names a wait then
    holds up the other calls as well. At most `max_waiting` calls wait; one more is refused with
    LLMProviderRateLimitError and the code "queue_full". A call waits until its `deadline`, and ends then with
    LLMProviderTimeoutError and the code "queue_timeout"; its `timeout` begins after the wait.

    Raises LLMProviderConfigurationError for a number that is none, or not above 0.
    """

    concurrency: int | None = None
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    max_waiting: int = 10_000
    learn: bool = True

    def __post_init__(self) -> None:
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute", "max_waiting"):
            value = getattr(self, name)
            kinds = (int,) if name in ("concurrency", "max_waiting") else (int, float)
            if value is None and name != "max_waiting":
                continue
            if not isinstance(value, kinds) or isinstance(value, bool) or not 0 < value < 2**53:
                raise LLMProviderConfigurationError(
                    f"Limits: {name} is {value!r}; it must be a number above 0, or None"
                )


def check_limits(limits: Any) -> None:
    """Raise LLMProviderConfigurationError for what are no `Limits`."""
    if not isinstance(limits, Limits):
        told = f"limits is {type_with_article(limits)}; it must be Limits(concurrency=…), or None"
        raise LLMProviderConfigurationError(told)


class RateLimit(NamedTuple):
    """What a service says of one of its limits: how much it grants, how much of that is left, and in how many seconds
    all of it is granted again."""

    limit: float
    remaining: float
    reset: float


class Ticket:
    """One call's place: in the queue, then among those under way, until it is released.

    A ticket that is forgotten releases itself, so that no lost stream holds a place.
    """

    __slots__ = ("_begun", "_process", "_queue", "signal", "tokens", "waits")

    def __init__(self, queue: CallQueue, tokens: int) -> None:
        self._queue = queue
        self._process = queue.process
        self._begun = False
        self.waits = True
        self.tokens = tokens
        self.signal: Any = None
        """What wakes the waiter: an object whose `set` may be called from any thread."""

    def begin(self) -> None:
        """Count as under way."""
        self._begun, self.waits = True, False

    def release(self) -> None:
        """Give the place to the next. Safe to call twice."""
        begun, self._begun = self._begun, False
        if begun and self._process == self._queue.process:
            self._queue.give_back(places=1)

    def settle(self, used_tokens: int | None) -> None:
        """Put the guess of the call's tokens right by what the service counted; None changes nothing."""
        if used_tokens is not None:
            self._queue.give_back(tokens=self.tokens - used_tokens)
            self.tokens = used_tokens

    def __del__(self) -> None:
        self.release()


_renewal = ProcessLock()


class CallQueue:
    """Whose turn it is, for the calls of one provider. Threads and event loops may share it.

    `now` is always a moment of the same monotonic clock, in seconds.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        # With those in it who left from the middle; the first waits.
        self._waiting: deque[Ticket] = deque()
        self._left = 0
        self._under_way = 0
        self._paused_until = 0.0
        self._buckets = {
            "requests": _Bucket(limits.requests_per_minute),
            "tokens": _Bucket(limits.tokens_per_minute),
        }
        # Tickets are also released by the garbage collector, in the middle of anything: hence no lock there, and
        # the next who holds it counts.
        self._given_back: deque[tuple[int, float]] = deque()
        self._lock = threading.RLock()
        # Last, since other threads of a forked child take it for the sign that all of it is theirs.
        self.process = os.getpid()

    def join(self, tokens: int) -> Ticket:
        """Return a place at the end of the queue; raises LLMProviderRateLimitError where the queue is full."""
        if self.process != os.getpid():
            # A forked child: the calls that hold places, or the lock, are its parent's.
            with _renewal:
                if self.process != os.getpid():
                    self.__init__(self._limits)  # type: ignore[misc]
        with self._lock:
            waiting = len(self._waiting) - self._left
            if waiting >= self._limits.max_waiting:
                told = f"{waiting} calls wait already, as many as Limits.max_waiting allows; nothing was sent"
                raise LLMProviderRateLimitError(told, code="queue_full", should_retry=False)
            ticket = Ticket(self, tokens)
            self._waiting.append(ticket)
            return ticket

    def wait(self, ticket: Ticket, now: float) -> float | None:
        """Return 0.0 where the call may begin, and counts now; else the seconds to wait, None: until its signal."""
        with self._lock:
            while self._given_back:
                places, tokens = self._given_back.popleft()
                self._under_way -= places
                self._buckets["tokens"].give_back(tokens, now)
            if self._waiting[0] is not ticket:
                return None
            if self._limits.concurrency is not None and self._under_way >= self._limits.concurrency:
                return None
            amounts = {"requests": 1.0, "tokens": ticket.tokens}
            wait = max(self._paused_until - now, *(self._buckets[name].wait(amounts[name], now) for name in amounts))
            if wait > 0:
                return wait
            for name, amount in amounts.items():
                self._buckets[name].take(amount)
            self._waiting.popleft()
            self._drop_left()
            self._under_way += 1
            ticket.begin()
        self._wake_first()
        return 0.0

    def leave(self, ticket: Ticket) -> None:
        """Take a call that gave up out of the queue."""
        with self._lock:
            if ticket.waits:
                ticket.waits = False
                self._left += 1
                self._drop_left()
        self._wake_first()

    def give_back(self, places: int = 0, tokens: float = 0.0) -> None:
        """Take note of a call that is done, and of tokens that it did not use; takes no lock."""
        self._given_back.append((places, tokens))
        self._wake_first()

    def learn(self, headers: Mapping[str, str], now_since_1970: float, now: float) -> None:
        """Take note of what the headers of an answer say of the service's limits."""
        if self._limits.learn:
            with self._lock:
                for name, limit in rate_limits(headers, now_since_1970).items():
                    self._buckets[name].learn(limit, now)

    def pause(self, seconds: float, now: float) -> None:
        """Have nothing begin for as long as the service asked one call to wait."""
        if self._limits.learn:
            with self._lock:
                self._paused_until = max(self._paused_until, now + min(seconds, LONGEST_PAUSE))

    def _drop_left(self) -> None:
        """Drop those who left: the first ones, and all of them once they are the most.

        Looking for each as it leaves takes more than a second where ten thousand are cancelled together.
        """
        if self._left > len(self._waiting) // 2:
            self._waiting = deque(ticket for ticket in self._waiting if ticket.waits)
            self._left = 0
        while self._left and not self._waiting[0].waits:
            self._waiting.popleft()
            self._left -= 1

    def _wake_first(self) -> None:
        try:
            signal = self._waiting[0].signal
        except IndexError:
            return
        if signal is not None:
            signal.set()


class _Bucket:
    """A token bucket: it fills at an even rate, up to its capacity; None is no bound, until one is learnt."""

    __slots__ = ("_capacity", "_is_set", "_level", "_rate", "_updated")

    def __init__(self, per_minute: float | None) -> None:
        self._is_set = per_minute is not None
        self._capacity = self._level = per_minute
        self._rate = (per_minute or 0.0) / 60
        self._updated: float | None = None

    def wait(self, amount: float, now: float) -> float:
        """Return the seconds until `amount` is there; one over the capacity waits until the bucket is full."""
        level = self._filled(now)
        if level is None or self._capacity is None:
            return 0.0
        missing = min(amount, self._capacity) - level
        # Rounding must not make a wait of nothing that ends before there is enough.
        return missing / self._rate + 1e-6 if missing > 1e-6 else 0.0

    def take(self, amount: float) -> None:
        """Take out, below nothing where it has to be."""
        if self._level is not None:
            self._level -= amount

    def give_back(self, amount: float, now: float) -> None:
        """Put back what was not used (negative: more was used)."""
        level = self._filled(now)
        if level is not None and self._capacity is not None:
            self._level = min(self._capacity, level + amount)

    def learn(self, told: RateLimit, now: float) -> None:
        """Hold no more than the service says is left; take capacity and rate from it too, where none was set."""
        if not self._is_set:
            self._capacity = told.limit
            used = told.limit - told.remaining
            # Some limits are a day's: the rate is what the service says, not a minute's.
            self._rate = used / told.reset if used > 0 and told.reset > 0 else self._rate or told.limit / 60
        level = self._filled(now)
        self._level = told.remaining if level is None else min(level, told.remaining)

    def _filled(self, now: float) -> float | None:
        """Return the level at a moment, None for no bound."""
        if self._level is not None and self._capacity is not None and self._updated is not None:
            self._level = min(self._capacity, self._level + (now - self._updated) * self._rate)
        self._updated = now
        return self._level


# developers.openai.com/api/docs/guides/rate-limits and platform.claude.com/docs/en/api/rate-limits; services that are
# compatible with OpenAI have its names.
_HEADERS: Final = {
    "requests": ("x-ratelimit-{}-requests", "anthropic-ratelimit-requests-{}"),
    "tokens": ("x-ratelimit-{}-tokens", "anthropic-ratelimit-tokens-{}"),
}


def rate_limits(headers: Mapping[str, str], now: float) -> dict[str, RateLimit]:
    """Return what rate-limit headers (lower-case names) say of "requests" and "tokens".

    `now` is seconds since 1970, for a reset that is a date. Azure sends -1 and 0 for limits that it does not have.
    """
    found = {}
    for what, names in _HEADERS.items():
        for name in names:
            limit, remaining = (_number(headers.get(name.format(part))) for part in ("limit", "remaining"))
            reset = _seconds(headers.get(name.format("reset"), ""), now)
            if limit and limit > 0 and remaining is not None and 0 <= remaining <= limit and reset is not None:
                found[what] = RateLimit(limit, remaining, reset)
    return found


_UNITS: Final[Mapping[str, float]] = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)")


def _seconds(text: str, now: float) -> float | None:
    """Return the seconds of a duration ("6m0s", "12ms"), of plain seconds, or until a date of RFC 3339; else None."""
    parts = _DURATION.findall(text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    if (plain := _number(text)) is not None:
        return plain
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"\d{1,15}(\.\d{1,9})?", text) else None
