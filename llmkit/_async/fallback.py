# One source, two worlds: this text is written in `_async/`; `make generate` writes its blocking twin.
"""Several providers as one: the next is asked where one gives no answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from ..call import CallOptions
from ..config import APIType, LLMConfig, StreamMode
from ..errors import (
    LLMProviderConfigurationError,
    LLMProviderError,
    LLMProviderUnsupportedOperationError,
    type_with_article,
)
from ..fallback import MOVE_ON, CircuitBreaker, Fallback, MoveOn, Permit, ProviderState, is_alive, move_on_rule
from ..http_provider import HTTPProvider, RequestPreview
from ..locks import ProcessLock
from ..provider import LLMProvider
from ..response import LLMResponse
from ..structured import split_format
from ._backend import shield
from .provider import AsyncBaseProvider, AsyncProvider, Prompt
from .reader import AsyncEventReader
from .stream import AsyncStream, check_keep_text

if TYPE_CHECKING:
    from ..tokens import TokenCount

__all__ = ["AsyncFallbackProvider"]

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
# What only one service or model understands, or must see.
OF_ONE_PROVIDER = ("model_name", "api_version", "extra_params", "extra_headers", "extra_query")
# Passed on where the caller gave them: a provider of the user's own may not know them.
ABSENT = ("system_prompt", "instructions", "previous_response_id")
OPERATIONS = {APIType.CHAT_COMPLETION: "execute_chat_completion", APIType.RESPONSES: "execute_responses_api"}


def _refusal(operation: str, reason: str) -> Callable[..., Any]:
    def refuse(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise LLMProviderUnsupportedOperationError(f"{operation} is not passed on: {reason}; ask one of `providers`")

    return refuse


class AsyncFallbackProvider(AsyncBaseProvider):
    """Several providers as one: each call goes to the first of them that works.

    openai = create_llm_provider("openai", model_name="gpt-4o", max_retries=1, timeout=10)
    claude = create_llm_provider("anthropic", model_name="claude-sonnet-4-5")
    async with AsyncFallbackProvider([openai, claude]) as provider:
        response = await provider.execute("What is a monad?", deadline=60)
        print(response.content, response.provider_type, response.metadata["fallbacks"])

    `providers` may be of any kind, subclasses of LLMProvider of your own and the same service twice included.
    `move_on` says after which errors the next one is asked: exception classes, by default `llmkit.fallback.MOVE_ON`,
    or a function of the error. A provider's own retries come first, so give it few (`max_retries`). Read timeouts are
    among the errors, although the first service may still be at work, and charge. A stream moves on until its first
    output, and no further: nothing is handed out twice. Each move is logged as a warning, and is an entry of
    `metadata["fallbacks"]`; see `llmkit.fallback.Fallback`.

    A provider that failed `max_failures` times in a row (None: no matter how often) is skipped for `cool_down`
    seconds, or as long as it asked for; then one call tries it, and where that fails, the time doubles, up to
    `max_cool_down`. Where all are skipped, the one whose time ends first is asked all the same.

    The keywords of a call go to whoever is asked. Its `deadline` bounds the call with all providers: each gets what
    is left, and no more than its own `deadline`. Refused are `model_name`, `extra_params` and others that belong to
    one service. The error of the last provider that was asked is raised, with the others in `error.fallbacks`.
    """

    provider_type = "fallback"

    def __init__(
        self,
        providers: Sequence[LLMProvider],
        *,
        move_on: MoveOn = MOVE_ON,
        max_failures: int | None = 5,
        cool_down: float = 30.0,
        max_cool_down: float = 600.0,
    ) -> None:
        self.providers = _checked(providers)
        super().__init__(self.providers[0].config)
        self._moves_on = move_on_rule(move_on)
        breakers = [CircuitBreaker(max_failures, cool_down, max_cool_down) for _ in self.providers]
        self._members = [_Member(*pair) for pair in zip(self.providers, breakers, strict=True)]
        self._lock = ProcessLock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(member.name for member in self._members)}>"

    async def aclose(self) -> None:
        """Close the connections of all providers; they can be used again and open new ones."""
        with shield():
            for provider in self.providers:
                close: Any = getattr(provider, "aclose", None)
                if close:
                    await close()

    @property
    def config(self) -> LLMConfig:
        """The settings of the first provider."""
        return self.providers[0].config

    def update_config(self, **settings: Any) -> None:
        """Change settings of all providers.

        Raises LLMProviderConfigurationError for a wrong name or value, and for what belongs to one service; nothing
        is changed then.
        """
        _refuse_settings_of_one(settings)
        for provider in self.providers:
            provider.config.replace(**settings)
        for provider in self.providers:
            provider.update_config(**settings)

    def get_model_info(self) -> dict[str, Any]:
        """Return what the first provider returns, of the type "fallback", with that of all in `providers`."""
        infos = [provider.get_model_info() for provider in self.providers]
        return {**infos[0], "provider_type": self.provider_type, "providers": infos}

    def estimate_tokens(self, text: Any, **options: Any) -> TokenCount:
        """Return how many tokens a text, or a conversation, has for the first provider's model."""
        return self.providers[0].estimate_tokens(text, **options)

    def validate_token_limit(self, prompt: Any, max_tokens: int | None = None, **options: Any) -> bool:
        """Return whether a prompt and its answer fit the token limit of the first provider."""
        return self.providers[0].validate_token_limit(prompt, max_tokens, **options)

    def build_request(self, prompt: Any, **options: Any) -> RequestPreview:
        """Return what the first provider would send; nothing is sent."""
        first: Any = self.providers[0]
        preview: RequestPreview = first.build_request(prompt, **options)
        return preview

    @property
    def states(self) -> list[ProviderState]:
        """How each provider stands: whether it is asked, and when again."""
        now = time.monotonic()
        with self._lock:
            return [
                ProviderState(
                    provider=member.provider.provider_type,
                    model=member.provider.config.model_name,
                    state=member.breaker.state(now),
                    failures=member.breaker.failures,
                    wait=round(max(0.0, (member.breaker.until or now) - now), 3),
                )
                for member in self._members
            ]

    def stream(
        self,
        prompt: Prompt,
        system_prompt: str | None = None,
        *,
        previous_response_id: str | None = None,
        keep_text: bool = True,
        **options: Unpack[CallOptions],
    ) -> AsyncStream:
        """Return the answer as a stream; a plain method, so `async with provider.stream(…)` needs no await.

        Nothing is checked or sent before the stream is entered or read. From its first output on, an error is raised
        as it comes, with the answer so far as `partial`.
        """
        keywords = {**options, "system_prompt": system_prompt, "previous_response_id": previous_response_id}
        _refuse_settings_of_one(keywords)
        check_keep_text(keep_text, split_format(options.get("response_format"))[1])

        async def opening() -> _Opened:
            return await self._first(lambda *arguments: _opened(prompt, keep_text, *arguments), keywords)

        return _AsyncFallbackStream(opening, keep_text)

    embed = _refusal("embed", "vectors of different models cannot be compared")
    list_models = _refusal("list_models", "each service has its own models")
    count_tokens = _refusal("count_tokens", "each service counts in its own way")
    retrieve_response = _refusal("retrieve_response", "only the service that gave an answer has stored it")
    cancel_response = _refusal("cancel_response", "only the service that gave an answer has stored it")
    delete_response = _refusal("delete_response", "only the service that gave an answer has stored it")
    wait_for_response = _refusal("wait_for_response", "only the service that gave an answer has stored it")

    async def _answer(self, prompt: Prompt, **keywords: Any) -> LLMResponse | AsyncStream:
        if keywords.get("stream_mode", self.config.stream_mode) == StreamMode.ENABLED:
            keywords.pop("stream_mode", None)
            return self.stream(prompt, **keywords)
        return await self._whole_answer(prompt, keywords)

    async def _whole_answer(
        self, prompt: Prompt, keywords: dict[str, Any], api_type: APIType | None = None
    ) -> LLMResponse:
        operation = OPERATIONS[api_type] if api_type else "execute"
        if api_type is APIType.RESPONSES:
            keywords["instructions"] = keywords.pop("system_prompt")
        _refuse_settings_of_one(keywords)

        async def ask(provider: Any, options: dict[str, Any]) -> LLMResponse:
            if options.get("stream_mode", provider.config.stream_mode) == StreamMode.ENABLED:
                options["stream_mode"] = StreamMode.AUTO
            answer: LLMResponse = await getattr(provider, operation)(prompt, **options)
            return answer

        answer, fallbacks = await self._first(ask, keywords)
        answer.metadata["fallbacks"] = fallbacks + answer.metadata.get("fallbacks", [])
        return answer

    async def _first(
        self, ask: Callable[[LLMProvider, dict[str, Any]], Awaitable[Result]], keywords: dict[str, Any]
    ) -> tuple[Result, list[Fallback]]:
        """Return what the first provider that works answers, and which ones gave no answer before it."""
        options = {name: value for name, value in keywords.items() if value is not None or name not in ABSENT}
        deadline = self.config.replace(deadline=options["deadline"]).deadline if "deadline" in options else None
        until = None if deadline is None else time.monotonic() + deadline
        fallbacks: list[Fallback] = []
        candidates = self._candidates(fallbacks)
        member, permit = next(candidates)
        while True:
            alive: bool | None = None
            error: LLMProviderError | None = None
            try:
                answer = await ask(member.provider, member.options(options, until, time.monotonic()))
                alive = True
                return answer, fallbacks
            except LLMProviderError as caught:
                alive, error = is_alive(caught), caught
            finally:
                self._settle(member, permit, alive, error)
            position = len(fallbacks)
            in_time = until is None or time.monotonic() < until
            following = next(candidates, None) if in_time and self._moves_on(error) else None
            if following is None:
                error.fallbacks = (*fallbacks, *error.fallbacks)
                raise error
            # It would keep the frames of the caller, and with them an iterator that a `break` should let go of.
            error.__traceback__ = None
            fallbacks[position:position] = [*error.fallbacks, member.fallback(error)]
            logger.warning("%s failed with %s; %s is asked", member.name, _told(error), following[0].name)
            member, permit = following

    def _candidates(self, fallbacks: list[Fallback]) -> Iterator[tuple[_Member, Permit]]:
        """Yield each provider that may be asked when its turn has come, at least one; `fallbacks` gets the skipped."""
        skipped = []
        for member in self._members:
            with self._lock:
                permit = member.breaker.enter(time.monotonic())
            if permit:
                yield member, permit
            else:
                skipped.append(member)
                fallbacks.append(member.skipped)
        if len(skipped) == len(self._members):
            with self._lock:
                member = min(skipped, key=lambda member: member.breaker.until or 0.0)
                permit = member.breaker.enter_anyway(time.monotonic())
            del fallbacks[skipped.index(member)]
            yield member, permit

    def _settle(self, member: _Member, permit: Permit, alive: bool | None, error: LLMProviderError | None) -> None:
        with self._lock:
            seconds = member.breaker.settle(permit, time.monotonic(), alive, error.retry_after if error else None)
            if error and alive is False:
                member.skipped = {**member.fallback(error), "skipped": True}
        if seconds is not None:
            logger.warning(
                "%s failed %d times in a row; it is skipped for %.0f s", member.name, member.breaker.failures, seconds
            )


