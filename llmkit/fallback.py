"""When a call moves on to another provider, and which one is left out for a while: pure, no clock. Imports errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal, NamedTuple, TypedDict

from .errors import (
    LLMProviderAuthenticationError,
    LLMProviderConfigurationError,
    LLMProviderConnectionError,
    LLMProviderError,
    LLMProviderNotFoundError,
    LLMProviderPermissionError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderTimeoutError,
    LLMProviderUnsupportedOperationError,
)

__all__ = [
    "MOVE_ON",
    "CircuitBreaker",
    "Fallback",
    "MoveOn",
    "Permit",
    "ProviderState",
    "is_alive",
    "move_on_rule",
]

# What speaks against the service, and not against what it was asked.
_FAILURES: Final = (
    LLMProviderAuthenticationError,
    LLMProviderConnectionError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderTimeoutError,
)

MOVE_ON: Final[tuple[type[LLMProviderError], ...]] = (
    *_FAILURES,
    LLMProviderNotFoundError,
    LLMProviderPermissionError,
    LLMProviderUnsupportedOperationError,
)
"""The errors after which another provider is asked, unless told otherwise: its key, its models, its limits and its
network may be better. A bad request, a prompt that is too long, a blocked one, a wrong setting and an answer of the
wrong type are the caller's to know at once."""

# What llmkit itself held back, by the code of its error: it says nothing of the service.
_HELD_BACK: Final = frozenset({"PoolTimeout", "queue_full", "queue_timeout"})

MoveOn = Iterable[type[LLMProviderError]] | Callable[[LLMProviderError], bool]


class Fallback(TypedDict):
    """A provider that gave no answer: what failed, or, where it was `skipped`, what had failed the last time."""

    provider: str
    model: str
    error: str
    status_code: int | None
    skipped: bool


class ProviderState(TypedDict):
    """How a provider stands: `failures` in a row, and the seconds until it is asked again (0: it is asked now).

    "closed": it is asked. "open": it is skipped. "half-open": the next call tries it, and nobody else meanwhile.
    """

    provider: str
    model: str
    state: Literal["closed", "open", "half-open"]
    failures: int
    wait: float


def move_on_rule(move_on: MoveOn) -> Callable[[LLMProviderError], bool]:
    """Return the function that tells of an error whether another provider is asked.

    `move_on` is that function already, or the classes of the errors; then a service that does not know the
    `previous_response_id` is not the last word either, as the answer may be stored at another one. Raises
    LLMProviderConfigurationError for anything else.
    """
    if callable(move_on) and not isinstance(move_on, type):
        return move_on
    kinds = tuple(move_on) if isinstance(move_on, Iterable) else (move_on,)
    if not all(isinstance(kind, type) and issubclass(kind, LLMProviderError) for kind in kinds):
        raise LLMProviderConfigurationError(
            f"move_on is {move_on!r}; it must be subclasses of LLMProviderError, or a function of the error"
        )
    return lambda error: isinstance(error, kinds) or error.parameter == "previous_response_id"


def is_alive(error: LLMProviderError) -> bool | None:
    """Return whether a failed call shows that the service works, or that it does not; None: it shows neither.

    Whoever finds fault with a request is at work. An error of the settings was raised before anything was sent.
    """
    if error.code in _HELD_BACK:
        return None
    if isinstance(error, _FAILURES):
        return False
    return True if error.status_code is not None or error.partial is not None else None


class Permit(NamedTuple):
    """The leave to ask a provider once; `CircuitBreaker.settle` gives it back, whatever came of it."""

    round: int
    is_trial: bool


class CircuitBreaker:
    """Leaves a provider out that has failed `max_failures` times in a row (None: never), for a while.

    The while is `cool_down` seconds, or as long as the service asked for, doubled each time that the trial after it
    fails; never over `max_cool_down`. After it one call at a time is the trial, and its success ends the matter. Times
    are the caller's monotonic clock. Not thread-safe: the caller locks.
    """

    def __init__(self, max_failures: int | None = 5, cool_down: float = 30.0, max_cool_down: float = 600.0) -> None:
        if max_failures is not None and not (isinstance(max_failures, int) and max_failures >= 1):
            told = f"max_failures is {max_failures!r}; it must be a whole number from 1, or None"
            raise LLMProviderConfigurationError(told)
        are_numbers = isinstance(cool_down, (int, float)) and isinstance(max_cool_down, (int, float))
        if not are_numbers or not 0 <= cool_down <= max_cool_down:
            raise LLMProviderConfigurationError(
                f"cool_down is {cool_down!r}; it must be seconds from 0 to max_cool_down, which is {max_cool_down!r}"
            )
        self.failures = 0
        self.until: float | None = None
        """When the provider may be asked again; None: it may be asked."""
        self._max_failures = max_failures
        self._cool_down = cool_down
        self._max_cool_down = max_cool_down
        self._trips = 0
        self._round = 0
        self._on_trial = False

    def state(self, now: float) -> Literal["closed", "open", "half-open"]:
        """Return the state as it is called."""
        if self.until is None:
            return "closed"
        return "open" if now < self.until else "half-open"

    def enter(self, now: float) -> Permit | None:
        """Return a permit to ask the provider, or None where it is left out."""
        if self.until is None:
            return Permit(self._round, is_trial=False)
        if now < self.until or self._on_trial:
            return None
        self._on_trial = True
        return Permit(self._round, is_trial=True)

    def enter_anyway(self, now: float) -> Permit:
        """Return a permit although the provider is left out: its failure then changes nothing, its success does."""
        return self.enter(now) or Permit(self._round, is_trial=False)

    def settle(self, permit: Permit, now: float, alive: bool | None, retry_after: float | None = None) -> float | None:
        """Take a permit back: did the service work? (None: a cancelled call shows neither.)

        Returns the seconds for which the provider is left out from now on, if that is news. What began before the
        last change of state changes nothing any more: a hundred calls that fail together are one outage.
        """
        if permit.round != self._round:
            return None
        if permit.is_trial:
            self._on_trial = False
        if alive:
            self._close()
        elif alive is False:
            self.failures += 1
            tripped = self.until is None and self._max_failures is not None and self.failures >= self._max_failures
            if permit.is_trial or tripped:
                return self._open(now, retry_after or 0.0)
        return None

    def _open(self, now: float, retry_after: float) -> float:
        # The exponent is bounded because 2.0**1024 overflows.
        seconds = max(self._cool_down * 2.0 ** min(self._trips, 60), retry_after)
        seconds = min(seconds, self._max_cool_down)
        self.until = now + seconds
        self._trips += 1
        self._round += 1
        return seconds

    def _close(self) -> None:
        if self.until is not None:
            self._round += 1
        self.until = None
        self.failures = self._trips = 0
        self._on_trial = False
