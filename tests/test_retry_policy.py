"""Which failure is tried again, and after how long: the policy alone, on a clock that stands still."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit import errors
from llmkit.config import LLMConfig
from llmkit.errors import (
    LLMProviderBadRequestError,
    LLMProviderError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderTimeoutError,
)
from llmkit.retry import Retries, RetryBudget, is_retryable, refused_default

SERVER = LLMProviderServerError("Boom", status_code=500)


def retries(deadline: float | None = None, budget: RetryBudget | None = None, **settings: Any) -> Retries:
    config = LLMConfig(model_name="gpt-4o", **settings)
    return Retries(config, budget or RetryBudget(), deadline, lambda: 100.0)


def error(kind: str, status: int | None = None, **fields: Any) -> LLMProviderError:
    made: LLMProviderError = getattr(errors, f"LLMProvider{kind}Error")("told", status_code=status)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


class TestWhatIsTriedAgain:
    @pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 520, 524, 529])
    def test_statuses_that_pass(self, status: int) -> None:
        assert is_retryable(error("Server", status))

    @pytest.mark.parametrize("status", [301, 400, 401, 402, 403, 404, 405, 410, 413, 415, 422])
    def test_statuses_that_last(self, status: int) -> None:
        assert not is_retryable(error("BadRequest", status))

    @pytest.mark.parametrize("kind", ["Quota", "TokenLimit", "ContentFilter", "Configuration"])
    @pytest.mark.parametrize("status", [None, 400, 429, 500, 503])
    @pytest.mark.parametrize("should_retry", [None, True])
    def test_what_never_helps(self, kind: str, status: int | None, should_retry: bool | None) -> None:
        assert not is_retryable(error(kind, status, should_retry=should_retry), read_timeouts=True)

    @pytest.mark.parametrize("status", [400, 429, 500])
    @pytest.mark.parametrize("should_retry", [True, False])
    def test_the_service_has_the_last_word(self, status: int, should_retry: bool) -> None:
        assert is_retryable(error("Server", status, should_retry=should_retry)) is should_retry

    @pytest.mark.parametrize(
        ("kind", "again"),
        [("Connection", True), ("Server", True), ("Overloaded", True), ("RateLimit", True), ("Stream", True),
         ("BadRequest", False), ("Authentication", False), ("Permission", False), ("NotFound", False),
         ("UnsupportedOperation", False)],
    )  # fmt: skip
    def test_without_a_status_the_kind_decides(self, kind: str, again: bool) -> None:
        """So it is in a stream, and with a broken connection."""
        assert is_retryable(error(kind)) is again

    @pytest.mark.parametrize(
        ("code", "again"),
        [("ConnectTimeout", True), ("PoolTimeout", True), ("ReadTimeout", False), ("deadline", False)],
    )
    def test_a_timeout_is_tried_again_where_nothing_was_sent(self, code: str, again: bool) -> None:
        assert is_retryable(error("Timeout", code=code)) is again

    def test_a_read_timeout_is_tried_again_when_asked_for(self) -> None:
        assert is_retryable(error("Timeout", code="ReadTimeout"), read_timeouts=True)
        timeout = LLMProviderTimeoutError("Late", code="ReadTimeout")
        assert retries(retry_read_timeouts=True).allows(timeout)
        assert not retries().allows(timeout)


class TestTries:
    @pytest.mark.parametrize("most", [0, 1, 3])
    def test_there_are_at_most_as_many_as_allowed(self, most: int) -> None:
        tries = retries(max_retries=most)
        assert [tries.allows(SERVER) for _ in range(most + 1)] == [True] * most + [False]
        assert [attempt["number"] for attempt in tries.attempts] == list(range(1, most + 1))

    def test_every_attempt_is_kept_and_stands_on_the_next_error(self) -> None:
        tries = retries(max_retries=2)
        first, second = error("RateLimit", 429, retry_after=2.0), error("Connection")
        assert tries.allows(first)
        assert tries.allows(second)
        assert first.attempts == ()
        assert [(a["number"], a["error"], a["status_code"]) for a in tries.attempts] == [
            (1, "LLMProviderRateLimitError", 429),
            (2, "LLMProviderConnectionError", None),
        ]
        assert 2 <= tries.attempts[0]["wait"] <= 2.2
        last = error("Server", 500)
        assert not tries.allows(last)
        assert last.attempts == tuple(tries.attempts)

    @pytest.mark.parametrize("foreign", [ValueError("x"), KeyboardInterrupt()])
    def test_foreign_exceptions_are_not_tried_again(self, foreign: BaseException) -> None:
        assert not retries().allows(foreign)


class TestWaits:
    @given(st.floats(0, 10), st.floats(0.1, 60), st.integers(1, 200))
    def test_they_have_full_jitter_below_a_doubling_bound(self, delay: float, most: float, number: int) -> None:
        tries = retries(retry_delay=delay, max_retry_wait=most, max_retries=number, budget=RetryBudget(capacity=1000))
        for exponent in range(number):
            assert tries.allows(SERVER)
            assert 0 <= tries.wait <= min(most, delay * 2.0**exponent)

    def test_two_callers_do_not_wait_alike(self) -> None:
        waits = set()
        for _ in range(10):
            tries = retries()
            assert tries.allows(SERVER)
            waits.add(tries.wait)
        assert len(waits) > 1

    @given(st.floats(0, 50))
    def test_what_the_service_asks_for_is_waited_for_and_little_more(self, asked: float) -> None:
        tries = retries(retry_delay=0)
        assert tries.allows(LLMProviderRateLimitError("Slow", status_code=429, retry_after=asked))
        assert asked <= tries.wait <= asked + min(1, asked / 10) <= 60

    def test_a_wait_over_the_cap_is_not_waited_for(self) -> None:
        tries = retries(max_retry_wait=5)
        assert not tries.allows(LLMProviderRateLimitError("Slow", status_code=429, retry_after=6))
        assert tries.attempts == []

    @pytest.mark.parametrize(("deadline", "allowed"), [(None, True), (105.0, True), (102.0, False), (99.0, False)])
    def test_a_wait_beyond_the_deadline_is_not_begun(self, deadline: float | None, allowed: bool) -> None:
        slow = LLMProviderRateLimitError("Slow", status_code=429, retry_after=2)
        assert retries(deadline).allows(slow) is allowed


class TestBudget:
    def test_ten_retries_and_one_for_every_ten_calls(self) -> None:
        budget = RetryBudget()
        assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
        for _ in range(11):
            budget.pay_in()
        assert [budget.take() for _ in range(2)] == [True, False]

    def test_calls_that_need_no_retry_save_up_no_more_than_the_capacity(self) -> None:
        budget = RetryBudget(capacity=2)
        for _ in range(100):
            budget.pay_in()
        assert [budget.take() for _ in range(3)] == [True, True, False]

    def test_an_outage_is_not_amplified(self) -> None:
        budget, sent = RetryBudget(), 0
        for _ in range(1000):
            budget.pay_in()
            tries = retries(budget=budget)
            sent += 1
            while tries.allows(error("Server", 503, retry_after=1.0)):
                sent += 1
        assert 1000 < sent < 1200

    def test_a_refusal_that_names_its_wait_costs_nothing(self) -> None:
        budget = RetryBudget(capacity=1)
        for _ in range(20):
            assert retries(budget=budget).allows(error("RateLimit", 429, retry_after=2.0))
        assert retries(budget=budget).allows(error("RateLimit", 429))
        assert not retries(budget=budget).allows(error("RateLimit", 429))

    def test_an_error_says_that_the_budget_is_used_up(self) -> None:
        budget = RetryBudget(capacity=1)
        first, second = error("Server", 500), error("Server", 500)
        assert retries(budget=budget).allows(first) and first.message == "told"
        assert not retries(budget=budget).allows(second)
        assert second.message.startswith("told; not tried again: the provider's budget of retries is used up")
        last = error("Server", 500)
        assert not retries(budget=budget, max_retries=0).allows(last) and last.message == "told"

    def test_what_is_not_tried_again_costs_nothing(self) -> None:
        budget = RetryBudget(capacity=1)
        assert not retries(budget=budget, max_retries=0).allows(SERVER)
        assert not retries(budget=budget).allows(error("BadRequest", 400))
        assert retries(budget=budget).allows(SERVER)


DEFAULTS = {"temperature": "temperature", "stream_options": "stream_options", "reasoning": "reasoning_effort"}


class TestRefusedDefaults:
    @pytest.mark.parametrize(
        ("parameter", "message", "refused"),
        [
            ("temperature", "Unsupported", "temperature"),
            ("stream_options.include_usage", "Unsupported", "stream_options"),
            ("reasoning.effort", "Unsupported", "reasoning"),
            ("messages[0].role", "temperature", None),
            ("top_p", "Not with temperature", None),
            (None, "Unsupported parameter: 'temperature' is not supported with this model.", "temperature"),
            (None, "`stream_options` is unknown", "stream_options"),
            (None, "{'loc': ['body', 'temperature'], 'msg': 'extra fields not permitted'}", "temperature"),
            (None, "messages.temperature_unit is unknown", None),
            (None, "config.temperature is unknown", None),
            (None, "Bad request", None),
        ],
    )
    @pytest.mark.parametrize("status", [400, 422])
    def test_the_one_that_the_service_names(
        self, status: int, parameter: str | None, message: str, refused: str | None
    ) -> None:
        refusal = LLMProviderBadRequestError(message, status_code=status, parameter=parameter)
        assert refused_default(refusal, DEFAULTS) == refused

    @pytest.mark.parametrize(
        "refusal",
        [
            error("BadRequest"),
            error("BadRequest", 413),
            error("TokenLimit", 400),
            error("Server", 500),
            error("NotFound", 404),
        ],
    )
    def test_only_a_bad_request_refuses_a_parameter(self, refusal: LLMProviderError) -> None:
        refusal.parameter = "temperature"
        assert refused_default(refusal, DEFAULTS) is None

    def test_what_the_caller_set_is_no_default(self) -> None:
        refusal = LLMProviderBadRequestError("temperature is bad", status_code=400, parameter="temperature")
        assert refused_default(refusal, {}) is None