class _Member:
    """A provider with its circuit breaker, and what is told of it while it is skipped."""

    def __init__(self, provider: LLMProvider, breaker: CircuitBreaker) -> None:
        self.provider = provider
        self.breaker = breaker
        self.skipped: Fallback = self.fallback(LLMProviderError())

    @property
    def name(self) -> str:
        return f"{self.provider.provider_type} {self.provider.config.model_name}"

    def fallback(self, error: LLMProviderError) -> Fallback:
        return Fallback(
            provider=self.provider.provider_type,
            model=self.provider.config.model_name,
            error=type(error).__name__,
            status_code=error.status_code,
            skipped=False,
        )

    def options(self, options: dict[str, Any], until: float | None, now: float) -> dict[str, Any]:
        """Return the keywords of a call for this provider, with as much of its deadline as is left."""
        if until is None:
            return dict(options)
        left = max(round(until - now, 3), 0.001)
        return {**options, "deadline": min(left, self.provider.config.deadline or left)}


_Opened = tuple[AsyncStream, list[Fallback]]


class _AsyncFallbackStream(AsyncStream):
    """The stream of the provider that was the first to come to its first output, which is taken over from there."""

    def __init__(self, opening: Callable[[], Awaitable[_Opened]], keep_text: bool) -> None:
        # Who answers which call is known once the stream is open; nothing asks for it before.
        super().__init__(*cast("Any", (None, None, None)), keep_text=keep_text)
        self._opening = opening
        self._fallbacks: list[Fallback] = []

    async def _open(self) -> AsyncEventReader:
        if self._reader is None:
            stream, fallbacks = await self._opening()
            reader = await stream._open()
            self._exchange, self._provider, self._call = stream._exchange, stream._provider, stream._call
            self._builder.max_tool_calls = self._call.config.max_tool_calls
            # One owner: the connection must not be released by the stream that is given up here.
            self._reader, stream._reader = reader, None
            self._fallbacks = fallbacks + reader.metadata.get("fallbacks", [])
            reader.metadata["fallbacks"] = self._fallbacks
            return reader
        return self._reader

    def _with_partial(self, error: LLMProviderError) -> LLMProviderError:
        error.fallbacks = tuple(self._fallbacks)
        return super()._with_partial(error)


