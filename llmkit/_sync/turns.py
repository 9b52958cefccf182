# One source, two worlds: this text is written in `_sync/`; `make generate` writes its blocking twin.
"""Waiting for one's turn where a provider has limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import LLMProviderError, LLMProviderRateLimitError, LLMProviderTimeoutError
from ..limits import CallQueue, Ticket
from ._backend import Signal
from .reader import SyncEventReader

if TYPE_CHECKING:
    from ..call import Call
    from ..http_provider import HTTPProvider
    from ..retry import Retries

__all__ = ["in_turn"]


def in_turn(
    queue: CallQueue,
    provider: HTTPProvider,
    call: Call,
    attempt: Callable[[Retries], Any],
    retries: Retries,
) -> Any:
    """Make one try once it is its turn; a stream keeps its place until it is closed."""
    try:
        ticket = _wait_turn(queue, provider.rough_tokens(call), retries.deadline)
    except LLMProviderError as error:
        raise provider.named(error) from None
    try:
        result = attempt(retries)
    except BaseException as error:
        ticket.release()
        if isinstance(error, LLMProviderRateLimitError) and error.retry_after is not None:
            queue.pause(error.retry_after, monotonic())
        raise
    if isinstance(result, SyncEventReader):
        result.ticket = ticket
        if result.closed:
            # The answer came at once.
            ticket.release()
    else:
        ticket.release()
        # An answer that the service has stored was paid for before.
        ticket.settle(result.total_tokens if call.operation == "chat" else None)
    return result


def _wait_turn(queue: CallQueue, tokens: int, deadline: float | None) -> Ticket:
    """Return the ticket of a call whose turn it is; whoever gets it releases it.

    Raises LLMProviderRateLimitError where the queue is full, LLMProviderTimeoutError with the code "queue_timeout"
    where the turn has not come by `deadline` (a moment of `time.monotonic`, None: no bound). A cancelled wait leaves
    the queue.
    """
    ticket = queue.join(tokens)
    try:
        while True:
            # Before the question, so that no wake-up falls between the two.
            ticket.signal = Signal()
            seconds = queue.wait(ticket, monotonic())
            if seconds == 0:
                return ticket
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                raise LLMProviderTimeoutError("the call's turn did not come within its deadline", code="queue_timeout")
            ticket.signal.wait(min((each for each in (seconds, left) if each is not None), default=None))
    except BaseException:
        queue.leave(ticket)
        raise
