"""Which errors move on, and whom the circuit breaker leaves out, on a clock that stands still; nothing is sent."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from llmkit import (
    AsyncFallbackProvider,
    LLMConfig,
    LLMProvider,
    LLMProviderAuthenticationError,
    LLMProviderBadRequestError,
    LLMProviderConfigurationError,
    LLMProviderConnectionError,
    LLMProviderContentFilterError,
    LLMProviderError,
    LLMProviderNotFoundError,
    LLMProviderOutputError,
    LLMProviderOverloadedError,
    LLMProviderPermissionError,
    LLMProviderQuotaError,
    LLMProviderRateLimitError,
    LLMProviderServerError,
    LLMProviderStreamError,
    LLMProviderTimeoutError,
    LLMProviderTokenLimitError,
    LLMProviderUnsupportedOperationError,
    LLMResponse,
    SyncFallbackProvider,
    create_llm_provider,
    create_sync_llm_provider,
)
from llmkit.fallback import MOVE_ON, CircuitBreaker, Permit, is_alive, move_on_rule

KEY = "sk-test-0123456789"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not fork")
def test_a_child_that_is_forked_while_a_state_changes_may_call() -> None:
    provider = SyncFallbackProvider([create_sync_llm_provider("openai", model_name="gpt-4o", api_key=KEY)])
    with provider._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            os._exit(len(provider.states) - 1)
    assert os.waitpid(child, 0)[1] == 0


class TestErrors:
    @pytest.mark.parametrize(
        ("kind", "moves_on", "alive"),
        [
            (LLMProviderConnectionError, True, False),
            (LLMProviderTimeoutError, True, False),
            (LLMProviderServerError, True, False),
            (LLMProviderOverloadedError, True, False),
            (LLMProviderRateLimitError, True, False),
            (LLMProviderQuotaError, True, False),
            (LLMProviderStreamError, True, False),
            (LLMProviderAuthenticationError, True, False),
            (LLMProviderPermissionError, True, None),
            (LLMProviderNotFoundError, True, None),
            (LLMProviderUnsupportedOperationError, True, None),
            (LLMProviderBadRequestError, False, None),
            (LLMProviderTokenLimitError, False, None),
            (LLMProviderContentFilterError, False, None),
            (LLMProviderConfigurationError, False, None),
            (LLMProviderOutputError, False, None),
            (LLMProviderError, False, None),
        ],
    )
    def test_the_default_moves_on_from_what_another_service_may_do_better(
        self, kind: type[LLMProviderError], moves_on: bool, alive: bool | None
    ) -> None:
        assert move_on_rule(MOVE_ON)(kind("No")) is moves_on
        assert is_alive(kind("No")) is alive

    def test_who_finds_fault_with_a_request_is_alive(self) -> None:
        assert is_alive(LLMProviderBadRequestError("No", status_code=400)) is True
        assert is_alive(LLMProviderNotFoundError("No", status_code=404)) is True
        assert is_alive(LLMProviderRateLimitError("No", status_code=429)) is False
        error = LLMProviderOutputError("No")
        error.partial = LLMResponse("text")
        assert is_alive(error) is True

    def test_what_was_never_sent_says_nothing_of_the_service(self) -> None:
        assert is_alive(LLMProviderRateLimitError("No", code="queue_full")) is None
        assert is_alive(LLMProviderTimeoutError("No", code="PoolTimeout")) is None
        assert is_alive(LLMProviderTimeoutError("No", code="ConnectTimeout")) is False

    def test_a_stored_answer_may_be_at_another_service(self) -> None:
        error = LLMProviderBadRequestError("Not found", status_code=400, parameter="previous_response_id")
        assert move_on_rule(())(error) is True

    def test_classes_or_a_function_can_be_set(self) -> None:
        too_long, wrong = LLMProviderTokenLimitError("No"), LLMProviderBadRequestError("No")
        chosen = move_on_rule([*MOVE_ON, LLMProviderTokenLimitError])
        assert (chosen(too_long), chosen(wrong)) == (True, False)
        # A class is callable, too, but not meant as a function.
        single: Any = LLMProviderTokenLimitError
        assert (move_on_rule(single)(too_long), move_on_rule(single)(wrong)) == (True, False)
        by_status = move_on_rule(lambda error: error.status_code == 503)
        assert by_status(LLMProviderServerError("No", status_code=503)) is True
        assert by_status(LLMProviderServerError("No", status_code=500)) is False

    @pytest.mark.parametrize("wrong", [None, 5, [ValueError], "LLMProviderError", [LLMProviderError("No")]])
    def test_anything_else_is_refused(self, wrong: Any) -> None:
        with pytest.raises(LLMProviderConfigurationError, match=r"move_on is .*subclasses of LLMProviderError"):
            move_on_rule(wrong)


def entered(breaker: CircuitBreaker, now: float) -> Permit:
    permit = breaker.enter(now)
    assert permit is not None
    return permit


def fail(breaker: CircuitBreaker, now: float, retry_after: float | None = None) -> float | None:
    """Ask, fail, and return the seconds of the cool-down that this began."""
    return breaker.settle(entered(breaker, now), now, False, retry_after)


class TestCircuitBreaker:
    def test_failures_in_a_row_open_it_for_a_while(self) -> None:
        breaker = CircuitBreaker(3, 30.0)
        assert [fail(breaker, 0.0), fail(breaker, 1.0), breaker.state(1.0)] == [None, None, "closed"]
        assert fail(breaker, 2.0) == 30.0
        assert (breaker.state(31.9), breaker.enter(31.9)) == ("open", None)
        assert breaker.state(32.0) == "half-open"
        assert entered(breaker, 32.0).is_trial

    def test_a_success_between_them_begins_the_count_anew(self) -> None:
        breaker = CircuitBreaker(2, 30.0)
        for _ in range(5):
            assert fail(breaker, 0.0) is None
            breaker.settle(entered(breaker, 0.0), 0.0, True)
        assert breaker.failures == 0

    def test_what_shows_neither_counts_as_neither(self) -> None:
        breaker = CircuitBreaker(2, 30.0)
        fail(breaker, 0.0)
        assert breaker.settle(entered(breaker, 0.0), 0.0, None) is None
        assert breaker.failures == 1
        assert fail(breaker, 0.0) == 30.0

    def test_one_call_at_a_time_is_the_trial(self) -> None:
        breaker = CircuitBreaker(1, 30.0)
        fail(breaker, 0.0)
        trial = entered(breaker, 30.0)
        assert breaker.enter(30.0) is None
        breaker.settle(trial, 31.0, True)
        assert breaker.state(31.0) == "closed"
        assert [entered(breaker, 31.0).is_trial, entered(breaker, 31.0).is_trial] == [False, False]

    def test_a_failed_trial_doubles_the_time_up_to_its_bound(self) -> None:
        breaker = CircuitBreaker(1, 30.0, 100.0)
        now, waits = 0.0, []
        for _ in range(4):
            waits.append(fail(breaker, now))
            now += 100.0
        assert waits == [30.0, 60.0, 100.0, 100.0]
        breaker.settle(entered(breaker, now), now, True)
        assert fail(breaker, now) == 30.0

    def test_a_cancelled_trial_leaves_the_next_one_to_be_made(self) -> None:
        breaker = CircuitBreaker(1, 30.0)
        fail(breaker, 0.0)
        breaker.settle(entered(breaker, 30.0), 30.0, None)
        assert breaker.state(30.0) == "half-open"
        assert entered(breaker, 30.0).is_trial

    def test_the_service_may_ask_for_a_longer_time_up_to_the_bound(self) -> None:
        assert fail(CircuitBreaker(1, 30.0, 100.0), 0.0, retry_after=5.0) == 30.0
        assert fail(CircuitBreaker(1, 30.0, 100.0), 0.0, retry_after=70.0) == 70.0
        assert fail(CircuitBreaker(1, 30.0, 100.0), 0.0, retry_after=7000.0) == 100.0

    def test_calls_that_fail_together_are_one_outage(self) -> None:
        breaker = CircuitBreaker(2, 30.0)
        permits = [entered(breaker, 0.0) for _ in range(10)]
        assert [breaker.settle(permit, 1.0, False) for permit in permits] == [None, 30.0, *[None] * 8]
        # Nor does one that had begun before close it, or fail the trial.
        late = CircuitBreaker(1, 30.0)
        early, usual = entered(late, 0.0), entered(late, 0.0)
        fail(late, 0.0)
        late.settle(early, 1.0, True)
        assert late.state(1.0) == "open"
        trial = entered(late, 30.0)
        assert late.settle(usual, 30.0, False) is None
        assert late.settle(trial, 30.0, True) is None
        assert late.state(30.0) == "closed"

    def test_a_call_made_anyway_can_only_do_good(self) -> None:
        breaker = CircuitBreaker(1, 30.0)
        fail(breaker, 0.0)
        assert breaker.settle(breaker.enter_anyway(1.0), 2.0, False) is None
        assert breaker.until == 30.0
        trial, other = breaker.enter_anyway(30.0), breaker.enter_anyway(30.0)
        assert (trial.is_trial, other.is_trial) == (True, False)
        breaker.settle(other, 31.0, True)
        assert breaker.state(31.0) == "closed"
        assert breaker.settle(trial, 32.0, False) is None

    def test_it_may_be_told_never_to_open(self) -> None:
        breaker = CircuitBreaker(None)
        assert {fail(breaker, 0.0) for _ in range(100)} == {None}

    def test_many_failed_trials_do_not_overflow(self) -> None:
        breaker = CircuitBreaker(1, 1e-3, 10.0)
        assert [fail(breaker, 10.0 * number) for number in range(2000)][-1] == 10.0

    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ((0,), "max_failures is 0"),
            (("5",), "max_failures is '5'; it must be a whole number from 1, or None"),
            ((5, "30"), "cool_down is '30'"),
            ((5, -1.0), "cool_down is -1.0"),
            ((5, 30.0, 10.0), "cool_down is 30.0; .*max_cool_down, which is 10.0"),
            ((5, float("nan")), "cool_down is nan"),
        ],
    )
    def test_wrong_settings_are_refused(self, settings: Any, told: str) -> None:
        with pytest.raises(LLMProviderConfigurationError, match=told):
            CircuitBreaker(*settings)


WORLDS = pytest.mark.parametrize(
    ("kind", "create", "create_other"),
    [
        (AsyncFallbackProvider, create_llm_provider, create_sync_llm_provider),
        (SyncFallbackProvider, create_sync_llm_provider, create_llm_provider),
    ],
    ids=["async", "sync"],
)


class Frugal(LLMConfig):
    """Settings with a rule of their own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.max_tokens or 0) > 100:
            raise LLMProviderConfigurationError(f"max_tokens is {self.max_tokens}; it must be at most 100")


