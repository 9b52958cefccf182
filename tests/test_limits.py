"""Whose turn it is, on a clock that stands still: order, places, minutes, and what services say of their limits."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit import LLMProviderConfigurationError, LLMProviderRateLimitError, limits
from llmkit._sync._backend import Signal as ThreadSignal
from llmkit.limits import CallQueue, Limits, RateLimit, Ticket, rate_limits

from .server import PATIENCE


class Signal:
    """Stands for what wakes a waiter."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True


def joined(queue: CallQueue, tokens: int = 0) -> tuple[Ticket, Signal]:
    ticket = queue.join(tokens)
    ticket.signal = signal = Signal()
    return ticket, signal


def begun(queue: CallQueue, tokens: int = 0, now: float = 0.0) -> Ticket:
    ticket = queue.join(tokens)
    assert queue.wait(ticket, now) == 0
    return ticket


def test_calls_begin_in_the_order_in_which_they_came() -> None:
    queue = CallQueue(Limits(concurrency=1))
    first = begun(queue)
    (second, woken), (third, _) = joined(queue), joined(queue)
    assert queue.wait(third, 0) is None and queue.wait(second, 0) is None
    first.release()
    assert woken.is_set
    assert queue.wait(third, 0) is None
    assert queue.wait(second, 0) == 0
    second.release()
    second.release()
    assert queue.wait(third, 0) == 0


def test_whoever_begins_wakes_the_next_since_there_may_be_room_for_it_too() -> None:
    queue = CallQueue(Limits(concurrency=2))
    one, two = begun(queue), begun(queue)
    (third, _), (fourth, woken) = joined(queue), joined(queue)
    one.release()
    two.release()
    assert queue.wait(third, 0) == 0
    assert woken.is_set and queue.wait(fourth, 0) == 0


def test_one_who_leaves_makes_way() -> None:
    queue = CallQueue(Limits(concurrency=1))
    first = begun(queue)
    (second, _), (third, woken) = joined(queue), joined(queue)
    queue.leave(second)
    queue.leave(second)
    assert woken.is_set
    first.release()
    assert queue.wait(third, 0) == 0


def test_many_who_leave_are_not_looked_for_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    class Counted(Ticket):
        __hash__ = Ticket.__hash__

        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return self is other

    monkeypatch.setattr(limits, "Ticket", Counted)
    queue = CallQueue(Limits(concurrency=1, max_waiting=1_000))
    first = begun(queue)
    tickets = [queue.join(0) for _ in range(1_000)]
    for ticket in reversed(tickets[1:-1]):
        queue.leave(ticket)
    assert compared == [] and len(queue._waiting) <= 4
    first.release()
    assert queue.wait(tickets[-1], 0) is None
    assert queue.wait(tickets[0], 0) == 0
    tickets[0].release()
    assert queue.wait(tickets[-1], 0) == 0
    queue.leave(tickets[-1])
    tickets[-1].release()
    assert begun(queue)


@given(st.lists(st.integers(0, 5), max_size=60))
def test_whoever_leaves_keeps_nobody_from_the_queue_and_its_order(steps: list[int]) -> None:
    queue, waiting = CallQueue(Limits(concurrency=1, max_waiting=4)), []
    held = begun(queue)
    for step in steps:
        if step < len(waiting):
            queue.leave(waiting.pop(step))
        elif step == 5 and waiting:
            held.release()
            held = waiting.pop(0)
            assert queue.wait(held, 0) == 0
        elif len(waiting) < 4:
            waiting.append(queue.join(0))
    for ticket in waiting[1:]:
        assert queue.wait(ticket, 0) is None
    for _ in range(4 - len(waiting)):
        queue.join(0)
    with pytest.raises(LLMProviderRateLimitError):
        queue.join(0)


def test_a_forgotten_ticket_gives_its_place_back() -> None:
    queue = CallQueue(Limits(concurrency=1))
    first = begun(queue)
    second, woken = joined(queue)
    del first
    gc.collect()
    assert woken.is_set and queue.wait(second, 0) == 0


