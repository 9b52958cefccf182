# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""Waiting for one's turn where a provider has limits."""

from __future__ import annotations

from time import monotonic

from ..errors import LLMProviderTimeoutError
from ..limits import CallQueue, Ticket
from ._backend import Signal

__all__ = ["wait_turn"]


async def wait_turn(queue: CallQueue, tokens: int, deadline: float | None) -> Ticket:
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
            await ticket.signal.wait(min((each for each in (seconds, left) if each is not None), default=None))
    except BaseException:
        queue.leave(ticket)
        raise