@WORLDS
class TestProvider:
    def pair(self, kind: Any, create: Any) -> Any:
        claude = create("anthropic", model_name="claude-sonnet-4-5", api_key=KEY, temperature=0.5)
        return kind([create("openai", model_name="gpt-4o", api_key=KEY), claude])

    def test_it_needs_providers_of_its_world(self, kind: Any, create: Any, create_other: Any) -> None:
        for wrong, told in (
            ([], r"providers is \[\]; it must be a list"),
            (create("openai", model_name="gpt-4o", api_key=KEY), "providers is <.*Provider openai gpt-4o>; it must"),
            ([create_other("openai", model_name="gpt-4o", api_key=KEY)], "providers has (a Sync|an Async)Provider"),
            (["openai"], "providers has a str"),
        ):
            with pytest.raises(LLMProviderConfigurationError, match=told):
                kind(wrong)

    def test_it_speaks_for_the_first(self, kind: Any, create: Any, create_other: Any) -> None:
        provider = self.pair(kind, create)
        assert isinstance(provider, LLMProvider)
        assert repr(provider) == f"<{kind.__name__} openai gpt-4o, anthropic claude-sonnet-4-5>"
        assert provider.config is provider.providers[0].config
        info = provider.get_model_info()
        assert (info["provider_type"], info["model_name"]) == ("fallback", "gpt-4o")
        assert [each["provider_type"] for each in info["providers"]] == ["openai", "anthropic"]
        assert provider.estimate_tokens("Hello!") == provider.providers[0].estimate_tokens("Hello!")
        assert provider.validate_token_limit("Hello!", 10)
        assert not provider.validate_token_limit("Hello!", provider.config.token_limit)
        assert provider.build_request("Hi").body["model"] == "gpt-4o"

    def test_settings_are_changed_in_all_or_in_none(self, kind: Any, create: Any, create_other: Any) -> None:
        provider = self.pair(kind, create)
        provider.update_config(max_tokens=7)
        assert [each.config.max_tokens for each in provider.providers] == [7, 7]
        assert [each.config.temperature for each in provider.providers] == [0.7, 0.5]
        with pytest.raises(LLMProviderConfigurationError, match="temperature is 9"):
            provider.update_config(max_tokens=8, temperature=9)
        assert [each.config.max_tokens for each in provider.providers] == [7, 7]

    def test_what_the_second_refuses_is_not_changed_in_the_first(
        self, kind: Any, create: Any, create_other: Any
    ) -> None:
        first = create("openai", model_name="gpt-4o", api_key=KEY)
        provider = kind([first, LLMProvider(Frugal(model_name="own"))])
        provider.update_config(max_tokens=100)
        with pytest.raises(LLMProviderConfigurationError, match="max_tokens is 101"):
            provider.update_config(max_tokens=101)
        assert [each.config.max_tokens for each in provider.providers] == [100, 100]

    @pytest.mark.parametrize("name", ["model_name", "extra_headers", "extra_params", "extra_query", "api_version"])
    def test_what_belongs_to_one_service_is_refused(self, kind: Any, create: Any, create_other: Any, name: str) -> None:
        provider = self.pair(kind, create)
        for call in (provider.update_config, lambda **settings: provider.stream("Hi", **settings)):
            with pytest.raises(LLMProviderConfigurationError, match=f"{name} belongs to one provider"):
                call(**{name: {}})

    @pytest.mark.parametrize("operation", ["embed", "list_models", "count_tokens", "retrieve_response"])
    def test_what_is_no_answer_to_a_prompt_is_not_passed_on(
        self, kind: Any, create: Any, create_other: Any, operation: str
    ) -> None:
        with pytest.raises(LLMProviderUnsupportedOperationError, match=f"{operation} is not passed on: .* `providers`"):
            getattr(self.pair(kind, create), operation)("a text")