def test_a_full_queue_refuses() -> None:
    queue = CallQueue(Limits(concurrency=1, max_waiting=2))
    tickets = [begun(queue), queue.join(0), queue.join(0)]
    with pytest.raises(LLMProviderRateLimitError, match=r"2 calls wait already.*max_waiting") as caught:
        queue.join(0)
    assert (caught.value.code, caught.value.should_retry) == ("queue_full", False)
    queue.leave(tickets[1])
    queue.join(0)


def test_a_minute_of_requests_may_begin_at_once_and_then_one_by_one() -> None:
    queue = CallQueue(Limits(requests_per_minute=60))
    for _ in range(60):
        begun(queue)
    ticket = queue.join(0)
    assert queue.wait(ticket, 0.0) == pytest.approx(1, abs=1e-3)
    assert queue.wait(ticket, 0.5) == pytest.approx(0.5, abs=1e-3)
    assert queue.wait(ticket, 1.01) == 0


def test_tokens_are_put_right_by_what_the_service_counted() -> None:
    queue = CallQueue(Limits(tokens_per_minute=600))
    first = begun(queue, 600)
    ticket = queue.join(300)
    assert queue.wait(ticket, 0) == pytest.approx(30, abs=1e-3)
    first.settle(None)
    first.settle(450)
    assert queue.wait(ticket, 0) == pytest.approx(15, abs=1e-3)
    first.settle(300)
    assert queue.wait(ticket, 0) == 0


def test_a_call_of_more_tokens_than_a_minute_has_waits_for_all_of_them() -> None:
    queue = CallQueue(Limits(tokens_per_minute=60))
    begun(queue, 30)
    huge = queue.join(1_000)
    assert queue.wait(huge, 0) == pytest.approx(30, abs=1e-3)
    assert queue.wait(huge, 30.1) == 0
    assert queue.wait(queue.join(1), 31) == pytest.approx(940, abs=1)


def told(what: str, limit: int, remaining: int, reset: str) -> dict[str, str]:
    values = {"limit": str(limit), "remaining": str(remaining), "reset": reset}
    return {f"x-ratelimit-{name}-{what}": value for name, value in values.items()}


def test_the_service_knows_better_what_is_left() -> None:
    queue = CallQueue(Limits(requests_per_minute=60))
    queue.learn(told("requests", 100, 0, "10s"), 0, now=0)
    ticket = queue.join(0)
    assert queue.wait(ticket, 0) == pytest.approx(1, abs=1e-3)
    queue.learn(told("requests", 100, 90, "1s"), 0, now=0.5)
    assert queue.wait(ticket, 0.5) == pytest.approx(0.5, abs=1e-3), "what others use up is not given back"


def test_limits_that_nobody_set_are_learnt() -> None:
    queue = CallQueue(Limits())
    for _ in range(1_000):
        begun(queue)
    queue.learn(told("tokens", 1_000, 0, "10s"), 0, now=0)
    ticket = queue.join(100)
    assert queue.wait(ticket, 0) == pytest.approx(1, abs=1e-3)
    stubborn = CallQueue(Limits(learn=False))
    stubborn.learn(told("tokens", 1_000, 0, "10s"), 0, now=0)
    stubborn.pause(20, now=0)
    begun(stubborn, 100)


def test_a_refusal_holds_up_the_others_for_a_minute_at_most() -> None:
    queue = CallQueue(Limits())
    queue.pause(5, now=100)
    queue.pause(2, now=100)
    ticket = queue.join(0)
    assert queue.wait(ticket, 101) == pytest.approx(4)
    queue.pause(86_400, now=101)
    assert queue.wait(ticket, 101) == pytest.approx(60)
    assert queue.wait(ticket, 161) == 0


@given(st.lists(st.tuples(st.integers(0, 300), st.floats(0, 30)), max_size=40))
def test_no_minute_has_more_than_the_bucket_and_its_refill(calls: list[tuple[int, float]]) -> None:
    queue = CallQueue(Limits(requests_per_minute=10, tokens_per_minute=300))
    now, started = 0.0, []
    for tokens, pause in calls:
        now += pause
        ticket = queue.join(tokens)
        while wait := queue.wait(ticket, now):
            now += wait
        started.append((now, tokens))
    for begin, _ in started:
        within = [tokens for moment, tokens in started if begin <= moment < begin + 60]
        assert len(within) <= 20
        assert sum(within) <= 600 + 300


