"""What a caller can watch of every call: plain callables that a provider calls. Pure; imports errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import LLMProviderConfigurationError, type_with_article

if TYPE_CHECKING:
    from .call import Call
    from .events import Event
    from .response import LLMResponse
    from .retry import Attempt

__all__ = ["CallRecord", "Hooks", "observers"]


@dataclass(slots=True, kw_only=True)
class CallRecord:
    """One call from its beginning to its end: each hook of the call gets the same object.

    `operation` is "chat" for an answer, else "embeddings", "list_models", "count_tokens" or "stored_response".
    `call` has the prompt and the settings; neither it nor the answer is in the repr. `attempts` are the tries that
    failed and were followed by another. Times are seconds: `time_to_first_token` until the first output of a stream
    had come, None for a plain call; `duration` of the whole, None before the end. At the end there is a `response` or
    an `error`; a stream that was closed before its end has the answer so far, with a `finish_reason` of None.
    `cached`: the answer came out of the provider's cache. `state` is for the hooks themselves.
    """

    provider: str
    operation: str
    address: str
    call: Call = field(repr=False)
    hooks: tuple[Hooks, ...] = field(repr=False)
    started: float = field(repr=False)
    attempts: list[Attempt] = field(default_factory=list)
    cached: bool = False
    time_to_first_token: float | None = None
    duration: float | None = None
    response: LLMResponse | None = field(default=None, repr=False)
    error: BaseException | None = field(default=None, repr=False)
    state: dict[Any, Any] = field(default_factory=dict, repr=False)

    def begin(self) -> None:
        """Call the hooks `before`."""
        for hooks in self.hooks:
            if hooks.before:
                hooks.before(self)

    def retry(self, attempt: Attempt) -> None:
        """Note a try that failed, and call the hooks `retry`."""
        self.attempts.append(attempt)
        for hooks in self.hooks:
            if hooks.retry:
                hooks.retry(self, attempt)

    def events(self, events: Iterable[Event]) -> None:
        """Call the hooks `event` for the next events of a stream."""
        for event in events:
            for hooks in self.hooks:
                if hooks.event:
                    hooks.event(self, event)

    def first_token(self, now: float) -> None:
        """Note that a stream came to its first output, at a moment of the clock of `started`."""
        self.time_to_first_token = now - self.started

    def end(self, now: float, response: LLMResponse | None = None, error: BaseException | None = None) -> None:
        """Note how the call ended, and call the hooks `after`; only the first end counts.

        What one of them raises is raised once all were called; of several, the first.
        """
        if self.duration is not None:
            return
        self.duration = now - self.started
        self.response = response
        self.error = error
        raised: BaseException | None = None
        for hooks in self.hooks:
            try:
                if hooks.after:
                    hooks.after(self)
            except BaseException as failure:
                raised = raised or failure
        try:
            if raised:
                raise raised
        finally:
            # No frame holds the exception that it raised.
            del raised


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Callables that a provider calls around each call, in the caller's own task or thread; they must not block.

    def log(record: CallRecord) -> None:
        print(record.operation, record.call.model, record.duration, record.error or record.response.usage)

    provider = create_llm_provider("openai", model_name="gpt-4o", hooks=Hooks(after=log))

    `before` comes before anything is sent, `retry` before each further try, with what failed and how long the wait
    will be, `event` with each event of a stream as the caller's code is about to see it, `after` once at the end,
    whatever the end is: an answer, an error, a cancellation, a stream that was closed. What a hook raises goes to
    the caller: nothing is sent once `before` has raised, and every `after` is called although another one raises.
    """

    before: Callable[[CallRecord], object] | None = None
    retry: Callable[[CallRecord, Attempt], object] | None = None
    event: Callable[[CallRecord, Event], object] | None = None
    after: Callable[[CallRecord], object] | None = None


def observers(hooks: Any) -> tuple[Hooks, ...]:
    """Return the hooks of a provider as a tuple; raises LLMProviderConfigurationError for anything else."""
    found = tuple(hooks or ()) if isinstance(hooks, Iterable) or hooks is None else (hooks,)
    for each in found:
        if not isinstance(each, Hooks):
            told = f"hooks is or holds {type_with_article(each)}; it must be Hooks(after=…), or a list of such"
            raise LLMProviderConfigurationError(told)
    return found