class AnyOrder(RuleBasedStateMachine):
    """Calls that begin and end in any order, at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(2, 10.0, 40.0)
        self.now = 0.0
        self.permits: list[Permit] = []

    @rule(seconds=st.floats(0, 50))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(anyway=st.booleans())
    def begin(self, anyway: bool) -> None:
        permit = self.breaker.enter_anyway(self.now) if anyway else self.breaker.enter(self.now)
        if permit:
            self.permits.append(permit)
        else:
            assert self.breaker.state(self.now) != "closed"

    @rule(data=st.data(), alive=st.sampled_from([True, False, None]))
    def end(self, data: Any, alive: bool | None) -> None:
        if not self.permits:
            return
        permit = self.permits.pop(data.draw(st.integers(0, len(self.permits) - 1)))
        was_closed = self.breaker.state(self.now) == "closed"
        seconds = self.breaker.settle(permit, self.now, alive)
        if seconds is not None:
            assert alive is False and (was_closed or permit.is_trial)
            assert 10.0 <= seconds <= 40.0

    @invariant()
    def there_is_one_trial_at_most(self) -> None:
        trials = [permit for permit in self.permits if permit.is_trial]
        assert len({permit.round for permit in trials}) == len(trials)

    @invariant()
    def nobody_is_left_out_for_ever(self) -> None:
        assert self.breaker.until is None or self.breaker.until <= self.now + 40.0

    def teardown(self) -> None:
        for permit in self.permits:
            self.breaker.settle(permit, self.now, None)
        assert self.breaker.enter(self.now + 40.0)


test_any_order_of_calls = AnyOrder.TestCase