@pytest.mark.parametrize("seconds", [None, 1e300])
def test_a_thread_may_be_woken_anywhere_in_its_wait_by_itself(seconds: float | None) -> None:
    """As the garbage collector does, which frees a ticket in whichever thread it runs."""
    signal = ThreadSignal()

    def wake(*_: Any) -> Any:
        signal.set()
        return wake

    def wait() -> None:
        sys.settrace(wake)
        signal.wait(seconds)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_threads_share_a_queue() -> None:
    queue = CallQueue(Limits(concurrency=5))
    under_way, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal under_way, most
        for _ in range(50):
            ticket = queue.join(0)
            while True:
                ticket.signal = signal = threading.Event()
                if queue.wait(ticket, 0) == 0:
                    break
                assert signal.wait(10)
            with lock:
                under_way += 1
                most = max(most, under_way)
            with lock:
                under_way -= 1
            ticket.release()

    threads = [threading.Thread(target=work) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most <= 5 and begun(queue)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_forked_child_begins_with_free_places() -> None:
    queue = CallQueue(Limits(concurrency=1))
    held = begun(queue)
    child = os.fork()
    if child == 0:
        mine = queue.join(0)
        free = queue.wait(mine, 0) == 0
        held.release()
        os._exit(0 if free and queue.wait(queue.join(0), 0) is None else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert queue.wait(queue.join(0), 0) is None


@pytest.mark.parametrize(
    "wrong", [{"concurrency": 0}, {"concurrency": 1.5}, {"requests_per_minute": float("nan")}, {"max_waiting": None}]
)
def test_wrong_limits_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(LLMProviderConfigurationError, match=next(iter(wrong))):
        Limits(**wrong)


NOW = 1_700_000_000.0
OPENAI = {"x-ratelimit-limit-requests": "500", "x-ratelimit-remaining-requests": "499"}
CLAUDE = {"anthropic-ratelimit-tokens-limit": "4000", "anthropic-ratelimit-tokens-remaining": "1000"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({**OPENAI, "x-ratelimit-reset-requests": "120ms"}, {"requests": RateLimit(500, 499, 0.12)}),
        ({**OPENAI, "x-ratelimit-reset-requests": "1h6m0.5s"}, {"requests": RateLimit(500, 499, 3960.5)}),
        ({**OPENAI, "x-ratelimit-reset-requests": "7"}, {"requests": RateLimit(500, 499, 7)}),
        (
            {**CLAUDE, "anthropic-ratelimit-tokens-reset": "2023-11-14T22:13:50Z"},
            {"tokens": RateLimit(4000, 1000, 30)},
        ),
        ({**CLAUDE, "anthropic-ratelimit-tokens-reset": "2020-01-01T00:00:00Z"}, {"tokens": RateLimit(4000, 1000, 0)}),
        # As Azure sends it where it has no such limit.
        ({"x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "0"}, {}),
        ({**OPENAI, "x-ratelimit-reset-requests": "soon"}, {}),
        ({**OPENAI, "x-ratelimit-reset-requests": "nan"}, {}),
        ({**OPENAI, "x-ratelimit-reset-requests": "1s and more"}, {}),
        ({**OPENAI, "x-ratelimit-remaining-requests": "501", "x-ratelimit-reset-requests": "1s"}, {}),
        (OPENAI, {}),
        ({}, {}),
    ],
)
def test_rate_limit_headers(headers: Mapping[str, str], expected: Mapping[str, RateLimit]) -> None:
    assert rate_limits(headers, NOW) == expected


@given(st.dictionaries(st.sampled_from([*OPENAI, "x-ratelimit-reset-requests"]), st.text(max_size=20)))
def test_no_header_is_too_strange(headers: dict[str, str]) -> None:
    assert all(limit.limit > 0 and limit.reset >= 0 for limit in rate_limits(headers, NOW).values())
