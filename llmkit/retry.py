"""Which failure is tried again, and after how long: pure, no clock and no I/O. Imports config and errors."""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections.abc import Callable, Mapping
from typing import Final, TypedDict

from .config import LLMConfig
from .errors import (
    LLMProviderBadRequestError,
    LLMProviderConfigurationError,
    LLMProviderConnectionError,
    LLMProviderContentFilterError,
    LLMProviderError,
    LLMProviderQuotaError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderTimeoutError,
    LLMProviderTokenLimitError,
)

__all__ = ["Attempt", "Retries", "RetryBudget", "is_retryable", "refused_default"]


USED_UP: Final = "not tried again: the provider's budget of retries is used up (ten, and one more for every ten calls)"


class Attempt(TypedDict):
    """A try that failed and was tried again: its number from 1, what failed, and the seconds waited after it."""

    number: int
    error: str
    status_code: int | None
    wait: float


class RetryBudget:
    """Bounds the extra load that retries put on a service in an outage.

    A token bucket without a clock: each call pays in a tenth of a retry, each retry takes one out. The bucket
    starts full at ten, so that a script's few calls have all their retries, and a service that is down gets at
    most ten requests and 10 % more than without retries. A service that refuses a call as one too many, and names
    the wait, is not down: that retry takes nothing. `waits` is False where no service needs time to recover, as in
    tests: the next try then begins at once.
    """

    def __init__(self, capacity: float = 10.0, waits: bool = True) -> None:
        self.waits = waits
        self._capacity = self._tokens = capacity

    def pay_in(self) -> None:
        """Count a call that is sent."""
        self._tokens = min(self._capacity, self._tokens + 0.1)

    def take(self) -> bool:
        """Return whether one more retry is within the budget, and take it."""
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Retries:
    """The tries of one call: asks the policy after each failure, and keeps what happened.

    `deadline` is the moment, on the caller's monotonic clock, after which no new try may begin (None: no bound).
    `note` is called with each try that failed and is followed by another.
    """

    def __init__(
        self,
        config: LLMConfig,
        budget: RetryBudget,
        deadline: float | None,
        clock: Callable[[], float],
        note: Callable[[Attempt], object] = lambda attempt: None,
    ) -> None:
        self._config = config
        self._note = note
        self._name = b""
        self._budget = budget
        self.deadline = deadline
        self._clock = clock
        self.attempts: list[Attempt] = []
        self.wait = 0.0

    def idempotency_key(self, body: bytes) -> str:
        """Return a name that all tries of the call with the same body share, and no other request has."""
        self._name = self._name or os.urandom(16)
        return hashlib.sha256(self._name + body).hexdigest()

    def allows(self, error: BaseException) -> bool:
        """Return whether to try again, with `wait` set to the seconds before it; the error gets its attempts."""
        if not isinstance(error, LLMProviderError):
            return False
        error.attempts = tuple(self.attempts)
        number = len(self.attempts) + 1
        if number > self._config.max_retries or not is_retryable(error, self._config.retry_read_timeouts):
            return False
        wait = self._seconds(error, number)
        if wait > self._config.max_retry_wait or self._is_too_late(wait):
            return False
        is_limited = isinstance(error, LLMProviderRateLimitError) and error.retry_after is not None
        if not (is_limited or self._budget.take()):
            error.args = (f"{error.message}; {USED_UP}",)
            return False
        self.wait = wait if self._budget.waits else 0.0
        # It would keep the frames of the caller, and with them an iterator that a `break` should let go of.
        error.__traceback__ = None
        kind = type(error).__name__
        attempt = Attempt(number=number, error=kind, status_code=error.status_code, wait=round(wait, 3))
        self.attempts.append(attempt)
        self._note(attempt)
        return True

    def _seconds(self, error: LLMProviderError, number: int) -> float:
        if error.retry_after is not None:
            # A little later than asked, so that the callers who were refused together do not return together.
            return error.retry_after + random.uniform(0, min(1.0, error.retry_after / 10))
        # Full jitter: aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter. The exponent is bounded
        # because 2.0**1024 overflows.
        most = min(self._config.retry_delay * 2.0 ** min(number - 1, 60), self._config.max_retry_wait)
        return random.uniform(0, most)

    def _is_too_late(self, wait: float) -> bool:
        return self.deadline is not None and self._clock() + wait >= self.deadline


_NEVER = (
    LLMProviderQuotaError,
    LLMProviderTokenLimitError,
    LLMProviderContentFilterError,
    LLMProviderConfigurationError,
)
# 498: Groq's word for being out of capacity.
_STATUSES = frozenset({408, 409, 429, 498})
_KINDS = (LLMProviderRateLimitError, LLMProviderServerError, LLMProviderConnectionError)


def is_retryable(error: LLMProviderError, read_timeouts: bool = False) -> bool:
    """Return whether a call that failed so, before anything was handed out, may be sent again.

    The service's own word (`x-should-retry`) comes first, then what never helps (quota, a prompt that is too
    long, a blocked one), then the status. A read timeout is sent again only if `read_timeouts`: the service may
    still be at work.
    """
    if isinstance(error, _NEVER):
        return False
    if error.should_retry is not None:
        return error.should_retry
    if error.status_code is not None:
        return error.status_code in _STATUSES or error.status_code >= 500
    if isinstance(error, LLMProviderTimeoutError):
        return read_timeouts or error.code in ("ConnectTimeout", "PoolTimeout")
    return isinstance(error, (*_KINDS, LLMProviderStreamError))


def refused_default(error: LLMProviderError, defaults: Mapping[str, str]) -> str | None:
    """Return the name on the wire of the default that a 400 or 422 complains of, else None.

    `defaults` has the parameters of the request that the caller did not set, by their names on the wire.
    """
    if type(error) is not LLMProviderBadRequestError or error.status_code not in (400, 422):
        return None
    if error.parameter:
        name = error.parameter.partition(".")[0]
        return name if name in defaults else None
    named = [name for name in defaults if re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", error.message)]
    return named[0] if named else None