async def _opened(prompt: Prompt, keep_text: bool, provider: Any, options: dict[str, Any]) -> AsyncStream:
    stream = provider.stream(prompt, keep_text=keep_text, **options) if hasattr(provider, "stream") else None
    if not isinstance(stream, AsyncStream):
        raise LLMProviderUnsupportedOperationError(
            f"{provider.provider_type} has no stream() that returns an {AsyncStream.__name__}"
        )
    await stream._open()
    return stream


def _checked(providers: Sequence[LLMProvider]) -> tuple[LLMProvider, ...]:
    checked = tuple(providers) if isinstance(providers, Iterable) else ()
    if not checked:
        raise LLMProviderConfigurationError(f"providers is {providers!r}; it must be a list of at least one provider")
    for provider in checked:
        of_other_world = isinstance(provider, HTTPProvider) and not isinstance(provider, AsyncProvider)
        if of_other_world or not isinstance(provider, LLMProvider):
            raise LLMProviderConfigurationError(
                f"providers has {type_with_article(provider)}; it holds {AsyncProvider.__name__} objects, "
                f"and those of subclasses of LLMProvider of your own"
            )
    return checked


def _refuse_settings_of_one(settings: Mapping[str, Any]) -> None:
    for name in OF_ONE_PROVIDER:
        if name in settings:
            raise LLMProviderConfigurationError(
                f"{name} belongs to one provider, and another would be sent it, too; set it where that one is made"
            )


def _told(error: LLMProviderError) -> str:
    return f"{type(error).__name__} ({error.status_code})" if error.status_code else type(error).__name__
